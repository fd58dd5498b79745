"""The newest rows of a dataset as a query: `latest.sql`, for DuckDB and BigQuery."""

import re
from collections.abc import Callable, Iterable, Sequence

from transforms.core import uris
from transforms.core.elements import Note
from transforms.core.errors import StoreError
from transforms.dataset import gone
from transforms.dataset.reader import Dataset, files_of, open_dataset
from transforms.output import predictions, run_metadata
from transforms.runs.complete import CompleteRun, complete_runs
from transforms.storage.base import Store

PATH = 'latest.sql'

_LABELS = 'struct("index" integer, wnid varchar, "name" varchar, score float)[]'
_TYPES = {
    'width': 'integer',
    'height': 'integer',
    'labels': _LABELS,
    run_metadata.FEATURES: 'float[]',
}
# Each time another run was faster.
_TRIES = 10
_NOWHERE = 'gs://BUCKET/FOLDER'
_GLOB = re.compile(r'[*?\[]')
_NEEDS_ESCAPE = re.compile(r'[\x00-\x1f\x7f\\\'"`*]')


def latest_sql(dataset: Dataset, runs: Sequence[CompleteRun]) -> str:
    """A query for the newest row of every (uri, carried columns) and model.

    It names the files of the complete runs one by one, instead of a pattern: so it never sees
    a run that is being published, needs no listing, and takes model, run and partitions from
    itself and not from the path, where a folder above the dataset may look like a partition, too.

    Args:
      dataset: the folder.
      runs: its complete runs, the oldest first.

    Returns:
      SQL of DuckDB, with columns uri, object_version, content_sha256, width, height, format,
      labels, features if any run has them, the carried columns, model, run and gone_since; behind
      it, as a comment, the same for BigQuery, but for the last one.

    Raises:
      StoreError: a report is damaged.
    """
    return f'{_duckdb(dataset, runs)}\n{_bigquery(dataset, runs)}'


def write_latest_sql(
    output: str,
    store: Store,
    without: Sequence[str] = (),
    find_runs: Callable[[str, Store], Sequence[CompleteRun]] = complete_runs,
) -> None:
    """Rewrites DIR/latest.sql, for the runs that are complete now.

    Args:
      output: absolute URI of the output folder.
      store: how it is reached.
      without: ids of runs that are about to be removed.
      find_runs: finds the complete ones.

    Raises:
      UsageError: no run has written there.
      StoreError: a report is damaged, or the store fails.
    """
    dataset = open_dataset(output, store)
    uri = uris.join(output, PATH)
    for _ in range(_TRIES):
        # Before the runs are: whoever completes one after that writes this file, too, and of the
        # two the later one sees all runs.
        seen = store.look(uri)
        runs = [run for run in find_runs(output, store) if run.id not in without]
        data = latest_sql(dataset, runs).encode()
        if store.create(uri, data) if seen is None else store.replace(uri, data, seen):
            return
    raise StoreError(f'cannot write {uri}: other processes keep changing it')


def _columns(runs: Sequence[CompleteRun]) -> list[str]:
    names = predictions.prediction_schema((), {}).names
    has_features = any(run_metadata.FEATURES in run.report.metadata for run in runs)
    return [*names, run_metadata.FEATURES] if has_features else names


def _duckdb(dataset: Dataset, runs: Sequence[CompleteRun]) -> str:
    columns = _columns(runs)
    files = [
        file
        for place, run in enumerate(runs, 1)
        for file in files_of(dataset, run, place)
        if file.rows
    ]
    if not files:
        return _duckdb_of_nothing(dataset, columns)
    places = [
        f'({place}, {_text(run.model_id)}, {_text(run.id)})' for place, run in enumerate(runs, 1)
    ]
    locations = [_location(dataset.output, file.path) for file in files]
    rows = []
    for file, uri in zip(files, locations, strict=True):
        value_of = dict(zip(dataset.carry, file.values, strict=True))
        values = [_text(value_of[name]) for name in dataset.partition_by]
        rows.append(f'({", ".join([_text(uri), str(file.place), *values])})')
    # Partitions have names of ours until they are shown: theirs may be 'file' or 'place'.
    partitions = [f'value{i}' for i in range(len(dataset.partition_by))]
    location, place = (_unlike(name, dataset.carry) for name in ('location', 'place'))
    stored = [f'p.{_name(name)}' for name in (*columns, *dataset.file_columns)]
    stored += [
        f'cast(f.{ours} as varchar) as {_name(name)}'
        for ours, name in zip(partitions, dataset.partition_by, strict=True)
    ]
    stored += ['r.model', 'r.run', f'r.place as {place}']
    keys = [_name(name) for name in ('uri', *dataset.carry, 'model')]
    # The keys alone are grouped: ranking whole rows takes ten times as long.
    same = [f's.{key} is not distinct from n.{key}' for key in keys]
    shown = [f's.{_name(name)}' for name in (*columns, *dataset.carry, 'model', 'run')]
    notes, since = _notes(dataset, runs, keys, place)
    shown.append(f'g.{predictions.GONE_SINCE}' if notes else _NEVER_GONE)
    return f"""\
{_HEAD}with runs (place, model, run) as (values
    {_lines(places)}
),
files ({', '.join(['file', 'place', *partitions])}) as (values
    {_lines(rows)}
),
stored as not materialized (
    select
        {_lines(stored, 8)}
    from read_parquet([
        {_lines((_text(_pattern(uri)) for uri in locations), 8)}
    ], union_by_name = true, hive_partitioning = false, filename = '{location}') as p
    join files as f on f.file = p.{location}
    join runs as r on r.place = f.place
),
newest as (
    select {', '.join(keys)}, max({place}) as {place} from stored group by all
){notes}
select
    {_lines(shown)}
from stored as s
join newest as n
on s.{place} = n.{place}
    and {f'{chr(10)}    and '.join(same)}
{since}"""


def _duckdb_of_nothing(dataset: Dataset, columns: Sequence[str]) -> str:
    nothing = [f'cast(null as {_TYPES.get(name, "varchar")}) as {_name(name)}' for name in columns]
    texts = [*dataset.carry, 'model', 'run']
    nothing += [f'cast(null as varchar) as {_name(name)}' for name in texts]
    nothing.append(_NEVER_GONE)
    return f'{_HEAD}select\n    {_lines(nothing)}\nwhere false\n'


def _notes(
    dataset: Dataset, runs: Sequence[CompleteRun], keys: Sequence[str], place: str
) -> tuple[str, str]:
    """Since when rows are gone: what comes before the query, and what joins it; '' without notes.

    As `transforms.dataset.gone` has it, with the places of `latest_sql` and its keys, quoted.
    """
    files = [(place, file) for place, run in enumerate(runs, 1) for file in gone.note_files(run)]
    if not files:
        return '', ''
    locations = [_location(dataset.output, file.path) for _, file in files]
    rows = [
        f'({_text(uri)}, {place}, {_text(file.started_at)})'
        for uri, (place, file) in zip(locations, files, strict=True)
    ]
    values = [f"json_extract_string(p.carried, '$[{i}]')" for i in range(len(dataset.carry))]
    noted = [f'{value} as {_name(name)}' for name, value in zip(dataset.carry, values, strict=True)]
    started = "cast(coalesce(nullif(p.object_version, ''), f.started) as timestamptz)"
    since, listed = (_unlike(name, dataset.carry) for name in ('since', 'listed'))
    noted = ['p.uri', *noted, 'r.model', f'r.place as {place}', 'p.reason', f'{started} as {since}']
    same = ''.join(f'\n        and g.{key} is not distinct from n.{key}' for key in keys)
    before = f"""\
,
note_files (file, place, started) as (values
    {_lines(rows)}
),
notes as (
    select
        {_lines(noted, 8)}
    from read_parquet([
        {_lines((_text(_pattern(uri)) for uri in locations), 8)}
    ], hive_partitioning = false, filename = 'location') as p
    join note_files as f on f.file = p.location
    join runs as r on r.place = f.place
    where p.reason in ('{Note.GONE.value}', '{Note.LISTED.value}')
),
last_notes as (
    select *, max({place}) filter (where reason = '{Note.LISTED.value}') over (
        partition by {', '.join(keys)}
    ) as {listed}
    from notes
),
gone as (
    select {', '.join(f'n.{key}' for key in keys)}, min(g.{since}) as {predictions.GONE_SINCE}
    from newest as n
    join last_notes as g
    on g.{place} >= n.{place}{same}
    where g.reason = '{Note.GONE.value}' and g.{place} > coalesce(g.{listed}, 0)
    group by all
)"""
    same = f'{chr(10)}    and '.join(f's.{key} is not distinct from g.{key}' for key in keys)
    return before, f'left join gone as g\non {same}\n'


def _unlike(name: str, taken: Sequence[str]) -> str:
    while name in (each.lower() for each in taken):
        name += '_'
    return name


def _location(output: str, path: str) -> str:
    """A file as DuckDB names it, which has the account of Azure with its host."""
    scheme, mark, rest = uris.join(output, path).partition('://')
    if scheme == 'az':
        account, _, rest = rest.partition('/')
        return f'az://{account}.blob.core.windows.net/{rest}'
    return f'{scheme}{mark}{rest}'


_NEVER_GONE = f'cast(null as timestamptz) as {predictions.GONE_SINCE}'
_HEAD = """\
-- The newest row of every image and model, of the complete runs of this dataset.  Written anew by
-- every run; edit a copy.  The place of a run is its place in time.  With a gone_since are rows
-- that the inputs of their run do not list any more: "where gone_since is null" leaves them out.
--
-- DuckDB takes this file as it is: duckdb.sql(open('latest.sql').read()).  Where the dataset was
-- moved to another place, its files are no longer where this file says.

"""


def _bigquery(dataset: Dataset, runs: Sequence[CompleteRun]) -> str:
    is_there = uris.scheme_of(dataset.output) == 'gs'
    folder = uris.join(dataset.output if is_there else _NOWHERE, predictions.KIND)
    partitions = ['model string', 'run string']
    partitions += [f'{_quoted(name, "`")} string' for name in dataset.partition_by]
    # Features are left out: it has no halves of floats.  What is gone, too: its pattern of files
    # has one asterisk, which would take in all that lies beside the notes.
    names = [*predictions.prediction_schema((), {}).names, *dataset.carry, 'model', 'run']
    carried = [f'p.{_quoted(name, "`")}' for name in dataset.carry]
    places = [
        f'({place}, {_quoted(run.model_id)}, {_quoted(run.id)})'
        for place, run in enumerate(runs, 1)
    ]
    moved = '' if is_there else f'With this folder copied to {_NOWHERE}.  '
    pattern = _quoted(f'{folder}/*')
    return f"""\
/* BigQuery, without gone_since.  {moved}\\x2A in a text is an asterisk.
First, once, with a dataset of yours instead of DATASET:

create or replace external table DATASET.lemmabeam_files
with partition columns ({', '.join(partitions)})
options (
    format = 'PARQUET', enable_list_inference = true, uris = [{pattern}],
    hive_partition_uri_prefix = {_quoted(folder)}
);

Then, anew after every run, for its list of complete runs:

select
    {_lines(f'p.{_quoted(name, "`")}' for name in names)}
from DATASET.lemmabeam_files as p
join unnest(array<struct<place int64, model string, run string>>[
    {_lines(places)}
]) as r on r.model = p.model and r.run = p.run
where true
qualify row_number() over (
    partition by {', '.join(['p.model', 'p.uri', *carried])} order by r.place desc
) = 1;
*/
"""


def _lines(items: Iterable[str], indent: int = 4) -> str:
    return f',\n{" " * indent}'.join(items)


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str | None) -> str:
    return 'null' if value is None else "'" + value.replace("'", "''") + "'"


def _pattern(location: str) -> str:
    """A location so that DuckDB, for which every one is a pattern, finds nothing else."""
    # With a backslash in it, which has no escape, the file itself is looked for first.
    return location if '\\' in location else _GLOB.sub(r'[\g<0>]', location)


def _quoted(value: str, mark: str = "'") -> str:
    """A text or name of BigQuery; no asterisk in it, which could end the comment it stands in."""
    return mark + _NEEDS_ESCAPE.sub(lambda match: f'\\x{ord(match[0]):02X}', value) + mark
