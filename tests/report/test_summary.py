"""What a person sees at the end of a run."""

import dataclasses
import io

import pytest
from rich.console import Console

from pipeline.job.finish import images_per_sec
from pipeline.report.summary import describe_nothing, print_summary
from tests.support import made_runs
from transforms.core.reasons import Reason
from transforms.output.layout import Layout
from transforms.runs.report import Counts, RunReport


def said(folder, predictions, failed=(), width=120, computed=(), **changes):
    """The summary of such a run, a line each."""
    report = made_runs.write_run(folder, 'a', predictions, failed, **changes)
    report['model'] |= {'computed': list(computed)}
    console = Console(file=io.StringIO(), width=width)
    layout = Layout(str(folder), 'a', 'birds-12345678', (), (), 1)
    print_summary(RunReport.from_json(report), layout, console)
    return console.file.getvalue()


@pytest.mark.parametrize(('images', 'sec', 'rate'), [(0, 9.0, None), (3, 0.0, None), (3, 2.0, 1.5)])
def test_there_is_no_rate_where_nothing_was_done(images, sec, rate):
    assert images_per_sec(images, sec) == rate


@pytest.mark.parametrize('rate', [None, 0.0, 2.5])
def test_a_rate_is_told_where_there_is_one(tmp_path, rate):
    lines = said(tmp_path, [('/a.jpg', [(0, 'owl', 0.9)])], images_per_sec=rate)
    assert ('labelled images/s, overall' in lines) == bool(rate)


def test_one_spelling_and_names_with_blanks(tmp_path):
    failed = [('/ b.jpg ', Reason.EMPTY, '0 bytes')]
    lines = said(tmp_path, [('/a.jpg', [(0, 'owl', 0.9)])], failed, labeled_by_earlier_attempts=7)
    assert 'labeled' not in lines
    for shown in ("│ ' b.jpg ' ", '│ a.jpg ', '│ labelled ', 'labelled by earlier attempts'):
        assert shown in lines


def test_a_long_name_leaves_room_for_its_labels_and_a_url_may_end_in_a_slash(tmp_path):
    failed = [('https://example.com/gallery/', Reason.EMPTY, '0 bytes')]
    long = f'/{"f" * 64}.jpg'
    lines = said(tmp_path, [(long, [(0, 'owl', 0.9)])], failed, width=70)
    assert 'owl 0.90' in lines
    assert 'DEAD LETTER empty: 0 bytes' in lines
    assert "''" not in lines
    assert 'gallery/' in lines


@pytest.mark.parametrize(
    ('stage', 'facts', 'is_told'),
    [
        ('inference', {'bfloat16_by': 'avx512_bf16'}, True),
        ('fetch', {'bfloat16_by': 'avx512_bf16'}, False),
        ('inference', {}, False),
    ],
)
def test_what_would_be_faster_is_told_where_the_model_is_waited_for(
    tmp_path, stage, facts, is_told
):
    way = {'network': 'built from its weights', 'precision': 'float32', 'device': 'CPU', **facts}
    verdict = {'bounded_by': stage, 'share': {stage: 1.0}, 'share_of_wall': 1.0, 'advice': ''}
    lines = said(tmp_path, [('/a.jpg', [(0, 'owl', 0.9)])], computed=[way], verdict=verdict)
    assert ('compute bfloat16 by themselves (avx512_bf16)' in lines) == is_told


def test_an_image_inside_a_file_is_named_with_it(tmp_path):
    lines = said(tmp_path, [('/in/x.tar!/a/b.jpg', [(0, 'owl', 0.9)]), ('/in/y.parquet!/0', [])])
    assert '│ x.tar!/a/b.jpg ' in lines
    assert '│ y.parquet!/0 ' in lines


def test_files_with_images_inside_that_were_passed_over_are_told_as_such(tmp_path):
    counts = Counts(listed=0, labeled=0, skipped_not_image=4)
    skipped = {'.tar': 2, '.zip': 1, '.md': 1}
    lines = said(tmp_path, [], counts=dataclasses.asdict(counts), skipped_suffixes=skipped)
    assert (
        "2 .tar, 1 .zip, 1 .md; as --input, 'FOLDER/**/*.tar' and 'FOLDER/**/*.zip' label the "
        "images inside them and 'FOLDER/**' takes all"
    ) in lines


def test_pictures_that_are_all_too_old_are_told_as_such():
    old = Counts(listed=0, labeled=0, skipped_before_since=2)
    assert describe_nothing(old, '7d') == ('all 2 files are older than --since 7d')
    assert describe_nothing(Counts(listed=0, labeled=0), None) == 'no images found in the inputs'


def test_rows_by_the_bytes_of_another_are_told_where_there_are_any(tmp_path):
    rows = [(f'/{i}.jpg', [(0, 'owl', 0.9)]) for i in range(3)]
    counts = dataclasses.asdict(Counts(listed=3, labeled=3, reused=2))
    assert 'reused for the same bytes ' in said(tmp_path / 'a', rows, counts=counts)
    assert 'same bytes' not in said(tmp_path / 'b', rows)
