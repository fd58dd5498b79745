"""Relabelling: the labels of other thresholds from stored scores, as a run like any other."""

import contextlib
import dataclasses
import functools
import json
import re
import shutil
import tempfile
import zlib
from hashlib import sha256

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.job import relabel as job
from pipeline.main import main
from tests.support import app, forks, samples, without_model
from tests.support.datasets import MODEL, VOCABULARY, Row, add_run, edit_json, started_at
from transforms.core.elements import Note
from transforms.core.errors import StoreError, UsageError
from transforms.dataset import newest, relabel
from transforms.dataset.latest_sql import write_latest_sql
from transforms.dataset.reader import open_dataset
from transforms.dataset.verify import verify
from transforms.model.card import Activation
from transforms.model.predictor import Prediction
from transforms.model.vocabulary import Vocabulary
from transforms.output.layout import Layout
from transforms.runs import in_progress, lease
from transforms.runs.complete import complete_runs
from transforms.storage.bounded import BoundedStore
from transforms.storage.local import LocalStore
from transforms.storage.registry import store_for

OTHER = 'n-11111111'


def run(folder, *arguments):
    """Relabels in this process; returns the exit code."""
    return main(['relabel', '--output', str(folder), *map(str, arguments)])


def run_with(folder, run_id, threshold=None, make_layout=Layout, **options):
    """Relabels with something else than the command has."""
    dataset = open_dataset(str(folder), store_for(str(folder)))
    layout = make_layout(str(folder), run_id, '', (), (), job.ROWS_PER_FILE)
    wanted = job.Wanted(None, threshold, None, None, {})
    return job.relabel(dataset, layout, wanted, started_at(9), **options)


def failing(capsys, folder, *arguments):
    capsys.readouterr()
    assert run(folder, *arguments) == 2
    return capsys.readouterr().err


def report_of(folder, run_id):
    return json.loads((folder / 'runs' / run_id / 'report.json').read_text())


def rows_of(folder, run_id):
    """{uri: row} of a run."""
    found = app.rows(folder, 'predictions', run_id)
    assert len({row['uri'] for row in found}) == len(found)
    return {row['uri']: row for row in found}


def labels_of(folder, run_id):
    """{uri: [(index, score)]}, the scores rounded."""
    return {
        uri: [(label['index'], round(label['score'], 4)) for label in row['labels']]
        for uri, row in rows_of(folder, run_id).items()
    }


def files_of(folder):
    return sorted(str(path) for path in folder.rglob('*') if path.is_file())


class Predictor(without_model.Predictor):
    """Scores as unequal as a network's, made of the pixels, and the labels that a run keeps."""

    def __init__(self, options):
        super().__init__(options)
        self._options = options

    def __call__(self, pixels):
        options = self._options
        seeds = [zlib.crc32(image.tobytes()) for image in pixels]
        logits = np.array([np.random.default_rng(seed).normal(0, 3, 1000) for seed in seeds])
        scores = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
        indices = np.argsort(-scores, axis=1, kind='stable')[:, : options.max_labels]
        scores = np.take_along_axis(scores, indices, axis=1)
        counts = (scores >= np.float32(options.threshold)).sum(axis=1)
        return Prediction(indices.astype(np.int32), scores, counts.astype(np.int32), None)


def label_twice(folder):
    """Labels pictures at a threshold, in one place with what lies below it."""
    samples.write_pictures(folder / 'in', 8)
    for name, floor in (('low', '0.02'), ('high', '0.2')):
        app.label(
            '--input', folder / 'in', '--output', folder / name, '--run_id', 'a',
            '--threshold', '0.2', '--keep_above', floor, '--max_labels', '50',
            '--rows_per_file', '5',
        )  # fmt: skip
    return folder


@pytest.fixture(scope='module')
def labelled(tmp_path_factory):
    with app.stand_in(Predictor):
        return label_twice(tmp_path_factory.mktemp('labelled'))


@pytest.mark.slow  # compiles a network twice; what it keeps is tested in test_layers
def test_relabelled_is_what_a_network_would_have_labelled(tmp_path):
    check_relabelled(label_twice(tmp_path / 'labelled'), tmp_path / 'low')


def test_relabelled_is_what_would_have_been_labelled(labelled, tmp_path):
    check_relabelled(labelled, tmp_path / 'low')


def check_relabelled(labelled, folder):
    shutil.copytree(labelled / 'low', folder)
    done = app.invoke('relabel', '--output', folder, '--threshold', '0.2', '--run_id', 'r')
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    assert 'Run r: 8 rows of efficientnet-lite0' in done.stdout
    low, high = labels_of(folder, 'a'), labels_of(labelled / 'high', 'a')
    assert sum(map(len, low.values())) > sum(map(len, high.values())) > 0
    assert list(rows_of(folder, 'r').values()) == list(rows_of(labelled / 'high', 'a').values())
    assert rows_of(folder, 'a') == rows_of(labelled / 'low', 'a'), 'the source is left alone'
    assert verify(str(folder)) == []
    report, source = report_of(folder, 'r'), report_of(folder, 'a')
    expected = report_of(labelled / 'high', 'a')
    without = sum(not labels for labels in high.values())
    assert 0 < without < 8
    for each in (report, source, expected):  # what lies below the threshold is no label
        assert each['counts']['without_label'] == without
        assert each['share_without_label'] == without / 8
        assert each['top_labels'] == expected['top_labels']
    assert report['counts']['listed'] == report['counts']['labeled'] == 8
    assert (report['command'], report['sequence']) == ('relabel', source['sequence'] + 1)
    assert report['model'] == source['model']
    changed = {
        key: value
        for key, value in report['metadata'].items()
        if source['metadata'].get(key) != value
    }
    assert changed == {'stored_floor': '0.2', 'relabeled_from': 'a'}
    assert report.keys() | {'cut_rows'} == source.keys() | {'cut_rows'}
    assert len(report['files']) == 2
    assert not (folder / '_work').exists()


def test_no_model_is_loaded(labelled, tmp_path):
    folder = tmp_path / 'low'
    shutil.copytree(labelled / 'low', folder)
    code = (
        'import sys; from pipeline.main import main; '
        f"main(['relabel', '--output', {str(folder)!r}]); "
        f"main(['latest', {str(folder)!r}, '--output', {str(tmp_path / 'x.parquet')!r}]); "
        "print({name.split('.')[0] for name in sys.modules} & {'tensorflow', 'keras', 'jax'})"
    )
    done = forks.run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith('set()\n')


# A pure function, and its oracle.

LABELS = st.lists(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0])),
        unique_by=lambda label: label[0],
        max_size=6,
    ),
    max_size=8,
)


def table_of(rows):
    return pa.table(
        {
            'indices': pa.array([[i for i, _ in row] for row in rows], pa.list_(pa.int32())),
            'scores': pa.array([[x for _, x in row] for row in rows], pa.list_(pa.float32())),
        }
    )


def lists(table):
    return [
        list(zip(indices, np.round(scores, 4).tolist(), strict=True))
        for indices, scores in zip(
            table['indices'].to_pylist(), table['scores'].to_pylist(), strict=True
        )
    ]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    rows=LABELS,
    thresholds=st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.6]), min_size=6, max_size=6),
    max_labels=st.integers(1, 6),
    start=st.integers(0, 3),
)
def test_kept_labels_are_those_of_a_plain_loop(rows, thresholds, max_labels, start):
    rows = [sorted(row, key=lambda label: (-label[1], label[0])) for row in rows]
    values = np.array(thresholds, np.float32)
    kept = relabel.keep_labels(table_of(rows).slice(start), values, max_labels)
    rows = rows[start:]
    expected = [[(i, x) for i, x in row if x >= thresholds[i]] for row in rows]
    assert lists(kept) == [row[:max_labels] for row in expected]
    stored = np.full(len(rows), 3)
    cut = relabel.are_cut(table_of(rows), kept, stored, min(thresholds), max_labels)
    assert cut.tolist() == [
        len(row) >= 3 and row[-1][1] >= min(thresholds) and len(found) < max_labels
        for row, found in zip(rows, expected, strict=True)
    ]


# Which rows are its sources.


def test_the_newest_row_of_the_original_runs_is_the_source(tmp_path):
    add_run(tmp_path, 'z', [Row('/a', ((1, 0.9), (2, 0.2))), Row('/b', ((3, 0.2),)), Row('/d')])
    add_run(tmp_path, 'y', [Row('/b', ((4, 0.8), (5, 0.3)), version='2')])
    add_run(tmp_path, 'x', [Row('/a'), Row('/c', ((6, 0.7),))], command='relabel')
    add_run(tmp_path, 'other', [Row('/a'), Row('/e')], model_id=OTHER)
    assert run(tmp_path, '--run_id', 'r', '--model_id', MODEL, '--threshold', '0.2') == 0
    assert labels_of(tmp_path, 'r') == {
        '/a': [(1, 0.9), (2, 0.2)],
        '/b': [(4, 0.8), (5, 0.3)],
        '/c': [(6, 0.7)],
        '/d': [],
    }
    assert rows_of(tmp_path, 'r')['/b']['object_version'] == '2'
    report = report_of(tmp_path, 'r')
    assert report['metadata']['relabeled_from'] == 'z,y,x'
    assert report['sequence'] == 5
    assert verify(str(tmp_path)) == []


def test_lower_again_as_long_as_the_scores_are_there(tmp_path, capsys):
    rows = [Row('/a', ((1, 0.9), (2, 0.4), (3, 0.2)))]
    add_run(tmp_path, 'a', rows)
    for run_id, threshold, count in (('r1', '0.5', 1), ('r2', '0.1', 3), ('r3', '0.3', 2)):
        assert run(tmp_path, '--run_id', run_id, '--threshold', threshold) == 0
        assert len(labels_of(tmp_path, run_id)['/a']) == count
    for name in ('runs', f'predictions/model={MODEL}'):
        for path in (tmp_path / name).glob('*a'):
            shutil.rmtree(path)
    assert 'run r3 has stored no scores below 0.3' in failing(
        capsys, tmp_path, '--threshold', '0.2'
    )
    assert run(tmp_path, '--run_id', 'r4') == 0
    assert report_of(tmp_path, 'r4')['metadata']['relabeled_from'] == 'r3'


def test_images_without_a_label_are_counted_as_they_are_when_they_are_labelled(tmp_path, capsys):
    rows = [
        Row('/a', [(1, 0.9), (2, 0.3)]),
        Row('/b', [(2, 0.3)]),
        Row('/c', [(3, 0.2)]),
        Row('/d'),
    ]
    add_run(tmp_path, 'a', rows, threshold='0.25')
    write_latest_sql(str(tmp_path), store_for(str(tmp_path)))
    report = report_of(tmp_path, 'a')
    assert report['counts']['without_label'] == 2
    assert [(each['name'], each['images']) for each in report['top_labels']] == [
        (VOCABULARY.names[index], 1) for index in (1, 2)
    ]
    assert verify(str(tmp_path)) == []
    for run_id, threshold, count, share in (('b', 0.5, 3, '75 %'), ('c', 0.1, 1, '25 %')):
        assert run(tmp_path, '--threshold', threshold, '--run_id', run_id) == 0
        said = capsys.readouterr().out
        assert f'Without a label: {count} ({share})' in said
        is_most = count > 2
        assert ('with a lower score needs no model' in said) == is_most
        report = report_of(tmp_path, run_id)
        assert report['counts']['without_label'] == count
        assert report['share_without_label'] == count / 4
        assert verify(str(tmp_path)) == []
    # And as they are when some of them are forgotten.
    for uri in ('/d', '/a'):
        assert main(['clean', str(tmp_path), '--forget', uri]) == 0
    assert [report_of(tmp_path, each)['counts']['without_label'] for each in 'abc'] == [1, 2, 0]
    assert report_of(tmp_path, 'b')['share_without_label'] == 1.0
    assert verify(str(tmp_path)) == []


def test_a_run_of_which_nothing_is_left_has_no_say(tmp_path):
    add_run(tmp_path, 'a', [Row('/a')], stored_floor='0.5', threshold='0.5')
    add_run(tmp_path, 'b', [Row('/a', ((1, 0.2),))])
    assert run(tmp_path, '--run_id', 'r', '--threshold', '0.1') == 0
    assert report_of(tmp_path, 'r')['metadata']['relabeled_from'] == 'b'


def test_carried_columns_partitions_and_parts(tmp_path):
    rows = [
        Row(f'/{n:03d}', ((n, 0.5),), (str(n % 3), ('007', 'a/b', None)[n % 3])) for n in range(60)
    ]
    rows += [row._replace(carried=('9', '007'), labels=((n, 0.6),)) for n, row in enumerate(rows)]
    options = {'carry': ('c', 'd'), 'partition_by': ('d',), 'rows_per_file': 7}
    add_run(tmp_path, 'a', rows, **options)
    add_run(tmp_path, 'b', [rows[0]._replace(labels=((9, 0.7),))], **options)
    assert run(tmp_path, '--run_id', 'r', '--threshold', '0.55') == 0
    assert verify(str(tmp_path)) == []
    found = app.rows(tmp_path, 'predictions', 'r')
    assert len(found) == 120
    assert sum(len(row['labels']) for row in found) == 61
    folders = {path.name for path in (tmp_path / f'predictions/model={MODEL}/run=r').iterdir()}
    assert folders == {'d=007', 'd=a%2Fb', 'd=__HIVE_DEFAULT_PARTITION__'}
    (one,) = [row for row in found if row['uri'] == '/000' and row['c'] == '0']
    assert [label['index'] for label in one['labels']] == [9]


@pytest.mark.parametrize('carry', [(), ('c', 'd')])
def test_what_is_gone_stays_so_when_the_runs_that_tell_it_go(tmp_path, carry):
    folder = tmp_path / 'out'
    columns = {'carry': carry, 'partition_by': carry[1:], 'rows_per_file': 2}
    rows = [Row(f'/{n}', (), (str(n % 3), ('x', None)[n % 2])[: len(carry)]) for n in range(12)]
    add_run(folder, 'a', rows, **columns)
    add_run(folder, 'b', [], notes=[(row, Note.GONE) for row in rows[:5]], **columns)
    listed = [(rows[0], Note.LISTED)]
    add_run(folder, 'c', [], notes=[*listed, (rows[6], Note.GONE)], **columns)
    store = store_for(str(folder))

    def since():
        write_latest_sql(str(folder), store)
        runs = complete_runs(str(folder), store)
        with newest.newest_rows(open_dataset(str(folder), store), runs) as found:
            newest_rows = [row for table in found.in_order() for row in table.to_pylist()]
        return {row['uri']: row['gone_since'] for row in newest_rows if row['gone_since']}

    expected = {f'/{n}': started_at(3 if n == 6 else 2) for n in (1, 2, 3, 4, 6)}
    assert since() == expected
    assert run(folder, '--run_id', 'copy') == 0
    assert since() == expected
    assert main(['clean', str(folder), '--prune_before', 'copy']) == 0
    assert since() == expected
    assert verify(str(folder)) == []
    assert main(['clean', str(folder), '--forget', '/1']) == 0
    assert since() == {uri: time for uri, time in expected.items() if uri != '/1'}
    assert verify(str(folder)) == []
    # A copy of the copy, too.
    assert run(folder, '--run_id', 'again') == 0
    assert main(['clean', str(folder), '--prune_before', 'again']) == 0
    assert since().keys() == expected.keys() - {'/1'}


def test_many_rows_take_the_way_over_the_disk(tmp_path, monkeypatch):
    rows = [Row(f'/{n:04d}', ((n, 0.5), (999, 0.3))) for n in range(700)]
    add_run(tmp_path, 'a', rows)
    add_run(tmp_path, 'b', [row._replace(labels=((1, 0.5),)) for row in rows[:100]])
    assert run(tmp_path, '--run_id', 'r1') == 0
    made = []
    make = tempfile.mkdtemp
    monkeypatch.setattr('tempfile.mkdtemp', lambda **options: made.append(1) or make(**options))
    run_with(tmp_path, 'r2', rows_at_once=100)
    assert made, 'this is to test the spilling'
    assert rows_of(tmp_path, 'r1') == rows_of(tmp_path, 'r2')
    files = [
        [(file['path'][-23:], file['rows']) for file in report_of(tmp_path, run_id)['files']]
        for run_id in ('r1', 'r2')
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 8


def test_features_stay_where_all_rows_have_them(tmp_path, capsys):
    rows = [Row('/a', ((1, 0.5),)), Row('/b')]
    add_run(tmp_path, 'a', rows, features=True)
    assert run(tmp_path, '--run_id', 'r1') == 0
    assert [row['features'] for row in rows_of(tmp_path, 'r1').values()] == [[0, 0], [1, 1]]
    add_run(tmp_path, 'b', rows[:1])
    assert run(tmp_path, '--run_id', 'r2') == 0
    assert 'features' not in rows_of(tmp_path, 'r2')['/a']
    assert 'run r2 has none; those of r1 are nowhere else' in capsys.readouterr().err
    assert verify(str(tmp_path)) == []


@pytest.mark.parametrize('carry', [(), ('c', 'd')])
def test_a_dataset_without_rows(tmp_path, carry):
    add_run(tmp_path, 'a', [], carry=carry, partition_by=carry[1:])
    assert run(tmp_path, '--run_id', 'r', '--threshold', '0.4') == 0
    assert rows_of(tmp_path, 'r') == {}
    assert len(report_of(tmp_path, 'r')['files']) == 1
    assert verify(str(tmp_path)) == []


def test_rows_that_were_cut_are_told(tmp_path, capsys):
    full = ((1, 0.9), (2, 0.8), (3, 0.4))
    add_run(tmp_path, 'a', [Row('/a', full), Row('/b', full[:2])], max_labels='3')
    assert run(tmp_path, '--max_labels', '4') == 0
    assert 'lemmabeam: 1 row was stored with as many labels' in capsys.readouterr().err
    assert run(tmp_path, '--threshold', '0.5', '--max_labels', '1', '--run_id', 'r') == 0
    assert capsys.readouterr().err == ''
    assert labels_of(tmp_path, 'r') == {'/a': [(1, 0.9)], '/b': [(1, 0.9)]}


# Thresholds of single classes.

CLASSES = Vocabulary(
    'some',
    ('n01', 'n02', 'n03', None, None, None),
    (('crane',), ('crane',), ('2',), ('n01',), ('cat', 'pussy'), ('a, "b"',)),
    (None,) * 6,
)


def parse(text, activation=Activation.SIGMOID):
    return relabel.parse_thresholds(text.encode(), 'x.csv', CLASSES, activation)


def test_a_class_is_a_wnid_a_name_or_an_index():
    text = '\ufeffclass,threshold\r\nn01,0.5\r\ncat,1\r\n\r\n1,0\r\n2,0.25\r\n"a, ""b""",1e-3\r\n'
    assert parse(text) == {0: 0.5, 4: 1.0, 1: 0.0, 2: 0.25, 5: 0.001}
    assert parse('class,threshold\ncat,-7.5\n', Activation.NONE) == {4: -7.5}
    assert parse('class,threshold\n') == {}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'x.csv, line 1: expected the header class,threshold'),
        ('name,threshold\n', 'x.csv, line 1: expected the header class,threshold'),
        ('class,threshold\ncat\n', 'x.csv, line 2: 1 columns'),
        ('class,threshold\ncat,0.5,\n', 'x.csv, line 2: 3 columns'),
        ('class,threshold\n\ncat,x\n', "x.csv, line 3: 'x' is not a number"),
        ('class,threshold\ncat,1.5\n', 'x.csv, line 2: 1.5: expected a number from 0 to 1'),
        ('class,threshold\ncat,nan\n', 'x.csv, line 2: nan: expected a finite number'),
        ('class,threshold\ndog,0.5\n', "x.csv, line 2: 'dog' is not the wnid, name or index"),
        ('class,threshold\n6,0.5\n', "x.csv, line 2: '6' is not the wnid, name or index"),
        ('class,threshold\n-1,0.5\n', "x.csv, line 2: '-1' is not the wnid, name or index"),
        (
            'class,threshold\ncrane,0.5\n',
            "'crane' is the name of several classes: 0 (n01), 1 (n02)",
        ),
        (
            'class,threshold\ncat,0.5\n4,0.5\n',
            "x.csv, line 3: '4' is the same class as line 2",
        ),
        ('class,threshold\n"cat,0.5\n', 'x.csv, line 2: not valid CSV'),
    ],
)
def test_a_bad_line_is_named(text, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        parse(text)


def test_bytes_that_are_no_text():
    with pytest.raises(UsageError, match='not UTF-8 text, at byte 1'):
        relabel.parse_thresholds(b'a\xff', 'x.csv', CLASSES, Activation.SIGMOID)


def test_thresholds_of_single_classes(tmp_path, capsys):
    rows = [Row('/a', ((1, 0.9), (2, 0.5), (3, 0.4), (4, 0.2)))]
    add_run(tmp_path / 'out', 'a', rows)
    path = tmp_path / 'x.csv'
    path.write_text(f'class,threshold\n1,0.95\n{VOCABULARY.wnids[4]},0.15\n')
    arguments = ('--thresholds', path, '--threshold', '0.45')
    assert run(tmp_path / 'out', '--run_id', 'r', *arguments) == 0
    assert labels_of(tmp_path / 'out', 'r') == {'/a': [(2, 0.5), (4, 0.2)]}
    report = report_of(tmp_path / 'out', 'r')
    metadata = report['metadata']
    assert (metadata['threshold'], metadata['stored_floor']) == ('0.45', '0.15')
    assert metadata['thresholds_sha256'] == report['options']['thresholds_sha256']
    assert len(metadata['thresholds_sha256']) == 64
    assert verify(str(tmp_path / 'out')) == []
    path.write_text('class,threshold\n4,0.05\n')
    message = failing(capsys, tmp_path / 'out', *arguments)
    assert f'--thresholds {path}: {VOCABULARY.names[4]!r} at 0.05: run a has stored no' in message
    # Once its source is gone, only what is whole for all classes may be asked of it.
    shutil.rmtree(tmp_path / 'out/runs/a')
    assert 'below 0.95' in failing(capsys, tmp_path / 'out', '--threshold', '0.9')
    assert run(tmp_path / 'out', '--threshold', '0.95', '--run_id', 'r2') == 0
    assert 'thresholds_sha256' not in report_of(tmp_path / 'out', 'r2')['metadata']


# What is refused.


@pytest.fixture
def small(tmp_path):
    add_run(tmp_path / 'out', 'a', [Row('/a', ((1, 0.5),))])
    return tmp_path / 'out'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--threshold', '0.05'), '--threshold 0.05: run a has stored no scores below 0.1; choose'),
        (('--threshold', '1.5'), '--threshold 1.5: expected a number from 0 to 1'),
        (('--threshold', 'nan'), '--threshold nan: expected a finite number'),
        (('--max_labels', '1001'), '--max_labels 1001: m-00000000 has only 1000 classes'),
        (('--model_id', 'moon'), 'models with complete runs: m-00000000'),
        (('--run_id', 'a'), '--run_id a: this run is complete'),
        (('--run_id', '7'), '--run_id'),
        (('--thresholds', '/nowhere.csv'), '--thresholds /nowhere.csv: no such file'),
    ],
)
def test_what_cannot_be_is_refused(small, capsys, arguments, message):
    before = files_of(small)
    assert message in failing(capsys, small, *arguments)
    assert files_of(small) == before


def test_two_models_need_a_name(small, capsys):
    add_run(small, 'b', [Row('/a')], model_id=OTHER)
    message = failing(capsys, small)
    assert '--model_id is missing' in message
    assert f'{MODEL}, {OTHER}' in message


def test_a_dataset_without_a_complete_run(small, capsys):
    shutil.rmtree(small / 'runs')
    assert 'no complete run there' in failing(capsys, small)


def test_a_model_without_classes(small, capsys):
    name = 'none-e3b0c442.parquet'
    path = small / 'runs/a/report.json'
    data = Vocabulary('none', (), (), ()).to_parquet()

    def change(report):
        report['metadata']['vocabulary'] = 'none'
        report['model'] |= {'vocabulary': name, 'vocabulary_sha256': sha256(data).hexdigest()}
        report['files'][0]['rows'] = 0

    edit_json(path, change)
    (small / 'vocabularies' / name).write_bytes(data)
    assert 'a model without classes' in failing(capsys, small, '--threshold', '0.5')
    # Its rows can be copied, so that old runs can go.
    assert run(small) == 0


@pytest.mark.parametrize('key', ['stored_floor', 'threshold', 'max_labels', 'activation'])
def test_metadata_that_lack_something(small, capsys, key):
    path = small / 'runs/a/report.json'
    edit_json(path, lambda report: report['metadata'].update({key: 'moon'}))
    before = files_of(small)
    assert run(small) == 1
    assert 'report.json is damaged' in capsys.readouterr().err
    assert files_of(small) == before


def test_another_run_is_writing(small, capsys):
    layout = add_run(small, 'b', [Row('/b')])
    lease.acquire(layout, False)
    assert 'run b is writing there' in failing(capsys, small)
    assert run(small, '--break_lease') == 0
    assert not (small / '_work/_lease.json').exists()


def test_what_fails_half_way_leaves_nothing(small, capsys, monkeypatch):
    from transforms.output import predictions

    before = files_of(small)

    def full(*_):
        raise StoreError('the disk is full')

    monkeypatch.setattr(predictions, 'write_file', full)
    assert run(small) == 1
    assert 'the disk is full' in capsys.readouterr().err
    assert files_of(small) == before


class KilledError(BaseException):
    """In place of SIGKILL."""


class KillingStore(LocalStore):
    """Who would create a file of this name is killed."""

    def __init__(self, name):
        self._name = name

    def create(self, uri, data):
        if uri.endswith(f'/{self._name}'):
            raise KilledError
        return super().create(uri, data)


@dataclasses.dataclass(frozen=True)
class KillingLayout(Layout):
    """The output of a run that is killed at a file."""

    killed_at: str = dataclasses.field(kw_only=True)

    @property
    def store(self):
        return BoundedStore(KillingStore(self.killed_at))


def kill_at(name, folder, threshold=None):
    """Relabels as run r until it would create a file."""
    with pytest.raises(KilledError):
        run_with(folder, 'r', threshold, functools.partial(KillingLayout, killed_at=name))


def test_what_a_killed_one_has_published_is_removed_by_clean(small, capsys):
    assert main(['clean', str(small)]) == 0
    before = files_of(small)
    kill_at('report.json', small)
    assert list(small.glob('predictions/*/run=r/*'))
    assert verify(str(small)) == []
    assert main(['clean', str(small)]) == 0
    assert 'removed the work of run r, incomplete' in capsys.readouterr().out
    assert files_of(small) == before


def test_a_killed_one_can_be_started_again(small, capsys):
    kill_at('report.json', small, threshold=0.7)
    assert 'only its report is missing' in failing(capsys, small, '--run_id', 'r')
    assert run(small, '--run_id', 'r', '--threshold', '0.7') == 0
    assert verify(str(small)) == []
    assert not (small / '_work/r').exists()


def test_one_that_was_killed_while_it_wrote_can_be_started_again(small):
    kill_at('commit.json', small, threshold=0.7)
    assert run(small, '--run_id', 'r') == 0
    assert verify(str(small)) == []
    assert not (small / '_work/r').exists()


def test_a_signal_leaves_the_work_of_a_run_that_labels(small):
    layout = Layout(str(small), 'r', MODEL, (), (), 1)
    in_progress.begin(layout, in_progress.Begun('', 2, [], {'command': 'label', 'model': MODEL}))
    before = files_of(small)

    @contextlib.contextmanager
    def stopped(_, leave):
        leave()
        raise KilledError
        yield

    with pytest.raises(KilledError):
        run_with(small, 'r', stopping=stopped)
    assert files_of(small) == before


def test_a_signal_gives_the_lease_back(small):
    before = files_of(small)

    @contextlib.contextmanager
    def stopped(advice, leave):
        assert 'run r ' in advice()
        assert (small / '_work/_lease.json').exists()
        leave()
        raise SystemExit(143)
        yield

    with pytest.raises(SystemExit):
        run_with(small, 'r', stopping=stopped)
    assert files_of(small) == before


def test_the_same_run_has_the_same_bytes(small, tmp_path):
    found = []
    for name in ('one', 'two'):
        shutil.copytree(small, tmp_path / name)
        assert run(tmp_path / name, '--run_id', 'r', '--threshold', '0.4') == 0
        (path,) = (tmp_path / name).glob('predictions/*/run=r/*.parquet')
        found.append(path.read_bytes())
    assert found[0] == found[1]


def test_in_an_object_store(bucket, small):
    for path in small.rglob('*'):
        if path.is_file():
            bucket.put(f'data/{path.relative_to(small)}', path.read_bytes())
    assert run(bucket.uri('data'), '--run_id', 'r', '--threshold', '0.4') == 0
    assert verify(bucket.uri('data')) == []
    runs = complete_runs(bucket.uri('data'), store_for(bucket.uri()))
    assert [found.id for found in runs] == ['a', 'r']


# Snapshots.


def counted(folder, run_id):
    return report_of(folder, run_id)['counts']['without_label']


def newest_labels(folder):
    """{uri: [index]} of the newest rows, as readers of latest.sql see them."""
    rows = duckdb.sql((folder / 'latest.sql').read_text()).fetchall()
    return {row[0]: [label['index'] for label in row[6]] for row in rows}


@pytest.fixture
def relabelled(tmp_path):
    """Scores from 0.1 on, relabelled at 0.5."""
    rows = [
        Row('/a', ((1, 0.9), (2, 0.4), (3, 0.2))),
        Row('/b', ((4, 0.6),)),
        Row('/c', ((5, 0.3),)),
    ]
    add_run(tmp_path, 'a', rows[:2], max_labels='20')
    add_run(tmp_path, 'b', rows[2:], max_labels='20')
    assert run(tmp_path, '--threshold', '0.5', '--max_labels', '5', '--run_id', 'r') == 0
    return tmp_path


def test_a_snapshot_keeps_labels_and_floor(relabelled, capsys):
    before = newest_labels(relabelled)
    assert before == {'/a': [1], '/b': [4], '/c': []}
    assert run(relabelled, '--run_id', 'snapshot') == 0
    said = capsys.readouterr().out
    assert '3 rows of m-00000000 copied with their labels' in said
    assert 'Scores from 0.1 on are kept beside them' in said
    assert newest_labels(relabelled) == before
    assert main(['clean', str(relabelled), '--prune_before', 'snapshot']) == 0
    assert [path.name for path in relabelled.glob('runs/*')] == ['snapshot']
    assert verify(str(relabelled)) == []
    assert newest_labels(relabelled) == before
    assert counted(relabelled, 'snapshot') == 1
    metadata = report_of(relabelled, 'snapshot')['metadata']
    assert (metadata['threshold'], metadata['stored_floor'], metadata['max_labels']) == (
        '0.5', '0.5', '5'
    )  # fmt: skip
    assert (metadata['scores_floor'], metadata['scores_max_labels']) == ('0.1', '20')
    # A snapshot of the snapshot is the same, and from any of them all scores come back.
    assert run(relabelled, '--run_id', 'again') == 0
    assert main(['clean', str(relabelled), '--prune_before', 'again']) == 0
    assert rows_of(relabelled, 'again')['/a']['stored_scores'][-1]['index'] == 3
    assert run(relabelled, '--threshold', '0.1', '--max_labels', '20', '--run_id', 'low') == 0
    assert newest_labels(relabelled) == {'/a': [1, 2, 3], '/b': [4], '/c': [5]}
    assert run(relabelled, '--run_id', 'whole') == 0
    assert 'scores_floor' not in report_of(relabelled, 'whole')['metadata']
    assert verify(str(relabelled)) == []


def test_a_snapshot_of_what_lies_below_the_threshold_counts_as_before(tmp_path):
    rows = [Row('/a', ((1, 0.9), (2, 0.4))), Row('/b', ((3, 0.2),))]
    add_run(tmp_path, 'a', rows, threshold='0.3', features=True)
    assert run(tmp_path, '--run_id', 's') == 0
    ours, theirs = (report_of(tmp_path, run_id) for run_id in ('s', 'a'))
    assert list(rows_of(tmp_path, 's').values()) == list(rows_of(tmp_path, 'a').values())
    for name in ('share_without_label', 'top_labels'):
        assert ours[name] == theirs.get(name, 0.5)
    assert ours['metadata'] == {**theirs['metadata'], 'relabeled_from': 'a'}
    assert main(['clean', str(tmp_path), '--prune_before', 's']) == 0
    assert verify(str(tmp_path)) == []


def test_a_snapshot_of_thresholds_of_single_classes(tmp_path, capsys):
    add_run(tmp_path, 'a', [Row('/a', ((1, 0.9), (2, 0.4), (3, 0.2)))])
    table = tmp_path / 'classes.csv'
    table.write_text('class,threshold\n2,0.3\n')
    arguments = ('--threshold', '0.5', '--thresholds', table)
    assert run(tmp_path, *arguments, '--run_id', 'r') == 0
    table.unlink()
    assert run(tmp_path, '--run_id', 's') == 0
    assert labels_of(tmp_path, 's') == {'/a': [(1, 0.9), (2, 0.4)]}
    assert [each['index'] for each in rows_of(tmp_path, 's')['/a']['stored_scores']] == [1, 2, 3]
    error = failing(capsys, tmp_path, '--max_labels', '1')
    assert 'run s has thresholds of single classes; give them again with --thresholds' in error


def test_rows_labelled_in_different_ways_are_not_one_snapshot(relabelled, capsys):
    add_run(relabelled, 'new', [Row('/d', ((6, 0.2),))], max_labels='20')
    before = files_of(relabelled)
    error = failing(capsys, relabelled)
    assert 'threshold is 0.5 in run r and 0.1 in run new' in error
    assert 'give a --threshold' in error
    assert files_of(relabelled) == before
    assert run(relabelled, '--threshold', '0.5', '--run_id', 'r2') == 0
    assert run(relabelled, '--run_id', 's') == 0
    assert newest_labels(relabelled) == {'/a': [1], '/b': [4], '/c': [], '/d': []}


def test_the_limit_alone_is_changed_and_the_threshold_stays(relabelled):
    assert run(relabelled, '--max_labels', '3', '--run_id', 's') == 0
    assert newest_labels(relabelled) == {'/a': [1], '/b': [4], '/c': []}


def test_what_would_be_lost_is_asked_for_by_name(relabelled, capsys):
    prune = ['clean', str(relabelled), '--prune_before', 'r']
    assert main(prune) == 2
    error = capsys.readouterr().err
    assert 'run a, b has scores that no later run has (from 0.1 on, 20 an image' in error
    assert '--drop scores lets them go' in error
    assert main([*prune, '--drop', 'features']) == 2
    assert main([*prune, '--drop', 'scores']) == 0
    assert newest_labels(relabelled) == {'/a': [1], '/b': [4], '/c': []}


def test_features_are_asked_for_by_name(tmp_path, capsys):
    add_run(tmp_path, 'a', [Row('/a')], features=True)
    add_run(tmp_path, 'b', [Row('/b')])
    assert run(tmp_path, '--run_id', 's') == 0
    prune = ['clean', str(tmp_path), '--prune_before', 's']
    assert main(prune) == 2
    assert 'feature vectors that no later run has' in capsys.readouterr().err
    assert main([*prune, '--drop', 'features']) == 0
