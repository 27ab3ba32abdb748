"""What is wrong with a schema, a line for each problem: its key, what was found, what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date, time
from typing import Any

#: Where something stands: keys, and positions in lists.
Path = tuple[str | int, ...]

#: Path of a table without positions, and the table → the keys that it may have, and whether each must be there; None
#: where that is not known.
KeysOf = Callable[[tuple[str, ...], Mapping[str, Any]], Mapping[str, bool] | None]

#: How alike a key must be to one that it may stand for.
_NEAR = 0.7

_MESSAGES = {
    "missing": "is missing",
    "too_short": "at least one is needed",
    "tuple_type": "is no list",
    "dict_type": "is no table",
    "model_attributes_type": "is no table",
    "model_type": "is no table",
    "union_tag_not_found": "rule is missing: random, time, column or files",
}
_MEMBERS = ("int_", "float_", "string_")  # of the union of what a time may be
_SHOWN = (str, int, float, bool, date, time)


def tidied(values: Any, keys_of: KeysOf, path: Path = ()) -> tuple[Any, dict[Path, str]]:
    """Parsed values without unknown keys, so that these hide no other problem and bring no second one.

    A key that is near a known one which is not there counts as that one.

    Args:
        values: of TOML or JSON.
        keys_of: says which keys a table may have.
        path: where the values stand.

    Returns:
        The values, and the path of each unknown key, by the name that it counts as → what to say of it.
    """
    if isinstance(values, list | tuple):
        parts = [tidied(value, keys_of, (*path, number)) for number, value in enumerate(values)]
        return [value for value, _ in parts], {place: line for _, found in parts for place, line in found.items()}
    if not isinstance(values, Mapping):
        return values, {}
    names = tuple(part for part in path if isinstance(part, str))
    known, problems = _known(values, keys_of(names, values), path)
    for key, value in known.items():
        known[key], found = tidied(value, keys_of, (*path, key))
        problems |= found
    return known, problems


def _known(
    values: Mapping[str, Any], allowed: Mapping[str, bool] | None, path: Path
) -> tuple[dict[str, Any], dict[Path, str]]:
    """One table with known keys only."""
    if allowed is None:
        return dict(values), {}
    known = {key: value for key, value in values.items() if key in allowed}
    problems = {}
    for key in (key for key in values if key not in allowed):
        free = [name for name in allowed if name not in known]
        meant = nearest(key, [name for name in free if allowed[name]]) or nearest(key, free)
        hint = f"did you mean {meant}?" if meant else f"known are {', '.join(allowed)}"
        problems[(*path, meant or key)] = _line((*path, key), "unknown key", values[key], f"; {hint}")
        if meant:
            known[meant] = values[key]
    return known, problems


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that a name may be meant for."""
    return next(iter(difflib.get_close_matches(name.lower(), known, 1, _NEAR)), None)


def lines(errors: Iterable[Mapping[str, Any]], unknown: Mapping[Path, str]) -> list[str]:
    """A line for every problem.

    Args:
        errors: pydantic's, of the tidied values.
        unknown: from `tidied`; what else is wrong with such a key's value is not said.
    """
    said = dict(unknown)
    listed = [(_place(error["loc"]), error) for error in errors]
    inside = {place[:length] for place, _ in listed for length in range(1, len(place))}
    for place, error in listed:
        if place in said and error["type"].startswith(_MEMBERS):
            continue  # the other member of a union
        if place in unknown or (error["type"] == "too_short" and place in inside):
            continue  # pydantic counts sound items only
        message = _MESSAGES.get(error["type"]) or error["msg"].removeprefix("Value error, ")
        if error["loc"][:1] == ("split",) and error["loc"][-1] in ("int", "float"):
            message = "neither a number nor a text nor a date"
        if error["type"] == "tuple_type" and isinstance(error["input"], Mapping):
            message = f"is one table; say [[{place[-1]}]] before each"
        line = _line(place, message, error["input"])
        said[place] = f"{said[place]}\n{line}" if place in said else line
    return [line for text in said.values() for line in text.split("\n")]


def _place(loc: Path) -> Path:
    """Where an error is, without the tags of unions."""
    if loc[:1] == ("split",) and len(loc) > 1:
        loc = (loc[0], *loc[2:])
        return loc[:-1] if loc[-1] in ("int", "float", "str") else loc
    return loc


def _line(place: Path, message: str, found: Any, more: str = "") -> str:
    key = ".".join(map(str, place)) or "schema"
    shown = f", found {found if isinstance(found, date | time) else repr(found)}" if isinstance(found, _SHOWN) else ""
    return f"  {key}: {message}{shown}{more}"
