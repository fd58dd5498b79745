"""Who may call the model, and what is told of a call that does not come back; time is made up."""

import logging
import sys
import threading
import weakref
from concurrent.futures import CancelledError

import numpy as np
import pytest

from pipeline.main import main
from transforms.core.errors import ModelError
from transforms.model import device as device_module
from transforms.model.device import PATIENCE_SEC, Devices
from transforms.model.runtimes.on_tensorflow import import_tensorflow


class Time:
    """A clock, and who looks at it when it is set forward."""

    def __init__(self):
        self.now = 0.0
        self.looks = []

    def goes_on(self, seconds):
        self.now += seconds
        for look in self.looks:
            look()


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def devices(time):
    return Devices('mine-1234', 1, lambda: time.now, time.looks.append)


@pytest.fixture
def device(devices):
    return devices.each[0]


def test_a_call_that_does_not_come_back_is_told_once(device, time, caplog):
    with device.at_work_on(lambda: 'these images'):
        time.goes_on(PATIENCE_SEC - 1)
        assert not caplog.records
        time.goes_on(1)
        time.goes_on(10 * PATIENCE_SEC)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert 'the model mine-1234 has not returned for 300 s on these images. ' in record.message


def test_what_comes_back_or_fails_is_not_told(device, time, caplog):
    with device.at_work_on(lambda: 'a'):
        time.goes_on(1)
    with pytest.raises(KeyError), device.at_work_on(lambda: 'b'):
        raise KeyError
    time.goes_on(10 * PATIENCE_SEC)
    assert not caplog.records


def test_a_model_that_is_slow_with_every_batch_is_told_once(device, time, caplog):
    for _ in range(3):
        with device.at_work_on(lambda: 'a slow batch'):
            time.goes_on(2 * PATIENCE_SEC)
    assert len(caplog.records) == 1
    with device.at_work_on(lambda: 'one that hangs'):
        time.goes_on(20 * PATIENCE_SEC)
    assert 'has not returned for 6000 s on one that hangs' in caplog.records[1].message


def test_whoever_waits_for_the_device_is_not_taken_for_the_one_that_hangs(device, time, caplog):
    waiting = threading.Event()

    def wait():
        waiting.set()
        with device.at_work_on(lambda: 'one that waits'):
            pass

    thread = threading.Thread(target=wait)
    with device.at_work_on(lambda: 'one that hangs'):
        thread.start()
        waiting.wait()
        time.goes_on(PATIENCE_SEC)
    thread.join()
    (record,) = caplog.records
    assert 'one that hangs' in record.message


def test_by_default_a_thread_looks_for_which_the_end_of_the_process_does_not_wait():
    before = set(threading.enumerate())
    Devices('mine-1234')
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon


SOON = 20
"""Seconds in which a test that would hang fails."""


class Held:
    """Work for a device that goes on until it is let go."""

    def __init__(self, devices, result=None):
        self.begun, self._let_go = threading.Event(), threading.Event()
        self._result = result
        self.future = devices.submit(self)
        assert self.begun.wait(SOON)

    def __call__(self, device):
        self.begun.set()
        assert self._let_go.wait(SOON)
        return self._result

    def let_go(self):
        self._let_go.set()


def in_a_thread(function):
    """Calls a function; what tells that it has come back."""
    back = threading.Event()
    threading.Thread(target=lambda: (function(), back.set()), daemon=True).start()
    return back


def test_work_is_done_in_order_in_one_thread(devices):
    futures = [
        devices.submit(lambda _, i=i: (i, threading.current_thread().name)) for i in range(50)
    ]
    assert [future.result(SOON) for future in futures] == [(i, 'device') for i in range(50)]


def test_one_waits_behind_the_one_that_is_done_and_no_more(devices):
    held = Held(devices, 'first')
    second = devices.submit(lambda _: 'second')
    assert devices.submit_if_free(lambda _: 'too many') is None
    third = []
    back = in_a_thread(lambda: third.append(devices.submit(lambda _: 'third')))
    assert not back.wait(0.1)
    held.let_go()
    assert back.wait(SOON)
    found = [each.result(SOON) for each in (held.future, second, *third)]
    assert found == ['first', 'second', 'third']


def test_an_error_is_its_own_and_what_comes_next_is_done(devices):
    def fails(_):
        raise KeyError('x')

    failed, done = devices.submit(fails), devices.submit(lambda _: 'done')
    assert isinstance(failed.exception(SOON), KeyError)
    assert done.result(SOON) == 'done'


def test_what_nobody_wants_any_more_is_not_begun(devices):
    held = Held(devices)
    done = []
    unwanted = devices.submit(lambda _: done.append('unwanted'))
    assert unwanted.cancel()
    held.let_go()
    devices.submit(lambda _: done.append('wanted')).result(SOON)
    assert done == ['wanted']
    with pytest.raises(CancelledError):
        unwanted.result(SOON)


def test_nothing_is_held_of_what_is_done(devices):
    class Work:
        pixels = np.zeros(3)

        def __call__(self, device):
            return 'done'

    work = Work()
    gone = threading.Event()
    weakref.finalize(work, gone.set)
    future = devices.submit(work)
    del work
    assert future.result(SOON) == 'done'
    assert gone.wait(SOON)


def test_work_can_ask_how_long_the_device_had_nothing_to_do(devices, time):
    time.goes_on(5)

    def work(device):
        time.now += 100
        return device.idle_sec

    held = Held(devices)
    futures = [devices.submit(work)]
    held.let_go()
    futures[0].result(SOON)
    assert futures[0].result(SOON) == 0


def test_a_person_at_a_terminal_sees_it(caplog):
    caplog.set_level(logging.ERROR)  # as in the command
    logging.getLogger('transforms').setLevel(logging.NOTSET)
    assert not logging.getLogger(device_module.__name__).isEnabledFor(logging.WARNING)
    with pytest.raises(SystemExit):
        main(['models', '--version'])
    assert logging.getLogger(device_module.__name__).isEnabledFor(logging.WARNING)


def test_tensorflow_that_cannot_be_loaded_is_told_with_what_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorflow', None)
    with pytest.raises(ModelError, match=r'TensorFlow cannot be loaded: .*ulimit -v'):
        import_tensorflow()


class TestSeveral:
    @pytest.fixture
    def devices(self, time):
        return Devices('mine-1234', 4, lambda: time.now, time.looks.append)

    def test_all_of_them_are_at_work(self, devices):
        together = threading.Barrier(4, timeout=SOON)

        def work(device):
            together.wait()  # for the others
            return device.number

        done = [devices.submit(work) for _ in range(12)]
        numbers = [each.result(SOON) for each in done]
        assert sorted(numbers) == sorted([0, 1, 2, 3] * 3)

    def test_work_goes_to_one_that_is_free(self, devices):
        held = [Held(devices) for _ in range(3)]
        numbers = [devices.submit(lambda device: device.number).result(SOON) for _ in range(8)]
        assert len(set(numbers)) == 1
        for each in held:
            each.let_go()

    def test_the_one_that_hangs_is_told(self, devices, time, caplog):
        with (
            devices.each[2].at_work_on(lambda: 'one that hangs'),
            devices.each[1].at_work_on(lambda: 'another'),
        ):
            time.goes_on(PATIENCE_SEC - 1)
        with devices.each[2].at_work_on(lambda: 'one that hangs'):
            time.goes_on(20 * PATIENCE_SEC)
        (record,) = caplog.records
        assert 'on one that hangs' in record.message
