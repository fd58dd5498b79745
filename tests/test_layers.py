"""Imports go one way, and what must be documented is."""

import ast
import functools
from pathlib import Path

from pipeline import main

ROOT = Path(main.__file__).parents[1]
PURE = """
    arrow_text containers content_coding dataflow_job dataset dead_letters decode errors faults
    forget frozen gone hashing http_pool interim isobmff jpeg2000 latest layout lease long_texts
    manifest newest no_images outcomes parquet_pages partitions process publish qoi reasons relabel
    rows runs sealed spool storage storage_gcs storage_http storage_local storage_s3 tell_apart tiff
    uris versions waiting work write loading.batch loading.budget loading.buffers loading.child
    loading.fetches loading.fork_server loading.hosts loading.image loading.loader
    loading.options loading.processes loading.server loading.threads model.bit model.canary
    model.card model.checkpoint model.device model.download.archive model.download.cache
    model.download.fetch model.download.http model.download.huggingface model.download.kaggle
    model.efficientnet_lite model.export model.network model.predictor model.rebuild
    model.recognition model.registry model.rescue model.runtime model.saved_model model.sources
    model.sparse model.vocabulary model.weights
""".split()
STEPS = ('transforms.write_dead_letters', 'transforms.write_predictions')
# These import TensorFlow or Keras when they are imported, or (`LATE`) when they are called.
TENSORFLOW = {
    'model.bit',
    'model.efficientnet_lite',
    'model.export',
    'model.network',
    'model.rebuild',
    'model.saved_model',
    'model.sparse',
}
LATE = {'model.runtime'}


@functools.cache
def imports():
    """(module, imported name, whether it is done while the module is imported), all of them."""
    return list(_imports())


def _imports():
    for package in ('pipeline', 'transforms'):
        for path in (ROOT / package).rglob('*.py'):
            module = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
            for node, is_late in _statements(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [f'{node.module}.{alias.name}' for alias in node.names]
                else:
                    continue
                yield from ((module, name, not is_late) for name in names)


def _statements(tree):
    """All below a tree but expressions, which import nothing; and whether they are run later."""
    left = [(tree, False)]
    while left:
        node, is_late = left.pop()
        yield node, is_late
        is_late |= isinstance(node, ast.FunctionDef)
        is_late |= isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test)
        left += [
            (child, is_late)
            for child in ast.iter_child_nodes(node)
            if not isinstance(child, ast.expr)
        ]


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
        and name.startswith(('apache_beam', 'transforms.coders', 'transforms.metrics', *STEPS))
    ]
    assert found == []
    assert pure <= {module for module, _, _ in imports()}


def test_only_model_modules_know_tensorflow_and_nothing_loads_it_early():
    eager = {f'transforms.{name}' for name in TENSORFLOW}
    late = {f'transforms.{name}' for name in LATE}
    for module, name, is_early in imports():
        if name.split('.')[0] in ('tensorflow', 'tensorflow_hub', 'keras'):
            assert module in eager or (module in late and not is_early), (module, name)
        if name.startswith(tuple(eager)) and module not in eager:
            assert not is_early, (module, name)
