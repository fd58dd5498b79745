"""The engine that computes a run: in this process, on a cluster, or as a job of Dataflow."""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Protocol

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, StandardOptions
from apache_beam.runners.runner import PipelineResult, PipelineState

from pipeline.config import RunConfig
from pipeline.messages import SILENT, Messages
from pipeline.options import LabelOptions
from pipeline.runners.explain import Setting
from transforms.core.errors import UsageError
from transforms.core.resources import cpu_count
from transforms.model.choices import AUTO

_NO_JAR = re.compile(
    r'Unable to fetch remote job server jar at \S*/([^/\s]+)\.jar: (.*?)\. (?:Also|If) '
)
_WORKER_GONE = 'SDK worker disconnected'  # as Prism has it


class Amount(Protocol):
    """How much a run has to do, for engines that are sized by it; looked at when it is asked."""

    def listed(self, enough: int) -> int:
        """How many images are labelled at most, counted no further than `enough`.

        Raises:
          StoreError: the inputs cannot be listed.
          ManifestError: one is a broken manifest.
        """

    def done(self) -> int:
        """How many of these inputs earlier runs have dealt with.

        Raises:
          StoreError: a report is damaged, or the store does not answer.
        """


class Runner:
    """What a run asks of its engine; the answers here are those of an engine nobody knows.

    Args:
      options: of Beam.
      messages: takes what cannot be found out before the run.

    Attributes:
      options: the same, or those of the pipeline once there is one; engines may change them.
      name: of its class, such as 'FlinkRunner'.
      outlives_launcher: whether somebody goes on working when the process that started the run is
        gone.
      is_this_process: whether all elements stay in the process that starts the run.
      starts_workers: whether it starts processes that write to the standard error of this one.
    """

    is_this_process = False
    starts_workers = False

    def __init__(self, options: PipelineOptions, messages: Messages = SILENT):
        self.options = options
        self._messages = messages
        self.name = runner_name(options)
        self.outlives_launcher = environment_of(options) != 'LOOPBACK'

    @property
    def title(self) -> str:
        """What a run is with it, for people."""
        if self.outlives_launcher:
            return f'job for {self.name}'
        return f'run on this machine, by {self.name}'

    def check(self, args: LabelOptions) -> None:
        """Refuses what cannot be run, before anything is fetched, listed or spent.

        Raises:
          UsageError: an option is missing, contradicts another or has no meaning here.
        """
        refuse(self._not_here(args))

    def _not_here(self, args: LabelOptions) -> Iterator[str]:
        for name, is_given in (
            ('accelerator', args.accelerator),
            ('right_fitting', args.right_fitting),
        ):
            if is_given:
                yield (
                    f'--{name}: only Dataflow provides machines (--runner=DataflowRunner); with '
                    f'{self.name} the workers are yours: --require_gpu makes sure that they have a '
                    'GPU'
                )
        if args.batch_size == AUTO and self.outlives_launcher:
            yield elsewhere(self.name)
        if args.no_wait and not self.outlives_launcher:
            yield f'--no_wait: {self.name} works only as long as this command runs'

    def defaults(self, args: LabelOptions) -> tuple[LabelOptions, list[Setting]]:
        """What follows from the options alone.

        Returns:
          Ours, completed, and what was set, with the reasons; Beam's are completed in place.
        """
        return args, []

    def fit(
        self, args: LabelOptions, config: RunConfig, amount: Amount
    ) -> tuple[RunConfig, list[Setting]]:
        """What follows from model and listing.

        Returns:
          The config as the workers need it, and what was set; Beam's options are set in place.

        Raises:
          UsageError: the workers could not do this run.
          StoreError: the inputs cannot be listed.
          ManifestError: one is a broken manifest.
        """
        return config, []

    @property
    def cores(self) -> int:
        """Of a worker, as far as it is known."""
        return cpu_count()

    def make_pipeline(self) -> beam.Pipeline:
        """An empty pipeline, which has a copy of the options.

        Raises:
          UsageError: Beam has no such runner.
        """
        try:
            root = beam.Pipeline(options=self.options)
        except (ValueError, ImportError) as e:
            raise UsageError(f'--runner: {e}') from e
        self.options = root.options
        return root

    def prepare(self, config: RunConfig) -> Collection[str]:
        """Names, right before the run, what is submitted; the folders that it is staged in."""
        return ()

    def announce(self) -> bool:
        """Whether from now on there may be a job of this run, whatever becomes of this process."""
        return False

    def submitted(self, result: PipelineResult) -> str:
        """Takes note of what was started; what to tell people of it, or ''."""
        return ''

    @property
    def lease_job(self) -> dict[str, str] | None:
        """What the lease is to say of the job; None for one that cannot be asked about."""
        return None

    def advice(self) -> str:
        """What becomes of the job when this process ends now, to be put behind why; '' for none."""
        return ''

    def has_ended(self, result: PipelineResult) -> bool:
        """Whether nobody works on what was started any more; False where nobody can tell."""
        try:
            return bool(PipelineState.is_terminal(result.state))
        except Exception:  # noqa: BLE001 (a job server that does not answer)
            return False

    def explain_error(self, error: BaseException) -> str | None:
        """What an error of the engine itself means, or None."""
        details = getattr(error, 'details', None)  # of an error of gRPC
        if callable(details) and not isinstance(details(), list):
            return f'the engine does not answer: {details()}'
        if no_jar := _NO_JAR.match(str(error)):
            name, why = no_jar.groups()
            artifact = name.removesuffix(f'-{beam.__version__}')
            flag = f'--{self.name.removesuffix("Runner").lower()}_job_server_jar'
            return (
                f'--runner={self.name}: it needs the job server {name}.jar, which cannot be '
                f'downloaded ({why}); fetch org.apache.beam:{artifact}:{beam.__version__} from '
                f'Maven and name the file with {flag}, or name a job server that runs already with '
                '--job_endpoint'
            )
        return str(error) if _WORKER_GONE in str(error) else None


def environment_of(options: PipelineOptions) -> str:
    """Where the workers of a portable runner are: 'LOOPBACK', 'DOCKER', ..., '' for its default."""
    return (options.view_as(PortableOptions).environment_type or '').upper()


def runner_name(options: PipelineOptions) -> str:
    """The class name of the runner, such as 'FnApiRunner'."""
    return str(options.view_as(StandardOptions).runner or 'DirectRunner').rpartition('.')[2]


def elsewhere(runner: str) -> str:
    """Why nothing can be measured for the workers of a runner."""
    return (
        f'--batch_size {AUTO}: it measures on the GPU of this machine, and the workers of {runner} '
        'are others; give a number, such as the one that auto finds on such a machine'
    )


def refuse(problems: Iterable[str]) -> None:
    """Refuses a run for all its problems at once.

    Raises:
      UsageError: there are some.
    """
    found = list(problems)
    if found:
        raise UsageError('\n  '.join(['the job cannot be submitted:', *found]))
