"""The command line of `lemmabeam label`, validated into one frozen config."""

import argparse
import dataclasses
import datetime
import difflib
import re
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from pipeline.html_report import add_thumbnail_argument
from transforms import dead_letters, gone, listing, outcomes, uris, write
from transforms.decode import PixelLimits
from transforms.errors import UsageError
from transforms.faults import FailFast
from transforms.history import HistoryFile
from transforms.layout import SCHEMA_VERSION, Layout
from transforms.listing import Columns, Input, Listing
from transforms.loading.options import DECODE_DEADLINE_SEC, LoadOptions
from transforms.model import canary
from transforms.model.card import ModelCard
from transforms.model.checkpoint import Architecture
from transforms.model.download.http import Progress
from transforms.model.predictor import AUTO, PRECISIONS, InferenceOptions, check_precision
from transforms.model.registry import EMBEDDED
from transforms.model.sources import ModelSource, printable_location, resolve_model
from transforms.preflight import Preflight
from transforms.process import cpu_count
from transforms.rows import FetchLimits
from transforms.storage import StoreOptions
from transforms.versions import library_versions
from transforms.work import RUN_ID

_MIB = 2**20
_UNITS = {'': 1, 'B': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9}
_UNITS |= {'KIB': 2**10, 'MIB': 2**20, 'GIB': 2**30}
_BASELINE_JPEG_FACTOR = 4
_ROWS_PER_FILE = 1_000_000
_FEATURES_PER_FILE_BYTES = 256 * _MIB
_USUAL_FEATURES = 2048
_ENDPOINT = re.compile(r'https?://[^/?#@\s]+(/[^?#@\s]*)?')
_AGE = re.compile(r'(\d{1,6})([mhdw])')
_AGE_SEC = {'m': 60, 'h': 3600, 'd': 86400, 'w': 7 * 86400}
_PRISM_JOB_SEC = 366 * 86400
_COLUMN = re.compile(r'[^\W\d]\w*')


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything the graph needs to know.

    Attributes:
      command: 'label', or 'retry' of an earlier run's dead letters.
      listing: what is listed.
      inputs: the inputs as the report has them.
      max_images: refuse more images than this, or None.
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
    """

    command: str
    listing: Listing
    inputs: tuple[dict[str, str], ...]
    max_images: int | None
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

    @property
    def is_part(self) -> bool:
        """Whether only a part of the inputs is listed, so that nobody can tell what is gone."""
        listing = self.listing
        return self.command == 'retry' or listing.sample is not None or listing.since is not None

    def as_run(self, run_id: str, sequence: int, history: Sequence[HistoryFile]) -> 'RunConfig':
        """The same as another run of its output; known only when nobody else writes there."""
        layout = dataclasses.replace(self.layout, run_id=run_id)
        # An account that has labelled here before can read, and a picture costs money to read.
        inputs = () if history else self.preflight.inputs
        return dataclasses.replace(
            self,
            layout=layout,
            preflight=self.preflight._replace(layout=layout, inputs=inputs),
            fail_fast=self.fail_fast._replace(run_id=run_id),
            options={**self.options, 'run_id': run_id},
            sequence=sequence,
            history=tuple(history),
        )


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
            Input(stores=stores, **source) for source in self.inputs if source['kind'] == 'manifest'
        )


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `lemmabeam label`, with defaults and units in their help."""
    what = parser.add_argument_group('what to label')
    what.add_argument(
        '--input',
        action='append',
        metavar='X',
        help='a folder or prefix, a glob with * and **, a manifest (.txt, .csv, .jsonl, each also '
        '.gz, or .parquet) or an image; local, gs:// or s3://, in manifests also http(s)://; '
        'may be repeated',
    )
    what.add_argument(
        '--uri_column',
        default='uri',
        metavar='NAME',
        help='column of a manifest that holds the URIs (default: uri)',
    )
    what.add_argument(
        '--carry',
        type=_names,
        default=(),
        metavar='A,B',
        help='columns of the manifests to carry along into the output, as text',
    )
    what.add_argument(
        '--sample',
        type=positive,
        metavar='N',
        help='label only N images, chosen by a hash of their URIs: always the same ones',
    )
    what.add_argument(
        '--max_images',
        type=positive,
        metavar='N',
        help='refuse to start inference when there are more than N distinct images',
    )

    what.add_argument(
        '--since',
        metavar='TIME',
        help='leave out objects last written before: a time as 2026-11-24 or 2026-11-24T01:02:03Z '
        '(UTC), or an age as 36h or 7d; not for manifests, which tell no times (default: all)',
    )
    what.add_argument(
        '--retry_dead',
        action='store_true',
        help='try again what an earlier run could not label and never will as it is: by default '
        'it counts as unchanged as long as the object is the same version',
    )
    what.add_argument(
        '--force',
        action='store_true',
        help='label everything again, whatever earlier runs have labelled, also with another '
        'floor, --max_labels or activation than theirs',
    )

    where = parser.add_argument_group('where to write')
    where.add_argument('--output', metavar='DIR', help='a folder, local, gs:// or s3://')
    where.add_argument(
        '--partition_by',
        type=_names,
        default=(),
        metavar='A,B',
        help='carried columns that become folders, outermost first; they are carried implicitly',
    )
    where.add_argument(
        '--rows_per_file',
        type=positive,
        metavar='N',
        help='rows a Parquet file, about, at most; a partition has 1, 2, 4, 8, ... files (default: '
        '1000000; with --features so many that they have 256 MiB of them)',
    )
    where.add_argument(
        '--run_id',
        metavar='ID',
        help='name of this run, starting with a letter; the same id again goes on with an '
        'incomplete run (default: that of an incomplete run with the same options and model, or '
        'the UTC time and four random hex digits)',
    )
    where.add_argument(
        '--relist',
        action='store_true',
        help='list the inputs anew when an incomplete run is gone on with (default: it keeps the '
        'listing it was begun with)',
    )
    add_thumbnail_argument(where)
    add_lease_arguments(where)

    add_store_arguments(parser)
    add_model_arguments(parser)
    model = parser.add_argument_group('labels and inference')
    model.add_argument(
        '--threshold',
        type=_share,
        metavar='SCORE',
        help='a class whose score reaches it is a label, 0 to 1 (default: from the model card; '
        '0.1 for the ImageNet-21k heads, 0.05 for those of ILSVRC-2012)',
    )
    model.add_argument(
        '--keep_above',
        type=_share,
        metavar='SCORE',
        help='store the classes from this score on, below the threshold, so that `lemmabeam '
        'relabel` can lower it later without the model; --max_labels holds for them as well '
        '(default: the threshold)',
    )
    model.add_argument(
        '--max_labels',
        type=positive,
        metavar='N',
        help='at most N labels an image (default: from the model card; 20 for the ImageNet-21k '
        'heads, 5 for those of ILSVRC-2012)',
    )
    model.add_argument(
        '--min_labels',
        type=_natural,
        default=0,
        metavar='N',
        help='at least N labels an image, below the threshold if need be (default: 0)',
    )
    model.add_argument(
        '--features',
        action='store_true',
        help='write the pooled feature vector of each image beside its labels, as float16',
    )
    model.add_argument(
        '--batch_size',
        type=positive,
        metavar='N',
        help='images a call of the model (default: from the model card, which has one number for '
        'CPUs and with --require_gpu another one)',
    )
    model.add_argument(
        '--chunk_size',
        type=positive,
        default=1024,
        metavar='N',
        help='images a unit of work, a multiple of the batch size (default: 1024)',
    )
    model.add_argument(
        '--precision',
        choices=PRECISIONS,
        default=AUTO,
        help='type in which the network is computed; normalization and head stay float32 (default: '
        'auto, which is bfloat16 on a GPU and float32 on a CPU)',
    )
    model.add_argument(
        '--jit',
        action='store_true',
        help='compile the network with XLA: a minute more at the start, faster on a GPU',
    )
    model.add_argument(
        '--require_gpu',
        action='store_true',
        help='stop at once where TensorFlow sees no GPU, instead of working on the CPU',
    )
    model.add_argument(
        '--require_rebuilt',
        action='store_true',
        help='stop where a BiT network cannot be built from its weights, instead of using it as it '
        'was saved, which is slower',
    )
    model.add_argument(
        '--intra_op_threads',
        type=positive,
        metavar='N',
        help='threads within one operation of the model; the last bits of scores depend on it '
        '(default: the number of cores)',
    )

    limits = parser.add_argument_group('limits')
    limits.add_argument(
        '--max_bytes',
        type=_size,
        default=64 * _MIB,
        metavar='SIZE',
        help='largest encoded image, in bytes or as 64MiB (default: 64MiB)',
    )
    limits.add_argument(
        '--max_pixels',
        type=positive,
        default=50_000_000,
        metavar='N',
        help='most pixels of an image, from its header; a baseline JPEG may have four times as '
        'many, because it is decoded reduced (default: 50000000)',
    )
    limits.add_argument(
        '--fetch_deadline_sec',
        type=_positive_float,
        default=60.0,
        metavar='SEC',
        help='seconds to fetch one image, retries included (default: 60)',
    )
    limits.add_argument(
        '--memory_budget',
        type=_size,
        default=512 * _MIB,
        metavar='SIZE',
        help='encoded and decoded images in flight in a process (default: 512MiB)',
    )
    limits.add_argument(
        '--loader_threads',
        type=positive,
        default=16,
        metavar='N',
        help='images that each loader process fetches at a time (default: 16)',
    )
    limits.add_argument(
        '--loader_processes',
        type=_natural,
        metavar='N',
        help='processes beside the one of the model that fetch and decode images, each of which '
        'decodes one at a time; 0 does it in threads of that one, where a picture that crashes its '
        'decoder ends the run (default: one a core of the worker)',
    )
    limits.add_argument(
        '--decode_deadline_sec',
        type=_positive_float,
        default=DECODE_DEADLINE_SEC,
        metavar='SEC',
        help='seconds to decode one image, after which its process is killed and the image tried '
        f'once more, alone (default: {DECODE_DEADLINE_SEC:g})',
    )
    limits.add_argument(
        '--fail_fast_after',
        type=_natural,
        default=20,
        metavar='N',
        help='stop when the first N images of a process, or 90 %% of its last 500, fail alike as '
        'they do when permissions, the store or the model are at fault; 0 goes on regardless '
        '(default: 20)',
    )
    limits.add_argument(
        '--max_failure_rate',
        type=_share,
        default=0.05,
        metavar='SHARE',
        help='exit with 3 when a larger share of the listed images has failed (default: 0.05)',
    )


def add_lease_arguments(parser: argparse._ActionsContainer) -> None:
    """Adds the options that say what happens when somebody else writes into the output."""
    parser.add_argument(
        '--wait_for_lease_sec',
        type=_seconds,
        default=0.0,
        metavar='SEC',
        help='seconds to wait for another run that is writing into DIR (default: 0, which stops '
        'with a message)',
    )
    parser.add_argument(
        '--break_lease',
        action='store_true',
        help='start although another run seems to be writing into DIR',
    )


def add_store_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how object stores are reached."""
    stores = parser.add_argument_group('stores')
    stores.add_argument(
        '--user_project',
        metavar='PROJECT',
        help='Google Cloud project that pays for requests to requester-pays buckets (default: '
        'none; such buckets refuse)',
    )
    stores.add_argument(
        '--s3_endpoint_url',
        metavar='URL',
        help="where S3 is (default: $AWS_ENDPOINT_URL_S3, the profile, or Amazon's)",
    )
    stores.add_argument(
        '--s3_region_name',
        metavar='REGION',
        help='region of S3 (default: $AWS_REGION, the profile, or us-east-1); that of a bucket '
        'elsewhere is asked for',
    )
    stores.add_argument(
        '--allow_private_hosts',
        action='store_true',
        help='let http(s) URLs of manifests lead to addresses that are not public (this machine, '
        'its network), by name, number or redirect; only for manifests you trust. Addresses where '
        'clouds hand out credentials stay closed (default: public addresses only)',
    )


def store_options(args: argparse.Namespace) -> StoreOptions:
    """What the options of `add_store_arguments` say.

    Raises:
      UsageError: a value cannot be used.
    """
    endpoint = args.s3_endpoint_url
    if endpoint is not None and not _ENDPOINT.fullmatch(endpoint):
        raise UsageError(
            f'--s3_endpoint_url {uris.printable(endpoint)!r}: expected http(s)://host[:port][/path]'
        )
    return StoreOptions(args.user_project, endpoint, args.s3_region_name, args.allow_private_hosts)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which model is meant."""
    model = parser.add_argument_group('model')
    model.add_argument(
        '--model',
        default=EMBEDDED,
        metavar='M',
        help=f'a name (`lemmabeam models` lists them), a TF-Hub or Kaggle handle, '
        'hf://owner/name, a URL, a SavedModel as a folder, .tar.gz or .zip, or weights of a BiT as '
        f'.npz, .h5 or .safetensors, local or gs:// (default: {EMBEDDED}, an EfficientNet-Lite0 '
        'with the 1,000 classes of ILSVRC-2012)',
    )
    model.add_argument(
        '--model_card',
        metavar='CARD',
        help='for a model that brings no model_card.json: a file, or the name of the model '
        'that it is a copy of',
    )
    model.add_argument(
        '--model_size',
        type=positive,
        metavar='PX',
        help='side of the square that images are resized to, in pixels (default: from the model '
        'card, which `lemmabeam models` shows); what is cropped scales with it',
    )
    model.add_argument(
        '--model_cache',
        metavar='DIR',
        help='where downloaded models are kept on each machine (default: $TFHUB_CACHE_DIR, or '
        '~/.cache/lemmabeam/models)',
    )
    model.add_argument(
        '--model_sha256',
        metavar='HEX',
        help='refuse a model whose weights have another hash; each run prints the one it used',
    )
    model.add_argument(
        '--canary',
        choices=canary.MODES,
        help='what each worker asks of the model before it labels anything. strict: it must see '
        'what its card says in known pictures; finite: its scores must be finite, in range and not '
        'the same for two pictures; off: nothing (default: strict where the card says what must '
        'be seen, else finite)',
    )


def parse_label_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, PipelineOptions]:
    """Splits the command line into our options and Beam's.

    Raises:
      UsageError: an option is neither ours nor Beam's, or one of Beam's for S3.
    """
    args, rest = parser.parse_known_args(argv)
    beam_parser = make_beam_parser()
    try:
        beam_args, unknown = beam_parser.parse_known_args(rest)
    except argparse.ArgumentError as e:
        raise UsageError(str(e)) from e
    if unknown:
        flags = [flag for p in (parser, beam_parser) for flag in p._option_string_actions]
        near = difflib.get_close_matches(unknown[0].partition('=')[0], flags, 1)
        hint = f'; did you mean {near[0]}?' if near else ''
        raise UsageError(f'unknown option {unknown[0]!r}{hint}')
    for name, value in vars(beam_args).items():
        if name.startswith('s3_') and value:
            # Beam would put the keys into the description of the job, for all to read.
            raise UsageError(
                f'--{name} is not read: keys come from the environment (AWS_ACCESS_KEY_ID, '
                'AWS_PROFILE) or the role of the machine, other settings from ~/.aws/config; '
                '--s3_endpoint_url and --s3_region_name say where S3 is'
            )
    for flag, value in (('--input', args.input), ('--output', args.output)):
        if value is None:  # after the unknown ones: one of those may be meant for it
            raise UsageError(f'{flag} is missing; {parser.prog} --help tells more')
    given = {flag.partition('=')[0] for flag in rest}
    runner = _runner_name(beam_args.runner)
    rest = [*rest, f'--runner={runner}']  # the last one counts
    # DirectRunner takes Prism where it can.  Beam's help says that the limit is not one for jobs,
    # but it waits for the end of a job on Prism by a call that has it, 300 s if nothing is said.
    is_prism = runner in ('PrismRunner', 'DirectRunner')
    if is_prism and not given & {'--job_server_timeout', '--job-server-timeout'}:
        rest = [*rest, f'--job_server_timeout={_PRISM_JOB_SEC}']
    return args, PipelineOptions(rest)


def _runner_name(given: str | None) -> str:
    """The name of a runner as its class has it; Beam takes it in any case, 'Runner' left out."""
    if given is None:
        # Plain DirectRunner picks another engine depending on whether a download works.
        return 'FnApiRunner'
    module, _, name = given.rpartition('.')
    known = {each.lower(): each for each in StandardOptions.KNOWN_RUNNER_NAMES}
    if module and not module.startswith('apache_beam'):
        return given
    return known.get(name.lower()) or known.get(f'{name.lower()}runner') or given


def make_beam_parser() -> argparse.ArgumentParser:
    """Knows the options of Beam and its runners, and no others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for group in _option_classes(PipelineOptions):
        group._add_argparse_args(parser)
    return parser


def _option_classes(base: type[PipelineOptions]) -> list[type[PipelineOptions]]:
    return [each for child in base.__subclasses__() for each in (child, *_option_classes(child))]


def find_model(args: argparse.Namespace, on_progress: Progress | None = None) -> ModelSource:
    """The model that the options of `add_model_arguments` mean, fetched if need be.

    Raises:
      UsageError: there is no such model, or its card cannot be used.
      ModelError: it cannot be fetched, or has another hash.
    """
    return resolve_model(
        args.model,
        card=args.model_card,
        size_px=args.model_size,
        cache=args.model_cache,
        sha256=args.model_sha256,
        on_progress=on_progress,
    )


def make_config(
    args: argparse.Namespace,
    now: datetime.datetime,
    on_progress: Progress | None = None,
    retried: Retried | None = None,
) -> RunConfig:
    """Validates the options as a whole, fetches the model and resolves the inputs.

    Args:
      args: of `add_label_arguments`.
      now: UTC.
      on_progress: told of downloads.
      retried: label its dead letters instead of --input.

    Raises:
      UsageError: a value cannot be used; names the flag, the value and what to do.
      ModelError: the model cannot be fetched, or has another hash.
      ManifestError: an input is a broken manifest.
      StoreError: a store cannot be reached.
    """
    model = find_model(args, on_progress)
    card = model.card
    batch_size = args.batch_size or (card.gpu_batch_size if args.require_gpu else card.batch_size)
    if args.chunk_size % batch_size:
        raise UsageError(
            f'--chunk_size {args.chunk_size} is not a multiple of the batch size {batch_size}'
        )
    max_labels = _max_labels(args, model)
    if args.min_labels > max_labels:
        raise UsageError(f'--min_labels {args.min_labels} is above --max_labels {max_labels}')
    has_features = args.features or not card.has_classes
    check_precision(args.precision, model)
    canary_mode = args.canary or canary.default_mode(card)
    canary.check_mode(canary_mode, model)
    columns = _columns(args)
    stores = store_options(args)
    if uris.scheme_of(args.output) in ('http', 'https'):
        raise UsageError(f'--output {uris.printable(args.output)}: http(s) is not written to')
    layout = Layout(
        output=uris.absolute(args.output).rstrip('/'),
        run_id=make_run_id(args.run_id, now),
        model_id=model.id,
        carry=columns.carry,
        partition_by=columns.partition_by,
        rows_per_file=args.rows_per_file or _rows_per_file(model, has_features),
        stores=stores,
        attempt=secrets.token_hex(4),
    )
    _ = layout.store  # a scheme that cannot be written is found first
    if retried is None:
        inputs = tuple(listing.resolve(value, columns, stores) for value in args.input)
        for source in inputs:
            check_apart(source, '--output', layout.output)
        listed = Listing(inputs, columns, args.sample, _since(args.since, now, inputs))
        described = tuple(
            {'kind': source.kind, 'uri': source.uri, 'pattern': source.pattern} for source in inputs
        )
    else:
        described = retried.inputs
        listed = Listing((retried.dead_letters,), columns, originals=retried.manifests(stores))
    threshold = card.threshold if args.threshold is None else args.threshold
    floor = threshold if args.keep_above is None else args.keep_above
    if floor > threshold:
        raise UsageError(f'--keep_above {floor:g} is above the threshold {threshold:g}')
    inference = InferenceOptions(
        model=model,
        batch_size=batch_size,
        threshold=floor,
        max_labels=max_labels,
        min_labels=args.min_labels,
        intra_op_threads=args.intra_op_threads or cpu_count(),
        precision=args.precision,
        jit=args.jit,
        canary=canary_mode,
        require_gpu=args.require_gpu,
        features=has_features,
        require_rebuilt=args.require_rebuilt,
    )
    load = LoadOptions(
        resize=card.resize,
        batch_size=batch_size,
        fetch=FetchLimits(args.max_bytes, args.fetch_deadline_sec),
        pixels=PixelLimits(args.max_pixels, _BASELINE_JPEG_FACTOR * args.max_pixels),
        memory_budget_bytes=args.memory_budget,
        threads=args.loader_threads,
        stores=stores,
        processes=args.loader_processes,
        decode_deadline_sec=args.decode_deadline_sec,
    )
    versions = library_versions()
    return RunConfig(
        command='label' if retried is None else 'retry',
        listing=listed,
        inputs=described,
        max_images=args.max_images,
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
        metadata=_metadata(inference, threshold, versions),
        options={
            **vars(args),
            **inference._asdict(),
            'threshold': threshold,
            'keep_above': floor,
            'model': printable_location(args.model),
            'rows_per_file': layout.rows_per_file,
            'run_id': layout.run_id,
        },
        versions=versions,
        started_at=now,
        max_failure_rate=args.max_failure_rate,
    )


def _since(text: str | None, now: datetime.datetime, inputs: Sequence[Input]) -> float | None:
    """Seconds since 1970."""
    if text is None:
        return None
    for source in inputs:
        if source.kind == 'manifest':
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
        return _ROWS_PER_FILE
    length = model.card.architecture and Architecture.parse(model.card.architecture).features
    return min(_ROWS_PER_FILE, _FEATURES_PER_FILE_BYTES // (2 * (length or _USUAL_FEATURES)))


def _max_labels(args: argparse.Namespace, model: ModelSource) -> int:
    classes = len(model.vocabulary)
    if args.max_labels is None:
        return min(model.card.max_labels, classes)
    if args.max_labels > classes:
        raise UsageError(
            f'--max_labels {args.max_labels}: {model.card.name} has only {classes} classes'
        )
    return int(args.max_labels)


def describe_preprocessing(card: ModelCard) -> str:
    """How an image becomes what the model takes, in one line."""
    resize = card.resize
    crop = (
        'squashed'
        if resize.short_side_px is None
        else f'short side to {resize.short_side_px}, centre crop'
    )
    mean, std = (
        f'{value:g}' if isinstance(value, float) else f'({", ".join(f"{x:g}" for x in value)})'
        for value in (card.mean, card.std)
    )
    return (
        f'{resize.size_px} x {resize.size_px} px, {crop}, {resize.filter}, {card.channels}, '
        f'(x - {mean}) / {std}'
    )


def _metadata(
    inference: InferenceOptions, threshold: float, versions: dict[str, str]
) -> dict[str, str]:
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
        'jit': str(inference.jit).lower(),
        'canary': inference.canary,
        'batch_size': str(inference.batch_size),
        'intra_op_threads': str(inference.intra_op_threads),
        **{f'version.{name}': version for name, version in sorted(versions.items())},
    }


def _columns(args: argparse.Namespace) -> Columns:
    carry = tuple(dict.fromkeys((*args.carry, *args.partition_by)))
    taken = {'model', 'run', outcomes.FEATURES, gone.COLUMN}
    taken |= {name.lower() for name in write.prediction_schema((), {}).names}
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
    return Columns(args.uri_column, carry, tuple(args.partition_by))


def make_run_id(given: str | None, now: datetime.datetime) -> str:
    """The value of --run_id, or one made of the time and four random hex digits.

    Raises:
      UsageError: readers would not take it for a text.
    """
    if given is None:
        return f'{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}'
    if not RUN_ID.fullmatch(given):
        raise UsageError(
            f'--run_id {given!r}: a letter first, then at most 99 letters, digits, ".", "_" or '
            '"-"; readers take digits or a date alone for a number'
        )
    return given


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


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(','))
    if not all(names):
        raise argparse.ArgumentTypeError(f'{text!r}: expected column names separated by commas')
    return names


def _natural(text: str) -> int:
    if not re.fullmatch(r'\d{1,18}', text):
        raise argparse.ArgumentTypeError(f'{text!r}: expected a whole number, 0 or more')
    return int(text)


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    if not re.fullmatch(r'\d{1,18}', text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f'{text!r}: expected a whole number, 1 or more')
    return int(text)


def _positive_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f'{text!r}: expected seconds, above 0')
    return value


def _seconds(text: str) -> float:
    return 0.0 if re.fullmatch(r'0+(\.0*)?', text) else _positive_float(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text!r}: expected a number from 0 to 1')
    return value


def _size(text: str) -> int:
    match = re.fullmatch(r'(\d{1,15})\s*([A-Za-z]*)', text)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(
            f'{text!r}: expected bytes, or a number with KB, MB, GB, KiB, MiB or GiB'
        )
    return int(match[1]) * unit
