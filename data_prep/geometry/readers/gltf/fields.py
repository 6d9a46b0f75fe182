# SPDX-License-Identifier: Apache-2.0
"""Typed access to the JSON of a glTF file; a field of a wrong type raises MeshError."""

import math
from typing import Any

from data_prep.geometry.scene import MeshError

# JSON in JavaScript, and so glTF, has no larger ones.
_LARGEST_INTEGER = 2**53


def get_object(owner: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns a field that is an object; {} if it is absent."""
    value = owner.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong("an object", name, value)
    return value


def get_list(owner: dict[str, Any], name: str) -> list[Any]:
    """Returns a field that is a list; [] if it is absent."""
    value = owner.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong("a list", name, value)
    return value


def get_objects(owner: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Returns a field that is a list of objects; [] if it is absent."""
    values = get_list(owner, name)
    for value in values:
        if not isinstance(value, dict):
            raise _wrong("a list of objects", name, value)
    return values


def get_indices(owner: dict[str, Any], name: str) -> list[int]:
    """Returns a field that is a list of non-negative integers; [] if it is absent."""
    return [_index(name, value) for value in get_list(owner, name)]


def get_strings(owner: dict[str, Any], name: str) -> list[str]:
    """Returns a field that is a list of strings; [] if it is absent."""
    values = get_list(owner, name)
    for value in values:
        if not isinstance(value, str):
            raise _wrong("a list of strings", name, value)
    return values


def get_index(owner: dict[str, Any], name: str, default: int | None = None) -> int | None:
    """Returns a field that is a non-negative integer, such as an index, a count or an offset."""
    value = owner.get(name)
    return default if value is None else _index(name, value)


def get_number(owner: dict[str, Any], name: str, default: float) -> float:
    """Returns a field that is a finite number."""
    value = owner.get(name)
    return default if value is None else _number(name, value)


def get_numbers(owner: dict[str, Any], name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """Returns a field that is a list of as many finite numbers as `default` has."""
    values = get_list(owner, name)
    if owner.get(name) is None:
        return default
    if len(values) != len(default):
        raise _wrong(f"{len(default)} numbers", name, values)
    # Each check takes a microsecond, and a file may have a million numbers.
    if {type(value) for value in values} == {float} and math.isfinite(sum(values)):
        return tuple(values)
    return tuple(_number(name, value) for value in values)


def get_string(owner: dict[str, Any], name: str, default: str = "") -> str:
    """Returns a field that is a string."""
    value = owner.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise _wrong("a string", name, value)
    return value


def get_flag(owner: dict[str, Any], name: str, default: bool = False) -> bool:
    """Returns a field that is true or false."""
    value = owner.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _wrong("true or false", name, value)
    return value


def get_extension(owner: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Returns the object of an extension; None if it is absent."""
    extensions = get_object(owner, "extensions")
    return None if extensions.get(name) is None else get_object(extensions, name)


def get_item(tree: dict[str, Any], name: str, index: int) -> dict[str, Any]:
    """Returns an item of a list at the top of the JSON, such as a material.

    Raises:
      MeshError: the list has no such item.
    """
    values = get_list(tree, name)
    if not 0 <= index < len(values):
        raise MeshError(f"names an item of {name!r} that does not exist: {index}")
    if not isinstance(values[index], dict):
        raise _wrong("a list of objects", name, values[index])
    return values[index]


def _index(name: str, value: Any) -> int:
    # JavaScript and some other exporters write integers with a decimal point.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or not 0 <= value <= _LARGEST_INTEGER:
        raise _wrong("a non-negative integer", name, value)
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong("a number", name, value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _wrong("a finite number", name, number)
    return number


def _wrong(expected: str, name: str, value: Any) -> MeshError:
    return MeshError(f"malformed JSON, expected {expected}: {name!r} is {str(value)[:40]!r}")
