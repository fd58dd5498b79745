"""The page of the report for people: a pure function of what was read before."""

import base64
import functools
import hashlib
import importlib.resources
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.report.bottleneck import describe
from pipeline.report.html import charts
from pipeline.report.html.charts import Column, Tick
from pipeline.report.html.markup import Markup, element, escape, join, untrusted, visible
from pipeline.report.look_lower import look_lower
from pipeline.report.statistics import BINS, ClassCount, Digest, Example, Failed, commonest
from pipeline.report.summary import describe_nothing
from pipeline.report.thumbnails import SIDE_PX, Picture
from transforms.core import uris
from transforms.core.elements import Stage
from transforms.core.reasons import Reason
from transforms.core.texts import counted
from transforms.runs.complete import CompleteRun
from transforms.runs.report import RunReport, number_in

_TOP_CLASSES = 20
_CHANGED_CLASSES = 30
_SHOWN_INPUTS = 10
_SHOWN_LABELS = 5
_MOST_LABELS = 24


_BEFORE_THE_MODEL = {Stage.LIST.value, Stage.FETCH.value, Stage.DECODE.value}
_ACTIVITIES = {
    'fetch': 'fetching',
    'decode': 'decoding and resizing',
    'infer': 'the model',
    'write': 'writing',
    'fetch_wait': 'the model waiting for fetching',
    'decode_wait': 'the model waiting for decoding',
}

LEFT_OUT = Picture('', '', 'left out, to keep this file small')
"""In place of a picture for which there is no room."""


def failure_of(report: RunReport) -> str:
    """What makes a run whose books balance no good one; '' where nothing does.

    Raises:
      DamagedError: the limit that it had is no number.
    """
    listed, dead = report.counts.listed, report.counts.dead_lettered
    limit = number_in(report.options, 'max_failure_rate')
    if not listed or not dead:
        return ''
    if dead == listed:
        return f'complete, but all {listed:,} images failed'
    if limit is None or dead / listed <= limit:
        return ''
    return (
        f'complete, but {dead:,} of {listed:,} images failed, more than --max_failure_rate '
        f'{limit:g} allows'
    )


class Since(NamedTuple):
    """The run before, and the classes that only one of the two has.

    Attributes:
      run_id, rows, threshold: of the run before.
      appeared: classes that it has not, by rows of this run.
      vanished: classes that only it has, by its rows.
    """

    run_id: str
    rows: int
    threshold: float
    appeared: list[ClassCount]
    vanished: list[ClassCount]


class Page(NamedTuple):
    """All that a page says.

    Attributes:
      run: the run.
      failure: what makes it no good one, as of `failure_of`.
      digest: its rows.
      since: what it is compared with, if anything.
      folder: what names are relative to; with a slash, or ''.
      pictures: thumbnails by URI, as far as they were read.
      thumbnails: how many were asked for in each section; with 0, none was read.
    """

    run: CompleteRun
    failure: str
    digest: Digest
    since: Since | None
    folder: str
    pictures: Mapping[str, Picture]
    thumbnails: int


def to_html(page: Page) -> str:
    """The page, whole and closed."""
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    sections = [section for section in _all_sections(page) if section is not None]
    links = [element('li', element('a', title, href=f'#{name}')) for name, title, _ in sections]
    head = element(
        'head',
        element('meta', charset='utf-8'),
        element('meta', http_equiv='Content-Security-Policy', content=policy),
        element('meta', name='viewport', content='width=device-width, initial-scale=1'),
        element('meta', name='referrer', content='no-referrer'),
        element('meta', name='color-scheme', content='light dark'),
        element('meta', name='robots', content='noindex'),
        element('link', rel='icon', href='data:,'),
        element('title', f'Lemmabeam run {page.run.id}'),
        element('style', style),
    )
    body = element(
        'body',
        element('a', 'To the figures', class_='skip', href='#overview'),
        _header(page, element('nav', element('ul', *links), aria_label='Sections')),
        element('main', *(section for _, _, section in sections)),
        _footer(page),
    )
    return f'<!doctype html>\n{element("html", head, body, lang="en")}\n'


@functools.cache
def _style() -> Markup:
    return Markup(
        (importlib.resources.files('pipeline.report.html') / 'report.css').read_text('utf-8')
    )


_Section = tuple[str, str, Markup]


def _section(name: str, title: str, about: str | None, *content: str) -> _Section:
    heading = element('h2', title, id=f'{name}-title')
    parts = [heading, *([] if about is None else [element('p', about, class_='about')]), *content]
    return name, title, element('section', *parts, id=name, aria_labelledby=f'{name}-title')


def _all_sections(page: Page) -> list[_Section | None]:
    return [
        _overview(page),
        _failures(page),
        *_sheets(page),
        _classes(page),
        _changes(page),
        _scores(page),
        _throughput(page),
        _model(page),
    ]


def _header(page: Page, navigation: Markup) -> Markup:
    report = page.run.report
    bad = page.failure if report.balanced else 'books NOT balanced'
    state = element(
        'span', bad or 'complete, books balanced', class_='state bad' if bad else 'state'
    )
    started, finished = report.started, report.finished
    day = '' if started.date() == finished.date() else f'{finished.day} {finished:%B, }'
    times = f'{started.day} {started:%B %Y, %H:%M} to {day}{finished:%H:%M} UTC'
    lead = join(
        element('code', f'lemmabeam {visible(report.command)}'),
        untrusted(page.run.model_id),
        times,
        by=' · ',
    )
    return element(
        'header',
        element('p', 'Lemmabeam run report', class_='eyebrow'),
        element('h1', untrusted(page.run.id)),
        element('p', lead, class_='lead'),
        element('p', state),
        navigation,
    )


def _overview(page: Page) -> _Section:
    report, counts = page.run.report, page.run.report.counts
    dead = counts.dead_lettered
    gone = [] if counts.gone is None else [('gone since an earlier run', counts.gone, None)]
    figures = [
        ('images listed', counts.listed, None),
        ('labelled', counts.labeled, 'good'),
        ('duplicates', counts.duplicates, None),
        ('unchanged since an earlier run', counts.unchanged, None),
        *gone,
        ('failed', dead, 'bad' if dead else None),
    ]
    if counts.reused:
        figures.insert(2, ('of these reused for the same bytes', counts.reused, None))
    items = [_figure(name, f'{count:,}', css) for name, count, css in figures]
    without, rows = page.digest.rows_by_labels[0], page.digest.rows
    labelled = [('labelled', counts.labeled, 'good-fill')]
    if report.has_classes and rows:
        share = charts.percent(without, rows)
        items.insert(2, _figure(f'of these without a label, {share}', f'{without:,}'))
        labelled = [
            ('with a label', rows - without, 'good-fill'),
            ('without a label', without, 'soft-fill'),
        ]
    parts = [
        *labelled,
        ('unchanged', counts.unchanged, 'same-fill'),
        ('duplicates', counts.duplicates, 'again-fill'),
        ('failed', dead, 'bad-fill'),
    ]
    content: list[str] = [element('dl', *items, class_='figures')]
    if any(count for _, count, _ in parts):
        content.append(charts.stack('What became of the images that were listed', parts))
    else:
        why = describe_nothing(counts, report.options.get('since'))
        content.append(element('p', f'{why[0].upper()}{why[1:]}.', class_='alert'))
    if report.has_classes and (line := look_lower(without, rows, report.metadata)):
        content.append(element('p', _with_code(line), class_='lead'))
    if not report.balanced:
        text = 'The counts do not add up to what was listed: do not rely on this run.'
        content.append(element('p', text, class_='alert'))
    if skipped := counts.skipped_not_image:
        text = f'{skipped:,} more files have no image suffix and were not read.'
        content.append(element('p', text, class_='lead'))
    return _section('overview', 'Overview', None, *content)


def _with_code(text: str) -> Markup:
    """Text in which commands stand between backticks."""
    parts = text.split('`')
    return join(*(element('code', part) if i % 2 else part for i, part in enumerate(parts)))


def _figure(name: str, value: str, css: str | None = None) -> Markup:
    return element('div', element('dt', name), element('dd', value), class_=css)


def _failures(page: Page) -> _Section | None:
    reasons = page.run.report.counts.dead_lettered_by_reason
    if not reasons:
        return None
    has_manifest = any(each['kind'] == 'manifest' for each in page.run.report.inputs)
    known = {reason.value: reason for reason in Reason}
    rows = []
    for name, count in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])):
        reason = known.get(name)
        what = [element('code', name)]
        if reason is not None:
            advice = _advice(reason, page.digest.failed.get(name, ()), has_manifest)
            what.append(element('span', advice, class_='advice'))
        again = 'unknown' if reason is None else 'yes' if reason.retryable else 'no'
        rows.append((join(*what), again, f'{count:,}'))
    table = charts.table(
        ('reason, and what to do', 'retryable', 'images'), rows, 'Failed images by reason'
    )
    about = 'Images that could not be labelled, each with its reason in the dead letters.'
    return _section('failed', 'What failed', about, table)


def _advice(reason: Reason, examples: Sequence[Failed], has_manifest: bool) -> str:
    """What to do about a reason, by the details of some that failed for it."""
    about = reason.about
    usual = about.advice if has_manifest else about.in_folders or about.advice
    found = [reason.advice_for(example.detail) or usual for example in examples] or [usual]
    return ' '.join(f'{text[0].upper()}{text[1:]}.' for text in dict.fromkeys(found))


def _throughput(page: Page) -> _Section:
    report = page.run.report
    rate = report.images_per_sec
    figures = [('labelled images per second', f'{rate:,.1f}')] if rate else []
    figures.append(('wall time', _duration(report.wall_sec)))
    if report.batches:
        figures.append(('batches', f'{report.batches:,}'))
    if report.batch_fill is not None:
        figures.append(('of the slots filled', f'{100 * report.batch_fill:.0f} %'))
    content: list[str] = [
        element('dl', *(_figure(name, value) for name, value in figures), class_='figures')
    ]
    if verdict := describe(report.verdict):
        content.append(element('p', f'{verdict}.', class_='verdict'))
    most = max(report.stage_thread_sec.values(), default=0.0)
    rows = [
        (
            _ACTIVITIES.get(name, name),
            charts.bar(sec / most),
            f'{sec:,.1f} s' if sec >= 10 else f'{sec:.2f} s',
        )
        for name, sec in sorted(report.stage_thread_sec.items(), key=lambda pair: -pair[1])
        if most
    ]
    if rows:
        heads = ('activity', '', 'thread time')
        content.append(_bars(heads, rows, 'Thread time by activity'))
    return _section('throughput', 'Throughput', None, *content)


def _bars(heads: tuple[str, str, str], rows: Sequence[Sequence[str]], caption: str) -> Markup:
    """A table of (name, bar, number)."""
    first, _, last = heads
    head = element(
        'tr',
        element('th', first, scope='col', class_='what'),
        element('td'),
        element('th', last, scope='col', class_='n'),
    )
    body = [
        element(
            'tr', element('th', name, scope='row'), element('td', bar), element('td', n, class_='n')
        )
        for name, bar, n in rows
    ]
    return element(
        'table',
        element('caption', element('span', caption, class_='hidden')),
        element('thead', head),
        element('tbody', *body),
        class_='bars',
    )


def _scores(page: Page) -> _Section | None:
    digest, report = page.digest, page.run.report
    if not report.has_classes or not digest.rows:
        return None
    low, high = digest.score_range
    step = (high - low) / BINS

    def histogram(counts: Iterable[int]) -> list[Column]:
        return [
            Column(f'{low + i * step:.2f} to {low + (i + 1) * step:.2f}', int(n))
            for i, n in enumerate(counts)
        ]

    ticks = [Tick(share, f'{low + share * (high - low):.2f}') for share in (0, 0.25, 0.5, 0.75, 1)]
    at = (report.threshold - low) / (high - low)
    mark = Tick(at, f'threshold {report.threshold:g}') if 0 < at < 1 else None
    labels = sum(i * n for i, n in enumerate(digest.rows_by_labels))
    lower = int(digest.scores.sum()) - labels
    title = 'All stored scores' if lower else 'All labels by score'
    content = [
        charts.columns('all-scores', title, 'score', histogram(digest.scores), ticks, mark),
        charts.columns(
            'best-scores',
            'Images by their best score',
            'score',
            histogram(digest.best_scores),
            ticks,
            mark,
        ),
        _labels_an_image(digest),
    ]
    empty = digest.rows_by_labels[0]
    about = (
        f'{counted(labels, "label")} on {counted(digest.rows, "row")}, '
        f'{labels / digest.rows:.1f} per row; {counted(empty, "row")} '
        f'{"has" if empty == 1 else "have"} none.'
        + (f' {counted(lower, "score")} below the threshold are also stored.' if lower else '')
    )
    return _section('scores', 'Scores', about, element('div', *content, class_='charts'))


def _labels_an_image(digest: Digest) -> Markup:
    counts = list(digest.rows_by_labels)
    if len(counts) > _MOST_LABELS + 1:
        counts = [*counts[:_MOST_LABELS], sum(counts[_MOST_LABELS:])]
        names = [*map(str, range(_MOST_LABELS)), f'{_MOST_LABELS} or more']
    else:
        names = list(map(str, range(len(counts))))
    every = math.ceil(len(names) / 13)
    ticks = [
        Tick((i + 0.5) / len(names), name.replace(' or more', '+'))
        for i, name in enumerate(names)
        if i % every == 0
    ]
    data = [Column(name, n) for name, n in zip(names, counts, strict=True)]
    return charts.columns('label-counts', 'Images by number of labels', 'labels', data, ticks)


def _classes(page: Page) -> _Section | None:
    classes = commonest(page.digest.classes.values())
    if not classes:
        return None
    most = classes[0].rows
    rows = [
        (_class_name(each), charts.bar(each.rows / most), f'{each.rows:,}')
        for each in classes[:_TOP_CLASSES]
    ]
    about = f'{counted(len(classes), "class", "es")} seen'
    about += f'; these are the {_TOP_CLASSES} commonest.' if len(classes) > _TOP_CLASSES else '.'
    table = _bars(('label', '', 'images'), rows, 'The commonest labels')
    return _section('labels', 'Commonest labels', about, table)


def _class_name(each: ClassCount) -> Markup:
    name = untrusted(each.name, 80)
    if each.wnid is None:
        return name
    return join(name, element('span', each.wnid, class_='note'), by=' ')


def _changes(page: Page) -> _Section | None:
    since = page.since
    if since is None:
        return None
    about = join(
        'Compared with run ',
        untrusted(since.run_id),
        f', the previous one with this model. Rows: {since.rows:,} then, {page.digest.rows:,} '
        'now; different pictures alone make a difference.',
    )
    threshold = page.run.report.threshold
    if since.threshold != threshold:
        about = join(
            about,
            f' The threshold was {since.threshold:g} then and is {threshold:g} now.',
        )
    lists = [
        _changed('Appeared', 'images now', since.appeared),
        _changed('Vanished', 'images then', since.vanished),
    ]
    return _section(
        'changes', 'Since the last run', about, element('div', *lists, class_='columns')
    )


def _changed(title: str, head: str, classes: Sequence[ClassCount]) -> Markup:
    heading = element('h3', f'{title}: {counted(len(classes), "class", "es")}')
    if not classes:
        return element('div', heading, element('p', 'None.', class_='note'))
    rows = [(_class_name(each), f'{each.rows:,}') for each in classes[:_CHANGED_CLASSES]]
    more = len(classes) - len(rows)
    parts = [heading, charts.table(('label', head), rows, f'Classes that {title.lower()}')]
    if more > 0:
        parts.append(element('p', f'and {more:,} more', class_='note'))
    return element('div', *parts)


def _sheets(page: Page) -> list[_Section | None]:
    digest = page.digest
    where = ''
    if page.folder:
        where = join(' Names are relative to ', untrusted(page.folder), '.')
    labelled = [
        (
            'random',
            'Pictures chosen at random',
            'The same ones each time for this run.',
            digest.random,
        ),
        (
            'uncertain',
            'The least certain pictures',
            'Those whose best label has the lowest score, lowest first.',
            digest.least_certain,
        ),
        (
            'unlabelled',
            'Pictures without any label',
            'No class reached the threshold; scores below it are shown if they are stored.',
            digest.unlabeled if page.run.report.has_classes else [],
        ),
    ]
    sections: list[_Section | None] = [
        _section(name, title, join(about, where), _sheet(examples, page, _example_tile))
        for name, title, about, examples in labelled
        if examples
    ]
    failed = [each for reason in digest.failed.values() for each in reason]
    if failed:
        about = (
            'A few for each reason, read with the limits of the run: what it could not decode '
            'has no picture here either.'
        )
        sheet = _sheet(failed, page, _failed_tile)
        title = 'Pictures that failed'
        sections.append(_section('failed-pictures', title, join(about, where), sheet))
    return sections


def _sheet(each: Sequence[Any], page: Page, tile: Callable[[Any, Page], Markup]) -> Markup:
    return element('ul', *(element('li', tile(one, page)) for one in each), class_='sheet')


def _example_tile(example: Example, page: Page) -> Markup:
    picture = page.pictures.get(example.uri)
    shown = example.labels[:_SHOWN_LABELS]
    labels = [
        element('li', untrusted(name, 60), element('span', f'{score:.2f}')) for name, score in shown
    ]
    if len(example.labels) > len(shown):
        labels.append(element('li', f'and {len(example.labels) - len(shown)} more'))
    if not shown and page.run.report.has_classes:
        labels.append(element('li', 'no label'))
    changed = (
        picture is not None
        and picture.sha256
        and example.content_sha256
        and picture.sha256 != example.content_sha256
    )
    return join(
        _image(example.uri, picture, 'not read', page),
        element('ul', *labels, class_='tags') if labels else '',
        _carried(example.carried),
        element('div', 'The file has changed since the run.', class_='note') if changed else '',
    )


def _failed_tile(failed: Failed, page: Page) -> Markup:
    picture = page.pictures.get(failed.uri)
    is_shown = picture is not None and picture.data_uri
    if not is_shown:
        # Why it failed then matters more than why it has no picture now.
        picture = None
    now = 'It can be read now.' if is_shown and failed.stage in _BEFORE_THE_MODEL else ''
    return join(
        _image(failed.uri, picture, failed.reason, page),
        element('div', element('code', failed.reason)) if is_shown else '',
        element('div', untrusted(failed.detail, 240), class_='note'),
        _carried(failed.carried),
        element('div', now, class_='note') if now else '',
    )


def _image(uri: str, picture: Picture | None, otherwise: str, page: Page) -> Markup:
    name = untrusted(uris.named(uri.removeprefix(page.folder) or uri), 90)
    if picture is not None and picture.data_uri:
        above = element(
            'img',
            src=Markup(picture.data_uri),
            alt=f'Thumbnail of {uri.rpartition("/")[2][:200]}',
            width=SIDE_PX,
            height=SIDE_PX,
        )
    else:
        text = otherwise if picture is None else picture.problem
        above = element('div', untrusted(text, 90), class_='none')
    return join(above, element('span', name, class_='name'))


def _carried(carried: Sequence[tuple[str, str | None]]) -> Markup:
    items = [
        element('div', untrusted(f'{name} = {"null" if value is None else value}', 90))
        for name, value in carried
    ]
    return element('div', *items, class_='note') if items else Markup('')


def _model(page: Page) -> _Section:
    report, model = page.run.report, page.run.report.model
    card, metadata = model.card, report.metadata
    inputs = [
        element('div', untrusted(each['pattern'] or each['uri']))
        for each in report.inputs[:_SHOWN_INPUTS]
    ]
    if len(report.inputs) > _SHOWN_INPUTS:
        inputs.append(element('div', f'and {len(report.inputs) - _SHOWN_INPUTS:,} more'))
    said = {
        'model': page.run.model_id,
        'from': model.location,
        'source': card.get('source'),
        'licence': card.get('licence'),
        'classes': metadata.get('vocabulary'),
        'preprocessing': metadata.get('preprocessing'),
        'scores': metadata['activation'],
        'threshold': f'{report.threshold:g}',
        'stored down to': metadata.get('stored_floor'),
        'labels an image': ' to '.join(
            metadata.get(f'{end}_labels', '?') for end in ('min', 'max')
        ),
        'computed': join(*(element('div', untrusted(str(way))) for way in model.computed)),
        'precision receipt': report.receipt and str(report.receipt),
        'canary': metadata.get('canary'),
        'weights': model.weights_sha256,
        'inputs': join(*inputs),
    }
    listed = [
        join(
            element('dt', name),
            element('dd', value if isinstance(value, Markup) else untrusted(str(value))),
        )
        for name, value in said.items()
        if value
    ]
    return _section(
        'model',
        'Model and options',
        None,
        element('dl', *listed, class_='facts'),
        _folded('All options', ('option', 'value'), report.options),
        _folded('Versions', ('software', 'version'), report.versions),
    )


def _folded(title: str, heads: tuple[str, str], values: Mapping[str, Any]) -> Markup:
    rows = [
        (
            element('code', name),
            untrusted(
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 400
            ),
        )
        for name, value in sorted(values.items())
    ]
    body = [
        element('tr', element('th', name, scope='row'), element('td', value))
        for name, value in rows
    ]
    head = element('tr', *(element('th', text, scope='col') for text in heads))
    table = element(
        'table',
        element('caption', element('span', title, class_='hidden')),
        element('thead', head),
        element('tbody', *body),
    )
    return element('details', element('summary', title), table)


def _footer(page: Page) -> Markup:
    version = page.run.report.versions.get('lemmabeam', '')
    shown = [picture for picture in page.pictures.values() if picture.data_uri]
    left_out = sum(picture == LEFT_OUT for picture in page.pictures.values())
    texts = [join('Labelled by Lemmabeam ', untrusted(version), '.')]
    if not page.thumbnails:
        texts.append(escape('No picture was read for this page (--report_thumbnails 0).'))
    elif shown:
        texts.append(escape(f'{len(shown):,} pictures, each cropped to its middle square.'))
    if left_out:
        texts.append(escape(f'{left_out:,} more were left out, to keep this file small.'))
    texts.append(escape('This page loads nothing and runs nothing.'))
    return element('footer', element('p', join(*texts, by=' ')))


def _duration(sec: float) -> str:
    if sec < 60:
        return f'{sec:.1f} s'
    minutes, seconds = divmod(round(sec), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours:,} h {minutes} min' if hours else f'{minutes} min {seconds} s'
