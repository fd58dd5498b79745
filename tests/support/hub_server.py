"""A hub on 127.0.0.1: TF-Hub, Kaggle, a bucket or Hugging Face, which can break each promise."""

import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.support.fault_proxy import HINT
from tests.support.loopback import Handler, LoopbackServer

_PIECE_BYTES = 1000


class Request(NamedTuple):
    """What was asked for."""

    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    method: str = 'GET'
    body: bytes = b''


class Asked(Handler):
    """What an answer is given.

    Attributes:
      hub: the server.
      asked: what was asked for.
    """

    hub: 'HubServer'
    asked: Request


Answer = Callable[[Asked], None]


class HubServer(LoopbackServer):
    """Answers as told, path by path; others are 404.

    Attributes:
      requests: what was asked so far.
      sent: set as soon as an answer that stalls has sent its part.
      other_name: the same server under another host name.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.sent = threading.Event()
        self._answers: dict[str, list[Answer]] = {}
        self._lock = threading.Lock()
        outer = self

        class Answering(Asked):
            def respond(self) -> None:
                self.hub = outer
                sent = self.rfile.read(int(self.headers.get('Content-Length', 0)))
                self.asked = outer._record(self.path, dict(self.headers), self.command, sent)
                if self.command == 'HEAD':
                    self.wfile = _HeadersOnly(self.wfile)  # type: ignore[assignment]  # has what is used of one
                outer._next_answer(self.asked.path)(self)

            do_HEAD = do_POST = Handler.do_GET  # noqa: N815 (as http.server has it)

        super().__init__(Answering)
        self.other_name = f'http://localhost:{self.port}'

    def put(self, path: str, *answers: Answer) -> str:
        """Sets the answers of a path, one a request, the last for all that follow; its URL."""
        self._answers[path] = list(answers)
        return self.url + path

    def _record(self, path: str, headers: dict[str, str], method: str, sent: bytes) -> Request:
        parts = urllib.parse.urlsplit(path)
        query = urllib.parse.parse_qs(parts.query, keep_blank_values=True)
        request = Request(urllib.parse.unquote(parts.path), query, headers, method, sent)
        with self._lock:
            self.requests.append(request)
        return request

    def _next_answer(self, path: str) -> Answer:
        with self._lock:
            answers = self._answers.get(path, [status(404)])
            return answers.pop(0) if len(answers) > 1 else answers[0]


class _HeadersOnly:
    """Sends the headers, which come first and at once, and drops what follows."""

    def __init__(self, file: Any):
        self._file = file
        self._has_sent = False

    def write(self, data: bytes) -> None:
        if not self._has_sent:
            self._file.write(data)
        self._has_sent = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _head(handler: Asked, code: int = 200, length: int | None = None, **headers: str) -> None:
    handler.send_response(code)
    # An exception that a test keeps would keep a connection, too, and its thread would wait.
    handler.send_header('Connection', 'close')
    for name, value in headers.items():
        handler.send_header(name.replace('_', '-'), value)
    if length is not None:
        handler.send_header('Content-Length', str(length))
    handler.end_headers()


def body(data: bytes, content_type: str = 'application/x-tar') -> Answer:
    """These bytes, whatever is asked."""

    def answer(handler: Asked) -> None:
        _head(handler, length=len(data), Content_Type=content_type)
        handler.wfile.write(data)

    return answer


def module(data: bytes) -> Answer:
    """An archive as TF-Hub gives it: only to those who ask for it; a page about it to others."""

    def answer(handler: Asked) -> None:
        is_asked = handler.asked.query.get('tf-hub-format') == ['compressed']
        (body(data, 'application/gzip') if is_asked else PAGE)(handler)

    return answer


PAGE = body(b'<!DOCTYPE html><title>A model</title>', 'text/html; charset=utf-8')


def hinted(answer: Answer) -> Answer:
    """The same behind an interim answer, as content delivery networks send them."""

    def hint_and_answer(handler: Asked) -> None:
        handler.wfile.write(HINT)
        answer(handler)

    return hint_and_answer


def status(code: int, text: bytes = b'') -> Answer:
    def answer(handler: Asked) -> None:
        _head(handler, code, len(text))
        handler.wfile.write(text)

    return answer


def redirect(url: str, code: int = 302) -> Answer:
    def answer(handler: Asked) -> None:
        _head(handler, code, 0, Location=url)

    return answer


def chunked(data: bytes) -> Answer:
    """Of unknown length."""

    def answer(handler: Asked) -> None:
        _head(handler, Transfer_Encoding='chunked')
        for start in range(0, len(data), _PIECE_BYTES):
            piece = data[start : start + _PIECE_BYTES]
            handler.wfile.write(b'%x\r\n%s\r\n' % (len(piece), piece))
        handler.wfile.write(b'0\r\n\r\n')

    return answer


def cut(data: bytes, size_bytes: int) -> Answer:
    """Promises all of the data, sends so many bytes and hangs up."""

    def answer(handler: Asked) -> None:
        _head(handler, length=len(data))
        handler.wfile.write(data[:size_bytes])

    return answer


def stall(data: bytes, size_bytes: int) -> Answer:
    """Sends so many bytes and then nothing, until the server is closed."""

    def answer(handler: Asked) -> None:
        _head(handler, length=len(data))
        handler.wfile.write(data[:size_bytes])
        handler.wfile.flush()
        handler.hub.sent.set()
        handler.hub.stopping.wait(20)

    return answer


def silence(handler: Asked) -> None:
    """Not even a status line, until the server is closed."""
    handler.hub.stopping.wait(20)
    handler.close_connection = True


def drip(data: bytes, every_sec: float) -> Answer:
    """A byte at a time."""

    def answer(handler: Asked) -> None:
        _head(handler, length=len(data))
        for i in range(len(data)):
            if handler.hub.stopping.wait(every_sec):
                break
            handler.wfile.write(data[i : i + 1])
            handler.wfile.flush()

    return answer


def hang_up(handler: Asked) -> None:
    handler.close_connection = True


def resumable(
    data: bytes, etag: str = '"1"', size_bytes: int | None = None, then_sec: float = 0.0
) -> Answer:
    """Sends the rest to those who have the beginning of the same file; so many bytes at a time.

    It hangs up then, or only after so many seconds.
    """

    def answer(handler: Asked) -> None:
        headers = handler.asked.headers
        asked = re.fullmatch(r'bytes=(\d+)-', headers.get('Range', ''))
        start = int(asked[1]) if asked and headers.get('If-Range') == etag else 0
        more = {'Content_Range': f'bytes {start}-{len(data) - 1}/{len(data)}'} if start else {}
        _head(handler, 206 if start else 200, len(data) - start, ETag=etag, **more)
        end = len(data) if size_bytes is None else start + size_bytes
        handler.wfile.write(data[start:end])
        handler.wfile.flush()
        handler.hub.stopping.wait(then_sec)

    return answer


def rest_of(data: bytes, start: int, etag: str = '"1"') -> Answer:
    """A part that nobody has asked for."""

    def answer(handler: Asked) -> None:
        shown = f'bytes {start}-{len(data) - 1}/{len(data)}'
        _head(handler, 206, len(data) - start, ETag=etag, Content_Range=shown)
        handler.wfile.write(data[start:])

    return answer


def put_tfhub(server: HubServer, handle: str, data: bytes) -> str:
    """A module of TF-Hub, which redirects to Kaggle as the real one does; the path asked for."""
    page = put_kaggle_page(server, handle, data)
    server.put(f'/{handle}', redirect(f'{page}?tfhub-redirect=true&tf-hub-format=compressed'))
    return f'/{handle}'


def put_kaggle_page(server: HubServer, handle: str, data: bytes) -> str:
    """The page of a model, which redirects those who ask for its archive to a signed link."""
    variation, version = _slug(handle)
    path = f'/models/google/bit/frameworks/TensorFlow2/variations/{variation}/versions/{version}'
    signed = f'{server.other_name}/storage/{variation}?X-Goog-Signature=s3cr3t'
    server.put(f'/storage/{variation}', body(data, 'application/x-gzip'))

    def answer(handler: Asked) -> None:
        is_asked = handler.asked.query.get('tf-hub-format') == ['compressed']
        (redirect(signed) if is_asked else PAGE)(handler)

    server.put(path, answer)
    return path


def put_kaggle_api(server: HubServer, handle: str, data: bytes) -> str:
    """The older form of Kaggle's API."""
    variation, version = _slug(handle)
    path = f'/api/v1/models/google/bit/tensorFlow2/{variation}/{version}/download'
    server.put(path, redirect(f'{server.other_name}/api-storage?X-Goog-Signature=s3cr3t'))
    server.put('/api-storage', body(data, 'application/x-gzip'))
    return path


def put_newer_kaggle_api(server: HubServer, handle: str, data: bytes) -> str:
    """The newer one, which is told the model in JSON."""
    variation, version = _slug(handle)
    wanted = {
        'ownerSlug': 'google',
        'modelSlug': 'bit',
        'framework': 'tensorFlow2',
        'instanceSlug': variation,
        'versionNumber': int(version),
    }
    path = '/api/v1/models.ModelApiService/DownloadModelInstanceVersion'
    signed = f'{server.other_name}/newer-storage?X-Goog-Signature=s3cr3t'
    server.put('/newer-storage', body(data, 'application/x-gzip'))

    def answer(handler: Asked) -> None:
        is_wanted = handler.asked.method == 'POST' and json.loads(handler.asked.body) == wanted
        (redirect(signed) if is_wanted else status(404))(handler)

    server.put(path, answer)
    return path


def put_checkpoint(server: HubServer, name: str, data: bytes) -> str:
    """A file in the bucket of the BiT authors."""
    path = f'/bit_models/{name}'
    server.put(path, resumable(data))
    return path


def put_hugging_face(server: HubServer, repository: str, data: bytes, storage: str = '') -> str:
    """A repository with a model.safetensors, as the library of the hub asks for it.

    The file itself is at the URL `storage`, if one is given.
    """
    commit = '0123456789' * 4
    digest = hashlib.sha256(data).hexdigest()
    path = f'/{repository}/resolve/main/model.safetensors'

    def answer(handler: Asked) -> None:
        headers = {'ETag': f'"{digest}"', 'X_Repo_Commit': commit, 'Accept_Ranges': 'bytes'}
        if storage:
            linked = {'X_Linked_ETag': f'"{digest}"', 'X_Linked_Size': str(len(data))}
            _head(handler, 302, 0, Location=storage, **headers, **linked)
        else:
            _head(handler, 200, len(data), **headers)
            handler.wfile.write(data)

    server.put(path, answer)
    facts = {'id': repository, 'sha': commit, 'siblings': [{'rfilename': 'model.safetensors'}]}
    server.put(f'/api/models/{repository}', body(json.dumps(facts).encode(), 'application/json'))
    return path


class Dataset:
    """A dataset on a hub, as the library of the hub and its web server show it.

    A file of `LARGE_BYTES` or more is on another host, behind a link that is signed.
    """

    LARGE_BYTES = 1000

    def __init__(self, server: HubServer, name: str):
        self.server = server
        self.name = name
        self.files: dict[str, bytes] = {}
        self._commits = 0

    @property
    def commit(self) -> str:
        """The newest one."""
        return f'{self._commits:040x}'

    def put(self, path: str, data: bytes) -> None:
        """A commit with one more file."""
        self.files[path] = data
        self._commits += 1
        files = dict(self.files)
        info = json.dumps({'id': self.name, 'sha': self.commit}).encode()
        api = f'/api/datasets/{self.name}'
        for revision in ('main', 'refs/convert/parquet', self.commit):
            self.server.put(f'{api}/revision/{revision}', body(info, 'application/json'))
        folders = {''}
        for each in files:
            parts = each.split('/')
            folders |= {'/'.join(parts[:i]) for i in range(len(parts))}
        for folder in folders:
            tree = f'{api}/tree/{self.commit}' + (f'/{folder}' if folder else '')
            self.server.put(tree, self._tree_of(files, folders, folder))
        self.server.put(f'{api}/paths-info/{self.commit}', self._infos_of(files))
        for each, content in files.items():
            self._put_file(f'/datasets/{self.name}/resolve/{self.commit}/{each}', content)

    def _put_file(self, path: str, data: bytes) -> None:
        oid = hash_of(data)
        if len(data) < self.LARGE_BYTES:
            self.server.put(path, ranged(data, f'"{oid}"'))
            return
        signed = f'{self.server.other_name}/lfs/{oid}?X-Amz-Signature=s3cr3t'
        self.server.put(f'/lfs/{oid}', ranged(data, '"of another kind"'))

        def moved(handler: Asked) -> None:
            _head(handler, 302, 0, Location=signed, ETag='"x"', X_Linked_Etag=f'"{oid}"')

        self.server.put(path, moved)

    def _tree_of(self, files: dict[str, bytes], folders: set[str], folder: str) -> Answer:
        start = f'{folder}/' if folder else ''
        below = [entry_of(path, data) for path, data in files.items() if path.startswith(start)]
        below += [
            {'type': 'directory', 'path': path, 'oid': '0' * 40, 'size': 0}
            for path in folders
            if path and path.startswith(start)
        ]

        def answer(handler: Asked) -> None:
            is_deep = handler.asked.query.get('recursive') == ['true']
            shown = [x for x in below if is_deep or '/' not in str(x['path'])[len(start) :]]
            (body(json.dumps(shown).encode(), 'application/json'))(handler)

        return answer

    @staticmethod
    def _infos_of(files: dict[str, bytes]) -> Answer:
        def answer(handler: Asked) -> None:
            asked = handler.asked.body.decode()
            if asked.startswith('{'):
                paths = json.loads(asked)['paths']
            else:
                paths = urllib.parse.parse_qs(asked)['paths']
            found = [entry_of(path, files[path]) for path in paths if path in files]
            body(json.dumps(found).encode(), 'application/json')(handler)

        return answer


def hash_of(data: bytes) -> str:
    """What the hub calls a file by: its SHA-256 if it is large, that of git if it is not."""
    if len(data) >= Dataset.LARGE_BYTES:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b'blob %d\0' % len(data) + data).hexdigest()


def entry_of(path: str, data: bytes) -> dict[str, object]:
    """A file in a listing."""
    entry: dict[str, object] = {'type': 'file', 'path': path, 'size': len(data)}
    if len(data) < Dataset.LARGE_BYTES:
        return {**entry, 'oid': hash_of(data)}
    lfs = {'oid': hash_of(data), 'size': len(data), 'pointerSize': 130}
    return {**entry, 'oid': 'f' * 40, 'lfs': lfs}


def ranged(data: bytes, etag: str) -> Answer:
    """These bytes, or those of them that are asked for."""

    def answer(handler: Asked) -> None:
        asked = re.fullmatch(r'bytes=(\d+)-(\d+)', handler.asked.headers.get('Range', ''))
        if asked is None:
            _head(handler, 200, len(data), ETag=etag)
            handler.wfile.write(data)
            return
        first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
        if first >= len(data):
            _head(handler, 416, 0, ETag=etag)
            return
        shown = f'bytes {first}-{last}/{len(data)}'
        _head(handler, 206, last - first + 1, ETag=etag, Content_Range=shown)
        handler.wfile.write(data[first : last + 1])

    return answer


def _slug(handle: str) -> tuple[str, str]:
    """'google/bit/m-r50x1/imagenet21k_classification/1' as Kaggle has it: variation and version."""
    *parts, version = handle.removeprefix('google/bit/').split('/')
    return '-'.join(parts).replace('_', '-'), version
