"""What a run of 10⁸ and of 10⁹ images comes to: the tables of templates/dataflow/SCALE.md.

`python -m tests.benchmarks.scale_model --write` puts them there anew.  What was measured is read
from RESULTS.md, so that no figure is typed twice; everything else is a parameter with its source.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.markdown import aligned
from transforms.chunks import bucket_count
from transforms.core.hashing import power_of_two
from transforms.runs import publish
from transforms.sources import snapshot

_RESULTS = Path(__file__).with_name('RESULTS.md')
DOCUMENT = Path(__file__).parents[2] / 'templates' / 'dataflow' / 'SCALE.md'
_BEGIN, _END = '<!-- scale_model begins -->', '<!-- scale_model ends -->'

SIZES = (10**8, 10**9)
_CHUNK_SIZE = 1024
_ROWS_PER_FILE = 1_000_000
_BATCH_SIZE = 32
# Requests for the end of a Parquet file: its size, its last bytes, and its footer.
_READ_BACK = 3
_GB = 1e9
_HOUR_SEC = 3600.0


class Assumed(NamedTuple):
    """A figure that nobody has measured here.

    Attributes:
      name: what it is, with its unit.
      value: the figure.
      source: where it comes from.
    """

    name: str
    value: float
    source: str


OBJECTS_PER_LIST = Assumed('objects a listing request', 1000, "Cloud Storage's largest page")
LIST_SEC = Assumed('seconds a listing request', 0.1, 'a guess; time it on your bucket')
REQUEST_SEC = Assumed('seconds a small request', 0.05, 'a guess; time it on your bucket')
IMAGE_BYTES = Assumed('bytes an image', 100_000, 'a guess; your bucket tells')
GMAC = Assumed('R101x3 at 224 px, GMAC an image', 71.4, 'its layers, counted')
GPU_RATES = (
    Assumed('R101x3 at 224 px, RTX 3090, images/s', 334, "timm's published benchmark"),
    Assumed('R101x3 at 224 px, RTX 4090, images/s', 586, "timm's published benchmark"),
    Assumed('R101x3 at 224 px, RTX Pro 6000, images/s', 800, "timm's published benchmark"),
)
IMAGES_PER_WORKER = Assumed('images a worker', 100_000, 'default of --images_per_worker')
ASSUMED = (
    *(OBJECTS_PER_LIST, LIST_SEC, REQUEST_SEC, IMAGE_BYTES, GMAC),
    *GPU_RATES,
    IMAGES_PER_WORKER,
)


def measured(benchmark: str, name: str) -> float:
    """A figure of RESULTS.md.

    Raises:
      LookupError: there is none of this name.
    """
    section = re.split(r'^## ', _RESULTS.read_text(), flags=re.MULTILINE)
    for text in section:
        if text.startswith(f'{benchmark}\n'):
            for line in text.splitlines():
                cells = [cell.strip() for cell in line.split('|')]
                if len(cells) > 2 and cells[1] == name:
                    return float(cells[2])
    raise LookupError(f'{_RESULTS.name} has no {benchmark}: {name}')


class Chunks(NamedTuple):
    """How the images of a run fall into chunks.

    Attributes:
      buckets: keys of `MakeChunks/GroupByBucket`.
      chunks: how many chunks they come to.
      fill: the share of slots of whole batches that hold an image.
    """

    buckets: int
    chunks: float
    fill: float


def expect_chunks(images: int, batch_size: int = _BATCH_SIZE) -> Chunks:
    """What hashing makes of so many images: the size of a bucket is Poisson distributed."""
    buckets = bucket_count(images, _CHUNK_SIZE)
    mean = images / buckets
    chunks = slots = 0.0
    for size in range(1, round(mean + 12 * math.sqrt(mean)) + 12):
        probability = math.exp(size * math.log(mean) - mean - math.lgamma(size + 1))
        whole, rest = divmod(size, _CHUNK_SIZE)
        chunks += probability * (whole + (rest > 0))
        batches = whole * -(-_CHUNK_SIZE // batch_size) + -(-rest // batch_size)
        slots += probability * batches * batch_size
    return Chunks(buckets, buckets * chunks, mean / slots)


def part_rows(images: int) -> float:
    """Rows that a chunk sends to a file: all, as the numbers of both are powers of two."""
    return images / expect_chunks(images).chunks


def routed_bytes(rows: float) -> float:
    """Bytes a row through `WritePredictions/GroupByFile`, by the rows of a part.

    Every part is an Arrow stream with a schema of its own; that of 16 rows is what tells whether
    this holds.
    """
    name = 'file of 100,000 rows, {:,} a part: shuffled'
    one, many = (measured('shape', name.format(n)) for n in (1, _CHUNK_SIZE))
    return many + (one - many) / rows


class _Figure(NamedTuple):
    name: str
    of: Callable[[int], float]
    kind: str
    source: str


def _files(images: int) -> int:
    return power_of_two(-(-images // _ROWS_PER_FILE))


def _each(name: str, benchmark: str, figure: str, times: float) -> _Figure:
    """So much for each image."""
    value = measured(benchmark, figure)
    return _Figure(name, lambda n: n * value * times, 'measured', f'{benchmark}: {figure}')


def _figures() -> list[_Figure]:
    group = 'DropDone/GroupByUri: a ref'
    listing = sum(
        measured('shape', f'{phase}: time')
        for phase in ('list and freeze', 'read what is frozen, to the shuffle')
    )
    grouping = sum(
        measured('shape', f'{phase}: time')
        for phase in ('group by URI and merge', 'key by bucket', 'cut into chunks')
    )
    load_msec = measured('fetching', 'fetch and Beam: CPU, all of it') + measured(
        'decoding', 'decode and resize, 500 x 375 px: ours'
    )
    embedded = measured('throughput', 'embedded, pipeline: rate')
    cpu_r101x3 = measured('network', 'R101x3, batch 8: ours')
    code = 'the code'
    figures = [
        _Figure('listing requests', lambda n: n / OBJECTS_PER_LIST.value, 'assumed', 'its page'),
        _Figure(
            'one input listed by one worker: waiting for the store, h',
            lambda n: n / OBJECTS_PER_LIST.value * LIST_SEC.value / _HOUR_SEC,
            'assumed',
            LIST_SEC.name,
        ),
        _Figure(
            'one input listed by one worker: its own time, h',
            lambda n: n * listing * 1e-6 / _HOUR_SEC,
            'measured',
            'shape: list and freeze, read what is frozen',
        ),
        _each('frozen listing, GB', 'shape', 'frozen listing', 1 / _GB),
        _Figure('frozen listing, files', lambda n: n / snapshot._PART_REFS, 'computed', code),
        _each('shuffled by URI, GB', 'shape', group, 1 / _GB),
        _each(
            'the same, of earlier runs that labelled all of them, GB',
            *('shape', 'DropDone/GroupByUri: a row of an earlier run', 1 / _GB),
        ),
        _each('shuffled by bucket, GB', 'shape', 'MakeChunks/GroupByBucket: an image', 1 / _GB),
        _each('chunks spread, GB', 'shape', 'MakeChunks/Spread: an image', 1 / _GB),
        _Figure('prediction files', _files, 'computed', '--rows_per_file'),
        _Figure(
            'rows that a chunk sends to a file',
            part_rows,
            'computed',
            'both are by the hash of the URI',
        ),
        _Figure(
            'rows shuffled by file, GB',
            lambda n: n * routed_bytes(part_rows(n)) / _GB,
            'measured',
            'shape: file of 100,000 rows, by the rows of a part',
        ),
        _Figure(
            'the same, if a chunk sent its rows one by one to as many files, GB',
            lambda n: n * routed_bytes(1) / _GB,
            'measured',
            'shape: file of 100,000 rows, 1 a part',
        ),
        _Figure(
            'core-hours to group, merge and cut',
            lambda n: n * grouping * 1e-6 / _HOUR_SEC,
            'measured',
            'shape: group, key, cut',
        ),
        _Figure('buckets', lambda n: expect_chunks(n).buckets, 'computed', code),
        _Figure('chunks', lambda n: expect_chunks(n).chunks, 'computed', 'Poisson buckets'),
        _Figure(
            'images a chunk, mean', lambda n: n / expect_chunks(n).chunks, 'computed', 'chunks'
        ),
        *(
            _Figure(
                f'batch fill, {size} slots',
                lambda n, size=size: expect_chunks(n, size).fill,
                'computed',
                'Poisson buckets',
            )
            for size in (32, 128)
        ),
        _Figure(
            'memory of the anti-join: the refs of one URI, bytes',
            lambda _: measured('shape', group),
            'measured',
            f'shape: {group}',
        ),
        _Figure(
            'memory of a bucket as it is shuffled, KB',
            lambda n: (
                n
                / expect_chunks(n).buckets
                * measured('shape', 'MakeChunks/GroupByBucket: an image')
                / 1e3
            ),
            'measured',
            'shape: MakeChunks/GroupByBucket',
        ),
        _Figure('side input of RunReport: files', lambda n: 3 * _files(n), 'computed', code),
        _each('a local run instead: memory, GB', 'scale', _LOCAL, 1 / _GB),
        _each('finished chunks under _work, GB', 'shape', 'finished chunk under _work', 1 / _GB),
        _each('predictions, GB', 'shape', 'Parquet, 5 labels with random scores', 1 / _GB),
        _Figure(
            'images read, TB', lambda n: n * IMAGE_BYTES.value / 1e12, 'assumed', IMAGE_BYTES.name
        ),
        _Figure('class A requests', _class_a, 'computed', 'listing, chunks, frozen parts, files'),
        _Figure(
            'class B requests',
            lambda n: n + _work_files(n) + _READ_BACK * 3 * _files(n),
            'computed',
            'images, chunks looked for, frozen parts, files read back',
        ),
        _Figure(
            'clean_up, 16 deletions at a time, h',
            lambda n: _work_files(n) * REQUEST_SEC.value / publish._THREADS / _HOUR_SEC,
            'assumed',
            REQUEST_SEC.name,
        ),
        _Figure(
            'publish, 16 files at a time are copied and read back, min',
            lambda n: (1 + _READ_BACK) * 3 * _files(n) * REQUEST_SEC.value / publish._THREADS / 60,
            'assumed',
            REQUEST_SEC.name,
        ),
        _Figure(
            'core-hours to fetch and decode 500 x 375 px',
            lambda n: n * load_msec / 1e3 / _HOUR_SEC,
            'measured',
            'fetching, decoding',
        ),
        _Figure('R101x3 at 224 px, EMAC', lambda n: n * GMAC.value / 1e9, 'assumed', GMAC.name),
    ]
    figures += [
        _Figure(
            f'GPU-hours, {rate.name.split(", ")[1]}',
            lambda n, rate=rate: n / expect_chunks(n).fill / rate.value / _HOUR_SEC,
            'assumed',
            rate.source + ', batch fill',
        )
        for rate in GPU_RATES
    ]
    figures += [
        _Figure(
            'cores to feed one RTX 4090',
            lambda _: GPU_RATES[1].value * load_msec / 1e3,
            'assumed',
            "timm's rate, fetching, decoding",
        ),
        _Figure(
            'R101x3 on CPUs, core-hours',
            lambda n: n * cpu_r101x3 * 2 / _HOUR_SEC,
            'measured',
            'network: R101x3, batch 8, on 2 cores',
        ),
        _Figure(
            'embedded model on CPUs, core-hours',
            lambda n: n / embedded * 2 / _HOUR_SEC,
            'measured',
            'throughput: embedded, pipeline, on 2 cores',
        ),
        _Figure(
            'workers from the listing, before --max_num_workers',
            lambda n: n / IMAGES_PER_WORKER.value,
            'computed',
            IMAGES_PER_WORKER.source,
        ),
    ]
    return figures


_LOCAL = 'peak, 100,000 to 1,000,000 refs'


def _work_files(images: int) -> float:
    return expect_chunks(images).chunks + images / snapshot._PART_REFS


def _class_a(images: int) -> float:
    # Files are staged, and then copied.
    return images / OBJECTS_PER_LIST.value + _work_files(images) + 2 * 3 * _files(images)


def _text(value: float) -> str:
    """Three digits, and no more zeros than there are."""
    if value == 0:
        return '0'
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return f'{rounded:,.0f}' if digits <= 0 else f'{rounded:g}'


def tables() -> str:
    """The tables of the document."""
    figures = [
        (each.name, *(_text(each.of(n)) for n in SIZES), each.kind, each.source)
        for each in _figures()
    ]
    assumed = [(each.name, _text(each.value), each.source) for each in ASSUMED]
    return '\n\n'.join(
        [
            aligned([('figure', '10⁸', '10⁹', 'measured or assumed', 'from'), *figures]),
            aligned([('assumed', 'value', 'source'), *assumed]),
        ]
    )


def with_tables(document: str) -> str:
    """The document with the tables of today.

    Raises:
      ValueError: it has no place for them.
    """
    before, begin, rest = document.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f'{DOCUMENT.name} lacks {_BEGIN} or {_END}')
    return f'{before}{_BEGIN}\n\n{tables()}\n\n{_END}{after}'


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables, or writes them into the document."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument('--write', action='store_true', help=f'into {DOCUMENT.name}')
    if parser.parse_args(argv).write:
        DOCUMENT.write_text(with_tables(DOCUMENT.read_text()))
    else:
        print(tables())
    return 0


if __name__ == '__main__':
    sys.exit(main())
