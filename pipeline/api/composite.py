"""Labels images in somebody's own pipeline: the steps of a run, without its output folder."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.typehints.decorators import no_annotations

from pipeline.api.images import ChunksOf, fail_fast
from pipeline.api.keywords import takes, value_of, wrong
from pipeline.api.rows import DeadLetter, Labeled, LabeledImage, dead_letter, labeled_images
from pipeline.api.step_options import LABELLING, configure
from pipeline.options import option_of
from transforms import label, load
from transforms.model.choices import EMBEDDED
from transforms.output import results
from transforms.output.predictions import Classes


class _RowsDoFn(beam.DoFn):
    def __init__(self, classes: Classes):
        self._classes = classes

    @no_annotations  # Beam takes none for several outputs, and says so each time
    def process(self, chunk: bytes) -> Iterator[LabeledImage | beam.pvalue.TaggedOutput]:
        table = results.from_ipc(chunk)
        yield from labeled_images(table, self._classes)
        for letter in results.dead_letters(table):
            yield beam.pvalue.TaggedOutput('dead', dead_letter(letter))


class LabelImages(beam.PTransform):
    """Labels the images behind a PCollection of URIs.

    All that a run of `label` does to its images is done here, too: loader processes fetch and
    decode ahead of the model, a batch on which the model fails is rescued image by image, each
    worker's model passes its canary before it labels anything, and when nearly all images of a
    process fail alike, as they do when credentials, the store or the model are at fault, the
    pipeline fails with a StoreError or ModelError (`fail_fast_after`).  There is no output folder:
    nothing is written, nothing is kept for a second try, and what a runner retries is labelled
    again.

    Input: a bounded PCollection in the global window, of URIs (gs://, s3://, az://, http(s)://,
    local paths), of pairs (URI, dict), or of rows or dicts with a field 'uri'.  What is beside the
    URI is carried along as text; what is no text is written as JSON.  The same URI with the same
    carried values is labelled once and gives one row; with others it is labelled once and gives one
    row for each.  Relative paths are those of the process that builds the pipeline.

    Chunks of images follow from the URIs alone, so the same URIs give the same rows, to the last
    bit of each score, whatever the order, the runner or the number of workers; options, library
    versions and machine type being the same.

    Args:
      model: as `label` takes it: a name, a handle, a URL or a path; default the embedded one.  It
        is looked up, and fetched if need be, when this transform is made.
      top_k: the k best classes of each image, whatever their scores: short for `max_labels` and
        `min_labels`, and not to be given beside them.
      options: those of `label` that concern model, labels, limits and stores, by the same names,
        checked in the same way and described in pipeline/OPTIONS.md: threshold, max_labels,
        min_labels, features, batch_size, chunk_size, precision, precision_receipt, min_agreement,
        backend, jit, canary, require_gpu, require_rebuilt, intra_op_threads, model_card,
        model_size, model_cache, model_sha256,
        max_bytes, max_pixels, fetch_deadline_sec, memory_budget, loader_threads, loader_processes,
        decode_deadline_sec, fail_fast_after, user_project, anonymous, s3_endpoint_url,
        s3_region_name, s3_request_payer, allow_private_hosts, requests_per_host, user_agent,
        ignore_robots_tag.

    Attributes:
      config: what the options come to.
      metadata: model, thresholds and versions as text by name, for `WriteLabels`.

    Returns:
      Two PCollections by name, `labels` of LabeledImage and `dead_letters` of DeadLetter; each URI
      that was given ends in exactly one of them, once for each set of carried values.

    Raises:
      TypeError: there is no such option.
      UsageError: a value cannot be used, or (expand) the input is unbounded or in other windows.
      ModelError: the model cannot be fetched, or has another hash.

    Example:
      >>> import apache_beam as beam, lemmabeam as lb
      >>> with beam.Pipeline('FnApiRunner') as pipeline:
      ...     found = pipeline | beam.Create(['photos/cat.jpg']) | lb.LabelImages(top_k=1)
      ...     _ = found.labels | beam.Map(lambda image: print(image.labels[0].name))
      tiger cat
    """

    @takes(LABELLING)
    def __init__(self, model: str = EMBEDDED, *, top_k: int | None = None, **options: Any):
        super().__init__()
        if top_k is not None:
            if {'max_labels', 'min_labels'} & options.keys():
                raise wrong('top_k', top_k, 'short for max_labels and min_labels: leave those out')
            # Checked by its own name.
            k = value_of(dataclasses.replace(option_of('max_labels'), name='top_k'), top_k)
            options |= {'max_labels': k, 'min_labels': k}
        given = {'model': model, **options}
        self.config = configure(type(self).__name__, LABELLING, given)

    @property
    def metadata(self) -> dict[str, str]:
        """What files of these labels are to say of them, as text by name."""
        return self.config.metadata

    # No types: Beam would take the name of the result for that of its elements.
    def expand(self, images: Any) -> Any:
        """See the class."""
        config = self.config
        fails = fail_fast(config.fail_fast_after)
        chunks, listed_dead = images | 'MakeChunks' >> ChunksOf(self.label, config.chunk_size)
        begin = functools.partial(label.load_soon, config.inference, config.make)
        labeled, _ = (
            chunks
            # Pixels live between these two steps only: fused, and never shuffled.
            | 'LoadImages' >> load.LoadImages(config.load, None, fails, begin)
            | 'LabelImages' >> label.LabelImages(config.inference, fails, None, config.make)
        )
        found = labeled | 'MakeRows' >> beam.ParDo(
            _RowsDoFn(config.inference.model.vocabulary)
        ).with_output_types(LabeledImage, dead=DeadLetter).with_outputs('dead', main='labels')
        bad = listed_dead | 'BadUris' >> beam.Map(dead_letter).with_output_types(DeadLetter)
        dead = (found.dead, bad) | 'AllDeadLetters' >> beam.Flatten()
        return Labeled(found.labels, dead)
