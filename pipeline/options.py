"""The options of `lemmabeam label`, each declared once, and what some of them mean together."""

import argparse
import dataclasses
import datetime
import re
import secrets
from typing import TYPE_CHECKING, Self

from pipeline import flags
from pipeline.flags import MAX_THUMBNAILS, Option, add_options, declared, option
from transforms.core import uris
from transforms.core.errors import UsageError
from transforms.core.stores import AzureOptions, GcsOptions, HttpOptions, S3Options, StoreOptions
from transforms.model.card import ModelCard
from transforms.model.choices import AUTO, BACKENDS, CANARY_MODES, EMBEDDED, PRECISIONS
from transforms.output.layout import RUN_ID

if TYPE_CHECKING:
    from transforms.model.download.http import Progress
    from transforms.model.resolve import ModelSource

DEFAULT_THUMBNAILS = 24

_MIB = 2**20
_WHAT = 'what to label'
_WHERE = 'where to write'
_STORES = 'stores'
_MODEL = 'model'
_LABELS = 'labels and inference'
_LIMITS = 'limits'
_DATAFLOW = 'where it runs (--runner=DataflowRunner)'
_GENERAL = ''

_ENDPOINT = re.compile(r'https?://[^/?#@\s]+(/[^?#@\s]*)?')
_SOURCE = r'\s*(gs|s3)://[^/\s][^\n]*'
_INPUTS = flags.Type(None, 'TEXT', rf'{_SOURCE}(\n{_SOURCE})*\s*')
_OUTPUT = flags.Type(None, 'GCS_WRITE_FOLDER', r'gs://[^/\s][^\n]*')
_SINCE = flags.Type(None, 'TEXT', r'[0-9]{1,6}[mhdw]|[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:.+Z-]+)?')
_RUN_NAME = flags.Type(None, 'TEXT', RUN_ID.pattern)
_URL = flags.Type(None, 'TEXT', _ENDPOINT.pattern)
_SHA256 = flags.Type(None, 'TEXT', r'[0-9a-f]{64}')
_GPU = flags.Type(None, 'TEXT', r'[a-z][a-z0-9-]*')


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """The options of `lemmabeam label`, in the order of its `--help`.

    From here come its parser, what a resumed run must have in common with the interrupted one, what
    a retry takes over, the parameters of the Flex Template and pipeline/OPTIONS.md.  What is None
    depends on something else: model card, machine or listing.
    """

    input: tuple[str, ...] = option(
        _WHAT,
        _INPUTS,
        is_required=True,
        is_repeated=True,
        metavar='X',
        help='a folder or prefix, a glob with *, ** and {a,b}, a manifest (.txt, .csv, .tsv, '
        '.jsonl, .ndjson, .json with one object per line, each also .gz, or .parquet), a '
        "glob of manifests such as 'list/*.parquet', a file with images inside (.tar, .tar.gz, "
        '.tgz, .zip, .parquet, .arrow, .feather, .tfrecord) or a glob of them, an inventory (the '
        'manifest.json of S3 Inventory or of a Storage Insights report), or an image; local, '
        'gs://, s3://, az:// or hf://datasets, in manifests also http(s)://; may be repeated',
        per_run=True,
        is_common=True,
    )
    uri_column: str = option(
        _WHAT,
        flags.TEXT,
        default='uri',
        metavar='NAME',
        help='column of a manifest that holds the URIs (default: uri)',
    )
    image_column: str | None = option(
        _WHAT,
        flags.TEXT,
        metavar='NAME',
        help='column of a Parquet, Arrow or Feather file, or feature of a TFRecord, that holds '
        'pictures (default: the only one that can)',
    )
    carry: tuple[str, ...] = option(
        _WHAT,
        flags.NAMES,
        default=(),
        metavar='A,B',
        help='columns of manifests and tables, or files beside an image in an archive (cls, '
        'json.caption), to carry into the output, as text',
        is_common=True,
    )
    sample: int | None = option(
        _WHAT,
        flags.POSITIVE,
        metavar='N',
        help='label only N images, chosen by a hash of their URIs, so always the same ones',
        per_run=True,
        is_common=True,
    )
    max_images: int | None = option(
        _WHAT,
        flags.POSITIVE,
        metavar='N',
        help='refuse inputs of more than N distinct images, not counting unchanged ones, '
        'before any inference; listing stops as soon as there are more (default: no limit)',
        decides_rows=False,
        per_run=True,
    )
    since: str | None = option(
        _WHAT,
        _SINCE,
        metavar='TIME',
        help='leave out objects last written before a time, such as 2026-11-24 or '
        '2026-11-24T01:02:03Z (UTC), or longer ago than an age, such as 36h or 7d; not '
        'for manifests, which have no times (default: leave out none)',
        per_run=True,
    )
    retry_dead: bool = option(
        _WHAT,
        flags.SWITCH,
        default=False,
        help='try again images that failed for good in an earlier run; by default they count as '
        'unchanged until the object changes',
        per_run=True,
    )
    force: bool = option(
        _WHAT,
        flags.SWITCH,
        default=False,
        help='label everything again, whatever earlier runs have labelled, even if their '
        'stored floor, --max_labels or activation differ',
        per_run=True,
    )
    allow_empty: bool = option(
        _WHAT,
        flags.SWITCH,
        default=False,
        help='run even if an input is empty, and exit with 0 (default: exit with 2, as an '
        'empty input is usually a misspelt name)',
        decides_rows=False,
        per_run=True,
    )
    output: str = option(
        _WHERE,
        _OUTPUT,
        is_required=True,
        metavar='DIR',
        help='a folder, local, gs://, s3:// or az://',
        decides_rows=False,
        per_run=True,
        is_common=True,
    )
    partition_by: tuple[str, ...] = option(
        _WHERE,
        flags.NAMES,
        default=(),
        metavar='A,B',
        help='carried columns that become folders, outermost first; they are carried implicitly',
        is_common=True,
    )
    rows_per_file: int | None = option(
        _WHERE,
        flags.POSITIVE,
        metavar='N',
        help='approximate rows per Parquet file, at most; a partition has 1, 2, 4, 8, ... '
        'files (default: 1000000; with --features, as many as have 256 MiB of features)',
    )
    run_id: str | None = option(
        _WHERE,
        _RUN_NAME,
        metavar='ID',
        help='name of this run, starting with a letter; the id of an incomplete run resumes it '
        '(default: that of an incomplete run with the same options and model, or the UTC '
        'time and four random hex digits)',
        decides_rows=False,
        per_run=True,
        is_common=True,
    )
    relist: bool = option(
        _WHERE,
        flags.SWITCH,
        default=False,
        help='list the inputs again when an incomplete run is resumed (default: keep the '
        'snapshot it started with)',
        decides_rows=False,
        per_run=True,
    )
    report_thumbnails: int = option(
        _WHERE,
        flags.THUMBNAILS,
        default=DEFAULT_THUMBNAILS,
        metavar='N',
        help='pictures in each section of report.html (of a local output), read again from '
        f'their source, also from http(s); 0 reads none, at most {MAX_THUMBNAILS} '
        f'(default: {DEFAULT_THUMBNAILS})',
        decides_rows=False,
    )
    wait_for_lease_sec: float = option(
        _WHERE,
        flags.SECONDS_OR_0,
        default=0.0,
        metavar='SEC',
        help='seconds to wait for another run that is writing to DIR (default: 0, which stops '
        'with a message)',
        decides_rows=False,
        per_run=True,
    )
    break_lease: bool = option(
        _WHERE,
        flags.SWITCH,
        default=False,
        help='start even if another run seems to be writing to DIR',
        decides_rows=False,
        per_run=True,
    )
    user_project: str | None = option(
        _STORES,
        flags.TEXT,
        metavar='PROJECT',
        help='Google Cloud project that pays for requests to requester-pays buckets (default: '
        'none; such buckets deny access)',
        decides_rows=False,
    )
    anonymous: bool = option(
        _STORES,
        flags.SWITCH,
        default=False,
        help='read gs://, s3:// and az:// without credentials, whatever there are (default: only '
        'where there are none); nothing is written so',
        decides_rows=False,
    )
    s3_endpoint_url: str | None = option(
        _STORES,
        _URL,
        metavar='URL',
        help="S3 endpoint (default: $AWS_ENDPOINT_URL_S3, the profile, or Amazon's)",
        decides_rows=False,
    )
    s3_region_name: str | None = option(
        _STORES,
        flags.TEXT,
        metavar='REGION',
        help='S3 region (default: $AWS_REGION, the profile, or us-east-1); that of a bucket '
        'elsewhere is looked up',
        decides_rows=False,
    )
    s3_request_payer: bool = option(
        _STORES,
        flags.SWITCH,
        default=False,
        help='pay for requests to requester-pays buckets of S3 (default: do not; such buckets '
        'deny access)',
        decides_rows=False,
    )
    allow_private_hosts: bool = option(
        _STORES,
        flags.SWITCH,
        default=False,
        help='allow http(s) URLs of manifests to lead to addresses that are not public (this '
        'machine, its network), by name, number or redirect; only for manifests you '
        'trust. Cloud metadata addresses, which give out credentials, stay closed '
        '(default: public addresses only)',
        decides_rows=False,
    )
    requests_per_host: int = option(
        _STORES,
        flags.NATURAL,
        default=HttpOptions().requests_per_host,
        metavar='N',
        help='requests in flight at one host of http(s) URLs, of a worker process and its loader '
        'processes together, so that W workers have up to W times as many; 0 is any number '
        f'(default: {HttpOptions().requests_per_host})',
        decides_rows=False,
    )
    user_agent: str | None = option(
        _STORES,
        flags.HEADER,
        metavar='TEXT',
        help='how http(s) hosts are told who asks: name, version and a contact, such as '
        "'example-labels/1.0 (+https://example.org/bot)' (default: lemmabeam and its version)",
        decides_rows=False,
    )
    ignore_robots_tag: bool = option(
        _STORES,
        flags.SWITCH,
        default=False,
        help='label pictures that come with X-Robots-Tag noai, noimageai, noindex, noimageindex or '
        'none, too; only where you have the right (default: forbidden)',
        decides_rows=False,
    )
    model: str = option(
        _MODEL,
        flags.TEXT,
        default=EMBEDDED,
        metavar='M',
        help='a name (`lemmabeam models` lists them), a TF-Hub or Kaggle handle, '
        'hf://owner/name, a URL, a SavedModel or an ONNX model as a folder, .tar.gz or .zip, or '
        f'BiT weights as .npz, .h5 or .safetensors, local or gs:// (default: {EMBEDDED}, an '
        'EfficientNet-Lite0 with the 1,000 classes of ILSVRC-2012)',
        is_common=True,
    )
    model_card: str | None = option(
        _MODEL,
        flags.TEXT,
        metavar='CARD',
        help='for a model without a model_card.json: a file, or the name of the model that it '
        'is a copy of',
        decides_rows=False,
    )
    model_size: int | None = option(
        _MODEL,
        flags.POSITIVE,
        metavar='PX',
        help='side of the square that images are resized to, in pixels (default: from the '
        'model card, which `lemmabeam models` shows); the crop scales with it; '
        'efficientnetv2-* take no other size',
    )
    model_cache: str | None = option(
        _MODEL,
        flags.TEXT,
        metavar='DIR',
        help='where downloaded models are kept on each machine (default: $TFHUB_CACHE_DIR, or '
        '~/.cache/lemmabeam/models)',
        decides_rows=False,
    )
    model_sha256: str | None = option(
        _MODEL,
        _SHA256,
        metavar='HEX',
        help='refuse a model whose weights have a different hash; each run prints the hash it used',
        decides_rows=False,
    )
    canary: str | None = option(
        _MODEL,
        flags.one_of(CANARY_MODES),
        help='what each worker requires of the model before it labels anything. strict: it '
        'must see in known pictures what its card says; finite: its scores must be '
        'finite, in range and different for two pictures; off: nothing (default: strict '
        'if the card says what must be seen, else finite)',
    )
    threshold: float | None = option(
        _LABELS,
        flags.SHARE,
        metavar='SCORE',
        help='a class whose score reaches this is a label, 0 to 1 (default: from the model '
        'card; 0.1 for the ImageNet-21k heads, 0.05 for those of ILSVRC-2012)',
        is_common=True,
    )
    keep_above: float | None = option(
        _LABELS,
        flags.SHARE,
        metavar='SCORE',
        help='also store classes from this score on, below the threshold, so that `lemmabeam '
        'relabel` can lower it later without the model; --max_labels applies to them as '
        'well (default: the threshold)',
    )
    max_labels: int | None = option(
        _LABELS,
        flags.POSITIVE,
        metavar='N',
        help='at most N labels per image (default: from the model card; 20 for the '
        'ImageNet-21k heads, 5 for those of ILSVRC-2012)',
        is_common=True,
    )
    min_labels: int = option(
        _LABELS,
        flags.NATURAL,
        default=0,
        metavar='N',
        help='at least N labels per image, below the threshold if necessary (default: 0)',
    )
    features: bool = option(
        _LABELS,
        flags.SWITCH,
        default=False,
        help='write the pooled feature vector of each image with its labels, as float16',
    )
    batch_size: int | str | None = option(
        _LABELS,
        flags.POSITIVE_OR_AUTO,
        metavar='N',
        help='images per call of the model (default: from the model card, which has one number '
        'for CPUs and another for GPUs, used with --require_gpu); auto measures on the GPU of this '
        'machine which power of two from 8 to 512 is fastest, once for a card, model, size and '
        'precision',
        is_common=True,
    )
    chunk_size: int = option(
        _LABELS,
        flags.POSITIVE,
        default=1024,
        metavar='N',
        help='images per unit of work, a multiple of the batch size (default: 1024)',
    )
    precision: str = option(
        _LABELS,
        flags.one_of(PRECISIONS),
        default=AUTO,
        help='type in which the network is computed; normalization and head stay float32 (default: '
        'auto, which is bfloat16 on a GPU and float32 on a CPU)',
    )
    precision_receipt: int = option(
        _LABELS,
        flags.NATURAL,
        default=64,
        metavar='N',
        help='with any precision but float32, each worker process computes its first N images in '
        'float32 as well, and the report says how far labels and scores agree; 0 for none '
        '(default: 64)',
        decides_rows=False,
    )
    min_agreement: float = option(
        _LABELS,
        flags.SHARE,
        default=0.9,
        metavar='SHARE',
        help='stop where a smaller share of these images has the same best class as in float32 '
        '(default: 0.9)',
        decides_rows=False,
    )
    backend: str = option(
        _LABELS,
        flags.one_of(BACKENDS),
        default=AUTO,
        help='what computes the network: tensorflow, or jax (of lemmabeam[jax], or '
        'lemmabeam[jax-cuda] for NVIDIA GPUs), which needs a model whose network is built from its '
        'weights, or onnxruntime (of lemmabeam[onnx]) for ONNX models (default: auto, which is '
        'onnxruntime for these, else TensorFlow unless it was built for older GPUs than the one '
        'that is there, and JAX is installed for it)',
    )
    jit: bool = option(
        _LABELS,
        flags.SWITCH,
        default=False,
        help='compile the network with XLA, as JAX does in any case: a minute longer to start, '
        'faster on a GPU',
    )
    require_gpu: bool = option(
        _LABELS,
        flags.SWITCH,
        default=False,
        help='stop at once if the backend sees no GPU, instead of running on the CPU',
        decides_rows=False,
    )
    accelerators_per_worker: int = option(
        _LABELS,
        flags.POSITIVE,
        default=1,
        metavar='N',
        help='GPUs of a machine that each get a model of their own, and the next batch when they '
        'are free (default: 1)',
        decides_rows=False,
    )
    require_rebuilt: bool = option(
        _LABELS,
        flags.SWITCH,
        default=False,
        help='stop if a BiT network cannot be rebuilt from its weights, instead of running it '
        'as it was saved, which is slower',
        decides_rows=False,
    )
    intra_op_threads: int | None = option(
        _LABELS,
        flags.POSITIVE,
        metavar='N',
        help='threads within one operation of the model; the last bits of scores depend on it '
        '(default: the number of cores)',
    )
    no_reuse: bool = option(
        _LABELS,
        flags.SWITCH,
        default=False,
        help='read each image and call the model on it, also where the listing of gs:// or s3:// '
        'shows that its bytes are those of another (default: one for all that have the same)',
    )
    max_bytes: int = option(
        _LIMITS,
        flags.SIZE,
        default=64 * _MIB,
        metavar='SIZE',
        help='largest encoded image, in bytes or as 64MiB (default: 64MiB)',
    )
    max_pixels: int = option(
        _LIMITS,
        flags.POSITIVE,
        default=50_000_000,
        metavar='N',
        help='most pixels of an image, from its header; a baseline JPEG may have four times as '
        'many, because it is decoded at a reduced size (default: 50000000)',
    )
    fetch_deadline_sec: float = option(
        _LIMITS,
        flags.SECONDS,
        default=60.0,
        metavar='SEC',
        help='seconds to fetch one image, including retries (default: 60); the next entry of a '
        'listing, or line of a manifest, may take at least 120',
        decides_rows=False,
    )
    memory_budget: int = option(
        _LIMITS,
        flags.SIZE,
        default=512 * _MIB,
        metavar='SIZE',
        help='encoded and decoded images in flight per process, at least --max_bytes (default: '
        '512MiB)',
        decides_rows=False,
    )
    loader_threads: int = option(
        _LIMITS,
        flags.POSITIVE,
        default=16,
        metavar='N',
        help='images that each loader process fetches at a time (default: 16)',
        decides_rows=False,
    )
    loader_processes: int | None = option(
        _LIMITS,
        flags.NATURAL,
        metavar='N',
        help='processes that fetch and decode images, in addition to the one of the model; '
        'each decodes one at a time; 0 uses threads of that one, where an image that '
        'crashes its decoder ends the run (default: one per core of the worker)',
        decides_rows=False,
    )
    decode_deadline_sec: float = option(
        _LIMITS,
        flags.SECONDS,
        default=60.0,
        metavar='SEC',
        help='seconds to decode one image; after that its process is killed and the image is '
        'tried once more, alone (default: 60)',
        decides_rows=False,
    )
    fail_fast_after: int = option(
        _LIMITS,
        flags.NATURAL,
        default=20,
        metavar='N',
        help='stop when the first N images of a process, or 90 % of its last 500, fail alike, '
        'as they do when permissions, the store or the model are at fault; 0 continues '
        'anyway (default: 20)',
        decides_rows=False,
    )
    max_failure_rate: float = option(
        _LIMITS,
        flags.SHARE,
        default=0.05,
        metavar='SHARE',
        help='exit with 3 if a larger share of the listed images failed (default: 0.05)',
        decides_rows=False,
        is_common=True,
    )
    accelerator: str | None = option(
        _DATAFLOW,
        _GPU,
        metavar='TYPE',
        help='GPU of each worker, such as nvidia-l4 or nvidia-tesla-t4; implies --require_gpu '
        '(default: none, the model runs on CPUs)',
        decides_rows=False,
        per_run=True,
    )
    right_fitting: bool = option(
        _DATAFLOW,
        flags.SWITCH,
        default=False,
        help='GPUs only on the workers that load and label, by resource hints; Dataflow chooses '
        'how many workers of each kind there are (default: every worker has a GPU)',
        decides_rows=False,
        per_run=True,
    )
    images_per_worker: int = option(
        _DATAFLOW,
        flags.POSITIVE,
        default=100_000,
        metavar='N',
        help='start one worker for every N images that are listed and not labelled yet, at '
        'least --num_workers and at most --max_num_workers (default: 100000)',
        decides_rows=False,
        per_run=True,
    )
    no_wait: bool = option(
        _DATAFLOW,
        flags.SWITCH,
        default=False,
        help='return as soon as the job is submitted (default: wait until it ends)',
        decides_rows=False,
        per_run=True,
        in_template=False,
    )
    explain: bool = option(
        _DATAFLOW,
        flags.SWITCH,
        default=False,
        help='print the settings that the run would get, and why, and start nothing',
        decides_rows=False,
        per_run=True,
        in_template=False,
        is_common=True,
    )
    verbose: bool = option(
        _GENERAL,
        flags.SWITCH,
        default=False,
        help="show the runner's own messages, and where an error came from",
        decides_rows=False,
        per_run=True,
        is_common=True,
    )

    @classmethod
    def of(cls, args: argparse.Namespace) -> Self:
        """Those that a parser has found, all that are required among them."""
        found = {field.name: getattr(args, field.name) for field in dataclasses.fields(cls)}
        return cls(**found | {'input': tuple(args.input)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class EveryCommand:
    """The options that every command has."""

    config: str | None = option(
        _GENERAL,
        flags.TEXT,
        metavar='FILE',
        help='options in a local .toml or .json, by their names: threshold = 0.2, force = true, '
        'input = ["a", "b"]. The command line wins, then a table named after the command, such as '
        '[label], then the top level. Paths are relative to the working directory',
        decides_rows=False,
        per_run=True,
        in_template=False,
        is_common=True,
    )
    json: bool = option(
        _GENERAL,
        flags.SWITCH,
        default=False,
        help='print the result on standard output as one JSON document, and all else on standard '
        'error; no document is printed where an error leaves no result',
        decides_rows=False,
        per_run=True,
        in_template=False,
        is_common=True,
    )
    quiet: bool = option(
        _GENERAL,
        flags.SWITCH,
        default=False,
        help='tell errors only (default: results, notes and progress, too)',
        decides_rows=False,
        per_run=True,
        in_template=False,
        is_common=True,
    )
    log_file: str | None = option(
        _GENERAL,
        flags.TEXT,
        metavar='FILE',
        help='append to this local file what is told, also with --quiet, and the log of this '
        'process and of Beam from INFO on, with times in UTC (default: none)',
        decides_rows=False,
        per_run=True,
        in_template=False,
        is_common=True,
    )


OPTIONS = declared(LabelOptions)
STORE_OPTIONS = tuple(each for each in OPTIONS if each.group == _STORES)
FOR_EVERY_COMMAND = declared(EveryCommand)


def add_arguments_of_every_command(parser: argparse.ArgumentParser) -> None:
    """Adds the options that every command has."""
    add_options(parser, FOR_EVERY_COMMAND)


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `lemmabeam label`."""
    add_options(parser, OPTIONS)


def add_store_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how object stores are reached."""
    add_options(parser, STORE_OPTIONS)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which model is meant."""
    add_options(parser, _of_group(_MODEL))


def add_lease_arguments(parser: argparse._ActionsContainer) -> None:
    """Adds the options that say what happens when somebody else writes into the output."""
    for name in ('wait_for_lease_sec', 'break_lease'):
        option_of(name).add_to(parser)


def add_thumbnail_argument(parser: argparse._ActionsContainer) -> None:
    """Adds `--report_thumbnails`."""
    option_of('report_thumbnails').add_to(parser)


def option_of(name: str) -> Option:
    """The option of a name."""
    return next(each for each in OPTIONS if each.name == name)


def _of_group(group: str) -> list[Option]:
    return [each for each in OPTIONS if each.group == group]


def store_options(args: argparse.Namespace | LabelOptions) -> StoreOptions:
    """What the options of `add_store_arguments` say.

    Raises:
      UsageError: a value cannot be used.
    """
    endpoint = args.s3_endpoint_url
    if endpoint is not None and not _ENDPOINT.fullmatch(endpoint):
        raise UsageError(
            f'--s3_endpoint_url {uris.printable(endpoint)!r}: expected http(s)://host[:port][/path]'
        )
    return StoreOptions(
        GcsOptions(args.user_project, args.anonymous),
        S3Options(endpoint, args.s3_region_name, args.s3_request_payer, args.anonymous),
        HttpOptions(
            args.allow_private_hosts,
            args.requests_per_host,
            args.user_agent or '',
            args.ignore_robots_tag,
        ),
        AzureOptions(args.anonymous),
    )


def find_model(
    args: argparse.Namespace | LabelOptions, on_progress: 'Progress | None' = None
) -> 'ModelSource':
    """The model that the options of `add_model_arguments` mean, fetched if need be.

    Raises:
      UsageError: there is no such model, or its card cannot be used.
      ModelError: it cannot be fetched, or has another hash.
    """
    from transforms.model.resolve import resolve_model

    return resolve_model(
        args.model,
        card=args.model_card,
        size_px=args.model_size,
        cache=args.model_cache,
        sha256=args.model_sha256,
        on_progress=on_progress,
    )


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


def make_run_id(given: str | None, now: datetime.datetime) -> str:
    """The value of --run_id, or one made of the time and four random hex digits.

    Raises:
      UsageError: readers would not take it for a text.
    """
    if given is None:
        return f'{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}'
    if not RUN_ID.fullmatch(given):
        raise UsageError(
            f'--run_id {given!r}: expected a letter, then at most 99 letters, digits, ".", "_" '
            'or "-"; readers would take digits or a date alone for a number'
        )
    return given
