"""Model cards, class lists, and the models that are known by name; no weights are loaded."""

import io
import json
import pickle

import pytest

from tests.support import efficientnets
from transforms.core.errors import ModelError, UsageError
from transforms.images.resize import Resize
from transforms.model.card import Activation, Canary, ModelCard, card_template, parse_card
from transforms.model.families import efficientnet_lite
from transforms.model.registry import find_by_location, find_model, known_models
from transforms.model.resolve import printable_location, resolve_model
from transforms.model.vocabulary import (
    check_head,
    class_count,
    hypernyms,
    is_under,
    load_vocabulary,
    parse_labels,
    vocabulary_names,
)

CARD = {
    'name': 'birds',
    'resize': {'size_px': 224},
    'range': [-1, 1],
    'activation': 'softmax',
    'labels': 'labels.txt',
}
FELINE = 'n02120997'


def parse(**changes):
    card = {key: value for key, value in (CARD | changes).items() if value is not None}
    return parse_card(json.dumps(card).encode(), 'the card')


def test_a_card_has_defaults_and_a_range():
    assert parse() == ModelCard(
        name='birds',
        resize=Resize(224, None, 'bilinear'),
        mean=127.5,
        std=127.5,
        activation=Activation.SOFTMAX,
        labels='labels.txt',
    )
    assert (parse(range=[0, 1]).mean, parse(range=[0, 1]).std) == (0.0, 255.0)
    caffe = parse(range=None, mean=[103.9, 116.8, 123.7], std=1, channels='BGR')
    assert (caffe.mean, caffe.std, caffe.channels) == ((103.9, 116.8, 123.7), 1.0, 'BGR')


def test_a_card_is_read_as_it_was_written():
    cards = [model.card for model in known_models().values()]
    cards.append(parse(range=None, mean=[1, 2, 3], std=[4, 5, 6], output='x'))
    for card in cards:
        assert parse_card(json.dumps(card.to_dict()).encode(), 'it') == card


def test_the_template_is_a_card():
    assert parse_card(card_template().encode(), 'it').labels == 'labels.txt'


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'treshold': 0.5}, "unknown key 'treshold', did you mean 'threshold'?"),
        ({'name': None}, "lacks the key 'name'"),
        ({'source': '\ud800x'}, "'source' is"),
        ({'range': [0, 10**400]}, "'range' is"),
        ({'name': 'a/b'}, '\'name\' is "a/b", expected letters, digits'),
        ({'resize': {'size_px': 5}}, "'resize' is"),
        ({'resize': {'size_px': 224.5}}, "'resize' is"),
        ({'resize': {'size_px': 224, 'short_side_px': 100}}, 'at least size_px'),
        ({'resize': {'size_px': 224, 'filter': 'lanczos'}}, 'bilinear, bicubic'),
        ({'resize': {'size_px': 224, 'crop': 1}}, "'resize' is"),
        ({'range': [1, 0]}, "'range' is [1, 0], expected [low, high]"),
        ({'range': [0, float('nan')]}, "'range' is"),
        ({'range': None}, "either 'range' or both 'mean' and 'std', but it has neither"),
        ({'mean': 1}, "it has 'mean', 'range'"),
        ({'range': None, 'mean': [1, 2], 'std': 1}, "'mean' is [1, 2]"),
        ({'range': None, 'mean': 0, 'std': 0}, "'std' is 0, expected"),
        ({'channels': 'GRB'}, '\'channels\' is "GRB"'),
        ({'activation': 'relu'}, '"sigmoid", "softmax", "none"'),
        ({'labels': '../labels.txt'}, "'labels' is"),
        ({'labels': '/etc/passwd'}, "'labels' is"),
        ({'vocabulary': 'ilsvrc2012'}, "'vocabulary' and 'labels' are mutually exclusive"),
        ({'max_labels': 0}, "'max_labels' is 0"),
        ({'max_labels': True}, "'max_labels' is true"),
        ({'batch_size': 1.5}, "'batch_size' is 1.5"),
        ({'weights_sha256': 'ABC'}, "'weights_sha256' is"),
        ({'canary': [{'image': 'cat.jpg'}]}, "'canary' is"),
        ({'canary': [{'image': '../x', 'expected': 'cat'}]}, "'canary' is"),
        ({'canary': {'image': 'cat.jpg', 'expected': 'cat'}}, "'canary' is"),
    ],
)
def test_all_that_is_wrong_with_a_card_is_named(changes, message):
    with pytest.raises(UsageError) as caught:
        parse(**changes, colour=1)
    assert str(caught.value).startswith('the card: ')
    assert message in str(caught.value)
    assert "unknown key 'colour'" in str(caught.value)


@pytest.mark.parametrize('text', [b'', b'{', b'\xff', b'[]', b'7', b'[' * 100_000])
def test_what_is_no_card(text):
    with pytest.raises(UsageError, match=r'the card: (not valid JSON|expected a JSON object)'):
        parse_card(text, 'the card')


def test_another_size_keeps_the_rule_and_forgets_exact_scores():
    card = efficientnet_lite.CARD.to_size(112)
    assert card.resize == Resize(112, 128, 'bicubic')
    assert {canary.min_score for canary in card.canary} == {0.0}
    assert efficientnet_lite.CARD.to_size(224) is efficientnet_lite.CARD


def test_the_fingerprint_covers_what_makes_scores_and_nothing_else():
    card = parse()
    before = card.fingerprint('weights', 'classes')
    for other in (
        parse(range=[0, 1]),
        parse(channels='BGR'),
        parse(activation='sigmoid'),
        parse(resize={'size_px': 225}),
        parse(output='logits'),
    ):
        assert other.fingerprint('weights', 'classes') != before
    assert card.fingerprint('others', 'classes') != before
    assert card.fingerprint('weights', 'others') != before
    # An export is known by the checkpoint it was made from, but not where its card was copied to.
    one, other = 'a' * 64, 'b' * 64
    export = parse(weights_sha256=one, saved_model_sha256=other)
    assert export.fingerprint(other, 'classes') == card.fingerprint(one, 'classes')
    assert export.fingerprint('weights', 'classes') == before
    same = parse(threshold=0.9, max_labels=1, batch_size=3, source='x', licence='y', name='z')
    assert same.fingerprint('weights', 'classes') == before


def test_every_name_of_the_family_is_known():
    names = known_models()
    expected = {'embedded'}
    for network in ('r50x1', 'r50x3', 'r101x1', 'r101x3', 'r152x4'):
        expected |= {f'bit-m-{network}{suffix}' for suffix in ('', '-ilsvrc2012', '-features')}
        expected |= {f'bit-s-{network}{suffix}' for suffix in ('-ilsvrc2012', '-features')}
    expected |= {f'efficientnetv2-{variant}-imagenet21k' for variant in efficientnets.VARIANTS}
    assert set(names) == expected
    assert find_model('efficientnetv2-s') is names['efficientnetv2-s-imagenet21k']
    assert find_model('bit-s-r50x1') is names['bit-s-r50x1-ilsvrc2012']
    assert find_model('google/bit/m-r50x1/1') is None
    for name in (
        'bit-m-r50x2', 'bit-l-r50x1', 'bit-m-r50x1-imagenet', 'BIT-M-R50X1',
        'efficientnetv2-b4', 'efficientnetv2-s-ilsvrc2012',
    ):  # fmt: skip
        with pytest.raises(UsageError, match='there is no model'):
            find_model(name)


def test_heads_have_their_activation_size_and_classes():
    large, small, none = 'imagenet21k', 'ilsvrc2012', ''
    for name, activation, size, short_side, classes in (
        ('bit-m-r101x3', Activation.SIGMOID, 224, 256, large),
        ('bit-m-r152x4', Activation.SIGMOID, 224, 256, large),
        ('bit-m-r101x3-ilsvrc2012', Activation.SOFTMAX, 384, None, small),
        ('bit-m-r152x4-ilsvrc2012', Activation.SOFTMAX, 480, None, small),
        ('bit-s-r50x1', Activation.SOFTMAX, 384, None, small),
        ('bit-s-r152x4', Activation.SOFTMAX, 480, None, small),
        ('bit-m-r152x4-features', Activation.NONE, 224, 256, none),
        ('bit-s-r50x3-features', Activation.NONE, 224, 256, none),
        ('efficientnetv2-b0-imagenet21k', Activation.SIGMOID, 224, 256, large),
        ('efficientnetv2-b3-imagenet21k', Activation.SIGMOID, 300, 332, large),
        ('efficientnetv2-s-imagenet21k', Activation.SIGMOID, 384, None, large),
        ('efficientnetv2-xl-imagenet21k', Activation.SIGMOID, 512, None, large),
    ):
        card = find_model(name).card
        resize = Resize(size, short_side, 'bilinear')
        assert (card.activation, card.resize, card.vocabulary) == (activation, resize, classes)
        labels = (0.1, 20) if classes == large else (0.05, 5)
        assert (card.threshold, card.max_labels) == labels
        assert card.gpu_batch_size == (128 if size <= 300 else 32)
        assert (card.mean, card.std) == (0.0, 255.0)
        assert bool(card.canary) == bool(classes)
    model = find_model('bit-m-r101x3')
    assert model.parameters == 516_015_123
    assert 69e9 < model.multiply_adds < 72e9
    # That of the size which it takes, and so (384 / 224)² as many.
    fine_tuned = find_model('bit-m-r101x3-ilsvrc2012')
    assert 2.85 < fine_tuned.multiply_adds / model.multiply_adds < 2.95


@pytest.mark.parametrize(('variant', 'million', 'billion'), [
    ('b0', 7.1, 0.7), ('b1', 8.1, 1.2), ('b2', 10.1, 1.7), ('b3', 14.4, 3.0),
    ('s', 21.5, 8.4), ('m', 54.1, 24.6), ('l', 118.5, 56.1), ('xl', 208.1, 93.4),
])  # fmt: skip
def test_efficientnets_are_counted_layer_by_layer(variant, million, billion):
    """With the 1,000 classes of the paper, and of Keras, they are what these say."""
    network = efficientnets.VARIANTS[variant]
    parameters, multiply_adds = efficientnets.count(network, 1000)
    assert (round(parameters / 1e6, 1), round(multiply_adds / 1e9, 1)) == (million, billion)
    known = find_model(f'efficientnetv2-{variant}')
    assert (known.parameters, known.multiply_adds) == efficientnets.count(network, 21843)
    assert known.card.resize.size_px == network.size_px


def test_another_size_of_bit_scales_what_is_cropped():
    card = find_model('bit-m-r101x3').card
    for size, short_side in ((160, 183), (448, 512), (224, 256)):
        assert card.to_size(size).resize == Resize(size, short_side, 'bilinear')
    assert find_model('bit-m-r50x1-ilsvrc2012').card.to_size(224).resize.short_side_px is None


@pytest.mark.parametrize(
    'location',
    [
        'https://tfhub.dev/google/bit/m-r101x3/imagenet21k_classification/1',
        'google/bit/m-r101x3/imagenet21k_classification/1',
        'http://127.0.0.1:80/mirror/google/bit/m-r101x3/imagenet21k_classification/1?x=1',
        'google/bit/tensorFlow2/m-r101x3-imagenet21k-classification/1',
        'https://www.kaggle.com/models/google/bit/TensorFlow2/m-r101x3-imagenet21k-classification/1',
        'gs://bucket/models/google/bit/m-r101x3/imagenet21k_classification/1/',
        '/models/bit/m-r101x3/imagenet21k_classification/1.tar.gz',
        '/models/bit/m-r101x3/imagenet21k_classification',
        # As the sites give them.
        'https://www.kaggle.com/models/google/bit/frameworks/TensorFlow2/variations/'
        'm-r101x3-imagenet21k-classification/versions/1?tfhub-redirect=true',
        'https://www.kaggle.com/models/google/bit/frameworks/TensorFlow2/variations/'
        'm-r101x3-imagenet21k-classification',
        'https://www.kaggle.com/models/google/bit/tensorFlow2/m-r101x3-imagenet21k-classification',
        'https://www.kaggle.com/models/google/bit/tensorFlow2/'
        'm-r101x3-imagenet21k-classification/1#files',
        '/my #1/bit/m-r101x3/imagenet21k_classification/1',
        'google/bit/tensorFlow2/m-r101x3-imagenet21k-classification',
        '/downloads/bit_m-r101x3_imagenet21k_classification_1.tar.gz',
        'bit_m-r101x3_imagenet21k_classification_1',
        '/downloads/bit-tensorflow2-m-r101x3-imagenet21k-classification-v1',
        '/downloads/bit-tensorflow2-m-r101x3-imagenet21k-classification-v1.tar.gz',
        'gs://bucket/bit-tensorflow2-m-r101x3-imagenet21k-classification-v1.zip',
        '/home/me/.cache/kagglehub/models/google/bit/tensorFlow2/'
        'm-r101x3-imagenet21k-classification/1',
        # Checkpoints of the authors, and timm's.
        '/downloads/BiT-M-R101x3.npz',
        'https://storage.googleapis.com/bit_models/BiT-M-R101x3.h5?x=1',
        'hf://timm/resnetv2_101x3_bit.goog_in21k',
        'hf://timm/resnetv2_101x3_bit.goog_in21k@main',
        '/models/resnetv2_101x3_bit.goog_in21k.safetensors',
        '/home/me/.cache/huggingface/hub/models--timm--resnetv2_101x3_bit.goog_in21k/snapshots/'
        '0123/model.safetensors',
    ],
)
def test_a_copy_of_a_published_model_is_known_by_the_end_of_its_name(location):
    assert find_by_location(location).card == find_model('bit-m-r101x3').card


@pytest.mark.parametrize(
    'location',
    [
        'https://tfhub.dev/google/imagenet/efficientnet_v2_imagenet21k_b2/classification/2',
        'google/imagenet/efficientnet_v2_imagenet21k_b2/classification/2',
        'google/efficientnet-v2/tensorFlow2/imagenet21k-b2-classification/1',
        'https://www.kaggle.com/models/google/efficientnet-v2/frameworks/TensorFlow2/variations/'
        'imagenet21k-b2-classification/versions/1',
        'https://www.kaggle.com/models/google/efficientnet-v2/tensorFlow2/'
        'imagenet21k-b2-classification?tfhub-redirect=true',
        '/models/efficientnet-v2-tensorflow2-imagenet21k-b2-classification-v1.tar.gz',
        'https://www.kaggle.com/api/v1/models/google/efficientnet-v2/tensorFlow2/'
        'imagenet21k-b2-classification/1/download',
        'https://www.kaggle.com/models/google/efficientnet-v2/tensorFlow2/'
        'imagenet21k-b2-classification/1#files',
        '/models/efficientnet-v2-tensorflow2-imagenet21k-b2-classification-v1.zip',
        'efficientnet-v2-tensorflow2-imagenet21k-b2-classification-v1.tar.gz',
        '/models/imagenet_efficientnet_v2_imagenet21k_b2_classification_2',
    ],
)
def test_a_copy_of_an_efficientnet_is_known_by_the_end_of_its_name(location):
    assert find_by_location(location) is find_model('efficientnetv2-b2-imagenet21k')


def test_features_and_strangers_by_location():
    for location in (
        'https://tfhub.dev/google/bit/s-r50x3/1',
        'bit_s-r50x3_1.tar.gz',
        '/downloads/bit-tensorflow2-s-r50x3-v1',
    ):
        assert find_by_location(location).card == find_model('bit-s-r50x3-features').card
    for location in (
        'BiT-M-R50x3-ILSVRC2012.npz',
        'hf://timm/resnetv2_50x3_bit.goog_in21k_ft_in1k',
    ):
        assert find_by_location(location).card == find_model('bit-m-r50x3-ilsvrc2012').card
    upstream, module = find_by_location('BiT-S-R50x3.npz').card, find_model('bit-s-r50x3').card
    assert upstream == module.with_changes(
        resize=Resize(224, 256, 'bilinear'), gpu_batch_size=128, source='BiT-S-R50x3.npz'
    )
    for size_px, short_side_px in ((224, 256), (160, 183)):
        student = find_by_location(f'https://host/distill/R50x1_{size_px}.npz?x=1').card
        assert (student.name, student.architecture) == (f'bit-r50x1-distilled-{size_px}', 'R50x1')
        assert student.resize == Resize(size_px, short_side_px, 'bilinear')
        assert (student.vocabulary, student.source) == ('ilsvrc2012', f'R50x1_{size_px}.npz')
    for location in (
        'https://tfhub.dev/google/efficientnet/b0/classification/1',
        '/home/me/bit/my-model',
        '/home/me/orbit/m-r50x1/1',
        'google/bit/s-r50x1/imagenet21k_classification/1',
        'google/bit/m-r99x1/1',
        # No file of weights.
        '/models/R50x1_224',
        # Called as we call another one.
        '/models/bit-m-r50x1',
        'BiT-M-R50x1-run0-caltech101.npz',
        'hf://timm/resnetv2_50x1_bit.goog_distilled_in1k',
        'hf://timm/resnetv2_50x1_bitter.goog_in21k',
        'google/efficientnet-v2/tensorFlow2/imagenet1k-b0-classification/2',
        'google/efficientnet-v2/tensorFlow2/imagenet21k-b0-feature-vector/1',
        'google/efficientnet-v2/tensorFlow2/imagenet21k-b4-classification/1',
    ):
        assert find_by_location(location) is None


def test_known_models_can_be_had_from_several_places():
    assert find_model('bit-m-r101x3').locations == (
        'https://tfhub.dev/google/bit/m-r101x3/imagenet21k_classification/1',
        'google/bit/tensorFlow2/m-r101x3-imagenet21k-classification/1',
        'https://storage.googleapis.com/bit_models/BiT-M-R101x3.npz',
        'hf://timm/resnetv2_101x3_bit.goog_in21k',
    )
    assert find_model('bit-m-r50x1-ilsvrc2012').checkpoints == (
        'https://storage.googleapis.com/bit_models/BiT-M-R50x1-ILSVRC2012.npz',
        'hf://timm/resnetv2_50x1_bit.goog_in21k_ft_in1k',
    )
    # Its features are those of the network that was trained first.
    assert find_model('bit-m-r50x1-features').checkpoints == (
        'https://storage.googleapis.com/bit_models/BiT-M-R50x1.npz',
        'hf://timm/resnetv2_50x1_bit.goog_in21k',
    )
    assert find_model('bit-s-r50x1').checkpoints == ()
    assert find_model('bit-s-r50x1-features').checkpoints == (
        'https://storage.googleapis.com/bit_models/BiT-S-R50x1.npz',
    )
    assert find_model('embedded').locations == ('embedded',)


def test_the_class_lists_hold_what_they_should():
    large, small = load_vocabulary('imagenet21k'), load_vocabulary('ilsvrc2012')
    assert (len(large), len(small)) == (21843, 1000)
    assert large.names[0] == 'organism'
    assert all(large.definitions)
    cats = [name for name, wnid in zip(large.names, large.wnids, strict=True) if wnid == FELINE]
    assert cats == ['feline']
    assert sum(is_under(wnid, FELINE) for wnid in large.wnids) > 50
    assert set(small.wnids) < set(large.wnids) | {'n04399382'}
    with pytest.raises(UsageError, match='it has ilsvrc2012, imagenet21k, imagenet22k'):
        load_vocabulary('imagenet23k')


def test_the_list_of_22k_is_that_of_21k_without_two():
    whole, part = load_vocabulary('imagenet21k'), load_vocabulary('imagenet22k')
    missing = (9205, 15027)
    assert [whole.wnids[i] for i in missing] == ['n03931044', 'n09859684']
    left = [i for i in range(len(whole)) if i not in missing]
    assert len(part) == len(left) == 21841
    for theirs, ours in zip(
        (whole.wnids, whole.lemmas, whole.definitions),
        (part.wnids, part.lemmas, part.definitions),
        strict=True,
    ):
        assert ours == tuple(theirs[i] for i in left)
    assert part.names[9205] == whole.names[9206]
    assert part.sha256 != whole.sha256
    assert part.file_name == f'imagenet22k-{part.sha256[:8]}.parquet'
    assert pickle.loads(pickle.dumps(part)) is part
    assert len(pickle.dumps(part)) < 200


def test_a_list_of_another_length_than_the_head_is_refused_with_the_one_that_fits():
    whole, part = load_vocabulary('imagenet21k'), load_vocabulary('imagenet22k')
    check_head(whole, 21843, 'x')
    for one, classes, other in ((whole, 21841, 'imagenet22k'), (part, 21843, 'imagenet21k')):
        with pytest.raises(ModelError) as caught:
            check_head(one, classes, 'x')
        assert str(caught.value) == (
            f'x has a head of {classes} classes, but its class list {one.name!r} has {len(one)}; '
            f'the class list with that many is {other!r}: set "vocabulary" in its card'
        )
    with pytest.raises(ModelError, match=r"list 'imagenet22k' has 21841$"):
        check_head(part, 7, 'x')


def test_packaged_lists_travel_by_name_and_others_whole():
    large = load_vocabulary('imagenet21k')
    assert len(pickle.dumps(large)) < 200
    assert pickle.loads(pickle.dumps(large)) is large
    own = parse_labels('mine', b'tabby\ntiger cat\n', 'labels.txt')
    assert pickle.loads(pickle.dumps(own)) == own


def test_class_lists_of_ones_own():
    own = parse_labels('mine', b'\xef\xbb\xbfcat\r\nbig dog\r\n', 'labels.txt')
    assert own.names == ('cat', 'big dog')
    assert own.wnids == (None, None)
    table = parse_labels('mine', b'wnid\tlemmas\nn1\tcat, kitty\n\tdog\n', 'labels.tsv')
    assert table.names == ('cat', 'dog')
    assert table.wnids == ('n1', None)
    commas = parse_labels('mine', b'Smith, John\nb\x0bc\td\n', 'x.txt')
    assert commas.names == ('Smith, John', 'b\x0bc\td')
    assert parse_labels('mine', b'cat\n', 'x').sha256 != own.sha256


@pytest.mark.parametrize(
    ('data', 'name', 'message'),
    [
        (b'', 'labels.txt', 'line 1 is empty'),
        (b'cat\n\ndog\n', 'labels.txt', 'line 2 is empty'),
        (b'c\xe4t\n', 'labels.txt', 'not UTF-8 text, at byte 1'),
        (b'name\ncat\n', 'labels.tsv', 'line 2 has no lemmas'),
        (b'lemmas\n', 'labels.tsv', 'has no classes'),
        (b'lemmas\n' + b'x' * 200_000, 'labels.tsv', 'a line has more than 100,000 characters'),
    ],
)
def test_class_lists_that_cannot_be_used(data, name, message):
    with pytest.raises(UsageError, match=message):
        parse_labels('mine', data, name)


def test_a_large_class_list_becomes_parquet_with_hypernyms():

    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(load_vocabulary('imagenet21k').to_parquet()))
    assert table.num_rows == 21843
    row = table.slice(table['wnid'].to_pylist().index('n02123045'), 1).to_pylist()[0]
    assert row['name'] == 'tabby'
    assert row['lemmas'] == ['tabby', 'tabby cat']
    assert row['hypernyms'] == ['n02121808']
    assert 'tawny coat' in row['definition']
    above = [(each['wnid'], each['name']) for each in row['ancestors']]
    assert above[0] == ('n02121808', 'domestic cat')
    assert above[-1] == ('n00001740', 'entity')
    assert ('n02120997', 'feline') in above
    assert len(set(above)) == len(above)


def test_classes_are_counted_without_reading_them():
    for name in ('none', *vocabulary_names()):
        assert class_count(name) == len(load_vocabulary(name))
    with pytest.raises(UsageError, match="no class list 'moon'"):
        class_count('moon')


@pytest.mark.parametrize('name', ['ilsvrc2012', 'imagenet21k'])
def test_a_class_has_the_ancestors_that_lie_above_it(name):
    import pyarrow.parquet as pq

    vocabulary = load_vocabulary(name)
    rows = pq.read_table(io.BytesIO(vocabulary.to_parquet())).to_pylist()
    for wnid, row in zip(vocabulary.wnids, rows, strict=True):
        above, found = set(), {wnid}
        while found:  # level by level
            found = {parent for each in found for parent in hypernyms().get(each, ())}
            above |= found
        assert {each['wnid'] for each in row['ancestors']} == above
    assert all(each['name'] for row in rows for each in row['ancestors'])


class TestSources:
    def folder(self, tmp_path, card=None, labels='cat\ndog\n'):
        folder = tmp_path / 'model'
        folder.mkdir()
        (folder / 'saved_model.pb').write_bytes(b'graph')
        if card is not None:
            (folder / 'model_card.json').write_text(json.dumps(card))
        if labels is not None:
            (folder / 'labels.txt').write_text(labels)
        return str(folder)

    def test_a_model_of_ones_own_brings_card_and_labels(self, tmp_path):
        source = resolve_model(self.folder(tmp_path, CARD), cache=str(tmp_path / 'cache'))
        assert source.card == parse()
        assert source.vocabulary.names == ('cat', 'dog')
        assert source.id == f'birds-{source.fingerprint[:8]}'
        assert not source.can_be_rebuilt
        assert pickle.loads(pickle.dumps(source)) == source

    @pytest.mark.parametrize(
        ('card', 'labels', 'message'),
        [
            (None, None, 'it has no model_card.json: write one'),
            (CARD, None, "the model card names the file 'labels.txt', which is not beside it"),
            (CARD, '', 'labels.txt: line 1 is empty'),
            (CARD | {'labels': '', 'vocabulary': 'moon'}, None, "no class list 'moon'"),
            (CARD | {'architecture': 'R7x1'}, 'cat\n', "unknown BiT architecture 'R7x1'"),
            (CARD | {'size': 1}, 'cat\n', "model_card.json: unknown key 'size'"),
        ],
    )
    def test_what_is_wrong_is_said_before_anything_is_loaded(self, tmp_path, card, labels, message):
        with pytest.raises(UsageError) as caught:
            resolve_model(self.folder(tmp_path, card, labels), cache=str(tmp_path))
        assert message in str(caught.value)

    def test_a_card_can_be_given(self, tmp_path):
        folder = self.folder(tmp_path)
        cache = str(tmp_path / 'cache')
        assert resolve_model(folder, card='bit-m-r50x1', cache=cache).card == (
            find_model('bit-m-r50x1').card
        )
        (tmp_path / 'card.json').write_text(json.dumps(CARD))
        (tmp_path / 'labels.txt').write_text('bird\n')  # it lies beside its card
        given = resolve_model(folder, card=str(tmp_path / 'card.json'), cache=cache)
        assert given.card == parse()
        assert given.vocabulary.names == ('bird',)
        with pytest.raises(UsageError, match="--model_card 'moon': neither"):
            resolve_model(folder, card='moon', cache=cache)
        with pytest.raises(UsageError, match='has a card of its own'):
            resolve_model('embedded', card='bit-m-r50x1')

    def test_a_local_model_wins_over_a_name_that_looks_alike(self, tmp_path, monkeypatch):
        folder = self.folder(tmp_path, CARD)
        monkeypatch.chdir(tmp_path)
        for name in ('bit-m-r50x1', 'bit-mine'):
            (tmp_path / name).symlink_to(folder)
            source = resolve_model(name, cache=str(tmp_path / 'cache'))
            assert source.location == str(tmp_path / name)
            assert source.id == resolve_model(folder).id

    def test_weights_are_pinned(self, tmp_path):
        folder = self.folder(tmp_path, CARD)
        cache = str(tmp_path / 'cache')
        sha256 = resolve_model(folder, cache=cache).weights_sha256
        source = resolve_model(folder, cache=cache, sha256=sha256)
        with pytest.raises(ModelError, match=f'has the SHA-256 {sha256}, but --model_sha256 is 0'):
            resolve_model(folder, cache=cache, sha256='0' * 64)
        with pytest.raises(UsageError, match='expected 64 hex digits'):
            resolve_model(folder, cache=cache, sha256='ABC')
        # A worker that finds other weights than the launcher stops.
        (tmp_path / 'model' / 'saved_model.pb').write_bytes(b'another graph')
        with pytest.raises(ModelError, match=r'it was changed, or .* is damaged'):
            source.path()

    def test_sizes_out_of_reason_are_refused(self):
        with pytest.raises(UsageError, match='--model_size 9: expected 16 to 4096 pixels'):
            resolve_model('embedded', size_px=9)
        assert resolve_model('embedded', size_px=96).card.resize.size_px == 96
        assert resolve_model('embedded', size_px=96).id != resolve_model('embedded').id

    def test_a_model_of_one_size_says_so_before_anything_is_fetched(self, tmp_path, monkeypatch):
        monkeypatch.setenv('TFHUB_ENDPOINT', 'http://127.0.0.1:1')
        name = 'efficientnetv2-s-imagenet21k'
        message = f'--model_size 300: {name} takes only squares of 384 px'
        options = {'size_px': 300, 'cache': str(tmp_path / 'cache')}
        for asked in ('efficientnetv2-s', name):
            with pytest.raises(UsageError) as caught:
                resolve_model(asked, **options)
            assert str(caught.value) == message
        assert not (tmp_path / 'cache').exists()
        # Nor is a copy of it asked for another size; one that brings a card of its own may be.
        folder = self.folder(tmp_path, CARD)
        (tmp_path / 'model' / 'model_card.json').unlink()
        with pytest.raises(UsageError, match='takes only squares of 384 px'):
            resolve_model(folder, card=name, **options)
        source = resolve_model(folder, card=name, **{**options, 'size_px': 384})
        assert source.card == find_model(name).card
        (tmp_path / 'model' / 'model_card.json').write_text(json.dumps(CARD))
        assert resolve_model(folder, **options).card.resize.size_px == 300

    def test_a_canarys_picture_lies_beside_the_card_or_in_the_package(self, tmp_path):
        card = CARD | {'canary': [{'image': 'bird.jpg', 'expected': 'cat', 'min_score': 0.5}]}
        folder = self.folder(tmp_path, card)
        with pytest.raises(UsageError, match=r"names the canary image 'bird\.jpg', which is not"):
            resolve_model(folder, cache=str(tmp_path / 'cache'))
        (tmp_path / 'model' / 'bird.jpg').write_bytes(b'picture')
        source = resolve_model(folder, cache=str(tmp_path / 'cache'))
        assert source.card.canary == (Canary('bird.jpg', 'cat', 0.5),)
        assert source.picture('bird.jpg') == b'picture'
        assert source.picture('cat.jpg').startswith(b'\xff\xd8')
        (tmp_path / 'model' / 'labels.txt').write_text('dog\n')
        with pytest.raises(UsageError, match=r"expects 'cat' in 'bird\.jpg', but no class"):
            resolve_model(folder, cache=str(tmp_path / 'cache'))

    def test_no_query_of_a_url_is_told(self):
        url = 'https://me:password@host/model/1?token=secret'
        assert printable_location(url) == 'https://host/model/1'
        assert printable_location('/tmp/a?b') == '/tmp/a?b'
