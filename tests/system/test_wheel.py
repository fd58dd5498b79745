"""The distribution as people get it: built, installed into an empty environment, and used there.

`make dist` leaves what it has tried in dist/.
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

# Downloads a gigabyte of wheels, and labels with the real model.
pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]
_BUILD = 'import sys, setuptools.build_meta as b; print(b.{}(sys.argv[1]))'


def _python(python: Path | str, *arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        [python, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _tracked(into: Path) -> Path:
    """What git knows, so that nothing that lies about gets into a distribution."""
    names = _ls_files()
    for name in names:
        if (_ROOT / name).is_file():
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((_ROOT / name).read_bytes())
    return into


def _ls_files() -> list[str]:
    listed = ('ls-files', '--cached', '--others', '--exclude-standard')
    done = subprocess.run(['git', *listed], cwd=_ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.fixture(scope='module')
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist of what git knows, and a wheel made of that sdist."""
    folder = Path(os.environ.get('LEMMABEAM_DIST') or tmp_path_factory.mktemp('dist')).absolute()
    source = _tracked(tmp_path_factory.mktemp('source'))
    name = _python(sys.executable, '-c', _BUILD.format('build_sdist'), folder, cwd=source)
    sdist = folder / name.splitlines()[-1]
    unpacked = tmp_path_factory.mktemp('unpacked')
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter='data')
    (inside,) = unpacked.iterdir()
    _python(sys.executable, '-c', _BUILD.format('build_wheel'), folder, cwd=inside)
    return folder


@pytest.fixture(scope='module')
def empty(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp('environment')
    _python(sys.executable, '-m', 'venv', folder, cwd=folder)
    (wheel,) = dist.glob('lemmabeam-*.whl')
    pip = ('-m', 'pip', '--disable-pip-version-check', '--quiet', 'install')
    _python(folder / 'bin' / 'python', *pip, wheel, cwd=folder)
    return folder / 'bin'


def test_it_has_what_it_needs_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.partition('/')[0] for name in names}
    assert {each for each in folders if not each.endswith('.dist-info')} == {
        'lemmabeam',
        'pipeline',
        'transforms',
    }
    assert {'pipeline/py.typed', 'pipeline/report/html/report.css'} <= set(names)
    notices = {name.rpartition('/')[2] for name in names if '.dist-info/licenses/' in name}
    assert notices == {'LICENSE', 'NOTICE'}


def test_it_labels_in_an_empty_environment(empty: Path, tmp_path: Path) -> None:
    found = _python(
        empty / 'python',
        '-c',
        'import importlib.util, pipeline;'
        'print(pipeline.__path__[0], importlib.util.find_spec("tests"))',
        cwd=tmp_path,
    )
    package, tests = found.split()
    assert tests == 'None'
    assert Path(package).is_relative_to(empty.parent)
    sample = Path(package) / 'sample' / 'coffee.jpg'
    output = ('--output', tmp_path / 'labels')
    said = _python(empty / 'lemmabeam', 'label', '--input', sample, *output, cwd=tmp_path)
    assert 'espresso' in said
    code = (
        f'import lemmabeam as lb; print(lb.open({str(tmp_path / "labels")!r}).to_table().num_rows)'
    )
    assert _python(empty / 'python', '-c', code, cwd=tmp_path).strip() == '1'
    said = _python(empty / 'lemmabeam', 'verify', tmp_path / 'labels', cwd=tmp_path)
    assert 'whole and consistent' in said
