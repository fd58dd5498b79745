"""Whole jobs from Python: what they return, raise, print and leave.

What the commands of the same names do is looked at in tests/commands.
"""

import datetime
import logging
import pickle
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import lemmabeam as lb
import pytest

from pipeline.main import main
from tests.support import app, samples
from tests.support.datasets import Row, add_run
from transforms.core.resources import LIVE
from transforms.dataset.latest_sql import write_latest_sql
from transforms.storage.registry import store_for

IN_THREADS = {'loader_processes': 0}


@pytest.fixture(scope='module', autouse=True)
def no_model():
    with app.stand_in():
        yield


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    for name in ('cat.jpg', 'coffee.jpg', 'temple.jpg'):
        shutil.copy(samples.SAMPLE / name, folder)
    return folder


@pytest.fixture
def labels(tmp_path):
    """An output of two runs, made without any."""
    folder = tmp_path / 'labels'
    add_run(folder, 'a', [Row('/a', [(1, 0.9)]), Row('/b', [(2, 0.3)])])
    add_run(folder, 'b', [Row('/a', [(1, 0.8)])])
    write_latest_sql(str(folder), store_for(str(folder)))
    return folder


def test_a_run_is_silent_and_leaves_the_process_as_it_was(photos, tmp_path, capfd, caplog):
    """From another thread than the main one, where signals cannot be handled."""
    found = []
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    logged = list(logging.getLogger().handlers)

    def work():
        found.append(lb.label(photos, tmp_path / 'labels', threshold=0.01, **IN_THREADS))
        found.append(lb.label([str(photos)], tmp_path / 'labels', threshold=0.01, **IN_THREADS))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    first, second = found
    assert isinstance(first, lb.RunReport)
    assert (first.counts.labeled, second.counts.unchanged) == (3, 3)
    assert LIVE.labeled == 0  # progress is of one run
    assert capfd.readouterr() == ('', '')
    # Beam warns of its own types, and under no name.
    assert [record for record in caplog.records if record.name == 'root'] == []
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert logging.getLogger().handlers == logged
    assert logging.getLogger().filters == []
    assert lb.verify(tmp_path / 'labels').is_whole
    assert not (tmp_path / 'labels' / '_work').exists()


def test_two_at_once_into_two_outputs_and_into_one(photos, tmp_path):
    def work(name):
        try:
            return lb.label(photos, tmp_path / name, threshold=0.01, **IN_THREADS)
        except lb.errors.LemmabeamError as e:
            return e

    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(work, ['a', 'b', 'c', 'c'])]
    assert [report.counts.labeled for report in found[:2]] == [3, 3]
    in_one = [each for each in found[2:] if isinstance(each, lb.RunReport)]
    assert in_one
    assert sum(report.counts.labeled for report in in_one) == 3
    for error in found[2:]:
        assert isinstance(error, lb.RunReport) or 'is writing there' in str(error)
    for name in 'abc':
        assert lb.verify(tmp_path / name).is_whole
        assert not (tmp_path / name / '_work').exists()
    assert logging.getLogger().filters == []


def test_progress_is_shown_beside_and_notes_are_logged(photos, tmp_path, capfd, caplog):
    options = {'canary': 'off', **IN_THREADS}
    with caplog.at_level(logging.INFO, 'lemmabeam'):
        lb.label(photos, tmp_path / 'labels', progress=True, **options)
    out, err = capfd.readouterr()
    assert out == ''
    assert 'lemmabeam: canary off: nothing is asked of the model' in err
    assert [record.getMessage() for record in caplog.records if record.name == 'lemmabeam'] == [
        'canary off: nothing is asked of the model before it labels'
    ]


def test_too_many_that_fail_are_an_error_with_the_report(photos, tmp_path):
    (photos / 'broken.jpg').write_bytes(b'no picture')
    with pytest.raises(lb.errors.TooManyFailed) as caught:
        lb.label(photos, tmp_path / 'labels', max_failure_rate=0.1, **IN_THREADS)
    error = caught.value
    assert str(error) == (
        '1 of 4 images failed, more than max_failure_rate 0.1 allows; the results are kept'
    )
    assert error.report.counts.labeled == 3
    assert error.max_failure_rate == 0.1
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    (row,) = lb.open(tmp_path / 'labels').dead_letters().to_pylist()
    assert (row['reason'], row['run']) == ('not_an_image', error.report.run_id)
    assert lb.retry(tmp_path / 'labels') is None  # it never will be one


def test_ctrl_c_leaves_what_is_finished_and_the_same_call_resumes(photos, tmp_path):
    for i in range(61):
        shutil.copy(samples.SAMPLE / 'cat.jpg', photos / f'{i}.jpg')
    calls = []

    def interrupt(_):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    options = {'batch_size': 4, 'chunk_size': 4, **IN_THREADS}
    output = tmp_path / 'labels'
    with app.before_each_call(interrupt), pytest.raises(KeyboardInterrupt):
        lb.label(photos, output, **options)
    assert not (output / '_lease.json').exists()
    (begun,) = (output / '_work').glob('*/run.json')
    report = lb.label(photos, output, **options)
    assert report.run_id == begun.parent.name
    assert report.labeled_by_earlier_attempts > 0
    assert report.counts.labeled == 64


def test_what_a_step_raises_is_an_error_of_ours_with_its_cause(photos, tmp_path):
    with (
        app.crashing_behind(0),
        pytest.raises(lb.errors.UnexpectedError, match='in place') as found,
    ):
        lb.label(photos, tmp_path / 'labels', **IN_THREADS)
    assert isinstance(found.value.__cause__, RuntimeError)


def test_a_retry_has_the_options_of_its_run(photos, tmp_path):
    listed = tmp_path / 'list.txt'
    listed.write_text(f'{photos}/cat.jpg\n{photos}/late.jpg\n')
    options = {'max_failure_rate': 1, 'max_labels': 2, **IN_THREADS}
    lb.label(listed, tmp_path / 'labels', **options)
    shutil.copy(samples.SAMPLE / 'coffee.jpg', photos / 'late.jpg')
    assert lb.retry(tmp_path / 'labels') is None
    report = lb.retry(tmp_path / 'labels', reasons=['not_found'])
    assert (report.command, report.counts.labeled) == ('retry', 1)
    assert report.max_labels == 2
    with pytest.raises(lb.errors.UsageError, match=r'^sample: a retry takes what failed'):
        lb.retry(tmp_path / 'labels', sample=3)
    with pytest.raises(lb.errors.UsageError, match=r"^reasons 'x': no such reason"):
        lb.retry(tmp_path / 'labels', reasons='x')


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'threshold': 3}, 'threshold 3: expected a number from 0 to 1'),
        ({'chunk_size': 1000}, 'chunk_size 1000 is not a multiple of the batch size 32'),
        ({'model': '/nowhere'}, "model '/nowhere': "),
        ({'pipeline_options': ['--numworkers=1']}, 'did you mean --num_workers?'),
        ({'pipeline_options': '--num_workers=1'}, 'expected a list of flags, or a dict'),
        ({'no_wait': True}, 'no_wait: FnApiRunner works only as long as'),
    ],
)
def test_errors_name_keywords(photos, tmp_path, options, said):
    with pytest.raises(lb.errors.UsageError) as caught:
        lb.label(photos, tmp_path / 'labels', **options)
    assert said in str(caught.value)


def test_what_is_no_option_is_a_type_error(photos, tmp_path):
    with pytest.raises(TypeError, match=r"label\(\) got .* 'treshold'; did you mean 'threshold'\?"):
        lb.label(photos, tmp_path / 'labels', treshold=0.5)
    with pytest.raises(TypeError, match="'verbose'"):
        lb.label(photos, tmp_path / 'labels', verbose=True)
    for call in (lb.verify, lb.open, lb.report, lb.relabel, lb.clean):
        with pytest.raises(TypeError, match="'endpoint'"):
            call(tmp_path, endpoint='x')


def test_a_relabelling_and_what_was_left(labels, capfd):
    report = lb.relabel(labels, threshold=0.5, run_id='c')
    assert (report.run_id, report.threshold, report.counts.without_label) == ('c', 0.5, 1)
    assert lb.clean(labels, prune_before='c', drop='scores', dry_run=True) == (
        'would remove run a, 2 rows',
        'would remove run b, 1 row',
    )
    removed = lb.clean(labels, forget='/a')
    assert len(removed) == 3
    assert capfd.readouterr() == ('', '')
    with pytest.raises(lb.errors.UsageError, match=r"^forget: no complete run has '/a'"):
        lb.clean(labels, forget=['/a'])
    with pytest.raises(lb.errors.UsageError, match=r"^drop 'x': expected one of scores, features"):
        lb.clean(labels, prune_before='c', drop='x')
    with pytest.raises(lb.errors.UsageError, match=r'^drop scores goes with prune_before'):
        lb.clean(labels, drop=['scores'])


def test_the_latest_rows_in_one_file(labels, tmp_path):
    found = lb.latest(labels, tmp_path / 'latest.parquet')
    assert found.uri == str(tmp_path / 'latest.parquet')
    assert [*found.rows.values(), *found.superseded.values()] == [2, 1]
    with pytest.raises(lb.errors.UsageError, match=r'^output .*: what is written is Parquet'):
        lb.latest(labels, tmp_path / 'latest.csv')


def test_outputs_are_compared_and_what_is_not_whole_is_said(labels, tmp_path, capsys):
    other = tmp_path / 'other'
    add_run(other, 'a', [Row('/a', [(1, 0.8)]), Row('/b', [(2, 0.4)])])
    write_latest_sql(str(other), store_for(str(other)))
    assert lb.compare(labels, labels).is_same
    found = lb.compare(labels, other)
    assert not found.is_same
    assert 'different' in found.totals
    assert lb.compare(labels, other, tolerance=0.2).is_same
    next(other.rglob('part-*.parquet')).unlink()
    found = lb.compare(labels, other)
    assert found.totals == ''
    assert found.differences == lb.verify(other).problems != ()
    # Once, this ended with 'whole and consistent'.
    assert main(['verify', str(labels), str(other)]) == 1
    assert capsys.readouterr().out.splitlines() == list(found.differences)


def test_a_page_for_people(labels, tmp_path):
    path = lb.report(labels, tmp_path / 'page.html', run_id='a', report_thumbnails=0)
    assert path == str(tmp_path / 'page.html')
    assert '<html' in (tmp_path / 'page.html').read_text()
    with pytest.raises(lb.errors.UsageError, match=r'^report_thumbnails 201: expected'):
        lb.report(labels, report_thumbnails=201)


def test_ages_and_times_are_python_s(photos, tmp_path):
    wrong = datetime.timedelta(seconds=90)
    with pytest.raises(lb.errors.UsageError, match=r'^since .*: expected an age in whole minutes'):
        lb.label(photos, tmp_path / 'labels', since=wrong)
