"""A headless browser for one page at a time, driven by its own DevTools protocol over two pipes.

No driver is needed: Chromium reads commands from file descriptor 3 and answers on 4, each a JSON
text that ends in a zero byte.
"""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAMES = 'chromium chromium-browser google-chrome google-chrome-stable headless_shell'.split()
_FOLDER = Path(__file__).parents[2] / '.venvs' / 'browser' / 'bin'
_ANSWER_SEC = 30.0
_EXEC = (
    'import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); '
    'os.execv(sys.argv[3], sys.argv[3:])'
)

HOW_TO_INSTALL = (
    'no browser: put chromium or google-chrome on PATH (`apt-get install chromium`), or let '
    '`make test-slow` bring one into .venvs/browser'
)


def find() -> str | None:
    """The program of a browser: that of the Makefile, or one on PATH."""
    for name in _NAMES:
        for path in (str(_FOLDER), None):
            found = shutil.which(name, path=path)
            if found:
                return found
    return None


class Browser:
    """One page; `events` is what it has told so far."""

    def __init__(self, program: str):
        self._profile = tempfile.TemporaryDirectory(prefix='browser-', ignore_cleanup_errors=True)
        read_fd, self._to = os.pipe()
        self._from, write_fd = os.pipe()
        # Above those that they become in the browser.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (read_fd, write_fd)]
        command = [
            program,
            '--headless',
            '--no-sandbox',  # as root, in a container
            '--disable-gpu',
            '--disable-dev-shm-usage',
            '--no-first-run',
            '--disable-background-networking',
            '--disable-component-update',
            '--host-resolver-rules=MAP * ~NOTFOUND',
            f'--user-data-dir={self._profile.name}',
            '--remote-debugging-pipe',
            'about:blank',
        ]
        self._process = subprocess.Popen(
            [sys.executable, '-ISc', _EXEC, *map(str, ends), *command],
            pass_fds=ends,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {'HOME': self._profile.name},
        )
        for fd in (read_fd, write_fd, *ends):
            os.close(fd)
        self._ids = itertools.count(1)
        self._buffer = b''
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network', 'Audits'):
            self.call(f'{domain}.enable')

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer."""
        number = next(self._ids)
        message: dict[str, Any] = {'id': number, 'method': method, 'params': parameters}
        if self._session is not None:
            message['sessionId'] = self._session
        os.write(self._to, json.dumps(message).encode() + b'\0')
        for answer in self._messages():
            if answer.get('id') == number:
                assert 'error' not in answer, (method, answer['error'])
                result: dict[str, Any] = answer['result']
                return result
            self.events.append(answer)
        raise AssertionError(f'{method}: no answer')

    def open(self, path: Path, width_px: int, height_px: int = 900, dark: bool = False) -> None:
        """Opens a file in a window of this size, offline, and forgets earlier events."""
        self.events.clear()
        offline = {'offline': True, 'latency': 0, 'downloadThroughput': 0, 'uploadThroughput': 0}
        self.call('Network.emulateNetworkConditions', **offline)
        self.call(
            'Emulation.setDeviceMetricsOverride',
            width=width_px,
            height=height_px,
            deviceScaleFactor=1,
            mobile=width_px < 600,
        )
        scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
        self.call('Emulation.setEmulatedMedia', features=[scheme])
        self.call('Page.navigate', url=path.absolute().as_uri())
        ends_at = time.monotonic() + _ANSWER_SEC
        while self.value('document.readyState') != 'complete' or not self.has('loadEventFired'):
            assert time.monotonic() < ends_at, 'the page does not load'
            time.sleep(0.05)

    def has(self, event: str) -> bool:
        """Whether there was such an event of the page."""
        return any(each.get('method') == f'Page.{event}' for each in self.events)

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript gives; the page's own policy does not bind us."""
        answer = self.call('Runtime.evaluate', expression=expression, returnByValue=True)
        assert 'exceptionDetails' not in answer, answer
        return answer['result'].get('value')

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Writes what the page looks like as PNG."""
        answer = self.call('Page.captureScreenshot', captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer['data']))

    def close(self) -> None:
        """Ends the browser."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def _messages(self) -> Iterator[dict[str, Any]]:
        ends_at = time.monotonic() + _ANSWER_SEC
        while True:
            text, zero, rest = self._buffer.partition(b'\0')
            if zero:
                self._buffer = rest
                yield json.loads(text)
                continue
            ready, _, _ = select.select([self._from], [], [], max(0, ends_at - time.monotonic()))
            data = os.read(self._from, 1 << 20) if ready else b''
            assert data, 'the browser does not answer'
            self._buffer += data
