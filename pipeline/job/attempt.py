"""One attempt at a run: its graph on an engine, to the end or until somebody else has it."""

import contextlib
import re
import traceback

import apache_beam as beam
from apache_beam.runners.runner import PipelineResult

from pipeline.config import RunConfig
from pipeline.job.chatter import without_chatter
from pipeline.job.graph import build
from pipeline.job.progress import reporting
from pipeline.messages import Messages
from pipeline.runners.base import Runner
from transforms.core.errors import BooksError, InvalidOption, LemmabeamError, StoreError, UsageError
from transforms.core.long_texts import LONG_TEXTS
from transforms.runs import in_progress, lease
from transforms.runs.publish import discard

_ERROR = re.compile(rf'{re.escape(LemmabeamError.__module__)}\.(\w+): (.*)$', re.MULTILINE)
_USAGE = (UsageError.__name__, InvalidOption.__name__)
_GONE = 'gone'
_STEP = re.compile(r' \[while running .*', re.DOTALL)


class Attempt:
    """An attempt at a run, by whoever holds the lease of its output.

    Args:
      root: an empty pipeline.
      config: the run.
      runner: the engine of the pipeline.
      messages: takes what becomes of it.

    Attributes:
      is_submitted: whether somebody else works on it, who has the lease from then on.
    """

    def __init__(self, root: beam.Pipeline, config: RunConfig, runner: Runner, messages: Messages):
        self._root = root
        self._config = config
        self._runner = runner
        self._messages = messages
        self.is_submitted = False

    def advice(self) -> str:
        """What becomes of it when this process ends now."""
        if known := self._runner.advice():
            return known
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
        goes_on = self._runner.outlives_launcher
        result = None
        has_left = True
        try:
            with self._without_chatter(is_verbose), self._long_texts(), self._progress():
                build(self._root, self._config)
                if self._runner.announce():
                    lease.hand_over(layout, self._runner.lease_job, is_submitted=False)
                    self.is_submitted = True
                result = self._root.run()
                if goes_on:
                    self._hand_over(result)
                if wait or not goes_on:
                    result.wait_until_finish()
                if wait and goes_on:
                    # The job has done so, unless it was faster than this process.
                    lease.release_handed_over(layout, self._runner.lease_job)
        except Exception as e:  # noqa: BLE001 (whatever an engine raises ends here)
            # Of a store that is gone nothing can be removed; the error itself is what matters.
            with contextlib.suppress(StoreError):
                if not goes_on:
                    discard(layout)
                    has_left = not in_progress.leave_nothing(layout)
                elif result is None or self._runner.has_ended(result):
                    lease.release_handed_over(layout, self._runner.lease_job)
                else:
                    code, _ = tell_error(e, is_verbose, self._runner, self._messages)
                    self._messages.error(f'this command lost sight of it{self.advice()}')
                    return code
            code, kind = tell_error(e, is_verbose, self._runner, self._messages)
            if kind != BooksError.__name__ and has_left:
                self._messages.error(
                    f'run {layout.run_id} is incomplete; what is finished of it is kept, and the '
                    'same command goes on with it'
                )
            return code
        return 0

    def _without_chatter(self, is_verbose: bool) -> contextlib.AbstractContextManager[None]:
        is_needed = self._runner.starts_workers and not is_verbose
        return without_chatter() if is_needed else contextlib.nullcontext()

    def _progress(self) -> contextlib.AbstractContextManager[None]:
        return reporting(self._messages.progress)

    def _long_texts(self) -> contextlib.AbstractContextManager[None]:
        return LONG_TEXTS.on_disk() if self._runner.is_this_process else contextlib.nullcontext()

    def _hand_over(self, result: PipelineResult) -> None:
        """The lease and the last word are the job's from now on."""
        self.is_submitted = True
        if told := self._runner.submitted(result):
            self._messages.say(told)
        lease.hand_over(self._config.layout, self._runner.lease_job)


def tell_error(
    error: BaseException, is_verbose: bool, runner: Runner, messages: Messages
) -> tuple[int, str]:
    """Says in one line what stopped a run; engines wrap what a step raised in their own errors.

    Returns:
      The exit code, and the class of the error if it is one of ours.
    """
    text = ''.join(traceback.format_exception(error))
    if is_verbose:
        messages.trace(text)
    found = _ERROR.findall(text)
    if isinstance(error, LemmabeamError):
        kind, message = type(error).__name__, str(error)
    elif found:
        kind, message = found[-1]
    elif told := runner.explain_error(error):
        kind, message = _GONE, told
    else:
        kind, message = '', text.strip().rpartition('\n')[2]
    messages.error(_STEP.sub('', message))
    if kind in _USAGE:
        return 2, kind
    if kind == '':
        messages.error('this error was not expected; --verbose tells more')
    return 1, kind
