"""ONNX models: what is computed, what is refused and how, and what a run says of them.

What all runtimes do alike is in tests.contracts.test_runtimes, and that the embedded network in
ONNX gives its labels; buckets are in test_hub.  That a GPU
computes is not checked here: which one would be asked for is, with a stand-in for the library.
"""

import io
import itertools
import json
import sys
import tarfile
import types
from types import MappingProxyType

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from pipeline.main import main
from tests.model.test_saved_models import make_predictor
from tests.support import app, onnx_models, samples
from tests.support.onnx_models import DOUBLE, FLOAT, FLOAT16, TIMM, UINT8, Graph
from transforms.core.errors import ModelError, UsageError
from transforms.core.resources import cpu_count
from transforms.dataset.verify import verify
from transforms.model import canary
from transforms.model.download.fetch import fetch_model, sha256_of
from transforms.model.onnx_file import Input, describe
from transforms.model.resolve import resolve_model
from transforms.model.runtimes.base import Fault, Place
from transforms.model.runtimes.choose import check_backend
from transforms.model.runtimes.on_onnxruntime import OnnxRuntime
from transforms.model.tensor_files import Kind

SIZE_PX = 16
BATCH = 4
CARD = MappingProxyType(
    {
        'name': 'means',
        'resize': {'size_px': SIZE_PX},
        'range': [0, 255],
        'activation': 'none',
        'batch_size': BATCH,
    }
)
NCHW = ('batch', 3, SIZE_PX, SIZE_PX)
NHWC = ('batch', SIZE_PX, SIZE_PX, 3)
LOGITS = [('logits', FLOAT, None)]


@pytest.fixture(scope='module')
def pixels():
    shape = (BATCH, SIZE_PX, SIZE_PX, 3)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def means(shape=NCHW, dtype=FLOAT, channels_last=False, outputs=LOGITS):
    """A model that gives the mean of each channel."""
    graph, x = Graph(), 'images'
    if channels_last:
        x = graph.add('Transpose', x, perm=[0, 3, 1, 2])
    if dtype != FLOAT:
        x = graph.add('Cast', x, to=FLOAT)
    x = graph.add('Flatten', graph.add('GlobalAveragePool', x))
    scale = graph.weight('scale', np.ones(3, np.float32))
    for name, _, _ in outputs:
        graph.name(graph.add('Mul', x, scale), name)
    return graph.model([('images', dtype, shape)], outputs)


def saved(folder, model=None, labels=3, external='', **card):
    return onnx_models.save(
        means() if model is None else model, folder, {**CARD, **card}, labels, external
    )


def predictor(folder, **options):
    return make_predictor(folder, folder.parent / 'cache', **{'batch_size': BATCH} | options)


def scores(folder, pixels, **options):
    """Scores (N, classes) in the order of the classes."""
    found = predictor(folder, **options)(pixels)
    return np.take_along_axis(found.scores, found.indices.argsort(axis=1), axis=1)


def refusal(folder, **options):
    with pytest.raises(ModelError) as caught:
        predictor(folder, **options)
    return str(caught.value)


# --- networks that people have


def photographs():
    names = json.loads((TIMM / 'reference.json').read_text())['seen']
    return [samples.SAMPLE / f'{name}.jpg' for name in names]


def test_a_network_of_timm_gives_what_timm_and_pytorch_give(tmp_path):
    """By its card, from the bytes of a picture on; its weights lie in a file beside the graph."""
    folder = onnx_models.mobilenet(tmp_path / 'mobilenet')
    reference = json.loads((TIMM / 'reference.json').read_text())['seen']
    source = resolve_model(str(folder))
    pictures = [canary.pixels_of(middle_of(path), source) for path in photographs()]
    found = make_predictor(folder, tmp_path, batch_size=len(pictures))(np.stack(pictures))
    for indices, values, expected in zip(
        found.indices, found.scores, reference.values(), strict=True
    ):
        assert indices.tolist() == [index for index, _ in expected]
        np.testing.assert_allclose(values, [score for _, score in expected], rtol=0, atol=1e-5)
    assert len({tuple(row) for row in found.indices.tolist()}) > 5, 'it tells pictures apart'


def middle_of(path):
    """As make.py there takes it."""
    data = io.BytesIO()
    with Image.open(path) as picture:
        side = min(picture.size)
        left, top = ((length - side) // 2 for length in picture.size)
        picture.convert('RGB').crop((left, top, left + side, top + side)).save(data, 'PNG')
    return data.getvalue()


def test_its_canary_finds_a_wrong_range(tmp_path):
    folder = onnx_models.embedded(tmp_path / 'lite0')
    path = folder / 'model_card.json'
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {'mean': 0.0, 'std': 1.0}))
    said = refusal(folder, canary='strict')
    assert said.startswith('the model failed its canary, so nothing was labelled: ')


# --- what an input may be


TAKEN = {
    'a named batch': means(),
    'channels last': means(NHWC, channels_last=True),
    'no name': means((None, 3, SIZE_PX, SIZE_PX)),
    'fixed': means((BATCH, 3, SIZE_PX, SIZE_PX)),
    'all axes named': means(('n', 'c', 'h', 'w')),
    'rows and columns of one name': means(('n', 'c', 's', 's')),
    'bytes': means(dtype=UINT8),
    'bytes, channels last': means(NHWC, UINT8, channels_last=True),
    'float16': means(dtype=FLOAT16),
    'float64': means(dtype=DOUBLE),
}


@pytest.mark.parametrize('case', TAKEN)
def test_images_are_given_as_they_are_taken(case, pixels, tmp_path):
    found = scores(saved(tmp_path / 'model', TAKEN[case]), pixels)
    np.testing.assert_allclose(found, pixels.mean((1, 2)), rtol=1e-5)


def test_samples_are_normalized_by_the_card(pixels, tmp_path):
    mean, std = [10.0, 20.0, 30.0], [2.0, 3.0, 4.0]
    card = {key: value for key, value in CARD.items() if key != 'range'}
    card |= {'mean': mean, 'std': std, 'channels': 'BGR'}
    folder = onnx_models.save(means(), tmp_path / 'model', card, 3)
    expected = (pixels[..., ::-1].mean((1, 2)) - mean) / std
    np.testing.assert_allclose(scores(folder, pixels), expected, rtol=1e-4)


NOT_TAKEN = {
    'text': (means(dtype=onnx.TensorProto.STRING), "takes 'images' as string, expected one of "),
    'integers': (means(dtype=onnx.TensorProto.INT64), "takes 'images' as int64, expected one of "),
    'vectors': (means(('batch', 768)), "takes 'images' of the shape (batch, 768), expected 4 axes"),
    'other sizes': (
        means(('batch', 3, 32, 32)),
        "takes 'images' of the shape (batch, 3, 32, 32), but it would be called with (4, 3, 16, ",
    ),
    'grey': (means(('batch', 1, SIZE_PX, SIZE_PX)), 'of the shape (batch, 1, 16, 16), but it '),
    'one name for two lengths': (means(('n', 'n', 'h', 'w')), 'of the shape (n, n, h, w), but it '),
}


@pytest.mark.parametrize('case', NOT_TAKEN)
def test_other_inputs_are_refused_by_name(case, tmp_path):
    model, said = NOT_TAKEN[case]
    found = refusal(saved(tmp_path / 'model', model))
    assert found.startswith(f'{tmp_path}/model: the ONNX model takes ')
    assert said in found


def test_names_in_a_file_write_nothing_on_the_terminal(tmp_path):
    bell = '\x1b[2J\x07'
    graph = Graph()
    graph.name(graph.add(f'Beep{bell}', 'images'), 'logits')
    inputs = [('images', FLOAT, NCHW)]
    models = {
        'operator': graph.model(inputs, LOGITS),
        'axis': means((bell, bell, bell, bell)),
        'inputs': Graph().model([(bell, FLOAT, NCHW), ('b', FLOAT, NCHW)], LOGITS),
        'outputs': means(outputs=[(bell, FLOAT, None), ('b', FLOAT, None)]),
    }
    for name, model in models.items():
        said = refusal(saved(tmp_path / name, model))
        assert '[2J' in said
        assert said.isprintable(), said


def test_two_inputs_are_one_too_many(tmp_path):
    graph = Graph()
    graph.name(graph.add('Add', 'images', 'masks'), 'logits')
    model = graph.model([('images', FLOAT, NCHW), ('masks', FLOAT, NCHW)], LOGITS)
    said = "takes 2 inputs ('images', 'masks'), expected one of images"
    assert said in refusal(saved(tmp_path / 'two', model))
    graph = Graph()
    graph.name(graph.weight('ones', np.ones((BATCH, 3), np.float32)), 'logits')
    assert 'takes 0 inputs (none)' in refusal(saved(tmp_path / 'none', graph.model([], LOGITS)))


def test_weights_that_are_listed_as_inputs_are_none(pixels, tmp_path):
    model = means()
    model.graph.input.append(helper.make_tensor_value_info('scale', FLOAT, [3]))
    found = scores(saved(tmp_path / 'model', model), pixels)
    np.testing.assert_allclose(found, pixels.mean((1, 2)), rtol=1e-5)


def test_bytes_cannot_be_normalized(pixels, tmp_path):
    folder = saved(tmp_path / 'model', means(dtype=UINT8), range=[0, 1])
    assert 'as uint8, so nothing can be normalized before' in refusal(folder)
    card = {key: value for key, value in CARD.items() if key != 'range'}
    for mean, is_taken in ([0, 0, 0], True), ([0, 0, 1], False):
        card |= {'mean': mean, 'std': [1, 1, 1]}
        folder = onnx_models.save(means(dtype=UINT8), tmp_path / str(mean), card, 3)
        if is_taken:
            np.testing.assert_allclose(scores(folder, pixels), pixels.mean((1, 2)), rtol=1e-5)
        else:
            assert 'nothing can be normalized' in refusal(folder)


def test_a_fixed_batch_is_said_with_the_option_for_it(pixels, tmp_path):
    folder = saved(tmp_path / 'model', means((2, 3, SIZE_PX, SIZE_PX)))
    assert refusal(folder).endswith(
        'it takes batches of 2: --batch_size 2, or export it with a dynamic batch'
    )
    found = scores(folder, pixels[:2], batch_size=2)
    np.testing.assert_allclose(found, pixels[:2].mean((1, 2)), rtol=1e-5)


# --- memory


def with_memory_for(found, most, monkeypatch):
    """Lets a predictor's model fail as ONNX Runtime does where there is too little memory."""
    from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

    call = found.network.call

    def limited(images):
        if len(images) > most:
            raise RuntimeException('Failed to allocate memory for requested buffer of size 7')
        return call(images)

    monkeypatch.setattr(found, 'network', found.network._replace(call=limited))


def test_calls_get_smaller_where_the_model_takes_any_number(pixels, tmp_path, monkeypatch):
    found = predictor(saved(tmp_path / 'model'))
    found._compiled.clear()
    with_memory_for(found, 2, monkeypatch)
    np.testing.assert_allclose(
        np.sort(found(pixels).scores), np.sort(pixels.mean((1, 2))), rtol=1e-5
    )
    assert found.computed['batch_size'] == 2


def test_a_fixed_batch_gets_no_smaller(pixels, tmp_path, monkeypatch):
    found = predictor(saved(tmp_path / 'model', means((BATCH, 3, SIZE_PX, SIZE_PX))))
    found._compiled.clear()
    with_memory_for(found, 2, monkeypatch)
    with pytest.raises(Exception, match='memory for 4 images per call, and the model takes no few'):
        found(pixels)


def test_too_little_memory_is_told_by_what_it_says(tmp_path):
    graph = Graph()
    axes = graph.weight('axes', np.array([1, 2, 3], np.int64))
    wide = graph.weight('wide', np.array([1, 2**22, 2**22, 1], np.int64))
    x = graph.add('Expand', graph.add('ReduceMean', 'images', axes), wide)
    graph.name(graph.add('ReduceSum', x, axes, keepdims=0), 'logits')
    folder = saved(tmp_path / 'model', graph.model([('images', FLOAT, NCHW)], LOGITS))
    runtime = OnnxRuntime(cpu_count(), require_gpu=False)
    session = runtime.open(folder / 'model.onnx', {'batch': 1})
    with pytest.raises(Exception, match='Failed to allocate memory') as caught:
        session.run(None, {'images': np.zeros((1, 3, SIZE_PX, SIZE_PX), np.float32)})
    assert runtime.fault(caught.value) == Fault('ResourceExhaustedError', True)
    assert runtime.fault(MemoryError()) == Fault('ResourceExhaustedError', True)
    said = refusal(folder)
    assert 'fails on images of the shape (4, 3, 16, 16): ' in said
    assert said.endswith('; a smaller --batch_size takes less memory')


def test_a_call_has_the_threads_that_it_was_given(tmp_path):
    runtime = OnnxRuntime(3, require_gpu=False)
    session = runtime.open(saved(tmp_path / 'model') / 'model.onnx', {})
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    with pytest.raises(ModelError, match='--accelerators_per_worker 2: ONNX Runtime sees 1 CPUs'):
        OnnxRuntime(1, False, Place(0, 2))


# --- outputs


def test_of_several_outputs_the_card_names_one(pixels, tmp_path):
    two = [('a', FLOAT, ('batch', 3)), ('b', FLOAT, ('batch', 3))]
    model = means(outputs=two)
    assert refusal(saved(tmp_path / 'model', model)).endswith(
        "the ONNX model has 2 outputs: 'a' (4, 3) tensor(float), 'b' (4, 3) tensor(float); "
        "name the one with the logits as 'output' in its model card"
    )
    found = scores(saved(tmp_path / 'named', model, output='b'), pixels)
    np.testing.assert_allclose(found, pixels.mean((1, 2)), rtol=1e-5)
    assert "no output 'c': 'a' " in refusal(saved(tmp_path / 'other', model, output='c'))
    one, other = (resolve_model(str(tmp_path / name)) for name in ('model', 'named'))
    assert one.fingerprint != other.fingerprint


def test_features_are_an_output_of_that_name(pixels, tmp_path):
    outputs = [*LOGITS, ('features', FLOAT, ('batch', 3))]
    folder = saved(tmp_path / 'model', means(outputs=outputs))
    found = predictor(folder, features=True)(pixels)
    np.testing.assert_allclose(found.features, pixels.mean((1, 2)), rtol=2e-3)
    assert predictor(folder)(pixels).features is None
    without = saved(tmp_path / 'without')
    assert "means has no output named 'features'" in refusal(without, features=True)


def sequence():
    graph = Graph()
    graph.name(graph.add('SequenceConstruct', 'images'), 'logits')
    graph_of = helper.make_graph(
        graph.nodes,
        'graph',
        [helper.make_tensor_value_info('images', FLOAT, NCHW)],
        [helper.make_tensor_sequence_value_info('logits', FLOAT, None)],
    )
    return helper.make_model(graph_of, opset_imports=[helper.make_opsetid('', 18)], ir_version=10)


def of(operator, domain='', **attributes):
    graph = Graph()
    graph.name(graph.add(operator, 'images', domain=domain, **attributes), 'logits')
    return graph.model([('images', FLOAT, NCHW)], LOGITS)


def newer():
    model = means()
    model.opset_import[0].version = 999
    return model


BROKEN = {
    'an unknown operator': (of('Nonsense'), 'cannot load it: .*No Op registered for Nonsense'),
    'an operator of ones own': (of('Foo', 'com.mine'), 'cannot load it: .*com.mine:Foo.* is not a'),
    'a newer format': (newer(), 'cannot load it: .*Opset 999 is'),
    'no tensor': (sequence(), r"gives 'logits' as .* seq\(tensor\(float\)\), expected a tensor of"),
    'maps': (of('Identity'), r"gives 'logits' of the shape \(4, 3, 16, 16\) for 4 images"),
    'one row': (
        of('ReduceMean', keepdims=0),
        r"gives 'logits' of the shape \(\) for 4 images",
    ),
    'other classes': (
        of('Flatten'),
        'means has a head of 768 classes, but its class list .* has 3',
    ),
}


@pytest.mark.parametrize('case', BROKEN)
def test_a_graph_that_gives_no_logits_is_refused(case, tmp_path):
    model, said = BROKEN[case]
    with pytest.raises(ModelError, match=said):
        predictor(saved(tmp_path / 'model', model))


def test_a_row_less_is_an_error_of_the_picture(pixels, tmp_path):
    """A model that drops rows would shift the labels of all pictures behind."""
    graph = Graph()
    x = graph.add('Flatten', graph.add('GlobalAveragePool', 'images'))
    least = graph.add('ReduceMin', x, graph.weight('one', np.array([1], np.int64)), keepdims=0)
    keep = graph.add('Less', least, graph.weight('limit', np.float32(250)))
    graph.name(graph.add('Compress', x, keep, axis=0), 'logits')
    model = graph.model([('images', FLOAT, NCHW)], LOGITS)
    found = predictor(saved(tmp_path / 'model', model))
    np.testing.assert_allclose(
        np.sort(found(pixels).scores), np.sort(pixels.mean((1, 2))), rtol=1e-5
    )
    white = pixels.copy()
    white[1] = 255
    with pytest.raises(Exception, match=r"'logits' of the shape \(3, 3\) for 4 images"):
        found(white)


def test_outputs_that_are_no_numbers_are_told(pixels, tmp_path):
    graph = Graph()
    x = graph.add('Flatten', graph.add('GlobalAveragePool', 'images'))
    graph.name(graph.add('Log', graph.add('Sub', x, graph.weight('c', np.float32(50)))), 'logits')
    folder = saved(tmp_path / 'model', graph.model([('images', FLOAT, NCHW)], LOGITS))
    dark = pixels.copy()
    dark[2] = 0
    assert (predictor(folder)(dark).counts < 0).tolist() == [False, False, True, False]
    low = saved(tmp_path / 'low', of('GlobalAveragePool'))
    assert 'expected (4, number)' in refusal(low)


# --- files


def test_a_file_that_is_none_is_said(tmp_path):
    folder = saved(tmp_path / 'model')
    path = folder / 'model.onnx'
    data = path.read_bytes()
    for broken in (b'', b'graph', b'\x00' * 50, data[: len(data) // 2], data[:-1], b'\xff' * 99):
        path.write_bytes(broken)
        with pytest.raises(ModelError, match=rf'model.onnx: .*{len(broken)} bytes'):
            resolve_model(str(folder))


def test_wherever_a_file_breaks_off_it_is_no_crash(tmp_path):
    path = tmp_path / 'model.onnx'
    data = means().SerializeToString()
    fine = 0
    for size, value in itertools.product(range(1, len(data), 7), (None, 0xFF)):
        path.write_bytes(data[:size] if value is None else data[:size] + bytes([value] * 9))
        try:
            describe(path)
        except ModelError:
            continue
        fine += 1
    assert fine < 10, 'where a field ends'


def test_what_a_file_says_of_itself(tmp_path):
    path = tmp_path / 'model.onnx'
    model = means((None, 3, 'h', SIZE_PX), FLOAT16)
    big = onnx.numpy_helper.from_array(np.zeros((100, 100), np.float16), 'big')
    inner = helper.make_graph([], 'inner', [], [], [named_in(big, 'deep/in.bin')])
    model.graph.node.append(
        helper.make_node('If', ['c'], ['d'], then_branch=inner, else_branch=inner)
    )
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            named_in(big, 'sparse.bin'), onnx.numpy_helper.from_array(np.zeros(1), 'i'), [1]
        )
    )
    path.write_bytes(model.SerializeToString())
    found = describe(path)
    assert found.inputs == (Input('images', 'float16', (None, 3, 'h', SIZE_PX)),)
    assert found.precision == 'float16'
    assert sorted(found.external) == ['deep/in.bin', 'sparse.bin']


def named_in(tensor, location):
    found = type(tensor)()
    found.CopyFrom(tensor)
    onnx.external_data_helper.set_external_data(found, location)
    found.ClearField('raw_data')
    return found


def test_weights_in_another_file_belong_to_the_model(pixels, tmp_path):
    one = saved(tmp_path / 'one', external='weights.bin')
    (one / 'notes.txt').write_text('of no importance')
    other = saved(tmp_path / 'other', external='weights.bin')
    assert sha256_of(one) == sha256_of(other)
    assert resolve_model(str(one)).kind is Kind.ONNX
    assert resolve_model(str(one / 'model.onnx')).id == resolve_model(str(one)).id
    np.testing.assert_allclose(scores(one, pixels), pixels.mean((1, 2)), rtol=1e-5)
    (other / 'weights.bin').write_bytes(np.full(3, 2, np.float32).tobytes())
    assert sha256_of(one) != sha256_of(other)
    np.testing.assert_allclose(scores(other, pixels), 2 * pixels.mean((1, 2)), rtol=1e-5)
    (other / 'weights.bin').unlink()
    with pytest.raises(ModelError, match=r"its weights are in 'weights.bin', which is not there"):
        resolve_model(str(other))


def pointing_to(folder, location):
    model = means()
    model.graph.initializer[0].CopyFrom(named_in(model.graph.initializer[0], location))
    folder.mkdir(exist_ok=True)
    (folder / 'model.onnx').write_bytes(model.SerializeToString())
    return folder


@pytest.mark.parametrize(
    'location', ['../secret', '/etc/hostname', 'a/../../secret', '', '.', 'link', 'a\0b']
)
def test_weights_outside_of_its_folder_are_refused(location, tmp_path):
    (tmp_path / 'secret').write_bytes(bytes(12))
    folder = pointing_to(tmp_path / 'model', location)
    (folder / 'link').symlink_to(tmp_path / 'secret')
    with pytest.raises(ModelError, match=r'its weights are in .*, (outside|which is no)'):
        sha256_of(folder)


def test_links_as_in_the_cache_of_the_hub_may_be_followed(pixels, tmp_path):
    blobs, folder = saved(tmp_path / 'blobs', external='weights.bin'), tmp_path / 'snapshot'
    folder.mkdir()
    for path in blobs.iterdir():
        (folder / path.name).symlink_to(path)
    np.testing.assert_allclose(scores(folder, pixels), pixels.mean((1, 2)), rtol=1e-5)
    assert sha256_of(folder) == sha256_of(blobs)


def test_an_archive_is_unpacked_whole(pixels, tmp_path):
    folder = saved(tmp_path / 'model', external='weights.bin')
    path = tmp_path / 'model.tar.gz'
    with tarfile.open(path, 'w:gz') as file:
        file.add(folder, 'model')
    found = fetch_model(str(path), tmp_path / 'cache')
    assert sha256_of(found) == sha256_of(folder)
    np.testing.assert_allclose(scores(path, pixels), pixels.mean((1, 2)), rtol=1e-5)


# --- options


def test_options_that_it_cannot_have_are_refused(tmp_path):
    folder = saved(tmp_path / 'model', architecture='R50x1')
    source = resolve_model(str(folder))
    assert not source.can_be_rebuilt
    check_backend('auto', source)
    check_backend('onnxruntime', source)
    embedded = resolve_model('embedded')
    for backend, of_model, jit, said in (
        ('jax', source, False, 'which only ONNX Runtime can do; use --backend onnxruntime'),
        ('tensorflow', source, False, '--backend tensorflow: the ONNX model means is used as it'),
        ('auto', source, True, '--jit: XLA does not compile the ONNX model means'),
        ('onnxruntime', embedded, False, 'it computes ONNX models, and efficientnet-lite0'),
    ):
        with pytest.raises(ModelError, match=said):
            check_backend(backend, of_model, jit)
    arguments = ('--input', samples.SAMPLE, '--output', tmp_path / 'out', '--model', folder)
    for options, said in (
        (('--jit',), '--jit: XLA does not compile'),
        (('--backend', 'jax'), '--backend jax: the ONNX model means'),
        (('--precision', 'bfloat16'), 'the ONNX model means computes as it was exported'),
    ):
        done = app.invoke('label', *arguments, *options)
        assert done.returncode == 1
        assert said in done.stderr


def test_its_precision_is_that_of_its_weights(pixels, tmp_path):
    graph = Graph()
    x = graph.add('Flatten', graph.add('GlobalAveragePool', 'images'))
    x = graph.add('Mul', graph.add('Cast', x, to=FLOAT16), graph.weight('s', np.ones(3, 'f2')))
    graph.name(x, 'logits')
    model = graph.model([('images', FLOAT, NCHW)], [('logits', FLOAT16, None)])
    folder = saved(tmp_path / 'model', model)
    found = predictor(folder)
    assert found.computed['precision'] == 'float16'
    assert found(pixels).scores.dtype == np.float32
    said = refusal(folder, precision='float32')
    assert said == '--precision float32: means is used as it was saved, in float16'
    assert main(['models', '--check', str(folder), '--json']) == 0
    arguments = ('--input', samples.SAMPLE, '--output', tmp_path / 'out', '--model', folder, *ALL)
    done = app.invoke('label', *arguments)
    assert done.returncode == 0, done.stderr
    assert 'float16 on CPU by ONNX Runtime' in done.stderr + done.stdout
    assert 'receipt' not in done.stderr


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    said = refusal(saved(tmp_path / 'model'))
    assert "pip install 'lemmabeam[onnx]', or onnxruntime-gpu for NVIDIA GPUs" in said


class Library:
    """ONNX Runtime built for CUDA, on a machine with some GPUs."""

    __version__ = '1.99'
    SessionOptions = staticmethod(lambda: types.SimpleNamespace(
        add_session_config_entry=lambda *_: None,
        add_free_dimension_override_by_name=lambda *_: None,
    ))  # fmt: skip

    def __init__(self, gpus, falls_back=False):
        self.gpus, self.falls_back = gpus, falls_back
        self.asked = []

    def get_available_providers(self):
        return ['CUDAExecutionProvider', 'CPUExecutionProvider']

    def preload_dlls(self):
        raise OSError('they lie elsewhere')

    def InferenceSession(self, model, options, providers, enable_fallback):  # noqa: N802
        assert enable_fallback == 0
        self.asked.append(providers)
        (name, how), last = providers
        assert (how['use_tf32'], last) == ('0', 'CPUExecutionProvider')
        is_there = int(how['device_id']) < self.gpus
        if not is_there and not self.falls_back:
            raise RuntimeError('CUDA failure 101: invalid device ordinal')
        found = [name, last] if is_there else [last]
        return types.SimpleNamespace(run=lambda *_: None, get_providers=lambda: found)


@pytest.mark.parametrize('falls_back', [False, True])
def test_a_gpu_is_taken_where_one_computes(falls_back, tmp_path):
    library = Library(2, falls_back)
    runtime = OnnxRuntime(1, True, Place(1, 2), library)
    assert runtime.device == 'GPU'
    runtime.open(tmp_path, {})
    assert library.asked[-1][0][1]['device_id'] == '1'
    with pytest.raises(ModelError, match='--accelerators_per_worker 3: ONNX Runtime sees 2 GPUs'):
        OnnxRuntime(1, True, Place(0, 3), library)
    without = Library(0, falls_back)
    assert OnnxRuntime(1, False, Place(), without).device == 'CPU'
    with pytest.raises(ModelError, match=r'ONNX Runtime 1.99 sees no GPU .* built for GPUs\)'):
        OnnxRuntime(1, True, Place(), without)


# --- the whole

ALL = ('--max_failure_rate', 1)  # whatever has no picture in it


def test_a_run_tells_what_has_computed_it(tmp_path):
    folder = saved(tmp_path / 'model', external='weights.bin')
    output = tmp_path / 'out'
    arguments = ('--input', samples.SAMPLE, '--output', output, '--model', folder)
    done = app.invoke('label', *arguments, '--run_id', 'a', '--threshold', 1, *ALL)
    assert done.returncode == 0, done.stderr
    assert 'float32 on CPU by ONNX Runtime' in done.stderr + done.stdout
    assert verify(str(output)) == []
    report = json.loads((output / 'runs/a/report.json').read_text())
    assert report['model']['kind'] == 'ONNX model'
    assert report['metadata']['backend'] == 'onnxruntime'
    assert report['metadata']['version.onnxruntime']
    for row in app.rows(output, 'predictions'):
        assert [label['name'] for label in row['labels']] == sorted(
            (label['name'] for label in row['labels']),
            key=[label['name'] for label in row['labels']].index,
        )
        assert len(row['labels']) == 3


def test_explain_tells_of_it(tmp_path):
    folder = saved(tmp_path / 'model')
    arguments = ('--input', samples.SAMPLE, '--output', tmp_path / 'out', '--model', folder)
    done = app.invoke('label', *arguments, '--explain')
    assert done.returncode == 0, done.stderr
    said = ' '.join((done.stdout + done.stderr).split())
    assert '--backend=auto auto: ONNX Runtime, which alone computes the ONNX model' in said
    assert 'ONNX Runtime and Beam 0.8' in said


# Four seconds, for a process and a whole run.
@pytest.mark.slow
def test_it_needs_no_tensorflow(tmp_path):
    """A whole run in a process of its own."""
    label = ['label', '--input', samples.SAMPLE, '--output', tmp_path / 'out', *ALL]
    label += ['--model', saved(tmp_path / 'model'), '--loader_processes', 0]
    done = app.python(
        '-c',
        'import json, sys\n'
        'from pipeline.main import main\n'
        f'code = main({[str(each) for each in label]!r})\n'
        'heavy = ("tensorflow", "keras", "jax", "onnx", "torch")\n'
        'print(json.dumps([code, [name for name in heavy if name in sys.modules]]))',
    )
    assert done.stdout.splitlines()[-1] == '[0, []]', done.stderr


def test_a_card_is_needed(tmp_path):
    folder = saved(tmp_path / 'model')
    (folder / 'model_card.json').unlink()
    with pytest.raises(UsageError, match=r'it has no model_card.json: write one'):
        resolve_model(str(folder))
