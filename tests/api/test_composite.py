"""The composite in somebody's own pipeline: the rows of a run, and books that balance.

The model takes no time. What is not checked here: what it sees (test_step_examples), and loader
processes.
"""

import json
import logging
import os

import apache_beam as beam
import lemmabeam as lb
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import FixedWindows

from pipeline.api.images import refs_of
from tests.support import app, samples, shuffles, without_model
from tests.support.collected import collect, taken
from tests.support.failing_model import Broken, Poisoned, poison
from transforms.core.errors import ImageError
from transforms.core.reasons import Reason

SMALL = {'batch_size': 4, 'chunk_size': 8, 'model_size': 64, 'loader_processes': 0}


def label_images(make=without_model.Predictor, **options):
    made = lb.LabelImages(**SMALL, **options)
    made.config = made.config._replace(make=make)
    return made


def labelled(images, step, options=None):
    """Rows and dead letters of a pipeline whose worker is this process, by URI."""
    with beam.Pipeline(options=options or PipelineOptions(['--runner=FnApiRunner'])) as pipeline:
        found = pipeline | beam.Create(images) | step
        collect(found.labels, 'labels')
        collect(found.dead_letters, 'dead')
    return [sorted(taken(name), key=str) for name in ('labels', 'dead')]


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Thirty pictures, three bad files, and one on which the model fails."""
    folder = tmp_path_factory.mktemp('pictures')
    samples.write_pictures(folder, 30)
    (folder / 'poison.png').write_bytes(poison())
    return folder


@pytest.fixture(scope='module')
def uris(pictures):
    return [str(path) for path in sorted(pictures.iterdir())]


def test_it_gives_the_rows_of_a_run(pictures, uris, tmp_path):
    flags = [f'--{name}={value}' for name, value in SMALL.items()]
    with app.stand_in(Poisoned):
        app.label('--input', pictures, '--output', tmp_path, *flags, '--min_labels', 2)
    labels, dead = labelled(uris, label_images(Poisoned, min_labels=2))

    assert len(labels) == 30
    ours = [
        {
            **{k: v for k, v in row._asdict().items() if k not in ('features', 'carried')},
            'labels': [label._asdict() for label in row.labels],
        }
        for row in labels
    ]
    assert ours == app.rows(tmp_path, 'predictions')
    assert [row._asdict() | {'carried': None} for row in dead] == [
        row | {'carried': None} for row in app.rows(tmp_path, 'dead_letters')
    ]
    assert {row.reason for row in dead} >= {'truncated', 'empty', 'not_an_image', 'model_error'}


def test_neighbours_of_what_the_model_fails_on_keep_their_bits(uris):
    healthy, _ = labelled(uris, label_images())
    labels, dead = labelled(uris, label_images(Poisoned))
    assert [row for row in healthy if not row.uri.endswith('poison.png')] == labels
    (guilty,) = (row for row in dead if row.stage == 'infer')
    assert guilty.uri.endswith('/poison.png')
    assert (guilty.reason, guilty.detail) == ('model_error', 'the model failed on it: Poison')
    assert guilty.retryable


def test_the_same_rows_whatever_the_order(uris):
    assert labelled(uris, label_images()) == labelled(uris[::-1], label_images())


def test_every_element_ends_in_one_place(uris):
    cat, *others = uris[:5]
    images = [
        *others,
        (cat, {'customer': 'a', 'rank': 7}),
        {'uri': cat, 'rank': 7, 'customer': 'a'},  # the same
        beam.Row(uri=cat, customer=None),
        cat,
        cat,
        'ftp://example.com/1.jpg',
        '',
    ]
    with beam.Pipeline('FnApiRunner') as pipeline:
        found = pipeline | beam.Create(images) | label_images()
        collect(found.labels, 'labels')
        collect(found.dead_letters, 'dead')
    counters = pipeline.result.metrics().query(beam.metrics.MetricsFilter().with_name('duplicates'))
    labels, dead = taken('labels'), taken('dead')
    carried = [row.carried for row in labels if row.uri == cat]
    assert sorted(carried, key=str) == [{'customer': 'a', 'rank': '7'}, {'customer': None}, {}]
    assert sorted(row.uri for row in labels if row.uri != cat) == others
    assert sorted((row.uri, row.reason, row.stage) for row in dead) == [
        ('', 'bad_uri', 'list'),
        ('ftp://example.com/1.jpg', 'bad_uri', 'list'),
    ]
    assert sum(each.committed for each in counters['counters']) == 2


def test_a_carried_value_that_cannot_be_stored_is_a_dead_letter():
    """Beam's own coders take none, but a step that is fused with ours may give one."""
    ref = refs_of(('/a.jpg', {'customer': '\udcff'}), '/')
    assert (ref.uri, ref.reason) == ('/a.jpg', 'bad_name')
    ref.carried.encode()
    assert refs_of(('/a.jpg', {'customer': 'ÿ'}), '/').reason == ''


def test_a_relative_path_is_that_of_who_builds_the_pipeline(pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    step = label_images()
    (row,), _ = labelled(['0001.jpg'], step)
    assert row.uri == os.path.join(pictures, '0001.jpg')  # noqa: PTH118


class _Asked(without_model.Store):
    """Remembers what it is asked for."""

    def __init__(self):
        super().__init__(0)
        self.uris = []

    def fetch(self, uri, *arguments, **options):
        self.uris.append(uri)
        return super().fetch(uri, *arguments, **options)


def test_a_signed_url_is_fetched_and_stands_nowhere():
    signed = 'https://me:pw@example.com/1.jpg?X-Amz-Signature=secret'
    store = _Asked()
    with app.stand_in(with_decoder=False, store=store):
        (row,), dead = labelled([signed], label_images(make=None))
    assert store.uris == [signed]
    assert row.uri == 'https://example.com/1.jpg'
    assert dead == []


class _Down(without_model.Store):
    def fetch(self, uri, *arguments, **options):
        raise ImageError(Reason.STORE_ERROR, 'no answer')


def test_a_fault_of_the_whole_store_ends_the_pipeline(uris):
    with app.stand_in(store=_Down(0)), pytest.raises(lb.errors.StoreError) as found:
        labelled(uris, label_images(fail_fast_after=5))
    assert 'the first 5 images of this process all failed with store_error' in str(found.value)
    with app.stand_in(store=_Down(0)):
        labels, dead = labelled(uris, label_images(fail_fast_after=0))
    assert labels == []
    assert len(dead) == len(uris)


def test_a_model_that_fails_on_nothing_ends_the_pipeline(uris):
    with pytest.raises(lb.errors.ModelError, match='even without any image: broken on command'):
        labelled(uris, label_images(Broken))


def test_pixels_are_never_shuffled_and_nothing_is_said_of_types(caplog):
    with caplog.at_level(logging.WARNING):
        pipeline = beam.Pipeline()
        found = pipeline | beam.Create(['a']) | label_images()
    assert caplog.messages == []
    assert found.labels.element_type is lb.LabeledImage
    assert found.dead_letters.element_type is lb.DeadLetter
    graph = pipeline.to_runner_api()
    names = ('LabelImages/LoadImages/Load', 'LabelImages/LabelImages')
    assert shuffles.pixel_faults(graph, *names) == []
    assert {kind for kind, *_ in shuffles.shuffled(graph).values()} <= {
        *('group', 'reshuffle', 'combine', 'side input')
    }


def test_rows_have_schemas(uris):
    with beam.Pipeline('FnApiRunner') as pipeline:
        found = pipeline | beam.Create(uris) | label_images()
        formats = found.labels | beam.GroupBy('format').aggregate_field(
            'uri', beam.combiners.CountCombineFn(), 'images'
        )
        collect(formats | beam.Map(lambda row: (row.format, row.images)), 'formats')
        collect(found.dead_letters | beam.Select('reason') | beam.Map(lambda r: r.reason), 'dead')
    assert taken('formats') == [('JPEG', 30), ('PNG', 1)]
    assert sorted(taken('dead')) == ['empty', 'not_an_image', 'truncated']


@pytest.mark.parametrize('step', [lb.LabelImages, lb.ReadImages, lambda: lb.WriteLabels('/none')])
def test_a_stream_is_refused(step):
    pipeline = beam.Pipeline()
    images = pipeline | beam.Create(['a'])
    windows = images | 'Windows' >> beam.WindowInto(FixedWindows(60))
    made = step()
    with pytest.raises(lb.errors.UsageError, match=f'{made.label} takes a bounded PCollection in'):
        _ = windows | made
    images.is_bounded = False
    with pytest.raises(lb.errors.UsageError, match='of a stream, start a pipeline for each part'):
        _ = images | 'Again' >> step()


@pytest.mark.parametrize('element', [b'a.jpg', 7, ('a', 'b', 'c'), {'url': 'a'}, None])
def test_what_is_no_image_fails_the_pipeline(element):
    with pytest.raises(Exception, match='expected a URI'):
        labelled([element], label_images())


def test_what_has_no_text_is_not_carried():
    with pytest.raises(Exception, match="carried value 'when': a object has no text"):
        labelled([('a', {'when': object()})], label_images())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'threshold': 2}, 'threshold 2: expected a number from 0 to 1'),
        ({'max_bytes': 'much'}, "max_bytes 'much': expected bytes above 0"),
        ({'canary': 'none'}, "canary 'none': expected one of strict, finite, off"),
        ({'jit': 1}, 'jit 1: expected True or False'),
        ({'batch_size': True}, 'batch_size True: expected a value'),
        ({'chunk_size': 100}, 'chunk_size 100 is not a multiple of the batch size 32'),
        ({'batch_size': 'auto'}, 'batch_size auto: a step does not know where its pipeline'),
        ({'batch_size': 'most'}, "'most': expected a whole number, 1 or more, or auto"),
        ({'top_k': 3, 'min_labels': 1}, 'top_k 3: short for max_labels and min_labels'),
        ({'top_k': 0}, 'top_k 0: expected a whole number, 1 or more'),
        ({'max_labels': 10**6}, 'max_labels 1000000: efficientnet-lite0 has only 1000 classes'),
        ({'model': '/no/such/model'}, '/no/such/model'),
        ({'memory_budget': '1MiB'}, 'memory_budget 1048576 is below max_bytes'),
    ],
)
def test_options_are_checked_as_on_the_command_line(options, message):
    with pytest.raises(lb.errors.LemmabeamError) as found:
        lb.LabelImages(**options)
    assert message in str(found.value)
    assert '--' not in str(found.value)


def test_options_that_mean_nothing_here_are_refused():
    for step, name in (
        (lb.LabelImages, 'output'),
        (lb.LabelImages, 'keep_above'),
        (lb.ReadImages, 'threshold'),
        (lb.ModelHandler, 'loader_threads'),
    ):
        with pytest.raises(
            TypeError, match=rf'{step.__name__}\(\) got an unexpected keyword argument {name!r}'
        ):
            step(**{name: 1})
    with pytest.raises(TypeError, match='unexpected keyword argument'):
        lb.WriteLabels('/nowhere', model='embedded')


def test_values_are_taken_as_python_has_them():
    made = lb.LabelImages(max_bytes='1MiB', fetch_deadline_sec=5, threshold=0.5, canary=None)
    assert made.config.load.fetch == (2**20, 5.0)
    assert made.config.inference.threshold == 0.5
    assert made.metadata['threshold'] == '0.5'
    top = lb.LabelImages(top_k=3).config.inference
    assert (top.max_labels, top.min_labels) == (3, 3)
    json.dumps(made.metadata)
