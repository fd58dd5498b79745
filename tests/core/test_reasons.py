"""What is known of each reason, and that people are told just that."""

import pickle
import re
from pathlib import Path

import pytest

from transforms.core.reasons import Reason

GUIDE = Path(__file__).parents[2] / 'transforms' / 'core' / 'README.md'
_CODE = re.compile(r'--\w+|lemmabeam retry|lemmabeam\[heif\]|Content-(?:Encoding|Length)')


def row(reason: Reason) -> str:
    """Of the table in the guide."""
    about = reason.about
    advice = [about.advice]
    advice += [f'in a folder: {about.in_folders}'] if about.in_folders else []
    advice += [f'{start}…: {text}' for start, text in about.by_detail.items()]
    cells = [_CODE.sub(r'`\g<0>`', text) for text in (about.meaning, '; '.join(advice))]
    return f'| `{reason.value}` | {" | ".join(cells)} |'


def test_the_table_of_the_guide_is_made_of_them():
    table = '\n'.join(map(row, Reason))
    assert table in GUIDE.read_text(), f'it is to be:\n{table}'


@pytest.mark.parametrize(
    ('kind', 'names'),
    [
        (
            lambda reason: reason.retryable,
            'deadline store_error checksum changed_while_reading decoder_crashed decode_deadline '
            'model_error',
        ),
        (
            lambda reason: reason.lasting,
            'too_many_bytes not_a_file empty not_an_image unsupported_format truncated '
            'too_many_pixels decode_error nonfinite_scores bad_name bad_uri',
        ),
        (
            lambda reason: reason.systemic,
            'forbidden deadline store_error decoder_crashed decode_deadline nonfinite_scores '
            'model_error',
        ),
        (lambda reason: reason.about.of_store, 'deadline store_error'),
        (lambda reason: reason.about.of_listing, 'bad_name bad_uri'),
        (lambda reason: reason.about.crashed, 'decoder_crashed decode_deadline'),
    ],
)
def test_what_follows_from_each(kind, names):
    assert [reason.value for reason in Reason if kind(reason)] == names.split()


def test_texts_can_stand_within_a_sentence():
    for reason in Reason:
        about = reason.about
        texts = (about.meaning, about.advice, about.in_folders, about.when_all_fail)
        for text in filter(None, (*texts, *about.by_detail.values())):
            assert text[0].islower() or text[0].isdigit(), text
            assert not text.endswith('.'), text


def test_a_detail_may_have_advice_of_its_own():
    assert (
        Reason.FORBIDDEN.advice_for('archived, in GLACIER') == 'restore it from the archive first'
    )
    assert Reason.FORBIDDEN.advice_for('HTTP 403') == ''
    assert Reason.EMPTY.advice_for('archived') == ''


def test_it_travels_by_its_name():
    for reason in Reason:
        assert pickle.loads(pickle.dumps(reason)) is reason
        assert Reason(reason.value) is reason
