"""What a run is given, and why, for people: `lemmabeam label --explain`."""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.config import RunConfig
from pipeline.messages import Messages
from pipeline.options import LabelOptions
from transforms.model import registry
from transforms.model.choices import BACKEND_NAMES, ONNX_RUNTIME
from transforms.model.download.cache import default_cache
from transforms.model.download.fetch import fetch_model
from transforms.model.resolve import ModelSource
from transforms.model.runtimes.choose import only_backend

MODEL_COPIES = 3
"""Times the size of a model that it takes while it loads: R101x3, 2.1 GB, peaked at 7.55 in all."""

_GB = 10**9
# Measured: with Beam and the embedded model in one process; the latter in ONNX.
_STARTED_GB, _STARTED_ONNX_GB = 1.2, 0.8
_LOADER_GB = 0.09
_BESIDE = 'fetch and decode beside the process of the model'


class Setting(NamedTuple):
    """One option of the job.

    Attributes:
      option: as on the command line, such as '--num_workers=4'.
      why: where it comes from.
    """

    option: str
    why: str


def describe(config: RunConfig, cores: int) -> list[Setting]:
    """How the model is called, whatever the engine.

    Args:
      config: of the run.
      cores: of a worker.
    """
    inference = config.inference
    return [
        Setting(f'--model={config.options["model"]}', f'it is {config.layout.model_id}'),
        Setting(f'--batch_size={inference.batch_size}', 'images a call of the model'),
        Setting(f'--chunk_size={config.chunk_size}', 'images a unit of work, kept when finished'),
        Setting(f'--precision={inference.precision}', 'auto: bfloat16 on a GPU, else float32'),
        Setting(f'--backend={inference.backend}', _backend(inference.model)),
        Setting(f'--intra_op_threads={inference.intra_op_threads}', 'threads of one call'),
        _loaders(config.load.processes),
        _memory(config, cores),
    ]


def _backend(model: ModelSource) -> str:
    only = only_backend(model)
    if only:
        return f'auto: {BACKEND_NAMES[only]}, which alone computes the {model.kind.value}'
    return 'auto: TensorFlow, or JAX on a GPU newer than it'


def _memory(config: RunConfig, cores: int) -> Setting:
    load, inference = config.load, config.inference
    loaders = cores if load.processes is None else load.processes
    is_onnx = only_backend(inference.model) == ONNX_RUNTIME
    started = ('ONNX Runtime', _STARTED_ONNX_GB) if is_onnx else ('TensorFlow', _STARTED_GB)
    parts = {
        f'{started[0]} and Beam': started[1],
        '--memory_budget and batches ahead': 1.25 * load.memory_budget_bytes / _GB,
        f'{loaders} loader processes at rest': loaders * _LOADER_GB,
        f'{MODEL_COPIES} times the model': MODEL_COPIES * model_bytes(inference.model) / _GB,
    }
    why = ', '.join(f'{name} {gb:.1f}' for name, gb in parts.items() if gb)
    return Setting(f'memory of a worker process: about {sum(parts.values()):.1f} GB', why)


def model_bytes(model: ModelSource) -> int:
    """What a model takes on disk, in bytes; 0 for the one that comes with the package.

    Raises:
      ModelError: it cannot be fetched.
    """
    if model.is_packaged:
        return 0
    found = fetch_model(model.location, model.cache or default_cache())
    files = [found] if found.is_file() else found.rglob('*')
    return sum(path.stat().st_size for path in files if path.is_file())


def not_looked_at(args: LabelOptions, what: str, why: str) -> list[Setting]:
    """What is known without the model or the inputs.

    Args:
      args: of `lemmabeam label`.
      what: which of them was not looked at.
      why: the reason.
    """
    known = registry.find_model(args.model)
    card = known.card if known else None
    batch_size = args.batch_size
    if card is not None and batch_size is None:
        batch_size = card.gpu_batch_size if args.require_gpu else card.batch_size
    return [
        Setting(what, f'not looked at: {why}'),
        *([Setting(f'--batch_size={batch_size}', 'images a call of the model')] * bool(batch_size)),
        Setting(f'--chunk_size={args.chunk_size}', 'images a unit of work, kept when finished'),
        _loaders(args.loader_processes),
    ]


def _loaders(processes: int | None) -> Setting:
    if processes is None:
        return Setting('one loader process a core', f'{_BESIDE}; 45 to 90 MB each at rest')
    if processes:
        return Setting(f'--loader_processes={processes}', _BESIDE)
    return Setting('--loader_processes=0', 'images are fetched and decoded beside the model')


def print_settings(title: str, settings: Sequence[Setting], messages: Messages) -> None:
    """Prints what the run is given, a line each."""
    messages.say(f'{title}:')
    width = min(60, max(len(setting.option) for setting in settings))
    for setting in settings:
        messages.say(f'  {setting.option:<{width}}  {setting.why}')
    messages.result({'title': title, 'settings': [each._asdict() for each in settings]})
