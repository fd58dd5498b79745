"""Files of ours are read a part at a time, whatever their rows are like."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.output.parquet import MOST_ROWS, batches, open_parquet


def stored(**columns):
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, use_dictionary=False)
    file.seek(0)
    return open_parquet(file)


def test_short_rows_are_read_many_at_a_time():
    parquet = stored(uri=[f'/{i}' for i in range(2 * MOST_ROWS + 1)])
    assert [len(batch) for batch in batches(parquet)] == [MOST_ROWS, MOST_ROWS, 1]
    assert [len(batch) for batch in batches(parquet, most_rows=MOST_ROWS * 2)] == [8192, 1]


def test_long_rows_are_read_as_many_as_fit():
    parquet = stored(uri=[f'/{i}' for i in range(40)], carried=[bytes(1 << 20)] * 40)
    sizes = [len(batch) for batch in batches(parquet)]
    assert sum(sizes) == 40
    assert 1 < max(sizes) <= 16


def test_columns_are_chosen():
    parquet = stored(uri=['/a'], reason=['empty'])
    (batch,) = batches(parquet, ['reason'], use_threads=False)
    assert batch.to_pylist() == [{'reason': 'empty'}]


def test_a_file_without_rows_has_no_batches():
    assert [len(batch) for batch in batches(stored(uri=pa.array([], pa.string())))] in ([], [0])
