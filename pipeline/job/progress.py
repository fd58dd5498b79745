"""What a person sees while a run works: a line on a terminal, a log line now and then elsewhere."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from pipeline.messages import Messages
from transforms.core.resources import LIVE, LiveCounts

_REDRAW_SEC = 0.5
_MIB = 2**20
_LOG_SEC = 30.0
_PATIENCE_SEC = 10.0
_URI_CHARS = 60


def progress_line(
    counts: LiveCounts, elapsed_sec: float, rate: float, patience_sec: float = _PATIENCE_SEC
) -> str:
    """One line of progress.

    Args:
      counts: totals so far.
      elapsed_sec: seconds since the run started.
      rate: images per second lately.
      patience_sec: what is waited for is named when it has lasted so long.
    """
    what, waiting_sec = counts.waits()
    is_waiting = what and waiting_sec >= patience_sec
    waiting = f', waiting {waiting_sec:.0f} s for {_short(what)}' if is_waiting else ''
    done = counts.labeled + counts.failed
    if not done:
        if not counts.listed:  # nothing yet, or the work is done in other processes
            return f'working, {elapsed_sec:.0f} s{waiting}'
        if not counts.total:
            return f'{counts.listed:,} listed, {elapsed_sec:.0f} s'
        doing = 'reading the first images' if counts.has_model else 'loading the model'
        return f'{counts.total:,} images, {doing}, {elapsed_sec:.0f} s{waiting}'
    line = f'{done:,} of {counts.total:,} done, {counts.failed:,} failed, {rate:,.1f} images/s'
    if done >= counts.total:
        return f'{line}, writing{waiting}'
    if rate > 0:
        line += f', {_duration((counts.total - done) / rate)} left'
    return line + waiting


def _short(uri: str) -> str:
    """Its place and its name, for one line of a terminal."""
    return uri if len(uri) <= _URI_CHARS else f'{uri[: _URI_CHARS // 2]}…{uri[-_URI_CHARS // 2 :]}'


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}'


class DownloadReporter:
    """Tells how far the download of a model is: a line on a terminal, a log line now and then."""

    def __init__(self, messages: Messages):
        self._stream = messages.progress
        self._is_terminal = self._stream is not None and self._stream.isatty()
        self._told_at = time.monotonic()

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None:
        """Called with every piece that has arrived."""
        if self._stream is None:
            return
        now = time.monotonic()
        is_done = done_bytes == total_bytes
        if now - self._told_at < (_REDRAW_SEC if self._is_terminal else _LOG_SEC) and not is_done:
            return
        self._told_at = now
        total = '' if total_bytes is None else f' of {total_bytes / _MIB:,.0f}'
        share = f', {done_bytes / total_bytes:.0%}' if total_bytes else ''
        line = f'fetching the model: {done_bytes / _MIB:,.0f}{total} MiB{share}'
        if self._is_terminal:
            self._stream.write(f'\r\x1b[K{"" if is_done else line}')
        else:
            self._stream.write(f'lemmabeam: {line}\n')
        self._stream.flush()


def tell_waiting(messages: Messages) -> Callable[[str], None]:
    """Says for whom a run waits; see `transforms.runs.lease.acquire`."""
    return lambda who: messages.note(f'{who}; waiting for it')


@contextlib.contextmanager
def reporting(
    stream: TextIO | None,
    redraw_sec: float = _REDRAW_SEC,
    log_sec: float = _LOG_SEC,
    patience_sec: float = _PATIENCE_SEC,
) -> Iterator[None]:
    """Reports the totals of this process on a stream for the length of a with block.

    Args:
      stream: where to, or None for nowhere.
      redraw_sec: how often a terminal is told, and how often what hangs is looked for.
      log_sec: how often anything else is told.
      patience_sec: what is waited for is named when it has lasted so long.
    """
    if stream is None:
        yield
        return
    stop = threading.Event()
    reporter = threading.Thread(
        target=_report,
        args=(stream, stop, redraw_sec, log_sec, patience_sec),
        name='progress',
        daemon=True,
    )
    reporter.start()
    try:
        yield
    finally:
        stop.set()
        reporter.join()


def _report(
    stream: TextIO,
    stop: threading.Event,
    redraw_sec: float,
    log_sec: float,
    patience_sec: float,
) -> None:
    is_terminal = stream.isatty()
    started = time.monotonic()
    # The rate is of the last few seconds: loading the model would spoil an average.
    seen = [(started, 0)]
    due_at, told = started + log_sec, ''
    while not stop.wait(redraw_sec):
        now = time.monotonic()
        if not is_terminal:
            # Of what hangs nobody should have to wait for the next line to hear.
            what, waiting_sec = LIVE.waits()
            hangs = what != '' and what != told and waiting_sec >= patience_sec
            if now < due_at and not hangs:
                continue
            due_at, told = now + log_sec, what if hangs else told
        done = LIVE.labeled + LIVE.failed
        seen = [*seen[-20:], (now, done)] if done else [(now, 0)]
        since, before = seen[0]
        rate = (done - before) / (now - since) if now > since else 0.0
        line = progress_line(LIVE, now - started, rate, patience_sec)
        stream.write(f'\r\x1b[K{line}' if is_terminal else f'lemmabeam: {line}\n')
        stream.flush()
    if is_terminal:
        stream.write('\r\x1b[K')
        stream.flush()
