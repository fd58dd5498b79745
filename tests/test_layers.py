"""Imports go one way, folders of transforms know no Beam, nothing loads TensorFlow early.

And functions are short, and arrows between rooms few.
"""

import ast
import collections
import functools
from pathlib import Path

from pipeline import main

ROOT = Path(main.__file__).parents[1]
# A room is a folder of a package, or what lies in the package itself; of the application, what
# starts it is one apart.
STARTS = ('pipeline.main', 'pipeline.__main__', 'pipeline.flex_template')
# A room imports from itself and from what stands before its line.
ORDER = [
    'transforms.core',
    'transforms.storage transforms.images',
    'transforms.loading transforms.model',
    'transforms.output',
    'transforms.runs',
    'transforms.sources',
    'transforms.dataset',
    'transforms',  # the steps
    'pipeline',
    'pipeline.report pipeline.runners',
    'pipeline.job',
    'pipeline.commands pipeline.api',
    'starts',
]
MOST_ROOMS, MOST_ARROWS = 22, 75
# These import TensorFlow, Keras or another runtime when they are imported, or (`LATE`) called.
TENSORFLOW = {
    'transforms.model.families.bit.rebuild',
    'transforms.model.saved_model',
    'transforms.model.sparse',
    'transforms.model.families.bit.export',
    'transforms.model.families.bit.resnet',
    'transforms.model.families.efficientnet_lite.network',
}
LATE = {
    'transforms.model.load',
    'transforms.model.runtimes.on_tensorflow',
    'transforms.model.runtimes.on_jax',
    'transforms.model.runtimes.on_onnxruntime',
}
FAMILIES = 'transforms.model.families.'  # each may, when it builds a network
# Of the code of a function, its docstring aside.
MOST_LINES = 60


@functools.cache
def modules():
    """Each module by its name, packages under that of their folder."""
    return {
        '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
        for package in ('pipeline', 'transforms')
        for path in (ROOT / package).rglob('*.py')
    }


@functools.cache
def imports():
    """(module, what it imports, whether that is done while the module is imported), all of them."""
    return [found for name, path in modules().items() for found in _imports(name, path)]


def _imports(module, path):
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


def room_of(name):
    """The room of a module, or of a name in one; '' for what is not ours."""
    package, *rest = name.split('.')
    if package not in ('pipeline', 'transforms'):
        return ''
    if not rest:
        return package
    head = f'{package}.{rest[0]}'
    if head in STARTS:
        return 'starts'
    return head if (ROOT / package / rest[0]).is_dir() else package


def place_of(room):
    return next(i for i, line in enumerate(ORDER) if room in line.split())


@functools.cache
def arrows():
    """What each room imports from each other, wherever the statement stands, by the two."""
    found = collections.defaultdict(set)
    for module, name, _ in imports():
        here, there = room_of(module), room_of(name)
        if there not in ('', here):
            found[here, there].add(f'{module} -> {name}')
    return found


def test_imports_go_one_way():
    wrong = [
        names for (here, there), names in arrows().items() if place_of(there) >= place_of(here)
    ]
    assert wrong == []


def test_rooms_and_arrows_between_them_are_few():
    """Where there are too many, the thinnest arrow shows first what lies in the wrong room."""
    assert len({room for pair in arrows() for room in pair}) <= MOST_ROOMS
    thin = sorted(arrows().items(), key=lambda each: (len(each[1]), each[0]))
    listed = [f'{here} -> {there}: {", ".join(sorted(names))}' for (here, there), names in thin]
    assert len(listed) <= MOST_ARROWS, '\n'.join(listed)


def test_a_folder_of_transforms_knows_no_beam():
    assert [
        (module, name)
        for module, name, _ in imports()
        if module.startswith('transforms.')
        and room_of(module) != 'transforms'
        and name.startswith('apache_beam')
    ] == []


def test_only_model_modules_know_tensorflow_and_nothing_loads_it_early():
    assert modules().keys() >= TENSORFLOW | LATE
    for module, name, is_early in imports():
        if name.split('.')[0] in ('tensorflow', 'tensorflow_hub', 'keras', 'jax', 'onnxruntime'):
            may_late = module in LATE or module.startswith(FAMILIES)
            assert module in TENSORFLOW or (may_late and not is_early), (module, name)
        if name.startswith(tuple(TENSORFLOW)) and module not in TENSORFLOW:
            assert not is_early, (module, name)


def test_a_function_is_no_longer_than_a_screen():
    """One is a list of fields, and is left as it is."""
    long = [
        f'{module}.{node.name}'
        for module, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and _lines(node) > MOST_LINES
    ]
    assert long == []


def _lines(function):
    """How many, without its docstring."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    return lines - (first.end_lineno - first.lineno + 1 if has_docstring else 0)


def test_only_what_a_person_calls_prints():
    """All else tells through `pipeline.messages`, so that who calls a function chooses."""
    may = ('pipeline.messages', 'pipeline.flex_template', 'pipeline.job.streams')
    may += ('pipeline.api.quiet',)
    assert {
        module
        for module, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id == 'print' and not module.startswith(may)
    } == set()
