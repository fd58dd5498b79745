"""What an input lists: refs of images, and what is left out."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.core import uris
from transforms.core.elements import Ref, Stage
from transforms.core.errors import DamagedError, ImageError, StoreError, UsageError
from transforms.core.left_out import (
    BEFORE_SINCE,
    NOT_IMAGE,
    advise_containers,
    describe_suffixes,
    suffixes_of,
)
from transforms.core.reasons import Reason
from transforms.core.suffixes import IMAGE_SUFFIXES
from transforms.core.waiting import each_within
from transforms.output import dead_letters
from transforms.runs.complete import read_run
from transforms.sources import inventory, manifest
from transforms.sources.carried import NO_CARRIED, carried_of
from transforms.sources.containers import list_members
from transforms.sources.inputs import Columns, Input, Kind
from transforms.sources.matching import matching, without_companions
from transforms.storage.base import Entry
from transforms.storage.registry import store_for
from transforms.storage.sealed import open_listed

LONGER = ' Raise --fetch_deadline_sec to wait longer'
_NOT_THERE = 'a local path, which remote workers cannot read'
_BATCH_ROWS = 1000


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
    for entry in without_companions(store.list(source.uri), source):
        if isinstance(entry, str):
            yield entry
            continue
        is_image = uris.suffix_of(entry.uri) in IMAGE_SUFFIXES
        yield _ref(entry, wanted.since) if is_image else f'{NOT_IMAGE}/{uris.suffix_of(entry.uri)}'


def _of_glob(source: Input, wanted: Wanted) -> Iterator[Ref | str]:
    for entry in matching(source, store_for(source.uri, source.stores)):
        yield entry if isinstance(entry, str) else _ref(entry, wanted.since)


def _of_file(source: Input, wanted: Wanted) -> Iterator[Ref | str]:
    store = store_for(source.uri, source.stores)
    yield _ref(store.stat(source.uri) or Entry(source.uri, '', -1), wanted.since)


def _of_inventory(source: Input, wanted: Wanted) -> Iterator[Ref | str]:
    store = store_for(source.uri, source.stores)
    found = inventory.read_manifest(source.uri, store)
    listed = inventory.list_objects(found, store, has_times=wanted.since is not None)
    for entry in without_companions(listed, source):
        yield entry if isinstance(entry, str) else _ref(entry, wanted.since)


def _of_containers(source: Input, wanted: Wanted) -> Iterator[Ref | str]:
    return list_members(source, wanted.columns, wanted.since)


def _of_manifests(source: Input, wanted: Wanted) -> Iterator[Ref]:
    for uri in manifests_of(source):
        yield from _manifest_refs(source._replace(uri=uri), wanted.columns, wanted.is_remote)


def manifests_of(source: Input) -> list[str]:
    """The manifests that an input names."""
    if source.kind is Kind.MANIFEST:
        return [source.uri]
    entries = matching(source, store_for(source.uri, source.stores))
    found = each_within(source.deadline_sec, source.shown, entries, advice=LONGER)
    return sorted(entry.uri for entry in found if isinstance(entry, Entry))


def _ref(entry: Entry, since: float | None) -> Ref | str:
    if since is not None and entry.modified_at < since:
        return BEFORE_SINCE
    known = entry.uri, entry.version, entry.size_bytes
    return Ref(*known, NO_CARRIED, entry.reason, entry.detail, checksum=entry.checksum)


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
        carried, problem = carried_of(line.carried, partitions, columns)
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


def _why_folder_is_empty(source: Input, left_out: Counter[str]) -> str:
    if not left_out:
        return 'no images found: the folder is empty'
    suffixes = suffixes_of(left_out)
    lists = [suffix for suffix in suffixes if manifest.is_manifest(suffix)]
    shown = source.shown
    advice = advise_containers(shown, suffixes, ', and ')
    advice += f"'{shown}/**/*{lists[0]}' reads them as manifests, and " if lists else ''
    found = describe_suffixes(suffixes, left_out.total())
    return f"no images found: {found}; {advice}'{shown}/**' takes all"


def _why_container_is_empty(source: Input, left_out: Counter[str]) -> str:
    if left_out:
        return f'no images found: {describe_suffixes(suffixes_of(left_out), left_out.total())}'
    if source.kind is Kind.CONTAINERS:
        found = matching(source, store_for(source.uri, source.stores))
        if not any(isinstance(each, Entry) for each in found):
            return 'nothing matches'
    return 'no images found: there is nothing in it'


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
    Kind.INVENTORY: Source(_of_inventory, _why_container_is_empty),
    Kind.CONTAINER: Source(_of_containers, _why_container_is_empty),
    Kind.CONTAINERS: Source(_of_containers, _why_container_is_empty),
    Kind.DEAD_LETTERS: Source(_of_dead_letters, lambda *_: 'no image failed for these reasons'),
}
"""Each kind of input there is."""


def manifest_access(source: Input, columns: Columns) -> Iterator[tuple[str, str]]:
    """URIs of a manifest, and the URLs to fetch them by, for those that carry secrets."""
    for ref in list_input(source, columns):
        if isinstance(ref, Ref) and ref.access:
            yield ref.uri, ref.access
