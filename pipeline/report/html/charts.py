"""Charts as inline SVG: they stretch without scaling their text, and have their figures."""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.report.html.markup import Markup, element, escape, join

_TOP, _BOTTOM, _TICKS = 24, 162, 182  # y in pixels of the largest column, the axis, its labels
_LEAST_PX = 2.0
_LEAST_SHARE = 0.006


class Column(NamedTuple):
    """One column of a chart: what it stands for, and how many."""

    label: str
    total: int


class Tick(NamedTuple):
    """A label below the axis, at a share of its length from 0 to 1."""

    at: float
    text: str


def columns(
    identifier: str,
    title: str,
    heading: str,
    data: Sequence[Column],
    ticks: Sequence[Tick],
    mark: Tick | None = None,
) -> Markup:
    """A column chart, and its figures as a table that opens.

    Args:
      identifier: of the chart, unique in the page.
      title: what it shows.
      heading: what the labels of the columns are.
      data: the columns from left to right.
      ticks: labels of the axis.
      mark: a line across.
    """
    most = max((column.total for column in data), default=0)
    total = sum(column.total for column in data)
    top = max(data, key=lambda column: column.total, default=Column('', 0))
    parts = [
        element('title', title, id=f'{identifier}-title'),
        element(
            'desc',
            f'{total:,} in {len(data)} columns; the largest, {top.label}, has {most:,}. '
            'The figures follow as a table.',
            id=f'{identifier}-desc',
        ),
        _line(f'{_TOP}', 'grid'),
        element('text', f'{most:,}', x='100%', y=_TOP - 7, text_anchor='end'),
    ]
    width = 100 / max(1, len(data))
    parts += [_bar(column, most, i, width) for i, column in enumerate(data) if column.total]
    parts.append(_line(f'{_BOTTOM}', 'grid'))
    parts += [_text(tick, _TICKS, None) for tick in ticks]
    if mark is not None:
        at = f'{100 * mark.at:.3f}%'
        parts.append(element('line', class_='mark', x1=at, x2=at, y1=_TOP - 16, y2=_BOTTOM))
        side = 'end' if mark.at > 0.6 else 'start'
        # A blank keeps the text off the line, whichever side it is on.
        text = f'{mark.text}\u2002' if side == 'end' else f'\u2002{mark.text}'
        label = element('text', text, class_='mark-text', x=at, y=_TOP - 7, text_anchor=side)
        parts.append(label)
    chart = element(
        'svg',
        *parts,
        class_='chart',
        role='img',
        aria_labelledby=f'{identifier}-title {identifier}-desc',
    )
    rows = [(column.label, f'{column.total:,}') for column in data]
    figures = element(
        'details',
        element('summary', 'The figures as a table'),
        element('div', table((heading, 'count'), rows, title), class_='narrow'),
    )
    return element('div', element('h3', title), chart, figures)


def bar(share: float) -> Markup:
    """A horizontal bar; what it stands for is said beside it."""
    width = 100 * max(share, _LEAST_SHARE if share else 0.0)
    return element(
        'svg',
        element('rect', class_='track', width='100%', height=10, rx=5),
        element('rect', class_='bar-fill', width=f'{width:.2f}%', height=10, rx=5),
        aria_hidden='true',
    )


def stack(title: str, parts: Sequence[tuple[str, int, str]]) -> Markup:
    """One bar of several parts with its key; (name, count, CSS class) each."""
    total = sum(count for _, count, _ in parts)
    # However few they are: failures must be seen.
    shares = [max(count / total, _LEAST_SHARE) if count else 0.0 for _, count, _ in parts]
    at = 0.0
    drawn = [element('title', title, id='books-title')]
    for share, (name, count, css) in zip(shares, parts, strict=True):
        width = 100 * share / sum(shares)
        drawn.append(
            element(
                'rect',
                element('title', f'{name}: {count:,}'),
                class_=css,
                x=f'{at:.3f}%',
                width=f'{width:.3f}%',
                height=16,
            )
        )
        at += width
    key = [
        element('li', swatch(css), f'{name} {percent(count, total)}')
        for name, count, css in parts
        if count
    ]
    return join(
        element('svg', *drawn, class_='stack', role='img', aria_labelledby='books-title'),
        element('ul', *key, class_='key'),
    )


def swatch(css: str) -> Markup:
    """A spot of a colour of the key."""
    return element(
        'svg', element('rect', class_=css, width=11, height=11, rx=3), aria_hidden='true'
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Markup:
    """A table whose last column is a number; the caption is for screen readers."""
    last = len(heads) - 1
    head = [
        element('th', text, scope='col', class_='n' if i == last else None)
        for i, text in enumerate(heads)
    ]
    body = [
        element(
            'tr',
            *(
                element('th', text, scope='row')
                if i == 0
                else element('td', text, class_='n' if i == last else None)
                for i, text in enumerate(row)
            ),
        )
        for row in rows
    ]
    return element(
        'table',
        element('caption', element('span', caption, class_='hidden')),
        element('thead', element('tr', *head)),
        element('tbody', *body),
    )


def percent(count: int, total: int) -> str:
    """A share for people: never 0 % of something, never 100 % of not all."""
    if not total:
        return '–'
    share = 100 * count / total
    if count and share < 0.1:
        return '< 0.1 %'
    if count < total and share > 99.9:
        return '> 99.9 %'
    return f'{share:.1f} %'.replace('.0 %', ' %')


def _bar(column: Column, most: int, place: int, width: float) -> Markup:
    """A column at its place, where each takes so many percent."""
    height = max(_LEAST_PX, (_BOTTOM - _TOP) * column.total / most)
    return element(
        'rect',
        element('title', f'{column.label}: {column.total:,}'),
        class_='bar-fill',
        x=f'{width * (place + 0.08):.3f}%',
        y=f'{_BOTTOM - height:.2f}',
        width=f'{width * 0.84:.3f}%',
        height=f'{height:.2f}',
        rx=2,
    )


def _line(y: str, css: str) -> Markup:
    return element('line', class_=css, x1=0, x2='100%', y1=y, y2=y)


def _text(tick: Tick, y: int, css: str | None) -> Markup:
    anchor = 'start' if tick.at <= 0.02 else 'end' if tick.at >= 0.98 else 'middle'
    return element(
        'text',
        escape(tick.text),
        class_=css,
        x=f'{100 * tick.at:.3f}%',
        y=y,
        text_anchor=anchor,
    )
