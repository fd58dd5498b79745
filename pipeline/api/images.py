"""From URIs in somebody's own pipeline to chunks of them: what all steps that read images share."""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows
from apache_beam.typehints.decorators import no_annotations

import transforms.coders  # noqa: F401 (registers the coders of the elements)
from pipeline.api.rows import Carried, carried_text
from transforms.chunks import DropDone, MakeChunks
from transforms.core import elements, uris
from transforms.core.elements import Chunk, Ref
from transforms.core.errors import ImageError, UsageError
from transforms.core.fail_fast import FailFast
from transforms.core.reasons import Reason
from transforms.metrics import counter

_URI = 'uri'


def refs_of(element: object, base: str) -> Ref:
    """The ref that an element stands for; one of what is no URI names its reason.

    Args:
      element: a URI or path, a pair (URI, dict), or a row or dict with a field 'uri'.
      base: folder of relative paths.

    Raises:
      TypeError: it is none of these.
    """
    raw, values = _taken_apart(element)
    carried, problem = _as_text(values)
    try:
        if problem:
            raise ImageError(Reason.BAD_NAME, problem)
        if not raw:
            raise ImageError(Reason.BAD_URI, 'an empty URI')
        return Ref(uris.normalize(raw, base), '', -1, carried, '', '', uris.access_url(raw))
    except ImageError as e:
        return Ref(uris.printable(raw), '', -1, carried, e.reason.value, e.detail)


def _taken_apart(element: Any) -> tuple[str, Mapping[str, Any]]:
    if isinstance(element, str | os.PathLike):
        return str(os.fspath(element)), {}
    if hasattr(element, '_asdict'):  # a row, or a named tuple
        element = element._asdict()
    if isinstance(element, Mapping) and _URI in element:
        values = dict(element)
        uri = values.pop(_URI)
    elif isinstance(element, tuple) and len(element) == 2 and isinstance(element[1], Mapping):
        uri, values = element[0], dict(element[1])
    else:
        uri, values = None, {}
    if isinstance(uri, os.PathLike):
        uri = os.fspath(uri)
    if not isinstance(uri, str):
        raise TypeError(
            f'{uris.printable(repr(element))[:200]}: expected a URI (str), a pair (URI, dict), or '
            f'a row or dict with a field {_URI!r}'
        )
    return uri, values


def _as_text(values: Mapping[str, Any]) -> tuple[str, str]:
    """Carried values as they travel, and what is wrong with them: '' if nothing is."""
    carried: Carried = {
        name: value if value is None or isinstance(value, str) else _json_of(name, value)
        for name, value in values.items()
    }
    text = carried_text(carried)
    try:
        text.encode()
    except UnicodeEncodeError:
        # Escaped: what cannot be stored is still told apart.
        return text.encode('utf-8', 'backslashreplace').decode(), (
            'a carried value is not valid UTF-8'
        )
    return text, ''


def _json_of(name: str, value: object) -> str:
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    except (TypeError, ValueError) as e:
        raise TypeError(
            f'carried value {name!r}: a {type(value).__name__} has no text of its own; make it a '
            'str'
        ) from e


class _RefDoFn(beam.DoFn):
    def __init__(self, base: str):
        self._base = base

    @no_annotations  # Beam takes none for several outputs, and says so each time
    def process(self, element: object) -> Iterator[Ref | beam.pvalue.TaggedOutput]:
        ref = refs_of(element, self._base)
        if ref.access:  # it goes beside, as it would in a run
            yield beam.pvalue.TaggedOutput('access', (ref.uri, ref.access))
        yield ref._replace(access='')


class _CountDoFn(beam.DoFn):
    """Counts in metrics what leads to no row."""

    def process(self, count: tuple[str, int]) -> None:
        counter(count[0]).inc(count[1])


def check_whole(step: str, given: Any, why: str) -> None:
    """Refuses a PCollection of which nobody can tell when all of it is there.

    Args:
      step: that takes it, for messages.
      given: the PCollection.
      why: what needs all of it.

    Raises:
      UsageError: it is unbounded, or in other windows than the global one.
    """
    if not given.is_bounded or not isinstance(given.windowing.windowfn, GlobalWindows):
        raise UsageError(
            f'{step} takes a bounded PCollection in the global window: {why}. Put beam.WindowInto('
            'beam.window.GlobalWindows()) before it and carry along what the window said; of a '
            'stream, start a pipeline for each part'
        )


class ChunksOf(beam.PTransform):
    """URIs to chunks, which follow from all of them together.

    Expands a bounded PCollection of what `refs_of` takes, in the global window, to
    (PCollection[Chunk], PCollection[transforms.core.elements.DeadLetter] of what is no URI).  The
    same URI with the same carried values is a duplicate, dropped, and counted by the metric
    'duplicates'.

    Args:
      step: whose input it is, for messages.
      chunk_size: most images a chunk.

    Raises (expand):
      UsageError: the input is unbounded, or in other windows.
    """

    def __init__(self, step: str, chunk_size: int):
        super().__init__()
        self._step = step
        self._chunk_size = chunk_size

    @no_annotations
    def expand(
        self, images: beam.PCollection[object]
    ) -> tuple[beam.PCollection[Chunk], beam.PCollection[elements.DeadLetter]]:
        check_whole(self._step, images, 'chunks and duplicates follow from all URIs together')
        refs = images | 'ReadRefs' >> beam.ParDo(_RefDoFn(os.getcwd())).with_output_types(  # noqa: PTH109
            Ref, access=tuple[str, str]
        ).with_outputs('access', main='refs')
        items, dead, _, counts = {
            'refs': refs.refs,
            'access': refs.access,
        } | 'DropDuplicates' >> DropDone()
        _ = counts | 'Count' >> beam.ParDo(_CountDoFn())
        return items | 'MakeChunks' >> MakeChunks(self._chunk_size, None), dead


def fail_fast(after: int) -> FailFast:
    """When failing images stop a pipeline; each has its own, as a process may see several."""
    return FailFast(after, secrets.token_hex(8))
