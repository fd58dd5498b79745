"""What the steps for pipelines of others may be told: options of `label`, as keywords."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pipeline.api.keywords import by_keyword, check_known, value_of
from pipeline.config import check_chunks, file_metadata, inference_options, load_options
from pipeline.flags import Option
from pipeline.options import OPTIONS, LabelOptions, find_model
from transforms.core.versions import library_versions
from transforms.loading.options import LoadOptions
from transforms.model.predictor import InferenceOptions, MakeModel

_READ_ONLY = 'anonymous allow_private_hosts requests_per_host user_agent ignore_robots_tag'.split()
_STORES = ['user_project', 's3_endpoint_url', 's3_region_name', 's3_request_payer', *_READ_ONLY]
_MODEL = 'model model_card model_size model_cache model_sha256'.split()
_LIMITS = (
    'max_bytes max_pixels fetch_deadline_sec memory_budget loader_threads loader_processes '
    'decode_deadline_sec fail_fast_after'
).split()
_CALLS = (
    'canary threshold max_labels min_labels features batch_size precision precision_receipt '
    'min_agreement backend jit require_gpu require_rebuilt intra_op_threads'
).split()


def _named(*names: str) -> tuple[Option, ...]:
    return tuple(option for option in OPTIONS if option.name in names)


READING = _named(*_MODEL, 'batch_size', 'chunk_size', *_LIMITS, *_STORES)
"""Of a step that reads images."""

CALLING = _named(*_MODEL, *_CALLS)
"""Of a step that calls the model."""

LABELLING = tuple(dict.fromkeys((*CALLING, *READING)))
"""Of a step that reads images and calls the model."""

WRITING = _named('carry', 'rows_per_file', *(set(_STORES) - set(_READ_ONLY)))
"""Of a step that writes."""


class StepConfig(NamedTuple):
    """What options come to.

    Attributes:
      load: how images are loaded.
      inference: the model, and how it is called.
      chunk_size: images a unit of work.
      fail_fast_after: so many that fail alike stop the pipeline.
      metadata: what Parquet files say of labels that come to be so.
      make: what makes the model, by default `transforms.model.predictor.Predictor`.
    """

    load: LoadOptions
    inference: InferenceOptions
    chunk_size: int
    fail_fast_after: int
    metadata: dict[str, str]
    make: MakeModel | None = None


def configure(
    step: str, allowed: Iterable[Option], given: Mapping[str, Any], has_chunks: bool = True
) -> StepConfig:
    """Validates options as the command line does, and finds the model, fetched if need be.

    Args:
      step: its name, for messages.
      allowed: what it may be told.
      given: what it was told.
      has_chunks: whether it cuts chunks into batches itself.

    Raises:
      TypeError: it knows no such option.
      UsageError: a value cannot be used.
      ModelError: the model cannot be fetched, or has another hash.
    """
    with by_keyword():
        args = options_of(step, allowed, given)
        model = find_model(args)
        inference, threshold = inference_options(args, model)
        if has_chunks:
            check_chunks(args, inference)
        return StepConfig(
            load_options(args, inference),
            inference,
            args.chunk_size,
            args.fail_fast_after,
            file_metadata(inference, threshold, library_versions()),
        )


def options_of(step: str, allowed: Iterable[Option], given: Mapping[str, Any]) -> LabelOptions:
    """The options of `label`, some of which were given; None stands for the default.

    Raises:
      TypeError: one of them means nothing here.
      UsageError: a value cannot be used.
    """
    known = {option.name: option for option in allowed}
    check_known(given, known, step)
    values = {
        name: value_of(known[name], value) for name, value in given.items() if value is not None
    }
    return LabelOptions(input=(), output='', **values)
