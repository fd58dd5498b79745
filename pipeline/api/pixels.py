"""Reads and decodes images in somebody's own pipeline: from URIs to pixels."""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.typehints.decorators import no_annotations

from pipeline.api.images import ChunksOf, fail_fast
from pipeline.api.keywords import takes
from pipeline.api.rows import DeadLetter, Read, carried_values, dead_letter
from pipeline.api.step_options import READING, configure
from transforms.core import elements
from transforms.core.elements import Batch, Failure, Image
from transforms.load import LoadImages
from transforms.model.choices import EMBEDDED


class _PixelsDoFn(beam.DoFn):
    @no_annotations
    def process(self, batch: Batch) -> Iterator[tuple[object, np.ndarray] | DeadLetter]:
        items = batch.chunk.items[batch.start : batch.start + len(batch.outcomes)]
        for slot, (item, outcome) in enumerate(zip(items, batch.outcomes, strict=True)):
            for text in item.carried:
                if isinstance(outcome, Image):
                    carried = carried_values(text)
                    key = (item.uri, carried) if carried else item.uri
                    # A copy: one image that is kept would keep its whole batch.
                    yield key, batch.pixels[slot].copy()
                elif isinstance(outcome, Failure):
                    letter = elements.DeadLetter(
                        item.uri,
                        outcome.stage.value,
                        outcome.reason.value,
                        outcome.detail,
                        -1 if outcome.size_bytes is None else outcome.size_bytes,
                        text,
                    )
                    yield beam.pvalue.TaggedOutput('dead', dead_letter(letter))


class ReadImages(beam.PTransform):
    """Reads, decodes and resizes the images behind a PCollection of URIs.

    Takes what `LabelImages` takes, in the same loader processes and with the same limits, and gives
    the pixels that a model wants: with `ModelHandler`, or for a model of somebody else.

    Args:
      model: whose input size, crop and filter are meant; default the embedded one.  Only its card
        is used here, but it is looked up, and fetched if need be, when this transform is made.
      options: those of `label` that concern reading, by the same names: model_size, model_card,
        model_cache, model_sha256, batch_size, chunk_size, max_bytes, max_pixels,
        fetch_deadline_sec, memory_budget, loader_threads, loader_processes, decode_deadline_sec,
        fail_fast_after, user_project, anonymous, s3_endpoint_url, s3_region_name, s3_request_payer,
        allow_private_hosts, requests_per_host, user_agent, ignore_robots_tag.

    Attributes:
      config: what the options come to.

    Returns:
      Two PCollections by name: `images` of (key, pixels), the key being the URI, or the pair
      (URI, dict) where something was carried, and pixels (S, S, 3) uint8 RGB in [0, 255]; and
      `dead_letters` of DeadLetter.

    Raises:
      TypeError, UsageError, ModelError: as `LabelImages`.

    Example:
      >>> import apache_beam as beam, lemmabeam as lb
      >>> with beam.Pipeline('FnApiRunner') as pipeline:
      ...     read = pipeline | beam.Create(['photos/cat.jpg']) | lb.ReadImages(model_size=64)
      ...     _ = read.images | beam.MapTuple(lambda uri, pixels: print(pixels.shape, pixels.dtype))
      (64, 64, 3) uint8
    """

    @takes(READING)
    def __init__(self, model: str = EMBEDDED, **options: Any):
        super().__init__()
        self.config = configure(type(self).__name__, READING, {'model': model, **options})

    # No types: Beam would take the name of the result for that of its elements.
    def expand(self, images: Any) -> Any:
        """See the class."""
        config = self.config
        chunks, listed_dead = images | 'MakeChunks' >> ChunksOf(self.label, config.chunk_size)
        fails = fail_fast(config.fail_fast_after)
        read = (
            chunks
            | 'LoadImages' >> LoadImages(config.load, None, fails)
            | 'TakeApart'
            >> beam.ParDo(_PixelsDoFn())
            .with_output_types(tuple[Any, np.ndarray], dead=DeadLetter)
            .with_outputs('dead', main='images')
        )
        bad = listed_dead | 'BadUris' >> beam.Map(dead_letter).with_output_types(DeadLetter)
        return Read(read.images, (read.dead, bad) | 'AllDeadLetters' >> beam.Flatten())
