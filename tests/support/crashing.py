"""A decoder that does what its picture says: what loader processes are there for."""

import ctypes
import os
import re
import signal
import time
from collections.abc import Callable

from transforms.core.limits import PixelLimits
from transforms.images import decode
from transforms.images.decode import OpenedImage
from transforms.images.resize import Resize

_MARK = re.compile(rb'decoder:(\w+)$')


def _allocate() -> None:
    held = []
    while True:
        held.append(bytearray(1 << 20))


def _loop() -> None:
    """Never ends, and holds the interpreter's lock meanwhile."""
    re.match(r'(a+)+$', 'a' * 60 + 'b')


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(3600)


_ACTS: dict[str, Callable[[], object]] = {
    'segv': lambda: ctypes.string_at(0),
    'abort': os.abort,
    'exit': lambda: os._exit(3),
    'kill': lambda: os.kill(os.getpid(), signal.SIGKILL),
    'allocate': _allocate,
    'loop': _loop,
    'slow': lambda: time.sleep(0.1),
    'sleep': lambda: time.sleep(3600),
    'stop': _stop,
    'environment': lambda: os.environ['LEMMABEAM_TEST'],
}


def picture(data: bytes, act: str) -> bytes:
    """A file that opens as before, but for what it has the decoder do."""
    return data + b'decoder:' + act.encode()


def open_image(data: bytes, resize: Resize, limits: PixelLimits) -> OpenedImage:
    """In place of `transforms.images.decode.open_image`."""
    if mark := _MARK.search(data[-64:]):
        _ACTS[mark[1].decode()]()
    return decode.open_image(data, resize, limits)
