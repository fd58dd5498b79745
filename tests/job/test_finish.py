"""What a run says of itself, from what its steps have counted."""

import datetime
import json
from pathlib import Path

import pytest

from pipeline.job.finish import make_report
from tests.support import app, samples
from transforms.core.elements import WrittenFile
from transforms.runs.report import RunReport

GOLDEN = Path(__file__).parents[1] / 'data/reports/labelled.json'
PATH = 'predictions/model=m/run=a/part-00000-of-00001.parquet'
COMPUTED = {
    'network': 'n',
    'precision': 'float32',
    'backend': 'x',
    'device': 'CPU',
    'features': None,
}
COUNTS = {
    'listed': 9,
    'labeled': 4,
    'without_label': 1,
    'duplicates': 1,
    'unchanged': 1,
    'dead_lettered/truncated': 1,
    'dead_lettered/empty': 2,
    'gone': 2,
    'skipped_not_image': 1,
    'skipped_not_image/.txt': 2,
}


@pytest.fixture
def report_of(tmp_path):
    def report_of(counts, *options):
        config, _ = app.make_config('--input', samples.SAMPLE, '--output', tmp_path, *options)
        file = WrittenFile(PATH, 4, 99, 'ab' * 32, 1.5)
        stats = {'infer_sec': 3.0, 'batches': 1.0, 'filled_slots': 8.0, 'resumed_labeled': 1.0}
        now = config.started_at + datetime.timedelta(seconds=10)
        computed = [json.dumps({**COMPUTED, 'batch_size': 32, 'versions': {}})]
        return make_report(config, [file], counts, stats, [('owl', 3)], computed, 0.5, now)

    return report_of


def keys_of(report):
    parts = report['counts'], report['verdict'], report['model'], report['files'][0]
    return [list(part) for part in (report, *parts, report['inputs'][0], report['top_labels'][0])]


def test_a_report_has_what_it_had_in_that_order(report_of):
    golden = json.loads(GOLDEN.read_text())
    del golden['sealed'], golden['sha256']
    del golden['model']['vocabulary_sha256']  # known where it is published
    report = report_of(COUNTS)
    assert keys_of(report.to_json()) == keys_of(golden)
    read = RunReport.from_json(json.loads(json.dumps(report.to_json())))
    assert read.to_json() == json.loads(json.dumps(report.to_json()))


def test_books_are_kept_by_how_each_one_ended(report_of):
    report = report_of(COUNTS)
    assert report.balanced
    assert report.counts.dead_lettered_by_reason == {'empty': 2, 'truncated': 1}
    assert report.counts.skipped_not_image == 3
    assert report.skipped_suffixes == {'.txt': 2}
    assert (report.images_per_sec, report.labeled_by_earlier_attempts) == (0.3, 1)
    assert report.stage_thread_sec == {'infer': 3.0, 'write': 2.0}
    assert (report.batches, report.batch_fill) == (1, 0.25)
    assert not report_of({**COUNTS, 'listed': 10}).balanced


@pytest.mark.parametrize('option', [('--force',), ('--sample', '3')])
def test_what_is_gone_is_not_known_where_not_all_is_looked_at(report_of, option):
    assert report_of(COUNTS).counts.gone == 2
    assert report_of(COUNTS, *option).counts.gone is None
