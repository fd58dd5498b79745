"""Which variable is which tensor of a BiT network, whatever the variables are called.

Names, order and shapes give a few candidates; which of them is right, only the numbers tell, see
`transforms.model.families.bit.rebuild`.  Does not import TensorFlow.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from transforms.core.errors import ModelError
from transforms.model.families.bit.checkpoint import HEAD_KERNEL, Architecture, check, layout
from transforms.model.tensor_files import Shapes, Variable

# Layers of a class that is there several times may be numbered: standardized_conv2d_12.
_NUMBERED = re.compile(r'(standardized_conv2d|group_norm|dense|conv2d)_\d+(?=/)')
_TAIL = re.compile(
    r'(?:^|/)(?:'
    r'(?P<conv>root_block|block\d+/unit\d+/(?:a/proj|[abc]))/standardized_conv2d/kernel|'
    r'(?P<norm>(?:block\d+/unit\d+/[abc]/)?group_norm/(?:gamma|beta))|'
    r'head/(?:dense|conv2d)/(?P<head>kernel|bias)'
    r')(?::\d+)?$'
)
_UNIT = re.compile(r'unit(\d)/')
_PARTS = ('a', 'b', 'c', 'a/proj')

Assignment = dict[str, str]
"""The key of each tensor, by its name in an official checkpoint."""


def official_name(name: str) -> tuple[str, str] | None:
    """The official checkpoints' name for a tensor that is called `name` elsewhere.

    Only the end of the name counts.  'resnet_1/head/dense_3/kernel:0' is ('resnet_1',
    'resnet/head/conv2d/kernel').

    Returns:
      The scope before it, and its official name; None for what is outside a network, such as
      'global_step'.
    """
    plain = _NUMBERED.sub(r'\1', name)
    match = _TAIL.search(plain)
    if match is None:
        return None
    if match['conv']:
        tail = f'{match["conv"]}/standardized_conv2d/kernel'
    elif match['norm']:
        tail = match['norm']
    else:
        tail = f'head/conv2d/{match["head"]}'
    return plain[: match.start()], 'resnet/' + _UNIT.sub(r'unit0\1/', tail)


def named(variables: Iterable[Variable]) -> dict[str, dict[str, list[Variable]]]:
    """Variables by their official names, for each scope in which some stand."""
    found: dict[str, dict[str, list[Variable]]] = defaultdict(lambda: defaultdict(list))
    for variable in variables:
        if name := official_name(variable.name):
            found[name[0]][name[1]].append(variable)
    return found


def candidates(
    variables: Sequence[Variable], architecture: Architecture, classes: int | None
) -> Iterator[Assignment]:
    """Possible assignments of a model's variables to tensors, the likeliest first.

    By name, one for each scope that holds a whole network; if there is none, by the order in which
    the variables are listed, and their shapes.

    Args:
      variables: in the order of the object graph; others than those of the network may be among
        them.
      architecture, classes: of the network, see `transforms.model.families.bit.checkpoint.layout`.
    """
    by_name = [
        found
        for each in named(variables).values()
        if (found := _by_name(each, variables, architecture, classes))
    ]
    yield from by_name or _by_structure(variables, architecture, classes)


def why_not(variables: Sequence[Variable], architecture: Architecture, classes: int | None) -> str:
    """Why there is no candidate: what is missing, unknown, of another shape or duplicated."""
    scopes = named(variables)
    most = max(scopes.values(), key=len, default={})
    twice = [name for name, found in most.items() if len(found) > 1]
    if twice:
        return f'{len(twice)} tensors appear more than once, such as {twice[0]!r}'
    try:
        check(_shapes({name: found[0] for name, found in most.items()}), architecture, classes)
    except ModelError as e:
        return str(e)
    return 'its tensors are in an unknown order'


def _by_name(
    found: Mapping[str, list[Variable]],
    variables: Sequence[Variable],
    architecture: Architecture,
    classes: int | None,
) -> Assignment | None:
    if any(len(each) > 1 for each in found.values()):
        return None
    ours = {name: each[0] for name, each in found.items()}
    if classes is not None and HEAD_KERNEL not in ours:
        ours |= _head_by_shape(variables, architecture, classes)
    try:
        check(_shapes(ours), architecture, classes)
    except ModelError:
        return None
    return {name: ours[name].key for name in layout(architecture, classes)}


def _head_by_shape(
    variables: Sequence[Variable], architecture: Architecture, classes: int
) -> dict[str, Variable]:
    """A head that stands elsewhere under any name, as of a network that was fine-tuned."""
    expected = layout(architecture, classes)
    head = {name: shape for name, shape in expected.items() if name.startswith('resnet/head/')}
    found = {}
    for name, shape in head.items():
        fitting = [each for each in variables if _is(each.shape, shape)]
        if len(fitting) != 1:
            return {}
        found[name] = fitting[0]
    return found


def official_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Shapes by official name; a head of rank 2 is that of a convolution of one pixel."""
    return {
        name: (1, 1, *shape) if name == HEAD_KERNEL and len(shape) == 2 else shape
        for name, shape in shapes.items()
    }


def _shapes(variables: Mapping[str, Variable]) -> Shapes:
    return official_shapes({name: each.shape for name, each in variables.items()})


def _is(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return shape == expected or (len(expected) == 4 and (1, 1, *shape) == expected)


def _by_structure(
    variables: Sequence[Variable], architecture: Architecture, classes: int | None
) -> Iterator[Assignment]:
    """By shape: of those of one shape, the first in the list is the first in the network."""
    expected = layout(architecture, classes)
    by_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for variable in variables:
        shape = variable.shape
        # Of rank 2 is the head of a dense layer alone.
        by_shape[(1, 1, *shape) if len(shape) == 2 else shape].append(variable.key)
    counts: dict[tuple[int, ...], int] = defaultdict(int)
    for shape in expected.values():
        counts[shape] += 1
    if any(len(by_shape[shape]) != count for shape, count in counts.items()):
        return
    seen = set()
    for order in _orders(architecture, expected):
        left = {shape: iter(by_shape[shape]) for shape in counts}
        found = {name: next(left[expected[name]]) for name in order}
        key = tuple(found[name] for name in expected)
        if key not in seen:
            seen.add(key)
            yield found


def _orders(architecture: Architecture, expected: Shapes) -> Iterator[list[str]]:
    """Orders in which the tensors of a network may be listed: kernels, and then vectors."""
    units = [f'resnet/{unit.name}/' for unit in architecture.units()]
    others = [name for name in expected if not name.startswith(tuple(units))]
    last_norm = [name for name in others if '/group_norm/' in name]
    ends = [name for name in others if name not in last_norm]
    for is_by_unit, is_norm_last, parts in itertools.product(
        (True, False), (True, False), (('gamma', 'beta'), ('beta', 'gamma'))
    ):
        norms = [
            f'{each}group_norm/{part}'
            for each in _paths(units, ('a', 'b', 'c'), is_by_unit)
            for part in parts
        ]
        last = [f'resnet/group_norm/{part}' for part in parts]
        vectors = norms + last if is_norm_last else last + norms
        for kernel_parts, are_by_unit in (
            (_PARTS, True),
            (('a/proj', 'a', 'b', 'c'), True),
            (_PARTS, False),
        ):
            kernels = [
                name
                for each in _paths(units, kernel_parts, are_by_unit)
                if (name := f'{each}standardized_conv2d/kernel') in expected
            ]
            yield ends + kernels + vectors


def _paths(units: Sequence[str], parts: Sequence[str], is_by_unit: bool) -> list[str]:
    """'resnet/block1/unit01/a/' and so on, unit by unit or part by part."""
    if is_by_unit:
        return [f'{unit}{part}/' for unit in units for part in parts]
    return [f'{unit}{part}/' for part in parts for unit in units]
