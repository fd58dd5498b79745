"""Finding the fastest batch size of a GPU, on one that is made up and has a clock of its own."""

import json

import numpy as np
import pytest

from tests.support import app
from transforms.core.errors import ModelError
from transforms.model import batch_size
from transforms.model.batch_size import Tried, fastest, find, measure_apart, measure_here, sizes_for
from transforms.model.predictor import InferenceOptions
from transforms.model.resolve import resolve_model

SIZES = sizes_for(1024)


@pytest.fixture(scope='module')
def options():
    return InferenceOptions(resolve_model('embedded'), 128, 0.05, 5, 0, 1)


class Device:
    """A model whose calls take a time for themselves and one for each image, and have a memory.

    Attributes:
      now: seconds on its clock.
      calls: images per call, of each call.
    """

    def __init__(self, call_sec, image_sec, fits=10**9):
        self.call_sec = call_sec
        self.image_sec = image_sec
        self.fits = fits
        self.now = 0.0
        self.calls = []

    def make(self, options):
        assert (options.canary, options.precision_receipt) == ('off', 0)
        self.images_a_call = options.batch_size
        self(np.zeros((options.batch_size, 1, 1, 3), np.uint8))
        return self

    def __call__(self, pixels):
        while self.images_a_call > self.fits:
            self.images_a_call //= 2
        self.calls.append(self.images_a_call)
        self.now += len(pixels) // self.images_a_call * self.call_sec
        self.now += len(pixels) * self.image_sec

    def clock(self):
        return self.now

    def measure(self, options, sizes):
        return measure_here(options, sizes, self.make, self.clock)


def driver_of(name):
    """What `ctypes.CDLL` gives on a machine with such a GPU."""

    class Driver:
        def cuDeviceGetName(self, found, most, device):  # noqa: N802
            found.value = name.encode()
            return 0

        def __getattr__(self, _):
            return lambda *_: 0

    return lambda _: Driver()


def without_driver(name):
    raise OSError(f'{name}: no such file')


def refuse(*_):
    raise AssertionError('it is remembered')


def test_chunks_are_cut_into_whole_batches():
    assert SIZES == [8, 16, 32, 64, 128, 256, 512]
    assert sizes_for(96) == [8, 16, 32]
    assert sizes_for(100) == []


@pytest.mark.parametrize(
    ('call_sec', 'fits', 'best'),
    [
        # Of 1 ms an image, the time of a call is 3 % or more at 128 images, and less at 256.
        (0.006, 10**9, 128),
        (0.0, 10**9, 8),  # nothing gains
        (10.0, 10**9, 512),  # all gain, up to the largest
        (10.0, 64, 64),  # more do not fit
        (10.0, 100, 64),
    ],
)
def test_the_smallest_one_to_which_others_gain_nothing(options, call_sec, fits, best):
    device = Device(call_sec, 0.001, fits)
    tried = device.measure(options, SIZES)
    assert fastest(tried) == best
    assert [each.batch_size for each in tried] == SIZES[: len(tried)]
    assert tried[-1].batch_size in (best, 2 * best)  # what cannot gain is not measured
    rate = best / (call_sec + best * 0.001)
    assert dict(tried)[best] == pytest.approx(rate)


def test_a_little_noise_does_not_decide():
    assert fastest([Tried(8, 50.0), Tried(16, 100.0), Tried(32, 101.0)]) == 16
    assert fastest([Tried(8, 100.0), Tried(16, 104.0)]) == 16


def test_a_device_that_is_too_small_is_named(options):
    with pytest.raises(ModelError, match='has memory for 4 images per call, and the smallest'):
        Device(1.0, 0.001, 4).measure(options, SIZES)


def test_it_is_measured_once_for_each_card_model_and_precision(options, tmp_path, caplog):
    device = Device(0.006, 0.001)
    l4 = driver_of('NVIDIA L4')
    assert find(options, SIZES, tmp_path, device.measure, l4) == 128
    assert 'measuring which one of 8 to 512 is fastest on NVIDIA L4' in caplog.text
    assert '128 images per call: 955 images/s, taken' in caplog.text
    assert find(options, SIZES, tmp_path, refuse, l4) == 128
    assert find(options, SIZES, tmp_path, None, l4) == 128
    (path,) = tmp_path.iterdir()
    told = json.loads(path.read_text())
    assert (told['card'], told['model'], told['batch_size']) == ('NVIDIA L4', options.model.id, 128)
    for other, card in (
        (options, 'NVIDIA H100'),
        (options._replace(precision='float32'), 'NVIDIA L4'),
        (options._replace(model=resolve_model('embedded', size_px=300)), 'NVIDIA L4'),
    ):
        slower = Device(0.0, 0.001)
        assert find(other, SIZES, tmp_path, slower.measure, driver_of(card)) == 8
    assert len([*tmp_path.iterdir()]) == 4


@pytest.mark.parametrize('damage', [b'', b'[]', b'{"batch_size": 7}', b'{"batch_size": "128"}'])
def test_what_is_remembered_wrongly_is_measured_again(options, tmp_path, damage):
    l4 = driver_of('NVIDIA L4')
    find(options, SIZES, tmp_path, Device(0.006, 0.001).measure, l4)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage)
    assert find(options, SIZES, tmp_path, Device(0.0, 0.001).measure, l4) == 8
    assert find(options, SIZES, tmp_path, refuse, l4) == 8


def test_a_cache_that_cannot_be_written_costs_only_the_next_measurement(options, tmp_path, caplog):
    (tmp_path / 'file').write_text('')
    cache = tmp_path / 'file' / 'models'
    l4 = driver_of('NVIDIA L4')
    assert find(options, SIZES, cache, Device(0.006, 0.001).measure, l4) == 128
    assert 'cannot be written (Not a directory): it is measured again' in caplog.text


def test_without_a_gpu_or_a_choice_it_is_that_of_the_card(options, tmp_path):
    assert find(options, SIZES, tmp_path, refuse, without_driver) == 128
    assert find(options, [], tmp_path, refuse, driver_of('NVIDIA L4')) == 128
    assert find(options, SIZES, tmp_path, None, driver_of('NVIDIA L4')) == 128
    assert [*tmp_path.iterdir()] == []


def test_a_run_is_given_a_number(tmp_path):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'a.jpg').write_bytes(b'')
    config, _ = app.make_config(
        '--input', tmp_path / 'in', '--output', tmp_path / 'out', '--batch_size', 'auto'
    )
    # Nowhere where tests run is a GPU; with one, it is that of the card for CPUs or another one.
    assert isinstance(config.inference.batch_size, int)
    assert config.load.batch_size == config.inference.batch_size == config.options['batch_size']
    assert config.metadata['batch_size'] == str(config.inference.batch_size)


def test_a_process_that_fails_says_why(options):
    with pytest.raises(ModelError, match=r'--batch_size auto: measuring ended with code 1: .*give'):
        measure_apart('no options', SIZES)


# Processes that load TensorFlow, and compile the network.
@pytest.mark.slow
def test_the_embedded_network_is_measured_in_a_process_of_its_own(options):
    tried = measure_apart(options, [1, 2])
    assert [each.batch_size for each in tried] == [1, 2]
    assert all(each.images_per_sec > 0 for each in tried)
    assert batch_size.fastest(tried) in (1, 2)
    impossible = options._replace(accelerators=2, accelerator=1)
    with pytest.raises(ModelError, match='--batch_size auto: --accelerators_per_worker 2: '):
        measure_apart(impossible, SIZES)
