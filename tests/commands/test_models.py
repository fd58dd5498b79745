"""`lemmabeam models`: what there is, and what is said of a model that cannot be checked."""

import pytest

from tests.support import app
from transforms.model import registry


def test_every_model_is_listed_in_a_terminal_and_where_it_comes_from():
    done = app.invoke('models', COLUMNS='80')
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert max(map(len, said)) <= 80
    assert not any('…' in line for line in said if 'https://' not in line)
    table, legend = (said[: said.index('')], said[said.index('') :])
    assert table[0].split()[0] == 'model'
    rows = {line.split()[0]: line.split()[1:] for line in table[1:]}
    models, families = registry.known_models(), registry.FAMILIES
    assert [*rows] == [*models]
    assert rows['bit-m-r101x3'] == '516.0 M 224 69.6 21,843 sigmoid Apache-2.0'.split()
    assert rows['bit-m-r152x4-ilsvrc2012'][2] == '480'
    assert rows['bit-s-r50x1-features'][4:6] == ['features', 'none']
    assert rows['efficientnetv2-xl-imagenet21k'][:4] == ['234.8', 'M', '512', '93.4']
    assert any(line.startswith('px: ') for line in legend)
    sources = {f'{x}-*': f'{families[x].PUBLISHED}…' for x in families if families[x].PUBLISHED}
    assert {'bit-*', 'efficientnetv2-*'} <= sources.keys()
    inside = {name: model.card.source for name, model in models.items() if model.file}
    assert inside.keys() == {'embedded'}
    sources['embedded'] = f'{inside["embedded"]}, inside this package'
    for name, source in sources.items():
        assert legend[legend.index(f'{name}:') + 1] == f'  {source}'


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
