"""Where the rows of a field are; bundles say it too, so it is read without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FieldRows:
    """Where the rows of a field are.

    Attributes:
        name: of the field; the table's own for a user's module.
        table: path of the table.
        offset: first row.
        size: V.
        governed: whether a method chose the dims.
        padding: the padding id, or None.
    """

    name: str
    table: str
    offset: int
    size: int
    governed: bool
    padding: int | None = None
