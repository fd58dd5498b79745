"""The same job in the words of each tool: which commands do it, and what a user writes for it."""

import ast
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.benchmarks.peers.models import CARD, SAVED_MODEL

ROOT = Path(__file__).parents[3]
SCRIPTS = Path(__file__).with_name('scripts')
_ENGINES = ROOT / '.venvs' / 'peers-engines' / 'bin' / 'python'
_IMG2DATASET = ROOT / '.venvs' / 'peers-img2dataset' / 'bin' / 'img2dataset'

Command = Sequence[str | Path | int]


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to label with.

    Attributes:
      name: of ours.
      title: for people.
      batch_size: images a call where a tool has no opinion: what is fastest on a CPU.
      arguments: how `lemmabeam label` is told of it; `{}` is the folder of the SavedModel.
    """

    name: str
    title: str
    batch_size: int
    arguments: tuple[str, ...] = ()


EMBEDDED = Model('embedded', 'EfficientNet-Lite0, 1,000 classes', 32)
R50X1 = Model(
    'bit-m-r50x1',
    'BiT R50x1 with synthetic weights, 21,843 classes',
    8,
    ('--model', '{}', '--model_card', 'bit-m-r50x1', '--canary', 'finite'),
)


@dataclasses.dataclass(frozen=True)
class Job:
    """One tool at work.

    Attributes:
      title: for people.
      command: of the input, a new output, and for labelling the model and the folder it is in.
      script: what a user writes; None where a command line says it all.
      decodes_as_ours: whether it decodes and resizes with Pillow, so that its labels must be ours.
      note: what it does otherwise.
      rounds: how often it is measured.
    """

    title: str
    command: Callable[..., Command]
    script: Path | None = None
    decodes_as_ours: bool = False
    note: str = ''
    rounds: int = 2

    @property
    def lines(self) -> int:
        """Lines of code a user writes, those of his modules that the script imports included."""
        return 1 if self.script is None else _count_lines(self.script)


def _count_lines(script: Path) -> int:
    """Lines with code other than imports and docstrings, in a script and its neighbours."""
    tree = ast.parse(script.read_text())
    lines: set[int] = set()
    skipped: set[int] = set()
    imported = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            skipped.update(range(node.lineno, node.end_lineno + 1))
            neighbour = SCRIPTS / f'{getattr(node, "module", None)}.py'
            if neighbour.exists():
                imported += _count_lines(neighbour)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.update(range(node.lineno, node.end_lineno + 1))
        elif isinstance(node, ast.expr | ast.stmt):
            # Every line that begins or ends something; else and closing brackets are among them.
            lines.update((node.lineno, node.end_lineno))
    return len(lines - skipped) + imported


def _label(images: Path, output: Path, model: Model, folder: Path) -> Command:
    model_arguments = (each.format(folder / SAVED_MODEL) for each in model.arguments)
    arguments = ('--input', images, '--output', output, *model_arguments)
    return (sys.executable, '-m', 'pipeline', 'label', *arguments)


def _scripted(
    title: str,
    name: str,
    *extra: str | int,
    python: Path | str = sys.executable,
    batch_size: int | None = None,
    decodes_as_ours: bool = True,
    note: str = '',
    rounds: int = 2,
) -> Job:
    script = SCRIPTS / name

    def command(images: Path, output: Path, model: Model, folder: Path) -> Command:
        size = batch_size or model.batch_size
        return (python, script, images, output, folder / CARD, size, *extra)

    return Job(title, command, script, decodes_as_ours, note, rounds)


OURS = 'lemmabeam'
# Of those to which noise is larger than the difference.
_CLOSE = 8

LABELLING = {
    OURS: Job('`lemmabeam label`', _label, decodes_as_ours=True, rounds=_CLOSE),
    'loop-1': _scripted('plain loop, one image a call', 'loop.py', batch_size=1),
    'loop': _scripted('plain loop, a batch a call', 'loop.py', rounds=_CLOSE),
    'tf-data': _scripted(
        'tf.data',
        'tf_data.py',
        decodes_as_ours=False,
        note='decodes and resizes with TensorFlow',
    ),
    'beam': _scripted(
        "Beam's TFModelHandler and WriteToParquet", 'beam_stock.py', '--runner=FnApiRunner'
    ),
    # One worker or two: a single noisy round of each did not tell which is faster on two cores.
    'torch': _scripted(
        'torch DataLoader, two processes', 'torch_loader.py', 2, python=_ENGINES, rounds=_CLOSE
    ),
    'ray': _scripted('Ray Data', 'ray_data.py', python=_ENGINES),
    'daft': _scripted(
        'Daft',
        'daft_frame.py',
        python=_ENGINES,
        decodes_as_ours=False,
        note='decodes and resizes with its own code',
    ),
}


def _load(manifest: Path, output: Path) -> Command:
    return (sys.executable, '-m', 'tests.benchmarks.peers.load_only', manifest, output)


def _img2dataset(output_format: str) -> Callable[..., Command]:
    def command(manifest: Path, output: Path) -> Command:
        return (
            _IMG2DATASET,
            f'--url_list={manifest}',
            f'--output_folder={output}',
            f'--output_format={output_format}',
            '--image_size=224',
            '--resize_mode=center_crop',
            '--processes_count=2',
            '--thread_count=16',
            # So that both processes have work.
            f'--number_sample_per_shard={-(-len(manifest.read_text().splitlines()) // 2)}',
        )

    return command


LOADING = {
    OURS: Job(
        'steps of lemmabeam',
        _load,
        Path(__file__).with_name('load_only.py'),
        note='hands batches of pixels on; writes no images',
    ),
    'img2dataset-files': Job(
        'img2dataset, files', _img2dataset('files'), note='encodes JPEGs anew and writes files'
    ),
    'img2dataset-webdataset': Job(
        'img2dataset, webdataset',
        _img2dataset('webdataset'),
        note='encodes JPEGs anew and writes tar files',
    ),
}
