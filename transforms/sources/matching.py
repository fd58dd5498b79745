"""Which objects of a listing an input means: by a glob, and without what only marks others."""

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from transforms.core import uris
from transforms.core.left_out import NOT_IMAGE
from transforms.core.waiting import alive, within
from transforms.sources.globs import expand_braces, glob_regex, literal_head
from transforms.sources.inputs import Input
from transforms.storage.base import Entry, Store
from transforms.storage.registry import store_for

_COMPANION = f'{NOT_IMAGE}/._*'
_FOLDER_MARKER = f'{NOT_IMAGE}/(folder)'
_THREADS = 16


def matching(source: Input, store: Store) -> Iterator[Entry | str]:
    """What a glob matches; a string stands for what only marks or accompanies another file."""
    regex = glob_regex(source.pattern)
    patterns = expand_braces(source.pattern)
    depth = None
    if '**' not in source.pattern:
        depth = max(each.count('/') for each in patterns) - source.uri.rstrip('/').count('/')
    # A folder seen under another name already may match only under this one.
    wanted = literal_head(source.pattern).rpartition('/')[2]
    found = store.list(source.uri, depth, by_every_name=True, starts_with=wanted)
    return without_companions(found, source, regex)


def without_companions(
    entries: Iterable[Entry | str], source: Input, regex: re.Pattern[str] | None = None
) -> Iterator[Entry | str]:
    """Leaves out files that, as their neighbours show, only accompany others.

    These are AppleDouble files, '._x.jpg' beside 'x.jpg', in which a Mac keeps metadata on foreign
    disks, and empty objects below whose name others lie, which mark a folder.

    Args:
      entries: of a listing; what may be left out comes when the others are known, strings are
        given on.
      source: that was listed.
      regex: which names are wanted, if not all.
    """
    companions: dict[str, Entry] = {}  # by the name of the file they are beside
    markers: dict[str, Entry] = {}
    for entry in entries:
        alive()  # however few are wanted
        if isinstance(entry, str):
            yield entry
            continue
        if companions.pop(entry.uri, None):
            yield _COMPANION
        folder = uris.folder_of(entry.uri)
        while markers and '/' in folder.partition('://')[2]:
            if markers.pop(folder, None):
                yield _FOLDER_MARKER
            folder = uris.folder_of(folder)
        if regex and not regex.fullmatch(entry.uri):
            continue
        parent, _, name = entry.uri.rpartition('/')
        if name.startswith('._') and len(name) > 2:
            companions[f'{parent}/{name[2:]}'] = entry
        elif not entry.size_bytes and uris.scheme_of(entry.uri):
            markers[entry.uri] = entry
        else:
            yield entry
    yield from markers.values()

    def stat(uri: str) -> Entry | None:
        store = store_for(uri, source.stores)
        return within(source.deadline_sec, uris.printable(uri), lambda: store.stat(uri))

    # Locally the file may have come first.
    with ThreadPoolExecutor(_THREADS) as pool:
        for entry, other in zip(companions.values(), pool.map(stat, companions), strict=True):
            yield entry if other is None else _COMPANION
