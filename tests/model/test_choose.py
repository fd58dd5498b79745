"""Which runtime a process takes; the probe of the machine is handed in."""

import ctypes
import dataclasses
import importlib.util
import sys
import types
from pathlib import Path

import pytest

from transforms.core.errors import ModelError
from transforms.model.choices import AUTO, EMBEDDED, JAX, ONNX_RUNTIME, TENSORFLOW
from transforms.model.resolve import resolve_model
from transforms.model.runtimes import choose, keras_backend
from transforms.model.runtimes.choose import Machine
from transforms.model.tensor_files import Kind

TOO_NEW = Machine((12, 0), (9, 0), True)


@pytest.fixture(scope='module')
def source():
    return resolve_model(EMBEDDED)


@pytest.fixture(scope='module')
def as_saved(source):
    """A SavedModel of no family."""
    card = source.card.with_changes(name='mine')
    return dataclasses.replace(source, kind=Kind.SAVED_MODEL, card=card)


@pytest.fixture(autouse=True)
def no_keras(monkeypatch):
    monkeypatch.delenv(keras_backend.VARIABLE, raising=False)
    monkeypatch.delitem(sys.modules, 'keras', raising=False)


def keras_on(backend):
    module = types.ModuleType('keras')
    module.config = types.SimpleNamespace(backend=lambda: backend)
    return module


def not_looked():
    raise AssertionError('nobody needs to know')


@pytest.mark.parametrize('backend', [TENSORFLOW, JAX])
def test_what_is_asked_for_is_taken_whatever_the_card(source, backend):
    assert choose.choose(backend, source, not_looked) == backend


@pytest.mark.parametrize(
    ('machine', 'expected', 'said'),
    [
        (Machine(None, None, False), TENSORFLOW, ''),
        (Machine((9, 0), (9, 0), True), TENSORFLOW, ''),
        (Machine((9, 5), (9, 0), True), TENSORFLOW, ''),
        (Machine((7, 5), (9, 0), True), TENSORFLOW, ''),
        # Built for no GPU, or not as it was: nothing is known.
        (Machine((12, 0), None, True), TENSORFLOW, ''),
        (
            TOO_NEW,
            JAX,
            'capability 12.0, and the installed TensorFlow was built for 9.0 at most: J',
        ),
        (Machine((10, 0), (9, 0), False), TENSORFLOW, "not start; install 'lemmabeam[jax-cuda]'"),
    ],
)
def test_auto_is_tensorflow_unless_the_card_is_newer_than_it(
    source, machine, expected, said, caplog
):
    assert choose.choose(AUTO, source, lambda: machine) == expected
    assert [said in record.message for record in caplog.records] == [True] * bool(said)


def test_auto_is_what_keras_has_or_is_told(source, monkeypatch):
    monkeypatch.setenv(keras_backend.VARIABLE, JAX)
    assert choose.choose(AUTO, source, not_looked) == JAX
    monkeypatch.setitem(sys.modules, 'keras', keras_on(TENSORFLOW))
    assert choose.choose(AUTO, source, not_looked) == TENSORFLOW
    monkeypatch.setitem(sys.modules, 'keras', keras_on('torch'))
    with pytest.raises(ModelError, match=r"backend 'torch' here .* expected tensorflow or jax"):
        choose.choose(AUTO, source, not_looked)


def test_a_saved_model_that_is_used_as_it_is_needs_tensorflow(source, as_saved):
    assert choose.choose(AUTO, as_saved, not_looked) == TENSORFLOW
    choose.check_backend(AUTO, as_saved)
    choose.check_backend(TENSORFLOW, as_saved)
    choose.check_backend(JAX, source)
    for refused in (choose.check_backend, choose.choose):
        with pytest.raises(ModelError) as caught:
            refused(JAX, as_saved)
        assert str(caught.value) == (
            '--backend jax: the SavedModel mine is used as it was saved, which only TensorFlow can '
            'do; use --backend tensorflow'
        )


@pytest.mark.parametrize('keras_has', ['', TENSORFLOW, JAX, 'torch'])
def test_an_onnx_model_asks_nothing_of_keras(source, monkeypatch, keras_has):
    monkeypatch.setenv(keras_backend.VARIABLE, keras_has)
    in_onnx = dataclasses.replace(source, kind=Kind.ONNX)
    assert choose.choose(AUTO, in_onnx, not_looked) == ONNX_RUNTIME
    assert choose.only_backend(in_onnx) == ONNX_RUNTIME
    assert choose.only_backend(source) == ''


def test_keras_is_told_before_it_is_imported(monkeypatch):
    monkeypatch.setenv(keras_backend.VARIABLE, TENSORFLOW)
    keras_backend.set_backend(JAX)
    assert keras_backend.imported() == ''
    monkeypatch.setitem(sys.modules, 'keras', keras_on(JAX))
    keras_backend.set_backend(JAX)
    with pytest.raises(ModelError, match=r"backend 'jax' already.*set KERAS_BACKEND=tensorflow"):
        keras_backend.set_backend(TENSORFLOW)


class Driver:
    """libcuda of a machine with one card, or of one that it fails on."""

    def __init__(self, capability, fails=''):
        self.capability = capability
        self.fails = fails

    def cuInit(self, flags):  # noqa: N802 (as it is called)
        return 100 if self.fails == 'cuInit' else 0

    def cuDeviceGet(self, device, number):  # noqa: N802
        assert number == 0
        device._obj.value = 7
        return 101 if self.fails == 'cuDeviceGet' else 0

    def cuDeviceGetAttribute(self, found, attribute, device):  # noqa: N802
        assert device.value == 7
        found._obj.value = self.capability[attribute - 75]
        return 0

    def cuDeviceGetName(self, name, most, device):  # noqa: N802
        assert device.value == 7
        name.value = b'NVIDIA RTX'[:most]
        return 0


def test_the_driver_tells_what_the_card_is():
    asked = []

    def load(name):
        asked.append(name)
        return Driver((12, 1))

    assert choose.card_of(load) == ('NVIDIA RTX', (12, 1))
    assert asked == ['libcuda.so.1']
    for fails in ('cuInit', 'cuDeviceGet'):
        assert choose.card_of(lambda _, fails=fails: Driver((12, 1), fails)) is None

    def without(name):
        raise OSError(f'{name}: no such file')

    assert choose.card_of(without) is None


def test_what_tensorflow_was_built_for_stands_in_a_file_of_it():
    before = {'tensorflow', 'jax'} & sys.modules.keys()
    spec = importlib.util.find_spec('tensorflow')
    text = (Path(spec.origin).parent / 'python/platform/build_info.py').read_text()
    assert choose.newest(text) == (9, 0)
    assert {'tensorflow', 'jax'} & sys.modules.keys() == before
    assert choose.newest("('cuda_compute_capabilities', ['sm_80', 'sm_120a', 'compute_100'])") == (
        12,
        0,
    )
    assert choose.newest("('is_cuda_build', False)") is None


def test_a_machine_is_looked_at_without_starting_anything():
    before = {'tensorflow', 'jax'} & sys.modules.keys()
    has_driver = choose.card_of(ctypes.CDLL) is not None
    assert (choose.probe().card is not None) == has_driver
    assert {'tensorflow', 'jax'} & sys.modules.keys() == before
