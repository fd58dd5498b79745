"""The product as people install it: from a wheel, without what only its tests need.

Not checked here: object stores, whose servers are among what only tests need.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.app import rows
from tests.support.samples import SAMPLE

# Sets up the package, imports TensorFlow three times and labels with the real model.
pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]
_BIN = _ROOT / '.venvs' / 'installed' / 'bin'
# What looks at sources and guides, and what needs an object store.
_QUICK = (
    '--quick',
    '--ignore=tests/test_layers.py',
    '--ignore=tests/docs',
    '--deselect=tests/core/test_reasons.py::test_the_table_of_the_guide_is_made_of_them',
)
_RUNS = (
    'tests/steps/test_chunks.py',
    'tests/system/test_cli.py',
    'tests/system/test_rubbish.py',
    'tests/dataset/test_verify.py',
)

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a program of the environment, in a folder that has the tests and not the product."""
    if not _BIN.exists():
        pytest.fail(f'no {_BIN}; set it up with: make .venvs/installed/ready')
    folder = tmp_path_factory.mktemp('installed')
    source, elsewhere = folder / 'source', folder / 'elsewhere'
    for name in ('pipeline', 'transforms'):
        shutil.copytree(_ROOT / name, source / name)
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'NOTICE'):
        shutil.copy(_ROOT / name, source)
    shutil.copytree(_ROOT / 'tests', elsewhere / 'tests')
    shutil.copy(_ROOT / 'pyproject.toml', elsewhere)

    def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_BIN / program, *map(str, arguments)], cwd=elsewhere, capture_output=True, text=True
        )

    pip = ('-m', 'pip', '--disable-pip-version-check', '--quiet', 'install', '--no-deps')
    done = run('python', *pip, '--no-build-isolation', '--force-reinstall', source)
    assert done.returncode == 0, done.stderr
    return run


def test_it_is_the_installed_one_and_pandas_is_not_there(run: Run) -> None:
    code = 'import importlib.util, pipeline; print(pipeline.__file__)'
    done = run('python', '-c', f'{code}; print(importlib.util.find_spec("pandas"))')
    where, pandas = done.stdout.splitlines()
    assert Path(where).is_relative_to(_BIN.parent)
    assert pandas == 'None'


def test_it_is_imported_under_its_name(run: Run) -> None:
    done = run(
        'python', '-c', 'import lemmabeam as lb; print(lb.__file__); print(lb.errors.__name__)'
    )
    where, module = done.stdout.splitlines()
    assert Path(where).is_relative_to(_BIN.parent)
    assert module == 'pipeline.api.errors'


@pytest.mark.parametrize('which', [_QUICK, _RUNS], ids=['quick', 'runs'])
def test_the_suite_passes(run: Run, which: tuple[str, ...]) -> None:
    marks = 'not slow and not engine'
    done = run('python', '-m', 'pytest', '-p', 'no:cacheprovider', '-m', marks, *which)
    assert done.returncode == 0, done.stdout


def test_a_manifest_with_times_is_labelled(run: Run, tmp_path: Path) -> None:
    names = ['cat.jpg', 'coffee.jpg']
    numbers = pa.array([1, 1_700_000_000 * 10**9])
    times = {'taken': pa.timestamp('ns', 'Europe/Berlin'), 'exposure': pa.duration('ns')}
    columns = {column: numbers.view(kind) for column, kind in times.items()}
    table = pa.table({'uri': [str(SAMPLE / name) for name in names], **columns})
    pq.write_table(table, tmp_path / 'list.parquet')
    source = ('--input', tmp_path / 'list.parquet', '--carry', 'taken,exposure')
    done = run('lemmabeam', 'label', *source, '--output', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    assert [(row['taken'], row['exposure']) for row in rows(tmp_path / 'out', 'predictions')] == [
        ('1970-01-01 01:00:00.000000001+01:00', '0:00:00.000000001'),
        ('2023-11-14 23:13:20+01:00', '19675 days, 22:13:20'),
    ]
