"""The whole graph on one screen."""

import apache_beam as beam

from pipeline.options import RunConfig
from pipeline.report import RunReport
from transforms import outcomes
from transforms.chunks import DropDuplicates, MakeChunks
from transforms.dead_letters import WriteDeadLetters
from transforms.label import LabelImages
from transforms.listing import ReadRefs
from transforms.load import LoadImages
from transforms.rows import DeadLetter
from transforms.write import WritePredictions


def build(root: beam.Pipeline, config: RunConfig) -> None:
    """Adds the labelling of every listed image to a pipeline.

    Args:
      root: an empty pipeline.
      config: what to label, how, and where to write it.
    """
    refs, skipped = root | 'ReadRefs' >> ReadRefs(config.inputs, config.columns, config.sample)
    listed = refs | 'CountListed' >> beam.combiners.Count.Globally()
    items, listed_dead, duplicates = refs | 'DropDuplicates' >> DropDuplicates()

    # Pixels live between these two steps only: fused, and never shuffled.
    batches = (
        items
        | 'MakeChunks' >> MakeChunks(config.chunk_size, config.max_images)
        | 'LoadImages' >> LoadImages(config.load, config.preflight, config.fail_fast)
    )
    finished, stats = batches | 'LabelImages' >> LabelImages(config.inference, config.fail_fast)

    # Only the workers know in what precision, and on what, they computed.
    computed = (
        finished
        | 'HowComputed' >> beam.FlatMap(outcomes.computed).with_output_types(str)
        | 'EachOnce' >> beam.Distinct()
    )
    labeled_files, labeled, top_labels = (
        finished,
        items,
        computed,
    ) | 'WritePredictions' >> WritePredictions(
        config.layout, config.inference.model.vocabulary, config.metadata
    )
    failed = finished | 'TakeFailures' >> beam.FlatMap(
        lambda chunk: outcomes.dead_letters(outcomes.from_ipc(chunk))
    ).with_output_types(DeadLetter)
    dead_files, dead = (
        ((listed_dead, failed) | 'AllDeadLetters' >> beam.Flatten()),
        listed,
        computed,
    ) | 'WriteDeadLetters' >> WriteDeadLetters(config.layout, config.metadata)

    counts = (
        (listed | 'Listed' >> beam.Map(lambda n: ('listed', n))),
        skipped,
        duplicates,
        labeled,
        dead,
    ) | 'AllCounts' >> beam.Flatten()
    files = (labeled_files, dead_files) | 'AllFiles' >> beam.Flatten()
    _ = (files, counts, stats, top_labels, computed) | 'RunReport' >> RunReport(config)
