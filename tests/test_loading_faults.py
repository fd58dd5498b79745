"""Loader processes under limits, at their ends, and with one another: nothing hangs or is lost."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import PIL.Image
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


def with_a_crash(folder) -> tuple[list[Path], str]:
    """Pictures one of which ends its process, and what is to be said of them."""
    paths = write(folder / 'in', ['', '', 'segv', *[''] * 9])
    ends = ('decoder_crashed' if 'segv' in path.stem else 'ok' for path in paths)
    return paths, ''.join(f'{path.stem} {end}\n' for path, end in zip(paths, ends, strict=True))


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
@pytest.mark.parametrize('more', [3, 4, 7])
def test_a_limit_of_processes(more, tmp_path):
    """One for who deals out, one from which they are forked, and a process with a thread."""
    paths, expected = with_a_crash(tmp_path)
    said = load_within(paths, then=FEW_PROCESSES.format(more), prefix=SOMEBODY)
    if more < 4:
        assert said.startswith('stopped: no loader process can be started: ')
        assert 'a limit of processes and threads (ulimit -u)' in said
    else:
        assert said == expected


# Descriptors are as numerous as somebody opens, and standard streams are whoever took their numbers.
@pytest.mark.parametrize(
    ('before', 'then'),
    [
        ('os.closerange(0, 3)', ''),
        ('', 'os.closerange(0, 3)'),
        (
            'resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))',
            '[os.dup(answer) for _ in range(1100)]',
        ),
        ('del os.memfd_create', ''),
        (
            'def refused(name): raise OSError(1, "not permitted")\nos.memfd_create = refused',
            'resource.setrlimit(resource.RLIMIT_CORE, (0, 0))',
        ),
    ],
    ids=['closed', 'closed later', 'many files', 'no memfd', 'memfd refused'],
)
def test_whatever_descriptors_there_are(before, then, tmp_path):
    paths, expected = with_a_crash(tmp_path)
    assert load_within(paths, before, then) == expected


FEW_FILES = """
most = max(map(int, os.listdir('/proc/self/fd'))) + {}
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
"""


@pytest.mark.parametrize('more', [2, 5, 8])
def test_a_limit_of_open_files(more, tmp_path):
    paths, expected = with_a_crash(tmp_path)
    said = load_within(paths, then=FEW_FILES.format(more))
    stopped = 'stopped: no loader process can be started: Too many open files. Is'
    assert said.startswith(stopped) if more == 2 else said == expected or said.startswith(stopped)


LITTLE_MEMORY = """
most = int(Path('/proc/self/statm').read_text().split()[0]) * 4096 + ({} << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
"""


@pytest.mark.parametrize('mib', [0, 50, 100, 150, 200, 250, 300])
def test_a_limit_of_the_address_space(mib, tmp_path):
    """What is too large for it may succeed elsewhere; it is never said to be damaged."""
    big = []
    for number, (format, options) in enumerate(FORMATS):
        big.append(tmp_path / f'big-{number}.{format}')
        picture = PIL.Image.effect_noise((6000, 4000), 50).convert('RGB')
        picture.save(big[-1], format, **options)
    said = load_within([*big, *write(tmp_path / 'in', [''] * 10)], then=LITTLE_MEMORY.format(mib))
    print(mib, said)
