"""Kaggle's models: their handles and URLs, three ways to their archives, and credentials."""

import contextlib
import functools
import json
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from transforms.core.errors import InvalidOption, ModelError
from transforms.model.download import archive
from transforms.model.download.cache import Entry, model_in, tfhub_key
from transforms.model.download.http import Auth, Bearer, Progress, compressed, download, shown

_SITE = 'https://www.kaggle.com'
_API = 'https://api.kaggle.com'
_URL = re.compile(
    r'https?://(?:www\.)?kaggle\.com/(?:api/v1/)?models/([^?#]*)(?:[?#].*)?', re.IGNORECASE
)
_HANDLE = re.compile(
    r'(?P<owner>[\w-]+)/(?P<model>[\w-]+)/(?:frameworks/)?tensorflow2/(?:variations/)?'
    r'(?P<variation>[\w.-]+)(?:/(?:versions/)?(?P<version>\d+))?(?:/download)?',
    re.ASCII | re.IGNORECASE,
)
_FORM = 'owner/model/tensorFlow2/variation/version'
_HUB_FRAMEWORKS = ('tensorFlow2', 'TensorFlow2', 'tensorflow2')
_TOKEN = re.compile(r'[\x21-\x7e]{1,4096}')

# Of this one there is no other version, so that people leave it out.
_ONE_VERSION = ('google', 'bit')


class Model(NamedTuple):
    """A variation of a model of Kaggle for TensorFlow 2."""

    owner: str
    model: str
    variation: str
    version: int

    @property
    def handle(self) -> str:
        """The handle that Kaggle's own library takes."""
        return f'{self.owner}/{self.model}/tensorFlow2/{self.variation}/{self.version}'

    @property
    def page(self) -> str:
        """Path of its page on the site."""
        return (
            f'models/{self.owner}/{self.model}/frameworks/TensorFlow2/variations/'
            f'{self.variation}/versions/{self.version}'
        )


def parse(location: str) -> Model | None:
    """The model that a handle, or the URL of a page or of the API, means; None for anything else.

    Raises:
      UsageError: a Kaggle URL that is not a model for TensorFlow 2, or lacks a version.
    """
    url = _URL.fullmatch(location)
    found = _HANDLE.fullmatch(url[1].strip('/') if url else location.strip('/'))
    if found is None:
        if url is None:
            return None
        raise InvalidOption('model', shown(location), f'not a Kaggle model, expected {_FORM}')
    owner, model, variation, version = found.group('owner', 'model', 'variation', 'version')
    if version is None:
        if (owner.lower(), model.lower()) != _ONE_VERSION:
            why = f'the version is missing; expected {_FORM}'
            raise InvalidOption('model', shown(location), why)
        version = '1'
    return Model(owner, model, variation, int(version))


def find(model: Model) -> Path | Entry:
    """The folder of a model, if Kaggle's own library has fetched it, or what must be fetched."""
    return _of_kagglehub(model) or Entry(
        tfhub_key(f'{_SITE}/models/{model.handle}'), model.handle, functools.partial(_fill, model)
    )


def _of_kagglehub(model: Model) -> Path | None:
    cache = os.environ.get('KAGGLEHUB_CACHE')
    base = Path(cache) if cache else Path.home() / '.cache' / 'kagglehub'
    with contextlib.suppress(OSError):  # not ours
        for framework in _HUB_FRAMEWORKS:
            folder = base.joinpath(
                'models', model.owner, model.model, framework, model.variation, str(model.version)
            ).absolute()
            # It unpacks in place, and says by this file that it came to an end.
            if folder.with_name(f'{model.version}.complete').is_file():
                return model_in(folder)
    return None


def _fill(model: Model, folder: Path, on_progress: Progress | None) -> Path:
    endpoint = os.environ.get('KAGGLE_API_ENDPOINT', '').rstrip('/')
    site = endpoint or _SITE
    # As Kaggle's own library has it: with the host of its own, the path begins differently.
    service = f'{endpoint}/api' if endpoint else _API
    auth = _credentials()
    newer: dict[str, str | int] = {
        'ownerSlug': model.owner,
        'modelSlug': model.model,
        'framework': 'tensorFlow2',
        'instanceSlug': model.variation,
        'versionNumber': model.version,
    }
    routes: tuple[tuple[str, Auth, dict[str, str | int] | None], ...] = (
        (f'{site}/api/v1/models/{model.handle}/download', auth, None),
        # What hub.load asks for: a signed link to the archive, for everybody.
        (compressed(f'{site}/{model.page}'), None, None),
        (f'{service}/v1/models.ModelApiService/DownloadModelInstanceVersion', auth, newer),
    )
    problems = []
    for number, (url, credentials, message) in enumerate(routes):
        own = folder / str(number)
        own.mkdir()
        packed = own / 'archive'
        try:
            download(url, packed, on_progress, auth=credentials, message=message)
            with packed.open('rb') as file:
                return archive.unpack(file, own, shown(url))
        except ModelError as e:
            problems.append(str(e))
            shutil.rmtree(own, ignore_errors=True)
    raise ModelError(
        f'{"; ".join(problems)}; Kaggle also answers 401 and 403 for what it does not have: '
        f'look at {_SITE}/{model.page}, accept its terms and set KAGGLE_API_TOKEN, or download '
        'it there by hand and pass its folder or archive'
    )


def _credentials() -> Auth:
    """A token, else user and key, else nothing, from the places that Kaggle's own library reads.

    Raises:
      ModelError: they exist, but cannot be read; another service may not need any.
    """
    if token := _token():
        return Bearer(token)
    user, key = os.environ.get('KAGGLE_USERNAME'), os.environ.get('KAGGLE_KEY')
    if user and key:
        return user, key
    path = _settings() / 'kaggle.json'
    try:
        found = json.loads(path.read_bytes())
        return str(found['username']), str(found['key'])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise ModelError(f'{path}: cannot be read as {{"username": …, "key": …}}') from e


def _token() -> str:
    """That of $KAGGLE_API_TOKEN, which is a token or the name of a file, else of Kaggle's file.

    No message shows the value of the variable: nobody can tell which of the two it is.
    """
    where = 'KAGGLE_API_TOKEN'
    token = os.environ.get(where, '').strip()
    path = Path(os.path.expanduser(token)) if token else _settings() / 'access_token'  # noqa: PTH111
    if os.path.isfile(path):  # noqa: PTH113 (false, not an error, for impossible names)
        where = where if token else str(path)
        try:
            token = path.read_text('utf-8').strip()
        except (OSError, ValueError) as e:
            raise ModelError(f'{where}: the file cannot be read') from e
    elif token.startswith(('/', '~', './')):
        raise ModelError(f'{where}: no such file')
    if token and not _TOKEN.fullmatch(token):
        raise ModelError(f'{where}: not a Kaggle token; expected one word')
    return token


def _settings() -> Path:
    folder = os.environ.get('KAGGLE_CONFIG_DIR')
    return Path(folder) if folder else Path.home() / '.kaggle'
