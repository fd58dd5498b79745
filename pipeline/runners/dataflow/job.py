"""What a job of Dataflow needs beside what was asked for, and what it cannot do."""

import dataclasses
import hashlib
import importlib.util
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)

from pipeline.config import RunConfig, check_apart
from pipeline.messages import SILENT, Messages
from pipeline.options import LabelOptions
from pipeline.runners.base import Amount, elsewhere, refuse
from pipeline.runners.dataflow import machine_types
from pipeline.runners.dataflow.container_image import check_image, is_of_apache
from pipeline.runners.dataflow.status import parse_job
from pipeline.runners.explain import MODEL_COPIES, Setting, model_bytes
from transforms.core import uris
from transforms.core.errors import UsageError
from transforms.model.choices import AUTO
from transforms.model.resolve import ModelSource

IN_IMAGE = '/opt/lemmabeam/'
"""Where the image of templates/dataflow has what its workers need not fetch."""

_GB = 10**9
_IMAGE_GB = 50
_MIN_THREADS = 4
_THREADS_OF_ANY = 12
_PLAIN_JOB_NAME = 54
_MAX_WORKERS = 4000
_MIN_DISK_GB, _MAX_DISK_GB = 30, 64_000
_MAX_THREADS = 1000
_JOB_NAME = re.compile(r'[a-z]([-a-z0-9]{0,61}[a-z0-9])?')
_ANY_JOB = {'project': 'p', 'region': 'r', 'name': 'n'}
_REGION = re.compile(r'[a-z]+-[a-z]+\d+')
_ZONE = re.compile(r'([a-z]+-[a-z]+\d+)-[a-z]')
_PROJECT = re.compile(r'[a-z][-a-z0-9:.]{4,}[a-z0-9]')
_BUCKET = re.compile(r'gs://[a-z0-9][-_.a-z0-9]{1,}[a-z0-9](/.*)?')
_ONE_PROCESS = 'no_use_multiple_sdk_containers'
_MANY_PROCESSES = 'use_multiple_sdk_containers'
_PRIME = 'enable_prime'
_WORKER_ACCELERATOR = 'worker_accelerator='


def check(args: LabelOptions, options: PipelineOptions) -> None:
    """Refuses what cannot become a job, all of it at once, before anything is fetched or spent.

    Raises:
      UsageError: an option is missing, contradicts another, or leads to this machine only.
    """
    refuse(_job_problems(args, options))


def _job_problems(args: LabelOptions, options: PipelineOptions) -> Iterator[str]:
    yield from _missing(options)
    yield from _local(args)
    worker = options.view_as(WorkerOptions)
    yield from _accelerator_problems(args, options)
    if args.batch_size == AUTO:
        yield elsewhere('Dataflow')
    yield from _odd_values(options)
    # That of a template's launch may stand in its environment only.
    is_template = options.view_as(GoogleCloudOptions).template_location is not None
    if worker.num_workers is None and worker.max_num_workers is None:
        if not (args.right_fitting or is_template):
            yield (
                '--max_num_workers is missing: how many workers may be paid for at a time; '
                '--num_workers alone starts exactly so many'
            )
    elif (worker.num_workers or 0) > (worker.max_num_workers or math.inf):
        yield (
            f'--num_workers {worker.num_workers} is above --max_num_workers '
            f'{worker.max_num_workers}'
        )


def _odd_values(options: PipelineOptions) -> Iterator[str]:
    worker, debug = options.view_as(WorkerOptions), options.view_as(DebugOptions)
    for view, name, least, most in (
        (worker, 'num_workers', 1, _MAX_WORKERS),
        (worker, 'max_num_workers', 1, _MAX_WORKERS),
        (worker, 'disk_size_gb', _MIN_DISK_GB, _MAX_DISK_GB),
        (debug, 'number_of_worker_harness_threads', 1, _MAX_THREADS),
    ):
        value = getattr(view, name)
        if value is not None and not least <= value <= most:
            yield f'--{name} {value}: expected a whole number from {least} to {most}'
    if worker.machine_type:
        try:
            machine_types.vcpus(worker.machine_type)
        except UsageError as e:
            yield str(e)
    cloud, setup = options.view_as(GoogleCloudOptions), options.view_as(SetupOptions)
    if cloud.job_name and not _JOB_NAME.fullmatch(cloud.job_name):
        yield (
            f'--job_name {uris.printable(cloud.job_name)!r}: expected a letter, then at most 62 '
            'lower-case letters, digits and -, the last one no -'
        )
    if worker.worker_zone and not _ZONE.fullmatch(worker.worker_zone):
        yield f'--worker_zone {worker.worker_zone!r}: expected a zone, such as europe-west4-a'
    if worker.worker_zone and worker.worker_region:
        yield '--worker_zone and --worker_region exclude each other: give one'
    for name in ('setup_file', 'sdk_location'):
        value = getattr(setup, name)
        is_path = value and value not in ('default', 'container') and '://' not in value
        if is_path and not Path(value).is_file():
            yield f'--{name} {value}: no such file'
    for flag, is_given in (
        ('--streaming', options.view_as(StandardOptions).streaming),
        ('--update', cloud.update),
    ):
        if is_given:
            yield f'{flag}: a run is a batch, which ends by itself; leave it out'
    if parse_job({**_ANY_JOB, 'endpoint': cloud.dataflow_endpoint.rstrip('/')}) is None:
        yield f'--dataflow_endpoint {cloud.dataflow_endpoint!r}: expected one of Google'


def _missing(options: PipelineOptions) -> Iterator[str]:
    if importlib.util.find_spec('google.cloud.dataflow') is None:
        yield "the client of Dataflow is missing: pip install 'lemmabeam[gcp]'"
    cloud = options.view_as(GoogleCloudOptions)
    if not cloud.project:
        yield '--project is missing: the id of the Google Cloud project that runs the job'
    elif not _PROJECT.fullmatch(cloud.project):
        yield f'--project {cloud.project!r}: expected a project id, not its number or title'
    for flag, region in (
        ('--region', cloud.region),
        ('--worker_region', options.view_as(WorkerOptions).worker_region),
    ):
        zone = _ZONE.fullmatch(region or '')
        if zone:
            yield f'{flag} {region} is a zone: pass {flag} {zone[1]} --worker_zone {region}'
        elif region and not _REGION.fullmatch(region):
            yield f'{flag} {region!r}: expected the name of a region, such as europe-west4'
    if not cloud.region:
        yield '--region is missing: such as europe-west4; it must have the GPUs'
    if not (cloud.temp_location or cloud.staging_location):
        yield '--temp_location is missing: gs://BUCKET/FOLDER for temporary files of the job'
    for name in ('temp_location', 'staging_location', 'template_location'):
        value = getattr(cloud, name)
        if value and not _BUCKET.fullmatch(value):
            yield f'--{name} {value!r}: expected gs://BUCKET/FOLDER'
    worker, setup = options.view_as(WorkerOptions), options.view_as(SetupOptions)
    image = worker.sdk_container_image
    if not (setup.setup_file or setup.extra_packages):
        if not image:
            yield (
                '--sdk_container_image is missing: an image with Lemmabeam in it, such as '
                'templates/dataflow/Dockerfile makes'
            )
        elif is_of_apache(image):
            yield (
                f'--sdk_container_image {image}: the images of Beam have no Lemmabeam; take one '
                'that templates/dataflow/Dockerfile makes'
            )


def _local(args: LabelOptions) -> Iterator[str]:
    for flag, values in (('input', args.input), ('output', [args.output])):
        for value in values:
            if uris.scheme_of(value) == '':
                yield (
                    f'--{flag} {uris.printable(value)}: a path of this machine, which the workers '
                    'do not see; copy it to a bucket (gs://, s3:// or az://)'
                )
    is_path = uris.scheme_of(args.model) == '' and Path(args.model).exists()
    if is_path and not args.model.startswith(IN_IMAGE):
        yield (
            f'--model {uris.printable(args.model)}: a path of this machine, which the workers do '
            f'not see; copy it to a bucket, or into the image, below {IN_IMAGE}'
        )


def _accelerator_problems(args: LabelOptions, options: PipelineOptions) -> Iterator[str]:
    worker = options.view_as(WorkerOptions)
    service = options.view_as(GoogleCloudOptions).dataflow_service_options or []
    debug = options.view_as(DebugOptions)
    if _is_prime(options) and not args.right_fitting:
        yield f'{_PRIME}: it chooses the machines by hints, which --right_fitting gives; add that'
    by_hand = [option for option in service if option.startswith(_WORKER_ACCELERATOR)]
    if args.accelerator is None:
        if args.right_fitting:
            yield '--right_fitting needs --accelerator: which GPU the workers that infer have'
        if by_hand:
            yield (
                f'--dataflow_service_options={by_hand[0]}: ask for it with --accelerator, which '
                'sets what belongs to it and makes sure that it is used'
            )
        elif args.accelerators_per_worker > 1:
            yield '--accelerators_per_worker: no worker has a GPU without --accelerator'
        elif args.require_gpu:
            yield '--require_gpu: no worker has a GPU without --accelerator, such as nvidia-l4'
        return
    if by_hand:
        yield f'--accelerator and --dataflow_service_options={by_hand[0]} say the same: give one'
    if options.view_as(GoogleCloudOptions).flexrs_goal:
        yield '--flexrs_goal: FlexRS has no GPUs; leave it or --accelerator out'
    given = worker.machine_type
    if args.right_fitting:
        if given:
            yield (
                f'--right_fitting and --machine_type {given}: with it, steps have machines of '
                'their own; leave one out'
            )
        given = ''
    count = args.accelerators_per_worker
    problem = machine_types.accelerator_problem(args.accelerator, given, count)
    if problem is not None:
        yield problem
    if debug.lookup_experiment(_MANY_PROCESSES):
        yield (
            f'--experiments={_MANY_PROCESSES}: each process of a worker would load the model into '
            'the memory of its one GPU; leave it out'
        )
    if worker.sdk_container_image is None or is_of_apache(worker.sdk_container_image):
        yield '--accelerator: the images of Beam have no CUDA; --sdk_container_image must'


def complete(args: LabelOptions, options: PipelineOptions) -> tuple[LabelOptions, list[Setting]]:
    """Sets what follows from the options alone; the listing's part is `set_workers`.

    Returns:
      Ours, completed, and what was set, with the reasons; Beam's are completed in place.
    """
    worker, setup = options.view_as(WorkerOptions), options.view_as(SetupOptions)
    settings = []
    if options.view_as(GoogleCloudOptions).template_location:
        # The service submits what is staged, and this command ends.
        args = dataclasses.replace(args, no_wait=True)
    if args.accelerator is not None:
        args = dataclasses.replace(args, require_gpu=True)
        settings.append(Setting('--require_gpu', 'a worker whose GPU does not work stops the job'))
    args, found = _by_hints(args, options) if args.right_fitting else _machines(args, options)
    settings += found
    args, processes = _processes(args, options.view_as(DebugOptions))
    settings.append(processes)
    if setup.save_main_session is None:
        setup.save_main_session = False  # workers need nothing of this process's main module
    if worker.sdk_container_image:
        settings.append(_default(setup, 'sdk_location', 'container', 'the image has Beam'))
        settings.append(Setting(f'--sdk_container_image={worker.sdk_container_image}', 'given'))
    return args, settings


def _default(view: Any, name: str, value: Any, why: str) -> Setting:
    """Sets an option of Beam that was not given."""
    if getattr(view, name) in (None, 'default'):  # how Beam says that it was not
        setattr(view, name, value)
        return Setting(f'--{name}={value}', why)
    return Setting(f'--{name}={getattr(view, name)}', 'given')


def _ask_service(options: PipelineOptions, asked: str) -> None:
    cloud = options.view_as(GoogleCloudOptions)
    cloud.dataflow_service_options = [*(cloud.dataflow_service_options or []), asked]


def _by_hints(args: LabelOptions, options: PipelineOptions) -> tuple[LabelOptions, list[Setting]]:
    """For workers with GPUs where hints ask for them, and others without."""
    debug = options.view_as(DebugOptions)
    asked = hint(args, options)
    settings = [Setting(f"accelerator hint '{asked}'", 'on LoadImages and LabelImages only')]
    machine = _machine_by_hint(args, options)
    if machine:
        worker = options.view_as(WorkerOptions)
        why = f'of workers without a GPU; {machine} has one'
        settings.append(_default(worker, 'machine_type', machine_types.DEFAULT_MACHINE, why))
        threads = max(_MIN_THREADS, machine_types.vcpus(machine))
        why = f'as many as {machine} has virtual cores'
    else:
        threads, why = _THREADS_OF_ANY, 'machines not known'
    settings.append(_default(debug, 'number_of_worker_harness_threads', threads, why))
    # Not those of the launcher: the last bits of scores depend on it.
    return dataclasses.replace(args, intra_op_threads=args.intra_op_threads or threads), settings


def _is_prime(options: PipelineOptions) -> bool:
    """Whether Dataflow Prime was asked for, which chooses machines itself."""
    service = options.view_as(GoogleCloudOptions).dataflow_service_options or []
    return _PRIME in service or bool(options.view_as(DebugOptions).lookup_experiment(_PRIME))


def _machine_by_hint(args: LabelOptions, options: PipelineOptions) -> str:
    """The machine type that a hint asks for with the GPU; '' for any."""
    if _is_prime(options) or args.accelerator not in machine_types.ACCELERATORS:
        return ''
    return machine_types.machine_for(args.accelerator, args.accelerators_per_worker)


def _machines(args: LabelOptions, options: PipelineOptions) -> tuple[LabelOptions, list[Setting]]:
    """For workers that are all alike."""
    worker, debug = options.view_as(WorkerOptions), options.view_as(DebugOptions)
    accelerator = args.accelerator
    settings = []
    if accelerator is not None:
        asked = f'{_WORKER_ACCELERATOR}{hint(args, options)}'
        _ask_service(options, asked)
        why = f'--accelerator {accelerator}, and a driver for CUDA 12'
        settings.append(Setting(f"--dataflow_service_options='{asked}'", why))
    machine = machine_types.machine_for(
        accelerator if accelerator in machine_types.ACCELERATORS else None,
        args.accelerators_per_worker,
    )
    count = 'one' if args.accelerators_per_worker == 1 else args.accelerators_per_worker
    why = f'takes {count} {accelerator}' if accelerator else 'memory for TensorFlow and a model'
    settings.append(_default(worker, 'machine_type', machine, why))
    cores = machine_types.vcpus(worker.machine_type)
    threads = max(_MIN_THREADS, cores)
    why = f'{worker.machine_type} has {cores} virtual cores; each thread loads images ahead'
    settings.append(_default(debug, 'number_of_worker_harness_threads', threads, why))
    if args.intra_op_threads is None:
        args = dataclasses.replace(args, intra_op_threads=cores)
    return args, settings


def _processes(args: LabelOptions, debug: DebugOptions) -> tuple[LabelOptions, Setting]:
    """One process a worker, so that there is one model, unless it is asked for more."""
    if not debug.lookup_experiment(_MANY_PROCESSES):
        debug.add_experiment(_ONE_PROCESS)
        return args, Setting(f'--experiments={_ONE_PROCESS}', 'one process a worker, so one model')
    if args.loader_processes is None:
        # Beside each of as many processes as there are cores.
        args = dataclasses.replace(args, loader_processes=1)
    return args, Setting(f'--experiments={_MANY_PROCESSES}', 'given')


def hint(args: LabelOptions, options: PipelineOptions) -> str:
    """The GPU of a worker as Dataflow takes it, in service options and resource hints."""
    machine = _machine_by_hint(args, options) if args.right_fitting else ''
    of_machine = f'machine_type:{machine};' if machine else ''
    count = f'count:{args.accelerators_per_worker}'
    return f'type:{args.accelerator};{count};{of_machine}{machine_types.DRIVER}'


def cores(options: PipelineOptions) -> int:
    """Virtual cores of the workers that load and label, once `complete` has set their threads."""
    machine = options.view_as(WorkerOptions).machine_type
    threads: int = options.view_as(DebugOptions).number_of_worker_harness_threads
    return max(threads, machine_types.vcpus(machine)) if machine else threads


def size_disk(options: PipelineOptions, model: ModelSource) -> Setting:
    """Makes the boot disk large enough for the image and the model."""
    worker = options.view_as(WorkerOptions)
    if worker.disk_size_gb:
        return Setting(f'--disk_size_gb={worker.disk_size_gb}', 'given')
    size = model_bytes(model)
    worker.disk_size_gb = _IMAGE_GB + math.ceil(MODEL_COPIES * size / _GB)
    why = f'{_IMAGE_GB} for system and image'
    if size:
        why += f', {MODEL_COPIES} times the model of {size / _GB:.2f} GB (packed, unpacked, spare)'
    return Setting(f'--disk_size_gb={worker.disk_size_gb}', why)


def set_workers(args: LabelOptions, options: PipelineOptions, amount: Amount) -> list[Setting]:
    """Sets the number of workers from the listing, and switches autoscaling off.

    To Dataflow's autoscaling, chunks of URIs look like no work at all.

    Raises:
      StoreError: the inputs cannot be listed.
      ManifestError: one is a broken manifest.
    """
    worker = options.view_as(WorkerOptions)
    if args.right_fitting or (worker.num_workers is None and worker.max_num_workers is None):
        return []
    at_least, at_most = worker.num_workers or 1, worker.max_num_workers or worker.num_workers
    if at_least == at_most:
        why = 'given'
        worker.num_workers = at_most
    else:
        worker.num_workers, why = _workers(args, at_least, at_most, amount)
    settings = [Setting(f'--num_workers={worker.num_workers}', why)]
    if worker.autoscaling_algorithm is None:
        worker.autoscaling_algorithm = 'NONE'
        settings.append(
            Setting('--autoscaling_algorithm=NONE', 'it takes chunks of URIs for next to no work')
        )
    else:
        settings.append(Setting(f'--autoscaling_algorithm={worker.autoscaling_algorithm}', 'given'))
    return settings


def _workers(args: LabelOptions, at_least: int, at_most: int, amount: Amount) -> tuple[int, str]:
    """How many workers, and why; the listing is read only as far as it matters."""
    per_worker = args.images_per_worker
    done = 0 if args.force else amount.done()
    enough = done + at_most * per_worker
    listed = amount.listed(enough)
    new = max(0, listed - done)
    count = max(at_least, min(at_most, math.ceil(new / per_worker)))
    more = 'at least ' if listed >= enough else ''
    known = f', {done:,} of them done by earlier runs' if done else ''
    return count, (
        f'{more}{listed:,} images listed{known}; one for each {per_worker:,} '
        f'(--images_per_worker), {at_least} at least, {at_most} at most'
    )


def fit(
    args: LabelOptions,
    options: PipelineOptions,
    config: RunConfig,
    amount: Amount,
    messages: Messages = SILENT,
) -> tuple[RunConfig, list[Setting]]:
    """Sets what follows from image, model and listing.

    Returns:
      The config as the workers need it, and what was set.

    Raises:
      UsageError: the image has another Beam or Python than this launcher, or is not there.
      StoreError: the inputs cannot be listed.
      ManifestError: one is a broken manifest.
    """
    image = options.view_as(WorkerOptions).sdk_container_image
    if image:
        check_image(image, messages)
    cloud = options.view_as(GoogleCloudOptions)
    for source in config.listing.inputs:
        for name in ('temp_location', 'staging_location'):
            if getattr(cloud, name):
                check_apart(source, f'--{name}', getattr(cloud, name))
    settings = [
        size_disk(options, config.inference.model),
        *set_workers(args, options, amount),
    ]
    config = dataclasses.replace(
        config,
        listing=config.listing._replace(is_remote=True),
        preflight=config.preflight._replace(is_remote=True),
        accelerator=hint(args, options) if args.right_fitting else '',
    )
    return config, settings


def name_submission(options: PipelineOptions, config: RunConfig) -> set[str]:
    """Names the job after the run; the folders in which it is staged."""
    cloud = options.view_as(GoogleCloudOptions)
    cloud.job_name = cloud.job_name or job_name(config.layout.run_id)
    cloud.temp_location = cloud.temp_location or cloud.staging_location
    template = cloud.template_location and uris.folder_of(cloud.template_location)
    return {cloud.temp_location, cloud.staging_location, template} - {None}


def job_name(run_id: str) -> str:
    """The name of a run's job: Dataflow refuses a second active one of a name."""
    name = f'lemmabeam-{run_id}'
    if _JOB_NAME.fullmatch(name.lower()):
        return name.lower()
    # No other run has this name, whatever is left of its own.
    plain = re.sub(r'[^a-z0-9-]', '-', name.lower())[:_PLAIN_JOB_NAME].rstrip('-')
    return f'{plain}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}'
