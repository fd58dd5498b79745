"""Values of a JSON object that somebody may have edited, each checked when it is read."""

from typing import Any

from transforms.core.errors import DamagedError


class JsonObject:
    """A JSON object whose values are read by type.

    A missing value is its default or, without one, damage.  Every method raises DamagedError, which
    names the value and what it is.

    Args:
      value: what `json.loads` gave.
      name: of the object in messages, '' for the whole file.

    Raises:
      DamagedError: it is not an object.
    """

    def __init__(self, value: object, name: str = ''):
        if not isinstance(value, dict):
            raise DamagedError(f'{name or "its content"} is {value!r}')
        self.values: dict[str, Any] = value
        self._name = name

    def text(self, key: str, default: str | None = None) -> str:
        """A text."""
        value: str = self._get(key, default)
        return value if isinstance(value, str) else self._refuse(key)

    def flag(self, key: str) -> bool:
        """True or false."""
        value: bool = self._get(key, None)
        return value if isinstance(value, bool) else self._refuse(key)

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number, 0 or more."""
        value: int = self._get(key, default)
        return value if _is_count(value) else self._refuse(key)

    def number(self, key: str) -> float:
        """A finite number; whole ones stay so."""
        value: float = self._get(key, None)
        return value if _is_number(value) else self._refuse(key)

    def text_or_none(self, key: str) -> str | None:
        """A text; None where it is null or missing, as in the two below."""
        return None if self.values.get(key) is None else self.text(key)

    def count_or_none(self, key: str) -> int | None:
        """A whole number, 0 or more."""
        return None if self.values.get(key) is None else self.count(key)

    def number_or_none(self, key: str) -> float | None:
        """A finite number."""
        return None if self.values.get(key) is None else self.number(key)

    def object(self, key: str, default: dict[str, Any] | None = None) -> 'JsonObject':
        """An object."""
        return JsonObject(self._get(key, default), self._named(key))

    def objects(self, key: str, default: list[Any] | None = None) -> list['JsonObject']:
        """A list of objects."""
        values = self._list(key, default)
        return [JsonObject(value, f'{self._named(key)}[{i}]') for i, value in enumerate(values)]

    def texts(self, key: str, default: list[str] | None = None) -> tuple[str, ...]:
        """A list of texts."""
        values = self._list(key, default)
        return tuple(values) if all(isinstance(x, str) for x in values) else self._refuse(key)

    def counts(self, key: str, default: dict[str, int] | None = None) -> dict[str, int]:
        """An object of whole numbers, 0 or more."""
        inner = self.object(key, default)
        return {name: inner.count(name) for name in inner.values}

    def numbers(self, key: str, default: dict[str, float] | None = None) -> dict[str, float]:
        """An object of finite numbers."""
        inner = self.object(key, default)
        return {name: inner.number(name) for name in inner.values}

    def texts_by_name(self, key: str, default: dict[str, str] | None = None) -> dict[str, str]:
        """An object of texts."""
        inner = self.object(key, default)
        return {name: inner.text(name) for name in inner.values}

    def _get(self, key: str, default: Any) -> Any:
        if key not in self.values and default is None:
            raise DamagedError(f'{self._named(key)} is missing')
        return self.values.get(key, default)

    def _list(self, key: str, default: list[Any] | None) -> list[Any]:
        value: list[Any] = self._get(key, default)
        return value if isinstance(value, list) else self._refuse(key)

    def _refuse(self, key: str) -> Any:
        raise DamagedError(f'{self._named(key)} is {self.values.get(key)!r}')

    def _named(self, key: str) -> str:
        return f'{self._name}.{key}' if self._name else key


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: object) -> bool:
    # Neither NaN nor infinity, nor a whole number that no float can hold.
    return type(value) in (int, float) and -1e300 < value < 1e300  # type: ignore[operator]
