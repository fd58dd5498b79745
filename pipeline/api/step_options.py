"""What the steps for pipelines of others may be told: options of `label`, as keywords."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.api.keywords import by_keyword, check_known, value_of
from pipeline.config import StepConfig, step_config
from pipeline.flags import Option
from pipeline.options import OPTIONS, LabelOptions

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
        return step_config(options_of(step, allowed, given), has_chunks)


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
