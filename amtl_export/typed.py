"""Settings that a file holds, as the dataclass that wrote them: no other type and no other key is taken for one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, TypeVar

from amtl_export.errors import InputError

T = TypeVar("T")


def typed(kind: type[T], values: Any, where: object, what: str) -> T:
    """A dataclass from parsed JSON.

    Args:
        kind: the dataclass; its fields' annotations are what is allowed.
        values: what `json.loads` gave of `asdict`.
        where: the file, for errors.
        what: begins the error: what cannot be read.

    Raises:
        InputError: a key is missing, unknown or of another type; or what the dataclass itself refuses.
    """
    from pydantic import TypeAdapter, ValidationError  # the command line's help loads the settings, and not this

    try:
        made = TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(what, where=where, found=f"{key or 'the whole'}: {first['msg']}") from None
    except (RecursionError, OverflowError, TypeError) as error:
        raise InputError(what, where=where, found=error) from None
    except InputError as error:
        raise InputError(what, where=where, found=" ".join(str(error).split())) from None
    for wrong in _other_keys("", values, asdict(made)):  # type: ignore[call-overload]  # T is a dataclass
        raise InputError(what, where=where, found=wrong)
    return made


def _other_keys(key: str, values: Any, known: Any) -> Iterator[str]:
    """Keys that are unknown, or that are missing and have a default."""
    if isinstance(known, dict) and isinstance(values, dict):
        yield from (f"{key}{name}: unknown" for name in values if name not in known)
        yield from (f"{key}{name}: is missing" for name in known if name not in values)
        for name in known:
            yield from _other_keys(f"{key}{name}.", values[name], known[name])
    elif isinstance(known, (list, tuple)) and isinstance(values, list):
        for number, (own, other) in enumerate(zip(values, known, strict=True)):
            yield from _other_keys(f"{key}{number}.", own, other)
