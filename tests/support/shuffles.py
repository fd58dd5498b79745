"""What of a graph crosses a shuffle, read from the proto that is handed to a runner.

It takes the proto of any runner: that of `beam.Pipeline.to_runner_api`, or what a runner made of it
before it was submitted.
"""

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import apache_beam as beam
from apache_beam import coders
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.pipeline_context import PipelineContext

import transforms.coders  # noqa: F401 (registers the coders of the rows)
from transforms.core import elements

Pipeline: TypeAlias = beam_runner_api_pb2.Pipeline
_Transform: TypeAlias = beam_runner_api_pb2.PTransform

_GROUP = common_urns.primitives.GROUP_BY_KEY.urn
_PARDO = common_urns.primitives.PAR_DO.urn
_KINDS = {
    common_urns.composites.RESHUFFLE.urn: 'reshuffle',
    common_urns.composites.COMBINE_PER_KEY.urn: 'combine',
}
# Parts of names that Beam chooses.
_OF_BEAM = re.compile(
    r'\(|^(CoGroupByKeyImpl|ReshufflePerKey|GroupByKey|CombinePerKey|Combine|InjectDefault|UnKey)$'
)
_NAMES = {
    row._fields: name
    for name, row in vars(elements).items()
    if isinstance(row, type) and issubclass(row, tuple) and hasattr(row, '_fields')
}
_PRIMITIVES = {
    coders.StrUtf8Coder: 'str',
    coders.BytesCoder: 'bytes',
    coders.VarIntCoder: 'int',
    coders.FloatCoder: 'float',
}


class Shuffle(NamedTuple):
    """Something that crosses a shuffle, or is laid down for everybody to read.

    Attributes:
      kind: 'group' and 'reshuffle' move every element; 'combine' moves one sum a key and bundle;
        'side input' is written once and read by each worker; 'state' moves every element to the
        worker that has its key.
      element: the elements as their coder has them; 'pickled' where it is no coder of ours.
      pcollection: id of the PCollection in the proto.
      coder_id: id of its coder in the proto.
    """

    kind: str
    element: str
    pcollection: str
    coder_id: str


def shuffled(pipeline: Pipeline) -> dict[str, Shuffle]:
    """What crosses a shuffle, by the name of the step that causes it.

    A side input is named 'the step that reads it < the step that gives it'. What Beam adds to the
    name of a step of ours is left out, unless two would have the same name then.
    """
    graph = _Graph(pipeline)
    found: dict[str, Shuffle] = {}

    def add(name: str, shuffle: Shuffle) -> None:
        short = ' < '.join(map(_short, name.split(' < ')))
        found[name if short in found else short] = shuffle

    for leaf in sorted(graph.leaves(), key=lambda leaf: leaf.unique_name):
        if leaf.spec.urn == _GROUP:
            step, kind = graph.cause(leaf)
            add(step, graph.shuffle(kind, next(iter(leaf.inputs.values()))))
            continue
        sides = _side_inputs(leaf)
        for tag, pcollection in leaf.inputs.items():
            if tag in sides:
                source = graph.producer[pcollection].unique_name
                add(f'{leaf.unique_name} < {source}', graph.shuffle('side input', pcollection))
            elif _has_state(leaf):
                add(leaf.unique_name, graph.shuffle('state', pcollection))
    return dict(sorted(found.items()))


def pixel_faults(
    pipeline: Pipeline, load: str = 'LoadImages/Load', label: str = 'LabelImages'
) -> list[str]:
    """Why pixels would not stay within one fused stage; nothing if they do.

    Pixels are what the step `load` gives, and what any other one makes of them that is not the
    result of the composite `label`.

    Raises:
      LookupError: the graph has no such steps.
    """
    graph = _Graph(pipeline)
    loading = [leaf for leaf in graph.leaves() if _is_within(leaf.unique_name, load)]
    if not loading:
        raise LookupError(f'no step {load}')
    results = set(graph.named(label).outputs.values())
    pixels = {pcollection for leaf in loading for pcollection in leaf.outputs.values()}
    environments = {leaf.environment_id for leaf in loading}
    faults = []
    seen: set[str] = set()
    is_labeled = False
    while pixels - seen:
        pcollection = min(pixels - seen)
        seen.add(pcollection)
        for leaf in graph.leaves():
            if pcollection not in leaf.inputs.values():
                continue
            name = leaf.unique_name
            if not _is_within(name, label):
                faults.append(f'{name} takes pixels')
            if any(leaf.inputs[tag] == pcollection for tag in _side_inputs(leaf)):
                faults.append(f'{name} has pixels as a side input')
            if leaf.spec.urn == _GROUP:
                faults.append(f'{name} shuffles pixels')
            elif leaf.spec.urn != _PARDO:
                faults.append(f'{name} takes pixels and is no ParDo: {leaf.spec.urn}')
            elif _has_state(leaf):
                faults.append(f'{name} takes pixels and has state or is splittable: it shuffles')
            if leaf.environment_id and leaf.environment_id not in environments:
                faults.append(f'{name} has another environment than {load}: they are not fused')
            is_labeled |= bool(results & set(leaf.outputs.values()))
            pixels |= set(leaf.outputs.values()) - results
    if not is_labeled:
        faults.append(f'pixels of {load} do not come to {label}')
    return sorted(set(faults))


def coder_of(pipeline: Pipeline, shuffle: Shuffle) -> coders.Coder:
    """The coder its elements are written with."""
    return PipelineContext(pipeline.components).coders.get_by_id(shuffle.coder_id)


class _Graph:
    def __init__(self, pipeline: Pipeline):
        components = pipeline.components
        self.transforms = components.transforms
        self._pcollections = components.pcollections
        self._coders = PipelineContext(components).coders
        self._parents = {
            child: each for each in self.transforms.values() for child in each.subtransforms
        }
        self._ids = {each.unique_name: id_ for id_, each in self.transforms.items()}
        self.producer = {
            pcollection: leaf for leaf in self.leaves() for pcollection in leaf.outputs.values()
        }

    def named(self, name: str) -> _Transform:
        """The step of this name.

        Raises:
          LookupError: there is none.
        """
        return self.transforms[self._ids[name]]

    def leaves(self) -> Iterator[_Transform]:
        """Steps that are no composites; what only passes on its input is none either."""
        for each in self.transforms.values():
            passes_on = set(each.outputs.values()) <= set(each.inputs.values())
            if not each.subtransforms and not passes_on:
                yield each
            elif not each.subtransforms and each.spec.urn == _PARDO:
                yield each  # without any output

    def cause(self, group: _Transform) -> tuple[str, str]:
        """The outermost step that a GroupByKey is the shuffle of, and what kind of it."""
        found = group.unique_name, 'group'
        above = self._parents.get(self._ids[group.unique_name])
        while above is not None:
            if above.spec.urn in _KINDS:
                found = above.unique_name, _KINDS[above.spec.urn]
            above = self._parents.get(self._ids[above.unique_name])
        return found

    def shuffle(self, kind: str, pcollection: str) -> Shuffle:
        coder_id = self._pcollections[pcollection].coder_id
        return Shuffle(kind, _element(self._coders.get_by_id(coder_id)), pcollection, coder_id)


def _short(name: str) -> str:
    """'CountListed' of 'CountListed/CombineGlobally(CountCombineFn)/…'."""
    ours = itertools.takewhile(lambda part: not _OF_BEAM.search(part), name.split('/'))
    return '/'.join(ours) or name


def _is_within(name: str, step: str) -> bool:
    return name == step or name.startswith(f'{step}/')


def _pardo(leaf: _Transform) -> beam_runner_api_pb2.ParDoPayload:
    payload = leaf.spec.payload if leaf.spec.urn == _PARDO else b''
    return beam_runner_api_pb2.ParDoPayload.FromString(payload)


def _side_inputs(leaf: _Transform) -> set[str]:
    return set(_pardo(leaf).side_inputs)


def _has_state(leaf: _Transform) -> bool:
    payload = _pardo(leaf)
    return bool(payload.state_specs or payload.timer_family_specs or payload.restriction_coder_id)


def _element(coder: coders.Coder) -> str:
    if isinstance(coder, coders.RowCoder):
        fields = tuple(field.name for field in coder.schema.fields)
        return _NAMES.get(fields, f'row({", ".join(fields)})')
    if type(coder) in _PRIMITIVES:
        return _PRIMITIVES[type(coder)]
    if isinstance(coder, beam.coders.coders.TupleCoder):
        return f'({", ".join(map(_element, coder.coders()))})'
    if isinstance(coder, coders.NullableCoder):
        return f'{_element(coder._value_coder)} or None'
    name = type(coder).__name__
    return 'pickled' if 'FastPrimitives' in name else name.removesuffix('Coder')
