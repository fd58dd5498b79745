"""HTML that cannot be broken out of: whatever is not markup is escaped where it enters markup."""

import html
import re

from transforms.core import uris

# What turns text around, hides in it or ends a line; joiners stay, which scripts and emoji need.
_INVISIBLE = re.compile(
    '[\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb'
    '\ufffe\uffff\U000e0000-\U000e007f]'
)
_VOID = frozenset('img link meta'.split())


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def visible(text: str) -> str:
    """A text in which nothing is hidden: control and direction characters are spelled out."""
    shown = uris.printable(text)
    if shown.isascii():
        return shown
    return _INVISIBLE.sub(lambda match: f'\\u{ord(match[0]):04x}', shown)


def escape(text: str) -> Markup:
    """A text as HTML, fit for content and for attributes in quotes; Markup stays as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(visible(text)))


def join(*parts: str, by: str = '') -> Markup:
    """Parts one after the other, each escaped unless it is Markup."""
    return Markup(str(escape(by)).join(escape(part) for part in parts))


def element(tag: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """An element.

    Args:
      tag: its name.
      children: what it holds, each escaped unless it is Markup.
      attributes: `class_` for class, `aria_label` for aria-label; None leaves one out.
    """
    pairs = (
        (key.rstrip('_').replace('_', '-'), value)
        for key, value in attributes.items()
        if value is not None
    )
    text = ''.join(
        f' {key}="{escape(value if isinstance(value, str) else str(value))}"'
        for key, value in pairs
    )
    if tag in _VOID:
        return Markup(f'<{tag}{text}>')
    return Markup(f'<{tag}{text}>{join(*children)}</{tag}>')


def untrusted(text: str, limit: int = 160) -> Markup:
    """A name from outside: its direction is its own, and the middle of a long one is left out."""
    shown = visible(text)
    if len(shown) > limit:
        shown = f'{shown[: limit // 2]}…{shown[-(limit // 2) :]}'
    return element('bdi', shown)
