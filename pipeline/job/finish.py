"""The books of a run, its publication and its report: the last step of the graph itself."""

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam

from pipeline.config import RunConfig
from pipeline.report.bottleneck import make_verdict
from transforms.core.elements import WrittenFile
from transforms.core.left_out import NOT_IMAGE, suffixes_of
from transforms.dataset.latest_sql import write_latest_sql
from transforms.model.receipt import of_statistics
from transforms.model.resolve import printable_location
from transforms.output import predictions, results
from transforms.runs import lease
from transforms.runs.publish import clean_up, publish
from transforms.runs.report import Computed, Counts, PublishedFile, RunModel, RunReport, TopLabel

_DEAD = 'dead_lettered/'


def make_report(
    config: RunConfig,
    files: Iterable[WrittenFile],
    counts: Mapping[str, int],
    stats: Mapping[str, float],
    top_labels: Iterable[tuple[str, int]],
    computed: Sequence[str],
    publish_sec: float,
    finished_at: datetime.datetime,
) -> RunReport:
    """The report of a run.

    Args:
      config: the run.
      files: what it wrote.
      counts: 'listed', 'labeled', 'without_label', 'reused', 'duplicates', 'unchanged', 'gone',
        'dead_lettered/<reason>' and why files were left out.
      stats: thread-seconds by activity ('fetch_sec', …), 'batches', 'filled_slots',
        'resumed_labeled', images that an earlier attempt has labelled, 'damaged_chunks', which
        were finished and had to be worked again, and receipts, see `transforms.model.receipt`.
      top_labels: how often each name is the first label of an image.
      computed: how the model computed, one JSON object for each way.
      publish_sec: seconds the publication took.
      finished_at: UTC.
    """
    files = sorted(files)
    stats = {**stats, 'write_sec': publish_sec + sum(file.write_sec for file in files)}
    wall_sec = (finished_at - config.started_at).total_seconds()
    resumed = int(stats.get('resumed_labeled', 0.0))
    batches = stats.get('batches', 0.0)
    slots = batches * config.load.batch_size
    common = sorted(top_labels, key=lambda label: (-label[1], label[0]))[: predictions.TOP_LABELS]
    books = _books(config, counts)
    return RunReport(
        run_id=config.layout.run_id,
        sequence=config.sequence,
        command=config.command,
        balanced=books.listed == books.ended,
        counts=books,
        skipped_suffixes=suffixes_of(counts),
        started_at=config.started_at.isoformat(),
        finished_at=finished_at.isoformat(),
        wall_sec=round(wall_sec, 3),
        images_per_sec=images_per_sec(books.labeled - resumed, wall_sec),
        labeled_by_earlier_attempts=resumed,
        damaged_chunks=int(stats.get('damaged_chunks', 0.0)),
        receipt=of_statistics(stats),
        stage_thread_sec={
            key.removesuffix('_sec'): round(seconds, 3)
            for key, seconds in sorted(stats.items())
            if key.endswith('_sec')
        },
        verdict=make_verdict(stats, wall_sec),
        batches=int(batches),
        batch_fill=round(stats.get('filled_slots', 0.0) / slots, 4) if slots else None,
        top_labels=tuple(TopLabel(name, n) for name, n in common),
        inputs=config.inputs,
        options=config.options,
        model=_model(config, computed),
        metadata=results.with_computed(config.metadata, computed),
        versions=config.versions,
        files=tuple(PublishedFile.of(file) for file in files),
    )


def _books(config: RunConfig, counts: Mapping[str, int]) -> Counts:
    has_classes = config.inference.model.card.has_classes
    dead = {
        key.removeprefix(_DEAD): n for key, n in sorted(counts.items()) if key.startswith(_DEAD)
    }
    return Counts(
        listed=counts.get('listed', 0),
        labeled=counts.get('labeled', 0),
        without_label=counts.get(predictions.WITHOUT_LABEL, 0) if has_classes else None,
        reused=counts.get('reused', 0),
        duplicates=counts.get('duplicates', 0),
        unchanged=counts.get('unchanged', 0),
        dead_lettered=sum(dead.values()),
        dead_lettered_by_reason=dead,
        # With --force, what earlier runs have labelled is not read.
        gone=None if config.is_part or config.options['force'] else counts.get('gone', 0),
        skipped_not_image=sum(n for key, n in counts.items() if key.partition('/')[0] == NOT_IMAGE),
        skipped_before_since=counts.get('skipped_before_since', 0),
    )


def _model(config: RunConfig, computed: Sequence[str]) -> RunModel:
    model = config.inference.model
    return RunModel(
        id=model.id,
        location=printable_location(model.location),
        kind=model.kind.value,
        passed_over=tuple(model.passed_over),
        weights_sha256=model.weights_sha256,
        fingerprint=model.fingerprint,
        card=model.card.to_dict(),
        vocabulary=model.vocabulary.file_name,
        computed=tuple(Computed(json.loads(way)) for way in sorted(computed)),
    )


def images_per_sec(images: int, wall_sec: float) -> float | None:
    """A rate; None where nothing was done, or no time has passed."""
    return round(images / wall_sec, 3) if images and wall_sec > 0 else None


class _ReportDoFn(beam.DoFn):
    def __init__(self, config: RunConfig):
        self._config = config

    def process(
        self,
        _: None,
        files: Sequence[WrittenFile],
        counts: Mapping[str, int],
        stats: Mapping[str, float],
        top_labels: Sequence[tuple[str, int]],
        computed: Sequence[str],
    ) -> Iterable[Any]:
        layout = self._config.layout

        def make(publish_sec: float) -> RunReport:
            now = datetime.datetime.now(datetime.UTC)
            return make_report(
                self._config, files, counts, stats, top_labels, computed, publish_sec, now
            )

        publish(layout, make, self._config.inference.model.vocabulary)
        write_latest_sql(layout.output, layout.store)
        clean_up(layout)
        lease.release_handed_over(layout)
        # Nothing, of a type that is said: Beam looks for that of None in all that is called here.
        return ()


class FinishRun(beam.PTransform):
    """Publishes the run and writes its report, once everything else is done.

    Expands (PCollection[WrittenFile], PCollection[tuple[str, int]] of counts,
    PCollection[tuple[str, float]] of statistics, PCollection[tuple[str, int]] of first labels,
    PCollection[str] of how the model computed).

    Raises (when run):
      BooksError: the counts do not balance; the report is written nonetheless.
    """

    def __init__(self, config: RunConfig):
        super().__init__()
        self._config = config

    def expand(
        self,
        inputs: tuple[
            beam.PCollection[WrittenFile],
            beam.PCollection[tuple[str, int]],
            beam.PCollection[tuple[str, float]],
            beam.PCollection[tuple[str, int]],
            beam.PCollection[str],
        ],
    ) -> beam.PCollection[None]:
        files, counts, stats, top_labels, computed = inputs
        sums = counts | 'SumCounts' >> beam.CombinePerKey(sum)
        seconds = stats | 'SumStats' >> beam.CombinePerKey(sum)
        labels = top_labels | 'SumLabels' >> beam.CombinePerKey(sum)
        return (
            files.pipeline
            | 'Once' >> beam.Create([None], reshuffle=False)
            | 'Publish'
            >> beam.ParDo(
                _ReportDoFn(self._config),
                beam.pvalue.AsList(files),
                beam.pvalue.AsDict(sums),
                beam.pvalue.AsDict(seconds),
                beam.pvalue.AsList(labels),
                beam.pvalue.AsList(computed),
            )
        )
