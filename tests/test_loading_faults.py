"""Loader processes under limits, at their ends, and with one another: nothing hangs or is lost."""

import os
import shutil
import subprocess
import sys

import pytest

from tests import samples
from tests.loadings import write

# Loads files within limits; says how each ended.
CODE = """
import os, resource, sys
from pathlib import Path
answer = int(sys.argv[1])
{before}
from tests.loadings import OPTIONS, load
from transforms.errors import LemmabeamError
from transforms.rows import Image
{then}
def say(text):
    os.write(answer, text.encode())
try:
    found = load([Path(path) for path in sys.argv[2:]], OPTIONS._replace(decode_deadline_sec=5.0))
    for name, outcome in found.items():
        say(name + (' ok' if isinstance(outcome, Image) else ' ' + outcome.reason.value) + chr(10))
except LemmabeamError as e:
    say('stopped: ' + str(e))
os._exit(0)
"""


def load_within(paths, before='', then='', prefix=(), timeout_sec=60.0) -> str:
    """What a process within limits says."""
    answered, answer = os.pipe()
    code = CODE.format(before=before, then=then)
    command = [*prefix, sys.executable, '-c', code, str(answer), *map(str, paths)]
    try:
        subprocess.run(
            command,
            cwd=samples.SAMPLE.parents[1],
            pass_fds=[answer],
            timeout=timeout_sec,
            check=False,
        )
    finally:
        os.close(answer)
    with open(answered) as said:
        return said.read()


# Somebody who has no other process, and whom such a limit concerns; may read the files of others.
SOMEBODY = (
    *('setpriv', '--reuid=54321', '--regid=54321', '--clear-groups'),
    *('--inh-caps=-all,+dac_override', '--ambient-caps=-all,+dac_override'),
)
# So many on top of those that the process has by itself.
FEW_PROCESSES = """
most = len(os.listdir('/proc/self/task')) + {}
resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
"""


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which('setpriv'), reason='needs root, setpriv')
@pytest.mark.parametrize('more', [0, 1, 2, 3, 4, 5, 6, 7])
def test_a_limit_of_processes(more, tmp_path):
    paths = write(tmp_path / 'in', ['', '', '', 'segv', *[''] * 9])
    said = load_within(paths, then=FEW_PROCESSES.format(more), prefix=SOMEBODY)
    print(more, said)
