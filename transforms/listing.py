"""From the command line's inputs to refs: folders, globs, manifests and single files."""

import collections
import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

import transforms.coders  # noqa: F401 (registers the coders of the rows)
from transforms import frozen, manifest, uris
from transforms.dead_letters import dead_letter_schema
from transforms.decode import IMAGE_SUFFIXES
from transforms.errors import ImageError, StoreError, UsageError
from transforms.hashing import content_hash, uri_hash
from transforms.layout import Layout
from transforms.long_texts import LONG_TEXTS
from transforms.metrics import counter
from transforms.partitions import DEFAULT_PARTITION, folder_of_values
from transforms.process import LIVE
from transforms.reasons import Reason
from transforms.rows import Entry, Ref, Stage
from transforms.runs import read_run
from transforms.sealed import Checksum, DamagedError, open_listed
from transforms.storage import DEFAULT_OPTIONS, Store, StoreOptions, store_for
from transforms.waiting import LEAST_DEADLINE_SEC, alive, each_within, within

_GLOB = re.compile(r'[*?\[]')
_TOKEN = re.compile(r'(/(?:\*\*/)+|\*\*|\*|\?|\[!?\]?[^\]/]*\])')
_ONE_SLASH = re.compile(r'(gs|s3):/(?!/)')
_MEMBER = re.compile(r'(.)-(.)|(.)', re.DOTALL)


_LONGER = ' A larger --fetch_deadline_sec waits longer'


class Input(NamedTuple):
    """One resolved --input.

    Attributes:
      kind: 'folder', 'glob', 'manifest', 'manifests', 'file', or 'dead_letters' of an earlier run.
      uri: absolute; for a glob its folder, up to the first part with a wildcard.
      pattern: the whole glob, of images or manifests; for dead letters the reasons that are wanted;
        otherwise ''.
      stores: how it is reached.
      deadline_sec: so long it may take to list the next entry, or to read the next line.
    """

    kind: str
    uri: str
    pattern: str
    stores: StoreOptions = DEFAULT_OPTIONS
    deadline_sec: float = LEAST_DEADLINE_SEC

    @property
    def shown(self) -> str:
        """For messages."""
        return uris.printable(self.pattern or self.uri)


class Columns(NamedTuple):
    """Which columns of a manifest are read.

    Attributes:
      uri: the column of the URIs.
      carry: columns carried along as text.
      partition_by: those of them that become folders of the output.
    """

    uri: str
    carry: tuple[str, ...]
    partition_by: tuple[str, ...]


class TooMany(NamedTuple):
    """From when on it is known that a run would label too many images.

    Attributes:
      max_images: so many it may label.
      known: so many, at most, have been dealt with by earlier runs, and may be left unchanged.
    """

    max_images: int
    known: int


class Listing(NamedTuple):
    """What a run labels.

    Attributes:
      inputs: what is listed.
      columns: what is read of manifests.
      sample: label only so many images, or None.
      since: leave out what was written before, in seconds since 1970, or None.
      originals: the manifests of the run that is retried, if this is a retry.
      is_remote: the images are read by other machines, which see no local path.
      most: refuse an input of more distinct images than `TooMany` allows, while it is listed.
    """

    inputs: tuple[Input, ...]
    columns: Columns
    sample: int | None = None
    since: float | None = None
    originals: tuple[Input, ...] = ()
    is_remote: bool = False
    most: TooMany | None = None


DEAD_LETTERS = 'dead_letters'
NOT_IMAGE = 'skipped_not_image'
NO_CARRIED = '[]'
_NOT_THERE = 'a path of one machine; the workers of this run are others'
_MAX_CARRIED_CHARS = 65_536
_COMPANION = f'{NOT_IMAGE}/._*'
_FOLDER_MARKER = f'{NOT_IMAGE}/(folder)'
_THREADS = 16
_BATCH_ROWS = 1000
_MOST_PATTERNS, _MOST_BRACES = 1000, 50
_MOST_SUFFIXES = 10  # in messages
_BEFORE_SINCE = 'skipped_before_since'
# What people have lists or many images in, and would be taken for one image that fails.
_NO_IMAGES = frozenset(
    '.7z .arrow .avro .bz2 .db .feather .gz .h5 .hdf5 .npy .npz .ods .orc .pdf .pkl .rar .sqlite '
    '.tar .tfrecord .tgz .xls .xlsx .xml .xz .yaml .yml .zip .zst'.split()
)


def resolve(
    value: str,
    columns: Columns,
    stores: StoreOptions = DEFAULT_OPTIONS,
    deadline_sec: float = LEAST_DEADLINE_SEC,
) -> Input:
    """Finds out what an --input is; a name that exists wins over its reading as a glob.

    Looks for the columns in a manifest, so that a missing one is found before the run starts.

    Args:
      value: of --input.
      columns: what is read of manifests.
      stores: how it is reached.
      deadline_sec: see `Input`.

    Raises:
      UsageError: there is no such file, folder or prefix, or it cannot give the carried columns.
      StoreError: nothing tells within the deadline.
      ManifestError: it is a manifest and broken.
    """
    try:
        uri = uris.absolute(value)
    except UsageError as e:
        raise UsageError(f'--input {e}') from e
    store = store_for(uri, stores)
    shown = uris.printable(value)
    found = within(deadline_sec, shown, lambda: _resolve(uri, store), _LONGER)
    if found is None:
        raise UsageError(f'--input {shown!r}: no such file, folder or prefix{_meant(value)}')
    found = found._replace(stores=stores, deadline_sec=deadline_sec)
    if found.kind in manifest.INPUTS:
        with ThreadPoolExecutor(_THREADS) as pool:
            check = functools.partial(
                manifest.check_columns,
                uri_column=columns.uri,
                carry=columns.carry,
                stores=stores,
                deadline_sec=deadline_sec,
            )
            collections.deque(pool.map(check, _manifests(found)), maxlen=0)
    elif columns.carry:
        raise UsageError(
            f'--carry or --partition_by {columns.carry[0]}: --input {value!r} is a {found.kind} '
            'without columns; '
            'carried columns come from a manifest (.csv, .tsv, .jsonl or .parquet)'
        )
    return found


def _meant(value: str) -> str:
    """What may have been meant by a name that is not there."""
    if value.startswith('~'):
        return '; a shell puts the home folder in place of ~ only outside of quotes'
    if match := _ONE_SLASH.match(value):
        return f'; did you mean {match[1]}://{uris.printable(value[match.end() :])}?'
    return ''


def _resolve(uri: str, store: Store) -> Input | None:
    if store.stat(uri) is not None:
        if manifest.is_manifest(uri):
            return Input('manifest', uri, '')
        if uris.suffix_of(uri) in _NO_IMAGES:
            lists = ', '.join(manifest.KINDS)
            shown = uris.printable(uri)
            raise UsageError(f'--input {shown!r}: neither an image nor a list of images ({lists})')
        return Input('file', uri, '')
    if store.is_folder(uri.rstrip('/') or '/'):
        return Input('folder', uri.rstrip('/') or '/', '')
    if _GLOB.search(uri) or len(expand_braces(uri)) > 1:
        folder = uris.folder_of(_literal(uri))
        if store.is_folder(folder):
            return Input('manifests' if manifest.is_manifest(uri) else 'glob', folder, uri)
    return None


def _literal(pattern: str) -> str:
    """What stands before the first wildcard."""
    literals = [_GLOB.split(each, maxsplit=1)[0] for each in expand_braces(pattern)]
    return os.path.commonprefix(literals)  # noqa: RUF071 (of characters, not of folders)


def expand_braces(pattern: str) -> list[str]:
    """The patterns that '{a,b}' stands for, as in a shell; braces without a comma are themselves.

    Raises:
      UsageError: they are too many.
    """
    if pattern.count('{') > _MOST_BRACES:
        raise UsageError(f'{uris.printable(pattern)}: more than {_MOST_BRACES} braces')
    for start in (i for i, char in enumerate(pattern) if char == '{'):
        pieces, end = _pieces(pattern, start)
        if len(pieces) > 1:
            heads = [pattern[:start] + each for piece in pieces for each in expand_braces(piece)]
            tails = expand_braces(pattern[end:])
            if len(heads) * len(tails) > _MOST_PATTERNS:
                shown = uris.printable(pattern)
                raise UsageError(f'{shown}: braces for more than {_MOST_PATTERNS} patterns')
            return [head + tail for head in heads for tail in tails]
    return [pattern]


def _pieces(pattern: str, start: int) -> tuple[list[str], int]:
    """What stands between the commas of a brace, and where it ends; none if it does not end."""
    pieces: list[str] = []
    depth, begun = 0, start + 1
    for i in range(start, len(pattern)):
        char = pattern[i]
        depth += (char == '{') - (char == '}')
        if (char == ',' and depth == 1) or not depth:
            pieces.append(pattern[begun:i])
            begun = i + 1
        if not depth:
            return pieces, begun
    return [], start


def glob_regex(pattern: str) -> re.Pattern[str]:
    """The pattern over absolute URIs.

    `*` and `?` stay within a folder, `**` crosses them and also stands for none, `[a-z]` and
    `[!a-z]` are character classes, `{a,b}` is either; a leading dot is matched like any other
    character.
    """
    return re.compile('|'.join(map(_regex_of, expand_braces(pattern))), re.DOTALL)


def _regex_of(pattern: str) -> str:
    parts = []
    for i, token in enumerate(_TOKEN.split(pattern)):
        is_text = i % 2 == 0  # as re.split has it
        if token.startswith('/**/'):
            parts.append('/(?:.*/)?')
        elif token == '**':
            parts.append('.*')
        elif token == '*':
            parts.append('[^/]*')
        elif token == '?':
            parts.append('[^/]')
        elif is_text or token in ('[]', '[!]'):
            parts.append(re.escape(token))
        else:
            parts.append(_char_class(token[1:-1]))
    return ''.join(parts)


def _char_class(inner: str) -> str:
    negated = inner.startswith('!')
    members = ''
    for first, last, single in _MEMBER.findall(inner.removeprefix('!')):
        if single:
            members += re.escape(single)
        elif first <= last:  # a range that runs backwards is empty, as in a shell
            members += f'{re.escape(first)}-{re.escape(last)}'
    if not members:
        return '[^/]' if negated else '(?!)'
    return f'(?!/)[{"^" if negated else ""}{members}]'


def list_input(
    source: Input, columns: Columns, since: float | None = None, is_remote: bool = False
) -> Iterator[Ref | str]:
    """Yields the refs of an input as they are listed.

    A text stands for a file that is left out: 'skipped_not_image/<suffix>' for a file of a folder
    whose suffix is no image's, 'skipped_before_since'.

    Args:
      source: the input.
      columns: what is read of manifests.
      since: leave out what was written before, in seconds since 1970; not for manifests.
      is_remote: whether local paths in manifests are bad lines.

    Raises:
      StoreError: a store cannot be listed, or does not answer.
      ManifestError: a manifest is broken.
    """
    found = _listed(source, columns, since, is_remote)
    return each_within(source.deadline_sec, source.shown, found, advice=_LONGER)


def _listed(
    source: Input, columns: Columns, since: float | None, is_remote: bool
) -> Iterator[Ref | str]:
    store = store_for(source.uri, source.stores)
    match source.kind:
        case 'manifest' | 'manifests':
            for uri in _manifests(source):
                yield from _manifest_refs(source._replace(uri=uri), columns, is_remote)
        case _ if source.kind == DEAD_LETTERS:
            yield from _dead_refs(source, columns, is_remote)
        case 'file':
            yield _ref(store.stat(source.uri) or Entry(source.uri, '', -1), since)
        case 'folder':
            for entry in _without_companions(store.list(source.uri), source):
                if isinstance(entry, str):
                    yield entry
                    continue
                is_image = uris.suffix_of(entry.uri) in IMAGE_SUFFIXES
                yield _ref(entry, since) if is_image else f'{NOT_IMAGE}/{uris.suffix_of(entry.uri)}'
        case _:
            for entry in _matching(source, store):
                yield entry if isinstance(entry, str) else _ref(entry, since)


def _manifests(source: Input) -> list[str]:
    """The manifests that an input names."""
    if source.kind == 'manifest':
        return [source.uri]
    matching = _matching(source, store_for(source.uri, source.stores))
    found = each_within(source.deadline_sec, source.shown, matching, advice=_LONGER)
    return sorted(entry.uri for entry in found if isinstance(entry, Entry))


def _matching(source: Input, store: Store) -> Iterator[Entry | str]:
    """What a glob matches; a text stands for what only marks or accompanies another file."""
    regex = glob_regex(source.pattern)
    patterns = expand_braces(source.pattern)
    depth = None
    if '**' not in source.pattern:
        depth = max(each.count('/') for each in patterns) - source.uri.rstrip('/').count('/')
    # A folder seen under another name already may match only under this one.
    wanted = _literal(source.pattern).rpartition('/')[2]
    found = store.list(source.uri, depth, by_every_name=True, starts_with=wanted)
    return _without_companions(found, source, regex)


def _without_companions(
    entries: Iterable[Entry], source: Input, regex: re.Pattern[str] | None = None
) -> Iterator[Entry | str]:
    """Leaves out what only its neighbours show to be no file of its own.

    That is an AppleDouble, '._x.jpg' beside 'x.jpg', in which a Mac keeps what it knows of a file
    on disks of others, and an empty object below whose name others lie, which marks a folder.

    Args:
      entries: of a listing; what may be left out comes when the others are known.
      source: that was listed.
      regex: which names are wanted, if not all.
    """
    companions: dict[str, Entry] = {}  # by the name of the file they are beside
    markers: dict[str, Entry] = {}
    for entry in entries:
        alive()  # however few are wanted
        if companions.pop(entry.uri, None):
            yield _COMPANION
        folder = uris.folder_of(entry.uri)
        while markers and '/' in folder.partition('://')[2]:
            if markers.pop(folder, None):
                yield _FOLDER_MARKER
            folder = uris.folder_of(folder)
        if regex and not regex.fullmatch(entry.uri):
            continue
        parent, _, name = entry.uri.rpartition('/')
        if name.startswith('._') and len(name) > 2:
            companions[f'{parent}/{name[2:]}'] = entry
        elif not entry.size_bytes and uris.scheme_of(entry.uri):
            markers[entry.uri] = entry
        else:
            yield entry
    yield from markers.values()
    store = store_for(source.uri, source.stores)

    def stat(uri: str) -> Entry | None:
        return within(source.deadline_sec, uris.printable(uri), lambda: store.stat(uri))

    # Locally the file may have come first.
    with ThreadPoolExecutor(_THREADS) as pool:
        for entry, other in zip(companions.values(), pool.map(stat, companions), strict=True):
            yield entry if other is None else _COMPANION


def _ref(entry: Entry, since: float | None) -> Ref | str:
    if since is not None and entry.modified_at < since:
        return _BEFORE_SINCE
    return Ref(entry.uri, entry.version, entry.size_bytes, NO_CARRIED, entry.reason, entry.detail)


def _dead_refs(source: Input, columns: Columns, is_remote: bool) -> Iterator[Ref]:
    """The images behind the dead letters of a run, but for lines that were no URI."""
    reasons = source.pattern.split(',')
    store = store_for(source.uri, source.stores)
    schema = dead_letter_schema(columns.carry, {})
    output, _, folder = source.uri.rpartition(f'/{DEAD_LETTERS}/')  # model=<id>/run=<id>
    run = read_run(output, folder.rpartition('=')[2], store)
    if run is None:
        raise StoreError(f'{source.uri}: its run has no report any more')
    for file in run.files(DEAD_LETTERS):
        uri = uris.join(output, file['path'])
        try:
            with open_listed(store, uri, Checksum.of(file)) as stream:
                parquet = pq.ParquetFile(stream)
                if not parquet.schema_arrow.equals(schema):
                    raise pa.ArrowInvalid('another schema')
                for batch in parquet.iter_batches(_BATCH_ROWS):
                    for row in batch.to_pylist():
                        if row['reason'] in reasons and row['stage'] != Stage.LIST.value:
                            values = [row[column] for column in columns.carry]
                            carried = json.dumps(values, ensure_ascii=False)
                            is_bad = is_remote and not uris.scheme_of(row['uri'])
                            why = (Reason.BAD_URI.value, _NOT_THERE) if is_bad else ('', '')
                            yield Ref(row['uri'], '', -1, carried, *why)
        except (DamagedError, UsageError, pa.ArrowException, OSError, LookupError) as e:
            raise StoreError(
                f'{uri} is no file of dead letters as a run writes it: restore it, or label '
                'the inputs again'
            ) from e


def _manifest_refs(source: Input, columns: Columns, is_remote: bool) -> Iterator[Ref]:
    uri = source.uri
    base = uris.folder_of(uri)
    partitions = [columns.carry.index(column) for column in columns.partition_by]
    for line in manifest.read_manifest(uri, columns.uri, columns.carry, source.stores):
        carried, problem = _carried_of(line.carried, partitions, columns)
        problem = problem or (line.problem if line.uri else '')
        if problem:
            yield _bad_line(source, line, carried, Reason.BAD_NAME, problem)
            continue
        try:
            if line.uri is None:
                raise ImageError(Reason.BAD_URI, line.problem)
            if not line.uri:
                raise ImageError(Reason.BAD_URI, 'an empty URI')
            found = uris.normalize(line.uri, base)
            if is_remote and not uris.scheme_of(found):
                raise ImageError(Reason.BAD_URI, _NOT_THERE)
            yield Ref(found, '', -1, carried, '', '', uris.access_url(line.uri))
        except ImageError as e:
            yield _bad_line(source, line, carried, e.reason, e.detail)


def _bad_line(source: Input, line: manifest.Line, carried: str, reason: Reason, what: str) -> Ref:
    name = uris.printable(line.uri) if line.uri else f'{source.uri}:{line.number}'
    return Ref(name, '', -1, carried, reason.value, f'line {line.number}: {what}')


def _carried_of(
    values: Sequence[str | None], partitions: Sequence[int], columns: Columns
) -> tuple[str, str]:
    """Carried values as they travel, and what is wrong with them: '' if nothing is."""
    longest = max((len(value) for value in values if value), default=0)
    checked = [value and _carried_text(value) for value in values]
    for place in partitions:
        if checked[place] in ('', DEFAULT_PARTITION):
            checked[place] = None  # Hive writes all three as one folder
    carried = json.dumps(checked, ensure_ascii=False)
    try:
        carried.encode()
        # Too long a folder name is refused here, not after the inference was paid.
        folder_of_values(columns.partition_by, [checked[place] for place in partitions])
    except UnicodeEncodeError:
        # Escaped: what cannot be stored is still told apart.
        return json.dumps(checked), 'a carried value is not valid UTF-8'
    except ImageError as e:
        return carried, e.detail
    if longest > _MAX_CARRIED_CHARS:
        return carried, f'a carried value of {longest} characters, limit {_MAX_CARRIED_CHARS}'
    return carried, ''


def _carried_text(value: str) -> str:
    is_long = len(value) > _MAX_CARRIED_CHARS
    return uris.printable(value) if is_long else uris.without_secrets_in(value)


def manifest_access(source: Input, columns: Columns) -> Iterator[tuple[str, str]]:
    """URIs of a manifest, and the URLs to fetch them by where these carry secrets."""
    for ref in list_input(source, columns):
        if isinstance(ref, Ref) and ref.access:
            yield ref.uri, ref.access


def check_not_empty(source: Input, listing: Listing) -> None:
    """Lists an input until it is known that there is something in it.

    Raises:
      UsageError: there is nothing.
    """
    left_out: collections.Counter[str] = collections.Counter()
    for ref in list_input(source, listing.columns, listing.since, listing.is_remote):
        if not isinstance(ref, str) or ref == _BEFORE_SINCE:
            return
        left_out[ref] += 1
    shown = source.shown
    if source.kind in manifest.INPUTS:
        what = 'lists nothing' if source.kind == 'manifest' else 'no manifest that lists anything'
    elif source.kind == 'glob':
        what = 'nothing matches'
    elif left_out:
        lists = [suffix for suffix in suffixes_of(left_out) if manifest.is_manifest(suffix)]
        found = describe_suffixes(suffixes_of(left_out), left_out.total())
        advice = f"'{shown}/*{lists[0]}' reads them as manifests, and " if lists else ''
        what = f"no images found: {found}; {advice}'{shown}/**' takes all"
    else:
        what = 'no images found: the folder is empty'
    raise UsageError(f'--input {shown}: {what} (--allow_empty makes a run of nothing)')


def suffixes_of(left_out: Mapping[str, int]) -> dict[str, int]:
    """How many files have each of the commonest suffixes that are no image's."""
    found = {
        key.removeprefix(f'{NOT_IMAGE}/'): n
        for key, n in left_out.items()
        if key.startswith(f'{NOT_IMAGE}/')
    }
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:_MOST_SUFFIXES])


def describe_suffixes(suffixes: Mapping[str, int], files: int) -> str:
    """Which files were passed over, as '5 .txt, 3 without a suffix, 2 others'.

    Args:
      suffixes: of `suffixes_of`.
      files: how many there are in all.
    """
    texts = [f'{n:,} {uris.printable(name) or "without a suffix"}' for name, n in suffixes.items()]
    others = files - sum(suffixes.values())
    return ', '.join([*texts, f'{others:,} others'] if others else texts)


class _ListDoFn(beam.DoFn):
    """Emits the parts of what is frozen, and freezes it before where no attempt has done so."""

    def __init__(self, listing: Listing, layout: Layout):
        self._listing = listing
        self._layout = layout

    def process(
        self, element: tuple[int, Input]
    ) -> Iterable[tuple[str, str] | beam.pvalue.TaggedOutput]:
        number, source = element
        found = frozen.find(self._layout, number)
        if found is None:
            found = frozen.freeze(self._layout, number, self._list(source))
        yield from found.parts
        for count in found.left_out.items():
            yield beam.pvalue.TaggedOutput('counts', count)
        if source.kind == DEAD_LETTERS:
            signed = self._listing.originals
        else:
            signed = (source,) if found.is_signed else ()
        for manifest_of_signed in signed:
            yield beam.pvalue.TaggedOutput('signed', manifest_of_signed)

    def _list(self, source: Input) -> Iterable[Ref | str]:
        listing = self._listing
        refs = list_input(source, listing.columns, listing.since, listing.is_remote)
        if listing.sample is not None:
            return _sampled(refs, listing.sample)
        return refs if listing.most is None else refuse_more(refs, listing.most, source)


def refuse_more(refs: Iterable[Ref | str], most: TooMany, source: Input) -> Iterator[Ref | str]:
    """The refs of an input, as long as they can be of images that a run may label.

    Raises:
      UsageError: they are too many, whatever comes behind them.
    """
    limit = most.max_images + most.known
    seen: set[int] = set()  # 8 bytes of a hash: the limit is reached too late at worst
    for ref in refs:
        if isinstance(ref, Ref) and not ref.reason:
            seen.add(uri_hash(ref.uri))
            if len(seen) > limit:
                known = f', {most.known} of them unchanged at most' if most.known else ''
                raise UsageError(
                    f'--max_images {most.max_images}: more than {limit} distinct images are '
                    f'listed in {source.shown}{known}, and reading it ended there; raise it, or '
                    'label a part with --sample'
                )
        yield ref


class _ReadPartDoFn(beam.DoFn):
    def __init__(self, layout: Layout):
        self._layout = layout
        self._listed = counter('listed_refs')

    def process(self, part: tuple[str, str]) -> Iterator[Ref]:
        for ref in frozen.read_part(self._layout, *part):
            LIVE.add(listed=1)
            self._listed.inc()
            carried = LONG_TEXTS.shorten(ref.carried)
            yield ref if carried is ref.carried else ref._replace(carried=carried)


def _sampled(refs: Iterable[Ref | str], size: int) -> Iterator[Ref | str]:
    """Of an input only what may be part of the sample of all inputs."""
    sampler = _SampleFn(size)
    sample = sampler.create_accumulator()
    for ref in refs:
        if isinstance(ref, str):
            yield ref
        else:
            sample = sampler.add_input(sample, ref)
    yield from sampler.extract_output(sample)


class _SampleFn(beam.CombineFn):
    """The `size` distinct refs with the smallest content hash: the same ones whatever the order."""

    def __init__(self, size: int):
        self._size = size

    def create_accumulator(self) -> dict[bytes, Ref]:
        return {}

    def add_input(self, sample: dict[bytes, Ref], ref: Ref) -> dict[bytes, Ref]:
        key = content_hash(ref.uri, LONG_TEXTS.lengthen(ref.carried))
        # Of two that differ in what the listing knew, the choice must not depend on their order.
        sample[key] = max(ref, sample.get(key, ref))
        return self._smallest(sample) if len(sample) > 2 * self._size else sample

    def merge_accumulators(self, samples: Iterable[dict[bytes, Ref]]) -> dict[bytes, Ref]:
        merged: dict[bytes, Ref] = {}
        for sample in samples:
            both = {key: max(merged[key], sample[key]) for key in merged.keys() & sample.keys()}
            merged = self._smallest(merged | sample | both)
        return merged

    def extract_output(self, sample: dict[bytes, Ref]) -> list[Ref]:
        return list(self._smallest(sample).values())

    def _smallest(self, sample: dict[bytes, Ref]) -> dict[bytes, Ref]:
        return {key: sample[key] for key in sorted(sample)[: self._size]}


class ReadRefs(beam.PTransform):
    """Lists the inputs.

    Args:
      listing: what to list.
      layout: the output, under which the listing is frozen.

    Returns (expand):
      refs: PCollection[Ref], with duplicates.
      access: PCollection[tuple[str, str]], URIs and the URLs to fetch them by where these carry
        secrets.
      counts: PCollection[tuple[str, int]], files that were left out.
    """

    def __init__(self, listing: Listing, layout: Layout):
        super().__init__()
        self._listing = listing
        self._layout = layout

    def expand(
        self, root: beam.Pipeline
    ) -> tuple[
        beam.PCollection[Ref],
        beam.PCollection[tuple[str, str]],
        beam.PCollection[tuple[str, int]],
    ]:
        columns = self._listing.columns
        inputs = list(enumerate(self._listing.inputs))
        listed = (
            root
            # Several inputs are listed by several workers.
            | 'Inputs' >> beam.Create(inputs, reshuffle=len(inputs) > 1)
            | 'List'
            >> beam.ParDo(_ListDoFn(self._listing, self._layout))
            .with_output_types(tuple[str, str], counts=tuple[str, int], signed=Input)
            .with_outputs('counts', 'signed', main='parts')
        )
        access = listed.signed | 'ReadAccess' >> beam.FlatMap(
            manifest_access, columns
        ).with_output_types(tuple[str, str])
        refs = (
            listed.parts
            # However large an input is, it is read by as many as there are parts.
            | 'SpreadParts' >> beam.Reshuffle()
            | 'ReadParts' >> beam.ParDo(_ReadPartDoFn(self._layout)).with_output_types(Ref)
        )
        if self._listing.sample is not None:
            refs = (
                refs
                | 'Sample' >> beam.CombineGlobally(_SampleFn(self._listing.sample))
                | 'Sampled' >> beam.FlatMap(list).with_output_types(Ref)
            )
        return refs, access, listed.counts
