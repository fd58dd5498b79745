"""One prefix listed by several requests at a time: the same names in the same order as by one.

Names are cut into ranges, each of which is read page by page.  They are cut only a few pages ahead
of what is given on, where the pages read so far tell that the next ones begin, so that little is
held, however many names there are and however unevenly they lie.
"""

import bisect
import itertools
import operator
import queue
import threading
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from transforms.core import uris
from transforms.core.errors import StoreError
from transforms.core.waiting import alive
from transforms.storage.base import Entry
from transforms.storage.key_ranges import extrapolate

AT_A_TIME = 16
"""Requests in flight: a bucket takes thousands a second."""

_PAGES_A_RANGE = 3
_MOST_PAGES = 64  # that are held
_ALONE_PAGES = 2  # before anything is asked for in advance
_MOST_EMPTY = 3  # one in so many ranges turns out to be, at most
_NEAR = 40  # names of a page that are looked at


class Page(NamedTuple):
    """One page of a listing.

    Attributes:
      entries: in the order of their names.
      last: the URI up to which the listing has come, which need not be that of an entry; '' if the
        page is empty.
      token: what the next page is asked for with; '' if there is none.
    """

    entries: list[Entry]
    last: str
    token: str


class Ask(Protocol):
    """Asks a store for a page."""

    def __call__(self, after: str, until: str, token: str) -> Page:
        """The page of a listing.

        Args:
          after: only what comes behind this URI; '' from the beginning.
          until: nothing is wanted behind this URI, though it may be given; '' to the end.
          token: of the page before, which was asked for with the same arguments.
        """


def list_pages(ask: Ask, place: str, at_a_time: int = AT_A_TIME) -> Iterator[Entry]:
    """Yields what a store lists, in its order, and asks for several pages at a time.

    Of up to three pages each is asked for when it is needed.  A store that does not list in the
    order of the names, or not from a name on, is asked for one page after the other.

    Args:
      ask: called in several threads.
      place: what the URIs of all entries begin with.
      at_a_time: requests in flight.

    Raises:
      StoreError: the store gives names out of order.
    """
    first = ask('', '', '')
    alive()
    yield from first.entries
    if not first.token:
        return
    if at_a_time > 1 and _is_behind('', first):
        second = ask(first.last, '', '')
        alive()
        if second.last and _is_behind(first.last, second):
            yield from _Listing(ask, place, at_a_time, first, second)
            return
    token = first.token
    while token:
        page = ask('', '', token)
        alive()
        yield from page.entries
        token = page.token


def _is_behind(after: str, page: Page) -> bool:
    """Whether the names of a page are in their order, and behind another one."""
    found = [after, *(entry.uri for entry in page.entries)]
    is_sorted = all(map(operator.lt, found, itertools.islice(found, 1, None)))
    return is_sorted and found[-1] <= page.last


class _Range:
    """What lies behind one name, up to and with another one.

    Attributes:
      after, until: these names, URIs; '' is the end of the listing.
      asked_until: with which it was first asked for.
      pages: read, and not yet given on.
      marks: where they end; the first one is where the range began.
      names: some of its last page.
      token: of its next page.
      is_asked: a request is in flight.
      is_whole: all of it is read.
    """

    def __init__(self, after: str, until: str):
        self.after = after
        self.until = until
        self.asked_until = until
        self.pages: deque[list[Entry]] = deque()
        self.marks = [after]
        self.names: list[str] = []
        self.token = ''
        self.is_asked = False
        self.is_whole = False

    def add(self, page: Page) -> bool:
        """Takes a page that was asked for; whether any of its names are of this range.

        Raises:
          StoreError: it is not what was asked for.
        """
        if not _is_behind(self.marks[-1] if page.entries else '', page):
            shown = uris.printable(self.marks[-1])
            raise StoreError(f'the store lists names out of order, behind {shown}')
        entries = page.entries
        is_beyond = bool(self.until) and page.last >= self.until
        if is_beyond:
            cut = bisect.bisect_right(entries, self.until, key=operator.attrgetter('uri'))
            entries = entries[:cut]
        if entries:
            self.pages.append(entries)
        self.token = page.token
        self.is_whole = is_beyond or not page.token
        if not self.is_whole and page.last > self.marks[-1]:
            self.marks = [*self.marks[-_MOST_PAGES:], page.last]
            some = entries[:: max(1, len(entries) // _NEAR)]
            self.names = [entry.uri for entry in some]
        return bool(entries)


class _Listing:
    def __init__(self, ask: Ask, place: str, at_a_time: int, first: Page, second: Page):
        self._ask_store = ask
        self._begins = len(place)
        self._at_a_time = at_a_time
        self._answers: queue.SimpleQueue[tuple[_Range, Page | BaseException]] = queue.SimpleQueue()
        self._in_flight = 0
        self._seen, self._empty = 2, 0
        # Where the pages that were given on ended.
        self._given: deque[str] = deque(maxlen=_MOST_PAGES)
        if first.entries:
            self._given.append(first.entries[0].uri)
        rest = _Range(first.last, '')
        rest.add(second)
        self._ranges = [rest]

    def __iter__(self) -> Iterator[Entry]:
        while self._ranges:
            front = self._ranges[0]
            while not self._answers.empty():
                self._take()
            self._ask_ahead()
            if front.pages:
                entries = front.pages.popleft()
                yield from entries
            elif front.is_whole:
                self._given.extend(front.marks)
                del self._ranges[0]
            else:
                self._take()

    def _take(self) -> None:
        """Waits for an answer."""
        answered, page = self._answers.get()
        self._in_flight -= 1
        alive()
        if isinstance(page, BaseException):
            raise page
        answered.is_asked = False
        self._empty += not answered.add(page)
        self._seen += 1

    def _ask_ahead(self) -> None:
        """Asks for what is nearest, as long as there are not too many pages or requests."""
        most = min(self._at_a_time, max(1, self._seen - _ALONE_PAGES))
        ahead = 0
        number = 0
        while number < len(self._ranges) and self._in_flight < most:
            each = self._ranges[number]
            ahead += len(each.pages) + 1
            if number and ahead > _MOST_PAGES:
                return
            if not each.is_whole:
                if not each.is_asked:
                    self._ask(each)
                self._split(number, most - self._in_flight)
            number += 1

    def _ask(self, each: _Range) -> None:
        each.is_asked = True
        self._in_flight += 1
        # Not waited for at the end of the process, however long the store is silent.
        arguments = each.after, each.asked_until, each.token
        threading.Thread(target=self._answer, args=(each, *arguments), daemon=True).start()

    def _answer(self, each: _Range, after: str, until: str, token: str) -> None:
        try:
            self._answers.put((each, self._ask_store(after, until, token)))
        except BaseException as e:  # noqa: BLE001 (it belongs to who waits)
            self._answers.put((each, e))

    def _split(self, number: int, wanted: int) -> None:
        """Cuts a range where its pages probably begin.

        Of the last one this is told by many pages before it, of another one by its own, once it has
        more of them than it was made for.
        """
        each = self._ranges[number]
        wanted = min(wanted, self._seen - _MOST_EMPTY * self._empty)  # where guesses are bad, fewer
        if wanted <= 0 or len(each.marks) < 2:
            return
        marks = each.marks
        if not each.until:
            before = itertools.chain.from_iterable(other.marks for other in self._ranges)
            marks = sorted({*self._given, *before})[-_MOST_PAGES:]
        elif len(marks) < _PAGES_A_RANGE + 2:
            return
        found: list[str] = []
        while not found and len(marks) > 1:
            found = extrapolate(marks, each.names, _PAGES_A_RANGE, each.until, self._begins, wanted)
            marks = marks[len(marks) // 2 :]
        ends = [*found[1:], each.until]
        self._ranges[number + 1 : number + 1] = map(_Range, found, ends)
        if found:
            each.until = found[0]
