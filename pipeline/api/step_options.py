"""What the steps for pipelines of others may be told: options of `label`, as keywords."""

import argparse
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from pipeline.config import check_chunks, file_metadata, inference_options, load_options
from pipeline.flags import NAMES, Option
from pipeline.options import OPTIONS, LabelOptions, find_model
from transforms.core import uris
from transforms.core.errors import LemmabeamError, UsageError
from transforms.core.versions import library_versions
from transforms.loading.options import LoadOptions
from transforms.model.predictor import InferenceOptions, MakeModel

_FLAG = re.compile(r'--([a-z][a-z0-9_]*)')

_BY_NAME = {option.name: option for option in OPTIONS}
_STORES = 'user_project s3_endpoint_url s3_region_name s3_request_payer allow_private_hosts'.split()
_MODEL = 'model model_card model_size model_cache model_sha256'.split()
_LIMITS = (
    'max_bytes max_pixels fetch_deadline_sec memory_budget loader_threads loader_processes '
    'decode_deadline_sec fail_fast_after'
).split()
_CALLS = (
    'canary threshold max_labels min_labels features batch_size precision jit require_gpu '
    'require_rebuilt intra_op_threads'
).split()

READING = frozenset([*_MODEL, 'batch_size', 'chunk_size', *_LIMITS, *_STORES])
"""Of a step that reads images."""

CALLING = frozenset([*_MODEL, *_CALLS])
"""Of a step that calls the model."""

WRITING = frozenset(['carry', 'rows_per_file', *_STORES]) - {'allow_private_hosts'}
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


def configure(step: str, allowed: frozenset[str], given: Mapping[str, Any]) -> StepConfig:
    """Validates options as the command line does, and finds the model, fetched if need be.

    Args:
      step: its name, for messages.
      allowed: what it may be told.
      given: what it was told.

    Raises:
      TypeError: it knows no such option.
      UsageError: a value cannot be used.
      ModelError: the model cannot be fetched, or has another hash.
    """
    with by_keyword():
        args = options_of(step, allowed, given)
        model = find_model(args)
        inference, threshold = inference_options(args, model)
        if 'chunk_size' in allowed:
            check_chunks(args, inference)
        return StepConfig(
            load_options(args, inference),
            inference,
            args.chunk_size,
            args.fail_fast_after,
            file_metadata(inference, threshold, library_versions()),
        )


def options_of(step: str, allowed: frozenset[str], given: Mapping[str, Any]) -> LabelOptions:
    """The options of `label`, some of which were given.

    Raises:
      TypeError: one of them means nothing here.
      UsageError: a value cannot be used.
    """
    unknown = sorted(set(given) - allowed)
    if unknown:
        raise TypeError(f'{step} has no option {unknown[0]!r}; it has {", ".join(sorted(allowed))}')
    values = {
        name: _value(_BY_NAME[name], value)
        for name, value in given.items()
        if value is not None and value != ()
    }
    return LabelOptions(input=(), output='', **values)


def _value(option: Option, value: Any) -> Any:
    """A value as Python people give it, checked as the command line checks its text."""
    shown = f'{option.name}={uris.printable(repr(value))}'
    if option.is_switch or isinstance(value, bool):
        if not (option.is_switch and isinstance(value, bool)):
            expected = 'True or False' if option.is_switch else 'no True or False'
            raise UsageError(f'{shown}: expected {expected}')
        return value
    if option.type is NAMES and not isinstance(value, str):
        value = ','.join(value)
    text = str(value)
    if option.type.choices and text not in option.type.choices:
        raise UsageError(f'{shown}: expected one of {", ".join(option.type.choices)}')
    try:
        return text if option.type.parse is None else option.type.parse(text)
    except argparse.ArgumentTypeError as e:
        raise UsageError(f'{option.name}={e}') from e


@contextmanager
def by_keyword() -> Iterator[None]:
    """Has errors name keywords, not flags."""
    try:
        yield
    except LemmabeamError as e:
        text = _FLAG.sub(r'\1', str(e))
        if text == str(e):
            raise
        kind = UsageError if isinstance(e, UsageError) else type(e)
        raise kind(text) from e
