"""The command line of `lemmabeam label`, validated into one frozen config."""

import argparse
import datetime
import math
import re
import secrets
from typing import TYPE_CHECKING

from transforms.core import uris
from transforms.core.errors import UsageError
from transforms.model.card import ModelCard
from transforms.model.choices import AUTO, CANARY_MODES, PRECISIONS
from transforms.model.registry import EMBEDDED
from transforms.runs.in_progress import RUN_ID
from transforms.storage.base import StoreOptions

if TYPE_CHECKING:
    from transforms.model.download.http import Progress
    from transforms.model.resolve import ModelSource

MAX_THUMBNAILS = 200
DEFAULT_THUMBNAILS = 24

_MIB = 2**20
_UNITS = {'': 1, 'B': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9}
_UNITS |= {'KIB': 2**10, 'MIB': 2**20, 'GIB': 2**30}
_ENDPOINT = re.compile(r'https?://[^/?#@\s]+(/[^?#@\s]*)?')


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `lemmabeam label`, with defaults and units in their help."""
    what = parser.add_argument_group('what to label')
    what.add_argument(
        '--input',
        action='append',
        metavar='X',
        help='a folder or prefix, a glob with *, ** and {a,b}, a manifest (.txt, .csv, .tsv, '
        '.jsonl, .ndjson, .json with an object a line, each also .gz, or .parquet), a glob of '
        "manifests as 'list/*.parquet', or an image; local, gs:// or s3://, in manifests also "
        'http(s)://; may be repeated',
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
        help='refuse inputs of more than N distinct images, not counting unchanged ones, before '
        'any inference; listing ends as soon as it is known (default: any number)',
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

    what.add_argument(
        '--allow_empty',
        action='store_true',
        help='make a run of nothing where an input lists nothing at all, and exit with 0 (default: '
        'exit with 2, as it is mostly a misspelt name)',
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
        help='seconds to fetch one image, retries included (default: 60); the next name of a '
        'listing, or line of a manifest, may take 120 at least',
    )
    limits.add_argument(
        '--memory_budget',
        type=_size,
        default=512 * _MIB,
        metavar='SIZE',
        help='encoded and decoded images in flight in a process, at least --max_bytes (default: '
        '512MiB)',
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
        default=60.0,
        metavar='SEC',
        help='seconds to decode one image, after which its process is killed and the image tried '
        'once more, alone (default: 60)',
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


def add_thumbnail_argument(parser: argparse._ActionsContainer) -> None:
    """Adds `--report_thumbnails`."""
    parser.add_argument(
        '--report_thumbnails',
        type=thumbnail_count,
        default=DEFAULT_THUMBNAILS,
        metavar='N',
        help='pictures in each section of report.html (of a local output), read again from where '
        f'they lie, http(s) ones too; 0 reads none, {MAX_THUMBNAILS} is the most (default: '
        f'{DEFAULT_THUMBNAILS})',
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
        '--s3_request_payer',
        action='store_true',
        help='pay for requests to requester-pays buckets of S3 (default: do not; such buckets '
        'refuse)',
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
    return StoreOptions(
        args.user_project,
        endpoint,
        args.s3_region_name,
        args.allow_private_hosts,
        args.s3_request_payer,
    )


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
        'card, which `lemmabeam models` shows); what is cropped scales with it; efficientnetv2-* '
        'take no other',
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
        choices=CANARY_MODES,
        help='what each worker asks of the model before it labels anything. strict: it must see '
        'what its card says in known pictures; finite: its scores must be finite, in range and not '
        'the same for two pictures; off: nothing (default: strict where the card says what must '
        'be seen, else finite)',
    )


def find_model(args: argparse.Namespace, on_progress: 'Progress | None' = None) -> 'ModelSource':
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
            f'--run_id {given!r}: a letter first, then at most 99 letters, digits, ".", "_" or '
            '"-"; readers take digits or a date alone for a number'
        )
    return given


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


def thumbnail_count(text: str) -> int:
    """A number of thumbnails, for argparse."""
    if not text.isdecimal() or not text.isascii() or int(text[:9]) > MAX_THUMBNAILS:
        raise argparse.ArgumentTypeError(
            f'{text!r}: expected a whole number from 0 to {MAX_THUMBNAILS}'
        )
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


def number_not_negative(text: str) -> float:
    """A number from 0 on, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r}: expected a number, 0 or more')
    return value


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
            f'{text!r}: expected bytes above 0, or a number with KB, MB, GB, KiB, MiB or GiB'
        )
    return int(match[1]) * unit
