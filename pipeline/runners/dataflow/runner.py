"""Dataflow as the engine of a run: what becomes a job, and who has its last word."""

from collections.abc import Collection

from apache_beam.options.pipeline_options import GoogleCloudOptions
from apache_beam.runners.runner import PipelineResult

from pipeline.config import RunConfig
from pipeline.options import LabelOptions
from pipeline.runners.base import Amount, Runner
from pipeline.runners.dataflow import job
from pipeline.runners.dataflow.status import Job, has_ended
from pipeline.runners.explain import Setting

_ACTIVE = 'one of this name is active; wait for it, or cancel it'
_REFUSED = {
    'Forbidden': 'is its API enabled, and has this account roles/dataflow.developer',
    'PermissionDenied': 'has this account roles/dataflow.developer',
    'DataflowJobAlreadyExistsError': _ACTIVE,
    'AlreadyExists': _ACTIVE,
    'Conflict': _ACTIVE,
}


class DataflowRunner(Runner):
    """A job of Google Cloud, which nobody need wait for."""

    _job: Job | None = None

    @property
    def _cloud(self) -> GoogleCloudOptions:
        return self.options.view_as(GoogleCloudOptions)

    @property
    def title(self) -> str:
        """Project and region."""
        return f'job of Dataflow in project {self._cloud.project}, region {self._cloud.region}'

    def check(self, args: LabelOptions) -> None:
        """See `job.check`."""
        job.check(args, self.options)

    def defaults(self, args: LabelOptions) -> tuple[LabelOptions, list[Setting]]:
        """See `job.complete`."""
        return job.complete(args, self.options)

    def fit(
        self, args: LabelOptions, config: RunConfig, amount: Amount
    ) -> tuple[RunConfig, list[Setting]]:
        """See `job.fit`."""
        return job.fit(args, self.options, config, amount, self._messages)

    @property
    def cores(self) -> int:
        """See `job.cores`."""
        return job.cores(self.options)

    def prepare(self, config: RunConfig) -> Collection[str]:
        """See `job.name_submission`."""
        return job.name_submission(self.options, config)

    def announce(self) -> bool:
        """There may: the service submits it."""
        cloud = self._cloud
        endpoint = cloud.dataflow_endpoint.rstrip('/')
        self._job = Job(cloud.project, cloud.region, cloud.job_name, '', endpoint)
        return True

    def submitted(self, result: PipelineResult) -> str:
        """Name and page of the job."""
        # The launcher of a template only stages the job; the service submits it.
        if self._job is not None and not self._cloud.template_location:
            self._job = self._job._replace(id=result.job_id())
        return f'Job: {self._job}'

    @property
    def lease_job(self) -> dict[str, str] | None:
        """What `status.parse_job` reads."""
        return None if self._job is None else self._job._asdict()

    def advice(self) -> str:
        """How to end the job."""
        if self._job is None:
            return ''
        return (
            '; the job is still running; to end it: gcloud dataflow jobs cancel '
            f'{self._job.id or "ID"} --region={self._job.region} --project={self._job.project}'
        )

    def has_ended(self, result: PipelineResult) -> bool:
        """As the service has it."""
        return self._job is not None and has_ended(self._job)

    def explain_error(self, error: BaseException) -> str | None:
        """Also why the service refuses a job."""
        why = _REFUSED.get(type(error).__name__)
        if why is not None:
            return f'Dataflow refuses the job: {why}: {error}'
        return super().explain_error(error)
