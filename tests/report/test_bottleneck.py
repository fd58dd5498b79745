"""What bounded a run: two runs, each held up by two stages on purpose, and Beam's metrics."""

import json
import time

import apache_beam as beam
import pytest

from pipeline.job.graph import build
from pipeline.report.bottleneck import describe, make_verdict
from tests.support import app, samples
from tests.support.without_model import Predictor
from transforms.images import decode
from transforms.loading.image import Loaded
from transforms.loading.loader import Loader
from transforms.loading.threads import ThreadLoader
from transforms.storage.local import LocalStore

pytestmark = pytest.mark.usefixtures('stand_in_model')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pictures')
    samples.write_pictures(folder, 12)
    return folder


def slow(function, seconds, only=''):
    def slowed(first, *args):
        if only in str(args):
            time.sleep(seconds)
        return function(first, *args)

    return slowed


SLOW = {
    'fetch': (LocalStore, 'fetch', 0.5, ''),
    'decode': (decode, 'render', 0.4, ''),
    'inference': (Predictor, '__call__', 0.25, ''),
    'write': (LocalStore, 'create', 0.4, 'predictions/'),
}


@pytest.mark.parametrize('stages', [('fetch', 'write'), ('decode', 'inference')])
def test_the_stages_that_hold_a_run_up_are_named(pictures, tmp_path, monkeypatch, stages):
    """Two of the four in each run, the second of them half as much."""
    for stage in stages:
        where, name, seconds, only = SLOW[stage]
        monkeypatch.setattr(where, name, slow(getattr(where, name), seconds, only))
    config, beam_options = app.make_config(
        '--input', pictures, '--output', tmp_path, '--batch_size', '4', '--loader_threads', '4'
    )
    root = beam.Pipeline(options=beam_options)
    build(root, config)
    result = root.run()
    result.wait_until_finish()
    (path,) = tmp_path.glob('runs/*/report.json')
    verdict = json.loads(path.read_text())['verdict']
    assert verdict['bounded_by'] == stages[0], verdict
    by_share = sorted(verdict['share'], key=verdict['share'].get, reverse=True)
    assert by_share[:2] == list(stages), verdict
    assert sum(verdict['share'].values()) == pytest.approx(1, abs=1e-3)
    assert 0 < verdict['share_of_wall'] <= 1
    assert verdict['advice']
    check_metrics(result, pictures)


def check_metrics(result, pictures):
    """Those of every stage are there, and have their units."""
    found = result.metrics().query(beam.metrics.MetricsFilter().with_namespace('lemmabeam'))
    counters = {each.key.metric.name: each.committed for each in found['counters']}
    distributions = {}
    for each in found['distributions']:
        distributions.setdefault(each.key.metric.name, []).append(each.committed)
    assert counters['listed_refs'] == 15
    assert counters['fetch_retries'] == 0
    assert counters['dead_letters_empty'] == 1
    for name in ('fetch_msec', 'image_bytes'):
        assert distributions[name][0].count == 15
    # The empty one and the one that is no image never reach the decoder's clock, or do at 0.
    assert 12 <= distributions['decode_msec'][0].count <= 15
    sizes = [path.stat().st_size for path in pictures.iterdir()]
    assert distributions['image_bytes'][0].sum == sum(sizes)
    assert distributions['image_bytes'][0].max == max(sizes)
    assert distributions['batch_images'][0].sum == 12
    assert distributions['infer_msec'][0].count == distributions['batch_images'][0].count
    assert distributions['load_wait_msec'][0].count == distributions['infer_msec'][0].count
    assert distributions['look_ahead_ready_batches'][0].min >= 0
    # Of the three that failed the next run is told, too.
    assert sum(each.sum for each in distributions['file_rows']) == 15 + 3
    assert all(each.min > 0 for each in distributions['file_bytes'])
    assert len(distributions['write_msec']) == 2


def test_a_wait_is_split_by_how_long_each_would_have_taken_alone(tmp_path):
    arguments = ('--input', samples.SAMPLE, '--output', tmp_path, '--loader_threads', '4')
    options = app.make_config(*arguments)[0].load
    loader = Loader(options, ThreadLoader(options, cores=2))
    images = [Loaded(None, 5.0, 9.0, 0), Loaded(None, 3.0, 3.0, 0)]
    # Of 8 s with four threads, 2 s; of 12 s with two cores, 6 s.
    assert loader.timings(images, 20.0) == {
        'fetch': 8.0,
        'decode': 12.0,
        'fetch_wait': 5.0,
        'decode_wait': 15.0,
    }
    assert loader.timings([], 0.0) == dict.fromkeys(
        ('fetch', 'decode', 'fetch_wait', 'decode_wait'), 0.0
    )


def test_the_line_for_people():
    stats = {'fetch_wait_sec': 60.0, 'decode_wait_sec': 20.0, 'infer_sec': 15.0, 'write_sec': 5.0}
    line = describe(make_verdict(stats, 110.0))
    assert line.startswith('Bottleneck: fetch (fetch 60%, decode 20%, inference 15%, write 5%)')
    assert '--loader_threads' in line
    line = describe(make_verdict(stats, 1000.0))
    assert line.startswith('Most of the time was spent on startup')
    assert describe(make_verdict({}, 3.0)) == ''
    assert make_verdict({}, 0.0).share_of_wall is None


def test_every_stage_may_bound_a_run():
    keys = {
        'fetch': 'fetch_wait_sec',
        'decode': 'decode_wait_sec',
        'inference': 'infer_sec',
        'write': 'write_sec',
    }
    advice = set()
    for stage, longest in keys.items():
        verdict = make_verdict({key: 1.0 + (key == longest) for key in keys.values()}, 9.0)
        assert verdict.bounded_by == stage
        assert verdict.share[stage] == 0.4
        advice.add(verdict.advice)
    assert len(advice) == len(keys)
