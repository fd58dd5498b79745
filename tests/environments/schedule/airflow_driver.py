"""Asks a real Airflow about the DAGs of templates/schedule/airflow.

Run by the Python of .venvs/airflow; the last line of standard output is JSON.

    describe FOLDER              what DagBag makes of the files
    render FOLDER DAG RUN_ID     the fields of the task, for the scheduled run of this id
    run FOLDER DAG [--date D] [--timeout_sec N]
                                 runs the DAG once, tries included; `lemmabeam` comes from the PATH,
                                 and what the Dataflow hook is asked for is recorded, not sent
"""

import argparse
import json
import types
from datetime import datetime, timedelta
from unittest import mock

from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.exceptions import AirflowException
from airflow.providers.google.cloud.hooks.dataflow import DataflowHook
from google.cloud import dataflow_v1beta3 as dataflow


def describe(args):
    bag = DagBag(args.folder)
    return {
        'import_errors': bag.import_errors,
        'warnings': [str(warning) for warning in bag.captured_warnings.values()],
        'dags': {
            dag.dag_id: {
                'schedule': dag.schedule,
                'catchup': dag.catchup,
                'max_active_runs': dag.max_active_runs,
                'tasks': {
                    task.task_id: {
                        'retries': task.retries,
                        'timeout_sec': task.execution_timeout.total_seconds(),
                    }
                    for task in dag.tasks
                },
            }
            for dag in bag.dags.values()
        },
    }


def render(args):
    task = DagBag(args.folder).dags[args.dag].get_task('label')
    run_after = datetime.fromisoformat(args.run_id.partition('__')[2])
    dag_run = types.SimpleNamespace(run_id=args.run_id, run_after=run_after)
    task.render_template_fields({'dag_run': dag_run})
    return {name: getattr(task, name) for name in task.template_fields}


def run(args):
    bag = DagBag(args.folder, bundle_name='dags-folder')
    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(bag, 'dags-folder', None)
    dag = bag.dags[args.dag]
    task = dag.get_task('label')
    task.retry_delay = timedelta(0)
    if args.timeout_sec:
        task.execution_timeout = timedelta(seconds=args.timeout_sec)
    requests = []

    def refuse(self, *, body, location, project_id, on_new_job_callback):
        # Unknown fields raise.
        message = {'projectId': project_id, 'location': location, **body}
        dataflow.LaunchFlexTemplateRequest.from_json(json.dumps(message))
        requests.append(message)
        raise AirflowException('the job failed')

    with mock.patch.object(DataflowHook, 'start_flex_template', refuse):
        done = dag.test(logical_date=args.date and datetime.fromisoformat(args.date))
    (instance,) = done.get_task_instances()
    return {
        'run_id': done.run_id,
        'state': instance.state,
        'tries': instance.try_number,
        'requests': requests,
    }


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    for command in (describe, render, run):
        each = commands.add_parser(command.__name__)
        each.set_defaults(command=command)
        each.add_argument('folder')
        if command is not describe:
            each.add_argument('dag')
        if command is render:
            each.add_argument('run_id')
        if command is run:
            each.add_argument('--date')
            each.add_argument('--timeout_sec', type=float)
    args = parser.parse_args()
    print(json.dumps(args.command(args)), flush=True)


if __name__ == '__main__':
    main()
