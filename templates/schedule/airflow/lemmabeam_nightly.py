"""Labels every night what is new, on the Airflow worker itself. For Airflow 3.

Put it into the DAG folder and adapt what stands in capitals. `lemmabeam` has to be on the PATH of
the worker, in an environment of its own: its libraries and Airflow's need not agree. No credentials
belong here: Lemmabeam takes those of the worker's environment.

Exit codes of Lemmabeam, and what becomes of the task:
  0         success
  2, 3      failed at once: wrong usage, or labelled, but more images failed than allowed. Another
            try would change nothing; a person has to look (results of 3 are kept)
  1, other  tried again as the same run, which goes on from what is finished
"""

import hashlib
import shlex
from datetime import UTC, datetime, timedelta

from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowFailException,
    AirflowSkipException,
)
from airflow.providers.standard.operators.bash import BashOperator

INPUT = 'gs://example-photos'
OUTPUT = 'gs://example-labels'
OPTIONS = ['--model', 'bit-m-r101x3', '--max_failure_rate', '0.01']
SCHEDULE = '0 2 * * *'  # UTC

NO_RETRY_EXIT_CODES = [2, 3]


class LabelOperator(BashOperator):
    """A BashOperator that fails without another try where BashOperator would skip."""

    def execute(self, context):
        try:
            return super().execute(context)
        except AirflowSkipException as e:
            raise AirflowFailException(
                f'{self.bash_command!r}: no other try, see the exit codes in this DAG; {e}'
            ) from e


def run_id_of(dag_run) -> str:
    """The same for each try of a task, another for each DAG run; a manual one may have no date."""
    digest = hashlib.sha256(dag_run.run_id.encode()).hexdigest()
    return f'nightly-{dag_run.run_after:%Y%m%d}-{digest[:8]}'


with DAG(
    'lemmabeam_nightly',
    description='Label what is new',
    schedule=SCHEDULE,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,  # a night that was missed is in the next one
    max_active_runs=1,
    user_defined_filters={'run_id_of': run_id_of},
    tags=['lemmabeam'],
):
    LabelOperator(
        task_id='label',
        bash_command='exec '
        + shlex.join(['lemmabeam', 'label', '--input', INPUT, '--output', OUTPUT, *OPTIONS])
        # An attempt that Airflow lost sight of may still be running when the next one starts.
        + ' --wait_for_lease_sec 600 --run_id {{ dag_run | run_id_of }}',
        skip_on_exit_code=NO_RETRY_EXIT_CODES,
        retries=2,
        retry_delay=timedelta(minutes=10),
        # Ends it by SIGTERM, as does a person who marks the task; what is finished is kept.
        execution_timeout=timedelta(hours=20),
    )
