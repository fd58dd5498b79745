"""The step that lists the inputs; `transforms.sources.listing` says what an input lists."""

from collections.abc import Iterable, Iterator

import apache_beam as beam

import transforms.coders  # noqa: F401 (registers the coders of the rows)
from transforms.core.elements import Ref
from transforms.core.errors import UsageError
from transforms.core.hashing import content_hash, uri_hash
from transforms.core.long_texts import LONG_TEXTS
from transforms.core.resources import LIVE
from transforms.metrics import counter
from transforms.output.layout import Layout
from transforms.sources import snapshot
from transforms.sources.inputs import Input, Kind, Listing, TooMany
from transforms.sources.listing import list_input, manifest_access


class _ListDoFn(beam.DoFn):
    """Emits the parts of the snapshot, after writing it if no attempt has done so."""

    def __init__(self, listing: Listing, layout: Layout):
        self._listing = listing
        self._layout = layout

    def process(
        self, element: tuple[int, Input]
    ) -> Iterable[tuple[str, str] | beam.pvalue.TaggedOutput]:
        number, source = element
        found = snapshot.find(self._layout, number)
        if found is None:
            found = snapshot.freeze(self._layout, number, self._list(source))
        yield from found.parts
        for count in found.left_out.items():
            yield beam.pvalue.TaggedOutput('counts', count)
        if source.kind is Kind.DEAD_LETTERS:
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
    """The refs of an input, as long as they may not exceed the images that a run may label.

    Raises:
      UsageError: there are too many, whatever follows.
    """
    limit = most.max_images + most.known
    seen: set[int] = set()  # 8 bytes of a hash: the limit is reached too late at worst
    for ref in refs:
        if isinstance(ref, Ref) and not ref.reason:
            seen.add(uri_hash(ref.uri))
            if len(seen) > limit:
                known = f', at most {most.known} of them unchanged' if most.known else ''
                raise UsageError(
                    f'--max_images {most.max_images}: more than {limit} distinct images are '
                    f'listed in {source.shown}{known}, where reading stopped; raise it, or '
                    'label a part with --sample'
                )
        yield ref


class _ReadPartDoFn(beam.DoFn):
    def __init__(self, layout: Layout):
        self._layout = layout
        self._listed = counter('listed_refs')

    def process(self, part: tuple[str, str]) -> Iterator[Ref]:
        for ref in snapshot.read_part(self._layout, *part):
            LIVE.add(listed=1)
            self._listed.inc()
            carried = LONG_TEXTS.shorten(ref.carried)
            yield ref if carried is ref.carried else ref._replace(carried=carried)


def _sampled(refs: Iterable[Ref | str], size: int) -> Iterator[Ref | str]:
    """Only those refs of an input that may be part of the sample of all inputs."""
    sampler = _SampleFn(size)
    sample = sampler.create_accumulator()
    for ref in refs:
        if isinstance(ref, str):
            yield ref
        else:
            sample = sampler.add_input(sample, ref)
    yield from sampler.extract_output(sample)


class _SampleFn(beam.CombineFn):
    """The `size` distinct refs with the smallest content hash: the same ones in any order."""

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
      layout: the output, where the snapshot is written.

    Returns (expand):
      refs: PCollection[Ref], with duplicates.
      access: PCollection[tuple[str, str]], URIs and the URLs to fetch them by, for those that carry
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
