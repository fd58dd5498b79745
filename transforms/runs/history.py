"""What earlier runs did with each image, so that nothing is paid for twice."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.core.elements import CONTAINERS, MANIFESTS, Known, Note
from transforms.core.errors import DamagedError, StoreError, UsageError
from transforms.core.reasons import Reason
from transforms.output import dead_letters, predictions, results
from transforms.output.history_file import HistoryFile
from transforms.output.layout import Layout
from transforms.output.parquet import batches, open_parquet
from transforms.output.partitions import values_of_path
from transforms.runs.complete import CompleteRun
from transforms.runs.report import LABEL
from transforms.storage.sealed import open_listed


def history_files(
    runs: Sequence[CompleteRun],
    model_id: str,
    inputs: Sequence[Mapping[str, str]],
    uri_column: str,
    limits: Mapping[str, int],
    retry_dead: bool,
) -> list[HistoryFile]:
    """The files that must be read to know what a model has dealt with.

    Args:
      runs: complete runs, the oldest first.
      model_id: weights and preprocessing that the results must come from.
      inputs: those of the run that asks, as in a report.
      uri_column: what it reads of manifests.
      limits: 'max_bytes' and 'max_pixels' of the run that asks.
      retry_dead: leave out what can never be labelled.
    """
    ids = {run.id for run in runs}
    return [
        HistoryFile(
            file.path,
            file.checksum,
            place,
            _has_inputs(run, inputs, uri_column),
            _to_try_again(run, limits, retry_dead),
            file.rows,
            any(each['kind'] in CONTAINERS for each in inputs),
        )
        for place, run in enumerate(runs, 1)
        if run.model_id == model_id and not _is_copy(run, ids)
        for kind in (predictions.KIND, dead_letters.VERSIONS)
        for file in run.files(kind)
        if file.rows
    ]


def failed_files(
    runs: Sequence[CompleteRun],
    model_id: str,
    inputs: Sequence[Mapping[str, str]],
    uri_column: str,
    again: Sequence[Reason] = (),
) -> list[HistoryFile]:
    """The files that list what the last run over the same inputs could not label, but this one may.

    Args:
      runs, model_id, inputs, uri_column: as for `history_files`.
      again: reasons that do not count.
    """
    over_them = [
        (place, run)
        for place, run in enumerate(runs, 1)
        if run.model_id == model_id and has_listed(run, inputs, uri_column)
    ]
    passed_over = tuple(reason.value for reason in Reason if reason.lasting or reason in again)
    return [
        HistoryFile(file.path, file.checksum, place, True, passed_over)
        for place, run in over_them[-1:]
        for file in run.files(dead_letters.KIND)
        if file.rows
    ]


def has_listed(
    run: CompleteRun,
    inputs: Sequence[Mapping[str, str]],
    uri_column: str,
    sample: int | None = None,
) -> bool:
    """Whether a run listed all there was in these inputs, or at least the same sample of it."""
    options = run.report.options
    return (
        run.report.command == LABEL
        and _has_inputs(run, inputs, uri_column)
        and options.get('since') is None
        and options.get('sample') in (None, sample)
    )


def _has_inputs(run: CompleteRun, inputs: Sequence[Mapping[str, str]], uri_column: str) -> bool:
    """Whether a run had these inputs; another column of a manifest lists something else."""
    theirs = run.report.options.get('uri_column', uri_column)
    has_columns = any(each['kind'] in MANIFESTS for each in inputs)
    return _sorted(run.report.inputs) == _sorted(inputs) and (
        theirs == uri_column or not has_columns
    )


def _sorted(inputs: Iterable[object]) -> list[str]:
    return sorted(json.dumps(each, sort_keys=True) for each in inputs)


def _to_try_again(run: CompleteRun, limits: Mapping[str, int], retry_dead: bool) -> tuple[str, ...]:
    # A run whose books do not balance may have lost what it says is gone.
    notes = () if run.report.balanced else tuple(note.value for note in Note)
    if retry_dead:
        return notes + tuple(reason.value for reason in Reason)
    theirs = run.report.options
    return notes + tuple(
        reason.value
        for reason in Reason
        if (name := reason.about.option) and theirs.get(name) != limits[name]
    )


def _is_copy(run: CompleteRun, ids: set[str]) -> bool:
    """Whether a run only relabelled rows of runs that are all still there."""
    sources = run.report.metadata.get('relabeled_from', '').split(',')
    return run.report.is_relabelling and set(sources) <= ids


def read_history(file: HistoryFile, layout: Layout) -> Iterator[tuple[str, Known]]:
    """The URI of each row of a file, and what became of it.

    Raises:
      StoreError: the file is missing or damaged, and is more than a hint.
    """
    uri = layout.uri(file.path)
    try:
        with open_listed(layout.store, uri, file.checksum) as stream:
            parquet = open_parquet(stream)
            if file.is_hint:
                yield from _failed(file, parquet)
            elif file.path.startswith(f'{predictions.KIND}/'):
                yield from _predictions(file, parquet, layout)
            else:
                yield from _dead(file, parquet)
    except (DamagedError, pa.ArrowException, OSError, LookupError, UsageError) as e:
        if file.is_hint:
            return
        raise StoreError(
            f'{uri}, part of a complete run, is missing or damaged: run `lemmabeam verify` for '
            'details; --force labels everything again without it'
        ) from e


def _predictions(
    file: HistoryFile, parquet: pq.ParquetFile, layout: Layout
) -> Iterator[tuple[str, Known]]:
    of_path = values_of_path(file.path)
    inside = layout.file_columns
    digest = ['content_sha256'] if file.has_members else []
    columns = ['uri', 'object_version', *digest, *inside]
    for batch in batches(parquet, columns):
        uris, versions, *values = (column.to_pylist() for column in batch.columns)
        digests = values.pop(0) if digest else [''] * len(uris)
        if None in uris:
            raise pa.ArrowInvalid('a row without a URI')
        carried: Iterable[str]
        if inside:
            named = (dict(zip(inside, row, strict=True)) for row in zip(*values, strict=True))
            carried = (
                results.carried_text([{**of_path, **row}[name] for name in layout.carry])
                for row in named
            )
        else:
            same = results.carried_text([of_path[name] for name in layout.carry])
            carried = [same] * len(uris)
        for uri, version, text, sha256 in zip(uris, versions, carried, digests, strict=True):
            yield uri, Known(file.sequence, version or '', text, '', file.is_same_input, sha256)


def _dead(file: HistoryFile, parquet: pq.ParquetFile) -> Iterator[tuple[str, Known]]:
    if not parquet.schema_arrow.equals(dead_letters.VERSION_SCHEMA):
        raise pa.ArrowInvalid('another schema')
    for batch in batches(parquet):
        for row in batch.to_pylist():
            if row['reason'] in file.again:
                continue
            known = Known(
                file.sequence,
                row['object_version'],
                row['carried'],
                row['reason'],
                file.is_same_input,
            )
            yield row['uri'], known


def _failed(file: HistoryFile, parquet: pq.ParquetFile) -> Iterator[tuple[str, Known]]:
    for batch in batches(parquet, ['uri', 'reason']):
        for uri, reason in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if reason not in file.again:
                yield uri, Known(file.sequence, '', '', reason, file.is_same_input)
