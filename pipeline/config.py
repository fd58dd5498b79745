"""What a run is, as a whole: options validated together, the model found, the inputs resolved."""

import dataclasses
import datetime
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.options import (
    LabelOptions,
    describe_preprocessing,
    find_model,
    make_run_id,
    store_options,
)
from transforms.core import uris
from transforms.core.elements import MANIFESTS
from transforms.core.errors import StoreError, UsageError
from transforms.core.fail_fast import FailFast
from transforms.core.limits import PixelLimits
from transforms.core.resources import cpu_count
from transforms.core.stores import StoreOptions
from transforms.core.versions import library_versions
from transforms.core.waiting import LEAST_DEADLINE_SEC, within
from transforms.loading.options import LoadOptions
from transforms.model import batch_size, canary, registry
from transforms.model.card import ModelCard
from transforms.model.choices import AUTO
from transforms.model.download.cache import default_cache
from transforms.model.download.http import Progress
from transforms.model.predictor import InferenceOptions, MakeModel, check_precision
from transforms.model.resolve import ModelSource, printable_location
from transforms.model.runtimes.choose import check_backend
from transforms.output import dead_letters, predictions, run_metadata
from transforms.output.history_file import HistoryFile
from transforms.output.layout import FOLDERS, SCHEMA_VERSION, Layout
from transforms.sources import resolve
from transforms.sources.inputs import Columns, Input, Kind, Listing, TooMany
from transforms.sources.preflight import Preflight
from transforms.storage.base import FetchLimits
from transforms.storage.registry import lacks_credentials, settle_anonymity, store_for

_BASELINE_JPEG_FACTOR = 4
ROWS_PER_FILE = 1_000_000
_FEATURES_PER_FILE_BYTES = 256 * 2**20
_USUAL_FEATURES = 2048
_AGE = re.compile(r'(\d{1,6})([mhdw])')
_AGE_SEC = {'m': 60, 'h': 3600, 'd': 86400, 'w': 7 * 86400}
_COLUMN = re.compile(r'[^\W\d]\w*')


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything the graph needs to know.

    Attributes:
      command: 'label', or 'retry' of an earlier run's dead letters.
      listing: what is listed.
      inputs: the inputs as the report has them.
      max_images: refuse more images than this, or None.
      is_reused: whether one image is labelled for all that have its bytes, by the listing.
      chunk_size: images a chunk.
      load: how images are loaded.
      preflight: what launcher and workers try first.
      fail_fast: when failing images stop the run.
      inference: the model, and how it is called.
      layout: where results go.
      metadata: key-value metadata of the Parquet files.
      options: the options as given or defaulted, for the report.
      versions: library versions, for the report.
      started_at: when the launcher started, UTC.
      max_failure_rate: the share of failed images above which the run exits with 3.
      sequence: the place of the run among those of its output, from 1.
      history: what tells which images an earlier run has dealt with.
      accelerator: resource hint of the steps that load and label, or ''.
      notes: what people are told of how it reads.
    """

    command: str
    listing: Listing
    inputs: tuple[dict[str, str], ...]
    max_images: int | None
    is_reused: bool
    chunk_size: int
    load: LoadOptions
    preflight: Preflight
    fail_fast: FailFast
    inference: InferenceOptions
    layout: Layout
    metadata: dict[str, str]
    options: dict[str, Any]
    versions: dict[str, str]
    started_at: datetime.datetime
    max_failure_rate: float
    sequence: int = 1
    history: tuple[HistoryFile, ...] = ()
    accelerator: str = ''
    notes: tuple[str, ...] = ()

    @property
    def is_part(self) -> bool:
        """Whether only a part of the inputs is listed, so that nobody can tell what is gone."""
        listing = self.listing
        return self.command == 'retry' or listing.sample is not None or listing.since is not None

    def as_run(self, run_id: str, sequence: int, history: Sequence[HistoryFile]) -> 'RunConfig':
        """The same as another run of its output; known only when nobody else writes there."""
        layout = dataclasses.replace(self.layout, run_id=run_id)
        # An account that has labelled here before can read, and a picture costs money to read.
        has_labelled = any(not file.is_hint for file in history)
        inputs = () if has_labelled else self.preflight.inputs
        known = sum(file.rows for file in history if not file.is_hint)
        most = None if self.max_images is None else TooMany(self.max_images, known)
        return dataclasses.replace(
            self,
            layout=layout,
            listing=self.listing._replace(most=most),
            preflight=self.preflight._replace(layout=layout, inputs=inputs),
            fail_fast=self.fail_fast._replace(run_id=run_id),
            options={**self.options, 'run_id': run_id},
            sequence=sequence,
            history=tuple(history),
        )


class StepConfig(NamedTuple):
    """What options come to for a step in the pipeline of others.

    Attributes:
      load: how images are loaded.
      inference: the model, and how it is called.
      chunk_size: images a unit of work.
      fail_fast_after: so many that fail alike stop the pipeline.
      metadata: what Parquet files say of labels that come to be so.
      make: what makes the model, by default `transforms.model.predictor.Predictor`.
    """

    load: LoadOptions
    inference: InferenceOptions
    chunk_size: int
    fail_fast_after: int
    metadata: dict[str, str]
    make: MakeModel | None = None


class Retried(NamedTuple):
    """A run whose dead letters are tried again.

    Attributes:
      dead_letters: where they lie, and which are wanted.
      inputs: the inputs of that run as its report has them.
    """

    dead_letters: Input
    inputs: tuple[dict[str, str], ...]

    def manifests(self, stores: StoreOptions) -> tuple[Input, ...]:
        """The manifests among its inputs: they may hold URLs that were written nowhere else."""
        return tuple(
            Input(Kind(source['kind']), source['uri'], source['pattern'], stores)
            for source in self.inputs
            if source['kind'] in MANIFESTS
        )


def make_config(
    args: LabelOptions,
    now: datetime.datetime,
    on_progress: Progress | None = None,
    retried: Retried | None = None,
    measure: batch_size.Measure | None = batch_size.measure_apart,
) -> RunConfig:
    """Validates the options as a whole, fetches the model and resolves the inputs.

    Args:
      args: of the command.
      now: UTC.
      on_progress: told of downloads.
      retried: label its dead letters instead of --input.
      measure: finds the batch size where that is left to it; None to measure nothing.

    Raises:
      UsageError: a value cannot be used; names the flag, the value and what to do.
      ModelError: the model cannot be fetched, or has another hash.
      ManifestError: an input is a broken manifest.
      StoreError: a store cannot be reached.
    """
    model = find_model(args, on_progress)
    inference, threshold = _measured(args, model, measure)
    columns = columns_of(args)
    load = load_options(args, inference)
    read = (
        map(_absolute, args.input) if retried is None else (each['uri'] for each in retried.inputs)
    )
    stores, notes = settle_anonymity(read, load.stores)
    load = load._replace(stores=stores)
    deadline_sec = max(args.fetch_deadline_sec, LEAST_DEADLINE_SEC)
    layout = _layout(args, inference, columns, now, deadline_sec)
    if retried is None:
        listed, described = _listing(args, layout, columns, now, load)
    else:
        described = retried.inputs
        originals = retried.manifests(stores)
        listed = Listing((retried.dead_letters,), columns, originals=originals)
    versions = library_versions()
    return RunConfig(
        command='label' if retried is None else 'retry',
        listing=listed,
        inputs=described,
        max_images=args.max_images,
        is_reused=not args.no_reuse and any(each.may_tell_bytes for each in listed.inputs),
        chunk_size=args.chunk_size,
        load=load,
        # Who wants to go on whatever fails wants to start, too.
        preflight=Preflight(
            listed.inputs if args.fail_fast_after and retried is None else (),
            columns,
            load.fetch,
            layout,
        ),
        fail_fast=FailFast(args.fail_fast_after, layout.run_id),
        inference=inference,
        layout=layout,
        metadata=file_metadata(inference, threshold, versions),
        options={
            **dataclasses.asdict(args),
            **inference._asdict(),
            'threshold': threshold,
            'keep_above': inference.threshold,
            'model': printable_location(args.model),
            'rows_per_file': layout.rows_per_file,
            'run_id': layout.run_id,
        },
        versions=versions,
        started_at=now,
        max_failure_rate=args.max_failure_rate,
        notes=tuple(notes),
    )


def step_config(args: LabelOptions, has_chunks: bool) -> StepConfig:
    """Validates the options of a step as a whole, and fetches the model.

    Args:
      args: as of the command.
      has_chunks: whether it cuts chunks into batches itself.

    Raises:
      UsageError: a value cannot be used.
      ModelError: the model cannot be fetched, or has another hash.
    """
    if args.batch_size == AUTO:
        raise UsageError(
            '--batch_size auto: a step does not know where its pipeline will run; give a number'
        )
    inference, threshold = inference_options(args, find_model(args))
    if has_chunks:
        check_chunks(args, inference)
    return StepConfig(
        load_options(args, inference),
        inference,
        args.chunk_size,
        args.fail_fast_after,
        file_metadata(inference, threshold, library_versions()),
    )


def inference_options(args: LabelOptions, model: ModelSource) -> tuple[InferenceOptions, float]:
    """How the model is called, and the score from which on a class is a label.

    Raises:
      UsageError: a value does not fit the model, or another one.
      ModelError: the model cannot be computed in this precision, or by this backend.
    """
    card = model.card
    max_labels = _max_labels(args, model)
    if args.min_labels > max_labels:
        raise UsageError(f'--min_labels {args.min_labels} is above --max_labels {max_labels}')
    check_backend(args.backend, model, args.jit)
    check_precision(args.precision, model)
    canary_mode = args.canary or canary.default_mode(card)
    canary.check_mode(canary_mode, model)
    threshold = card.threshold if args.threshold is None else args.threshold
    floor = threshold if args.keep_above is None else args.keep_above
    if floor > threshold:
        raise UsageError(f'--keep_above {floor:g} is above the threshold {threshold:g}')
    inference = InferenceOptions(
        model=model,
        batch_size=batch_size_of(args, card),
        threshold=floor,
        max_labels=max_labels,
        min_labels=args.min_labels,
        intra_op_threads=args.intra_op_threads or cpu_count(),
        precision=args.precision,
        jit=args.jit,
        canary=canary_mode,
        require_gpu=args.require_gpu,
        features=args.features or not card.has_classes,
        require_rebuilt=args.require_rebuilt,
        accelerators=args.accelerators_per_worker,
        backend=args.backend,
        precision_receipt=args.precision_receipt,
        min_agreement=args.min_agreement,
    )
    return inference, threshold


def batch_size_of(args: LabelOptions, card: ModelCard) -> int:
    """The number that was given, or that of the model card; 'auto' may find another one."""
    if isinstance(args.batch_size, int):
        return args.batch_size
    return card.gpu_batch_size if args.require_gpu else card.batch_size


def _measured(
    args: LabelOptions, model: ModelSource, measure: batch_size.Measure | None
) -> tuple[InferenceOptions, float]:
    """`inference_options`, with the batch size that was measured where that is asked for."""
    inference, threshold = inference_options(args, model)
    if args.batch_size == AUTO:
        cache = Path(args.model_cache) if args.model_cache else default_cache()
        sizes = batch_size.sizes_for(args.chunk_size)
        found = batch_size.find(inference, sizes, cache, measure)
        inference = inference._replace(batch_size=found)
    check_chunks(args, inference)
    return inference, threshold


def check_chunks(args: LabelOptions, inference: InferenceOptions) -> None:
    """Refuses chunks that batches do not fill.

    Raises:
      UsageError: that.
    """
    size = inference.batch_size
    if args.chunk_size % size:
        multiple = -(-args.chunk_size // size) * size
        raise UsageError(
            f'--chunk_size {args.chunk_size} is not a multiple of the batch size {size}; '
            f'{multiple} is the next one'
        )


def load_options(args: LabelOptions, inference: InferenceOptions) -> LoadOptions:
    """How images are loaded.

    Raises:
      UsageError: a single image may take more memory than there is for all.
    """
    if args.memory_budget < args.max_bytes:
        raise UsageError(
            f'--memory_budget {args.memory_budget} is below --max_bytes {args.max_bytes}: a single '
            'image may take more; raise it, or lower --max_bytes'
        )
    return LoadOptions(
        resize=inference.model.card.resize,
        batch_size=inference.batch_size,
        fetch=FetchLimits(args.max_bytes, args.fetch_deadline_sec),
        pixels=PixelLimits(args.max_pixels, _BASELINE_JPEG_FACTOR * args.max_pixels),
        memory_budget_bytes=args.memory_budget,
        threads=args.loader_threads,
        stores=store_options(args),
        processes=args.loader_processes,
        decode_deadline_sec=args.decode_deadline_sec,
        image_column=args.image_column or '',
    )


def _layout(
    args: LabelOptions,
    inference: InferenceOptions,
    columns: Columns,
    now: datetime.datetime,
    deadline_sec: float,
) -> Layout:
    """Where the run is written: a place that can be, by its name and by what is there."""
    if what := uris.read_only(args.output):
        raise UsageError(f'--output {uris.printable(args.output)}: {what} is not written to')
    model = inference.model
    layout = Layout(
        output=_output(args.output),
        run_id=make_run_id(args.run_id, now),
        model_id=model.id,
        carry=columns.carry,
        partition_by=columns.partition_by,
        rows_per_file=args.rows_per_file or _rows_per_file(model, inference.features),
        stores=store_options(args).for_output(),
        deadline_sec=deadline_sec,
        attempt=secrets.token_hex(4),
    )
    # In a bucket an object and a prefix may have one name.
    shown = f'--output {uris.printable(args.output)}'
    # A scheme that cannot be written is found here.
    if why := lacks_credentials(store_for(layout.output, layout.stores)):
        raise StoreError(f'{shown}: {why}')
    there = within(deadline_sec, shown, lambda: layout.store.stat(layout.output))
    if layout.is_local and there is not None:
        raise UsageError(f'{shown}: a file; expected a folder')
    return layout


def _listing(
    args: LabelOptions,
    layout: Layout,
    columns: Columns,
    now: datetime.datetime,
    load: LoadOptions,
) -> tuple[Listing, tuple[dict[str, str], ...]]:
    """What is listed, and the inputs as the report has them."""
    deadline_sec = max(load.fetch.deadline_sec, LEAST_DEADLINE_SEC)
    inputs = tuple(
        resolve.resolve(value, columns, load.stores, deadline_sec) for value in args.input
    )
    for source in inputs:
        check_apart(source, '--output', layout.output)
        _check_no_output(source, layout.output)
    described = tuple(
        {'kind': source.kind, 'uri': source.uri, 'pattern': source.pattern} for source in inputs
    )
    return Listing(inputs, columns, args.sample, _since(args.since, now, inputs)), described


def _absolute(value: str) -> str:
    """Of an --input; '' if it is none, of which more is said where it is resolved."""
    try:
        return uris.absolute(value)
    except UsageError:
        return ''


def _output(value: str) -> str:
    if not value:
        raise UsageError("--output '': expected a folder")  # an unset shell variable
    return uris.absolute(value).rstrip('/')


def _since(text: str | None, now: datetime.datetime, inputs: Sequence[Input]) -> float | None:
    """Seconds since 1970."""
    if text is None:
        return None
    for source in inputs:
        if source.kind in MANIFESTS:
            raise UsageError(
                f'--since {text}: --input {source.uri} is a manifest, and tells no times; leave it '
                'out: what has not changed is not read again anyway'
            )
    match = _AGE.fullmatch(text)
    if match:
        return now.timestamp() - int(match[1]) * _AGE_SEC[match[2]]
    try:
        then = datetime.datetime.fromisoformat(text)
    except ValueError as e:
        raise UsageError(
            f'--since {text!r}: expected a time as 2026-11-24 or 2026-11-24T01:02:03Z, or an age '
            'as 36h or 7d'
        ) from e
    return (then if then.tzinfo else then.replace(tzinfo=datetime.UTC)).timestamp()


def _rows_per_file(model: ModelSource, has_features: bool) -> int:
    """A file is put together in memory, where a million feature vectors would not fit."""
    if not has_features:
        return ROWS_PER_FILE
    length = model.card.architecture and registry.features_of(model.card.architecture)
    return min(ROWS_PER_FILE, _FEATURES_PER_FILE_BYTES // (2 * (length or _USUAL_FEATURES)))


def _max_labels(args: LabelOptions, model: ModelSource) -> int:
    classes = len(model.vocabulary)
    if args.max_labels is None:
        return min(model.card.max_labels, classes)
    if args.max_labels > classes:
        raise UsageError(
            f'--max_labels {args.max_labels}: {model.card.name} has only {classes} classes'
        )
    return args.max_labels


def file_metadata(
    inference: InferenceOptions, threshold: float, versions: dict[str, str]
) -> dict[str, str]:
    """What Parquet files say of how their labels came to be, as text by name."""
    model = inference.model
    return {
        'schema_version': str(SCHEMA_VERSION),
        'model_id': model.id,
        'model_fingerprint': model.fingerprint,
        'model_weights_sha256': model.weights_sha256,
        'preprocessing': describe_preprocessing(model.card),
        'activation': model.card.activation.value,
        'stored_floor': str(inference.threshold),
        'threshold': str(threshold),
        'max_labels': str(inference.max_labels),
        'min_labels': str(inference.min_labels),
        'vocabulary': model.vocabulary.name,
        'vocabulary_sha256': model.vocabulary.sha256,
        'precision': inference.precision,
        'backend': inference.backend,
        'jit': str(inference.jit).lower(),
        'canary': inference.canary,
        'batch_size': str(inference.batch_size),
        'intra_op_threads': str(inference.intra_op_threads),
        **{f'version.{name}': version for name, version in sorted(versions.items())},
    }


def columns_of(args: LabelOptions) -> Columns:
    """Which columns are read, and what becomes of them.

    Raises:
      UsageError: a name cannot be used in the output.
    """
    carry = tuple(dict.fromkeys((*args.carry, *args.partition_by)))
    taken = {
        'model',
        'run',
        run_metadata.FEATURES,
        predictions.GONE_SINCE,
        predictions.STORED_SCORES,
    }
    taken |= {name.lower() for name in predictions.prediction_schema((), {}).names}
    taken |= {name.lower() for name in dead_letters.dead_letter_schema((), {}).names}
    for column in carry:
        flag = '--partition_by' if column in args.partition_by else '--carry'
        if column.lower() in taken:
            raise UsageError(f'{flag} {column!r}: the output has a column of this name of its own')
        taken.add(column.lower())
    for column in args.partition_by:
        if not _COLUMN.fullmatch(column):
            raise UsageError(
                f'--partition_by {column!r}: a folder column is named by letters, digits and _'
            )
    return Columns(args.uri_column, carry, tuple(args.partition_by), args.image_column or '')


def _check_no_output(source: Input, output: str) -> None:
    """Refuses to label what is written: some of it is there only while the run goes on."""
    for name in FOLDERS:
        folder = uris.join(output, name)
        if source.kind in ('folder', 'glob') and f'{source.uri}/'.startswith(f'{folder}/'):
            raise UsageError(
                f'--input {source.pattern or source.uri} lies inside {folder} of the --output: '
                'choose another folder for one of them'
            )


def check_apart(source: Input, flag: str, folder: str) -> None:
    """Refuses to write into a folder that an input would list the next time.

    Raises:
      UsageError: the folder lies inside it.
    """
    reaches = source.kind == 'folder' or '**' in source.pattern
    if reaches and f'{folder}/'.startswith(f'{source.uri.rstrip("/")}/'):
        raise UsageError(
            f'{flag} {folder} lies inside --input {source.pattern or source.uri}: choose a '
            'folder beside it'
        )
