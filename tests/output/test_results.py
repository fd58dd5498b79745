"""The rows of a finished chunk: the same bytes as a plain list of rows, whatever happened to each.

How they are read again is looked at where they are: test_resume, test_clean, test_verify.
"""

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.elements import Chunk, Failure, Image, Item, LabeledBatch, Stage, Unchanged
from transforms.core.reasons import Reason
from transforms.output import results
from transforms.output.results import SCHEMA, from_ipc, join, outcome_table, to_ipc
from transforms.output.run_metadata import FEATURES

SLOTS = 4
CLASSES = 6

texts = st.text(st.characters(exclude_categories=['Cs']), max_size=5)
images = st.builds(
    Image, texts, texts, st.integers(1, 2**31 - 1), st.integers(1, 9), texts, st.integers(1, 9)
)
failures = st.builds(
    Failure,
    st.sampled_from(Stage),
    st.sampled_from(Reason),
    texts,
    st.none() | st.integers(0, 2**62),
    texts,
)
slots = st.tuples(
    st.lists(texts, max_size=3),
    images | failures | st.builds(Unchanged, texts),
    st.integers(0, CLASSES),
)


def plain_rows(batches):
    """A dictionary a row, as somebody would write it who has time."""
    for batch in batches:
        for slot, (item, outcome) in enumerate(zip(batch.items, batch.outcomes, strict=True)):
            row = {
                'uri': item.uri,
                'carried': list(item.carried),
                'object_version': outcome.object_version,
                'is_unchanged': isinstance(outcome, Unchanged),
            }
            if isinstance(outcome, Failure):
                row |= {
                    'stage': outcome.stage.value,
                    'reason': outcome.reason.value,
                    'detail': outcome.detail,
                    'size_bytes': outcome.size_bytes,
                }
            elif isinstance(outcome, Image):
                count = batch.counts[slot]
                row |= {
                    'content_sha256': outcome.content_sha256,
                    'width': outcome.width,
                    'height': outcome.height,
                    'format': outcome.format,
                    'indices': batch.indices[slot, :count].tolist(),
                    'scores': batch.scores[slot, :count].tolist(),
                }
            yield row


def plain_features(batches, length):
    """Zeros below what is null: rubbish would make other bytes."""
    found = [
        batch.features[slot] if isinstance(outcome, Image) else np.zeros(length, np.float16)
        for batch in batches
        for slot, outcome in enumerate(batch.outcomes)
    ]
    missing = [not isinstance(outcome, Image) for batch in batches for outcome in batch.outcomes]
    values = pa.array(np.concatenate(found))
    return pa.FixedSizeListArray.from_arrays(values, length, mask=pa.array(missing))


def plain_table(batches, features):
    table = pa.Table.from_pylist(list(plain_rows(batches)), SCHEMA)
    if features:
        table = table.append_column(FEATURES, plain_features(batches, features))
    ways = sorted({batch.computed for batch in batches} - {''})
    return table.replace_schema_metadata({'lemmabeam.computed': json.dumps(ways)})


def chunk_of(filled, features):
    """The batches of a chunk; what lies in slots without a label is rubbish."""
    items = [Item(f'gs://b/{i}', '', -1, carried) for i, (carried, *_) in enumerate(filled)]
    chunk = Chunk('c', items)
    rng = np.random.default_rng(len(filled))
    batches = []
    for start in range(0, len(filled), SLOTS):
        part = filled[start : start + SLOTS]
        made = [outcome for _, outcome, _ in part]
        counts = np.full(SLOTS, -1, np.int32)
        counts[: len(part)] = [count for *_, count in part]
        found = (
            rng.integers(0, 1000, (SLOTS, CLASSES), np.int32),
            rng.random((SLOTS, CLASSES), np.float32),
            counts,
            rng.random((SLOTS, features)).astype(np.float16) if features else None,
        )
        computed = f'{{"way": {start % 2}}}'
        if not any(isinstance(outcome, Image) for outcome in made):  # it was not given to the model
            nothing = np.zeros((0, 0), np.float32)
            found = (nothing.astype(np.int32), nothing, np.zeros(0, np.int32), None)
            computed = ''
        batches.append(LabeledBatch(chunk, start, made, *found, {}, computed))
    return batches


def check(filled, features=0):
    batches = chunk_of(filled, features)
    # Features have a column only where at least one batch has them.
    length = features * any(batch.features is not None for batch in batches)
    whole = to_ipc(outcome_table(batches))
    assert whole == to_ipc(plain_table(batches, length))
    parts = [from_ipc(to_ipc(outcome_table([batch]))) for batch in batches]
    assert to_ipc(join(parts)) == whole
    return outcome_table(batches)


# Any two kinds are side by side in the test below; this is for what nobody thought of.
@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(slots, min_size=1, max_size=3 * SLOTS), st.sampled_from([0, 2]))
def test_by_column_is_as_by_row(filled, features):
    check(filled, features)


IMAGE = Image('7', 'ab', 3, 2, 'JPEG', 9)
KINDS = {
    'labels': (['[]'], IMAGE, 3),
    'no label': (['[]'], IMAGE, 0),
    'fetch': (['["a"]', '[null]'], Failure(Stage.FETCH, Reason.NOT_FOUND, '', None), 2),
    'model': ([], Failure(Stage.INFER, Reason.MODEL_ERROR, 'x', 0, '7'), 2),
    'unchanged': (['[]'], Unchanged('8'), 2),
}


@pytest.mark.parametrize('features', [0, 3])
@pytest.mark.parametrize('kinds', list(itertools.product(KINDS, repeat=2)))
def test_any_two_kinds_side_by_side_and_in_batches_of_their_own(kinds, features):
    one, other = (KINDS[kind] for kind in kinds)
    for filled in ([one, other], [one] * SLOTS + [other], [one] * SLOTS + [other] * SLOTS):
        table = check(filled, features)
        assert table.schema.names[: len(SCHEMA)] == SCHEMA.names
        table.validate(full=True)


def test_a_row_has_what_there_is_of_it():
    rows = check([KINDS[kind] for kind in KINDS]).to_pylist()
    assert [len(row['indices']) if row['indices'] is not None else None for row in rows] == [
        3, 0, None, None, None,
    ]  # fmt: skip
    assert [row['reason'] for row in rows] == [None, None, 'not_found', 'model_error', None]
    assert [row['width'] for row in rows] == [3, 3, None, None, None]
    assert results.count_unchanged(outcome_table(chunk_of([KINDS['unchanged']], 0))) == 1


def test_what_only_the_workers_know_is_in_one_order():
    def way(**versions):
        facts = {'precision': 'bfloat16', 'backend': 'jax', 'batch_size': 8, 'features': None}
        return json.dumps({**facts, 'versions': versions})

    # So many that a set of them is in no order by chance.
    new = {f'library-{i:02d}': str(i) for i in range(30)}
    launcher = {'precision': 'auto', 'backend': 'auto', 'batch_size': '8', 'version.numpy': '1'}
    ways = [way(numpy='2', **new), way(numpy='1')]
    found = results.with_computed(launcher, ways)
    assert list(found) == [*launcher, *(f'version.{name}' for name in new)]
    assert (found['precision'], found['backend']) == ('bfloat16', 'jax')
    assert (found['version.numpy'], found['version.library-07']) == ('1+2', '7')
    assert results.with_computed(launcher, [])['backend'] == 'none'
