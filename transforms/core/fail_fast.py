"""Tells faults of single images from faults of everything.

An image that fails is a dead letter.  When nearly all of them fail alike, the cause is the
credentials, the store or the model, and a million dead letters would hide it.
"""

import collections
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from transforms.core import uris
from transforms.core.elements import Failure
from transforms.core.errors import LemmabeamError, ModelError, StoreError
from transforms.core.reasons import Reason
from transforms.core.resources import shared

_WINDOW = 500
_SILENT_SEC = 60.0
_MOST_ALIKE = 0.9 * _WINDOW


class FailFast(NamedTuple):
    """When a run stops.

    Attributes:
      after: when the first so many images of a process all fail alike; or when 90 % of its last 500
        do; or when so many in a row fail and their store has given nothing for a minute.  0 never
        stops.
      run_id: the run, as a process may see several.
    """

    after: int
    run_id: str


class _Heard(NamedTuple):
    """When a store last delivered, and how many of its images have failed since."""

    at: float
    failed: int


def _place(uri: str) -> str | None:
    """The bucket of an image, or all local files; None on the web, where there are many hosts."""
    scheme = uris.scheme_of(uri)
    if scheme in ('http', 'https'):
        return None
    return f'{scheme}://{uris.split_object(uri)[0]}' if scheme else 'the local files'


class FaultPolicy:
    """Stops a run in which nearly all images fail for a reason that may be no image's own.

    Thread-safe; one a process, run and stage (see `fetch_policy`), because workers share no state.
    """

    def __init__(
        self,
        fail_fast: FailFast,
        error: type[LemmabeamError],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._fail_fast_after = fail_fast.after
        self._error = error
        self._clock = clock
        self._lock = threading.Lock()
        self._reset()

    def record(self, uri: str, failure: Failure | None, before: str = '') -> None:
        """Records how one image ended.

        Args:
          uri: of the image.
          failure: None if it did not fail.
          before: the reason it failed for last time, or ''.

        Raises:
          LemmabeamError: of the kind that fits the stage; counting then starts again.
        """
        if not self._fail_fast_after or (failure and failure.reason.value == before):
            return  # the same as ever says nothing of today
        is_of_all = failure and failure.reason.systemic and not failure.is_its_own
        reason = failure.reason if failure and is_of_all else None
        with self._lock:
            self._seen += 1
            if len(self._last) == _WINDOW:
                self._counts[self._last[0]] -= 1
            self._last.append(reason)
            self._counts[reason] += 1
            silence = self._silence(uri, reason)
            if failure is None or reason is None:
                return
            alike = self._counts[reason]
            if alike == self._seen == self._fail_fast_after:
                which = f'the first {alike} images of this process all'
            elif len(self._last) == _WINDOW and alike >= _MOST_ALIKE:
                which = f'{alike} of the last {_WINDOW} images of this process'
            elif silence:
                which = silence
            else:
                return
            self._reset()
        advice = reason.advice_for(failure.detail) or reason.about.when_all_fail
        raise self._error(
            f'{which} failed with {reason.value} ({failure.detail}), most recently {uri}: '
            f'{advice} (--fail_fast_after 0 continues anyway)'
        )

    def _silence(self, uri: str, reason: Reason | None) -> str:
        """Says that a store has delivered nothing for long; '' if it has."""
        place = _place(uri)
        if place is None:
            return ''
        now = self._clock()
        if reason is None or not reason.about.of_store:
            self._heard[place] = _Heard(now, 0)
            return ''
        since, count = self._heard.get(place, _Heard(now, 0))
        self._heard[place] = _Heard(since, count + 1)
        if count + 1 < self._fail_fast_after or now - since < _SILENT_SEC:
            return ''
        return (
            f'nothing could be read from {place} for {now - since:.0f} s: the last {count + 1} '
            'images'
        )

    def _reset(self) -> None:
        self._seen = 0
        self._heard: dict[str, _Heard] = {}
        self._last: collections.deque[Reason | None] = collections.deque(maxlen=_WINDOW)
        self._counts: collections.Counter[Reason | None] = collections.Counter()


def fetch_policy(fail_fast: FailFast) -> FaultPolicy:
    """The policy for fetching and decoding; raises StoreError."""
    return shared(_make_policy, (fail_fast, StoreError))


def inference_policy(fail_fast: FailFast) -> FaultPolicy:
    """The policy for the model; raises ModelError."""
    return shared(_make_policy, (fail_fast, ModelError))


def _make_policy(key: tuple[FailFast, type[LemmabeamError]]) -> FaultPolicy:
    return FaultPolicy(*key)
