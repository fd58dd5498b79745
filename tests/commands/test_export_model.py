"""`lemmabeam export-model` without TensorFlow: its options, its card, and where weights come from.

What is written, and that it computes what the checkpoint does: `tests.model.test_saved_models`.
"""

import argparse
import json
import signal
import sys
import types

import numpy as np
import pytest

from pipeline.commands import export_model
from pipeline.main import main
from tests.data.bit_reference import synthetic_weights
from tests.support import forks, layouts
from tests.support.hub_server import body, put_hugging_face, stall, status
from transforms.images.resize import Resize
from transforms.model.card import CARD_FILE, CAT, Activation
from transforms.model.families.bit import checkpoint
from transforms.model.families.bit.checkpoint import Architecture
from transforms.model.resolve import resolve_model
from transforms.model.runtimes import on_tensorflow

CLASSES = 100


@pytest.fixture(scope='module')
def weights():
    return synthetic_weights.make_weights('R14x1', 0, CLASSES)


@pytest.fixture(scope='module')
def npz(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'r14x1.npz'
    np.savez(path, **weights)
    return path


@pytest.fixture
def exports(monkeypatch):
    """What was to be written: tensors, card, classes, labels; a folder with a card lies there."""
    found = []

    def export(tensors, card, classes, labels, folder):
        found.append((dict(tensors), card, classes, labels))
        folder.mkdir()
        (folder / 'saved_model.pb').write_bytes(b'no graph')
        (folder / CARD_FILE).write_text(json.dumps(card.to_dict()))
        if card.labels:
            (folder / card.labels).write_bytes(labels)

    stand_in = types.ModuleType('transforms.model.families.bit.export')
    stand_in.export = export
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    monkeypatch.setattr(on_tensorflow, 'import_tensorflow', lambda: None)
    return found


def run(weights, output, *arguments):
    return main(['export-model', '--weights', str(weights), '--output', str(output), *arguments])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--labels', 'LABELS'), '2 classes, but the head has 100'),
        (('--name', 'a/b'), "--name 'a/b': letters, digits"),
        (('--model_size', '9'), '--model_size 9: expected 16'),
        (('--output', 'TAKEN'), 'is there already, and not an empty folder'),
        (('--output', 'gs://bucket/model'), 'expected a local folder'),
        (('--output', '/dev/null/x'), '--output /dev/null/x: cannot be written: Not a directory'),
        (('--output', f'/tmp/{"x" * 300}'), 'cannot be written: File name too long'),
        (('--weights', 'nothere.npz'), '--weights nothere.npz: no such file'),
        (('--weights', 's3://bucket/x.npz'), 'local, gs://, https:// or hf:// only'),
        (('--weights', 'ftp://me:secret@host/x'), '--weights ftp://host/x: local'),
    ],
)
def test_what_cannot_be_exported(npz, exports, tmp_path, capsys, arguments, message):
    (tmp_path / 'labels.txt').write_text('a\nb\n')
    (tmp_path / 'taken').mkdir()
    (tmp_path / 'taken' / 'file').touch()
    words = {'LABELS': str(tmp_path / 'labels.txt'), 'TAKEN': str(tmp_path / 'taken')}
    given = [words.get(word, word) for word in arguments]
    before = {path.name for path in tmp_path.iterdir()}
    code = run(npz, tmp_path / 'model', *given)
    assert code == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == before
    assert exports == []


def test_labels_of_a_network_without_a_head_are_refused(tmp_path, exports, capsys):
    write_zeros(tmp_path / 'x.npz', None)
    assert run(tmp_path / 'x.npz', tmp_path / 'model', '--labels', str(tmp_path / 'x')) == 2
    assert 'this checkpoint has no head' in capsys.readouterr().err
    assert exports == []


def test_weights_from_a_bucket_and_a_server(
    npz, weights, exports, bucket, server, tmp_path, capsys
):
    data = npz.read_bytes()
    locations = (
        bucket.put('weights/r14x1.npz', data),
        server.put('/weights/r14x1.npz', body(data)) + '?X-Amz-Signature=secret',
        npz,
    )
    for i, location in enumerate(locations):
        assert run(location, tmp_path / str(i)) == 0
    cards = [card for _, card, _, _ in exports]
    assert cards[0] == cards[1] == cards[2]
    for tensors, _, classes, _ in exports:
        assert classes == CLASSES
        assert tensors.keys() == weights.keys()
        assert all(np.array_equal(tensors[name], weights[name]) for name in weights)
    missing = server.put('/nothere.npz', status(404)) + '?X-Amz-Signature=secret'
    assert run(missing, tmp_path / 'x') == 1
    printed, errors = capsys.readouterr()
    assert '404' in errors
    assert 'secret' not in printed + errors
    assert {path.name for path in tmp_path.iterdir()} == {'0', '1', '2'}


def layout(classes):
    return checkpoint.layout(Architecture(14, 1), classes)


def write_zeros(path, classes):
    np.savez(path, **{name: np.zeros(shape, np.float32) for name, shape in layout(classes).items()})


def test_an_official_file_has_an_official_card(exports, tmp_path, capsys):
    for stem, classes in (('BiT-M-R14x1-ILSVRC2012', 1000), ('mine', None), ('a b', 3)):
        write_zeros(tmp_path / f'{stem}.npz', classes)
        assert run(tmp_path / f'{stem}.npz', tmp_path / stem) == 0
    (_, official, _, _), (_, features, none, nothing), (_, other, _, labels) = exports
    assert official.name == 'bit-m-r14x1-ilsvrc2012'
    assert official.source == 'BiT-M-R14x1-ILSVRC2012'
    assert official.licence == 'Apache-2.0'
    assert (official.vocabulary, official.labels) == ('ilsvrc2012', '')
    assert official.resize == Resize(384, None, 'bilinear')
    assert official.activation is Activation.SOFTMAX
    assert official.canary == (CAT,)
    assert (features.name, features.licence) == ('mine', '')
    assert features.resize == Resize(224, 256, 'bilinear')
    assert other.resize == Resize(224, None, 'bilinear')
    assert (none, nothing, features.has_classes, features.canary) == (None, b'', False, ())
    assert other.name == 'bit-r14x1'
    assert (other.labels, other.vocabulary, other.canary) == ('labels.txt', '', ())
    assert (other.activation, other.threshold, other.max_labels) == (Activation.SOFTMAX, 0.05, 3)
    assert labels.decode() == ''.join(f'class {i}\n' for i in range(3))
    printed, errors = capsys.readouterr()
    assert errors.count('no known class list has 3 classes') == errors.count('\n') == 1
    assert 'BiT-R14x1 with 1,000 classes' in printed
    assert 'BiT-R14x1 with 0 classes' in printed
    assert f'weights SHA-256 {resolve_model(str(tmp_path / "mine")).weights_sha256}' in printed


def test_a_file_is_named_by_the_network_that_is_in_it(exports, tmp_path, capsys):
    """Some of the published ones hold another than they say."""
    write_zeros(tmp_path / 'BiT-S-R50x3.npz', 1000)
    assert run(tmp_path / 'BiT-S-R50x3.npz', tmp_path / 'model') == 0
    ((_, card, _, _),) = exports
    assert (card.name, card.architecture) == ('bit-s-r14x1', 'R14x1')
    errors = capsys.readouterr().err
    assert 'BiT-S-R50x3 holds a BiT-R14x1, whatever its name says' in errors


@pytest.mark.parametrize('suffix', ['.h5', '.safetensors'])
def test_weights_of_others_are_exported_too(weights, exports, server, tmp_path, suffix):
    path = tmp_path / f'r14x1{suffix}'
    layouts.WRITERS[suffix](weights, path)
    url = server.put(f'/r14x1{suffix}', body(path.read_bytes()))
    for number, location in enumerate((path, url)):
        assert run(location, tmp_path / str(number)) == 0
    for tensors, card, classes, _ in exports:
        assert (card.name, card.source, classes) == ('r14x1', 'r14x1', CLASSES)
        assert tensors.keys() == weights.keys()
        assert all(np.array_equal(tensors[name], weights[name]) for name in weights)


def test_a_repository_of_hugging_face_is_exported(exports, server, tmp_path, monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', server.url)
    monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path / 'cache'))
    zeros = {name: np.zeros(shape, np.float32) for name, shape in layout(None).items()}
    data = layouts.safetensors(layouts.timm(zeros))
    put_hugging_face(server, 'timm/resnetv2_50x1_bit.goog_in21k', data)
    name = 'timm/resnetv2_50x1_bit.goog_in21k'
    for number, location in enumerate((f'hf://{name}', f'https://huggingface.co/{name}')):
        assert run(location, tmp_path / str(number)) == 0
    for _, card, _, _ in exports:
        assert (card.name, card.source) == ('bit-m-r14x1', 'resnetv2_50x1_bit.goog_in21k')


@pytest.mark.parametrize(
    ('stem', 'classes'),
    [('mine', 1000), ('mine', None), ('BiT-M-R14x1-ILSVRC2012', 1000), ('R14x1', 21841)],
)
def test_a_file_takes_the_same_pixels_as_its_export(exports, tmp_path, stem, classes):
    write_zeros(tmp_path / f'{stem}.npz', classes)
    assert run(tmp_path / f'{stem}.npz', tmp_path / 'model') == 0
    ((_, card, _, _),) = exports
    assert resolve_model(str(tmp_path / f'{stem}.npz')).card.resize == card.resize


@pytest.mark.parametrize(
    ('stem', 'architecture', 'classes', 'expected'),
    [
        ('BiT-M-R101x3', 'R101x3', 21843, ('bit-m-r101x3', 224, 256, 'imagenet21k')),
        ('BiT-S-R50x1', 'R50x1', 1000, ('bit-s-r50x1', 224, 256, 'ilsvrc2012')),
        ('BiT-M-R152x4-ILSVRC2012', 'R152x4', 1000,
         ('bit-m-r152x4-ilsvrc2012', 480, None, 'ilsvrc2012')),
        ('R50x1_224', 'R50x1', 1000, ('bit-r50x1-distilled-224', 224, 256, 'ilsvrc2012')),
        ('R50x1_160', 'R50x1', 1000, ('bit-r50x1-distilled-160', 160, 183, 'ilsvrc2012')),
        ('R50x1_200', 'R50x1', 1000, ('R50x1_200', 384, None, 'ilsvrc2012')),
        ('mine', 'R50x1', 1000, ('mine', 384, None, 'ilsvrc2012')),
        ('mine', 'R50x1', 21841, ('mine', 224, None, 'imagenet22k')),
    ],
)  # fmt: skip
def test_a_card_says_what_the_makers_of_a_file_do(stem, architecture, classes, expected):
    args = argparse.Namespace(
        weights=f'https://host/{stem}.npz', name=None, labels=None, activation=None, model_size=None
    )
    card, _ = export_model._describe(args, Architecture.parse(architecture), classes)
    name, size, short_side, vocabulary = expected
    assert (card.name, card.vocabulary) == (name, vocabulary)
    assert (card.activation is Activation.SIGMOID) == (vocabulary == 'imagenet21k')
    assert (card.activation is Activation.SOFTMAX) == (vocabulary != 'imagenet21k')
    assert card.resize == Resize(size, short_side, 'bilinear')
    assert card.licence == ('' if stem in ('mine', 'R50x1_200') else 'Apache-2.0')
    assert card.threshold == (0.1 if classes == 21843 else 0.05)


def test_activation_labels_name_and_size_can_be_chosen(npz, exports, tmp_path):
    labels = tmp_path / 'labels.txt'
    labels.write_text(''.join(f'thing, {i}\t.\n' for i in range(CLASSES)))
    folder = tmp_path / 'new' / 'model'
    arguments = ('--activation', 'sigmoid', '--name', 'things', '--model_size', '96')
    assert run(npz, folder, '--labels', str(labels), *arguments) == 0
    source = resolve_model(str(folder), cache=str(tmp_path))
    assert source.card.activation is Activation.SIGMOID
    assert source.card.name == 'things'
    assert source.card.resize.size_px == 96
    assert source.vocabulary.names[7] == 'thing, 7\t.'
    assert (folder / 'labels.txt').read_bytes() == labels.read_bytes()


def test_names_of_known_classes_can_be_changed_and_come_as_a_table(exports, tmp_path):
    write_zeros(tmp_path / 'x.npz', 1000)
    table = tmp_path / 'mine.tsv'
    table.write_text('wnid\tlemmas\n' + ''.join(f'\tthing {i}\n' for i in range(1000)))
    assert run(tmp_path / 'x.npz', tmp_path / 'model', '--labels', str(table)) == 0
    ((_, card, _, labels),) = exports
    assert (card.labels, card.vocabulary, card.canary) == ('labels.tsv', '', ())
    assert (card.resize.size_px, card.threshold, card.max_labels) == (384, 0.05, 5)
    assert labels == table.read_bytes()
    assert resolve_model(str(tmp_path / 'model')).vocabulary.names[7] == 'thing 7'


def test_a_checkpoint_of_another_kind_is_named(exports, tmp_path, capsys):
    np.savez(tmp_path / 'x.npz', a=np.zeros(3, np.float32))
    assert run(tmp_path / 'x.npz', tmp_path / 'model') == 1
    assert 'not a BiT checkpoint: it lacks the tensor' in capsys.readouterr().err
    assert not (tmp_path / 'model').exists()
    assert exports == []


# A process takes seconds; both signals stop runs in tests/system/test_cli.py, by the same code.
@pytest.mark.parametrize(
    'number', [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_during_a_download_leaves_nothing(server, npz, tmp_path, number):
    data = npz.read_bytes()
    url = server.put('/w.npz', stall(data, len(data) // 2))
    arguments = ['export-model', '--weights', url, '--output', str(tmp_path / 'model')]
    process = forks.Fork('from pipeline.main import console; console()', *arguments)
    assert server.sent.wait(120)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 128 + number
    assert f'stopped by {signal.Signals(number).name}' in errors
    assert 'Traceback' not in errors
    assert list(tmp_path.iterdir()) == []
