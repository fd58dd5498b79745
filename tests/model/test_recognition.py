"""Which variable is which tensor: by any names that modules have had, and by order and shape.

That the numbers decide between candidates is in test_rebuild.
"""

import random

import pytest

from transforms.model.families.bit.checkpoint import Architecture, kernel_name, layout
from transforms.model.families.bit.recognition import candidates, official_name, why_not
from transforms.model.tensor_files import Variable

R50 = Architecture.parse('R50x1')
CLASSES = 100
LAYOUT = layout(R50, CLASSES)
HEAD = 'resnet/head/conv2d/kernel'


def variables(rename=lambda name: name, order=tuple(LAYOUT)):
    """Variables of a module; the key tells which one each is."""
    return [Variable(f'key {name}', rename(name), LAYOUT[name]) for name in order]


def is_right(found):
    return found == {name: f'key {name}' for name in LAYOUT}


def first(variables):
    return next(candidates(variables, R50, CLASSES), None)


NAMES = {
    'official': lambda name: name,
    'with :0': lambda name: f'{name}:0',
    'of a second model in the process': lambda name: name.replace('resnet/', 'resnet_1/', 1),
    'built, not called': lambda name: name.removeprefix('resnet/'),
    'within a module': lambda name: f'module/{name}',
    'of a dense head': lambda name: name.replace('/head/conv2d/', '/head/dense/'),
    'numbered': lambda name: name.replace('conv2d/', 'conv2d_17/').replace('norm/', 'norm_3/'),
    'units of one digit': lambda name: name.replace('/unit0', '/unit'),
}


@pytest.mark.parametrize('rename', NAMES.values(), ids=NAMES)
def test_names(rename):
    assert is_right(first(random.Random(0).sample(variables(rename), len(LAYOUT))))


def test_what_stands_outside_a_network():
    for name in ('global_step', 'resnet/bn/gamma', 'head/kernel', 'x/group_norm/moving_mean', ''):
        assert official_name(name) is None
    others = [Variable(name, name, ()) for name in ('global_step', 'save_counter')]
    assert is_right(first([*others, *variables()]))


def test_a_head_of_a_dense_layer_has_two_dimensions():
    flat = [
        each._replace(shape=each.shape[2:]) if each.name == HEAD else each for each in variables()
    ]
    assert is_right(first(flat))


def test_of_two_networks_each_is_a_candidate():
    twins = [each._replace(key=f'twin {each.name}') for each in variables(lambda n: f'ema/{n}')]
    found = list(candidates([*variables(), *twins], R50, CLASSES))
    assert len(found) == 2
    assert is_right(found[0])


def test_a_head_of_another_name_is_found_by_its_shape():
    assert is_right(first(variables(lambda n: n.replace('resnet/head/conv2d', 'dense_4'))))


def paths(parts, by_unit=True):
    units = [f'resnet/{unit.name}/' for unit in R50.units()]
    pairs = (
        [(unit, part) for unit in units for part in parts]
        if by_unit
        else [(unit, part) for part in parts for unit in units]
    )
    return [f'{unit}{part}/' for unit, part in pairs]


def listed(kernel_parts, vectors, by_unit=True, is_mixed=True):
    """An order of all tensors."""
    names = [kernel_name('root_block')]
    kernels = [f'{path}standardized_conv2d/kernel' for path in paths(kernel_parts, by_unit)]
    norms = [
        f'{path}group_norm/{vector}'
        for path in paths(('a', 'b', 'c'), by_unit)
        for vector in vectors
    ]
    names += kernels + norms if is_mixed else norms + kernels
    names += [f'resnet/group_norm/{vector}' for vector in vectors]
    names += [HEAD, HEAD.replace('kernel', 'bias')]
    return [name for name in names if name in LAYOUT]


@pytest.mark.parametrize('kernel_parts', [('a', 'b', 'c', 'a/proj'), ('a/proj', 'c', 'b', 'a')])
@pytest.mark.parametrize('vectors', [('gamma', 'beta'), ('beta', 'gamma')])
@pytest.mark.parametrize('by_unit', [True, False])
@pytest.mark.parametrize('is_mixed', [True, False])
def test_without_names_the_right_one_is_among_a_few(kernel_parts, vectors, by_unit, is_mixed):
    order = listed(kernel_parts, vectors, by_unit, is_mixed)
    assert set(order) == set(LAYOUT)
    found = list(candidates(variables(lambda _: 'Variable', order), R50, CLASSES))
    assert len(found) <= 24
    assert any(map(is_right, found))


def test_the_usual_orders_come_first():
    for number, vectors in enumerate((('gamma', 'beta'), ('beta', 'gamma'))):
        order = listed(('a', 'b', 'c', 'a/proj'), vectors)
        found = list(candidates(variables(lambda _: '', order), R50, CLASSES))
        assert [is_right(each) for each in found].index(True) <= 12 * number


def test_another_network_has_no_candidate():
    assert list(candidates(variables(), Architecture.parse('R101x1'), CLASSES)) == []
    assert list(candidates(variables()[1:], R50, CLASSES)) == []
    assert list(candidates([], R50, CLASSES)) == []


def test_why_there_is_none():
    lacks = [each for each in variables() if each.name != HEAD]
    assert f'lacks the tensor {HEAD!r}' in why_not(lacks, R50, CLASSES)
    assert 'expected (1, 1, 2048, 7)' in why_not(variables(), R50, 7)
    assert 'appear more than once' in why_not([*variables(), variables()[0]], R50, CLASSES)
    assert 'lacks the tensor' in why_not([], R50, CLASSES)
