"""The classes of a model, beside the predictions that name them."""

import hashlib
import io
from collections.abc import Iterable

import pyarrow.parquet as pq

from transforms.core import uris
from transforms.model.vocabulary import ANCESTORS, Vocabulary
from transforms.runs.complete import CompleteRun, complete_runs
from transforms.storage.base import Store


def keep_vocabulary(output: str, store: Store, vocabulary: Vocabulary) -> str:
    """Writes the classes of a model beside its predictions, unless they are already there.

    Runs share the file; a damaged one is rewritten, as is one of an earlier version, which lacks a
    column.

    Returns:
      The SHA-256 of the file, for the report of the run.
    """
    name = vocabulary.file_name
    uri = uris.join(output, f'vocabularies/{name}')
    ours = vocabulary.to_parquet()
    there = ours if store.create(uri, ours) else store.read(uri) or b''
    sha256 = hashlib.sha256(there).hexdigest()
    # Other bytes may be those of another version of Arrow; then a report knows them.
    known = vocabulary_checksums(complete_runs(output, store), name) if there != ours else {sha256}
    if sha256 not in known or not _has_ancestors(there):
        store.write(uri, ours)
        sha256 = hashlib.sha256(ours).hexdigest()
    return sha256


def _has_ancestors(data: bytes) -> bool:
    return ANCESTORS in pq.read_schema(io.BytesIO(data)).names


def vocabulary_checksums(runs: Iterable[CompleteRun], file_name: str) -> set[str | None]:
    """The SHA-256 of a vocabulary in reports; None for a report of an earlier version."""
    models = [run.report.model for run in runs]
    return {model.vocabulary_sha256 for model in models if model.vocabulary == file_name}
