"""`lemmabeam retry`: what failed in the last run and may succeed now."""

import contextlib
import json
import urllib.parse

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.main import main
from tests.support.app import rows, stand_in
from tests.support.fault_proxy import Fault
from tests.support.loopback import Handler, LoopbackServer
from tests.support.states import Place, known_to, settled
from tests.support.without_model import in_threads
from transforms.core import resources
from transforms.core.errors import StoreError
from transforms.dataset.verify import verify
from transforms.sources.inputs import Columns, Input, Kind
from transforms.sources.listing import list_input


@pytest.fixture(scope='module', autouse=True)
def no_model_and_no_decoder():
    """Neither what is in a file nor what the model sees in it is looked at here."""
    with stand_in(with_decoder=False):
        yield


def report_of(output, run_id):
    return json.loads((output / f'runs/{run_id}/report.json').read_text())


@pytest.fixture
def behind_proxy(proxy, monkeypatch):
    """Lets this process reach the emulator by the proxy, by clients of its own."""
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', proxy.url)
    monkeypatch.setattr(resources, '_shared', {})
    return proxy


class SigningServer(LoopbackServer):
    """Gives an image to who has today's signature."""

    def __init__(self):
        self.signature = 'monday'
        self.is_down = False
        outer = self

        class Answering(Handler):
            def respond(self):
                asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                code = 200 if asked.get('sig') == [outer.signature] else 403
                code = 503 if outer.is_down and self.path.startswith('/1') else code
                data = self.path.encode()
                self.send_response(code)
                self.send_header('Content-Length', str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        super().__init__(Answering)


def test_after_an_outage_exactly_the_transient_failures_are_labelled(
    bucket, behind_proxy, tmp_path, capsys
):
    """What signs a URL is written nowhere: it is read from the manifest again."""
    proxy = behind_proxy
    manifest, output = tmp_path / 'list.txt', tmp_path / 'out'

    def sign(signature):
        server.signature = signature
        manifest.write_text(''.join(f'{server.url}/{i}.jpg?sig={signature}\n' for i in range(4)))

    for i in range(20):
        bucket.put(f'in/{i:02d}.jpg', b'%d' % i)
    large = bucket.put('in/large.jpg', bytes(2000))
    arguments = ['--input', bucket.uri('in'), '--input', str(manifest), '--output', str(output)]
    arguments += ['--fail_fast_after', '0', '--fetch_deadline_sec', '1.5', '--allow_private_hosts']
    arguments += ['--max_labels', '4', '--max_bytes', '1000']
    with contextlib.closing(SigningServer()) as server:
        proxy.set(Fault('503', 1, is_lasting=True, prefix='in/1'))
        server.is_down = True
        sign('monday-s3cr3t')
        assert main(in_threads(['label', *arguments, '--run_id', 'night-1'])) == 3
        failed = {row['uri']: row['retryable'] for row in rows(output, 'dead_letters')}
        transient = {uri for uri, retryable in failed.items() if retryable}
        in_bucket = {bucket.uri(f'in/{i}.jpg') for i in range(10, 20)}
        assert transient == in_bucket | {f'{server.url}/1.jpg'}
        assert set(failed) - transient == {large}

        proxy.set(None)
        server.is_down = False
        sign('tuesday-s3cr3t')
        # This process still leaves the host alone for a while.
        assert retry(output, '--fetch_deadline_sec', '20') == 0
    assert {bucket.uri(name) for name in proxy.attempts} == in_bucket
    assert {row['uri'] for row in rows(output, 'predictions', 'retry-1')} == transient
    report = report_of(output, 'retry-1')
    assert report['command'] == 'retry'
    assert report['counts']['labeled'] == len(transient)
    assert report['options']['max_labels'] == 4
    assert report['inputs'] == report_of(output, 'night-1')['inputs']
    for path in output.glob('**/*'):
        assert path.is_dir() or b's3cr3t' not in path.read_bytes(), path

    # Permanent ones only by name; here, with what lets it succeed.
    capsys.readouterr()
    assert main(['retry', '--output', str(output)]) == 0
    assert capsys.readouterr().out == 'nothing to retry in run retry-1; its dead letters: none\n'
    assert verify(str(output)) == []
    # The next night has nothing to do.
    config = settled(*arguments, '--run_id', 'night-2')
    source, _ = config.listing.inputs
    listed = {ref.uri: ref.version for ref in list_input(source, config.listing.columns)}
    assert len(listed) == 21
    known = known_to(config)
    assert {uri: known.get(uri) for uri in listed} == listed
    assert len(known) == 21 + 4


def label_with_failures(place):
    """A run of a manifest of which one file is too large and one is not there."""
    (place.root / 'a.jpg').write_bytes(bytes(500))
    (place.root / 'large.jpg').write_bytes(bytes(2000))
    manifest = place.root / 'list.csv'
    manifest.write_text('uri,split\na.jpg,x\nlarge.jpg,y\nabsent.jpg,z\nftp://h/x.jpg,z\n')
    arguments = ['--input', str(manifest), '--output', str(place.root / 'out'), '--carry', 'split']
    assert main(['label', *arguments, '--run_id', 'night-1', '--max_bytes', '1000']) == 3


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp('retry'), {'labelled': label_with_failures})


@pytest.fixture
def output(place):
    """Of a run with failures; see `label_with_failures`."""
    return place.at('labelled') / 'out'


def retry(output, *arguments):
    command = ['retry', '--output', str(output), '--run_id', 'retry-1', *arguments]
    return main(in_threads(command))


def test_permanent_ones_are_tried_by_name_and_options_may_be_others(output, capsys):
    assert retry(output) == 0
    assert 'nothing to retry in run night-1; its dead letters: bad_uri 1' in capsys.readouterr().out
    assert retry(output, '--reasons', 'too_many_bytes,not_found', '--max_bytes', '1MB') == 3
    (row,) = rows(output, 'predictions', 'retry-1')
    assert row['uri'] == str(output.parent / 'large.jpg')
    assert row['split'] == 'y'
    assert verify(str(output)) == []
    # A retry does not take over what another one was asked for.
    (row,) = rows(output, 'dead_letters', 'retry-1')
    assert row['reason'] == 'not_found'
    assert main(['retry', '--output', str(output)]) == 0
    assert len(list(output.glob('runs/*'))) == 2


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['--reasons', 'nothing'], "--reasons 'nothing': no such reason; there are not_found"),
        (['--reasons', 'bad_uri'], '--reasons bad_uri: such a line or name must be corrected'),
        (['--input', 'x'], '--input: a retry takes what failed in the last run'),
        (['--sample', '1'], '--sample: a retry takes what failed in the last run, all of it'),
        (['--since', '7d'], '--since: a retry takes'),
        (['--force'], '--force: a retry takes'),
        (['--model_size', '192', '--reasons', 'not_found'], '--model embedded: it is'),
        (['--carry', 'day', '--reasons', 'not_found'], 'does not fit the dataset'),
        (['--run_id', 'night-1', '--reasons', 'not_found'], 'this run is complete'),
    ],
)
def test_what_a_retry_refuses(output, capsys, arguments, said):
    assert retry(output, *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (output / 'runs/retry-1').exists()


@pytest.mark.parametrize('arguments', [[], ['--output', '/nonexistent/lemmabeam']])
def test_a_retry_of_nothing(arguments, capsys):
    assert main(['retry', *arguments]) == 2
    error = capsys.readouterr().err
    assert ('--output is missing' in error) or ('there is no complete run to retry' in error)


@pytest.mark.parametrize('change', ['no Parquet', 'another type', 'a column less', 'a null'])
def test_dead_letters_edited_by_hand(output, change):
    (part,) = output.glob('dead_letters/*/*/*.parquet')
    table = pq.ParquetFile(part).read()
    if change == 'no Parquet':
        part.write_bytes(b'uri,reason\n')
    elif change == 'another type':
        pq.write_table(table.set_column(2, 'reason', pa.array(range(len(table)))), part)
    elif change == 'a column less':
        pq.write_table(table.drop_columns(['detail']), part)
    else:
        pq.write_table(
            pa.Table.from_pylist([{**row, 'uri': None} for row in table.to_pylist()]), part
        )
    source = Input(Kind.DEAD_LETTERS, str(part.parent), 'not_found')
    with pytest.raises(StoreError, match=f'{part} is not a file of dead letters'):
        list(list_input(source, Columns('uri', ('split',), ())))


def test_dead_letters_that_cannot_be_read_stop_a_retry(output, capsys):
    (part,) = output.glob('dead_letters/*/*/*.parquet')
    part.write_bytes(b'uri,reason\n')
    assert retry(output, '--reasons', 'not_found') == 1
    assert f'{part} is not a file of dead letters' in capsys.readouterr().err
    assert part.read_bytes() == b'uri,reason\n'
