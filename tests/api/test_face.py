"""What `import lemmabeam` offers, and what it costs."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import lemmabeam as lb
import pytest

ROOT = Path(__file__).parents[2]
# What somebody who only imports it must not wait for.
HEAVY = 'apache_beam tensorflow keras pyarrow pandas numpy PIL requests pipeline transforms'.split()


def test_importing_it_loads_nothing_else():
    program = (
        f'import json, sys, lemmabeam; print(json.dumps([*{set(HEAVY)!r} & {{*sys.modules}}]))'
    )
    done = subprocess.run(
        [sys.executable, '-c', program],
        env={**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT / "pipeline" / "api"}'},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == []


def test_every_public_name_is_there_and_no_other():
    assert sorted(lb.__all__) == sorted(lb._MODULES)
    for name in lb.__all__:
        assert getattr(lb, name) is not None
        assert name in dir(lb)
    with pytest.raises(AttributeError, match=r'no attribute .labels.'):
        _ = lb.labels
    with pytest.raises(ImportError):
        importlib.import_module('lemmabeam.labels')


def test_an_editor_knows_the_same_names():
    """Those that are imported for type checkers alone."""
    source = Path(lb.__file__).read_text()
    block = source.partition('if TYPE_CHECKING:')[2].partition('\n\n__all__')[0]
    for name in lb.__all__:
        assert name in block.replace(',', ' ').split(), name


def test_it_is_that_of_this_checkout():
    assert Path(lb.__file__).parents[1] == ROOT / 'pipeline' / 'api'
    assert lb.__version__ in (ROOT / 'pipeline' / '__init__.py').read_text()
