"""One attempt at a run: its graph on an engine, to the end or until somebody else has it."""

import contextlib
import re
import traceback

import apache_beam as beam
from apache_beam.runners.runner import PipelineResult

from pipeline.config import RunConfig
from pipeline.job.chatter import without_chatter
from pipeline.job.errors import RunnerError, UnexpectedError
from pipeline.job.graph import build
from pipeline.job.progress import reporting
from pipeline.messages import Messages
from pipeline.runners.base import Runner
from transforms.core import errors
from transforms.core.errors import BooksError, InvalidOption, LemmabeamError, StoreError, UsageError
from transforms.core.garbage import GARBAGE
from transforms.core.long_texts import LONG_TEXTS
from transforms.runs import in_progress, lease
from transforms.runs.publish import discard

_ERROR = re.compile(rf'{re.escape(LemmabeamError.__module__)}\.(\w+): (.*)$', re.MULTILINE)
_PLAIN = {InvalidOption.__name__: UsageError}
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
        self._result: PipelineResult | None = None
        self.is_submitted = False

    def advice(self) -> str:
        """What becomes of it when this process ends now."""
        if known := self._runner.advice():
            return known
        if self.is_submitted:
            return '; the job that was submitted may go on'
        run_id = self._config.layout.run_id
        return f'; run the same command again to resume run {run_id}'

    def run(self, wait: bool, is_verbose: bool) -> None:
        """Builds and runs the graph.

        Args:
          wait: for the end of a job that runs without this process.
          is_verbose: show where an error comes from, and what worker processes log.

        Raises:
          LemmabeamError: what stopped it, with what became of the run as a note.
          KeyboardInterrupt: Ctrl-C, where no handler of signals answers it.
        """
        layout = self._config.layout
        goes_on = self._runner.outlives_launcher
        try:
            with self._without_chatter(is_verbose), self._long_texts(), self._progress():
                with GARBAGE.uncollected():
                    build(self._root, self._config)
                if self._runner.announce():
                    lease.hand_over(layout, self._runner.lease_job, is_submitted=False)
                    self.is_submitted = True
                self._result = self._root.run()
                if goes_on:
                    self._hand_over(self._result)
                if wait or not goes_on:
                    self._result.wait_until_finish()
                if wait and goes_on:
                    # The job has done so, unless it was faster than this process.
                    lease.release_handed_over(layout, self._runner.lease_job)
        except Exception as e:
            if _is_interrupted(e):
                raise KeyboardInterrupt from e
            if is_verbose:
                self._messages.trace(''.join(traceback.format_exception(e)))
            error = explain_error(e, self._runner)
            note = self._give_up()
            if note and not isinstance(error, BooksError):
                error.add_note(note)
            raise error from (e if error is not e else e.__cause__)

    def _give_up(self) -> str:
        """Removes what the next attempt has no use for; what becomes of the run, or ''."""
        layout = self._config.layout
        has_left = True
        # Of a store that is gone nothing can be removed; the error itself is what matters.
        with contextlib.suppress(StoreError):
            if not self._runner.outlives_launcher:
                discard(layout)
                has_left = not in_progress.leave_nothing(layout)
            elif self._result is None or self._runner.has_ended(self._result):
                lease.release_handed_over(layout, self._runner.lease_job)
            else:
                return f'this command lost contact with the job{self.advice()}'
        if not has_left:
            return ''
        return (
            f'run {layout.run_id} did not finish. Completed chunks are kept: run the same command '
            'again to resume'
        )

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


def explain_error(error: BaseException, runner: Runner) -> LemmabeamError:
    """What stopped a run; engines wrap what a step raised in errors of their own.

    Returns:
      The error itself if it is one of ours, or one with its message on one line.
    """
    text = ''.join(traceback.format_exception(error))
    found = _ERROR.findall(text)
    if isinstance(error, LemmabeamError):
        return error if _STEP.search(str(error)) is None else _without_step(error)
    if found:
        kind, message = found[-1]
        made = getattr(errors, kind, LemmabeamError)
        # Its message has flag and value already.
        is_plain = issubclass(made, LemmabeamError) and made is not InvalidOption
        return (made if is_plain else _PLAIN.get(kind, LemmabeamError))(_STEP.sub('', message))
    if told := runner.explain_error(error):
        return RunnerError(_STEP.sub('', told))
    return UnexpectedError(_STEP.sub('', text.strip().rpartition('\n')[2]))


def _is_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: Beam makes errors of all that is raised in a step."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _without_step(error: LemmabeamError) -> LemmabeamError:
    """Beam puts the step behind the first argument."""
    first, *rest = error.args
    return type(error)(_STEP.sub('', first), *rest)
