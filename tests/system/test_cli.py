"""The command as a person runs it: what it prints, its exit codes, and how it stops."""

import json
import re
import signal
import time
from pathlib import Path

import pytest

from pipeline.main import console
from tests.support import app, forks, samples
from transforms.dataset.verify import verify
from transforms.model.vocabulary import is_under

FELINE = 'n02120997'
# Said twice a minute, and so on a slow machine only.
PROGRESS = re.compile(r'lemmabeam: (?:working,|[\d,]+ (?:listed,|images,|of [\d,]+ done,)).*\n')


@pytest.fixture(scope='module')
def sample_run(tmp_path_factory):
    output = tmp_path_factory.mktemp('sample') / 'output'
    # From nothing, as a person would; in calls as small as the sample.
    done = app.command(
        *('label', '--input', samples.SAMPLE, '--output', output),
        *('--max_failure_rate', '0.25', '--batch_size', '4'),
    )
    return done, output


def test_the_sample_has_sensible_labels_and_balanced_books(sample_run):
    done, output = sample_run
    assert done.returncode == 0, done.stderr
    assert PROGRESS.sub('', done.stderr) == ''
    said = ('cat.jpg', 'espresso 0.9', 'DEAD LETTER truncated', 'balanced', str(output))
    for expected in (*said, 'report.html'):
        assert expected in done.stdout
    first = {Path(row['uri']).name: row['labels'][0] for row in app.rows(output, 'predictions')}
    assert is_under(first['cat.jpg']['wnid'], FELINE)
    assert first['coffee.jpg']['name'] == 'espresso'
    assert {row['reason'] for row in app.rows(output, 'dead_letters')} == {
        'empty',
        'not_an_image',
        'truncated',
    }
    assert verify(str(output)) == []


@pytest.mark.usefixtures('stand_in_model')
def test_more_failures_than_allowed_exit_with_3_and_keep_the_results(tmp_path):
    done = app.invoke('label', '--input', samples.SAMPLE, '--output', tmp_path / 'out')
    assert done.returncode == 3
    assert '3 of 13 images failed, more than --max_failure_rate 0.05' in done.stderr
    assert verify(str(tmp_path / 'out')) == []
    assert len(app.rows(tmp_path / 'out', 'predictions')) == 10


USAGE = {
    'unknown option': (('--modle', 'x'), "unknown option '--modle'; did you mean --model?"),
    'abbreviated option': (('--thres', '0.1'), "unknown option '--thres'"),
    'unknown model': (('--model', 'resnet'), 'no such folder or file, and not a handle'),
    'no such BiT': (('--model', 'bit-m-r20x1'), "there is no model 'bit-m-r20x1'"),
    'no such input': (('--input', 'nothere'), "--input 'nothere': no such file"),
    'unknown scheme': (('--input', 'ftp://host/x'), 'ftp://host/x: expected a local path'),
    'threshold out of range': (('--threshold', '2'), "'2': expected a number from 0 to 1"),
    'odd size': (('--max_bytes', '3XB'), "'3XB': expected bytes"),
    'chunk and batch': (
        ('--chunk_size', '100'),
        '--chunk_size 100 is not a multiple of the batch size 32; 128',
    ),
    'no bytes': (('--max_bytes', '0'), "'0': expected bytes above 0"),
    'no output': (('--output', ''), "--output '': expected a folder"),
    'another spelling': (('--model', 'bit_m_r50x1'), 'did you mean bit-m-r50x1?'),
    'column named as ours': (('--carry', 'features'), "--carry 'features': the output has"),
    'column of a folder': (('--carry', 'split'), 'a folder without columns'),
    'a date as run id': (('--run_id', '2026-11-24'), 'expected a letter'),
    'unknown runner': (('--runner', 'Bogus'), 'Unexpected pipeline runner: Bogus'),
    'too little memory': (
        ('--memory_budget', '1kB'),
        '--memory_budget 1000 is below --max_bytes 67108864',
    ),
    'too many labels': (('--max_labels', '2000'), 'has only 1000 classes'),
}


@pytest.mark.parametrize('case', USAGE)
def test_wrong_usage_exits_with_2_and_names_flag_and_value(case, tmp_path):
    arguments, message = USAGE[case]
    output = tmp_path / 'out'
    done = app.invoke('label', '--input', samples.SAMPLE, '--output', output, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert 'Traceback' not in done.stderr
    assert not output.exists()


def test_an_output_inside_the_input_is_refused(tmp_path):
    samples.write_pictures(tmp_path / 'in', 1)
    done = app.invoke('label', '--input', tmp_path / 'in', '--output', tmp_path / 'in' / 'out')
    assert done.returncode == 2
    assert 'lies inside --input' in done.stderr


@pytest.mark.parametrize('name', ['runs', 'predictions/model=m', '_work/*/staged/**'])
def test_an_input_inside_the_output_is_refused(tmp_path, name):
    folder = tmp_path / name.partition('/*')[0]
    samples.write_pictures(folder, 1)
    for value in (folder, tmp_path / name):
        done = app.invoke('label', '--input', value, '--output', tmp_path)
        assert done.returncode == 2
        assert f'--input {value} lies inside {tmp_path}/{name.split("/")[0]} of the' in done.stderr
    config, _ = app.make_config('--input', tmp_path, '--output', tmp_path.parent / 'other')
    assert config.listing.inputs[0].uri == str(tmp_path)


def test_an_output_may_be_the_folder_that_pictures_have_a_folder_in(tmp_path):
    samples.write_pictures(tmp_path / 'photos', 1)
    config, _ = app.make_config('--input', tmp_path / 'photos', '--output', tmp_path)
    assert config.layout.output == str(tmp_path)


def test_an_input_of_nothing_exits_with_2_and_leaves_nothing_but_if_it_may(tmp_path):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'notes.md').touch()
    arguments = ('label', '--input', tmp_path / 'in', '--output', tmp_path / 'out')
    done = app.invoke(*arguments)
    assert done.returncode == 2
    assert 'no images found: 1 .md' in done.stderr
    assert '--allow_empty' in done.stderr
    assert not [path for path in (tmp_path / 'out').rglob('*') if path.is_file()]
    done = app.invoke(*arguments, '--allow_empty')
    assert done.returncode == 0, done.stderr
    assert "Files without an image suffix: 1 .md; as --input, 'FOLDER/**' takes all" in done.stdout


def test_a_night_without_new_images_is_a_complete_run(tmp_path):
    samples.write_pictures(tmp_path / 'in', 2)
    arguments = ('--input', tmp_path / 'in', '--output', tmp_path / 'out', '--since', '2999-01-01')
    done = app.invoke('label', *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith('lemmabeam: all 5 files are older than --since 2999-01-01\n')
    assert app.rows(tmp_path / 'out', 'predictions') == []
    page = next(tmp_path.glob('out/runs/*/report.html')).read_text()
    assert 'All 5 files are older than --since 2999-01-01.' in page


@pytest.mark.parametrize(
    ('name', 'code', 'message'),
    [('file', 2, 'a file; expected a folder'), ('file/x', 1, 'cannot write')],
)
def test_an_output_that_cannot_be_written_is_found_out_first(tmp_path, name, code, message):
    (tmp_path / 'file').touch()
    done = app.invoke('label', '--input', samples.SAMPLE, '--output', tmp_path / name)
    assert done.returncode == code
    assert message in done.stderr
    assert f'{tmp_path}/{name}' in done.stderr


def test_what_is_asked_for_in_vain_is_refused(sample_run, tmp_path):
    _, output = sample_run
    for arguments, message in (
        (('verify', output, '--by_name'), '--by_name goes with OTHER'),
        (('verify', output, output, '--tolerance', '-1'), "'-1': expected a number, 0 or more"),
        (('clean', output, '--drop', 'scores'), '--drop scores goes with --prune_before'),
        (('clean', output, '--prune_before', 'x'), 'no complete run of this id; there is: 2'),
        (('latest', output, '--output', tmp_path / 'x.csv'), 'is Parquet; call it .parquet'),
        (('report', output, '--output', tmp_path), 'expected the name of a file'),
        (('relabel', '--output', output, '--thresholds', tmp_path), 'a folder; expected a file'),
    ):
        done = app.invoke(*arguments)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_half_written_manifest_stops_the_run_with_its_line(tmp_path):
    path = tmp_path / 'list.jsonl'
    path.write_text(f'{{"uri": "{samples.PHOTOGRAPHS[0]}"}}\n{{"uri": "{samples.SAMPLE}/ca')
    done = app.invoke('label', '--input', path, '--output', tmp_path / 'out')
    assert done.returncode == 1
    assert f'{path}: line 2 ends early' in done.stderr
    assert 'while running' not in done.stderr
    assert 'did not finish' not in done.stderr
    assert not list((tmp_path / 'out').rglob('*'))


def test_more_images_than_allowed_are_refused_before_inference(tmp_path):
    done = app.invoke(
        'label', '--input', samples.SAMPLE, '--output', tmp_path / 'out', '--max_images', '5'
    )
    assert done.returncode == 2
    assert '--max_images 5: more than 5 distinct images are listed in' in done.stderr
    assert not list((tmp_path / 'out').rglob('*.parquet'))


def test_a_complete_run_is_not_overwritten(sample_run):
    _, output = sample_run
    (run_id,) = (path.name for path in (output / 'runs').iterdir())
    before = {path: path.read_bytes() for path in output.rglob('*') if path.is_file()}
    done = app.invoke('label', '--input', samples.SAMPLE, '--output', output, '--run_id', run_id)
    assert done.returncode == 2
    assert f'--run_id {run_id}: this run is complete' in done.stderr
    assert before == {path: path.read_bytes() for path in output.rglob('*') if path.is_file()}


def test_a_run_that_does_not_fit_the_dataset_is_refused(sample_run, tmp_path):
    _, output = sample_run
    path = tmp_path / 'list.csv'
    path.write_text(f'uri,split\n{samples.PHOTOGRAPHS[0]},train\n')
    done = app.invoke('label', '--input', path, '--output', output, '--partition_by', 'split')
    assert done.returncode == 2
    assert '"partition_by": []' in done.stderr
    assert '"partition_by": ["split"]' in done.stderr


@pytest.fixture
def start(tmp_path):
    """Starts a run in a process of its own, and waits until it is in the middle of its work."""
    started = []
    pictures = tmp_path / 'in'
    samples.write_pictures(pictures, 20)

    def start(output, code=SLOW, folder=pictures):
        arguments = ('label', '--input', folder, '--output', output, '--run_id', 'stopped')
        arguments += ('--batch_size', '8')
        process = forks.Fork(code + LOUD, *arguments)
        started.append(process)
        for line in process.stderr:
            if ' done, ' in line:
                return process
        raise AssertionError('the run ended early')

    yield start
    for process in started:
        process.kill()


# Labels one batch, and is at the next one for as long as a test may last.
SLOW = """
import time
from tests.support import without_model
from transforms import label as handler
class Predictor(without_model.Predictor):
    calls = 0
    def __call__(self, pixels):
        self.calls += 1
        time.sleep(3600 * (self.calls > 1))
        return super().__call__(pixels)
handler.Predictor = Predictor
"""
# The line that tells of progress comes in seconds on a terminal only.
LOUD = """
import functools, sys
from pipeline import main
from pipeline.job import attempt
attempt.reporting = functools.partial(attempt.reporting, redraw_sec=0.1, log_sec=0.2)
sys.exit(main.main(sys.argv[1:]))
"""
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize(('number', 'code'), SIGNALS)
def test_a_signal_stops_within_5_s_and_leaves_no_partial_file(start, tmp_path, number, code):
    check_that_it_stops(start(tmp_path / 'out'), tmp_path / 'out', number, code)


@pytest.mark.slow  # as the one above, with the threads of TensorFlow: 15 s each
@pytest.mark.parametrize(('number', 'code'), SIGNALS)
def test_a_signal_stops_the_real_model(start, tmp_path, number, code):
    many = tmp_path / 'many'
    many.mkdir()
    picture = tmp_path / 'in/0000.jpg'
    for i in range(20_000):  # enough for a run of minutes
        (many / f'{i:05d}.jpg').hardlink_to(picture)
    check_that_it_stops(start(tmp_path / 'out', '', many), tmp_path / 'out', number, code)


def check_that_it_stops(process, output, number, code):
    started = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate()
    assert time.monotonic() - started < 5
    assert process.returncode == code
    assert '; run the same command again to resume run stopped' in errors
    if not list(output.glob('_work/*/chunks/*')):
        assert not (output / '_work').exists()
    assert not (output / 'predictions').exists()
    assert not (output / 'runs').exists()
    assert not (output / '_work/_lease.json').exists()


@pytest.mark.usefixtures('stand_in_model')
def test_a_refusal_after_the_start_leaves_nothing_and_is_not_told(tmp_path):
    output = tmp_path / 'out'
    arguments = ('label', '--input', samples.SAMPLE, '--output', output)
    refused = app.invoke(*arguments, '--max_images', '2')
    assert refused.returncode == 2
    assert '--max_images 2' in refused.stderr
    assert 'did not finish' not in refused.stderr
    assert list(output.glob('**/*')) == []
    done = app.invoke(*arguments, '--threshold', '0.2', '--max_failure_rate', '1')
    assert done.returncode == 0
    assert done.stderr == ''


@pytest.mark.usefixtures('stand_in_model')
def test_two_runs_into_one_folder_and_one_that_was_killed(start, tmp_path):
    output = tmp_path / 'out'
    process = start(output)
    second = app.invoke('label', '--input', samples.SAMPLE, '--output', output)
    process.kill()
    process.communicate()
    assert second.returncode == 2
    assert 'run stopped is writing there' in second.stderr
    # The killed run's lease is still there, but its holder is provably gone.
    assert (output / '_work/_lease.json').exists()
    third = app.invoke(
        *('label', '--input', samples.SAMPLE, '--output', output),
        *('--run_id', 'third', '--max_failure_rate', '1'),
    )
    assert third.returncode == 0, third.stderr
    assert verify(str(output)) == []
    assert json.loads((output / 'runs/third/report.json').read_text())['counts']['labeled'] == 10
    assert app.invoke('clean', output).stdout.startswith('removed the work of run stopped')
    assert not (output / '_work').exists()


def test_verify_finds_what_is_wrong(sample_run, tmp_path):
    _, output = sample_run
    done = app.invoke('verify', output)
    assert (done.returncode, done.stdout) == (0, 'whole and consistent\n')
    nothing = app.invoke('verify', tmp_path)
    assert nothing.returncode == 2
    assert 'no dataset.json' in nothing.stderr


def test_the_console_script_ends_with_the_code_of_the_command(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        console(['verify', str(tmp_path)])
    assert stopped.value.code == 2
