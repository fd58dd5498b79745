"""What every family of models does alike; a third one, of this file, shows that it is enough.

What is not checked here: SavedModels (test_rebuild, test_saved_models), and what the published
models are called (test_card).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.data.bit_reference import synthetic_weights
from tests.support import samples
from transforms.core.errors import ModelError
from transforms.core.resources import cpu_count
from transforms.images.decode import decode
from transforms.images.resize import Resize
from transforms.model import registry
from transforms.model.card import Activation, ModelCard, parse_card
from transforms.model.choices import OFF
from transforms.model.families import bit, efficientnet_lite
from transforms.model.families.base import FEATURES, Built, Family, KnownModel, NotRebuiltError
from transforms.model.predictor import InferenceOptions, Predictor
from transforms.model.resolve import ModelSource, resolve_model
from transforms.model.tensor_files import Kind, open_tensors
from transforms.model.vocabulary import ILSVRC2012, load_vocabulary

CLASSES = 1000
BATCH_SIZE = 2


def label(
    source: ModelSource, picture: np.ndarray, features: bool = False
) -> tuple[int, np.ndarray | None]:
    """The best class of a picture, by the whole way that a worker goes; and the features."""
    from transforms.model.load import BUILT  # loads TensorFlow

    options = InferenceOptions(
        source, BATCH_SIZE, 0.5, 1, 1, cpu_count(), canary=OFF, features=features
    )
    predictor = Predictor(options)
    assert predictor.computed['network'] == BUILT
    pixels = np.zeros((BATCH_SIZE, *picture.shape), np.uint8)
    pixels[0] = picture
    found = predictor(pixels)
    assert found.counts[0] == 1
    assert found.scores.shape[0] == BATCH_SIZE
    return int(found.indices[0, 0]), found.features


class FamilyContract:
    """Subclasses say which family, and give a file of weights with 1,000 classes."""

    NAME = ''
    SIZE_PX = 32

    @pytest.fixture
    def family(self) -> Family:
        return registry.FAMILIES[self.NAME]

    @pytest.fixture
    def weights(self, tmp_path: Path) -> Path:
        raise NotImplementedError

    def test_its_models_are_known_by_name(self, family: Family) -> None:
        models = family.cards()
        assert models
        for name, model in models.items():
            assert registry.find_model(name) is model
            assert registry.known_models()[name] is model
            text = json.dumps(model.card.to_dict()).encode()
            assert parse_card(text, name) == model.card
            if model.card.has_classes:
                vocabulary = load_vocabulary(model.card.vocabulary)
                assert all(vocabulary.has(each.expected) for each in model.card.canary)
            if model.card.architecture:
                assert registry.features_of(model.card.architecture) > 0
                assert registry.family_of(model.card.architecture) is family

    def test_it_alone_recognizes_its_weights(self, family: Family, weights: Path) -> None:
        assert [
            name for name, each in registry.FAMILIES.items() if each.recognize(weights, 'weights')
        ] == [self.NAME]
        found, network = registry.recognize(weights, 'weights')
        assert (found, network.classes) == (family, CLASSES)
        card = network.describe('a file')
        assert (card.vocabulary, card.source) == (ILSVRC2012, 'a file')
        checked = network.check(card, CLASSES)
        assert checked == card.with_changes(architecture=checked.architecture)
        with pytest.raises(ModelError, match=r'1000 classes, but .* 7'):
            network.check(card, 7)
        with pytest.raises(ModelError, match='R50x3'):
            network.check(card.with_changes(architecture='R50x3'), CLASSES)

    def test_other_tensors_are_none_of_its(self, family: Family, tmp_path: Path) -> None:
        path = tmp_path / 'x.npz'
        np.savez(path, x=np.zeros(3, np.float32))
        assert family.recognize(path, 'x') is None
        with pytest.raises(ModelError, match=r'x: weights of an unknown network .* holds x;'):
            registry.recognize(path, 'x')

    def test_a_file_that_breaks_off_is_said(self, family: Family, weights: Path) -> None:
        weights.write_bytes(weights.read_bytes()[:-100])
        with pytest.raises(ModelError, match='some file: '):
            family.recognize(weights, 'some file')

    def test_it_labels_a_picture(self, family: Family, weights: Path) -> None:
        source = resolve_model(str(weights), size_px=self.SIZE_PX)
        assert source.kind is not Kind.SAVED_MODEL
        assert source.can_be_rebuilt
        picture = decode((samples.SAMPLE / 'cat.jpg').read_bytes(), source.card.resize)
        index, features = label(source, picture, features=True)
        assert 0 <= index < CLASSES
        network, mean, std = family.build(source, source.path(), 'float32', BATCH_SIZE)
        batch = (np.stack([picture] * BATCH_SIZE).astype(np.float32) - mean) / std
        logits = np.asarray(network(batch))
        assert logits.argmax(-1).tolist() == [index] * BATCH_SIZE
        assert features is not None
        assert features.shape == (BATCH_SIZE, network.get_layer(FEATURES).output.shape[-1])


class TestBit(FamilyContract):
    NAME = 'bit'

    @pytest.fixture
    def weights(self, tmp_path: Path) -> Path:
        path = tmp_path / 'r14x1.npz'
        np.savez(path, **synthetic_weights.make_weights('R14x1', 0, CLASSES))
        return path


class TestEfficientNetLite(FamilyContract):
    NAME = 'efficientnet-lite'
    SIZE_PX = 224

    @pytest.fixture
    def weights(self, tmp_path: Path) -> Path:
        path = tmp_path / 'lite0.npz'
        path.write_bytes(efficientnet_lite.WEIGHTS.read_bytes())
        return path

    def test_from_a_file_it_is_the_same_model(self, weights: Path) -> None:
        source, embedded = resolve_model(str(weights)), resolve_model('embedded')
        assert source.weights_sha256 == embedded.weights_sha256
        assert source.id == embedded.id
        assert source.card.licence == '', 'nobody has said of this file what it is'


CARD = ModelCard(
    'colour-1',
    Resize(32, None, 'bilinear'),
    127.5,
    127.5,
    Activation.SOFTMAX,
    ILSVRC2012,
    architecture='colour',
)


class Colour:
    """A family of one network: the mean colour of a picture, and a head."""

    PUBLISHED = ''
    NAMES = 'colour-1'

    def __init__(self, file: Path):
        self._known = KnownModel(CARD, 'colour-1', 3 * CLASSES, 3 * CLASSES, file=file)

    def cards(self) -> Mapping[str, KnownModel]:
        return {'colour-1': self._known}

    def find_by_location(self, path: str) -> KnownModel | None:
        return None

    def features(self, architecture: str) -> int:
        if architecture != 'colour':
            raise ModelError('')
        return 3

    def recognize(self, path: Path, shown: str) -> 'OfColour | None':
        with open_tensors(path, shown) as tensors:
            return OfColour(tensors.shapes['mix'][1]) if 'mix' in tensors.shapes else None

    def build(self, source: ModelSource, path: Path, precision: str, batch_size: int) -> Built:
        if source.kind is Kind.SAVED_MODEL:
            raise NotRebuiltError
        import keras

        with open_tensors(path, str(path)) as tensors:
            mix = tensors['mix']
        images = keras.Input((None, None, 3))
        mean = keras.layers.GlobalAveragePooling2D(name=FEATURES)(images)
        head = keras.layers.Dense(mix.shape[1], use_bias=False)
        network = keras.Model(images, head(mean))
        head.set_weights([mix])
        return Built(network, source.card.mean, source.card.std)


class OfColour(NamedTuple):
    classes: int | None

    def describe(self, source: str) -> ModelCard:
        return CARD.with_changes(source=source)

    def check(self, card: ModelCard, classes: int | None) -> ModelCard:
        if classes != self.classes:
            raise ModelError(f'a head of {self.classes} classes, but {card.name} has {classes}')
        if card.architecture not in ('', 'colour'):
            raise ModelError(f'no {card.architecture}')
        return card.with_changes(architecture='colour')


class TestAThirdFamily(FamilyContract):
    NAME = 'colour'

    @pytest.fixture(autouse=True)
    def weights(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = tmp_path / 'colour.npz'
        mix = np.zeros((3, CLASSES), np.float32)
        mix[0, 100] = mix[1, 200] = mix[2, 300] = 5.0
        np.savez(path, mix=mix)
        monkeypatch.setitem(registry.FAMILIES, 'colour', Colour(path))
        return path

    @pytest.mark.parametrize(('channel', 'index'), [(0, 100), (1, 200), (2, 300)])
    def test_by_its_name_it_labels_a_picture(self, channel: int, index: int) -> None:
        source = resolve_model('colour-1')
        assert source.is_packaged
        assert source.id.startswith('colour-1-')
        picture = np.zeros((32, 32, 3), np.uint8)
        picture[..., channel] = 255
        assert label(source, picture)[0] == index


def test_what_a_card_calls_an_architecture_is_one_of_some_family() -> None:
    assert registry.family_of('R50x1') is bit
    with pytest.raises(ModelError, match="unknown BiT architecture 'nonesuch'; depths are"):
        registry.family_of('nonesuch')
