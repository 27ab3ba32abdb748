"""A field as raw values: what encoders are made from; read without onnx."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from amtl_export.data.normalise import NO_NUMBER, Normalisation
from amtl_export.data.vocabulary import MISSING, Vocabulary


@dataclass(frozen=True)
class RawField:
    """A field as raw values.

    Attributes:
        vocabulary: value → id; that of `shares` has the same values, though maybe other counts, or no padding.
        spec: what the field does to a value.
        shares: the field whose vocabulary this one has too; its own name otherwise.
    """

    vocabulary: Vocabulary
    spec: Normalisation
    shares: str

    @property
    def name(self) -> str:
        """Of the field."""
        return self.vocabulary.field

    @property
    def missing(self) -> tuple[Any, ...]:
        """Keys that mean "missing", even one that is in the vocabulary because another field shares it."""
        if self.spec.derived:
            return (NO_NUMBER,)
        return self.spec.missing_whole if self.spec.type == "int64" else self.spec.missing_texts

    @property
    def nothing(self) -> int:
        """The id of a missing value, or of a row without any."""
        if self.spec.default is None:
            return MISSING
        return int(self.vocabulary.encode(pl.Series([self.spec.default], dtype=self.vocabulary.values.dtype))[0])

    @property
    def looked_up_as(self) -> int:
        """The id that a missing value has before rows are padded."""
        return MISSING if self.spec.many else self.nothing

    @property
    def dtype(self) -> str:
        """Of its input, as numpy calls it; `object` are texts."""
        if self.spec.type == "float32":
            return "float32"
        return "object" if self.spec.type == "string" else "int64"


def encoded_name(name: str) -> str:
    """What the encoder calls the ids of a graph's input."""
    return f"encoded_{name}"
