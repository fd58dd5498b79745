"""Decoding of very many files that nobody would make, each in processes of their own.

Nothing but ImageError may come out, soon, without a word of a library, and memory must not grow.
"""

import itertools
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import codings, mutations

_ROOT = Path(__file__).parents[2]
_MAX_GROWTH_BYTES = 40_000_000
# Of a core, whatever else the machine does; the slowest takes a tenth of it.
_MAX_CPU_SEC = 5.0

_DECODE = """
import collections, json, sys, time
from pathlib import Path
from tests.support import mutations
from transforms.images import decode
from transforms.core.errors import ImageError
from transforms.core.limits import PixelLimits
from transforms.images.resize import Resize

COUNT, SEED = map(int, sys.argv[1:])
RESIZE = Resize(224, 256, 'bicubic')
LIMITS = PixelLimits(max_px=1_000_000, max_baseline_jpeg_px=4_000_000)

def resident_bytes():
    return int(Path('/proc/self/statm').read_text().split()[1]) * 4096

outcomes, slowest_cpu_sec, warm_bytes = collections.Counter(), 0.0, 0
for i, data in enumerate(mutations.mutated(COUNT, SEED)):
    if i == COUNT // 4:
        warm_bytes = resident_bytes()
    started = time.process_time()
    try:
        pixels = decode.decode(data, RESIZE, LIMITS)
        outcome = 'labeled'
        assert pixels.shape == (224, 224, 3)
    except ImageError as e:
        outcome = e.reason.value
        mutations.check_detail(e, data)
    except BaseException:
        print(f'file {i} of seed {SEED}: {data[:5000].hex()}', file=sys.stderr)
        raise
    outcomes[outcome] += 1
    slowest_cpu_sec = max(slowest_cpu_sec, time.process_time() - started)
grown_bytes = resident_bytes() - warm_bytes
print(json.dumps([outcomes, slowest_cpu_sec, grown_bytes]))
"""


# What the files that are taken for good look like.
_PIXELS = """
import hashlib, json, resource, sys
from pathlib import Path
from transforms.images import decode
from transforms.core.errors import ImageError
from transforms.core.limits import PixelLimits
from transforms.images.resize import Resize

# What is asked for and never used, as the canvas of a WebP, would be filled, too.
most_bytes = int(Path('/proc/self/statm').read_text().split()[0]) * 4096 + (512 << 20)
resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
RESIZE = Resize(64, None, 'bilinear')
LIMITS = PixelLimits(max_px=1_000_000, max_baseline_jpeg_px=4_000_000)
pixels = {}
for path in Path(sys.argv[1]).iterdir():
    try:
        found = decode.decode(path.read_bytes(), RESIZE, LIMITS)
        pixels[path.name] = hashlib.sha256(found).hexdigest()
    except (ImageError, MemoryError):
        continue
print(json.dumps(pixels))
"""


def run_python(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=_ROOT, capture_output=True, text=True, timeout=3600, check=False
    )


@pytest.mark.parametrize(
    ('count', 'seed'), [(1000, 1), pytest.param(200_000, 2, marks=pytest.mark.slow)]
)
def test_mutated_files_raise_nothing_but_image_error_and_leave_nothing(count, seed):
    done = run_python('-c', _DECODE, count, seed)
    assert (done.returncode, done.stderr) == (0, '')
    outcomes, slowest_cpu_sec, grown_bytes = json.loads(done.stdout)
    assert sum(outcomes.values()) == count
    # That the decoders were reached, and refused in every way they can.
    assert outcomes['labeled'] > count / 10
    assert set(outcomes) == {
        *('labeled', 'empty', 'not_an_image', 'unsupported_format', 'truncated'),
        *('too_many_pixels', 'decode_error'),
    }
    assert slowest_cpu_sec < _MAX_CPU_SEC
    assert grown_bytes < min(2000 * count, _MAX_GROWTH_BYTES)


def test_the_mutations_are_the_same_for_the_same_seed():
    first, again, other = (list(mutations.mutated(50, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(set(first)) > 40


@pytest.mark.skipif(sys.platform != 'linux', reason='memory is filled by the GNU C library')
@pytest.mark.parametrize(
    ('count', 'step'), [(60, 5), pytest.param(20_000, 1, marks=pytest.mark.slow)]
)
def test_no_pixel_is_what_memory_held_before(count, step, tmp_path):
    coded = [each.data for each in codings.all_codings()]
    changed = (mutations.mutated(count, 7), mutations.mutated(count, 8, coded))
    files = itertools.chain(coded[::step], mutations.seeds(), *changed)
    for i, data in enumerate(files):
        (tmp_path / str(i)).write_bytes(data)
    processes = []
    for filling in ('85', '170'):
        # Memory that a thread keeps for itself would not be filled.
        tuned = {'MALLOC_PERTURB_': filling, 'GLIBC_TUNABLES': 'glibc.malloc.tcache_count=0'}
        command = [sys.executable, '-c', _PIXELS, str(tmp_path)]
        processes.append(
            subprocess.Popen(
                command, cwd=_ROOT, env=os.environ | tuned, stdout=subprocess.PIPE, text=True
            )
        )
    written = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    first, second = map(json.loads, written)
    assert len(first) > 500
    assert first == second, [i for i in first if first[i] != second.get(i)]


@pytest.mark.slow
@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ('linux', 'x86_64'), reason='no wheels of the fuzzer'
)
def test_a_coverage_guided_fuzzer_finds_nothing(tmp_path):
    done = run_python('-m', 'tests.support.fuzz_decode', '--seconds', 60, '--crashers', tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.iterdir()) == []
    assert int(done.stdout.split()[0]) > 1000, 'executions'
