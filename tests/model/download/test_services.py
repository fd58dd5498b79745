"""One model, several services: any of them will do, and which one did is said.

TF-Hub, Kaggle, the bucket with the checkpoints and the Hugging Face hub are imitated on loopback.
"""

import io
import json
import logging
import sys

import numpy as np
import pytest

from pipeline.commands import check_model
from pipeline.main import main
from tests.model.download.test_hub import FILES, make_tar, names_in
from tests.support import hub_server, layouts
from tests.support.hub_server import PAGE, body, status
from transforms.core.errors import ModelError, UsageError
from transforms.model.card import Activation
from transforms.model.download import http
from transforms.model.families.base import KnownModel
from transforms.model.families.bit import known
from transforms.model.families.bit.checkpoint import Architecture, layout
from transforms.model.families.bit.known import bit_card
from transforms.model.resolve import printable_location, resolve_model
from transforms.model.tensor_files import Kind

NAME = 'bit-m-r14x1-features'
HANDLE = 'google/bit/m-r14x1/1'
REPOSITORY = 'timm/resnetv2_14x1_bit.goog_in21k'
CHECKPOINT = 'BiT-M-R14x1.npz'
TFHUB = f'https://tfhub.dev/{HANDLE}'
KAGGLE = 'google/bit/tensorFlow2/m-r14x1/1'
BUCKET = f'https://storage.googleapis.com/bit_models/{CHECKPOINT}'
HUGGING_FACE = f'hf://{REPOSITORY}'
ARCHITECTURE = Architecture(14, 1)
# Without the card that it has in other tests.
MODULE = make_tar({name: data for name, data in FILES.items() if name != 'model_card.json'})
SECRET = 's3cr3t'


def zeros(architecture=ARCHITECTURE):
    shapes = layout(architecture, None)
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def npz_of(weights):
    data = io.BytesIO()
    np.savez_compressed(data, **weights)
    return data.getvalue()


@pytest.fixture(scope='module')
def npz():
    return npz_of(zeros())


@pytest.fixture(scope='module')
def safetensors():
    return layouts.safetensors(layouts.timm(zeros()))


@pytest.fixture(autouse=True)
def world(server, monkeypatch, tmp_path):
    """All services are this server, which has nothing yet, and this small model is known."""
    for name in ('KAGGLE_API_TOKEN', 'KAGGLE_USERNAME', 'KAGGLEHUB_CACHE', 'TFHUB_CACHE_DIR'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setenv('TFHUB_ENDPOINT', server.url)
    monkeypatch.setenv('KAGGLE_API_ENDPOINT', server.url)
    monkeypatch.setenv('BIT_MODELS_ENDPOINT', f'{server.url}/bit_models')
    monkeypatch.setenv('HF_ENDPOINT', server.url)
    monkeypatch.setattr(http, '_PAUSES_SEC', (0.01, 0.01))
    card = bit_card(NAME, ARCHITECTURE, '', value_range=(0.0, 1.0))
    assert card.activation is Activation.NONE
    model = KnownModel(card, TFHUB, 1, 1, KAGGLE, (BUCKET, HUGGING_FACE))
    monkeypatch.setitem(known.cards(), NAME, model)


def resolve(tmp_path, **options):
    return resolve_model(NAME, cache=str(tmp_path / 'cache'), **options)


@pytest.fixture
def put(server, npz, safetensors):
    """Puts one service on the server."""

    def put(name):
        return {
            'tfhub': lambda: hub_server.put_tfhub(server, HANDLE, MODULE),
            'kaggle page': lambda: hub_server.put_kaggle_page(server, HANDLE, MODULE),
            'kaggle': lambda: hub_server.put_kaggle_api(server, HANDLE, MODULE),
            'kaggle, newer': lambda: hub_server.put_newer_kaggle_api(server, HANDLE, MODULE),
            'bucket': lambda: hub_server.put_checkpoint(server, CHECKPOINT, npz),
            'hugging face': lambda: hub_server.put_hugging_face(server, REPOSITORY, safetensors),
        }[name]()

    return put


ROUTES = {
    'tfhub': (TFHUB, Kind.SAVED_MODEL, 0),
    'kaggle page': (KAGGLE, Kind.SAVED_MODEL, 1),
    'kaggle': (KAGGLE, Kind.SAVED_MODEL, 1),
    'kaggle, newer': (KAGGLE, Kind.SAVED_MODEL, 1),
    'bucket': (BUCKET, Kind.NPZ, 2),
    'hugging face': (HUGGING_FACE, Kind.SAFETENSORS, 3),
}


@pytest.mark.parametrize('route', ROUTES)
def test_each_service_will_do_alone(server, put, tmp_path, route):
    put(route)
    location, kind, passed_over = ROUTES[route]
    source = resolve(tmp_path)
    assert (source.location, source.kind) == (location, kind)
    assert len(source.passed_over) == passed_over
    assert all('HTTP 404' in why for why in source.passed_over)
    assert (source.card.name, source.card.architecture) == (NAME, 'R14x1')
    assert source.can_be_rebuilt
    (entry,) = (name for name in names_in(tmp_path / 'cache') if '.' not in name)
    assert names_in(tmp_path / 'cache') == [entry, f'{entry}.descriptor.txt']
    # What is here is taken, whatever has come up meanwhile.
    asked = len(server.requests)
    put('tfhub')
    again = resolve(tmp_path)
    assert again == source
    assert again.passed_over == ()
    assert source.path() == again.path()
    assert len(server.requests) == asked
    # A worker fetches it from the same place.
    worker = resolve_model(source.location, card=NAME, cache=str(tmp_path / 'worker'))
    assert worker.weights_sha256 == source.weights_sha256
    assert worker.fingerprint == source.fingerprint


FAULTS = {
    'refused': status(403, SECRET.encode()),
    'wants credentials': status(401),
    'is down': status(503),
    'shows a page': PAGE,
    'is in a loop': hub_server.redirect(f'/?token={SECRET}'),
    'sends something else': body(b'{"message": "s3cr3t"}', 'application/json'),
}


@pytest.mark.parametrize('fault', FAULTS)
@pytest.mark.parametrize('left', ['tfhub', 'bucket', 'hugging face'])
def test_one_of_three_is_enough_whatever_the_others_do(server, put, tmp_path, left, fault):
    paths = [
        f'/{HANDLE}',
        f'/api/v1/models/{KAGGLE}/download',
        '/models/google/bit/frameworks/TensorFlow2/variations/m-r14x1/versions/1',
        f'/bit_models/{CHECKPOINT}',
    ]
    server.put('/', hub_server.redirect('/'))
    for path in paths:
        server.put(path, FAULTS[fault])
    put(left)
    source = resolve(tmp_path)
    assert source.location == ROUTES[left][0]
    assert SECRET not in ''.join(source.passed_over)


def test_the_last_message_names_every_service_and_the_way_by_hand(server, tmp_path, monkeypatch):
    server.put(f'/{HANDLE}', status(403))
    server.put(f'/bit_models/{CHECKPOINT}', PAGE)
    with pytest.raises(ModelError) as caught:
        resolve(tmp_path)
    message = str(caught.value)
    for part in (
        f'{server.url}/{HANDLE}: HTTP 403',
        f'/api/v1/models/{KAGGLE}/download: HTTP 404',
        '/variations/m-r14x1/versions/1: HTTP 404',
        'KAGGLE_API_TOKEN',
        f'{CHECKPOINT}: a web page, not a model',
        HUGGING_FACE,
        'by hand and pass its folder, archive or file to --model',
        '--model_cache',
    ):
        assert part in message
    assert names_in(tmp_path / 'cache') == []


def test_a_model_of_one_source_names_the_way_by_hand(server, tmp_path):
    with pytest.raises(ModelError, match=r'HTTP 404.*by hand.*--model_cache DIR'):
        resolve_model(f'{server.url}/nowhere.tar.gz', cache=str(tmp_path / 'cache'))


def test_a_known_file_with_other_weights_is_passed_over(server, put, tmp_path):
    """As some of the published ones are."""
    server.put(f'/bit_models/{CHECKPOINT}', body(npz_of(zeros(Architecture(50, 1)))))
    put('hugging face')
    source = resolve(tmp_path)
    assert source.location == HUGGING_FACE
    assert f'holds a BiT-R50x1, but {NAME} is a BiT-R14x1' in source.passed_over[-1]


def test_weights_that_are_pinned_are_looked_for_at_all_services(server, put, tmp_path):
    put('bucket')
    pinned = resolve(tmp_path).weights_sha256
    put('tfhub')
    other = tmp_path / 'other'
    source = resolve_model(NAME, cache=str(other), sha256=pinned)
    assert source.location == BUCKET
    assert 'has the SHA-256' in source.passed_over[0]
    with pytest.raises(ModelError, match='--model_sha256 is 0'):
        resolve_model(NAME, cache=str(other), sha256='0' * 64)


@pytest.mark.parametrize('cut_bytes', [0, 7, 1000, -1])
def test_half_a_file_never_comes_into_the_cache(server, tmp_path, npz, cut_bytes):
    """That the server took for whole."""
    server.put(f'/bit_models/{CHECKPOINT}', body(npz[:cut_bytes]))
    with pytest.raises(ModelError):
        resolve_model(BUCKET, cache=str(tmp_path / 'cache'))
    assert names_in(tmp_path / 'cache') == []


def test_a_checkpoint_is_continued_where_it_broke_off(server, tmp_path):
    chance = np.random.default_rng(0)
    weights = {name: chance.random(value.shape, np.float32) for name, value in zeros().items()}
    data = layouts.safetensors(layouts.timm(weights))
    part = len(data) // 5 + 1
    server.put('/w.safetensors', hub_server.resumable(data, size_bytes=part))
    source = resolve_model(f'{server.url}/w.safetensors', cache=str(tmp_path / 'cache'))
    assert source.path().read_bytes() == data
    ranges = [request.headers.get('Range') for request in server.requests]
    assert ranges == [None, *(f'bytes={part * i}-' for i in range(1, 5))]


def test_modules_of_google_are_looked_for_on_both_sites(server, put, tmp_path):
    put('kaggle')
    for number, location in enumerate((TFHUB, HANDLE, HANDLE.removesuffix('/1'))):
        source = resolve_model(location, card=NAME, cache=str(tmp_path / str(number)))
        assert source.location == KAGGLE
        assert 'HTTP 404' in source.passed_over[0]
    server.put(f'/api/v1/models/{KAGGLE}/download', status(403))
    server.put(f'/{HANDLE}', hub_server.module(MODULE))
    source = resolve_model(KAGGLE, card=NAME, cache=str(tmp_path / 'x'))
    assert source.location == TFHUB


def test_credentials_that_are_broken_end_one_service_and_not_the_search(put, tmp_path, monkeypatch):
    monkeypatch.setenv('KAGGLE_API_TOKEN', f'{SECRET} {SECRET}')
    put('bucket')
    source = resolve(tmp_path)
    assert source.location == BUCKET
    assert source.passed_over[1] == 'KAGGLE_API_TOKEN: not a Kaggle token; expected one word'


# --- Hugging Face


@pytest.mark.parametrize(
    'location',
    [
        HUGGING_FACE,
        f'{HUGGING_FACE}@main',
        f'https://huggingface.co/{REPOSITORY}',
        f'https://huggingface.co/{REPOSITORY}/tree/main',
        f'https://huggingface.co/{REPOSITORY}/blob/main/model.safetensors?x=1',
    ],
)
def test_names_of_a_repository(put, tmp_path, location):
    put('hugging face')
    calls = []
    source = resolve_model(
        location,
        card=NAME,
        cache=str(tmp_path / 'cache'),
        on_progress=lambda done, total: calls.append((done, total)),
    )
    assert source.kind is Kind.SAFETENSORS
    size_bytes = source.path().stat().st_size
    assert calls[-1] == (size_bytes, size_bytes)


def test_a_repository_that_is_not_there(server, tmp_path):
    for code, advice in ((404, ''), (401, '; set HF_TOKEN'), (403, '; set HF_TOKEN')):
        server.put(f'/{REPOSITORY}/resolve/main/model.safetensors', status(code, b's3cr3t'))
        with pytest.raises(ModelError, match=f'^{HUGGING_FACE}: HTTP {code}{advice}') as caught:
            resolve_model(HUGGING_FACE, cache=str(tmp_path / 'cache'))
        assert SECRET not in str(caught.value)
    assert names_in(tmp_path / 'cache') == []


def test_a_hub_that_answers_with_a_page(server, tmp_path):
    server.put(f'/{REPOSITORY}/resolve/main/model.safetensors', PAGE)
    with pytest.raises(ModelError, match=f'^{HUGGING_FACE}: cannot be downloaded: '):
        resolve_model(HUGGING_FACE, cache=str(tmp_path / 'cache'))
    assert names_in(tmp_path / 'cache') == []


def test_a_signed_url_of_the_hub_is_not_logged(server, tmp_path, safetensors):
    records = []
    logger = logging.getLogger('huggingface_hub')
    handler = logging.Handler()
    handler.emit = records.append
    storage = f'{server.other_name}/storage?X-Amz-Signature={SECRET}'
    hub_server.put_hugging_face(server, REPOSITORY, safetensors, storage)
    server.put('/storage', hub_server.cut(safetensors, 10_000_000), body(safetensors))
    logger.addHandler(handler)
    try:
        level = logger.level
        source = resolve_model(HUGGING_FACE, card=NAME, cache=str(tmp_path / 'cache'))
        assert logger.level == level
    finally:
        logger.removeHandler(handler)
    assert source.path().read_bytes() == safetensors
    assert [request.path for request in server.requests].count('/storage') == 2
    assert records == []


@pytest.mark.parametrize(
    'location',
    [
        *('hf://', 'hf://timm', 'hf://a/b/c', 'hf://a/b?token=s3cr3t#', 'hf://a/b@c?token=s3cr3t'),
        # By the rules of the hub.
        *('hf://a--b/c', 'hf://../..', 'hf://a/b.', f'hf://a/{"b" * 120}'),
    ],
)
def test_what_is_no_repository(tmp_path, location):
    with pytest.raises((UsageError, ModelError)) as caught:
        resolve_model(location, cache=str(tmp_path))
    assert SECRET not in str(caught.value)


def test_without_the_library_it_is_said_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ModelError, match=r"pip install 'lemmabeam\[hf\]'"):
        resolve_model(HUGGING_FACE, cache=str(tmp_path))


def test_what_stands_behind_the_name_of_a_repository_is_not_reported(put, tmp_path):
    put('hugging face')
    source = resolve_model(
        f'{HUGGING_FACE}?token={SECRET}', card=NAME, cache=str(tmp_path / 'cache')
    )
    assert printable_location(source.location) == HUGGING_FACE


# --- files of weights as models


def test_weights_are_a_model_without_a_card(tmp_path, npz):
    path = tmp_path / 'mine.npz'
    path.write_bytes(npz)
    source = resolve_model(str(path))
    assert (source.card.name, source.card.architecture) == ('bit-r14x1', 'R14x1')
    assert (source.kind, source.card.has_classes) == (Kind.NPZ, False)
    assert source.path() == path
    path.write_bytes(npz_of({name: value + 1 for name, value in zeros().items()}))
    with pytest.raises(ModelError, match=r'it was changed, or .* is damaged: delete it'):
        source.path()


def test_a_head_of_unknown_classes_needs_a_card(tmp_path):
    shapes = layout(ARCHITECTURE, 3)
    path = tmp_path / 'mine.npz'
    path.write_bytes(npz_of({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}))
    with pytest.raises(UsageError, match='no known class list has 3 classes: pass --model_card'):
        resolve_model(str(path))
    card = {
        'name': 'mine',
        'resize': {'size_px': 64},
        'range': [0, 1],
        'activation': 'softmax',
        'labels': 'labels.txt',
    }
    (tmp_path / 'labels.txt').write_text('a\nb\nc\n')
    (tmp_path / 'model_card.json').write_text(json.dumps(card))
    source = resolve_model(str(path))
    assert (source.card.name, source.vocabulary.names) == ('mine', ('a', 'b', 'c'))
    assert source.card.architecture == 'R14x1'
    (tmp_path / 'model_card.json').write_text(json.dumps({**card, 'architecture': 'R50x1'}))
    with pytest.raises(ModelError, match='holds a BiT-R14x1, but mine is a BiT-R50x1'):
        resolve_model(str(path))
    (tmp_path / 'labels.txt').write_text('a\nb\n')
    (tmp_path / 'model_card.json').write_text(json.dumps(card))
    with pytest.raises(ModelError, match='has a head of 3 classes, but mine has 2'):
        resolve_model(str(path))


def test_weights_in_a_bucket_are_fetched_until_they_change(bucket, npz, tmp_path):
    uri = bucket.put('weights/BiT-M-R14x1.npz', npz)
    cache = str(tmp_path / 'cache')
    source = resolve_model(uri, cache=cache)
    assert source.path().read_bytes() == npz
    assert source.path().parents[1] == tmp_path / 'cache'
    changed = npz_of({name: value + 1 for name, value in zeros().items()})
    bucket.put('weights/BiT-M-R14x1.npz', changed)
    assert resolve_model(uri, cache=cache).path().read_bytes() == changed


def test_a_folder_of_hugging_face_is_a_model(tmp_path, safetensors):
    folder = tmp_path / 'resnetv2_14x1_bit.goog_in21k'
    folder.mkdir()
    (folder / 'model.safetensors').write_bytes(safetensors)
    source = resolve_model(str(folder))
    assert source.path() == folder / 'model.safetensors'


def test_the_service_that_was_used_is_said(put, tmp_path, capsys, monkeypatch):
    put('bucket')
    monkeypatch.setenv('COLUMNS', '400')
    monkeypatch.setattr(check_model, 'check_precision', _stop)
    code = main(['models', '--check', NAME, '--model_cache', str(tmp_path / 'cache')])
    assert code == 1
    printed = capsys.readouterr().out
    assert f'location:  {BUCKET}' in printed
    assert 'weights:   .npz, SHA-256 ' in printed
    assert 'not from 1:' in printed


def _stop(*_):
    raise ModelError('far enough')
