"""What the functions of `lemmabeam` raise."""

from pipeline.job.errors import RunnerError, TooManyFailed, UnexpectedError
from transforms.core.errors import (
    BooksError,
    InvalidOption,
    LemmabeamError,
    ManifestError,
    ModelError,
    StoreError,
    UsageError,
)

__all__ = [
    'BooksError',
    'InvalidOption',
    'LemmabeamError',
    'ManifestError',
    'ModelError',
    'RunnerError',
    'StoreError',
    'TooManyFailed',
    'UnexpectedError',
    'UsageError',
]
