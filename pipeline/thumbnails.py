"""Small pictures for the report of a run, read anew from where the images lie."""

import base64
import hashlib
import io
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import Image

from transforms.decode import PixelLimits, open_image, render
from transforms.errors import ImageError, LemmabeamError
from transforms.loading.budget import ByteBudget
from transforms.model.card import Resize
from transforms.rows import FetchLimits
from transforms.storage import StoreOptions, store_for

SIDE_PX = 160
_RESIZE = Resize(SIDE_PX, SIDE_PX, 'bicubic')
_JPEG_QUALITY = 78
_THREADS = 8
_MIB = 2**20
_ENCODED_BYTES = 64 * _MIB
_DECODED_BYTES = 256 * _MIB
_FETCH_SEC = 10.0
_TOTAL_SEC = 60.0


class Limits(NamedTuple):
    """What reading a picture may take: of one, and of all together."""

    fetch: FetchLimits
    pixels: PixelLimits
    total_sec: float = _TOTAL_SEC

    @classmethod
    def of_run(cls, options: Mapping[str, Any]) -> 'Limits':
        """Those of a run, from the options in its report, and no more than a report is worth.

        A report may come from elsewhere: what it says lowers the limits, and raises them never.
        """
        pixels = PixelLimits()
        max_px = min(int(options.get('max_pixels') or pixels.max_px), pixels.max_px)
        max_baseline_px = min(4 * max_px, pixels.max_baseline_jpeg_px)
        return cls(
            FetchLimits(
                min(int(options.get('max_bytes') or _ENCODED_BYTES), _ENCODED_BYTES),
                min(float(options.get('fetch_deadline_sec') or _FETCH_SEC), _FETCH_SEC),
            ),
            PixelLimits(max_px, max_baseline_px),
        )


class Picture(NamedTuple):
    """A thumbnail, or why there is none.

    Attributes:
      data_uri: a JPEG of SIDE_PX x SIDE_PX without any metadata, '' where there is none.
      sha256: of the bytes that were read, '' where they could not be.
      problem: why there is no picture, '' where there is one.
    """

    data_uri: str
    sha256: str
    problem: str


_TOO_LATE = Picture('', '', 'not read: the time for pictures was over')


def read_thumbnails(images: list[str], limits: Limits, stores: StoreOptions) -> dict[str, Picture]:
    """Reads pictures in threads; what is not there in time is left out.

    Args:
      images: URIs, without duplicates.
      limits: of one picture and of all.
      stores: how stores are reached.

    Returns:
      A picture for each URI.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for uri in images:
        waiting.put(uri)
    done: queue.SimpleQueue[tuple[str, Picture | BaseException]] = queue.SimpleQueue()
    encoded, decoded = ByteBudget(_ENCODED_BYTES), ByteBudget(_DECODED_BYTES)
    ends_at = time.monotonic() + limits.total_sec

    def work() -> None:
        while time.monotonic() < ends_at:
            try:
                uri = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((uri, _read(uri, limits, stores, encoded, decoded)))
            except BaseException as e:  # noqa: BLE001 (raised again by who waits for it)
                done.put((uri, e))

    # Daemons: a decoder that hangs must not keep the process from its end.
    for _ in range(min(_THREADS, len(images))):
        threading.Thread(target=work, name='thumbnail', daemon=True).start()
    found: dict[str, Picture] = {}
    while len(found) < len(images):
        try:
            uri, result = done.get(timeout=max(0.0, ends_at - time.monotonic()))
        except queue.Empty:
            break
        if isinstance(result, BaseException):
            raise result
        found[uri] = result
    return {uri: found.get(uri, _TOO_LATE) for uri in images}


def _read(
    uri: str, limits: Limits, stores: StoreOptions, encoded: ByteBudget, decoded: ByteBudget
) -> Picture:
    sha256 = ''
    try:
        with encoded.admission() as admit:
            data = store_for(uri, stores).fetch(uri, limits.fetch, admit).data
            sha256 = hashlib.sha256(data).hexdigest()
            opened = open_image(data, _RESIZE, limits.pixels)
            with decoded.reserve(opened.working_bytes):
                pixels = render(opened, _RESIZE)
    except ImageError as e:
        return Picture('', sha256, f'{e.reason.value}: {e.detail}')
    except LemmabeamError:
        return Picture('', sha256, 'its store does not let us read it')
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, 'JPEG', quality=_JPEG_QUALITY, optimize=True)
    text = base64.b64encode(jpeg.getvalue()).decode()
    return Picture(f'data:image/jpeg;base64,{text}', sha256, '')
