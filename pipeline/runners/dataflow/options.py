"""The options that say on what a job of Dataflow runs."""

import argparse

from pipeline.options import positive


def add_dataflow_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say on what a job of Dataflow runs."""
    where = parser.add_argument_group('where it runs (--runner=DataflowRunner)')
    where.add_argument(
        '--accelerator',
        metavar='TYPE',
        help='GPU of each worker, such as nvidia-l4 or nvidia-tesla-t4; --require_gpu is implied '
        '(default: none, the model runs on CPUs)',
    )
    where.add_argument(
        '--accelerators_per_worker',
        type=positive,
        default=1,
        metavar='N',
        help='GPUs of a worker; only 1 is of use, as a worker calls one (default: 1)',
    )
    where.add_argument(
        '--right_fitting',
        action='store_true',
        help='GPUs only on the workers that call the model, as resource hints of Dataflow Prime, '
        'which chooses machines and their number itself (default: every worker has one)',
    )
    where.add_argument(
        '--images_per_worker',
        type=positive,
        default=100_000,
        metavar='N',
        help='start a worker for each N images that are listed and not labelled yet, --num_workers '
        'at least and --max_num_workers at most (default: 100000)',
    )
    where.add_argument(
        '--no_wait',
        action='store_true',
        help='return as soon as the job is submitted (default: wait for its end)',
    )
    where.add_argument(
        '--explain',
        action='store_true',
        help='print what the run would be given, and why, and start nothing',
    )
