"""Members of containers in loader processes: who reads them, and what becomes of the others."""

import functools
import io
import tarfile
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support import crashing
from tests.support.containers import listed
from tests.support.loadings import ANY_FAILURE, OPTIONS, good, within, write
from transforms.core import members
from transforms.core.elements import Chunk, Failure, Image, Item
from transforms.core.reasons import Reason
from transforms.core.stores import DEFAULT_OPTIONS
from transforms.loading.batch import LoadingBatch
from transforms.loading.loader import Loader
from transforms.loading.options import LoadOptions
from transforms.storage.base import Entry, Fetched
from transforms.storage.containers.base import Member
from transforms.storage.containers.parquet import PARQUET
from transforms.storage.containers.tar import TAR, TAR_GZ
from transforms.storage.registry import store_for


def write_stream(path: Path, acts: list[str]) -> list[Item]:
    """An archive of which one process reads all; a member for each, '' is a good one."""
    with tarfile.open(path, 'w:gz') as archive:
        for number, act in enumerate(acts):
            data = crashing.picture(good(number), act) if act else good(number)
            info = tarfile.TarInfo(f'{number:02d}.jpg')
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    entry = store_for(str(path), DEFAULT_OPTIONS).stat(str(path))
    return [
        Item(
            members.join(str(path), each.name),
            members.join_version(entry.version, each.where),
            each.size_bytes,
            ['[]'],
        )
        for each in listed(TAR_GZ, path.read_bytes())
        if isinstance(each, Member)
    ]


def begin_items(
    items: list[Item], options: LoadOptions = OPTIONS
) -> tuple[Loader, list[LoadingBatch]]:
    loader = Loader(options)
    chunk = Chunk('c', items)
    size = options.batch_size
    return loader, [loader.begin(chunk, at, ANY_FAILURE) for at in range(0, len(items), size)]


def test_a_listed_file_whose_folder_is_called_like_a_container_is_no_member(tmp_path):
    [path] = write(tmp_path / 'photos.zip!', [''])
    version = store_for(str(path), DEFAULT_OPTIONS).stat(str(path)).version
    loader, [batch] = begin_items([Item(str(path), version, -1, ['[]'])])
    [loaded] = loader.result(batch)
    assert isinstance(loaded.outcome, Image)


# After the last, the process that tries it alone goes on.
@pytest.mark.parametrize('act', ['segv', 'allocate'])
def test_a_member_that_is_tried_alone_keeps_nobody_from_the_others(act, tmp_path):
    items = write_stream(tmp_path / 'in.tgz', ['', act] + [''] * 62)
    loader, batches = begin_items(items)
    with within(30) as tick:
        while not all(batch.is_ready for batch in batches):
            tick()
    outcomes = [loaded.outcome for batch in batches for loaded in loader.result(batch)]
    assert [each.reason for each in outcomes if isinstance(each, Failure)] == [
        Reason.DECODER_CRASHED
    ]
    assert sum(isinstance(each, Image) for each in outcomes) == 63


class Remote:
    """A store that has the files of a folder, and writes down who reads what of them."""

    def __init__(self, folder: str):
        self._folder = Path(folder)

    def stat(self, uri):
        return Entry(uri, '1', self._path(uri).stat().st_size)

    def fetch(self, uri, limits, admit, unless='', part=None):
        with (self._folder / 'log').open('a') as log:
            log.write(f'{threading.current_thread().name} {part.offset}\n')
        data = self._path(uri).read_bytes()[part.offset : part.offset + part.size_bytes]
        return Fetched(data, part.version, len(data))

    def _path(self, uri):
        return self._folder / uri.rpartition('/')[2]


def open_remote(folder: str, uri: str, stores: object) -> Remote:
    return Remote(folder)


@pytest.mark.parametrize('kind', [TAR, PARQUET], ids=['tar', 'parquet'])
def test_what_is_read_in_one_go_is_begun_while_the_one_before_is_decoded(kind, tmp_path):
    pictures = [good(i % 8) + bytes(700_000) for i in range(40)]
    name = 'a.tar' if kind is TAR else 'a.parquet'
    with (tmp_path / name).open('wb') as file:
        if kind is TAR:
            with tarfile.open(fileobj=file, mode='w') as archive:
                for i, data in enumerate(pictures):
                    info = tarfile.TarInfo(f'{i:02d}.jpg')
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        else:
            table = pa.table({'image': pictures})
            pq.write_table(table, file, row_group_size=14, compression='none')
    items = [
        Item(f'gs://b/{name}!/{each.name}', f'1!{each.where}', -1, ['[]'])
        for each in listed(kind, (tmp_path / name).read_bytes())
        if isinstance(each, Member)
    ]
    assert (
        len({run.key for run in members.runs_of((each.uri, each.version) for each in items)}) == 3
    )
    opener = functools.partial(open_remote, str(tmp_path))
    loader, batches = begin_items(items, OPTIONS._replace(processes=1, open_store=opener))
    loaded = [each.outcome for batch in batches for each in loader.result(batch)]
    assert all(isinstance(each, Image) for each in loaded)
    reads = [line.split() for line in (tmp_path / 'log').read_text().splitlines()]
    assert [who for who, _ in reads].count('ahead') == 2
    assert len({offset for _, offset in reads}) == len(reads) == (3 if kind is TAR else 4)
