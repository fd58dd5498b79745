"""Small pictures for the report of a run, read anew from where the images lie.

By loader processes, as the run itself: among them are the pictures that end a decoder, and what
large ones take goes back to the system.
"""

import base64
import io
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from transforms.core import elements
from transforms.core.elements import Chunk, Failure, Item
from transforms.core.errors import LemmabeamError, LoaderError, StoreError
from transforms.core.fail_fast import FailFast, FaultPolicy
from transforms.core.limits import PixelLimits
from transforms.core.resources import cpu_count, shared
from transforms.core.stores import StoreOptions
from transforms.images import decode
from transforms.images.resize import Resize
from transforms.loading.batch import LoadingBatch
from transforms.loading.loader import Loader
from transforms.loading.options import LoadOptions, Open
from transforms.runs.report import number_in
from transforms.storage.base import FetchLimits

SIDE_PX = 160
_RESIZE = Resize(SIDE_PX, SIDE_PX, 'bicubic')
_JPEG_QUALITY = 78
_THREADS = 8
_MIB = 2**20
_ENCODED_BYTES = 64 * _MIB
_BUDGET_BYTES = 256 * _MIB
_FETCH_SEC = 10.0
_TOTAL_SEC = 60.0
# Of the time for all, what decoding one may take: twice, and then others are still read.
_DECODE_SHARE = 0.25


class Limits(NamedTuple):
    """What reading a picture may take: of one, and of all together.

    Attributes:
      fetch, pixels: of one.
      total_sec: of all.
      processes: loader processes, as of `LoadOptions`.
    """

    fetch: FetchLimits
    pixels: PixelLimits
    total_sec: float = _TOTAL_SEC
    processes: int | None = None

    @classmethod
    def of_run(cls, options: Mapping[str, Any]) -> 'Limits':
        """Those of a run, from the options in its report, and no more than a report is worth.

        A report may come from elsewhere: what it says lowers the limits, and raises them never.

        Raises:
          DamagedError: an option is no number.
        """

        def lowered(name: str, most: float) -> float:
            return min(number_in(options, name) or most, most)

        pixels = PixelLimits()
        max_px = int(lowered('max_pixels', pixels.max_px))
        max_baseline_px = min(4 * max_px, pixels.max_baseline_jpeg_px)
        processes = number_in(options, 'loader_processes')
        return cls(
            FetchLimits(
                int(lowered('max_bytes', _ENCODED_BYTES)),
                float(lowered('fetch_deadline_sec', _FETCH_SEC)),
            ),
            PixelLimits(max_px, max_baseline_px),
            processes=None if processes is None else int(min(processes, cpu_count())),
        )


class Picture(NamedTuple):
    """A thumbnail, or why there is none.

    Attributes:
      data_uri: a JPEG of SIDE_PX x SIDE_PX without any metadata, '' where there is none.
      sha256: of the bytes that were read, '' where there is no picture.
      problem: why there is no picture, '' where there is one.
    """

    data_uri: str
    sha256: str
    problem: str


_TOO_LATE = Picture('', '', 'not read: no time was left for pictures')


def read_thumbnails(
    images: list[str], limits: Limits, stores: StoreOptions, open_image: Open = decode.open_image
) -> dict[str, Picture]:
    """Reads pictures; what is not there in time is left out.

    Args:
      images: URIs, without duplicates.
      limits: of one picture and of all.
      stores: how stores are reached.
      open_image: what reads the header of a picture.

    Returns:
      A picture for each URI.
    """
    ends_at = time.monotonic() + limits.total_sec
    options = LoadOptions(
        _RESIZE,
        1,  # each is a batch, so that a store that fails one says nothing of the others
        limits.fetch,
        limits.pixels,
        _BUDGET_BYTES,
        _THREADS,
        stores,
        limits.processes,
        _DECODE_SHARE * limits.total_sec,
        open_image=open_image,
    )
    loader = shared(Loader, options)
    chunk = Chunk('thumbnails', [Item(uri, '', -1, ['[]']) for uri in images])
    policy = FaultPolicy(FailFast(0, ''), StoreError)
    batches = [loader.begin(chunk, i, policy) for i in range(len(images))]
    found = {}
    for uri, batch in zip(images, batches, strict=True):
        if batch.wait(max(0.0, ends_at - time.monotonic())):
            found[uri] = _picture(batch)
        else:
            batch.cancel()
            found[uri] = _TOO_LATE
    return found


def _picture(batch: LoadingBatch) -> Picture:
    """What there is of the one image of a batch."""
    try:
        [loaded] = batch.result()
    except LoaderError:
        return Picture('', '', 'not read: no loader process could be started')
    except LemmabeamError:
        return Picture('', '', 'its store denies access')
    outcome = loaded.outcome
    if isinstance(outcome, Failure):
        return Picture('', '', f'{outcome.reason.value}: {outcome.detail}')
    assert isinstance(outcome, elements.Image), 'nothing is known before'
    return Picture(_data_uri(batch.pixels[0]), outcome.content_sha256, '')


def _data_uri(pixels: np.ndarray) -> str:
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, 'JPEG', quality=_JPEG_QUALITY, optimize=True)
    return f'data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}'
