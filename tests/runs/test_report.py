"""Reports as they are read and written: none is changed by it, and each kind of damage is named.

`data/reports` has those of a version before, of a run that labelled, of one that relabelled, and of
the first one after an image was forgotten in it.
"""

import copy
import json
import math
from pathlib import Path

import pytest

from transforms.core.errors import DamagedError, StoreError
from transforms.dataset.reader import open_dataset
from transforms.runs.complete import read_run
from transforms.runs.report import PublishedFile, Replacement, RunReport, number_in
from transforms.storage.registry import store_for
from transforms.storage.sealed import Checksum, open_json, seal_json, to_json

DATA = Path(__file__).parents[1] / 'data/reports'
PART = {'path': 'predictions/model=m-00000000/run=a/part-00000-of-00001.parquet', 'rows': 3}

# As the first version of all wrote it.
FIRST = {
    'run_id': 'a',
    'balanced': True,
    'counts': {
        'listed': 4,
        'labeled': 3,
        'duplicates': 0,
        'unchanged': 0,
        'dead_lettered': 1,
        'dead_lettered_by_reason': {'empty': 1},
        'skipped_not_image': 2,
    },
    'started_at': '2026-11-24T01:02:03+00:00',
    'finished_at': '2026-11-24T02:02:03+00:00',
    'wall_sec': 3600.0,
    'images_per_sec': 0.001,
    'stage_thread_sec': {'fetch': 3.0, 'infer': 4000.0},
    'batches': 1,
    'batch_fill': 0.5,
    'top_labels': [{'name': 'tench', 'images': 3}],
    'inputs': [{'kind': 'folder', 'uri': '/photos', 'pattern': ''}],
    'options': {'input': ['/photos'], 'max_bytes': 67108864},
    'model': {
        'id': 'm-00000000',
        'fingerprint': '00' * 32,
        'card': {'name': 'm'},
        'vocabulary': 'v-00000000.parquet',
    },
    'metadata': {
        'activation': 'softmax',
        'stored_floor': '0.05',
        'threshold': '0.05',
        'max_labels': '5',
        'min_labels': '0',
        'vocabulary': 'v',
    },
    'versions': {'lemmabeam': '0.1.0'},
    'files': [{**PART, 'size_bytes': 9, 'sha256': '11' * 32}],
}


@pytest.fixture
def first():
    return copy.deepcopy(FIRST)


@pytest.mark.parametrize('name', ['labelled', 'relabelled', 'forgotten'])
def test_a_report_comes_back_byte_by_byte(name):
    data = (DATA / f'{name}.json').read_bytes()
    report = RunReport.from_json(open_json(data).value)
    assert seal_json(report.to_json()) == data


def test_a_report_of_the_first_version_has_what_it_lacks_by_default(first):
    report = RunReport.from_json(first)
    assert (report.sequence, report.command, report.verdict) == (0, 'label', None)
    assert not report.is_relabelling
    assert (report.counts.without_label, report.counts.gone) == (None, None)
    assert report.counts.ended == report.counts.listed == 4
    assert report.counts.reused == 0
    assert report.counted_from == -math.inf, 'it has counted all'
    assert report.model.vocabulary_sha256 is None
    (file,) = report.files
    assert (file.kind, file.checksum) == ('predictions', Checksum(9, '11' * 32))
    # What nobody has measured is not made up when it is written again.
    again = report.to_json()
    assert {'verdict', 'cut_rows'}.isdisjoint(again)
    assert {'location', 'kind', 'weights_sha256', 'vocabulary_sha256'}.isdisjoint(again['model'])
    assert again['files'] == first['files']
    assert again.items() >= {key: first[key] for key in first.keys() - {'counts', 'model'}}.items()
    assert RunReport.from_json(again) == report


def test_what_only_a_later_version_knows_is_passed_over(first):
    report = RunReport.from_json(first)
    first['moon'] = first['counts']['moon'] = first['files'][0]['moon'] = {'moon': 1}
    assert RunReport.from_json(first) == report


def test_a_file_that_is_about_to_be_replaced():
    coming = Replacement(
        rows=2, size_bytes=7, sha256='22' * 32, reasons={'empty': 1}, first_labels={'tench': 1}
    )
    file = PublishedFile(**PART, size_bytes=9, sha256='11' * 32, rows_found=4, replacement=coming)
    report = RunReport.from_json({**FIRST, 'files': [json.loads(to_json(file.to_json()))]})
    assert report.files == (file,)
    for sha256 in ('11' * 32, '22' * 32):
        file.checksum.check(sha256)


@pytest.mark.parametrize(('metadata', 'least'), [
    ({}, 0.05),
    ({'min_labels': '1'}, -math.inf),
    ({'thresholds_sha256': 'ab'}, -math.inf),
])  # fmt: skip
def test_what_counts_as_a_label(first, metadata, least):
    first['counts']['without_label'] = 1
    first['metadata'] |= metadata
    report = RunReport.from_json(first)
    assert report.counted_from == report.least_score == least
    assert report.counts.share_without_label == 0.3333


def without(key):
    return lambda report: report.pop(key)


def setting(*keys, to):
    def change(report):
        for key in keys[:-1]:
            report = report[key]
        report[keys[-1]] = to

    return change


DAMAGE = {
    'no id': (without('run_id'), 'run_id is missing'),
    'an id by number': (setting('run_id', to=5), 'run_id is 5'),
    'a place by text': (setting('sequence', to='2'), "sequence is '2'"),
    'a place before the first': (setting('sequence', to=-1), 'sequence is -1'),
    'books that say yes': (setting('balanced', to='yes'), "balanced is 'yes'"),
    'no books': (without('balanced'), 'balanced is missing'),
    'no counts': (without('counts'), 'counts is missing'),
    'counts that are a list': (setting('counts', to=[]), r'counts is \[\]'),
    'a count below zero': (setting('counts', 'labeled', to=-1), 'counts.labeled is -1'),
    'a count that is true': (setting('counts', 'listed', to=True), 'counts.listed is True'),
    'half an image': (setting('counts', 'gone', to=0.5), 'counts.gone is 0.5'),
    'a reason by text': (
        setting('counts', 'dead_lettered_by_reason', to={'empty': 'x'}),
        "counts.dead_lettered_by_reason.empty is 'x'",
    ),
    'noon': (setting('started_at', to='noon'), "started_at is 'noon'"),
    'the first day of all': (
        setting('finished_at', to='0001-01-01T00:00:00+09:00'), 'finished_at is',
    ),
    'no end': (without('finished_at'), 'finished_at is missing'),
    'no number of seconds': (setting('wall_sec', to=float('nan')), 'wall_sec is nan'),
    'too many seconds': (setting('wall_sec', to=10**400), 'wall_sec is 1000'),
    'a rate by text': (setting('images_per_sec', to='9'), "images_per_sec is '9'"),
    'an activity by text': (
        setting('stage_thread_sec', 'fetch', to='3'), "stage_thread_sec.fetch is '3'",
    ),
    'half a verdict': (setting('verdict', to={'bounded_by': 'x'}), 'verdict.share is missing'),
    'a verdict on another stage': (
        setting('verdict', to={'bounded_by': 'x', 'share': {}}),
        "bounded_by is 'x', which has no share",
    ),
    'a label without a name': (
        setting('top_labels', to=[{'images': 1}]), r'top_labels\[0\].name is missing',
    ),
    'inputs by name': (setting('inputs', to=['/photos']), r"inputs\[0\] is '/photos'"),
    'an input that is nowhere': (setting('inputs', 0, 'uri', to=None), r'inputs\[0\].uri is None'),
    'options that are a list': (setting('options', to=[1]), r'options is \[1\]'),
    'no model': (setting('model', to=None), 'model is None'),
    'a model without a name': (setting('model', 'id', to=None), 'model.id is None'),
    'no classes': (setting('model', 'vocabulary', to=7), 'model.vocabulary is 7'),
    'places that are no texts': (
        setting('model', 'passed_over', to=[1]), r'model.passed_over is \[1\]',
    ),
    'computed somehow': (
        setting('model', 'computed', to=[{'device': 'CPU'}]),
        r'model.computed\[0\].network is missing',
    ),
    'no metadata': (without('metadata'), 'metadata is missing'),
    'metadata by number': (
        setting('metadata', 'precision', to=32), 'metadata.precision is 32',
    ),
    'an activation that is none': (
        setting('metadata', 'activation', to='moon'), "metadata.activation is 'moon'",
    ),
    'no threshold': (setting('metadata', 'threshold', to='low'), "metadata.threshold is 'low'"),
    'no floor': (lambda x: x['metadata'].pop('stored_floor'), 'metadata.stored_floor is missing'),
    'no limit': (setting('metadata', 'max_labels', to='x'), "metadata.max_labels is 'x'"),
    'features of no length': (
        setting('metadata', 'features', to='-2'), "metadata.features is '-2'",
    ),
    'a version by number': (setting('versions', 'lemmabeam', to=1), 'versions.lemmabeam is 1'),
    'no files': (without('files'), 'files is missing'),
    'files by name': (setting('files', to=['x']), r"files\[0\] is 'x'"),
    'a file without rows': (setting('files', 0, 'rows', to=None), r'files\[0\].rows is None'),
    'a file without a checksum': (
        lambda x: x['files'][0].pop('sha256'), r'files\[0\].sha256 is missing',
    ),
    'a size by text': (
        setting('files', 0, 'size_bytes', to='many'), r"files\[0\].size_bytes is 'many'",
    ),
    'half a replacement': (
        setting('files', 0, 'replacement', to={'rows': 1}),
        r'files\[0\].replacement.size_bytes is missing',
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', DAMAGE)
def test_damage_is_named_and_stops_whoever_reads_runs(first, tmp_path, name):
    change, message = DAMAGE[name]
    change(first)
    with pytest.raises(DamagedError, match=message):
        RunReport.from_json(first)
    path = tmp_path / 'runs/a/report.json'
    path.parent.mkdir(parents=True)
    path.write_bytes(to_json(first))
    said = 'is damaged: restore it from a backup, or remove runs/a and the run=a folders'
    with pytest.raises(StoreError, match=said):
        read_run(str(tmp_path), 'a', store_for(str(tmp_path)))


@pytest.mark.parametrize('value', [None, [], 'x', 5])
def test_what_is_no_object_is_no_report(value):
    with pytest.raises(DamagedError, match='its content is'):
        RunReport.from_json(value)


@pytest.mark.parametrize('read', [
    lambda store: read_run('/out', 'a', store),
    lambda store: open_dataset('/out', store),
])  # fmt: skip
def test_an_error_of_the_program_is_not_told_as_damage(read):
    class Broken:
        def is_folder(self, uri):
            return True

        def read(self, uri):
            return object()  # no bytes at all

    with pytest.raises(TypeError):
        read(Broken())


def test_options_are_numbers_where_somebody_reads_them_so():
    assert number_in({'max_bytes': 5}, 'max_bytes') == 5
    assert number_in({'max_bytes': None}, 'max_bytes') is number_in({}, 'max_bytes') is None
    with pytest.raises(DamagedError, match=r"options\.max_bytes is 'many'"):
        number_in({'max_bytes': 'many'}, 'max_bytes')
