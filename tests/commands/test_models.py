"""`lemmabeam models`: what there is, and what is said of a model that cannot be checked."""

import pytest

from tests.support import app
from transforms.model import registry


def test_every_model_is_listed_and_where_it_comes_from():
    said = app.invoke('models').stdout.splitlines()
    table, legend = (said[: said.index('')], said[said.index('') :])
    assert table[0].split()[0] == 'model'
    assert [line.split()[0] for line in table[1:]] == [*registry.known_models()]
    assert any(line.startswith('px: ') for line in legend)
    published = {prefix for prefix, family in registry.FAMILIES.items() if family.PUBLISHED}
    assert published
    for prefix in published:
        source = legend[legend.index(f'{prefix}-*:') + 1]
        assert source == f'  {registry.FAMILIES[prefix].PUBLISHED}…'
    (embedded,) = [line for line in legend if line.endswith(', inside this package')]
    name, model = next((name, x) for name, x in registry.known_models().items() if x.file)
    assert legend[legend.index(embedded) - 1] == f'{name}:'
    assert embedded.strip().startswith(model.card.source)


@pytest.mark.parametrize('name', ['{}/none', 'hf://owner', 'no-such-model'])
def test_a_model_that_is_not_there_is_told_by_the_option_that_named_it(name, tmp_path):
    named = name.format(tmp_path)
    said = app.invoke('models', '--check', named)
    assert said.returncode == 2
    assert said.stderr.startswith('lemmabeam: --check ')
    assert '--model ' not in said.stderr
    labelled = app.invoke('label', '--input', tmp_path, '--output', tmp_path, '--model', named)
    assert labelled.stderr == said.stderr.replace('--check', '--model')


def test_other_options_of_a_check_keep_their_names(tmp_path):
    said = app.invoke('models', '--check', 'embedded', '--model_size', '3')
    assert said.stderr == 'lemmabeam: --model_size 3: expected 16 to 4096 pixels\n'
    said = app.invoke('models', '--check', 'embedded', '--model_sha256', 'x')
    assert said.stderr.startswith("lemmabeam: --model_sha256 'x': expected 64 hex digits")
