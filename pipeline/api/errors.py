"""What the functions of `lemmabeam` raise."""

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
    'StoreError',
    'UsageError',
]
