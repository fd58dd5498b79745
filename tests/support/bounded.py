"""Decodes files in processes of their own, whose memory and time are limited."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support import corpus

# A process for each file, of which none has decoded more than a tiny one.
_DECODE = """
import json, os, resource, sys, time
from pathlib import Path
from transforms.images import decode
from transforms.core.errors import ImageError
from transforms.model.card import Resize
RESIZE = Resize(224, 256, 'bicubic')
most_bytes, folder = int(sys.argv[1]), Path(sys.argv[2])
decode.decode((folder / 'tiny').read_bytes(), RESIZE)

def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def outcome(data):
    told = 0
    try:
        opened = decode.open_image(data, RESIZE, decode.DEFAULT_LIMITS)
        told = opened.working_bytes
        decode.render(opened, RESIZE)
    except ImageError as e:
        return e.reason.value, e.detail, told
    except BaseException as e:
        return type(e).__name__, '', told
    return 'labeled', '', told

for path in sorted(folder.iterdir()):
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    data = path.read_bytes()
    taken = int(Path('/proc/self/statm').read_text().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (taken + most_bytes, taken + most_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    before, started = peak_bytes(), time.process_time()
    found = outcome(data)
    cpu_sec = time.process_time() - started
    print(json.dumps([path.name, *found, peak_bytes() - before, cpu_sec]), flush=True)
    os._exit(0)
"""


class Outcome(NamedTuple):
    """'labeled', the reason or the name of another exception; memory that was told and taken."""

    name: str
    detail: str
    told_bytes: int
    peak_bytes: int
    cpu_sec: float


def outcomes(files: Mapping[str, bytes], most_bytes: int, folder: Path) -> dict[str, Outcome]:
    """Outcomes of the files by name; without those whose process was killed.

    Args:
      files: what is decoded.
      most_bytes: address space that each of them may take.
      folder: an empty one.
    """
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / 'tiny').write_bytes(corpus.encode(corpus.picture(), 'JPEG'))
    command = [sys.executable, '-c', _DECODE, str(most_bytes), str(folder)]
    root = Path(__file__).parents[2]
    out = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    found = {row[0]: Outcome(*row[1:]) for row in map(json.loads, out.splitlines())}
    del found['tiny']
    return found
