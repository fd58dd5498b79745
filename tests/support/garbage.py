"""Garbage is looked for less often: else a tenth of the time of the tests goes by in it."""

import atexit
import gc


def look_rarely() -> None:
    """From now on, in this process; what there is already is not looked through any more.

    A million objects come with the modules, none of which will ever be garbage.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    # Some libraries look at their end whether anything of theirs is left.
    atexit.register(gc.unfreeze)
