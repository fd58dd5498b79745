"""When Python looks for garbage in cycles: not while all that is made will stay."""

import atexit
import contextlib
import gc
import threading
from collections.abc import Iterator


class Garbage:
    """The collection of garbage in this process.

    Importing TensorFlow and Beam makes a million objects that stay; looking them through again and
    again while they come takes a fifth of the CPU time of a run over one picture.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._was_on = False
        self._keeps = False

    def keep_what_is_made(self) -> None:
        """What is made in blocks of `uncollected` is never looked through in this process.

        Only for a process that runs one command: what somebody else has made meanwhile stays, too.
        """
        self._keeps = True
        atexit.register(gc.unfreeze)  # some libraries look then whether anything of theirs is left

    @contextlib.contextmanager
    def uncollected(self) -> Iterator[None]:
        """No garbage in cycles is collected, in any thread, until the last such block ends."""
        with self._lock:
            self._blocks += 1
            if self._blocks == 1:
                self._was_on = gc.isenabled()
                gc.disable()
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if not self._blocks and self._was_on:
                    if self._keeps:
                        gc.freeze()
                    gc.enable()


GARBAGE = Garbage()
"""The one of this process."""
