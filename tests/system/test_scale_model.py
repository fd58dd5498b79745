"""That the document on scale says what was measured, and that its model fits the simulation."""

import re

import pytest

from tests.benchmarks import scale_model
from tests.steps import test_shuffles


def test_document_has_the_tables_of_the_model():
    document = scale_model.DOCUMENT.read_text()
    assert scale_model.with_tables(document) == document, (
        'python -m tests.benchmarks.scale_model --write'
    )


def test_document_names_everything_that_is_shuffled():
    named = set(re.findall(r'`([^`]+)`', scale_model.DOCUMENT.read_text()))
    kinds = {name: kind for name, (kind, _) in test_shuffles.EXPECTED.items()}
    assert {name for name, kind in kinds.items() if kind != 'side input'} <= named
    readers = {name.partition(' < ')[0] for name, kind in kinds.items() if kind == 'side input'}
    assert readers <= named


def test_buckets_fall_as_the_simulation_found():
    images = round(
        scale_model.measured('shape', 'chunks') * scale_model.measured('shape', 'chunk, median')
    )
    expected = scale_model.expect_chunks(images)
    assert expected.buckets == scale_model.measured('shape', 'buckets')
    assert expected.chunks == pytest.approx(scale_model.measured('shape', 'chunks'), rel=0.01)
    assert expected.fill == pytest.approx(
        scale_model.measured('shape', 'batch fill, 32 slots'), abs=0.005
    )


def test_an_overflowing_bucket_makes_a_second_chunk():
    few, many = scale_model.expect_chunks(1024 * 513), scale_model.expect_chunks(1024 * 1024)
    assert few.chunks == pytest.approx(few.buckets, rel=0.001)
    # A bucket of 1,024 on average holds more about half of the time.
    assert many.chunks == pytest.approx(1.49 * many.buckets, rel=0.02)


def test_size_of_a_part_decides_on_the_bytes_of_its_rows():
    found = scale_model.measured('shape', 'file of 100,000 rows, 16 a part: shuffled')
    assert scale_model.routed_bytes(16) == pytest.approx(found, rel=0.1)


def test_figures_are_looked_up_and_not_guessed():
    assert scale_model.measured('scale', 'dense float32 scores of 21,843 classes') == 87372
    with pytest.raises(LookupError):
        scale_model.measured('scale', 'a figure that nobody measured')
