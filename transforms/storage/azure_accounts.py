"""Accounts of Azure Storage: where they are, and what opens them.

Credentials are found as `az storage` finds them, and are valid for the account that they name: none
is sent to another one, whatever a manifest lists.
"""

import base64
import contextlib
import datetime
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import requests
import requests.adapters
import urllib3

from transforms.core.errors import StoreError, UsageError
from transforms.storage.http_fetch import POOL_SIZE, make_pool

API_VERSION = '2023-11-03'
"""Of the protocol: answers are those that were tried, whatever a library asks for by itself."""

_CONNECTION_STRING = 'AZURE_STORAGE_CONNECTION_STRING'
_ACCOUNT, _KEY, _SAS = (f'AZURE_STORAGE_{name}' for name in ('ACCOUNT', 'KEY', 'SAS_TOKEN'))
# Of those that azure-identity reads, with which somebody means to have an identity.
_IDENTITY = ('AZURE_CLIENT_ID', 'AZURE_TENANT_ID', 'AZURE_FEDERATED_TOKEN_FILE')
LOG_IN = (
    f'run `az login` (needs azure-identity), or set {_CONNECTION_STRING}, or {_ACCOUNT} and {_KEY} '
    f'or {_SAS}'
)
"""How to have credentials."""

_SCOPE = 'https://storage.azure.com/.default'
_CONNECT_SEC, _READ_SEC = 10, 60
_SIGNED_SEC = 3600
_LEAST_LEFT_SEC = 600  # of a signature or token that is used


class Opener(NamedTuple):
    """What opens an account: a key, a SAS token or a credential that gives access tokens.

    Attributes:
      endpoint: URL of its blobs, '' for that of Azure's public cloud.
      key: base64.
      sas: the query of a URL, without '?'.
      credential: of azure-identity.
    """

    endpoint: str = ''
    key: str = ''
    sas: str = ''
    credential: Any = None


def has_variables(environment: Mapping[str, str]) -> bool:
    """Whether the environment has credentials for some account, good or bad ones."""
    text = environment.get(_CONNECTION_STRING, '').lower()
    return any(name in text for name in ('accountkey=', 'sharedaccesssignature=')) or any(
        environment.get(name) for name in (_KEY, _SAS, *_IDENTITY)
    )


def identity(default: Callable[[], Any]) -> Any:
    """The credential that `default` makes, if it gives a token; None otherwise.

    Raises:
      StoreError: who gives tokens cannot be reached.
    """
    from azure.core.exceptions import AzureError, ClientAuthenticationError

    credential = default()
    try:
        if credential is not None:
            credential.get_token(_SCOPE)
    except ClientAuthenticationError:
        return None
    except AzureError as e:
        raise StoreError('no Azure access token: no connection') from e
    return credential


def find_opener(
    account: str, environment: Mapping[str, str], credential: Any, is_anonymous: bool = False
) -> Opener:
    """What the environment has for an account.

    Args:
      account: its name.
      environment: of the process.
      credential: of azure-identity, for what the environment says nothing of; or None.
      is_anonymous: only look where the account is.

    Raises:
      UsageError: a variable is no connection string, key or token.
      StoreError: there is nothing for this account.
    """
    endpoint = ''
    others = []
    if text := environment.get(_CONNECTION_STRING, ''):
        name, found = _read_connection_string(text)
        if name == account:
            if (found.key or found.sas) and not is_anonymous:
                return found
            endpoint = found.endpoint
        else:
            others.append(f'{_CONNECTION_STRING} is of the account {name}')
    if is_anonymous:
        return Opener(endpoint)
    name = environment.get(_ACCOUNT, '')
    if name == account:
        if key := environment.get(_KEY, ''):
            return Opener(endpoint, key=_checked(key, _KEY))
        if sas := environment.get(_SAS, ''):
            return Opener(endpoint, sas=sas.lstrip('?'))
    elif name:
        others.append(f'{_ACCOUNT} is {name}')
    elif environment.get(_KEY) or environment.get(_SAS):
        others.append(f'{_KEY} and {_SAS} need {_ACCOUNT}, the account that they are of')
    if credential is None:
        raise StoreError(no_credentials(account, '; '.join(others)))
    return Opener(endpoint, credential=credential)


def no_credentials(account: str, more: str = '') -> str:
    """What is said of an account for which nothing was found."""
    return (
        f'no usable Azure credentials for the account {account}'
        f'{f" ({more})" if more else ""}: {LOG_IN}'
    )


def default_credential() -> Any:
    """What azure-identity finds: the machine's identity, `az login` and others; None without it."""
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError:
        return None
    return DefaultAzureCredential()


def _read_connection_string(text: str) -> tuple[str, Opener]:
    from azure.storage.blob import BlobServiceClient

    try:
        with BlobServiceClient.from_connection_string(text) as client:
            url = urllib.parse.urlsplit(client.url)
            key = getattr(client.credential, 'account_key', None) or ''
            name = client.account_name or ''
    except (ValueError, TypeError, AttributeError):
        # Not told why: what the library says may hold the key.
        raise UsageError(f'{_CONNECTION_STRING}: not a connection string') from None
    endpoint = f'{url.scheme}://{url.netloc}{url.path}'
    return name, Opener(
        endpoint, _checked(key, f'the AccountKey in {_CONNECTION_STRING}'), url.query
    )


def _checked(key: str, what: str) -> str:
    with contextlib.suppress(ValueError):
        base64.b64decode(key, validate=True)
        return key
    raise UsageError(f'{what}: not the key of an account, which is base64')


class Account:
    """An account, for whoever has what opens it.

    Attributes:
      client: of the library, for all requests but those that fetch images.

    Args:
      name: of the account.
      opener: what opens it.
      attempts: how often a request of the client is tried.
      pause_sec: how long it waits before the second try; longer before others.
      ca_certs: file of the certificates to trust, instead of the system's.

    Raises:
      UsageError: its endpoint is not a URL, or would get an access token without https.
    """

    def __init__(
        self,
        name: str,
        opener: Opener,
        attempts: int,
        pause_sec: float,
        ca_certs: str | None = None,
    ):
        from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
        from azure.core.pipeline.transport import RequestsTransport
        from azure.storage.blob import BlobServiceClient, ExponentialRetry

        self._name = name
        self._opener = opener
        endpoint = (opener.endpoint or f'https://{name}.blob.core.windows.net').rstrip('/')
        credential = opener.credential
        if opener.key:
            credential = AzureNamedKeyCredential(name, opener.key)
        elif opener.sas:
            credential = AzureSasCredential(opener.sas)
        session = requests.Session()
        for scheme in ('http://', 'https://'):
            session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=POOL_SIZE))
        try:
            self.client = BlobServiceClient(
                endpoint,
                credential,
                api_version=API_VERSION,
                transport=RequestsTransport(
                    session=session,
                    connection_timeout=_CONNECT_SEC,
                    read_timeout=_READ_SEC,
                    connection_verify=ca_certs or True,
                ),
                retry_policy=ExponentialRetry(
                    initial_backoff=pause_sec,  # type: ignore[arg-type]  # they are only added
                    increment_base=2,
                    random_jitter_range=pause_sec,  # type: ignore[arg-type]
                    retry_total=attempts - 1,
                    retry_connect=min(2, attempts - 1),
                ),
            )
        except ValueError:
            raise UsageError(
                f'{_CONNECTION_STRING}: expected a BlobEndpoint of the form https://host'
            ) from None
        self._path = urllib.parse.urlsplit(endpoint).path
        self._pool = make_pool(endpoint, ca_certs)
        # Past the manager, which would parse the URL of every object.
        self._connections = self._pool.connection_from_url(endpoint)
        self._lock = threading.Lock()
        self._signed: dict[str, tuple[str, float]] = {}
        self._token: Any = None

    @property
    def renews(self) -> bool:
        """Whether a request that was refused may be accepted with another token."""
        return self._opener.credential is not None

    def close(self) -> None:
        """Closes its connections."""
        self.client.close()
        self._pool.clear()

    def get(
        self, container: str, name: str, headers: Mapping[str, str], timeout: float
    ) -> urllib3.BaseHTTPResponse:
        """Asks for a blob over the pool of connections.

        Raises:
          azure.core.exceptions.AzureError: no access token.
        """
        query, authorization = self.sign(container)
        path = f'{self._path}/{container}/{urllib.parse.quote(name, safe="/~")}'
        return self._connections.urlopen(
            'GET',
            f'{path}?{query}' if query else path,
            headers={'x-ms-version': API_VERSION, **authorization, **headers},
            retries=False,
            preload_content=False,
            timeout=timeout,
        )

    def sign(self, container: str) -> tuple[str, dict[str, str]]:
        """What makes a request to read a blob of a container valid: query and headers."""
        if self._opener.key:
            return self._signature(container), {}
        if self._opener.sas:
            return self._opener.sas, {}
        if self._opener.credential is None:
            return '', {}
        with self._lock:
            if self._token is None or self._token.expires_on < time.time() + _LEAST_LEFT_SEC:
                self._token = self._opener.credential.get_token(_SCOPE)
            return '', {'Authorization': f'Bearer {self._token.token}'}

    def renew(self) -> None:
        """Has the next request ask for another token."""
        with self._lock:
            self._token = None

    def _signature(self, container: str) -> str:
        """A SAS token of our own that reads a container: a signature an hour, not one a blob."""
        from azure.storage.blob import generate_container_sas

        with self._lock:
            query, until = self._signed.get(container, ('', 0.0))
            if until < time.time() + _LEAST_LEFT_SEC:
                until = time.time() + _SIGNED_SEC
                query = generate_container_sas(
                    self._name,
                    container,
                    self._opener.key,
                    permission='r',
                    expiry=datetime.datetime.fromtimestamp(until, datetime.UTC),
                )
                self._signed[container] = query, until
            return query

    def why_refused(self) -> str:
        """What to do after what opens the account was not accepted."""
        if self._opener.key:
            return (
                f'the key of the account {self._name} was refused: check {_KEY} or '
                f'{_CONNECTION_STRING}, and the clock of this machine'
            )
        if self._opener.sas:
            expiry = dict(urllib.parse.parse_qsl(self._opener.sas)).get('se', '')
            if self.has_expired():
                return f'the SAS token expired at {expiry}: set {_SAS} to a new one'
            return (
                f'the SAS token was refused: check {_SAS} or {_CONNECTION_STRING}, for which '
                f'account and container it is (this is {self._name}), and what it permits'
            )
        return (
            f'the Azure credentials were refused by the account {self._name}: run `az login` '
            'again, in the tenant of the account'
        )

    def has_expired(self) -> bool:
        """Whether its SAS token is over."""
        expiry = dict(urllib.parse.parse_qsl(self._opener.sas)).get('se', '')
        try:
            until = datetime.datetime.fromisoformat(expiry)
        except ValueError:
            return False
        return until.replace(tzinfo=until.tzinfo or datetime.UTC).timestamp() <= time.time()
