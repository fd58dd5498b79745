"""What crosses a shuffle: the whole list of it, what a row weighs, and that no pixel does.

The graph is the real one, as a runner is given it. What is not checked here: what an engine does
with it.
"""

import dataclasses

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import translations
from apache_beam.utils.windowed_value import PANE_INFO_UNKNOWN

from pipeline.job import graph
from tests.benchmarks.shape import labeled
from tests.support import app, samples, shuffles
from transforms.chunks import cut, merge
from transforms.core.elements import Batch, Ref
from transforms.label import LabelImages
from transforms.load import LoadImages
from transforms.output.history_file import HistoryFile
from transforms.output.layout import Layout
from transforms.output.predictions import route
from transforms.output.results import outcome_table, to_ipc
from transforms.storage.sealed import Checksum

# A step of the graph, or 'a step that reads < the step whose result it reads'.
EXPECTED = {
    'CountListed': ('combine', '(pickled, Ref)'),
    'CountListed < CountListed': ('side input', 'int'),
    'CountMost': ('combine', '(pickled, int)'),
    'CountMost < CountMost': ('side input', 'pickled'),
    'DropDone/GroupByUri': ('group', '(str, pickled)'),
    'SplitChunks/EachOnce/Group': ('combine', '(str, pickled)'),
    'MakeChunks/CountImages': ('combine', '(pickled, Item)'),
    'MakeChunks/CountImages < MakeChunks/CountImages': ('side input', 'int'),
    'MakeChunks/GroupByBucket': ('group', '(int, Item)'),
    'MakeChunks/KeyByBucket < MakeChunks/CountBuckets': ('side input', 'int'),
    'MakeChunks/Spread': ('reshuffle', '(int, (Chunk, pickled or None, PaneInfo))'),
    'ReadHistory/Files/MaybeReshuffle/Reshuffle': (
        'reshuffle',
        '(int, (bytes, pickled or None, PaneInfo))',
    ),
    'ReadRefs/SpreadParts': ('reshuffle', '(int, ((str, str), pickled or None, PaneInfo))'),
    'RunReport/Publish < AllFiles': ('side input', 'WrittenFile'),
    'RunReport/Publish < SplitChunks/EachOnce/Distinct/Keys': ('side input', 'str'),
    'RunReport/Publish < RunReport/SumCounts': ('side input', '(str, pickled)'),
    'RunReport/Publish < RunReport/SumLabels': ('side input', '(str, pickled)'),
    'RunReport/Publish < RunReport/SumStats': ('side input', '(str, pickled)'),
    'RunReport/SumCounts': ('combine', '(str, int)'),
    'RunReport/SumLabels': ('combine', '(str, int)'),
    'RunReport/SumStats': ('combine', '(str, float)'),
    'WriteDeadLetters/GroupByFile': ('group', '(str, DeadLetter or None)'),
    'WriteDeadLetters/KeyByFile < CountMost': ('side input', 'int'),
    'WriteDeadLetters/Write < SplitChunks/EachOnce/Distinct/Keys': ('side input', 'str'),
    'CountShards/CountRows': ('combine', '(str, pickled)'),
    'WritePredictions/GroupByFile': ('group', '(str, bytes)'),
    'SplitChunks/Split < CountShards/TellApart': ('side input', 'Map'),
    'CountShards/ShardsOfAll/ShardsOfAll': ('combine', '(pickled, (str, pickled))'),
    'CountShards/ShardsOfAll/ShardsOfAll < CountShards/ShardsOfAll/ShardsOfAll': (
        'side input',
        'Map',
    ),
    'WritePredictions/Write < SplitChunks/EachOnce/Distinct/Keys': ('side input', 'str'),
}


@pytest.fixture(scope='module')
def config():
    config, _ = app.make_config('--input', samples.SAMPLE, '--output', '/nowhere')
    # Of a single one Beam would not shuffle the names.
    history = tuple(HistoryFile(f'{i}.parquet', Checksum(0, ''), i, True, ()) for i in (1, 2))
    return dataclasses.replace(config, history=history)


def proto(config):
    root = beam.Pipeline()
    graph.build(root, config)
    return root.to_runner_api()


@pytest.fixture(scope='module')
def real(config):
    return proto(config)


def test_this_and_nothing_else_is_shuffled(real):
    found = {name: shuffle[:2] for name, shuffle in shuffles.shuffled(real).items()}
    assert found == EXPECTED


def test_what_may_have_the_same_bytes_is_shuffled_once_more(config):
    found = shuffles.shuffled(proto(dataclasses.replace(config, is_reused=True)))
    more = {'MakeChunks/GatherTwins/GroupByBytes': ('group', '(str, Item)')}
    assert {name: shuffle[:2] for name, shuffle in found.items()} == EXPECTED | more


def test_pixels_stay_within_one_fused_stage(real):
    assert shuffles.pixel_faults(real) == []


class ReshuffledPixels(LoadImages):
    def expand(self, chunks):
        return super().expand(chunks) | 'Spread' >> beam.Reshuffle()


class ReshuffledInLabelImages(LabelImages):
    def expand(self, batches):
        return super().expand(batches | 'Spread' >> beam.Reshuffle())


class PixelsOnTheSide(LabelImages):
    def expand(self, batches):
        _ = (
            batches
            | 'Key'
            >> beam.Map(lambda batch: (batch.chunk.id, batch)).with_output_types(tuple[str, object])
            | 'Group' >> beam.GroupByKey()
        )
        return super().expand(batches)


class PixelsAsSideInput(LabelImages):
    def expand(self, batches):
        _ = batches | 'All' >> beam.Map(lambda _, all_: None, beam.pvalue.AsList(batches))
        return super().expand(batches)


class _StatefulDoFn(beam.DoFn):
    COUNT = beam.transforms.userstate.CombiningValueStateSpec('count', combine_fn=sum)
    PARAM = beam.DoFn.StateParam(COUNT)

    def process(self, element, count=PARAM):
        yield element[1]


class StatefulBetween(LoadImages):
    def expand(self, chunks):
        return (
            super().expand(chunks)
            | 'Key' >> beam.Map(lambda batch: (0, batch)).with_output_types(tuple[int, Batch])
            | 'InOrder' >> beam.ParDo(_StatefulDoFn()).with_output_types(Batch)
        )


class OnAnotherMachine(LabelImages):
    def expand(self, batches):
        hinted = batches | 'Cast' >> beam.Map(lambda batch: batch).with_resource_hints(
            accelerator='type:nvidia-l4;count:1;install-nvidia-driver'
        )
        return super().expand(hinted)


class StepBetween(LoadImages):
    def expand(self, chunks):
        return super().expand(chunks) | 'Copy' >> beam.Map(lambda batch: batch)


MUTATIONS = {
    ReshuffledPixels: 'LoadImages/Spread/ReshufflePerKey/GroupByKey shuffles pixels',
    ReshuffledInLabelImages: 'LabelImages/Spread/ReshufflePerKey/GroupByKey shuffles pixels',
    PixelsOnTheSide: 'LabelImages/Group shuffles pixels',
    PixelsAsSideInput: 'LabelImages/All has pixels as a side input',
    StatefulBetween: 'LoadImages/InOrder takes pixels and has state or is splittable: it shuffles',
    OnAnotherMachine: 'LabelImages/Cast has another environment than LoadImages/Load: '
    'they are not fused',
    StepBetween: 'LoadImages/Copy takes pixels',
}


@pytest.mark.parametrize('mutation', MUTATIONS)
def test_pixels_that_would_leave_their_stage_are_found(config, real, monkeypatch, mutation):
    monkeypatch.setattr(graph, mutation.__base__.__name__, mutation)
    mutated = proto(config)

    assert MUTATIONS[mutation] in shuffles.pixel_faults(mutated)
    # Where nothing but the place of a step changes, nothing more is shuffled either.
    is_shuffle = mutation not in (OnAnotherMachine, StepBetween)
    assert (shuffles.shuffled(mutated).keys() > shuffles.shuffled(real).keys()) == is_shuffle


def test_what_dataflow_makes_of_the_graph_shuffles_the_same(real):
    """As `DataflowRunner` does before it submits a batch job."""
    optimized = translations.optimize_pipeline(
        real,
        phases=[translations.pack_combiners, translations.sort_stages],
        known_runner_urns=frozenset(),
        partial=True,
    )
    assert {name: found[:2] for name, found in shuffles.shuffled(optimized).items()} == EXPECTED
    assert shuffles.pixel_faults(optimized) == []


def test_a_graph_without_the_steps_is_no_proof(config):
    with pytest.raises(LookupError):
        shuffles.pixel_faults(beam.Pipeline().to_runner_api())


def test_an_image_is_some_hundred_bytes_wherever_it_is_shuffled(real):
    """Measured at scale by the benchmark `shape`; here an upper bound for a URI of 100 bytes."""
    coders = {
        name: shuffles.coder_of(real, shuffle) for name, shuffle in shuffles.shuffled(real).items()
    }
    uris = [f'gs://bucket/{i:088d}' for i in range(1024)]
    refs = [Ref(uri, '1795557698945682', 123_456, '[]', '', '') for uri in uris]
    items = [merge([ref]).item for ref in refs]
    (chunk,) = cut(items, len(items))
    spread = (0, (chunk, None, PANE_INFO_UNKNOWN))
    tables = route(outcome_table([labeled(chunk)]), Layout('/o', 'r', 'm', (), (), 10**6), {'': 1})
    assert len(tables) == 1
    found = {
        'DropDone/GroupByUri': len(
            coders['DropDone/GroupByUri'].encode((uris[0], ('refs', refs[0])))
        ),
        'MakeChunks/GroupByBucket': len(coders['MakeChunks/GroupByBucket'].encode((0, items[0]))),
        'MakeChunks/Spread': len(coders['MakeChunks/Spread'].encode(spread)) / len(items),
        'WritePredictions/GroupByFile': sum(len(to_ipc(table)) for table in tables.values())
        / len(items),
    }
    # Beam writes the name of the class of a ref, module and all, beside each of the first.
    at_most = dict(zip(found, (310, 150, 150, 250), strict=True))
    assert {name: size for name, size in found.items() if size > at_most[name]} == {}
