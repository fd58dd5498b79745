"""The report for people: what it says, that it lets nothing in, and that it stays small.

What a browser makes of it is in test_browser.
"""

import base64
import collections
import hashlib
import html.parser
import io
import json
import os
import re
import shutil
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.main import main
from pipeline.messages import StandardStreams
from pipeline.options import DEFAULT_THUMBNAILS
from pipeline.report import statistics, thumbnails
from pipeline.report.html import markup, page, report
from pipeline.report.html.charts import percent
from pipeline.report.html.report import write_html_report
from tests.support import app, crashing, made_runs, samples
from tests.support.datasets import edit_rows
from transforms.core.errors import ImageError, StoreError, UsageError
from transforms.core.hashing import content_hash
from transforms.core.reasons import Reason
from transforms.core.stores import DEFAULT_OPTIONS
from transforms.dataset.verify import verify
from transforms.images.decode import _refused_name
from transforms.runs.complete import complete_runs
from transforms.storage import s3
from transforms.storage.base import FetchLimits
from transforms.storage.http import refusal
from transforms.storage.registry import store_for

TAGS = set(
    """html head meta link title style body a header main footer nav section h1 h2 h3 p span div bdi
    code ul li dl dt dd table caption thead tbody tr th td details summary svg rect line text desc
    img""".split()
)
ATTRIBUTES = set(
    """charset http-equiv content name rel href lang id class role aria-label aria-labelledby
    aria-hidden scope src alt width height x x1 x2 y y1 y2 rx text-anchor""".split()
)


class Page(html.parser.HTMLParser):
    """A report, taken apart."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text()
        self.tags = collections.Counter()
        self.attributes = []
        self.texts = []
        self._open = []
        self.feed(self.source)
        self.close()
        assert self._open == []
        self.text = ' '.join(self.texts)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in ('meta', 'link', 'img'):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == 'style':
            self.style = data
        else:
            self.texts.append(data)

    def values(self, tag, name):
        return [value for t, n, value in self.attributes if (t, n) == (tag, name)]

    @property
    def pictures(self):
        return self.values('img', 'src')


def page_of(output, run_id=None, count=24, **options):
    written = write_html_report(str(output), run_id, DEFAULT_OPTIONS, count, **options)
    return Page(output / written)


def check_is_closed(page):
    """Nothing but what we use is in it, and its policy allows no more."""
    assert set(page.tags) <= TAGS
    assert {name for _, name, _ in page.attributes} <= ATTRIBUTES
    for value in page.values('a', 'href'):
        assert value.removeprefix('#') in page.values('section', 'id')
    assert page.values('link', 'href') == ['data:,']
    assert all(source.startswith('data:image/jpeg;base64,') for source in page.pictures)
    ids = [value for _, name, value in page.attributes if name == 'id']
    assert len(ids) == len(set(ids))
    for _, name, value in page.attributes:
        if name == 'aria-labelledby':
            assert set(value.split()) <= set(ids)
    policy = next(value for value in page.values('meta', 'content') if 'default-src' in value)
    found = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert policy.split('; ') == [
        "default-src 'none'",
        'img-src data:',
        f"style-src 'sha256-{found}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert 'url(' not in page.style
    assert '@import' not in page.style


@pytest.fixture(scope='module')
def sample(tmp_path_factory):
    output = tmp_path_factory.mktemp('sample')
    with app.stand_in():
        app.label('--input', samples.SAMPLE, '--output', output, '--run_id', 'sample')
    return output


@pytest.fixture
def copy(sample, tmp_path):
    return shutil.copytree(sample, tmp_path / 'copy')


def test_a_real_run_is_shown_as_its_report_counts_it(copy):
    report = json.loads((copy / 'runs/sample/report.json').read_text())
    page = page_of(copy)
    check_is_closed(page)
    counts = report['counts']
    figures = re.findall(r'<dt>([^<]+)</dt><dd>([^<]+)</dd>', page.source)
    shown = dict(figures)
    assert shown['images listed'] == str(counts['listed']) == '13'
    assert shown['labelled'] == str(counts['labeled']) == '10'
    assert shown['failed'] == str(counts['dead_lettered']) == '3'
    for reason in counts['dead_lettered_by_reason']:
        assert f'<code>{reason}</code>' in page.source
    rows = app.rows(copy, 'predictions')
    (coffee,) = (row['labels'][0] for row in rows if row['uri'].endswith('/coffee.jpg'))
    texts = (coffee['name'], coffee['wnid'], 'coffee.jpg', 'half.jpg', 'JPEG ends early', 'label')
    for text in texts:
        assert text in page.text
    # Each once at random, and once by its score; the three bad ones have none.
    assert len(page.pictures) == 20
    assert len(set(page.pictures)) == 10
    assert page.text.count('not_an_image') == 2
    assert verify(str(copy)) == []
    assert page_of(copy).source == page.source


def test_thumbnails_are_small_and_carry_no_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = 'a secret description'
    path = tmp_path / 'a.jpg'
    Image.open(io.BytesIO(samples.picture(1, (900, 300)))).save(path, exif=exif, comment=b'secret')
    made_runs.write_run(tmp_path, 'a', [(str(path), [(0, 'robin', 0.5)])])
    page = page_of(tmp_path)
    data = base64.b64decode(page.pictures[0].partition(',')[2])
    assert b'secret' in path.read_bytes()
    assert b'secret' not in data
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (160, 160)
        assert dict(image.getexif()) == {}


@pytest.mark.parametrize('as_folder', [False, True])
def test_nothing_from_outside_becomes_markup(tmp_path, as_folder):
    folder = tmp_path / ('<b>' if as_folder else 'pictures')
    folder.mkdir()
    for name in made_runs.HOSTILE_NAMES:
        (folder / name).write_bytes(samples.picture(1))
    labels = [(0, made_runs.HOSTILE_LABEL, 0.5), (1, '\u202ereverse\x00\x1b[31m', 0.25)]
    made_runs.write_run(
        tmp_path,
        'a',
        [(str(folder / name), labels) for name in made_runs.HOSTILE_NAMES],
        [('<script>alert(5)</script>', Reason.BAD_URI, '<script>alert(6)</script>')],
        carried={'split': '"><script>alert(7)</script>'},
        versions={'lemmabeam': '<i>'},
        options={'model': '<script>', '<script>': ['</script>']},
        inputs=[{'kind': 'glob', 'uri': '', 'pattern': '</title><script>'}],
        command='<b>label',
    )
    page = page_of(tmp_path)
    check_is_closed(page)
    assert len(page.pictures) == 2 * len(made_runs.HOSTILE_NAMES)
    assert not re.search(
        '[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b]', page.source
    )
    for text in ('onerror=alert(1)', '\\u202egnp.jpg', 'two\\x0alines', '</style></svg><script>'):
        assert text in page.text
    assert '&lt;b&gt;&#106;.jpg' in page.text  # as it is named, not as a browser would read it


@settings(max_examples=25)
@given(st.text(max_size=60), st.text(max_size=60))
def test_texts_come_back_out_of_an_element(tmp_path_factory, one, other):
    path = tmp_path_factory.getbasetemp() / 'element.html'
    path.write_text(markup.element('p', markup.untrusted(one, 10**6), title=other))
    page = Page(path)
    assert page.tags == {'p': 1, 'bdi': 1}
    assert page.text == markup.visible(one)
    assert page.values('p', 'title') == [markup.visible(other)]


def test_no_picture_is_read_if_none_is_asked_for(copy):
    def read(*_):
        raise AssertionError

    page = page_of(copy, count=0, read_pictures=read)
    check_is_closed(page)
    assert page.pictures == []
    assert 'chosen at random' not in page.text
    assert 'half.jpg' in page.text  # failures are named without their picture
    assert '--report_thumbnails 0' in page.text


def test_the_number_of_pictures_is_bounded(tmp_path):
    for i in range(30):
        (tmp_path / f'{i}.jpg').write_bytes(samples.picture(i))
    labels = [(0, 'robin', 0.5)]
    made_runs.write_run(tmp_path, 'a', [(str(tmp_path / f'{i}.jpg'), labels) for i in range(30)])
    assert len(page_of(tmp_path, count=4).pictures) == 8
    assert len(page_of(tmp_path, count=24).pictures) == 48


def test_the_file_stays_small(tmp_path):
    for i in range(30):
        (tmp_path / f'{i}.jpg').write_bytes(samples.picture(i))
    labels = [(0, 'robin', 0.5)]
    made_runs.write_run(tmp_path, 'a', [(str(tmp_path / f'{i}.jpg'), labels) for i in range(30)])
    page = page_of(tmp_path, max_bytes=150_000)
    assert 100_000 < len(page.source.encode()) < 155_000
    assert 0 < len(page.pictures) < 48
    left_out = re.search(r'(\d+) more were left out', page.text)
    # The 24 chosen at random are the least certain ones, too: all scores are the same.
    assert int(left_out[1]) + len(set(page.pictures)) == 24


def test_classes_appear_and_vanish(tmp_path):
    robin, wren, crow = (0, 'robin', 0.5), (1, 'wren', 0.4), (2, 'crow', 0.3)
    made_runs.write_run(tmp_path, 'first', [('/a', [crow]), ('/b', [robin])])
    assert 'Since the last run' not in page_of(tmp_path, count=0).text
    made_runs.write_run(tmp_path, 'other', [('/a', [wren])], sequence=2, model_id='b-12345678')
    made_runs.write_run(tmp_path, 'nothing', [], [('/a', Reason.EMPTY, '')], sequence=3)
    rows = [('/a', [robin, wren]), ('/b', [robin]), ('/c', [wren])]
    made_runs.write_run(tmp_path, 'last', rows, sequence=4, metadata={'threshold': '0.2'})
    page = page_of(tmp_path, count=0)
    assert 'run last' in page.text
    changes = page.source.partition('id="changes"')[2].partition('</section>')[0]
    assert 'first' in changes
    appeared, vanished = changes.split('Vanished')
    assert re.findall(r'<bdi>(\w+)</bdi></th><td class="n">(\d+)<', appeared) == [('wren', '2')]
    assert re.findall(r'<bdi>(\w+)</bdi></th><td class="n">(\d+)<', vanished) == [('crow', '1')]
    assert 'The threshold was 0.05 then and is 0.2 now' in changes
    # Asked for by its id, an earlier run is compared with what came before it.
    assert 'Since the last run' not in page_of(tmp_path, 'first', count=0).text


def test_many_classes_that_appear_are_counted_beyond_the_first(tmp_path):
    made_runs.write_run(tmp_path, 'first', [('/a', [])])
    many = [(f'/{i}', [(i, f'bird{i}', 0.5)]) for i in range(page._CHANGED_CLASSES + 7)]
    made_runs.write_run(tmp_path, 'last', many, sequence=2)
    changes = page_of(tmp_path, count=0).source.partition('id="changes"')[2]
    appeared = changes.partition('</section>')[0].partition('Vanished')[0]
    assert appeared.count('<bdi>bird') == page._CHANGED_CLASSES
    assert '>and 7 more<' in appeared


def test_runs_that_have_little_to_show(tmp_path):
    report = made_runs.write_run(tmp_path / 'empty', 'a', [], images_per_sec=None)
    page = page_of(tmp_path / 'empty')
    check_is_closed(page)
    assert 'No images found in the inputs.' in page.text

    old = {
        'counts': report['counts'] | {'skipped_before_since': 1_200},
        'options': report['options'] | {'since': '7d'},
    }
    made_runs.write_run(tmp_path / 'old', 'a', [], images_per_sec=None, **old)
    assert 'All 1,200 files are older than --since 7d.' in page_of(tmp_path / 'old').text

    failed = [(f'/{reason.value}.jpg', reason, 'a detail') for reason in Reason]
    made_runs.write_run(tmp_path / 'failed', 'a', [], failed * 2)
    page = page_of(tmp_path / 'failed')
    check_is_closed(page)
    assert page.pictures == []
    assert all(page.text.count(reason.value) >= 2 for reason in Reason)

    none = {'vocabulary': 'none', 'activation': 'none', 'max_labels': '0'}
    made_runs.write_run(tmp_path / 'features', 'a', [('/pictures/seen.jpg', [])], metadata=none)
    page = page_of(tmp_path / 'features')
    check_is_closed(page)
    assert 'without any label' not in page.text
    assert 'seen.jpg' in page.text


def test_a_run_of_another_command_with_fewer_entries(tmp_path):
    made_runs.write_run(tmp_path, 'a', [('/a', [(0, 'robin', 0.5)])], command='relabel')
    path = tmp_path / 'runs/a/report.json'
    report = json.loads(path.read_text())
    for key in ('verdict', 'stage_thread_sec', 'batches', 'batch_fill', 'images_per_sec', 'inputs'):
        del report[key]
    report['options'] = {}
    report['counts'] = {'listed': 1, 'labeled': 1, 'gone': 7}
    path.write_text(json.dumps(report))
    page = page_of(tmp_path)
    check_is_closed(page)
    assert 'lemmabeam relabel' in page.text
    assert 'gone since an earlier run' in page.text


def test_rows_by_the_bytes_of_another_are_told(tmp_path):
    made_runs.write_run(tmp_path, 'a', [(f'/{i}', [(0, 'robin', 0.5)]) for i in range(3)])
    assert 'same bytes' not in page_of(tmp_path).text
    path = tmp_path / 'runs/a/report.json'
    report = json.loads(path.read_text())
    report['counts']['reused'] = 2
    path.write_text(json.dumps(report))
    assert 'of these reused for the same bytes' in page_of(tmp_path).text


def test_scores_of_any_range_have_their_place(tmp_path):
    rows = [('/a', [(0, 'robin', 7.5), (1, 'wren', -3.0)]), ('/b', [(1, 'wren', 2.0)])]
    made_runs.write_run(tmp_path, 'a', rows, metadata={'activation': 'none', 'threshold': '-9'})
    store = store_for(str(tmp_path))
    run = complete_runs(str(tmp_path), store)[0]
    found = statistics.read_digest(str(tmp_path), run, store, 5, 5)
    assert found.score_range == (-3.0, 7.5)
    assert found.scores.sum() == 3
    assert found.best_scores.sum() == 2
    assert list(found.rows_by_labels) == [0, 1, 1]
    check_is_closed(page_of(tmp_path))


def test_pictures_that_cannot_be_shown_say_why(tmp_path):
    (tmp_path / 'text.jpg').write_bytes(b'no picture')
    (tmp_path / 'large.png').write_bytes(samples.picture(1, (2000, 600), 'PNG'))
    (tmp_path / 'other.jpg').write_bytes(samples.picture(1))
    same = samples.picture(2)
    (tmp_path / 'same.jpg').write_bytes(same)
    names = ['missing.jpg', 'text.jpg', 'large.png', 'other.jpg', 'same.jpg']
    rows = [(str(tmp_path / name), [(0, 'robin', 0.5)]) for name in names]
    rows += [('http://127.0.0.1:1/a.jpg', []), ('gopher://a/b', [])]
    failed = [
        (str(tmp_path / 'large.png'), Reason.TOO_MANY_PIXELS, '1200000 pixels, limit 1000000'),
        (str(tmp_path / 'other.jpg'), Reason.TRUNCATED, 'JPEG ends early'),
    ]
    made_runs.write_run(tmp_path, 'a', rows, failed)
    part = next(tmp_path.glob('predictions/**/*.parquet'))
    _set_hash(part, str(tmp_path / 'same.jpg'), hashlib.sha256(same).hexdigest())
    page = page_of(tmp_path)
    check_is_closed(page)
    tiles = re.findall(
        r'<li>(?:<img|<div class="none").*?(?=<li><img|<li><div|</section>)', page.source
    )
    random = {name: next(tile for tile in tiles if name in tile) for name in names}
    assert 'not_found' in random['missing.jpg']
    assert 'not_an_image' in random['text.jpg']
    assert 'too_many_pixels' in random['large.png']
    assert 'has changed since the run' in random['other.jpg']
    assert '<img' in random['same.jpg']
    assert 'has changed' not in random['same.jpg']
    assert 'forbidden' in next(tile for tile in tiles if '127.0.0.1' in tile)
    assert 'its store denies access' in next(tile for tile in tiles if 'gopher' in tile)
    assert 'It can be read now.' in next(tile for tile in tiles if 'JPEG ends early' in tile)
    large = next(tile for tile in tiles if 'limit 1000000' in tile and 'note' in tile)
    assert '<img' not in large


def _set_hash(path, uri, sha256):
    def change(rows):
        next(row for row in rows if row['uri'] == uri)['content_sha256'] = sha256
        return rows

    edit_rows(path, change)


def test_damage_is_named(tmp_path):
    made_runs.write_run(tmp_path, 'a', [('/a', [(0, 'robin', 0.5)])])
    path = tmp_path / 'runs/a/report.json'
    report = json.loads(path.read_text())
    for change in (
        {'metadata': {}},
        {'metadata': report['metadata'] | {'min_labels': 'x'}},
        {'metadata': report['metadata'] | {'stored_floor': 'x'}},
        {'counts': {'labeled': 1}},
        {'started_at': 'noon'},
        {'verdict': {'bounded_by': 'x'}},
        {'options': {'max_bytes': 'many'}},
        {'files': [{'path': 'predictions/x'}]},
    ):
        path.write_text(json.dumps(report | change))
        with pytest.raises(StoreError, match=r'report\.json is damaged'):
            page_of(tmp_path)
    path.write_text('{')
    with pytest.raises(StoreError, match=r'report\.json is damaged'):
        page_of(tmp_path)
    path.write_text(json.dumps(report))
    part = next(tmp_path.glob('predictions/**/*.parquet'))
    data = part.read_bytes()
    pq.write_table(pq.ParquetFile(part).read().drop_columns(['labels']), part)
    with pytest.raises(StoreError, match='is missing or damaged'):
        page_of(tmp_path)
    part.write_bytes(data[:-10])
    with pytest.raises(StoreError, match='is missing or damaged'):
        page_of(tmp_path)
    part.unlink()
    with pytest.raises(StoreError, match='is missing or damaged'):
        page_of(tmp_path)


@pytest.mark.parametrize('metadata', [
    {'threshold': '0.0', 'stored_floor': '0.0'},
    {'threshold': '0.3', 'stored_floor': '0.0'},
    {'threshold': '0.3', 'stored_floor': '0.0', 'min_labels': '1'},
    {'threshold': '0.3', 'stored_floor': '0.0', 'thresholds_sha256': 'b'},
])  # fmt: skip
def test_examples_are_what_a_plain_loop_chooses(tmp_path, metadata):
    rng = np.random.default_rng(1)
    rows = []
    for i in range(300):
        scores = sorted(rng.random(rng.integers(0, 4)).astype(np.float32).tolist(), reverse=True)
        rows.append((f'/{i:03}', [(j, f'class {j}', score) for j, score in enumerate(scores)]))
    made_runs.write_run(tmp_path, 'a', rows, metadata=metadata)
    least = np.float32(0.3 if len(metadata) == 2 and metadata['threshold'] == '0.3' else 0)
    store = store_for(str(tmp_path))
    run = complete_runs(str(tmp_path), store)[0]
    found = statistics.read_digest(str(tmp_path), run, store, 10, 3, most_rows=7)
    stored = rows
    rows = [(uri, [label for label in labels if label[2] >= least]) for uri, labels in stored]
    ranked = sorted(rows, key=lambda row: content_hash('a', row[0])[:8])
    some = [row for row in rows if row[1]]
    shown = dict(rows)
    for each in (*found.random, *found.least_certain):
        assert list(each.labels) == [(name, score) for _, name, score in shown[each.uri]]
    for each in found.unlabeled:  # with what lies below the threshold
        assert list(each.labels) == [(name, score) for _, name, score in dict(stored)[each.uri]]
    assert [each.uri for each in found.random] == [uri for uri, _ in ranked[:10]]
    assert [each.uri for each in found.unlabeled] == [u for u, labels in ranked if not labels][:10]
    by_score = sorted(some, key=lambda row: (row[1][0][2], content_hash('a', row[0])[:8]))
    assert [each.uri for each in found.least_certain] == [uri for uri, _ in by_score[:10]]
    assert list(found.rows_by_labels) == [sum(len(row[1]) == n for row in rows) for n in range(4)]
    assert {i: each.rows for i, each in found.classes.items()} == {
        i: sum(len(row[1]) > i for row in rows) for i in range(3)
    }
    scores = [score for _, labels in stored for _, _, score in labels]
    assert found.scores.tolist() == np.histogram(scores, statistics.BINS, (0, 1))[0].tolist()


def test_images_without_a_label_are_counted_and_how_to_look_lower_is_said(tmp_path):
    robin, wren = [(0, 'robin', 0.5)], [(1, 'wren', 0.06)]
    metadata = {'threshold': '0.3', 'stored_floor': '0.05'}
    rows = [('/a', robin), ('/b', wren), ('/c', wren), ('/d', [])]
    made_runs.write_run(tmp_path / 'low', 'a', rows, metadata=metadata)
    page = page_of(tmp_path / 'low', count=0)
    check_is_closed(page)
    assert '<dt>of these without a label, 75 %</dt><dd>3</dd>' in page.source
    for part in ('with a label 25 %', 'without a label 75 %'):  # of the bar
        assert f'</svg>{part}</li>' in page.source
    assert (
        '<code>lemmabeam relabel --output DIR --threshold 0.05</code> can use them' in page.source
    )
    assert '1 label on 4 rows, 0.2 per row; 3 rows have none. 2 scores below the' in page.text
    assert '1 class seen' in page.text
    assert 'All stored scores' in page.text

    made_runs.write_run(tmp_path / 'half', 'a', rows[:2], metadata=metadata)
    page = page_of(tmp_path / 'half', count=0)
    assert 'without a label, 50 %</dt><dd>1</dd>' in page.source
    assert 'relabel' not in page.text

    rows = [('/a', robin), ('/b', []), ('/c', [])]
    made_runs.write_run(tmp_path / 'high', 'a', rows)
    page = page_of(tmp_path / 'high', count=0)
    assert 'without a label, 66.7 %</dt><dd>2</dd>' in page.source
    assert 'no scores below 0.05 are stored, so looking lower needs the model' in page.text
    assert '--keep_above 0.005' in page.text
    assert 'All labels by score' in page.text


@pytest.fixture
def read_pictures(tmp_path):
    """Reads a picture that does something to its decoder, beside a good one, in a time."""
    data = samples.picture(1)
    (tmp_path / 'good').write_bytes(data)

    def read(act, total_sec):
        (tmp_path / act).write_bytes(crashing.picture(data, act))
        limits = thumbnails.Limits.of_run({})._replace(total_sec=total_sec)
        images = [str(tmp_path / name) for name in (act, 'good')]
        return thumbnails.read_thumbnails(
            images, limits, DEFAULT_OPTIONS, crashing.open_image
        ).values()

    return read


def test_a_picture_that_ends_its_decoder_does_not_end_the_report(read_pictures):
    bad, good = read_pictures('segv', 60.0)
    assert bad.problem == 'decoder_crashed: the process that decoded it was killed by SIGSEGV'
    assert not bad.data_uri
    assert good.data_uri.startswith('data:image/jpeg')


def test_pictures_that_take_too_long_are_left_out(read_pictures):
    started = time.monotonic()
    slow, good = read_pictures('loop', 12.0)
    assert time.monotonic() - started < 30
    assert slow.problem.startswith(('decode_deadline', 'not read: no time'))
    assert good.data_uri.startswith('data:')
    assert {'time' in each.problem for each in read_pictures('slow', 0.0)} == {True}


def test_limits_of_a_run_are_only_ever_lowered():
    low = thumbnails.Limits.of_run({'max_bytes': 5, 'max_pixels': 7, 'fetch_deadline_sec': 0.5})
    assert low.fetch == FetchLimits(5, 0.5)
    assert (low.pixels.max_px, low.pixels.max_baseline_jpeg_px) == (7, 28)
    high = thumbnails.Limits.of_run(
        {'max_bytes': 2**50, 'max_pixels': 2**50, 'fetch_deadline_sec': 1e6}
    )
    assert high == thumbnails.Limits.of_run({})
    assert high.fetch.deadline_sec == 10
    assert thumbnails.Limits.of_run({'loader_processes': 0}).processes == 0
    assert thumbnails.Limits.of_run({'loader_processes': 10**6}).processes <= os.cpu_count()


def test_a_report_on_request(copy, tmp_path, capsys):
    assert main(['report', str(copy), '--report_thumbnails', '1']) == 0
    assert capsys.readouterr().out.strip() == str(copy / 'runs/sample/report.html')
    elsewhere = tmp_path / 'x.html'
    assert main(['report', str(copy), '--run_id', 'sample', '--output', str(elsewhere)]) == 0
    assert elsewhere.read_text().startswith('<!doctype html>')
    assert main(['report', str(copy), '--run_id', 'other']) == 2
    assert '--run_id other: no complete run with this id' in capsys.readouterr().err
    assert main(['report', str(tmp_path / 'nothing')]) == 2
    assert main(['report', str(copy), '--output', 'https://a.example/x.html']) == 2
    for count in ('201', '-1', 'many', '²'):
        assert main(['report', str(copy), '--report_thumbnails', count]) == 2


def test_a_labelled_run_does_not_fail_for_its_report(sample, capsys, monkeypatch):
    from pipeline.job import labelling

    config, _ = app.make_config('--input', samples.SAMPLE, '--output', sample, '--run_id', 'sample')
    labelling._write_html_report(config, 0, StandardStreams())
    assert 'report.html' in capsys.readouterr().out

    def fail(*_):
        raise ZeroDivisionError('why')

    monkeypatch.setattr(labelling, 'write_html_report', fail)
    labelling._write_html_report(config, 0, StandardStreams())
    assert 'ZeroDivisionError: why; the run is complete' in capsys.readouterr().err


def test_names_are_relative_to_their_folder(tmp_path):
    for number, (uris, folder) in enumerate(
        [
            (['gs://b/p/a.jpg', 'gs://b/p/ab/c.jpg'], 'gs://b/p/'),
            (['gs://b/a.jpg', 'gs://c/a.jpg'], ''),
            (['/a.jpg', '/b.jpg'], ''),
            (['/x/only.jpg'], '/x/'),
        ]
    ):
        output = tmp_path / str(number)
        made_runs.write_run(output, 'a', [(uri, [(0, 'robin', 0.5)]) for uri in uris])
        store = store_for(str(output))
        run = complete_runs(str(output), store)[0]
        found = statistics.read_digest(str(output), run, store, 5, 5)
        assert report._common_folder(found) == folder


def test_output_and_pictures_in_a_bucket(bucket, tmp_path):
    uri = bucket.put('pictures/a.jpg', samples.picture(1))
    made_runs.write_run(tmp_path, 'a', [(uri, [(0, 'robin', 0.5)])])
    for path in tmp_path.rglob('*'):
        if path.is_file():
            bucket.put(f'out/{path.relative_to(tmp_path)}', path.read_bytes())
    written = write_html_report(bucket.uri('out'), None, DEFAULT_OPTIONS, DEFAULT_THUMBNAILS)
    assert written == bucket.uri('out/runs/a/report.html')
    (tmp_path / 'page.html').write_bytes(store_for(written).read(written))
    page = Page(tmp_path / 'page.html')
    check_is_closed(page)
    assert len(page.pictures) == 2


def test_a_folder_without_runs_is_no_output(tmp_path):
    with pytest.raises(UsageError, match='no complete run there'):
        page_of(tmp_path)


def state_of(page):
    (state,) = re.findall(r'<span class="(state[^"]*)">([^<]*)<', page.source)
    return state


@pytest.mark.parametrize(
    ('good', 'failed', 'rate', 'css', 'said'),
    [
        (19, 1, 0.05, 'state', 'complete, books balanced'),
        (18, 2, 0.05, 'state bad', 'complete, but 2 of 20 images failed, more than'),
        (18, 2, 1.0, 'state', 'complete, books balanced'),
        (0, 3, 1.0, 'state bad', 'complete, but all 3 images failed'),
        (0, 0, 0.05, 'state', 'complete, books balanced'),
    ],
)
def test_a_run_that_ended_with_3_is_not_green(tmp_path, good, failed, rate, css, said):
    options = {'max_bytes': 9, 'max_pixels': 9, 'fetch_deadline_sec': 5.0}
    made_runs.write_run(
        tmp_path,
        'a',
        [(f'/pictures/{n}', [(0, 'owl', 0.9)]) for n in range(good)],
        [(f'/pictures/f{n}', Reason.EMPTY, '0 bytes') for n in range(failed)],
        options=options | {'max_failure_rate': rate},
    )
    found_css, found = state_of(page_of(tmp_path, count=0))
    assert found_css == css
    assert found.startswith(said)


MANIFEST = [{'kind': 'manifest', 'uri': '/list.txt', 'pattern': ''}]


@pytest.mark.parametrize(
    ('reason', 'detail', 'inputs', 'said'),
    [
        (Reason.NOT_AN_IMAGE, 'no known format', None, 'rename it, or move it elsewhere'),
        (Reason.NOT_AN_IMAGE, 'no known format', MANIFEST, 'Correct the manifest.'),
        (Reason.NOT_FOUND, 'no such file', None, 'It was deleted after it was listed'),
        (Reason.FORBIDDEN, refusal('10.1.2.3', False), MANIFEST, 'Pass --allow_private_hosts'),
        (Reason.FORBIDDEN, refusal('169.254.169.254', True), MANIFEST, 'are never read'),
        (Reason.FORBIDDEN, 'HTTP 403', MANIFEST, 'Give the account read access.'),
        (Reason.FORBIDDEN, s3._ARCHIVED, None, 'Restore it from the archive first.'),
        (Reason.UNSUPPORTED_FORMAT, 'GIMP is not read', None, 'Convert it.'),
    ],
)
def test_advice_fits_what_happened(tmp_path, reason, detail, inputs, said):
    changes = {} if inputs is None else {'inputs': inputs}
    made_runs.write_run(tmp_path, 'a', [], [('/pictures/a', reason, detail)], **changes)
    page = page_of(tmp_path, count=0)
    (advice,) = re.findall(r'<span class="advice">([^<]*)<', page.source)
    assert said in advice
    if inputs is None:
        assert 'manifest' not in advice


def test_advice_for_photographs_of_a_telephone(tmp_path):
    with pytest.raises(ImageError) as caught:
        _refused_name(b'\0\0\0\x18ftypheic\0\0\0\0mif1heic')
    failed = [
        ('/pictures/a.heic', caught.value.reason, caught.value.detail),
        ('/pictures/b.xcf', Reason.UNSUPPORTED_FORMAT, 'GIMP XCF is not read'),
    ]
    made_runs.write_run(tmp_path, 'a', [], failed)
    (advice,) = re.findall(r'<span class="advice">([^<]*)<', page_of(tmp_path, count=0).source)
    assert 'lemmabeam[heif]' in advice
    assert '--retry_dead' in advice
    assert 'Convert it.' in advice


@pytest.mark.parametrize(
    ('count', 'total', 'text'),
    [
        (0, 0, '–'),
        (0, 9, '0 %'),
        (9, 9, '100 %'),
        (1, 2, '50 %'),
        (1, 3, '33.3 %'),
        (1, 10**6, '< 0.1 %'),
        (10**6 - 1, 10**6, '> 99.9 %'),
    ],
)
def test_shares_for_people(count, total, text):
    assert percent(count, total) == text
