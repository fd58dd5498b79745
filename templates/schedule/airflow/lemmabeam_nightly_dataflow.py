"""Labels every night what is new, as a Dataflow job.

For Airflow 3 with its providers for Google and for Apache Beam: without the second, the first one
has no Dataflow. Put it into the DAG folder and adapt what stands in capitals. The Flex Template is
that of templates/dataflow. The connection `google_cloud_default` needs the roles that README.md
lists for the workflow.

A job that failed is launched again under the same name, as the same run, which goes on from what is
finished. Dataflow does not pass on the exit codes of Lemmabeam: wrong usage is tried again as well,
and how many images failed stands in the report of the run only.
"""

import hashlib
from datetime import UTC, datetime, timedelta

from airflow.providers.common.compat.sdk import DAG
from airflow.providers.google.cloud.operators.dataflow import DataflowStartFlexTemplateOperator

PROJECT = 'example-project'
LOCATION = 'europe-west4'
TEMPLATE = 'gs://example-templates/lemmabeam/flex_template.json'
PARAMETERS = {
    'input': 'gs://example-photos',
    'output': 'gs://example-labels',
    'model': 'bit-m-r101x3',
    'accelerator': 'nvidia-l4',
    'jit': 'true',
    'max_failure_rate': '0.01',
}
ENVIRONMENT = {
    'serviceAccountEmail': 'lemmabeam-worker@example-project.iam.gserviceaccount.com',
    'tempLocation': 'gs://example-temp/lemmabeam',
    'machineType': 'g2-standard-8',
    'maxWorkers': 4,
}
SCHEDULE = '0 2 * * *'  # UTC


def run_id_of(dag_run) -> str:
    """The same for each try of a task, another for each DAG run; a manual one may have no date."""
    digest = hashlib.sha256(dag_run.run_id.encode()).hexdigest()
    return f'nightly-{dag_run.run_after:%Y%m%d}-{digest[:8]}'


with DAG(
    'lemmabeam_nightly_dataflow',
    description='Label what is new, on Dataflow',
    schedule=SCHEDULE,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,  # a night that was missed is in the next one
    max_active_runs=1,
    user_defined_filters={'run_id_of': run_id_of},
    tags=['lemmabeam'],
):
    DataflowStartFlexTemplateOperator(
        task_id='label',
        project_id=PROJECT,
        location=LOCATION,
        body={
            'launchParameter': {
                'jobName': 'lemmabeam-{{ dag_run | run_id_of }}',
                'containerSpecGcsPath': TEMPLATE,
                'parameters': {**PARAMETERS, 'run_id': '{{ dag_run | run_id_of }}'},
                'environment': ENVIRONMENT,
            }
        },
        # Two active jobs of one name are refused by Dataflow, so the same run is not started twice.
        append_job_name=False,
        wait_until_finished=True,
        poll_sleep=60,
        retries=1,
        retry_delay=timedelta(minutes=10),
        # Cancels the job; what is finished is kept.
        execution_timeout=timedelta(hours=20),
    )
