"""Who may call the model, and what is told of a call that does not come back; time is made up."""

import logging
import threading

import pytest

from pipeline.main import main
from transforms.model import device as device_module
from transforms.model.device import PATIENCE_SEC, Device


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
def device(time):
    return Device('mine-1234', lambda: time.now, time.looks.append)


def test_a_call_that_does_not_come_back_is_told_once(device, time, caplog):
    with device.at_work_on(lambda: 'these images'):
        time.goes_on(PATIENCE_SEC - 1)
        assert not caplog.records
        time.goes_on(1)
        time.goes_on(10 * PATIENCE_SEC)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert 'the model mine-1234 has not come back for 300 s from these images. ' in record.message


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
    assert 'has not come back for 6000 s from one that hangs' in caplog.records[1].message


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
    Device('mine-1234')
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon


def test_a_person_at_a_terminal_sees_it(caplog):
    caplog.set_level(logging.ERROR)  # as in the command
    logging.getLogger('transforms').setLevel(logging.NOTSET)
    assert not logging.getLogger(device_module.__name__).isEnabledFor(logging.WARNING)
    with pytest.raises(SystemExit):
        main(['--version'])
    assert logging.getLogger(device_module.__name__).isEnabledFor(logging.WARNING)
