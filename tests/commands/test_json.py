"""`--json`: one document on standard output for each command, and all else on standard error."""

import json

import pytest

from tests.support import app, samples
from tests.support.datasets import Row, add_run
from transforms.dataset.latest_sql import write_latest_sql
from transforms.storage.registry import store_for


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp('json') / 'out'
    add_run(folder, 'a', [Row('/a', [(1, 0.9)]), Row('/b', [(2, 0.8)])])
    add_run(folder, 'b', [Row('/a', [(1, 0.7)])], sequence=2)
    write_latest_sql(str(folder), store_for(str(folder)))
    return folder


def document(*arguments, code=0):
    """What a command prints with --json, which tells people the same as without on stderr."""
    done = app.invoke(*arguments, '--json')
    assert done.returncode == code, done.stderr
    assert app.invoke(*arguments, '--json', '--quiet').stderr == '' or code
    return json.loads(done.stdout), done.stderr


def test_verify_tells_what_is_wrong_and_what_differs(dataset, tmp_path):
    found, told = document('verify', dataset)
    assert found == {
        'folder': str(dataset),
        'other': None,
        'is_fine': True,
        'problems': [],
        'differences': [],
        'notes': found['notes'],
    }
    assert 'whole and consistent' in told
    other = tmp_path / 'other'
    add_run(other, 'a', [Row('/a', [(1, 0.5)])])
    write_latest_sql(str(other), store_for(str(other)))
    found, _ = document('verify', dataset, other, code=1)
    assert (found['is_fine'], found['problems']) == (False, [])
    assert found['differences']
    next(other.rglob('part*.parquet')).unlink()
    found, told = document('verify', other, code=1)
    assert (found['is_fine'], len(found['problems'])) == (False, 1)
    assert found['problems'][0] in told


def test_latest_tells_its_counts(dataset, tmp_path):
    target = tmp_path / 'latest.parquet'
    found, told = document('latest', dataset, '--output', target)
    assert found == {
        'file': str(target),
        'rows': 2,
        'models': [
            {
                'model_id': 'm-00000000',
                'rows': 2,
                'superseded': 1,
                'gone': 0,
                'is_gone_left_out': False,
            }
        ],
    }
    assert '2 rows' in told


def test_relabel_tells_the_report_of_its_run(tmp_path):
    add_run(tmp_path, 'a', [Row('/a', [(1, 0.9)])])
    done = app.invoke('relabel', '--output', tmp_path, '--run_id', 'x', '--json', '--quiet')
    assert (done.returncode, done.stderr) == (0, '')
    report = json.loads((tmp_path / 'runs/x/report.json').read_text())
    assert json.loads(done.stdout).items() <= report.items()
    assert not report['options'].keys() & {'json', 'quiet', 'log_file', 'config'}


def test_report_and_clean_tell_what_they_did(dataset, tmp_path):
    found, _ = document('report', dataset, '--output', tmp_path / 'page.html')
    assert found == {'file': str(tmp_path / 'page.html')}
    found, told = document('clean', dataset, '--dry_run', '--forget', '/b')
    assert (found['folder'], found['is_dry_run']) == (str(dataset), True)
    assert len(found['removed']) == 1
    assert found['removed'][0] in told


def test_models_lists_them():
    found, told = document('models')
    by_name = {model['name']: model for model in found['models']}
    assert by_name['bit-m-r101x3']['classes'] == 21_843
    assert by_name['bit-s-r50x1-features']['classes'] == 0
    assert 'bit-m-r101x3' in told


@pytest.mark.usefixtures('stand_in_model')
def test_label_tells_its_report_also_where_too_much_failed(tmp_path):
    arguments = ('label', '--input', samples.SAMPLE, '--output', tmp_path, '--json')
    done = app.invoke(*arguments, '--run_id', 'x')
    assert done.returncode == 3
    assert 'more than --max_failure_rate' in done.stderr
    report = json.loads((tmp_path / 'runs/x/report.json').read_text())
    found = json.loads(done.stdout)
    assert found['counts'] == report['counts']
    assert found.items() <= report.items()
    done = app.invoke('retry', '--output', tmp_path, '--json')
    found = json.loads(done.stdout)
    assert (done.returncode, found['run_id'], found['is_retried']) == (0, 'x', False)
    assert found['dead_lettered_by_reason'] == report['counts']['dead_lettered_by_reason']


def test_explain_tells_the_settings(tmp_path):
    arguments = ('--input', samples.SAMPLE, '--output', tmp_path, '--explain')
    found, told = document('label', *arguments)
    options = [each['option'] for each in found['settings']]
    assert '--model=embedded' in options
    assert f'{found["title"]}:' in told


@pytest.mark.parametrize(
    ('arguments', 'code'),
    [
        (('verify', '/nowhere'), 2),
        (('latest', '/nowhere', '--output', '/x.parquet'), 2),
        (('label', '--input', '/nowhere', '--output', '/tmp/x'), 2),
        (('models', '--check', '/nowhere'), 2),
        (('verify',), 2),
    ],
)
def test_where_there_is_no_result_there_is_no_document(arguments, code):
    done = app.invoke(*arguments, '--json')
    assert (done.returncode, done.stdout, done.stderr.count('\n')) == (code, '', 1)
