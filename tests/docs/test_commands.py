"""The commands of the guides are what the real parsers read; those that can run here are run."""

import contextlib
import functools
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from pipeline.beam_options import make_beam_parser
from pipeline.commands import label, retry
from pipeline.flags import add_options, declared
from pipeline.main import COMMANDS
from pipeline.options import add_arguments_of_every_command
from pipeline.parser import Parser, underscored
from tests.support import app
from tests.support.guides import ROOT, code_blocks, commands, guides, inline, name_of
from tests.support.samples import PHOTOGRAPHS
from tests.support.states import Place

each_guide = pytest.mark.parametrize('path', guides(), ids=name_of)

OF_BENCHMARKS = {'--write'}
KEPT = ('--keep_above', '0.05', '--max_labels', '50')
TABBY = 'n02123045'


def parser_of(command: str) -> Parser:
    made = Parser(prog=f'lemmabeam {command}')
    add_arguments_of_every_command(made)
    if command == 'retry':
        add_options(made, declared(retry.RetryOptions), hidden=())
        made.set_defaults(input=[])
    else:
        module = importlib.import_module(f'pipeline.commands.{COMMANDS[command].module}')
        module.add_arguments(made)
    return made


@each_guide
def test_commands_are_read(path):
    for command, *arguments in commands(path):
        if arguments == ['--help'] or '--config' in arguments:
            continue  # the latter are run
        if command in ('label', 'retry'):
            label.split_arguments(parser_of(command), arguments)
        else:
            parser_of(command).parse_args(arguments)


@functools.cache
def options(*of: str) -> frozenset[str]:
    """The options of commands, and of Beam, with `_` for `-`."""
    parsers = [*map(parser_of, of), make_beam_parser()]
    flags = (flag for parser in parsers for flag in parser._option_string_actions)
    return frozenset(map(underscored, ('--version', '--help-all', *flags)))


@each_guide
def test_commands_and_options_within_a_sentence_are_there(path):
    wrong = []
    for code in (token.content for token in inline(path, 'code_inline')):
        program, *words = code.split() or ['']
        if program == 'lemmabeam' and words and not words[0].startswith('-'):
            of = words[:1] if words[0] in COMMANDS else ()
            wrong += [code] if words[0].isalpha() and words[0].islower() and not of else []
        elif program.startswith('--'):
            of = tuple(COMMANDS)
        else:
            continue
        flags = set(re.findall(r'(?:^| )(--[a-z][\w-]*)', code))
        wrong += {flag for flag in flags if underscored(flag) not in options(*of)} - OF_BENCHMARKS
    assert wrong == []


def runs_here(words: list[str]) -> bool:
    """Whether a command needs no more than this machine, the embedded model, and local files."""
    command, *arguments = words
    elsewhere = any('://' in word for word in words)
    return not (
        elsewhere
        or '--help' in arguments
        or command in ('models', 'export-model')
        or any(word.partition('=')[0] in ('--model', '--runner') for word in arguments)
    )


def make_pictures(place: Place) -> None:
    (place.root / 'Pictures').mkdir()
    for photograph in PHOTOGRAPHS[:3]:
        shutil.copy(photograph, place.root / 'Pictures')
    (place.root / 'photos').symlink_to('Pictures')
    (place.root / 'shards').mkdir()
    with tarfile.open(place.root / 'shards' / 'a.tar', 'w') as shard:
        shard.add(PHOTOGRAPHS[0], 'a.jpg')
        for name, data in {'a.cls': b'7', 'a.json': b'{"caption": "a"}'}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    (place.root / 'per_class.csv').write_text(f'class,threshold\n{TABBY},0.3\n')


def make_labels(place: Place) -> None:
    """As most guides find them, and the same output under the names of others."""
    make_pictures(place)
    for name in ('a', 'b', 'other'):
        (place.root / name).symlink_to('labels')
    with contextlib.chdir(place.root), app.stand_in():
        app.label('--input', 'photos', '--output', 'labels', *KEPT)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp('guides')
    return Place(folder, {'pictures': make_pictures, 'labels': make_labels})


@pytest.fixture
def home(place, monkeypatch, stand_in_model):
    """Puts the place into a state and works there, where `~` is as well."""

    def at(state: str) -> Path:
        folder = place.at(state)
        monkeypatch.chdir(folder)
        monkeypatch.setenv('HOME', str(folder))
        return folder

    return at


# Others go on with an output that is there.
FROM_NOTHING = (ROOT / 'README.md', ROOT / 'pipeline' / 'README.md')
WITH_COMMANDS = [path for path in guides() if any(map(runs_here, commands(path)))]


@pytest.mark.parametrize('path', WITH_COMMANDS, ids=name_of)
def test_commands_run(path, home):
    home('pictures' if path in FROM_NOTHING else 'labels')
    for block in code_blocks(path):
        if block.language == 'toml':
            Path('nightly.toml').write_text(block.text)
    for words in filter(runs_here, commands(path)):
        done = app.invoke(*map(os.path.expanduser, words))
        assert done.returncode == 0, (words, done)


def test_the_promises_of_the_readme(home):
    """What stands beside each is what shows it; `make run` is what CI begins with."""
    promises = (ROOT / 'README.md').read_text().partition('\n## ')[0]
    for command in ('verify labels', 'verify a b --exact', 'label'):
        assert f'`lemmabeam {command}`' in promises
    folder = home('pictures')
    for output in ('a', 'b'):
        app.label('--input', 'photos', '--output', output, '--run_id', 'same')
    assert app.invoke('verify', 'a', 'b', '--exact').returncode == 0
    again = app.label('--input', 'photos', '--output', 'a')
    assert (again['counts']['labeled'], again['counts']['unchanged']) == (0, 3)
    (changed,) = folder.glob('b/predictions/*/*/*.parquet')
    changed.write_bytes(changed.read_bytes()[:-1])
    assert app.invoke('verify', 'a', 'b', '--exact').returncode == 1


def shell_lines(path: Path) -> list[str]:
    """What is for a shell and has Python look at labels: whole blocks, and single lines."""
    blocks = list(code_blocks(path))
    lines = [line for block in blocks if not block.language for line in block.text.splitlines()]
    return [
        *(block.text for block in blocks if block.language == 'sh'),
        *(line for line in lines if line.startswith('python -c')),
    ]


@pytest.mark.parametrize('path', [path for path in guides() if shell_lines(path)], ids=name_of)
def test_queries_from_a_shell_run(path, home):
    home('labels')
    programs = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    for line in shell_lines(path):
        done = subprocess.run(
            ['sh', '-c', line], capture_output=True, text=True, env=os.environ | {'PATH': programs}
        )
        assert done.returncode == 0, done.stderr
        assert ' rows' in done.stdout or '│' in done.stdout, done.stdout


def test_python_of_the_readme_runs(home, capsys):
    home('pictures')
    (code,) = (
        block.text for block in code_blocks(ROOT / 'README.md') if block.language == 'python'
    )
    exec(code, {})
    assert '3 labelled, 0 dead letters' in capsys.readouterr().out
