"""A frozen dataclass from plain values, each checked against its field's type."""

from dataclasses import fields
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

from fd_flower.core.errors import InvalidInputError, nearest

T = TypeVar("T")


def section(cls: type[T], name: str, values: dict[str, Any]) -> T:
    """Return the dataclass of one section with these values, types checked.

    Raises
    ------
    InvalidInputError
        For an unknown key (names the nearest), a wrong type, or a value outside its range.
    """
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    node = OmegaConf.structured(cls)
    OmegaConf.set_readonly(node, False)
    for key, value in values.items():
        try:
            OmegaConf.update(node, key, value)
        except (ConfigAttributeError, ConfigKeyError):
            raise InvalidInputError(f"there is no key '{name}.{key}'{nearest(key, known)}") from None
        except ValidationError as error:
            raise InvalidInputError(f"{name}.{key} is {value!r}: {first_line(error)}") from None
    return cls(**OmegaConf.to_container(node, resolve=True))  # type: ignore[arg-type]


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return str(error).splitlines()[0]


def need(holds: bool, key: str, value: object, expected: str) -> None:
    """Refuse a value outside its range."""
    if not holds:
        raise InvalidInputError(f"{key} is {value!r}; expected {expected}")
