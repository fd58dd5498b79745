"""Drops duplicates and forms chunks, the unit of work and of progress.

A chunk's content follows from the listing alone: not from the runner, the number of workers or
what an earlier run has finished.
"""

from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam

from transforms.errors import UsageError
from transforms.hashing import content_hash, uri_hash
from transforms.process import LIVE
from transforms.rows import Chunk, DeadLetter, Item, Ref, Stage


def merge_refs(refs: Iterable[Ref]) -> tuple[Item | None, list[DeadLetter], int]:
    """Merges all refs of one URI.

    The same URI with the same carried values is a duplicate; with other carried values it is one
    image with several rows.

    Returns:
      item: the image to label; None where every ref was bad.
      dead: one dead letter for each distinct bad ref.
      duplicates: how many refs said what another one had said.
    """
    listed = 0
    distinct: dict[str, Ref] = {}
    for ref in refs:
        listed += 1
        other = distinct.get(ref.carried)
        # Of two that differ in what the listing knew, the choice must not depend on their order;
        # one that knows the version and is not bad comes first.
        if other is None or _preference(ref) > _preference(other):
            distinct[ref.carried] = ref
    ordered = [distinct[carried] for carried in sorted(distinct)]
    good = [ref for ref in ordered if not ref.reason]
    dead = [
        DeadLetter(ref.uri, Stage.LIST.value, ref.reason, ref.detail, ref.size_bytes, ref.carried)
        for ref in ordered
        if ref.reason
    ]
    item = None
    if good:
        best = max(good, key=_preference)
        carried = [ref.carried for ref in good]
        item = Item(best.uri, best.version, best.size_bytes, carried, best.access)
    return item, dead, listed - len(distinct)


def _preference(ref: Ref) -> tuple[bool, str, int, str, str, str]:
    return (not ref.reason, ref.version, ref.size_bytes, ref.detail, ref.reason, ref.access)


def bucket_count(images: int, chunk_size: int) -> int:
    """The power of two that leaves about half to one chunk a bucket."""
    return 1 << max(0, -(-images // chunk_size) - 1).bit_length()


def bucket_of(uri: str, buckets: int) -> int:
    """The bucket of a URI, by the first 8 bytes of its SHA-256; `buckets` is a power of two."""
    return uri_hash(uri) % buckets


def cut(items: Iterable[Item], chunk_size: int) -> Iterator[Chunk]:
    """Cuts the images of one bucket into chunks, in the order of their URIs."""
    ordered = sorted(items)
    for start in range(0, len(ordered), chunk_size):
        part = ordered[start : start + chunk_size]
        yield Chunk(chunk_id(part), part)


def chunk_id(items: Sequence[Item]) -> str:
    """16 hex digits over what a chunk contains."""
    texts = [text for item in items for text in (item.uri, item.version, *item.carried)]
    return content_hash(*texts).hex()[:16]


class _DropDuplicatesDoFn(beam.DoFn):
    def process(
        self, element: tuple[str, Iterable[Ref]]
    ) -> Iterator[Item | beam.pvalue.TaggedOutput]:
        item, dead, duplicates = merge_refs(element[1])
        if item is not None:
            LIVE.add(total=1)
            yield item
        for letter in dead:
            yield beam.pvalue.TaggedOutput('dead', letter)
        if duplicates:
            yield beam.pvalue.TaggedOutput('counts', ('duplicates', duplicates))


class DropDuplicates(beam.PTransform):
    """One `Item` a URI.

    Expands PCollection[Ref] to (PCollection[Item], PCollection[DeadLetter] of refs that were bad
    in the listing already, PCollection[tuple[str, int]] of counts).
    """

    def expand(
        self, refs: beam.PCollection[Ref]
    ) -> tuple[
        beam.PCollection[Item],
        beam.PCollection[DeadLetter],
        beam.PCollection[tuple[str, int]],
    ]:
        merged = (
            refs
            | 'KeyByUri' >> beam.Map(lambda ref: (ref.uri, ref)).with_output_types(tuple[str, Ref])
            | 'GroupByUri' >> beam.GroupByKey()
            | 'Merge'
            >> beam.ParDo(_DropDuplicatesDoFn())
            .with_output_types(Item, dead=DeadLetter, counts=tuple[str, int])
            .with_outputs('dead', 'counts', main='items')
        )
        return merged.items, merged.dead, merged.counts


class MakeChunks(beam.PTransform):
    """PCollection[Item] to PCollection[Chunk].

    Args:
      chunk_size: most images a chunk.
      max_images: refuse more images than this; None takes any number.
    """

    def __init__(self, chunk_size: int, max_images: int | None):
        super().__init__()
        self._chunk_size = chunk_size
        self._max_images = max_images

    def expand(self, items: beam.PCollection[Item]) -> beam.PCollection[Chunk]:
        chunk_size = self._chunk_size
        buckets = (
            items
            | 'CountImages' >> beam.combiners.Count.Globally()
            | 'CountBuckets' >> beam.Map(_bucket_count_of, chunk_size, self._max_images)
        )
        return (
            items
            | 'KeyByBucket'
            >> beam.Map(
                lambda item, count: (bucket_of(item.uri, count), item),
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
            f'--max_images {max_images}: the inputs list {images} distinct images; raise it, or '
            'label a part with --sample'
        )
    return bucket_count(images, chunk_size)
