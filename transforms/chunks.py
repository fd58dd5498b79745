"""Drops what need not be done and forms chunks, the unit of work and progress.

A chunk's content follows from the listing alone: not from the runner, the number of workers or
what an earlier run has finished.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.typehints.decorators import no_annotations

from transforms.core import members
from transforms.core.elements import Chunk, DeadLetter, Item, Known, Note, Ref, Stage
from transforms.core.errors import UsageError
from transforms.core.hashing import content_hash, power_of_two, uri_hash
from transforms.core.long_texts import LONG_TEXTS
from transforms.core.reasons import Reason
from transforms.core.resources import LIVE
from transforms.reuse import GatherTwins

_BLOCKS_OF_NAMES = 8


class Merged(NamedTuple):
    """The result of merging all that is known of one URI.

    Attributes:
      item: the image to label; None if there is nothing to do.
      dead: one dead letter per distinct bad ref.
      duplicates: how many refs repeated another one.
      unchanged: distinct refs that an earlier run has dealt with.
      gone: rows of earlier runs of the same inputs that these no longer list.
      notes: carried values of rows of earlier runs, and what to note about them.
    """

    item: Item | None
    dead: list[DeadLetter]
    duplicates: int
    unchanged: int
    gone: int
    notes: list[tuple[str, Note]]


def merge(refs: Iterable[Ref], known: Iterable[Known] = (), access: Iterable[str] = ()) -> Merged:
    """Merges all that is known of one URI.

    The same URI with the same carried values is a duplicate; with other carried values it is one
    image with several rows.  A bad line or name only looks like its URI, which may also be that of
    an image: it is kept apart.

    Args:
      refs: as listed.
      known: what earlier runs did with it.
      access: URLs to fetch it by; of several, the last in sort order is used.
    """
    listed = 0
    distinct: dict[_Key, Ref] = {}
    for ref in refs:
        listed += 1
        key = _key(ref)
        # Of two that differ in what the listing knew, the choice must not depend on their order;
        # one that knows the version comes first.
        if key not in distinct or _preference(ref) > _preference(distinct[key]):
            distinct[key] = ref
    known, failed = _split(known)
    newest = _newest(known)
    gone, notes = _gone({carried for carried, reason in distinct if not reason}, known)
    good, dead = [], []
    unchanged = 0
    # What stands for long texts has another order.
    ordered = sorted(distinct.items(), key=_place) if len(distinct) > 1 else distinct.items()
    for key, ref in ordered:
        if _is_dealt_with(ref, newest.get(key)):
            unchanged += 1
        elif ref.reason:
            stage = Stage.LIST.value
            dead.append(
                DeadLetter(ref.uri, stage, ref.reason, ref.detail, ref.size_bytes, ref.carried)
            )
        else:
            good.append(ref)
    item = None
    if good:
        best = max(good, key=_preference)
        carried = [ref.carried for ref in good]
        url = max(access, default='')
        unless = _unless(good, newest)
        digest = _digest(best, good, newest)
        what = best.uri, best.version, best.size_bytes
        item = Item(*what, carried, url, unless, failed, best.checksum, digest=digest)
    return Merged(item, dead, listed - len(distinct), unchanged, gone, notes)


def _newest(known: Iterable[Known]) -> 'dict[_Key, Known]':
    """What was last made of each row, with the version that is known to have the same bytes."""
    newest: dict[_Key, Known] = {}
    same: dict[_Key, Known] = {}
    for each in known:
        key = _key(each)
        found = same if each.reason == Note.SAME.value else newest
        if each.reason not in _OF_PLACE and (key not in found or each > found[key]):
            found[key] = each
    for key, note in same.items():
        if key in newest and note.sequence > newest[key].sequence:
            newest[key] = newest[key]._replace(version=note.version)
    return newest


def _split(known: Iterable[Known]) -> tuple[list[Known], str]:
    """What holds for good, and why the last run over the same inputs had no labels for it."""
    lasting: list[Known] = []
    failed = ''
    for each in known:
        if each.reason in _PASSING:
            failed = max(failed, each.reason)
        else:
            lasting.append(each)
    return lasting, failed


def _gone(listed: Collection[str], known: Iterable[Known]) -> tuple[int, list[tuple[str, Note]]]:
    """How many rows the inputs that last listed them no longer list, and which of that is new.

    Args:
      listed: carried values that are listed now.
      known: all that earlier runs say about the URI.
    """
    labeled: set[str] = set()
    last: dict[tuple[str, bool], Known] = {}
    for each in known:
        if not each.reason:
            labeled.add(each.carried)
        if each.reason not in _OF_LISTING:
            key = each.carried, each.reason == Note.GONE.value
            last[key] = max(each, last.get(key, each))
    gone = 0
    notes = []
    for carried in sorted(labeled):
        there, left = last[carried, False], last.get((carried, True))
        # A copy of rows says in the same run which of them are gone.
        was_gone = left is not None and left.sequence >= there.sequence
        if carried in listed:
            if was_gone:
                notes.append((carried, Note.LISTED))
        elif (left if was_gone and left is not None else there).is_same_input:
            gone += 1
            if not was_gone:
                notes.append((carried, Note.GONE))
    return gone, notes


_Key = tuple[str, str]
_OF_LISTING = frozenset(reason.value for reason in Reason if reason.about.of_listing)
_OF_PLACE = frozenset([Note.GONE.value, Note.LISTED.value])
_TWIN = 'same bytes'
_DIGEST = 'labelled bytes'
_PASSING = frozenset(reason.value for reason in Reason if not reason.lasting)


def _key(row: Ref | Known) -> _Key:
    """Carried values, and what is wrong with the name itself, if anything is."""
    return row.carried, row.reason if row.reason in _OF_LISTING else ''


def _place(found: tuple[_Key, Ref]) -> _Key:
    carried, problem = found[0]
    return LONG_TEXTS.lengthen(carried), problem


def _preference(ref: Ref) -> tuple[str, int, str, str]:
    return (ref.version, ref.size_bytes, ref.detail, ref.checksum)


def _is_dealt_with(ref: Ref, known: Known | None) -> bool:
    """Whether the listing itself shows that nothing is to be done."""
    if known is None:
        return False
    if ref.reason:  # a line that is no URI stays none
        return ref.reason == known.reason
    return ref.version != '' and ref.version == known.version


def _unless(refs: Sequence[Ref], newest: Mapping[_Key, Known]) -> str:
    """The version for which nothing is to be done for any of the rows; '' if there is none."""
    if any(ref.version for ref in refs):
        return ''
    keys = map(_key, refs)
    versions = {newest[key].version if key in newest else '' for key in keys}
    return versions.pop() if len(versions) == 1 else ''


def _digest(best: Ref, refs: Sequence[Ref], newest: Mapping[_Key, Known]) -> str:
    """What all rows of a member were labelled from; '' of any other image.

    The version of a member changes with its container, which is written anew as a whole.
    """
    if not members.is_member(best.uri, best.version):
        return ''
    keys = map(_key, refs)
    digests = {newest[key].digest if key in newest else '' for key in keys}
    return digests.pop() if len(digests) == 1 else ''


def bucket_count(images: int, chunk_size: int) -> int:
    """The power of two that leaves about half a chunk to one chunk per bucket."""
    return power_of_two(-(-images // chunk_size))


def bucket_of(uri: str, buckets: int, version: str = '') -> int:
    """The bucket of a URI, by the first 8 bytes of its SHA-256; `buckets` is a power of two.

    Members of a container that are read in one go share theirs.
    """
    container, block, _ = _lies(uri, version)
    return uri_hash(f'{container}!{block}' if container else uri) % buckets


def _lies(uri: str, version: str) -> tuple[str, int, int]:
    """Container, block and position of a member; '' of any other image.

    Who is known by name alone stays with some others of its container, whose index is read for all.
    """
    found = members.split(uri)
    if found is None:
        return '', 0, 0
    if not version:
        return found.container, uri_hash(uri) % _BLOCKS_OF_NAMES, 0
    listed = members.split_version(version)
    return (found.container, *members.place_of(listed.where)) if listed else ('', 0, 0)


def _order(item: Item) -> tuple[tuple[str, int, int], Item]:
    return _lies(item.uri, item.version), item


def cut(items: Iterable[Item], chunk_size: int) -> Iterator[Chunk]:
    """Cuts the images of one bucket into chunks, in the order of their URIs.

    Members of containers come last, as they lie there.
    """
    ordered = sorted(items, key=_order)
    for start in range(0, len(ordered), chunk_size):
        part = ordered[start : start + chunk_size]
        yield Chunk(chunk_id(part), part)


def chunk_id(items: Sequence[Item]) -> str:
    """16 hex digits over what a chunk contains."""
    texts = (text for item in items for text in _texts(item))
    return content_hash(*texts).hex()[:16]


def _texts(item: Item) -> Iterator[str]:
    yield from (item.uri, item.version, item.known, *map(LONG_TEXTS.lengthen, item.carried))
    if item.digest:
        yield from (_DIGEST, item.digest)
    for twin in item.same:
        yield from (_TWIN, twin.uri, twin.version, *map(LONG_TEXTS.lengthen, twin.carried))


class _MergeDoFn(beam.DoFn):
    def __init__(self, is_part: bool):
        self._is_part = is_part

    @no_annotations  # Beam takes none for several outputs, and says so each time
    def process(
        self, element: tuple[str, Mapping[str, Iterable[Any]]]
    ) -> Iterator[Item | beam.pvalue.TaggedOutput]:
        uri, found = element
        merged = merge(found['refs'], found.get('known', ()), found['access'])
        if merged.item is not None:
            LIVE.add(total=1)
            yield merged.item
        for letter in merged.dead:
            yield beam.pvalue.TaggedOutput('dead', letter)
        for carried, note in merged.notes:
            if note is not Note.GONE or not self._is_part:
                letter = DeadLetter(uri, '', note.value, '', -1, carried)
                yield beam.pvalue.TaggedOutput('notes', letter)
        for name in ('duplicates', 'unchanged', 'gone'):
            count = getattr(merged, name)
            if count:
                yield beam.pvalue.TaggedOutput('counts', (name, count))


class DropDone(beam.PTransform):
    """One `Item` per URI that is left to do: no duplicates, nothing unchanged.

    Args:
      is_part: whether only a part of the inputs is listed, so that nobody can tell what is gone.

    Expands PCollections by name, `refs` of Ref, `access` of tuple[str, str], URIs and the URLs to
    fetch them by, and, where there were earlier runs, `known` of tuple[str, Known], what they did
    with which URI, to
    (PCollection[Item], PCollection[DeadLetter] of refs that were bad in the listing already,
    PCollection[DeadLetter] of notes, PCollection[tuple[str, int]] of counts).
    """

    def __init__(self, is_part: bool = False):
        super().__init__()
        self._is_part = is_part

    @no_annotations
    def expand(
        self, inputs: Mapping[str, beam.PCollection[Any]]
    ) -> tuple[
        beam.PCollection[Item],
        beam.PCollection[DeadLetter],
        beam.PCollection[DeadLetter],
        beam.PCollection[tuple[str, int]],
    ]:
        keyed = inputs['refs'] | 'KeyByUri' >> beam.Map(
            lambda ref: (ref.uri, ref)
        ).with_output_types(tuple[str, Ref])
        # In this order, which the shuffle knows them by.
        known = {'known': inputs['known']} if 'known' in inputs else {}
        merged = (
            {'refs': keyed, **known, 'access': inputs['access']}
            | 'GroupByUri' >> beam.CoGroupByKey()
            | 'Merge'
            >> beam.ParDo(_MergeDoFn(self._is_part))
            .with_output_types(Item, dead=DeadLetter, notes=DeadLetter, counts=tuple[str, int])
            .with_outputs('dead', 'notes', 'counts', main='items')
        )
        return merged.items, merged.dead, merged.notes, merged.counts


class MakeChunks(beam.PTransform):
    """PCollection[Item] to PCollection[Chunk].

    Args:
      chunk_size: most images per chunk.
      max_images: refuse more images than this; None accepts any number.
      is_reused: whether one is labelled for all that have its bytes, by the listing.
    """

    def __init__(self, chunk_size: int, max_images: int | None, is_reused: bool = False):
        super().__init__()
        self._is_reused = is_reused
        self._chunk_size = chunk_size
        self._max_images = max_images

    def expand(self, items: beam.PCollection[Item]) -> beam.PCollection[Chunk]:
        chunk_size = self._chunk_size
        buckets = (
            items
            | 'CountImages' >> beam.combiners.Count.Globally()
            | 'CountBuckets' >> beam.Map(_bucket_count_of, chunk_size, self._max_images)
        )
        if self._is_reused:
            items = items | 'GatherTwins' >> GatherTwins()
        return (
            items
            | 'KeyByBucket'
            >> beam.Map(
                lambda item, count: (bucket_of(item.uri, count, item.version), item),
                beam.pvalue.AsSingleton(buckets),
            ).with_output_types(tuple[int, Item])
            | 'GroupByBucket' >> beam.GroupByKey()
            | 'Cut'
            >> beam.FlatMap(lambda bucket: cut(bucket[1], chunk_size)).with_output_types(Chunk)
            # Chunks spread over the workers; refs of 100 bytes travel, never pixels.
            | 'Spread' >> beam.Reshuffle()
        )


def _bucket_count_of(images: int, chunk_size: int, max_images: int | None) -> int:
    if max_images is not None and images > max_images:
        raise UsageError(
            f'--max_images {max_images}: the inputs list {images} distinct images to label, not '
            'counting unchanged ones; raise it, or label a part with --sample'
        )
    return bucket_count(images, chunk_size)
