"""Programs that tests and benchmarks keep as text import what is there: nothing else sees it."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / 'tests').glob('**/*.py'))


def programs(path):
    """The texts of a file that are programs which import something of ours."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if any(f'from {name}' in text for name in ('pipeline', 'transforms', 'tests')):
                try:
                    yield ast.parse(text)
                except SyntaxError:  # of a sentence
                    continue


@functools.cache
def names_of(module):
    """What can be imported of a module of this repository; None if there is none."""
    file = ROOT / f'{module.replace(".", "/")}.py'
    if not file.exists():
        file = file.with_suffix('') / '__init__.py'
        if not file.exists():
            return None
    found = {path.stem for path in file.parent.iterdir()} if file.name == '__init__.py' else set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(each.asname or each.name).split('.')[0] for each in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)  # loaded late, by its name
    return found


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_program_imports_is_there(path):
    for program in programs(path):
        for node in ast.walk(program):
            if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] in (
                'pipeline',
                'transforms',
                'tests',
            ):
                known = names_of(node.module)
                assert known is not None, node.module
                assert {each.name for each in node.names} - known == set(), node.module
