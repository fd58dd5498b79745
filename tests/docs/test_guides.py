"""The guides are short, and what they name is there: files, headings, targets of make, options."""

import re
from pathlib import Path

import pytest

from tests.support.guides import (
    ROOT,
    anchors,
    code_blocks,
    documents,
    guides,
    inline,
    name_of,
    tokens,
)
from transforms.model.card import parse_card

MAX_README_BYTES = 9 * 1024
MAX_LINES = 150
MAX_COLUMNS = 110

each_document = pytest.mark.parametrize('path', documents(), ids=name_of)
each_guide = pytest.mark.parametrize('path', guides(), ids=name_of)


def test_the_readme_is_one_page():
    assert (ROOT / 'README.md').stat().st_size <= MAX_README_BYTES


@each_guide
def test_a_guide_is_short(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@each_guide
def test_lines_fit_beside_each_other(path):
    lines = path.read_text().splitlines()
    paragraphs = [token.map for token in tokens(path) if token.type == 'paragraph_open']
    long = [
        number + 1
        for start, end in paragraphs
        for number in range(start, end)
        if len(lines[number]) > MAX_COLUMNS
    ]
    assert long == [], 'numbers of lines'


def missing(path: Path, target: str) -> bool:
    """Whether a link leads nowhere, of those that do not leave the project."""
    if re.match(r'[a-z]+:', target):
        return False
    name, _, anchor = target.partition('#')
    there = (path.parent / name).resolve() if name else path
    if not there.is_relative_to(ROOT) or not there.exists():
        return True
    return bool(anchor) and (there.suffix != '.md' or anchor not in anchors(there))


@each_document
def test_links_lead_somewhere(path):
    targets = [str(token.attrs['href']) for token in inline(path, 'link_open')]
    assert [target for target in targets if missing(path, target)] == []


def test_a_link_to_nowhere_is_noticed(tmp_path):
    here = ROOT / 'README.md'
    assert not missing(here, 'transforms/README.md#add-a-store')
    assert not missing(here, '#status')
    assert not missing(here, 'https://beam.apache.org')
    for target in (
        'transforms/readme.md',
        'README.md#nowhere',
        '#nowhere',
        '../elsewhere',
        'tests#a',
    ):
        assert missing(here, target), target
    twice = tmp_path / 'twice.md'
    twice.write_text('# A `b`, c!\n\n## Same\n\n## Same\n')
    assert anchors(twice) == {'a-b-c', 'same', 'same-1'}


def test_every_guide_can_be_found():
    """From the README, or from a guide that is linked there."""
    found, left = set(), [ROOT / 'README.md']
    while left:
        path = left.pop()
        if path in found or path.suffix != '.md':
            continue
        found.add(path)
        targets = (str(token.attrs['href']) for token in inline(path, 'link_open'))
        files = (target.partition('#')[0] for target in targets if not re.match(r'[a-z]+:', target))
        left += [(path.parent / name).resolve() for name in files if name]
    of_github = {path for path in documents() if path.is_relative_to(ROOT / '.github')}
    assert set(documents()) - found - of_github == set()


@each_guide
def test_targets_of_make_are_there(path):
    makefile = (ROOT / 'Makefile').read_text()
    targets = set(re.findall(r'^([\w-]+):', makefile, re.MULTILINE))
    texts = [block.text for block in code_blocks(path)]
    texts += [token.content for token in inline(path, 'code_inline')]
    named = {
        name for text in texts for name in re.findall(r'^make ([a-z][\w-]*)', text, re.MULTILINE)
    }
    tests = {
        re.sub(r'^test_(.+)\.py$', r'test-\1', each.name)
        for each in ROOT.glob('tests/**/test_*.py')
    }
    assert set(named) - targets - tests == set()


def test_cards_of_models_are_read():
    paths = [ROOT / 'transforms' / 'model' / name for name in ('OWN_MODEL.md', 'ONNX.md')]
    cards = [
        (block.text, name_of(path))
        for path in paths
        for block in code_blocks(path)
        if block.language == 'json'
    ]
    names = [parse_card(card.encode(), where).name for card, where in cards]
    assert names == ['birds', 'mixer-b16-imagenet21k', 'experts-food', 'vit-base-patch16-224']
