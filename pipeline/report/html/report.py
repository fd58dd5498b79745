"""The report of a run for people: one HTML file with its figures, charts and pictures.

Nothing in it comes from elsewhere when it is opened, and nothing in it can run.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.report.html.page import LEFT_OUT, Page, Since, failure_of, to_html
from pipeline.report.statistics import Digest, Example, Failed, commonest, read_classes, read_digest
from pipeline.report.thumbnails import Limits, Picture, read_thumbnails
from transforms.core import uris
from transforms.core.errors import DamagedError, StoreError, UsageError
from transforms.core.reasons import Reason
from transforms.core.stores import StoreOptions
from transforms.output import predictions
from transforms.runs.complete import CompleteRun, complete_runs
from transforms.storage.base import Store
from transforms.storage.registry import output_store

MAX_BYTES = 4 * 2**20

ReadPictures = Callable[[list[str], Limits, StoreOptions], Mapping[str, Picture]]

_FAILED_EXAMPLES = 6
# What stands in place of a name cannot be read.
_NAMELESS = {Reason.BAD_NAME.value, Reason.BAD_URI.value}


def write_html_report(
    output: str,
    run_id: str | None,
    stores: StoreOptions,
    thumbnails: int,
    destination: str | None = None,
    read_pictures: ReadPictures = read_thumbnails,
    max_bytes: int = MAX_BYTES,
) -> str:
    """Writes the report of a complete run for people.

    Args:
      output: absolute URI of the output folder.
      run_id: the run, or None for the latest.
      stores: how output and images are reached.
      thumbnails: pictures a section, 0 for none.
      destination: the file, as it was given; runs/<run_id>/report.html without.
      read_pictures: what reads them, as `read_thumbnails`.
      max_bytes: size of the file, about.

    Returns:
      The URI of the file.

    Raises:
      UsageError: there is no such run, or it cannot be written there.
      StoreError: the report or a file of the run is missing or damaged.
    """
    target = None if destination is None else uris.absolute(destination)
    if target and not uris.scheme_of(target) and Path(target).is_dir():
        raise UsageError(f'--output {destination}: expected the name of a file, such as page.html')
    store = output_store(output, stores)
    runs = complete_runs(output, store)
    chosen = [run for run in runs if run_id in (None, run.id)]
    if not chosen:
        raise UsageError(
            f'{output}: no complete run there'
            if run_id is None
            else f'--run_id {run_id}: no complete run with this id in {output}'
        )
    run = chosen[-1]
    try:
        failure = failure_of(run.report)
        limits = Limits.of_run(run.report.options)
    except DamagedError as e:
        uri = uris.join(output, f'runs/{run.id}/report.json')
        raise StoreError(
            f'{uri} is damaged ({e}): restore it from a backup, or make the report of another run'
        ) from e
    digest = read_digest(output, run, store, thumbnails, _FAILED_EXAMPLES)
    page = Page(
        run,
        failure,
        digest,
        _since(output, runs, run, digest, store),
        _common_folder(digest),
        {},
        thumbnails,
    )
    found = read_pictures(_wanted(digest), limits, stores) if thumbnails else {}
    html = to_html(page._replace(pictures=found)).encode()
    if len(html) > max_bytes and found:
        room = max_bytes - len(to_html(page).encode())
        html = to_html(page._replace(pictures=_fitting(digest, found, room))).encode()
    target = target or uris.join(output, f'runs/{run.id}/report.html')
    output_store(target, stores).write(target, html)
    return target


def _since(
    output: str, runs: Sequence[CompleteRun], run: CompleteRun, digest: Digest, store: Store
) -> Since | None:
    """Compares with the latest run before, of the same model and with rows of its own."""
    before = [
        other
        for other in itertools.takewhile(lambda other: other.id != run.id, runs)
        if other.model_id == run.model_id
        and any(file.rows for file in other.files(predictions.KIND))
    ]
    if not before or not digest.rows:
        return None
    last = before[-1]
    theirs = read_classes(output, last, store)
    appeared = [digest.classes[index] for index in digest.classes.keys() - theirs.keys()]
    vanished = [theirs[index] for index in theirs.keys() - digest.classes.keys()]
    return Since(
        last.id,
        sum(file.rows for file in last.files(predictions.KIND)),
        last.report.threshold,
        commonest(appeared),
        commonest(vanished),
    )


def _sections(digest: Digest) -> list[Sequence[Example | Failed]]:
    return [*digest.failed.values(), digest.random, digest.least_certain, digest.unlabeled]


def _in_turn(digest: Digest) -> list[Example | Failed]:
    """The first of each section, then the second ones: so that none goes without."""
    turns = itertools.zip_longest(*_sections(digest))
    return [each for turn in turns for each in turn if each is not None]


def _wanted(digest: Digest) -> list[str]:
    return list(
        dict.fromkeys(
            each.uri
            for each in _in_turn(digest)
            if isinstance(each, Example) or each.reason not in _NAMELESS
        )
    )


def _fitting(digest: Digest, found: Mapping[str, Picture], room: int) -> dict[str, Picture]:
    """The pictures for which there is room; each takes it as often as it is shown."""
    shown = [each.uri for each in _in_turn(digest)]
    fitting = {}
    for uri in dict.fromkeys(shown):
        picture = found.get(uri)
        if picture is None:
            continue
        size = shown.count(uri) * len(picture.data_uri)
        if size <= room:
            room -= size
            fitting[uri] = picture
        else:
            fitting[uri] = LEFT_OUT
    return fitting


def _common_folder(digest: Digest) -> str:
    """The longest folder, slash included, that all pictures that are shown lie in."""
    names = [each.uri for section in _sections(digest)[-3:] for each in section]
    names = names or [each.uri for section in digest.failed.values() for each in section]
    if not names:
        return ''
    first, last = min(names), max(names)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    folder = ''.join(char for char, _ in same).rpartition('/')[0]
    # '/' and 'gs://' are no folders worth telling.
    return f'{folder}/' if folder.strip('/') and not folder.endswith('/') else ''
