"""Weights from the Hugging Face hub, by its own library: hf://owner/name."""

import contextlib
import functools
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from transforms.core.errors import ModelError, UsageError
from transforms.model.download.cache import Entry, key_of
from transforms.model.download.http import Progress
from transforms.model.registry import recognize

FILE = 'model.safetensors'

_LOCATION = re.compile(
    r'(?:hf://|https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)'
    r'(?P<repository>[\w.-]+/[\w.-]+)'
    r'(?:(?:@|/(?:tree|blob)/)(?P<revision>[\w.-]+)(?:/model\.safetensors)?)?/?(?:[?#].*)?',
    re.ASCII | re.IGNORECASE,
)


class Repository(NamedTuple):
    """A repository with a `model.safetensors`; its main branch if no revision is named."""

    name: str
    revision: str | None

    def __str__(self) -> str:
        return f'hf://{self.name}' + (f'@{self.revision}' if self.revision else '')


def parse(location: str) -> Repository | None:
    """The repository of 'hf://owner/name', with '@revision' or not, or of the URL of its page."""
    found = _LOCATION.fullmatch(location)
    return Repository(found['repository'], found['revision']) if found else None


def find(repository: Repository) -> Path | Entry:
    """The file, if the hub's own library has fetched it, or what must be fetched.

    Raises:
      UsageError: it is not a valid repository name.
      ModelError: the library is not installed.
    """
    hub = _library(repository)
    try:
        found = hub.try_to_load_from_cache(repository.name, FILE, revision=repository.revision)
    except ValueError as e:  # by the rules of the hub
        raise UsageError(f'{repository}: not a valid repository name') from e
    if isinstance(found, str):
        return Path(found)
    key = key_of('hf', repository.name, repository.revision or '')
    return Entry(key, str(repository), functools.partial(_fill, repository), FILE)


def _fill(repository: Repository, folder: Path, on_progress: Progress | None) -> Path:
    hub = _library(repository)

    class Bar(hub.utils.tqdm):  # type: ignore[name-defined]
        """Tells how far it has come, and shows nothing."""

        def __init__(self, *_: Any, total: int | None = None, initial: int = 0, **__: Any):
            super().__init__(disable=True)
            self.total = total
            self._done_bytes = initial

        def update(self, n: float | None = 1) -> None:
            self._done_bytes += int(n or 0)
            if on_progress:
                on_progress(self._done_bytes, self.total)

    try:
        with _silent():
            path = hub.hf_hub_download(
                repository.name,
                FILE,
                revision=repository.revision,
                local_dir=folder / 'download',
                # Read anew, not when the library was imported.
                endpoint=os.environ.get('HF_ENDPOINT') or None,
                tqdm_class=Bar,
            )
    except Exception as e:  # its HTTP library has changed twice, and with it what it raises
        raise ModelError(f'{repository}: {_reason(e)}') from e
    target = folder / 'model'
    target.mkdir()
    Path(path).rename(target / FILE)
    recognize(target / FILE, str(repository))
    return target


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silences the library's log: it shows signed URLs when a download is interrupted."""
    logger = logging.getLogger('huggingface_hub')
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _library(repository: Repository) -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.utils
        import safetensors  # noqa: F401 (without it there is nothing to be done with the file)
    except ImportError as e:
        raise ModelError(
            f'{repository}: needs the packages huggingface-hub and safetensors: '
            "pip install 'lemmabeam[hf]'"
        ) from e
    return huggingface_hub


def _reason(error: BaseException | None) -> str:
    """What happened, in our own words: those of the library contain URLs, which may be signed."""
    kinds: list[str] = []
    while error is not None and len(kinds) < 10:
        response = getattr(error, 'response', None)
        if status := getattr(response, 'status_code', None):
            advice = '; set HF_TOKEN if it is private or gated' if status in (401, 403) else ''
            return f'HTTP {status}{advice}'
        kinds.append(getattr(error, 'strerror', None) or type(error).__name__)
        error = error.__cause__ or error.__context__
    return f'cannot be downloaded: {kinds[-1]}'
