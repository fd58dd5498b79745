"""What can go wrong, in two kinds that are never mixed.

`ImageError` is the fault of one image and becomes one dead letter.  `LemmabeamError` is the fault
of none (a wrong flag, a broken manifest, an expired credential) and stops the run.
"""

from transforms.core.reasons import Reason


class LemmabeamError(Exception):
    """Stops the run; the message is written for the person who started it."""


class UsageError(LemmabeamError):
    """The command line asks for something that cannot be done; names the flag and the value."""


class InvalidOption(UsageError):  # noqa: N818 (what is wrong is the option)
    """A value that cannot be used; another command may name the option differently than `label`.

    Args:
      name: of the option of `lemmabeam label`.
      value: as it was given, printable.
      why: what is wrong with it, and what to do.

    Attributes:
      prefix: of the name in messages; '' for who gives it as a keyword.
    """

    def __init__(self, name: str, value: str, why: str):
        super().__init__(name, value, why)
        self.name = name
        self.value = value
        self.why = why
        self.prefix = '--'

    def __str__(self) -> str:
        return f'{self.prefix}{self.name} {self.value}: {self.why}'

    def named(self, name: str) -> 'InvalidOption':
        """The same error for an option of another name."""
        return InvalidOption(name, self.value, self.why)


class ManifestError(LemmabeamError):
    """A manifest is broken as a whole; names the file and the line."""


class StoreError(LemmabeamError):
    """A store refused or failed in a way that is no single image's fault."""


class DecodeError(LemmabeamError):
    """A decoder does not return, and its thread cannot be stopped; names the image."""


class LoaderError(LemmabeamError):
    """Loader processes cannot start, or end without any image being to blame."""


class ModelError(LemmabeamError):
    """A model, card or vocabulary cannot be used."""


class InferenceError(Exception):
    """One call of the model failed; whether an image is to blame is not known yet.

    Args:
      message: what went wrong, and what to do; may quote TensorFlow.
      detail: the same in our own words, for a dead letter; by default the name of the TensorFlow
        error, which is `__cause__`.
    """

    def __init__(self, message: str, detail: str = ''):
        super().__init__(message)
        self._detail = detail

    @property
    def detail(self) -> str:
        """One line for the dead letter of the image that is to blame."""
        return self._detail or type(self.__cause__ or self).__name__


class BooksError(LemmabeamError):
    """The counts of a run do not balance."""


class ImageError(Exception):
    """One image cannot be labelled.

    Args:
      reason: the entry of the closed list of reasons.
      detail: one line composed by us from values and limits; never a raw exception text, which
        may hold memory addresses or secrets.
      size_bytes: encoded size of the image, or None where it is not known.

    Attributes:
      version: of the object, '' if the store had not told it yet.
      is_its_own: whether the store itself said so of this object, whatever happens to others.
    """

    def __init__(self, reason: Reason, detail: str, size_bytes: int | None = None):
        super().__init__(f'{reason.value}: {detail}')
        self.reason = reason
        self.detail = detail
        self.size_bytes = size_bytes
        self.version = ''
        self.is_its_own = False

    def __reduce__(self) -> tuple[type, tuple[Reason, str, int | None]]:
        return type(self), (self.reason, self.detail, self.size_bytes)


class DamagedError(ValueError):
    """Something is not as it was written."""
