"""BiT networks by every route their weights can take, and SavedModels of other people.

What the authors' own implementation computes is compared with the loader of checkpoints, the
exported SavedModel, and the same SavedModel by `hub.load` from a server.
"""

import io
import json
import shutil
import tarfile
import warnings
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from pipeline.main import main
from tests.data.bit_reference import synthetic_weights
from tests.support import app, hub_server, layouts, samples
from tests.support.hub_server import module as hub_module
from transforms.core.errors import ModelError
from transforms.core.resources import cpu_count
from transforms.dataset.verify import verify
from transforms.images.decode import decode
from transforms.model.download.fetch import fetch_model, sha256_of
from transforms.model.families.bit.checkpoint import Architecture
from transforms.model.predictor import InferenceOptions, Predictor
from transforms.model.resolve import resolve_model
from transforms.model.runtimes.on_tensorflow import TensorFlow, import_tensorflow
from transforms.model.tensor_files import NpzCheckpoint

CLASSES = 100
PICTURES = ('noise64', 'noise193x161', 'noise224', 'photos224', 'gray128')
# A run that is the same wherever it is made: small, as the size is not the point.
RUN = ('--input', samples.SAMPLE, '--run_id', 'a', '--model_size', '64', '--batch_size', '4')
RUN += ('--threshold', '0')
REFERENCE = Path(synthetic_weights.__file__).with_name('r14x1.npz')


@pytest.fixture(scope='module', autouse=True)
def tf():
    return import_tensorflow(cpu_count())


@pytest.fixture(scope='module')
def reference():
    with np.load(REFERENCE) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope='module')
def weights(reference):
    weights = synthetic_weights.make_weights('R14x1', 0, CLASSES)
    assert synthetic_weights.digest(weights) == reference['weights_sha256'].item()
    return weights


@pytest.fixture(scope='module')
def npz(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'r14x1.npz'
    np.savez(path, **weights)
    return path


@pytest.fixture(scope='module')
def exported(npz, tmp_path_factory):
    folder = tmp_path_factory.mktemp('exported') / 'model'
    assert main(['export-model', '--weights', str(npz), '--output', str(folder)]) == 0
    return folder


@pytest.fixture(scope='module')
def loaded(tf, exported):
    return tf.saved_model.load(str(exported))


@pytest.fixture(scope='module')
def pixels(reference):
    """Photographs, small, as CPUs take their time with other precisions than float32."""
    return np.ascontiguousarray(reference['images_photos224'][:, ::3, ::3])


@pytest.fixture(scope='module')
def predictor(exported, pixels):
    return make_predictor(exported, exported.parent / 'cache', **shaped(pixels))


@pytest.fixture(scope='module')
def expected(predictor, pixels):
    """What the export gives for the photographs."""
    return predictor(pixels)


@pytest.fixture(scope='module')
def module(weights, tmp_path_factory):
    """A module as it would have been published."""
    return published(tmp_path_factory.mktemp('published') / 'module', weights, 14)


@pytest.fixture(scope='module')
def labelled(exported, tmp_path_factory):
    """The photographs of the sample as the export labels them, and their features."""
    output = tmp_path_factory.mktemp('labelled') / 'out'
    app.label(*RUN, '--output', output, '--model', exported, '--features')
    return output


def check_logits(found, reference, name):
    # A constant grey is ill-conditioned: its variance is a difference of nearly equal numbers.
    tolerance = 5e-3 if name == 'gray128' else 1e-3
    np.testing.assert_allclose(found, reference[f'logits_{name}'], rtol=0, atol=tolerance)


def check_features(found, reference, name):
    expected = reference[f'features_{name}']
    assert np.abs(np.asarray(found) - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.fixture(scope='module')
def network(npz):
    """Gives logits and features; without a head, see test_features_without_a_head."""
    import keras

    from transforms.model.families.bit import resnet

    with NpzCheckpoint(npz) as tensors:
        model = resnet.build(Architecture(14, 1), CLASSES, tensors)
    return keras.Model(model.input, [model.output, model.get_layer(resnet.FEATURES).output])


@pytest.mark.parametrize('name', PICTURES)
def test_the_loader_gives_what_the_authors_compute(network, reference, name):
    logits, features = network((reference[f'images_{name}'].astype(np.float32) - 127.5) / 127.5)
    check_logits(logits, reference, name)
    check_features(features, reference, name)


@pytest.mark.parametrize('suffix', layouts.WRITERS)
def test_a_file_in_any_layout_gives_what_the_authors_compute(weights, reference, suffix, tmp_path):
    from transforms.model.load import load_network

    path = tmp_path / f'mine{suffix}'
    layouts.WRITERS[suffix](weights, path)
    with_card(tmp_path, labels_of='class', architecture='')
    source = resolve_model(str(path))
    assert source.can_be_rebuilt
    runtime = TensorFlow(cpu_count(), require_gpu=False)
    network = load_network(source, 'float32', 2, True, runtime, must_be_rebuilt=True)
    assert (network.route, network.why_saved) == ('built from its weights', '')
    for name in ('noise64', 'photos224'):
        images = reference[f'images_{name}'].astype(np.float32)
        logits, features = network.call((images - network.mean) / network.std)
        check_logits(logits, reference, name)
        check_features(features, reference, name)


# Its logits are looked at in any case, as those of each layout of file are.
@pytest.mark.slow
def test_a_file_of_weights_labels_as_its_export_does(npz, pixels, expected, tmp_path):
    with_card(tmp_path, labels_of='class')
    path = shutil.copy(npz, tmp_path / 'mine.npz')
    source = resolve_model(str(path))
    assert (source.kind.value, source.passed_over) == ('.npz', ())
    found, how = predict(path, pixels, tmp_path)
    assert how['network'] == 'built from its weights'
    np.testing.assert_array_equal(found.indices[:, :5], expected.indices[:, :5])
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-6)


def test_plain_colours_have_no_negative_variance():
    from transforms.model.families.bit import resnet

    layer = resnet.GroupNormRelu('plain', 'ones', 'zeros')
    values = np.linspace(1, 1000, 200, dtype=np.float32)
    images = np.broadcast_to(values[:, None, None, None], (200, 3, 3, 32))
    assert np.isfinite(np.asarray(layer(images))).all()


@pytest.mark.parametrize('name', PICTURES)
def test_the_exported_model_gives_what_the_authors_compute(tf, loaded, reference, name):
    images = tf.constant(reference[f'images_{name}'])
    check_logits(loaded.signatures['logits'](images=images)['logits'], reference, name)
    check_features(loaded.signatures['features'](images=images)['features'], reference, name)
    check_logits(loaded(tf.cast(images, tf.float32) / 255), reference, name)


def archive(folder):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode='w') as file:
        file.add(folder, '.')
    return data.getvalue()


@pytest.fixture
def tensorflow_hub(tmp_path, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        import tensorflow_hub
    monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path / 'cache'))
    return tensorflow_hub


# Seconds for what it only adds up: that both find what the other has fetched is below, and the
# numbers of the same SavedModel are above.
@pytest.mark.slow
def test_hub_load_gives_what_the_authors_compute(tf, exported, reference, server, tensorflow_hub):
    """By the ways that a local SavedModel is called for every picture, see above."""
    loaded = tensorflow_hub.load(server.put('/me/model/1', hub_module(archive(exported))))
    images = tf.constant(reference['images_noise64'])
    check_logits(loaded.signatures['logits'](images=images)['logits'], reference, 'noise64')
    features = loaded.signatures['features'](images=images)['features']
    check_features(features, reference, 'noise64')


def test_tensorflow_hub_and_we_find_what_the_other_fetched(server, tensorflow_hub, tmp_path):
    model = tmp_path / 'model'
    model.mkdir()
    (model / 'saved_model.pb').write_bytes(b'graph')
    data = archive(model)
    ours, theirs = (server.put(f'/{name}/1', hub_module(data)) for name in ('ours', 'theirs'))
    cache = tmp_path / 'cache'
    folder = fetch_model(ours, cache)
    assert tensorflow_hub.resolve(ours) == str(folder)
    found = tensorflow_hub.resolve(theirs)
    assert Path(found).parent == cache
    assert [request.path for request in server.requests] == ['/ours/1', '/theirs/1']
    assert fetch_model(theirs, cache) == Path(found)
    assert sha256_of(Path(found)) == sha256_of(folder)
    assert len(server.requests) == 2


def test_serving_gives_the_labels_of_the_logits(tf, loaded, pixels):
    images = tf.constant(pixels)
    logits = loaded.signatures['logits'](images=images)['logits'].numpy().astype(np.float64)
    served = {k: v.numpy() for k, v in loaded.signatures['serving_default'](images=images).items()}
    scores = np.exp(logits - logits.max(1, keepdims=True))
    scores /= scores.sum(1, keepdims=True)
    best = np.argsort(-scores, axis=1, kind='stable')[:, :5]
    np.testing.assert_array_equal(served['indices'], best)
    np.testing.assert_allclose(served['scores'], np.take_along_axis(scores, best, 1), rtol=1e-4)
    np.testing.assert_array_equal(served['count'], (served['scores'] >= 0.05).sum(1))


def test_an_export_is_the_same_model_however_its_graph_came_out(
    tf, weights, exported, tmp_path, monkeypatch
):
    """Exported by another version, its graph is another; here it is an empty one.

    Nor does it matter who wrote the weights, and in which layout.
    """
    from transforms.model.families.bit import export

    class Nothing(tf.Module):
        def __init__(self, network, card):
            super().__init__()

        def signatures(self):
            return {}

    monkeypatch.setattr(export, '_Export', Nothing)
    one = resolve_model(str(exported), cache=str(tmp_path))
    for suffix, write in layouts.WRITERS.items():
        folder = tmp_path / suffix[1:]
        folder.mkdir()
        write(weights, folder / f'r14x1{suffix}')
        again = folder / 'again'
        arguments = ['--weights', str(folder / f'r14x1{suffix}'), '--output', str(again)]
        assert main(['export-model', *arguments]) == 0
        assert {path.name for path in folder.iterdir()} == {f'r14x1{suffix}', 'again'}
        other = resolve_model(str(again), cache=str(tmp_path))
        assert one.weights_sha256 != other.weights_sha256
        assert one.id == other.id


@pytest.mark.slow  # exports and loads a network more; features are tested in test_computing
def test_features_without_a_head(tf, weights, reference, tmp_path):
    body = {name: value for name, value in weights.items() if '/head/' not in name}
    np.savez(tmp_path / 'body.npz', **body)
    folder = tmp_path / 'model'
    assert (
        main(['export-model', '--weights', str(tmp_path / 'body.npz'), '--output', str(folder)])
        == 0
    )
    signatures = tf.saved_model.load(str(folder)).signatures
    assert set(signatures) == {'features', 'serving_default'}
    features = signatures['features'](images=tf.constant(reference['images_noise64']))['features']
    check_features(features, reference, 'noise64')
    output = tmp_path / 'out'
    report = app.label(*RUN, '--output', output, '--model', folder)
    assert report['counts']['labeled'] == 10
    assert verify(str(output)) == []
    rows = app.rows(output, 'predictions')
    assert {len(row['labels']) for row in rows} == {0}
    assert {len(row['features']) for row in rows} == {2048}


def test_features_beside_labels(exported, labelled, loaded, tmp_path, tf):
    """That they change no label is seen where a published module gives the same without them."""
    assert verify(str(labelled)) == []
    report = json.loads((labelled / 'runs/a/report.json').read_text())
    assert report['metadata']['features'] == '2048'
    assert report['model']['kind'] == 'SavedModel'
    assert report['model']['passed_over'] == []
    path = next(labelled.glob('predictions/**/*.parquet'))
    field = app.pq.read_schema(path).field('features')
    assert str(field.type) == 'fixed_size_list<element: halffloat>[2048]'
    rows = app.rows(labelled, 'predictions')
    card = resolve_model(str(exported), size_px=64, cache=str(tmp_path)).card
    images = [decode(Path(row['uri']).read_bytes(), card.resize) for row in rows]
    expected = loaded.signatures['features'](images=tf.constant(np.stack(images)))['features']
    found = np.array([row['features'] for row in rows])
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def published(folder, weights, depth, **options):
    from tests.support.published import PublishedModule, save

    save(PublishedModule(weights, depth, **options), folder)
    return folder


def test_a_published_module_gives_the_labels_of_the_checkpoint(module, labelled, server, tmp_path):
    """[0, 1] in, logits out, no card; its variables are recognized and the network built anew."""
    url = server.put('/me/module/1', hub_module(archive(module)))
    beside = tmp_path / 'card'
    beside.mkdir()
    with_card(beside, labels_of='class')
    output = tmp_path / 'out'
    flags = ('--model_card', beside / 'model_card.json', '--model_cache', tmp_path / 'cache')
    report = app.label(*RUN, *flags, '--output', output, '--model', url)
    assert verify(str(output)) == []
    assert report['model']['computed'][0]['network'] == 'built from its weights'
    assert report['model']['location'] == url
    assert len(server.requests) == 1
    labels = [
        {row['uri']: row['labels'] for row in app.rows(folder, 'predictions')}
        for folder in (output, labelled)
    ]
    assert labels[0] == labels[1]
    assert all(len(row) == 5 for row in labels[0].values())


# A network of 50 million weights is written and labelled with three times.
@pytest.mark.slow
def test_a_known_model_gives_the_same_labels_from_each_service(server, tmp_path, monkeypatch):
    weights = synthetic_weights.make_weights('R50x1', 0)
    layouts.write_npz(weights, tmp_path / 'x.npz')
    layouts.write_safetensors(weights, tmp_path / 'x.safetensors')
    handle = 'google/bit/m-r50x1/imagenet21k_classification/1'
    module = archive(published(tmp_path / 'published', weights, 50))
    for name in ('TFHUB_ENDPOINT', 'KAGGLE_API_ENDPOINT', 'HF_ENDPOINT'):
        monkeypatch.setenv(name, server.url)
    monkeypatch.setenv('BIT_MODELS_ENDPOINT', f'{server.url}/bit_models')
    services = {
        '.safetensors': lambda: hub_server.put_hugging_face(
            server, 'timm/resnetv2_50x1_bit.goog_in21k', (tmp_path / 'x.safetensors').read_bytes()
        ),
        '.npz': lambda: hub_server.put_checkpoint(
            server, 'BiT-M-R50x1.npz', (tmp_path / 'x.npz').read_bytes()
        ),
        'SavedModel': lambda: hub_server.put_tfhub(server, handle, module),
    }
    found = []
    for kind, put in services.items():
        put()
        output = tmp_path / f'out{kind}'
        report = app.label(
            *('--input', samples.SAMPLE, '--run_id', 'a', '--model_size', '64'),
            *('--batch_size', '4', '--canary', 'finite', '--threshold', '0', '--max_labels', '3'),
            *('--model', 'bit-m-r50x1', '--model_cache', tmp_path / f'cache{kind}'),
            *('--require_rebuilt', '--output', output),
        )
        assert verify(str(output)) == []
        assert report['model']['kind'] == kind
        rows = app.rows(output, 'predictions')
        found.append({row['uri']: [each['index'] for each in row['labels']] for row in rows})
    assert found[0] == found[1] == found[2]


# A network of 25 million weights is saved, loaded, exported and built three times.
@pytest.mark.slow
def test_a_published_module_by_its_handle_gives_the_labels_of_the_checkpoint(server, tmp_path):
    weights = synthetic_weights.make_weights('R50x1', 0, 1000)
    np.savez(tmp_path / 'BiT-M-R50x1-ILSVRC2012.npz', **weights)
    path = '/google/bit/m-r50x1/ilsvrc2012_classification/1'
    data = archive(published(tmp_path / 'published', weights, 50))
    url = server.put(path, hub_module(data))
    common = ('--input', samples.SAMPLE, '--run_id', 'a', '--model_size', '48')
    common += ('--canary', 'finite', '--threshold', '0', '--batch_size', '4')
    by_handle, by_checkpoint = tmp_path / 'by_handle', tmp_path / 'by_checkpoint'
    cache = ('--model_cache', tmp_path / 'cache')
    report = app.label(*common, *cache, '--output', by_handle, '--model', url)
    assert verify(str(by_handle)) == []
    assert report['model']['computed'][0]['network'] == 'built from its weights'
    assert report['model']['id'].startswith('bit-m-r50x1-ilsvrc2012-')
    assert report['model']['location'] == url
    assert len(server.requests) == 1
    exported = tmp_path / 'exported'
    npz = str(tmp_path / 'BiT-M-R50x1-ILSVRC2012.npz')
    assert main(['export-model', '--weights', npz, '--output', str(exported)]) == 0
    card = json.loads((exported / 'model_card.json').read_text())
    assert card['name'] == 'bit-m-r50x1-ilsvrc2012'
    assert card['resize'] == {'size_px': 384, 'short_side_px': None, 'filter': 'bilinear'}
    app.label(*common, '--output', by_checkpoint, '--model', exported)
    labels = [
        {row['uri']: row['labels'] for row in app.rows(output, 'predictions')}
        for output in (by_handle, by_checkpoint)
    ]
    assert labels[0] == labels[1]
    assert all(len(row) == 5 for row in labels[0].values())


CARD = {
    'name': 'mine',
    'resize': {'size_px': 224},
    'range': [0, 1],
    'activation': 'softmax',
    'labels': 'labels.txt',
    'architecture': 'R14x1',
}


def with_card(folder, classes=CLASSES, labels_of='thing', **changes):
    card = {key: value for key, value in (CARD | changes).items() if value is not None}
    (folder / 'model_card.json').write_text(json.dumps(card))
    names = [f'{labels_of} {i}\n' for i in range(classes)]
    (folder / 'labels.txt').write_text(''.join(names))
    return folder


def make_predictor(folder, cache, size_px=None, **options):
    source = resolve_model(str(folder), cache=str(cache), size_px=size_px)
    values = {
        'model': source,
        'threshold': 0.0,
        'max_labels': min(5, len(source.vocabulary)),
        'min_labels': 0,
        'intra_op_threads': cpu_count(),
        'canary': 'off',
    }
    return Predictor(InferenceOptions(**(values | options)))


def predict(folder, pixels, cache, **options):
    """The k best classes of pictures, and how they were computed."""
    predictor = make_predictor(folder, cache, **shaped(pixels), **options)
    return predictor(pixels), predictor.computed


def shaped(pixels):
    return {'batch_size': len(pixels), 'size_px': pixels.shape[1]}


# Of bfloat16, the contract of runtimes looks at the logits.
@pytest.mark.parametrize(
    ('precision', 'tolerance'),
    [pytest.param('bfloat16', 0.02, marks=pytest.mark.slow), ('float16', 0.004)],
)
def test_bit_in_other_precisions(exported, pixels, expected, tmp_path, precision, tolerance):
    found, how = predict(exported, pixels, tmp_path, precision=precision, features=True)
    assert how['precision'] == precision
    np.testing.assert_array_equal(found.indices[:, 0], expected.indices[:, 0])
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=tolerance)
    # Statistics, pooling and head are float32: features are no rounded bfloat16 numbers.
    assert len(np.unique(found.features)) > 500


class TestStrangers:
    """SavedModels of which nothing is known but their card."""

    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    pixels[0, ..., 0], pixels[1, ..., 2] = 255, 51  # red, and a dark blue
    card = MappingProxyType({'resize': {'size_px': 32}, 'architecture': None, 'activation': 'none'})

    def save(self, tf, folder, signature=None, **attributes):
        module = tf.Module()
        for name, value in attributes.items():
            setattr(module, name, value)
        signatures = {'serving_default': signature} if signature is not None else None
        tf.saved_model.save(module, str(folder), signatures=signatures)
        return folder

    def means(self, tf, shape=(None, 32, 32, 3), dtype=None):
        """The mean of each channel is its score."""
        dtype = dtype or tf.float32

        @tf.function(input_signature=[tf.TensorSpec(shape, dtype, 'pictures')])
        def call(pictures):
            return tf.reduce_mean(tf.cast(pictures, tf.float32), (1, 2))

        return call

    def scores(self, found):
        return np.take_along_axis(found.scores, np.argsort(found.indices, 1), 1)

    @pytest.mark.parametrize(
        ('changes', 'expected'),
        [
            ({}, [[1, 0, 0], [0, 0, 0.2]]),
            ({'channels': 'BGR'}, [[0, 0, 1], [0.2, 0, 0]]),
            ({'range': [-1, 1]}, [[1, -1, -1], [-1, -1, -0.6]]),
            (
                {'range': None, 'mean': [0, 51, 102], 'std': [51, 51, 51], 'channels': 'BGR'},
                [[0, -1, 3], [1, -1, -2]],
            ),
        ],
    )
    def test_range_and_channels_are_as_the_card_says(self, tf, tmp_path, changes, expected):
        folder = self.save(tf, tmp_path / 'model', __call__=self.means(tf))
        with_card(folder, 3, **self.card | changes)
        found, how = predict(folder, self.pixels, tmp_path)
        np.testing.assert_allclose(self.scores(found), expected, atol=1e-5)
        assert how['network'] == 'as it was saved'

    def test_weights_that_are_not_those_of_its_architecture_are_no_fault(self, tf, tmp_path):
        folder = self.save(tf, tmp_path / 'model', __call__=self.means(tf), x=tf.Variable([1.0]))
        with_card(folder, 3, **self.card | {'architecture': 'R14x1'})
        found, how = predict(folder, self.pixels, tmp_path)
        assert how['network'] == 'as it was saved'
        np.testing.assert_allclose(self.scores(found), [[1, 0, 0], [0, 0, 0.2]], atol=1e-5)
        with pytest.raises(ModelError, match=r'in float32: not the tensors of a BiT-R14x1: lacks'):
            predict(folder, self.pixels, tmp_path, precision='bfloat16')

    def test_a_signature_does_where_there_is_no_call(self, tf, tmp_path):
        folder = self.save(tf, tmp_path / 'model', self.means(tf, dtype=tf.uint8))
        with_card(folder, 3, **self.card | {'range': [0, 255]})
        found, _ = predict(folder, self.pixels, tmp_path)
        np.testing.assert_allclose(self.scores(found), [[255, 0, 0], [0, 0, 51]], atol=1e-3)

    def test_what_keras_exports(self, tf, tmp_path):
        import keras

        inputs = keras.Input((32, 32, 3))
        outputs = keras.layers.Softmax()(keras.layers.GlobalAveragePooling2D()(inputs))
        keras.Model(inputs, outputs).export(tmp_path / 'model', verbose=False)
        folder = with_card(tmp_path / 'model', 3, **self.card)
        found, _ = predict(folder, self.pixels, tmp_path)
        assert (found.indices[:, 0] == [0, 2]).all()

    def test_several_outputs_need_a_name(self, tf, tmp_path):
        means = self.means(tf)

        @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 3), tf.float32)])
        def call(x):
            return {'a': means(x), 'b': -means(x), 'features': tf.repeat(means(x), 4, axis=1)}

        folder = with_card(self.save(tf, tmp_path / 'model', __call__=call), 3, **self.card)
        with pytest.raises(ModelError, match=r"2 outputs: 'a' \(2, 3\) float32, 'b' \(2, 3\)"):
            predict(folder, self.pixels, tmp_path)
        with_card(folder, 3, **self.card | {'output': 'c'})
        with pytest.raises(ModelError, match="no output 'c'"):
            predict(folder, self.pixels, tmp_path)
        with_card(folder, 3, **self.card | {'output': 'b'})
        assert predict(folder, self.pixels, tmp_path)[0].features is None
        found, _ = predict(folder, self.pixels, tmp_path, features=True)
        np.testing.assert_allclose(self.scores(found)[0], [-1, 0, 0], atol=1e-6)
        assert found.features.shape == (2, 12)

    def test_shapes_that_are_only_known_when_it_runs(self, tf, tmp_path):
        @tf.function(input_signature=[tf.TensorSpec(None, tf.float32)])
        def call(x):
            return tf.reduce_mean(x, (1, 2))

        folder = with_card(self.save(tf, tmp_path / 'model', __call__=call), 3, **self.card)
        found, _ = predict(folder, self.pixels, tmp_path)
        np.testing.assert_allclose(self.scores(found)[0], [1, 0, 0], atol=1e-6)

    def test_a_head_that_does_not_fit_its_class_list(self, tf, tmp_path):
        folder = self.save(tf, tmp_path / 'model', __call__=self.means(tf))
        with_card(folder, 4, **self.card)
        with pytest.raises(ModelError, match="head of 3 classes, but its class list 'mine' has 4"):
            predict(folder, self.pixels, tmp_path)

    def test_the_list_of_other_heads_of_imagenet(self, tf, tmp_path):
        means = self.means(tf)

        @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 3), tf.float32)])
        def call(x):
            return tf.tile(20 * means(x) - 10, (1, 7281))  # 21,843

        folder = self.save(tf, tmp_path / 'model', __call__=call)
        card = self.card | {'labels': None, 'activation': 'sigmoid'}
        with_card(folder, **card | {'vocabulary': 'imagenet22k'})
        message = "head of 21843 classes, but its class list 'imagenet22k' has 21841; .*imagenet21k"
        with pytest.raises(ModelError, match=message):
            predict(folder, self.pixels, tmp_path)
        with_card(folder, **card | {'vocabulary': 'imagenet21k'})
        predict(folder, self.pixels, tmp_path)

    def test_another_size_or_batch_than_it_takes(self, tf, tmp_path):
        folder = self.save(tf, tmp_path / 'size', __call__=self.means(tf, (None, 16, 16, 3)))
        with_card(folder, 3, **self.card)
        with pytest.raises(ModelError, match=r'nothing that takes images of the shape \(2, 32, 32'):
            predict(folder, self.pixels, tmp_path)
        folder = self.save(tf, tmp_path / 'batch', self.means(tf, (1, 32, 32, 3)))
        with_card(folder, 3, **self.card)
        with pytest.raises(ModelError, match='takes batches of 1: --batch_size 1'):
            predict(folder, self.pixels, tmp_path)

    def test_outputs_of_another_form(self, tf, tmp_path):
        @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 3), tf.float32)])
        def call(x):
            return x

        folder = with_card(self.save(tf, tmp_path / 'model', __call__=call), 3, **self.card)
        with pytest.raises(ModelError, match=r'of the shape \(2, 32, 32, 3\) for 2 images'):
            predict(folder, self.pixels, tmp_path)

    def test_nothing_to_call_and_no_model_at_all(self, tf, tmp_path):
        folder = self.save(tf, tmp_path / 'model', variable=tf.Variable(1.0))
        with_card(folder, 3, **self.card)
        with pytest.raises(ModelError, match='it has no call and no signature'):
            predict(folder, self.pixels, tmp_path)
        (folder / 'saved_model.pb').write_bytes(b'no graph')
        with pytest.raises(ModelError, match='not a SavedModel that TensorFlow can load'):
            predict(folder, self.pixels, tmp_path)

    def test_what_it_cannot_do(self, tf, tmp_path):
        folder = self.save(tf, tmp_path / 'model', __call__=self.means(tf))
        with_card(folder, 3, **self.card)
        with pytest.raises(ModelError, match="has no output named 'features'"):
            predict(folder, self.pixels, tmp_path, features=True)
        with pytest.raises(ModelError, match='--precision bfloat16'):
            predict(folder, self.pixels, tmp_path, precision='bfloat16')

    def test_xla_compiles_it_if_asked(self, tf, tmp_path):
        folder = with_card(
            self.save(tf, tmp_path / 'model', __call__=self.means(tf)), 3, **self.card
        )
        plain, how = predict(folder, self.pixels, tmp_path)
        assert not how['jit']
        found, how = predict(folder, self.pixels, tmp_path, jit=True)
        assert how['jit']
        np.testing.assert_array_equal(found.indices, plain.indices)
        np.testing.assert_allclose(found.scores, plain.scores, rtol=0, atol=1e-5)

    def test_what_xla_cannot_compile_is_told(self, tf, tmp_path):
        means = self.means(tf)

        @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 3), tf.float32)])
        def call(x):
            return tf.strings.to_number(tf.strings.as_string(means(x)))

        folder = with_card(self.save(tf, tmp_path / 'model', __call__=call), 3, **self.card)
        predict(folder, self.pixels, tmp_path)
        message = r'the model failed in its first call, compiled by XLA \(--jit\): '
        with pytest.raises(ModelError, match=message):
            predict(folder, self.pixels, tmp_path, jit=True)

    def test_strict_refuses_what_sees_no_cat_and_finite_does_not(self, tf, tmp_path):
        means = self.means(tf)

        @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 3), tf.float32)])
        def call(x):
            return tf.tile(20 * means(x) - 10, (1, 334))[:, :1000]

        folder = self.save(tf, tmp_path / 'model', __call__=call)
        card = self.card | {'labels': None, 'vocabulary': 'ilsvrc2012', 'activation': 'softmax'}
        with_card(folder, **card)
        with pytest.raises(ModelError, match=r"n02120997 in the image 'cat\.jpg'"):
            predict(folder, self.pixels, tmp_path, canary='strict')
        predict(folder, self.pixels, tmp_path, canary='finite')

    def test_it_labels_from_the_command_line(self, tf, tmp_path, capsys):
        folder = self.save(tf, tmp_path / 'model', __call__=self.means(tf))
        with_card(folder, 3, **self.card)
        output = tmp_path / 'out'
        arguments = ('--input', samples.SAMPLE, '--output', output, '--model', folder)
        done = app.invoke('label', *arguments, '--max_failure_rate', '0.25')
        assert done.returncode == 0, done.stderr
        assert 'lemmabeam: --canary finite: it is not checked' in done.stderr
        sha256 = resolve_model(str(folder), cache=str(tmp_path)).weights_sha256
        assert f'--model_sha256 {sha256}' in done.stderr
        assert verify(str(output)) == []
        rows = app.rows(output, 'predictions')
        names = {label['name'] for row in rows for label in row['labels']}
        assert names <= {'thing 0', 'thing 1', 'thing 2'}
        (report,) = (json.loads(path.read_text()) for path in output.glob('runs/*/report.json'))
        assert report['model']['weights_sha256'] == sha256
        assert report['metadata']['canary'] == 'finite'
        assert main(['models', '--check', str(folder)]) == 0
        printed = capsys.readouterr().out
        assert 'as it was saved, float32 on CPU by TensorFlow' in printed
        assert 'thing 0' in printed
        config = ('--input', samples.SAMPLE, '--output', tmp_path / 'x', '--model', folder)
        with pytest.raises(ModelError, match='--precision float16'):
            app.make_config(*config, '--precision', 'float16')


def test_a_folder_and_an_archive_of_it_are_the_same_model(exported, tmp_path):
    (tmp_path / 'model.tar').write_bytes(archive(exported))
    one, other = (
        resolve_model(str(path), cache=str(tmp_path / 'cache'))
        for path in (exported, tmp_path / 'model.tar')
    )
    assert (one.id, one.card, one.vocabulary) == (other.id, other.card, other.vocabulary)
    assert one.weights_sha256 == other.weights_sha256
    assert one.path() != other.path()
    assert sha256_of(one.path()) == sha256_of(other.path())


def test_a_wrong_range_is_mended_and_other_channels_are_obeyed(
    exported, predictor, expected, pixels, tmp_path
):
    """The graph tells what it takes for white; which colour it was trained with first, nobody."""
    folder = tmp_path / 'copy'
    shutil.copytree(exported, folder)
    found, how = predict(with_card(folder, range=[0, 255], channels='BGR'), pixels, tmp_path)
    assert how['network'] == 'built from its weights'
    assert np.abs(found.scores - expected.scores).max() > 1e-3
    swapped = predictor(pixels[..., ::-1])
    np.testing.assert_allclose(found.scores, swapped.scores, rtol=0, atol=1e-5)


def test_half_copied_weights_are_named(exported, tmp_path):
    folder = tmp_path / 'copy'
    shutil.copytree(exported, folder)
    data = next(folder.glob('variables/*.data*'))
    data.write_bytes(data.read_bytes()[:5_000_000])
    pixels = np.zeros((1, 224, 224, 3), np.uint8)
    with pytest.raises(ModelError, match='cannot be read'):
        predict(folder, pixels, tmp_path)
