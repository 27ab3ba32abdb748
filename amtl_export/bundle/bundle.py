"""A bundle folder, opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from amtl_export.bundle.signature import Column, Signature
from amtl_export.data.schema import Schema
from amtl_export.data.vocabulary import Vocabulary, read_parquet, read_vocabularies
from amtl_export.errors import InputError, ValidationFailed
from amtl_export.files import read_json
from amtl_export.graph.inputs import Input, inputs_of
from amtl_export.runtime.session import Provider, open_session


@dataclass(frozen=True)
class Bundle:
    """A bundle.

    Attributes:
        path: its folder.
        signature: what the graph takes and gives.
        schema: what the data's columns mean.
    """

    path: Path
    signature: Signature
    schema: Schema

    @property
    def model(self) -> Path:
        """`model.onnx`."""
        return self.path / "model.onnx"

    @property
    def fields(self) -> list[str]:
        """Embedded fields, in table order."""
        return [name for name in (field.name for field in self.schema.embedded) if name in self._columns]

    @property
    def sizes(self) -> list[int]:
        """V of each of `fields`."""
        return [self._columns[name].size for name in self.fields]

    @property
    def _columns(self) -> dict[str, Column]:
        return {column.field: column for tensor in self.signature.inputs for column in tensor.columns}

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What the graph takes, and where it is in rows of the model's own inputs."""
        padded = {name for name, column in self._columns.items() if column.padding is not None}
        numeric = [field.name for field in self.schema.numeric]
        single, multi = ([name for name in self.fields if (name in padded) == many] for many in (False, True))
        return inputs_of(single, numeric, multi, self.signature.request_fields)

    def vocabularies(self) -> dict[str, Vocabulary]:
        """Field → vocabulary, read now."""
        return read_vocabularies(self.path, self.fields)

    def dims(self, field: str) -> npt.NDArray[np.int64]:
        """int64 `[V]`, kept dims of every id of a field."""
        frame = read_parquet(self.path / "vocab" / f"{field}.parquet")
        return frame["dims"].to_numpy().astype(np.int64)

    def report(self) -> dict[str, Any]:
        """`report.json`."""
        report: dict[str, Any] = read_json(self.path / "report.json")
        return report

    def bytes(self) -> int:
        """Of `model.onnx` and `model.onnx.data`."""
        return self.model.stat().st_size + (self.path / "model.onnx.data").stat().st_size

    def proto(self) -> onnx.ModelProto:
        """The graph without its external data.

        Raises:
            ValidationFailed: `model.onnx` cannot be parsed.
        """
        try:
            return onnx.load(str(self.model), load_external_data=False)
        except Exception as error:  # protobuf's errors have no common base below Exception
            raise ValidationFailed("the graph cannot be read", where=self.model, found=error) from None

    def session(
        self, *, provider: Provider = "cpu", threads: int = 1, optimized: bool = True, native: bool | None = None
    ) -> Any:
        """An ONNX Runtime session; see `runtime.session.open_session`."""
        return open_session(self.model, provider=provider, threads=threads, optimized=optimized, native=native)


def open_bundle(path: Path) -> Bundle:
    """Open a bundle folder.

    Raises:
        InputError: not a bundle, or a file of it is missing or cannot be read.
    """
    if not path.is_dir():
        raise InputError("no such bundle", where=path, fix="amtl-export export RUN --out BUNDLE")
    for name in ("signature.json", "model.onnx", "model.onnx.data", "schema.json"):
        if not (path / name).is_file():
            raise InputError(
                "the folder is not a complete bundle", where=path, found=f"no {name}", fix="export it again"
            )
    signature = Signature.from_values(read_json(path / "signature.json"), path / "signature.json")
    schema = Schema.from_values(read_json(path / "schema.json"), path / "schema.json")
    return Bundle(path, signature, schema)
