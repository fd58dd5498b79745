"""`lemmabeam completion`: what shells make of its scripts, as far as they are installed."""

import json
import shutil
import subprocess

import pytest

from pipeline.commands import completion
from pipeline.commands.table import COMMANDS
from pipeline.options import OPTIONS
from tests.support import app, samples

ASK = """
source {script}
function=$(complete -p lemmabeam | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=(lemmabeam "$@")
COMP_CWORD=$#
$function lemmabeam "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope='module')
def complete(tmp_path_factory):
    """What bash offers for a line, whose last word is being typed; no Python is to be had."""
    script = tmp_path_factory.mktemp('bash') / 'lemmabeam.bash'
    script.write_text(completion.script('bash'))

    def complete(*words):
        line = ['bash', '--norc', '-c', ASK.format(script=script), 'bash', *words]
        done = subprocess.run(
            line, cwd=samples.SAMPLE, capture_output=True, text=True, env={'PATH': '/usr/bin:/bin'}
        )
        assert done.stderr == ''
        return set(done.stdout.split())

    return complete


def test_bash_completes_commands_options_values_and_files(complete):
    assert complete('') >= set(COMMANDS)
    assert complete('rel') == {'relabel'}
    assert complete('label', '--thres') == {'--threshold'}
    assert complete('label', '--') >= {f'--{option.name}' for option in OPTIONS}
    assert complete('label', '--') >= {'--config', '--json', '--quiet', '--log_file', '--help-all'}
    assert '--input' not in complete('retry', '--')
    assert '--reasons' in complete('retry', '--')
    assert complete('label', '--canary', '') == {'strict', 'finite', 'off'}
    assert complete('label', '--threshold', '0.2', '--input', 'ca') == {'cat.jpg', 'cameraman.jpg'}
    assert complete('verify', 'cam') == {'cameraman.jpg'}
    assert complete('completion', '') == {'bash', 'zsh', 'fish'}


@pytest.mark.parametrize('shell', completion.SHELLS)
def test_a_shell_can_read_its_script(shell, tmp_path):
    script = completion.script(shell)
    for name in COMMANDS:
        assert name in script
    assert 'python' not in script
    if program := shutil.which(shell):
        (tmp_path / 'script').write_text(script)
        subprocess.run([program, '-n', tmp_path / 'script'], check=True)


def test_the_command_prints_it():
    done = app.invoke('completion', 'bash')
    assert (done.returncode, done.stdout, done.stderr) == (0, completion.script('bash') + '\n', '')
    found = json.loads(app.invoke('completion', 'zsh', '--json', '--quiet').stdout)
    assert found == {'shell': 'zsh', 'script': completion.script('zsh')}
    assert 'invalid choice' in app.invoke('completion', 'csh').stderr
