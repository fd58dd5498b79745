"""Members of containers in loader processes: who reads them, and what becomes of the others."""

import io
import tarfile
from pathlib import Path

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
from transforms.storage.containers.base import Member
from transforms.storage.containers.tar import TAR_GZ
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
