"""Where a lookup stands in a lowered graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

IdPolicy = Literal["guard", "trust"]


@dataclass(frozen=True)
class Lookup:
    """Where a lookup stands in the lowered graph.

    Attributes:
        table: path of the table's module.
        input: the value with its ids, a graph input for instance; empty where the table is read whole.
        output: the value with its rows, float32 `[B, K, D]`, or what it would be called: a fused layer has none.
        layer: name of the RaggedSum, RaggedPairs or ragged layer that reads the table instead, or empty.
        sizes: V of each column's field (one number serves all columns).
        offsets: first table row of each column's field.
    """

    table: str
    input: str
    output: str
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]
    layer: str = ""
