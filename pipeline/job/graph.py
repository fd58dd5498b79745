"""The whole graph on one screen."""

import functools

import apache_beam as beam

from pipeline.config import RunConfig
from pipeline.job.finish import FinishRun
from transforms.chunks import DropDone, MakeChunks
from transforms.dead_letters import WriteDeadLetters
from transforms.history import ReadHistory
from transforms.label import LabelImages, load_soon
from transforms.load import LoadImages
from transforms.read import ReadRefs
from transforms.resume import TakeFinished
from transforms.split import CountShards, SplitChunks
from transforms.write import WritePredictions


def build(root: beam.Pipeline, config: RunConfig) -> None:
    """Adds the labelling of every listed image to a pipeline.

    Args:
      root: an empty pipeline.
      config: what to label, how, and where to write it.
    """
    layout = config.layout
    refs, access, skipped = root | 'ReadRefs' >> ReadRefs(config.listing, layout)
    listed = refs | 'CountListed' >> beam.combiners.Count.Globally()
    known = root | 'ReadHistory' >> ReadHistory(config.history, layout)
    items, listed_dead, notes, merged = {
        'refs': refs,
        'known': known,
        'access': access,
    } | 'DropDone' >> DropDone(config.is_part)

    make = MakeChunks(config.chunk_size, config.max_images, config.is_reused)
    chunks = items | 'MakeChunks' >> make
    to_do, resumed, resumed_stats = chunks | 'TakeFinished' >> TakeFinished(layout)
    # Pixels live between these two steps only: fused, and never shuffled.
    when_begun = functools.partial(load_soon, config.inference)
    load = LoadImages(config.load, config.preflight, config.fail_fast, when_begun)
    label = LabelImages(config.inference, config.fail_fast, layout)
    if config.accelerator:  # the same for both: steps with different hints are not fused
        load = load.with_resource_hints(accelerator=config.accelerator)
        label = label.with_resource_hints(accelerator=config.accelerator)
    batches = to_do | 'LoadImages' >> load
    labeled_now, label_stats = batches | 'LabelImages' >> label
    finished = (resumed, labeled_now) | 'AllChunks' >> beam.Flatten()

    shards = items | 'CountShards' >> CountShards(layout)
    rows, failed, unchanged, computed = (finished, shards) | 'SplitChunks' >> SplitChunks(layout)
    labeled_files, labeled, top_labels = (
        rows,
        shards,
        computed,
    ) | 'WritePredictions' >> WritePredictions(
        layout, config.inference.model.vocabulary, config.metadata
    )
    # All that is listed may fail, and what is gone comes on top.
    most = (
        (listed, notes | 'OneEach' >> beam.Map(lambda _: 1).with_output_types(int))
        | 'ListedAndNotes' >> beam.Flatten()
        | 'CountMost' >> beam.CombineGlobally(sum).with_input_types(int).with_output_types(int)
    )
    dead_files, dead = (
        ((listed_dead, failed, notes) | 'AllDeadLetters' >> beam.Flatten()),
        most,
        computed,
    ) | 'WriteDeadLetters' >> WriteDeadLetters(layout, config.metadata)

    counts = (
        (listed | 'Listed' >> beam.Map(lambda n: ('listed', n))),
        skipped,
        merged,
        unchanged,
        labeled,
        dead,
    ) | 'AllCounts' >> beam.Flatten()
    stats = (resumed_stats, label_stats) | 'AllStats' >> beam.Flatten()
    files = (labeled_files, dead_files) | 'AllFiles' >> beam.Flatten()
    _ = (files, counts, stats, top_labels, computed) | 'RunReport' >> FinishRun(config)
