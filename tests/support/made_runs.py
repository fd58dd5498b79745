"""Complete runs put together by hand: no model is needed to read one."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.report.bottleneck import make_verdict
from transforms.core.reasons import Reason
from transforms.output import dead_letters, predictions

HOSTILE_NAMES = [
    '<img src=x onerror=alert(1)>.jpg',
    '"><script>alert(2)<!--.jpg',
    "' onmouseover=alert(3) '.jpg",
    'gpj.\u202egnp.jpg',
    'two\nlines.jpg',
    '&lt;b&gt;&#106;.jpg',
    '\u2066isolated\u2069\u200b.jpg',
]
HOSTILE_LABEL = '</style></svg><script>alert(4)</script>'

Labels = Sequence[tuple[int, str, float]]


def write_run(
    output: Path,
    run_id: str,
    labelled: Sequence[tuple[str, Labels]],
    failed: Sequence[tuple[str, Reason, str]] = (),
    *,
    sequence: int = 1,
    carried: Mapping[str, str] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Writes a run into a folder.

    Args:
      labelled: (uri, labels by falling score) each; a label is (index, name, score).
      failed: (uri, reason, detail) each.
      carried: the same carried columns for every row.
      changes: parts of the report that are to be another.
    """
    carried = dict(carried or {})
    metadata = {
        'activation': 'softmax',
        'threshold': '0.05',
        'stored_floor': '0.05',
        'min_labels': '0',
        'max_labels': '5',
        'vocabulary': 'birds',
    } | changes.pop('metadata', {})
    model_id = changes.pop('model_id', 'birds-12345678')
    rows = [
        {
            'uri': uri,
            'object_version': 'v',
            'content_sha256': '0' * 64,
            'width': 4,
            'height': 3,
            'format': 'JPEG',
            'labels': [
                {'index': i, 'wnid': None, 'name': name, 'score': score}
                for i, name, score in labels
            ],
        }
        | carried
        for uri, labels in labelled
    ]
    letters = [
        {
            'uri': uri,
            'stage': 'fetch',
            'reason': reason.value,
            'detail': detail,
            'retryable': reason.retryable,
            'size_bytes': None,
        }
        | carried
        for uri, reason, detail in failed
    ]
    files = [
        _write(output, f'{kind}/model={model_id}/run={run_id}', table)
        for kind, table in (
            (
                predictions.KIND,
                pa.Table.from_pylist(rows, predictions.prediction_schema([*carried], metadata)),
            ),
            (
                dead_letters.KIND,
                pa.Table.from_pylist(
                    letters, dead_letters.dead_letter_schema([*carried], metadata)
                ),
            ),
        )
        if kind == predictions.KIND or letters
    ]
    report = {
        'run_id': run_id,
        'sequence': sequence,
        'command': 'label',
        'balanced': True,
        'counts': {
            'listed': len(rows) + len(letters),
            'labeled': len(rows),
            'duplicates': 0,
            'unchanged': 0,
            'dead_lettered': len(letters),
            'dead_lettered_by_reason': dict(Counter(each['reason'] for each in letters)),
            'skipped_not_image': 0,
        },
        'started_at': '2026-11-24T01:02:03+00:00',
        'finished_at': f'2026-11-24T02:02:03.{sequence:06d}+00:00',
        'wall_sec': 3600.0,
        'images_per_sec': len(rows) / 3600,
        'stage_thread_sec': {'fetch': 3.0, 'infer': 4000.0},
        'verdict': make_verdict({'infer_sec': 3000.0, 'fetch_wait_sec': 10.0}, 3600.0).to_json(),
        'batches': 1,
        'batch_fill': 0.5,
        'inputs': [{'kind': 'folder', 'uri': '/pictures', 'pattern': ''}],
        'options': {'max_bytes': 2**26, 'max_pixels': 10**6, 'fetch_deadline_sec': 5.0},
        'model': {'id': model_id, 'card': {}, 'computed': [], 'vocabulary': 'birds.parquet'},
        'metadata': metadata,
        'versions': {'lemmabeam': '0.1.0'},
        'files': files,
    } | changes
    path = output / 'runs' / run_id / 'report.json'
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(report))
    return report


def _write(output: Path, folder: str, table: pa.Table) -> dict[str, Any]:
    path = f'{folder}/part-00000-of-00001.parquet'
    (output / folder).mkdir(parents=True)
    pq.write_table(table, output / path)
    data = (output / path).read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    return {'path': path, 'rows': len(table), 'size_bytes': len(data), 'sha256': sha256}
