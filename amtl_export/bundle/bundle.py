"""A bundle folder, opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from amtl_export.bundle.made import Made
from amtl_export.bundle.signature import Signature
from amtl_export.data.normalise import Normalisation
from amtl_export.data.schema import Schema
from amtl_export.data.vocabulary import Vocabulary, read_parquet, read_vocabularies, vocabulary_file
from amtl_export.errors import InputError, ValidationFailed
from amtl_export.files import check_regular, read_json, read_object
from amtl_export.runtime.external import check_external
from amtl_export.runtime.session import Provider, open_session
from amtl_export.spec import TensorSpec

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir


@dataclass(frozen=True)
class Bundle:
    """A bundle.

    Attributes:
        path: its folder.
        signature: what the graph takes and gives.
        schema: what the data's columns mean; None for a user's module.
    """

    path: Path
    signature: Signature
    schema: Schema | None

    @property
    def model(self) -> Path:
        """`model.onnx`."""
        return self.path / "model.onnx"

    @property
    def fields(self) -> list[str]:
        """Embedded fields, in table order; tables of a user's module."""
        return [field.name for field in self.signature.fields]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the graph takes, and where it is in the model's own inputs."""
        return self.signature.inputs

    @property
    def run_schema(self) -> Schema:
        """What the data's columns mean.

        Raises:
            InputError: the bundle is of a user's module.
        """
        if self.schema is None:
            raise InputError("the bundle is of a user's module: it has no schema and no vocabularies", where=self.path)
        return self.schema

    def normalisations(self) -> dict[str, Normalisation]:
        """Field → what it does to a raw value, as `normalisation.json` has it.

        Raises:
            InputError: the bundle is of a user's module, or the file is missing or does not fit.
        """
        file, names = self.path / "normalisation.json", {field.name for field in self.run_schema.fields}
        try:
            specs = [Normalisation.model_validate(values) for values in read_json(file)]
        except (ValidationError, TypeError) as error:
            raise InputError("what fields do to raw values cannot be read", where=file, found=error) from None
        if {spec.field for spec in specs} != names:
            raise InputError(
                "other fields than the schema has",
                where=file,
                found=", ".join(spec.field for spec in specs),
                allowed=", ".join(sorted(names)),
                fix="export it again",
            )
        return {spec.field: spec for spec in specs}

    def vocabularies(self) -> dict[str, Vocabulary]:
        """Field → vocabulary, read now."""
        return read_vocabularies(self.path, self.fields)

    def dims(self, field: str) -> npt.NDArray[np.int64]:
        """int64 `[V]`, kept dims of every id of a field."""
        own = next(own for own in self.signature.fields if own.name == field)
        dims = self._column(field, "dims", own.size)
        if len(dims) and dims.max() > self.signature.tables[own.table].dim:
            raise InputError("a field has more dims than its table", where=field, found=int(dims.max()))
        return dims

    def counts(self, field: str) -> npt.NDArray[np.int64] | None:
        """int64 `[V]`, training occurrences of every id of a field; None where they are not known."""
        own = next(own for own in self.signature.fields if own.name == field)
        file = self.path / vocabulary_file(field)
        if self.signature.source == "module" and "count" not in read_parquet(file).columns:
            return None
        return self._column(field, "count", own.size)

    def _column(self, field: str, name: str, size: int) -> npt.NDArray[np.int64]:
        """Whole numbers that a field's file has for every id, none below 0.

        Raises:
            InputError: it has none, or others.
        """
        file = self.path / vocabulary_file(field)
        frame = read_parquet(file)
        dtype = frame.schema.get(name)
        if dtype is None or not dtype.is_integer() or frame[name].null_count() or len(frame) != size:
            found = f"{dtype}, {len(frame)} rows"
            raise InputError(f"a field's {name} cannot be read", where=file, found=found, allowed=f"{size} numbers")
        values: npt.NDArray[np.int64] = frame[name].to_numpy().astype(np.int64)
        if size and values.min() < 0:
            raise InputError(f"a field's {name} cannot be read", where=file, found=int(values.min()))
        return values

    def report(self) -> dict[str, Any]:
        """`report.json`."""
        return read_object(self.path / "report.json")

    def made(self) -> Made:
        """What of it people are shown.

        Raises:
            InputError: a key is missing or of another type.
        """
        try:
            return Made.model_validate(self.report())
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(
                "a bundle's report cannot be read",
                where=self.path / "report.json",
                found=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
                fix="export it again",
            ) from None

    def bytes(self) -> int:
        """Of `model.onnx` and `model.onnx.data`."""
        return self.model.stat().st_size + (self.path / "model.onnx.data").stat().st_size

    def proto(self) -> onnx.ModelProto:
        """The graph without its external data.

        Raises:
            ValidationFailed: `model.onnx` cannot be parsed.
        """
        import onnx  # the one part of a bundle that needs it

        try:
            return onnx.load(str(self.model), load_external_data=False)
        except Exception as error:  # protobuf's errors have no common base below Exception
            raise ValidationFailed("the graph cannot be read", where=self.model, found=error) from None

    def graph(self) -> ir.Model:
        """The same as onnx-ir reads it.

        Raises:
            ValidationFailed: `model.onnx` cannot be parsed, or a part of it contradicts another.
        """
        import onnx_ir as ir

        proto = self.proto()
        try:
            return ir.from_proto(proto)
        except Exception as error:  # what was written into the file decides which
            raise ValidationFailed("the graph cannot be read", where=self.model, found=error) from None

    def session(
        self, *, provider: Provider = "cpu", threads: int = 1, optimized: bool = True, native: bool | None = None
    ) -> Any:
        """An ONNX Runtime session; see `runtime.session.open_session`."""
        return open_session(self.model, provider=provider, threads=threads, optimized=optimized, native=native)


def open_bundle(path: Path | str) -> Bundle:
    """Open a bundle folder.

    Raises:
        InputError: not a bundle, or a file of it is missing or cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError("no such bundle", where=path, fix="give a folder that export wrote")
    if link := next((file for file in sorted(path.rglob("*")) if file.is_symlink()), None):
        raise InputError("a bundle holds a link", where=link, fix="copy what it leads to, or export it again")
    check_regular(path)
    _require(path, "signature.json", "model.onnx", "model.onnx.data")
    check_external(path / "model.onnx")
    signature = Signature.from_values(read_json(path / "signature.json"), path / "signature.json")
    if signature.source == "module":
        return Bundle(path, signature, None)
    _require(path, "schema.json", "normalisation.json")
    schema = Schema.from_values(read_json(path / "schema.json"), path / "schema.json")
    _check_inputs(signature, schema, path / "signature.json")
    return Bundle(path, signature, schema)


def _check_inputs(signature: Signature, schema: Schema, where: Path) -> None:
    """Refuse inputs that are not fields of the schema, each once: numbers side by side, and ids, or one list."""
    given = [name for spec in signature.inputs for name in spec.fields]
    numeric = {field.name for field in schema.numeric}
    wrong = [
        spec.name
        for spec in signature.inputs
        if {name in numeric for name in spec.fields} != {spec.source == "numeric"}
        or not (spec.packed or spec.fields == (spec.name,))
    ]
    if wrong or len(given) > len(set(given)) or not {field.name for field in schema.fields}.issuperset(given):
        raise InputError(
            "a bundle's signature does not fit its schema",
            where=where,
            found=f"input {wrong[0]}" if wrong else f"fields {', '.join(given)}",
            allowed=", ".join(field.name for field in schema.fields),
            fix="export it again",
        )


#: A file of a folder that is no bundle → what it is.
_OTHERS = {"history.jsonl": "a run", "frozen.safetensors": "a frozen model"}


def _require(path: Path, *names: str) -> None:
    for name in names:
        if not (path / name).is_file():
            known = next((kind for file, kind in _OTHERS.items() if (path / file).is_file()), "")
            fix = f"this is {known}: export it, and give what export wrote" if known else "export it again"
            raise InputError("the folder is not a complete bundle", where=path, found=f"no {name}", fix=fix)
