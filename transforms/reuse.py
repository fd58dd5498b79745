"""Pictures of the same bytes, of which the model sees one.

Only what is known before anything is read decides: slots, batches and chunks follow from the
listing, and with them the last bits of scores.
"""

from collections.abc import Iterable, Iterator

import apache_beam as beam
from apache_beam.typehints.decorators import no_annotations

from transforms.core.elements import Item, Twin

MOST_TOGETHER = 1000
"""Images that are labelled as one: they travel as one element."""


def bytes_of(item: Item) -> str:
    """What tells that two images have the same bytes, by the listing; '' if it does not tell."""
    return f'{item.checksum}/{item.size_bytes}' if item.checksum and item.size_bytes > 0 else ''


def gather(items: Iterable[Item]) -> Iterator[Item]:
    """Images of the same bytes, each the twin of the one that is read: the first of their URIs."""
    ordered = sorted((item._replace(checksum='') for item in items), key=lambda item: item.uri)
    for start in range(0, len(ordered), MOST_TOGETHER):
        first, *others = ordered[start : start + MOST_TOGETHER]
        yield first._replace(same=[Twin(item.uri, item.version, item.carried) for item in others])


class _KeyDoFn(beam.DoFn):
    @no_annotations  # Beam takes none for several outputs, and says so each time
    def process(self, item: Item) -> Iterator[tuple[str, Item] | beam.pvalue.TaggedOutput]:
        if key := bytes_of(item):
            yield key, item
        else:
            yield beam.pvalue.TaggedOutput('alone', item._replace(checksum=''))


class GatherTwins(beam.PTransform):
    """PCollection[Item] to PCollection[Item], one for all that have the same bytes."""

    def expand(self, items: beam.PCollection[Item]) -> beam.PCollection[Item]:
        keyed = items | 'KeyByBytes' >> beam.ParDo(_KeyDoFn()).with_output_types(
            tuple[str, Item], alone=Item
        ).with_outputs('alone', main='keyed')
        gathered = (
            keyed.keyed
            | 'GroupByBytes' >> beam.GroupByKey()
            | 'Gather' >> beam.FlatMap(lambda found: gather(found[1])).with_output_types(Item)
        )
        return (keyed.alone, gathered) | 'WithThoseAlone' >> beam.Flatten()
