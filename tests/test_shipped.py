"""What a wheel has of the packages; test_installed, which is slow, looks at how that works."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ('pipeline', 'transforms')

# In a process of its own: setuptools puts its own distutils in the place of Python's.
LIST = """
import json
import setuptools
from distutils.core import run_setup
command = run_setup('setup.py', stop_after='init').get_command_obj('build_py')
command.ensure_finalized()
found = command.get_source_files()
found += [f'{folder}/{name}' for _, folder, _, names in command.data_files for name in names]
print(json.dumps(found))
"""


def test_a_wheel_has_every_file_of_the_packages_but_guides():
    done = subprocess.run(
        [sys.executable, '-c', LIST], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = (path for name in PACKAGES for path in (ROOT / name).rglob('*') if path.is_file())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.suffix != '.md' and path.parent.name != '__pycache__'
    }
    assert set(json.loads(done.stdout)) == wanted
    # By these type checkers know that the packages are typed.
    assert wanted >= {f'{name}/py.typed' for name in PACKAGES}
