"""One attempt at a run: its graph on an engine, to the end or until somebody else has it."""

import contextlib
import re
import sys
import traceback

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, GoogleCloudOptions
from apache_beam.runners.runner import PipelineResult, PipelineState

from pipeline.config import RunConfig
from pipeline.job.chatter import without_chatter
from pipeline.job.graph import build
from pipeline.job.progress import reporting
from pipeline.runners import base
from pipeline.runners.dataflow.status import Job, has_ended
from transforms.core.errors import BooksError, InvalidOption, LemmabeamError, StoreError, UsageError
from transforms.core.long_texts import LONG_TEXTS
from transforms.runs import in_progress, lease
from transforms.runs.publish import discard

_ERROR = re.compile(rf'{re.escape(LemmabeamError.__module__)}\.(\w+): (.*)$', re.MULTILINE)
_USAGE = (UsageError.__name__, InvalidOption.__name__)
_WORKER_GONE = re.compile(r'SDK worker disconnected')  # as Prism has it
_GONE = 'gone'
_REFUSED = {
    'Forbidden': 'is its API enabled, and has this account roles/dataflow.developer',
    'PermissionDenied': 'has this account roles/dataflow.developer',
    'DataflowJobAlreadyExistsError': 'one of this name is active; wait for it, or cancel it',
    'AlreadyExists': 'one of this name is active; wait for it, or cancel it',
    'Conflict': 'one of this name is active; wait for it, or cancel it',
}
_STEP = re.compile(r' \[while running .*', re.DOTALL)


class Attempt:
    """An attempt at a run, by whoever holds the lease of its output.

    Args:
      root: an empty pipeline.
      config: the run.

    Attributes:
      is_submitted: whether somebody else works on it, who has the lease from then on.
    """

    def __init__(self, root: beam.Pipeline, config: RunConfig):
        self._root = root
        self._config = config
        # Before engines change them.
        self._runner = base.runner_of(root.options)
        self._goes_on = base.outlives_launcher(root.options)
        self._is_here = base.is_this_process(root.options)
        self._job: Job | None = None
        self.is_submitted = False

    def advice(self) -> str:
        """What becomes of it when this process ends now."""
        if self._job is not None:
            job = self._job
            return (
                f'; the job goes on; to end it: gcloud dataflow jobs cancel {job.id or "ID"} '
                f'--region={job.region} --project={job.project}'
            )
        if self.is_submitted:
            return '; the job that was submitted may go on'
        run_id = self._config.layout.run_id
        return f'; the same command again goes on with what run {run_id} has finished'

    def run(self, wait: bool, is_verbose: bool) -> int:
        """Builds and runs the graph.

        Args:
          wait: for the end of a job that goes on without this process.
          is_verbose: show where an error comes from.

        Returns:
          0, or the exit code of what stopped it.
        """
        layout = self._config.layout
        result = None
        has_left = True
        try:
            with self._without_chatter(is_verbose), self._long_texts(), reporting():
                build(self._root, self._config)
                if self._runner == base.DATAFLOW:
                    self._announce()
                result = self._root.run()
                if self._goes_on:
                    self._hand_over(result)
                if wait or not self._goes_on:
                    result.wait_until_finish()
                if wait and self._goes_on:
                    # The job has done so, unless it was faster than this process.
                    lease.release_handed_over(layout, self._lease_job())
        except Exception as e:  # noqa: BLE001 (whatever an engine raises ends here)
            # Of a store that is gone nothing can be removed; the error itself is what matters.
            with contextlib.suppress(StoreError):
                if not self._goes_on:
                    discard(layout)
                    has_left = not in_progress.leave_nothing(layout)
                elif result is None or self._has_ended(result):
                    lease.release_handed_over(layout, self._lease_job())
                else:
                    code, _ = _explain(e, is_verbose)
                    print(
                        f'lemmabeam: this command lost sight of it{self.advice()}', file=sys.stderr
                    )
                    return code
            code, kind = _explain(e, is_verbose)
            if kind != BooksError.__name__ and has_left:
                print(
                    f'lemmabeam: run {layout.run_id} is incomplete; what is finished of it is '
                    'kept, and the same command goes on with it',
                    file=sys.stderr,
                )
            return code
        return 0

    def _without_chatter(self, is_verbose: bool) -> contextlib.AbstractContextManager[None]:
        direct = self._root.options.view_as(DirectOptions)
        has_workers = direct.direct_running_mode == 'multi_processing'
        return without_chatter() if has_workers and not is_verbose else contextlib.nullcontext()

    def _long_texts(self) -> contextlib.AbstractContextManager[None]:
        return LONG_TEXTS.on_disk() if self._is_here else contextlib.nullcontext()

    def _lease_job(self) -> dict[str, str] | None:
        return None if self._job is None else self._job._asdict()

    def _announce(self) -> None:
        """From now on there may be such a job, whatever becomes of this process."""
        cloud = self._root.options.view_as(GoogleCloudOptions)
        endpoint = cloud.dataflow_endpoint.rstrip('/')
        self._job = Job(cloud.project, cloud.region, cloud.job_name, '', endpoint)
        lease.hand_over(self._config.layout, self._lease_job(), is_submitted=False)
        self.is_submitted = True

    def _hand_over(self, result: PipelineResult) -> None:
        """The lease and the last word are the job's from now on."""
        self.is_submitted = True
        if self._job is not None:
            # The launcher of a template only stages the job; the service submits it.
            if not self._root.options.view_as(GoogleCloudOptions).template_location:
                self._job = self._job._replace(id=result.job_id())
            print(f'Job: {self._job}')
        lease.hand_over(self._config.layout, self._lease_job())

    def _has_ended(self, result: PipelineResult) -> bool:
        if self._job is not None:
            return has_ended(self._job)
        if self._runner == base.PRISM:
            return True  # a child of this process, which takes it along
        try:
            return bool(PipelineState.is_terminal(result.state))
        except Exception:  # noqa: BLE001 (a job server that does not answer)
            return False


def _explain(error: BaseException, is_verbose: bool) -> tuple[int, str]:
    """Says in one line what stopped a run; engines wrap what a step raised in their own errors.

    Returns:
      The exit code, and the class of the error if it is one of ours.
    """
    text = ''.join(traceback.format_exception(error))
    if is_verbose:
        print(text, file=sys.stderr)
    found = _ERROR.findall(text)
    details = getattr(error, 'details', None)  # of an error of gRPC
    if isinstance(error, LemmabeamError):
        kind, message = type(error).__name__, str(error)
    elif found:
        kind, message = found[-1]
    elif type(error).__name__ in _REFUSED:
        kind, message = (
            _GONE,
            f'Dataflow refuses the job: {_REFUSED[type(error).__name__]}: {error}',
        )
    elif callable(details) and not isinstance(details(), list):
        kind, message = _GONE, f'the engine does not answer: {details()}'
    elif _WORKER_GONE.search(str(error)):
        kind, message = _GONE, str(error)
    else:
        kind, message = '', text.strip().rpartition('\n')[2]
    print(f'lemmabeam: {_STEP.sub("", message)}', file=sys.stderr)
    if kind in _USAGE:
        return 2, kind
    if kind == '':
        print('lemmabeam: this error was not expected; --verbose tells more', file=sys.stderr)
    return 1, kind
