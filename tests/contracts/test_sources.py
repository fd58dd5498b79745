"""What every kind of input does alike.

What is not checked here: what may stand in a glob or a manifest (test_listing, test_manifest), and
stores (contracts.stores).
"""

import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

from tests.support.datasets import MODEL, Row, add_run
from tests.support.inventories import MANIFEST, Object, s3_inventory
from transforms.core.elements import MANIFESTS, DeadLetter, Ref
from transforms.core.errors import StoreError, UsageError
from transforms.core.reasons import Reason
from transforms.core.stores import STORES, Registered, StoreOptions
from transforms.sources.inputs import Columns, Input, Kind, Listing
from transforms.sources.listing import SOURCES, list_input
from transforms.sources.resolve import check_not_empty, resolve

PLAIN = Columns('uri', (), ())
STORE_OPTIONS = StoreOptions()._replace(http=StoreOptions().http._replace(allow_private_hosts=True))


class Full(NamedTuple):
    """An input: the value of --input, what it lists, and what of it is left out."""

    value: str
    uris: list[str]
    left_out: list[str] = []  # noqa: RUF012 (never changed)


def fill(folder: Path, *names: str) -> list[str]:
    """Files in a folder; their paths."""
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'x')
    return [str(path) for path in paths]


class SourceContract:
    """Subclasses say which kind, and make an input with two images or one, and an empty one."""

    KIND: Kind
    WHY_EMPTY = ''
    PATTERN = ''

    @pytest.fixture
    def full(self, tmp_path: Path) -> Full:
        raise NotImplementedError

    @pytest.fixture
    def empty(self, tmp_path: Path) -> str:
        raise NotImplementedError

    def resolved(self, value: str, deadline_sec: float = 10.0) -> Input:
        return resolve(value, PLAIN, STORE_OPTIONS, deadline_sec)

    def test_its_name_is_as_reports_have_it(self) -> None:
        assert json.loads(json.dumps({'kind': self.KIND})) == {'kind': self.KIND.value}
        assert f'{self.KIND}' == self.KIND.value
        assert self.KIND.has_columns == (self.KIND.value in MANIFESTS)

    def test_it_is_found_out(self, full: Full) -> None:
        source = self.resolved(full.value)
        assert source.kind is self.KIND
        assert (source.stores, source.deadline_sec) == (STORE_OPTIONS, 10.0)

    def test_it_lists_images_and_counts_what_it_leaves_out(self, full: Full) -> None:
        found = list(list_input(self.resolved(full.value), PLAIN))
        refs = [each for each in found if isinstance(each, Ref)]
        assert sorted(ref.uri for ref in refs) == sorted(full.uris)
        assert {ref.reason for ref in refs} == {''}
        assert sorted(each for each in found if isinstance(each, str)) == sorted(full.left_out)

    def test_one_that_lists_something_is_not_empty(self, full: Full) -> None:
        check_not_empty(self.resolved(full.value), Listing((), PLAIN))

    def test_one_that_lists_nothing_says_why(self, empty: str) -> None:
        source = self.resolved(empty)
        shown = re.escape(source.shown)
        message = f'--input {shown}: {self.WHY_EMPTY}.* \\(--allow_empty runs anyway'
        with pytest.raises(UsageError, match=message):
            check_not_empty(source, Listing((), PLAIN))

    def test_a_store_that_does_not_answer_is_not_waited_for(self, stalled: str) -> None:
        source = Input(self.KIND, f'{stalled}://b/f', self.PATTERN, deadline_sec=0.05)
        with pytest.raises(StoreError, match='Raise --fetch_deadline_sec to wait longer'):
            list(list_input(source, PLAIN))


class Stalling:
    """A store that says nothing until the test is over."""

    released = threading.Event()

    def _wait(self, *_: object, **__: object) -> NoReturn:
        self.released.wait(60)
        raise StoreError('it is over')

    stat = list = open = read = is_folder = _wait


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The scheme of it."""
    monkeypatch.setitem(STORES, 'stalls', Registered(f'{__name__}:Stalling'))
    Stalling.released.clear()
    yield 'stalls'
    Stalling.released.set()


class TestFolder(SourceContract):
    KIND = Kind.FOLDER
    WHY_EMPTY = 'no images found: '

    @pytest.fixture
    def full(self, tmp_path: Path) -> Full:
        images = fill(tmp_path, 'a.jpg', 'x/b.PNG')
        fill(tmp_path, 'notes.txt', 'x/c', '._a.jpg')
        left_out = ['skipped_not_image/.txt', 'skipped_not_image/', 'skipped_not_image/._*']
        return Full(str(tmp_path), images, left_out)

    @pytest.fixture(params=[(), ('list.csv', 'a.doc')])
    def empty(self, tmp_path: Path, request: pytest.FixtureRequest) -> str:
        fill(tmp_path, *request.param)
        return str(tmp_path)


class TestInventory(SourceContract):
    KIND = Kind.INVENTORY
    WHY_EMPTY = 'no images found: '

    def _write(self, folder: Path, *names: str) -> str:
        for name, data in s3_inventory([Object(name) for name in names], kind='Parquet').items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return str(folder / MANIFEST)

    @pytest.fixture
    def full(self, tmp_path: Path) -> Full:
        value = self._write(tmp_path, 'a.jpg', 'notes.txt', 'x/b.PNG')
        return Full(value, ['s3://source/a.jpg', 's3://source/x/b.PNG'], ['skipped_not_image/.txt'])

    @pytest.fixture(params=[(), ('a.doc',)])
    def empty(self, tmp_path: Path, request: pytest.FixtureRequest) -> str:
        return self._write(tmp_path, *request.param)


class TestGlob(SourceContract):
    KIND = Kind.GLOB
    WHY_EMPTY = 'nothing matches'
    PATTERN = 'stalls://b/f/*'

    @pytest.fixture
    def full(self, tmp_path: Path) -> Full:
        images = fill(tmp_path, 'a.jpg', 'b')
        fill(tmp_path, 'x/c.jpg', '._a.jpg')
        return Full(f'{tmp_path}/*', images, ['skipped_not_image/._*'])

    @pytest.fixture
    def empty(self, tmp_path: Path) -> str:
        fill(tmp_path, 'a.jpg')
        return f'{tmp_path}/*.png'


class TestFile(SourceContract):
    KIND = Kind.FILE

    @pytest.fixture
    def full(self, tmp_path: Path) -> Full:
        (path,) = fill(tmp_path, 'a.jpg')
        return Full(path, [path])

    def test_one_that_lists_nothing_says_why(self, tmp_path: Path) -> None:  # type: ignore[override]
        """It lists itself even when it is gone, and fetching it says so."""
        source = Input(self.KIND, f'{tmp_path}/gone.jpg', '')
        (ref,) = list_input(source, PLAIN)
        assert isinstance(ref, Ref)
        assert ref.uri == source.uri


class TestManifest(SourceContract):
    KIND = Kind.MANIFEST
    WHY_EMPTY = 'lists nothing'

    @pytest.fixture
    def full(self, tmp_path: Path) -> Full:
        path = tmp_path / 'list.txt'
        path.write_text('a.jpg\n/b.png\n')
        return Full(str(path), [f'{tmp_path}/a.jpg', '/b.png'])

    @pytest.fixture
    def empty(self, tmp_path: Path) -> str:
        path = tmp_path / 'list.csv'
        path.write_text('uri\n')
        return str(path)


class TestManifests(TestManifest):
    KIND = Kind.MANIFESTS
    WHY_EMPTY = 'none of the manifests lists anything'
    PATTERN = 'stalls://b/f/*.txt'

    @pytest.fixture
    def full(self, tmp_path: Path) -> Full:
        for name in 'ab':
            (tmp_path / f'{name}.txt').write_text(f'{name}.jpg\n')
        return Full(f'{tmp_path}/*.txt', [f'{tmp_path}/{name}.jpg' for name in 'ab'])

    @pytest.fixture
    def empty(self, tmp_path: Path) -> str:
        return f'{tmp_path}/*.txt'


def write_tar(path: Path, *names: str) -> Path:
    with tarfile.open(path, 'w') as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b'x'))
    return path


class TestContainer(SourceContract):
    KIND = Kind.CONTAINER
    WHY_EMPTY = 'no images found: 1 .txt'

    @pytest.fixture
    def full(self, tmp_path: Path) -> Full:
        path = write_tar(tmp_path / 'a.tar', 'b/2.jpg', '1.png', 'notes.txt')
        left_out = ['skipped_not_image/.txt']
        return Full(str(path), [f'{path}!/b/2.jpg', f'{path}!/1.png'], left_out)

    @pytest.fixture
    def empty(self, tmp_path: Path) -> str:
        return str(write_tar(tmp_path / 'a.tar', 'notes.txt'))


class TestContainers(TestContainer):
    KIND = Kind.CONTAINERS
    WHY_EMPTY = 'no images found: there is nothing in it'
    PATTERN = 'stalls://b/f/*.tar'

    @pytest.fixture
    def full(self, tmp_path: Path) -> Full:
        for name in 'ab':
            write_tar(tmp_path / f'{name}.tar', f'{name}.jpg')
        return Full(f'{tmp_path}/*.tar', [f'{tmp_path}/{name}.tar!/{name}.jpg' for name in 'ab'])

    @pytest.fixture
    def empty(self, tmp_path: Path) -> str:
        write_tar(tmp_path / 'a.tar')
        return f'{tmp_path}/*.tar'


class TestDeadLetters(SourceContract):
    """No --input is of this kind: `lemmabeam retry` makes it."""

    KIND = Kind.DEAD_LETTERS
    WHY_EMPTY = 'no image failed for these reasons'
    PATTERN = 'not_found'

    def resolved(self, value: str, deadline_sec: float = 10.0) -> Input:
        return Input(self.KIND, value, self.PATTERN, STORE_OPTIONS, deadline_sec)

    @pytest.fixture
    def full(self, tmp_path: Path) -> Full:
        failed = [dead('/a.jpg', Reason.NOT_FOUND), dead('/b.jpg', Reason.EMPTY)]
        return Full(run_with(tmp_path, failed), ['/a.jpg'])

    @pytest.fixture
    def empty(self, tmp_path: Path) -> str:
        return run_with(tmp_path, [dead('/b.jpg', Reason.EMPTY)])


def dead(uri: str, reason: Reason) -> DeadLetter:
    return DeadLetter(uri, 'fetch', reason.value, '', -1, '[]')


def run_with(folder: Path, failed: list[DeadLetter]) -> str:
    """The folder of the dead letters of a run."""
    add_run(folder, 'r', [Row('/c.jpg', [(1, 0.9)])], failed=failed)
    return f'{folder}/dead_letters/model={MODEL}/run=r'


def test_each_kind_is_listed() -> None:
    lists = (TestManifest, TestManifests, TestDeadLetters)
    images = (TestFolder, TestGlob, TestFile, TestInventory, TestContainer, TestContainers)
    assert SOURCES.keys() == {each.KIND for each in (*lists, *images)} == set(Kind)
