"""Whether this container is what Dataflow needs: run by the build, which fails otherwise.

On a machine with a GPU, `docker run --gpus all --entrypoint python IMAGE /template/smoke.py
--require_gpu` tries the GPU as well.
"""

import argparse
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

# What starts the workers, and what starts the launcher.
PROGRAMS = ('opt/apache/beam/boot', 'opt/google/dataflow/python_template_launcher')
# The runner itself is imported by name, and the extras of setup.py by what needs them.
MODULES = (
    'apache_beam.runners.dataflow.internal.apiclient',
    'boto3',
    'jax_plugins.xla_cuda12',
    'pillow_heif',
    'pipeline.flex_template',
)
SEEN = {'coffee.jpg': 'espresso', 'cat.jpg': 'cat'}


def main() -> int:
    """Prints what is wrong; 0 where nothing is."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0], allow_abbrev=False)
    parser.add_argument('--beam_version', help='that of the image which boot comes from')
    parser.add_argument('--require_gpu', action='store_true', help='label on a GPU')
    args = parser.parse_args()
    found = [
        *wrong_programs(Path('/'), os.environ),
        *wrong_versions(args.beam_version),
        *wrong_modules(),
    ]
    found = found or [*wrong_tensorflow(args.require_gpu), *wrong_labels(args.require_gpu)]
    for problem in found:
        print(f'smoke: {problem}', file=sys.stderr)
    return 1 if found else 0


def wrong_programs(root: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Programs and files that Dataflow starts, and the user it starts them as."""
    for name in PROGRAMS:
        if not os.access(root / name, os.X_OK) or not (root / name).is_file():
            yield f'/{name} is missing, or no program'
    entry = environment.get('FLEX_TEMPLATE_PYTHON_PY_FILE', '')
    if not entry or not (root / entry.lstrip('/')).is_file():
        yield f'FLEX_TEMPLATE_PYTHON_PY_FILE={entry} is no file'
    if os.getuid() != 0:
        yield 'this is not root: Dataflow mounts parts of the file system for root'


def wrong_versions(beam_version: str | None) -> Iterator[str]:
    """Beam is installed in another version than boot was made for."""
    installed = version('apache-beam')
    if beam_version not in (None, installed):
        yield f'boot is that of Beam {beam_version}, but Beam {installed} is installed'


def wrong_modules() -> Iterator[str]:
    """Modules that cannot be imported."""
    for name in MODULES:
        try:
            importlib.import_module(name)
        except ImportError as e:
            yield f'{name}: {e}'


def wrong_tensorflow(require_gpu: bool) -> Iterator[str]:
    """TensorFlow without CUDA, or its CUDA without a GPU."""
    import tensorflow as tf

    if not tf.test.is_built_with_cuda():
        yield f'TensorFlow {tf.__version__} is built without CUDA'
    elif require_gpu and not tf.config.list_physical_devices('GPU'):
        yield 'TensorFlow sees no GPU'


def wrong_labels(require_gpu: bool) -> Iterator[str]:
    """Labels two of the bundled photographs, through the whole pipeline."""
    import pyarrow.dataset

    import pipeline
    from pipeline.main import main as lemmabeam

    sample = Path(pipeline.__file__).parent / 'sample'
    with tempfile.TemporaryDirectory() as output:
        inputs = [f'--input={sample / name}' for name in SEEN]
        gpu = ['--require_gpu'] if require_gpu else []
        code = lemmabeam(['label', *inputs, f'--output={output}', '--model=embedded', *gpu])
        if code:
            yield f'lemmabeam label ended with exit code {code}'
            return
        rows = pyarrow.dataset.dataset(f'{output}/predictions').to_table().to_pylist()
    labels = {Path(row['uri']).name: [each['name'] for each in row['labels']] for row in rows}
    for name, expected in SEEN.items():
        if not any(expected in label for label in labels.get(name, ())):
            yield f'{name}: {labels.get(name)}, expected {expected}'


if __name__ == '__main__':
    sys.exit(main())
