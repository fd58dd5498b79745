"""What an input lists: refs of images, and what is left out."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.core import uris
from transforms.core.elements import Ref, Stage
from transforms.core.errors import DamagedError, ImageError, StoreError, UsageError
from transforms.core.left_out import NOT_IMAGE, describe_suffixes, suffixes_of
from transforms.core.reasons import Reason
from transforms.core.waiting import alive, each_within, within
from transforms.images.formats import IMAGE_SUFFIXES
from transforms.output import dead_letters
from transforms.output.partitions import DEFAULT_PARTITION, folder_of_values
from transforms.runs.complete import read_run
from transforms.sources import manifest
from transforms.sources.globs import expand_braces, glob_regex, literal_head
from transforms.sources.inputs import Columns, Input, Kind
from transforms.storage.base import Entry, Store
from transforms.storage.registry import store_for
from transforms.storage.sealed import open_listed

LONGER = ' Raise --fetch_deadline_sec to wait longer'
NO_CARRIED = '[]'
_NOT_THERE = 'a local path, which remote workers cannot read'
_MAX_CARRIED_CHARS = 65_536
_COMPANION = f'{NOT_IMAGE}/._*'
_FOLDER_MARKER = f'{NOT_IMAGE}/(folder)'
_THREADS = 16
_BATCH_ROWS = 1000
BEFORE_SINCE = 'skipped_before_since'


def list_input(
    source: Input, columns: Columns, since: float | None = None, is_remote: bool = False
) -> Iterator[Ref | str]:
    """Yields the refs of an input as they are listed.

    A string stands for a file that is left out: 'skipped_not_image/<suffix>' for a file of a folder
      without the suffix of an image, 'skipped_before_since'.

    Args:
      source: the input.
      columns: what is read of manifests.
      since: leave out what was written before, in seconds since 1970; not for manifests.
      is_remote: whether local paths in manifests are bad lines.

    Raises:
      StoreError: a store cannot be listed, or does not answer.
      ManifestError: a manifest is broken.
    """
    found = SOURCES[source.kind].list(source, Wanted(columns, since, is_remote))
    return each_within(source.deadline_sec, source.shown, found, advice=LONGER)


class Wanted(NamedTuple):
    """What is read of an input, see `list_input`."""

    columns: Columns
    since: float | None
    is_remote: bool


def _of_folder(source: Input, wanted: Wanted) -> Iterator[Ref | str]:
    store = store_for(source.uri, source.stores)
    for entry in _without_companions(store.list(source.uri), source):
        if isinstance(entry, str):
            yield entry
            continue
        is_image = uris.suffix_of(entry.uri) in IMAGE_SUFFIXES
        yield _ref(entry, wanted.since) if is_image else f'{NOT_IMAGE}/{uris.suffix_of(entry.uri)}'


def _of_glob(source: Input, wanted: Wanted) -> Iterator[Ref | str]:
    for entry in _matching(source, store_for(source.uri, source.stores)):
        yield entry if isinstance(entry, str) else _ref(entry, wanted.since)


def _of_file(source: Input, wanted: Wanted) -> Iterator[Ref | str]:
    store = store_for(source.uri, source.stores)
    yield _ref(store.stat(source.uri) or Entry(source.uri, '', -1), wanted.since)


def _of_manifests(source: Input, wanted: Wanted) -> Iterator[Ref]:
    for uri in manifests_of(source):
        yield from _manifest_refs(source._replace(uri=uri), wanted.columns, wanted.is_remote)


def manifests_of(source: Input) -> list[str]:
    """The manifests that an input names."""
    if source.kind is Kind.MANIFEST:
        return [source.uri]
    matching = _matching(source, store_for(source.uri, source.stores))
    found = each_within(source.deadline_sec, source.shown, matching, advice=LONGER)
    return sorted(entry.uri for entry in found if isinstance(entry, Entry))


def _matching(source: Input, store: Store) -> Iterator[Entry | str]:
    """What a glob matches; a string stands for what only marks or accompanies another file."""
    regex = glob_regex(source.pattern)
    patterns = expand_braces(source.pattern)
    depth = None
    if '**' not in source.pattern:
        depth = max(each.count('/') for each in patterns) - source.uri.rstrip('/').count('/')
    # A folder seen under another name already may match only under this one.
    wanted = literal_head(source.pattern).rpartition('/')[2]
    found = store.list(source.uri, depth, by_every_name=True, starts_with=wanted)
    return _without_companions(found, source, regex)


def _without_companions(
    entries: Iterable[Entry], source: Input, regex: re.Pattern[str] | None = None
) -> Iterator[Entry | str]:
    """Leaves out files that, as their neighbours show, only accompany others.

    These are AppleDouble files, '._x.jpg' beside 'x.jpg', in which a Mac keeps metadata on foreign
    disks, and empty objects below whose name others lie, which mark a folder.

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
        return BEFORE_SINCE
    return Ref(entry.uri, entry.version, entry.size_bytes, NO_CARRIED, entry.reason, entry.detail)


def _of_dead_letters(source: Input, wanted: Wanted) -> Iterator[Ref]:
    """The images behind the dead letters of a run, except lines that were not URIs."""
    reasons = source.pattern.split(',')
    store = store_for(source.uri, source.stores)
    schema = dead_letters.dead_letter_schema(wanted.columns.carry, {})
    output, _, folder = source.uri.rpartition(f'/{dead_letters.KIND}/')  # model=<id>/run=<id>
    run = read_run(output, folder.rpartition('=')[2], store)
    if run is None:
        raise StoreError(f'{source.uri}: its run no longer has a report')
    for file in run.files(dead_letters.KIND):
        uri = uris.join(output, file.path)
        try:
            with open_listed(store, uri, file.checksum) as stream:
                parquet = pq.ParquetFile(stream)
                if not parquet.schema_arrow.equals(schema):
                    raise pa.ArrowInvalid('another schema')
                for batch in parquet.iter_batches(_BATCH_ROWS):
                    for row in batch.to_pylist():
                        if row['reason'] in reasons and row['stage'] != Stage.LIST.value:
                            values = [row[column] for column in wanted.columns.carry]
                            carried = json.dumps(values, ensure_ascii=False)
                            is_bad = wanted.is_remote and not uris.scheme_of(row['uri'])
                            why = (Reason.BAD_URI.value, _NOT_THERE) if is_bad else ('', '')
                            yield Ref(row['uri'], '', -1, carried, *why)
        except (DamagedError, UsageError, pa.ArrowException, OSError, LookupError) as e:
            raise StoreError(
                f'{uri} is not a file of dead letters written by a run: restore it, or label '
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
    """Carried values as they travel, and what is wrong with them; '' if nothing is."""
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


def _why_folder_is_empty(source: Input, left_out: Counter[str]) -> str:
    if not left_out:
        return 'no images found: the folder is empty'
    lists = [suffix for suffix in suffixes_of(left_out) if manifest.is_manifest(suffix)]
    found = describe_suffixes(suffixes_of(left_out), left_out.total())
    shown = source.shown
    advice = f"'{shown}/*{lists[0]}' reads them as manifests, and " if lists else ''
    return f"no images found: {found}; {advice}'{shown}/**' takes all"


class Source(NamedTuple):
    """How inputs of a kind are listed.

    Attributes:
      list: yields refs, and strings for files that are left out, see `list_input`.
      why_empty: takes an input that lists no ref, and how many files were left out and why; returns
        words for a message.
    """

    list: Callable[[Input, Wanted], Iterator[Ref | str]]
    why_empty: Callable[[Input, Counter[str]], str]


SOURCES: Mapping[Kind, Source] = {
    Kind.FOLDER: Source(_of_folder, _why_folder_is_empty),
    Kind.GLOB: Source(_of_glob, lambda *_: 'nothing matches'),
    Kind.FILE: Source(_of_file, lambda *_: 'no such file'),
    Kind.MANIFEST: Source(_of_manifests, lambda *_: 'lists nothing'),
    Kind.MANIFESTS: Source(_of_manifests, lambda *_: 'none of the manifests lists anything'),
    Kind.DEAD_LETTERS: Source(_of_dead_letters, lambda *_: 'no image failed for these reasons'),
}
"""Each kind of input there is."""


def manifest_access(source: Input, columns: Columns) -> Iterator[tuple[str, str]]:
    """URIs of a manifest, and the URLs to fetch them by, for those that carry secrets."""
    for ref in list_input(source, columns):
        if isinstance(ref, Ref) and ref.access:
            yield ref.uri, ref.access
