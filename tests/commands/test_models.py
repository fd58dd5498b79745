"""`lemmabeam models`: what is said of a model that cannot be checked."""

import pytest

from tests.support import app


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
