"""When garbage is collected.

What is not checked here: how much time it takes.
"""

import gc
import threading

import pytest

from transforms.core.garbage import Garbage


@pytest.fixture(autouse=True)
def _as_before():
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_until_the_last_block_ends_in_whatever_thread():
    garbage = Garbage()
    entered, leave = threading.Event(), threading.Event()

    def load():
        with garbage.uncollected():
            entered.set()
            leave.wait(60)

    with garbage.uncollected():
        thread = threading.Thread(target=load)
        thread.start()
        assert entered.wait(60)
        assert not gc.isenabled()
    assert not gc.isenabled()
    leave.set()
    thread.join()
    assert gc.isenabled()


def test_who_has_turned_it_off_finds_it_off():
    gc.disable()
    with Garbage().uncollected():
        pass
    assert not gc.isenabled()


def test_it_is_collected_again_behind_an_error():
    with pytest.raises(KeyError), Garbage().uncollected():
        raise KeyError
    assert gc.isenabled()


@pytest.mark.parametrize('keeps', [False, True])
def test_what_is_made_is_looked_through_later_unless_it_is_to_be_kept(keeps):
    gc.unfreeze()
    garbage = Garbage()
    if keeps:
        garbage.keep_what_is_made()
    with garbage.uncollected():
        made = [[i] for i in range(1000)]
    assert len(made) == 1000
    assert (gc.get_freeze_count() >= 1000) == keeps
