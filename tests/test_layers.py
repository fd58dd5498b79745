"""Imports go one way, and what must be documented is."""

import ast
from pathlib import Path

from pipeline import main
from transforms.rows import Reason

ROOT = Path(main.__file__).parents[1]
PURE = """
    decode errors hashing layout lease manifest outcomes partitions process rows storage storage_gcs
    storage_local uris model.bit model.card model.efficientnet_lite model.registry model.sparse
    model.vocabulary
""".split()
TENSORFLOW = {'model.bit', 'model.handler', 'model.efficientnet_lite', 'model.sparse'}


def imports():
    """(module, imported name, whether it is done while the module is imported)."""
    for package in ('pipeline', 'transforms'):
        for path in (ROOT / package).rglob('*.py'):
            module = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
            tree = ast.parse(path.read_text())
            late = {
                inner
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef)
                or (isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test))
                for inner in ast.walk(node)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [f'{node.module}.{alias.name}' for alias in node.names]
                else:
                    continue
                yield from ((module, name, node not in late) for name in names)


def test_transforms_never_import_pipeline():
    assert [
        (module, name)
        for module, name, _ in imports()
        if module.startswith('transforms') and name.split('.')[0] == 'pipeline'
    ] == []


def test_pure_modules_know_no_beam():
    pure = {f'transforms.{name}' for name in PURE}
    found = [
        (module, name)
        for module, name, _ in imports()
        if module in pure
        and name.startswith(('apache_beam', 'transforms.coders', 'transforms.write'))
    ]
    assert found == []
    assert pure <= {module for module, _, _ in imports()}


def test_only_model_modules_know_tensorflow_and_nothing_loads_it_early():
    allowed = {f'transforms.{name}' for name in TENSORFLOW}
    for module, name, is_early in imports():
        if name.split('.')[0] in ('tensorflow', 'keras') and module != 'transforms.model.registry':
            assert module in allowed, (module, name)
        # These modules need Keras at once, so nobody may import them at once.
        if name.startswith(tuple(f'transforms.{n}' for n in TENSORFLOW - {'model.handler'})):
            assert not is_early, (module, name)


def test_every_reason_has_its_row_in_the_readme():
    readme = (ROOT / 'README.md').read_text()
    for reason in Reason:
        assert f'| `{reason.value}` |' in readme
