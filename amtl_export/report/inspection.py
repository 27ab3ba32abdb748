"""`inspect`: what a run or a bundle holds, field by field."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from amtl_export.data.vocabulary import FIRST_VALUE
from amtl_export.errors import InputError
from amtl_export.files import producer
from amtl_export.stages import stage
from amtl_export.tables.cost import rows_bytes
from amtl_export.tables.values import ValueType

#: Frequency groups of the paper's Figure 3.
GROUPS = 7


@dataclass(frozen=True)
class FieldInspection:
    """One field.

    Attributes:
        vocab: V, reserved ids included.
        dim: D; of a compressed table, before it was cut.
        avg_dim: mean dims, padding left out.
        params_dense: V·D.
        params_kept: sum of dims.
        bytes_dense: of V rows of D float32.
        bytes_kept: of the surviving values as stored (float32 in a run); what a layout adds is in the bundle's total.
        histogram: ids with each number of dims, from 0 to D.
        group_dims: mean dims of the values in seven groups of equal size, rarest first; empty below seven values.
        group_counts: mean training count of the values in each group.
    """

    name: str
    governed: bool
    vocab: int
    dim: int
    avg_dim: float
    params_dense: int
    params_kept: int
    bytes_dense: int
    bytes_kept: int
    histogram: tuple[int, ...]
    group_dims: tuple[float, ...]
    group_counts: tuple[float, ...]


@dataclass(frozen=True)
class Inspection:
    """A run or a bundle at a glance.

    Attributes:
        kind: run, frozen or bundle.
        producer: tool and version.
        origin: method, backbone, data, seed.
        fields: one each, in table order.
        layout: of a bundle, and its value type.
        bytes_dense: of all tables, dense.
        bytes_table: of the bundle's table as stored; of the surviving values for a run.
        ops: operator → nodes, of a bundle.
    """

    path: str
    kind: str
    producer: dict[str, str]
    origin: dict[str, Any]
    fields: tuple[FieldInspection, ...]
    layout: str | None
    bytes_dense: int
    bytes_table: int
    ops: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def inspect(path: Path | str) -> Inspection:
    """Open a run, a frozen model, a bundle or `my_model.py:build` and sum it up.

    Raises:
        InputError: it is none of these, or cannot be read.
    """
    stage(f"reading {path}")
    folder = Path(path)
    if (folder / "signature.json").is_file():
        return _bundle(folder)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError("neither a run nor a bundle", where=path, fix="give a folder made by train, freeze or export")
    return _source(path)


def _bundle(path: Path) -> Inspection:
    from amtl_export.bundle.bundle import open_bundle

    bundle = open_bundle(path)
    made, signature = bundle.made(), bundle.signature
    cut = {} if made.compressed is None else made.compressed.fields
    fields = tuple(
        inspect_field(
            own.name,
            own.governed,
            bundle.counts(own.name),
            bundle.dims(own.name),
            cut[own.name].dim if own.name in cut else signature.tables[own.table].dim,
            signature.tables[own.table].dtype,
            FIRST_VALUE if signature.source == "run" else 0,
        )
        for own in signature.fields
    )
    return Inspection(
        str(path),
        "bundle",
        signature.producer,
        made.origin,
        fields,
        f"{signature.layout}, values {signature.dtype}",
        made.bytes_dense,
        signature.table_bytes,
        made.ops,
    )


def _source(path: Path | str) -> Inspection:
    from amtl_export.freezing.frozen import freeze

    frozen = freeze(path)
    kind = "module" if frozen.data is None else "run" if frozen.trained is not None else "frozen"
    fields = tuple(
        inspect_field(
            own.name,
            own.governed,
            frozen.field_counts(own),
            frozen.field_dims(own.name).numpy(),
            frozen.dim(own.table),
            reserved=0 if frozen.data is None else FIRST_VALUE,
        )
        for own in frozen.fields
        if own.table in frozen.tables
    )
    # Of the tables whose dims are chosen; a wide part of one dim is as it is.
    tables = [frozen.table] if frozen.data is not None else list(frozen.tables.values())
    dense = sum(table.rows.numel() * 4 for table in tables)
    kept = sum(4 * int(table.dims.sum()) for table in tables) + frozen.projection_bytes
    return Inspection(str(path), kind, producer(), frozen.origin, fields, None, dense, kept, {})


def inspect_field(
    name: str,
    governed: bool,
    counts: npt.NDArray[np.int64] | None,
    dims: npt.NDArray[np.int64],
    D: int,
    dtype: ValueType = "fp32",
    reserved: int = FIRST_VALUE,
) -> FieldInspection:
    """Sum up one field.

    Args:
        name: of the field.
        governed: whether the method chose its dims.
        counts: int64 `[V]`, training occurrences of every id; None where they are not known.
        dims: int64 `[V]`, 0 for padding.
        D: floats of a full row.
        dtype: of the stored numbers.
        reserved: ids in front that stand for no value.
    """
    kept = dims[dims > 0]
    groups = [] if counts is None else frequency_groups(counts, dims, reserved)
    return FieldInspection(
        name=name,
        governed=governed,
        vocab=len(dims),
        dim=D,
        avg_dim=float(kept.mean()) if len(kept) else 0.0,
        params_dense=len(dims) * D,
        params_kept=int(dims.sum()),
        bytes_dense=4 * len(dims) * D,
        bytes_kept=rows_bytes(dims, D, dtype),
        histogram=tuple(int(n) for n in np.bincount(dims, minlength=D + 1)),
        group_dims=tuple(float(dims[ids].mean()) for ids in groups),
        group_counts=tuple(float(counts[ids].mean()) for ids in groups) if counts is not None else (),
    )


def frequency_groups(
    counts: npt.NDArray[np.int64], dims: npt.NDArray[np.int64], reserved: int = 0
) -> list[npt.NDArray[np.int64]]:
    """Ids in seven groups of equal size by training count, rarest first.

    Args:
        counts: int64 `[V]`.
        dims: int64 `[V]`; ids of no dims are padding, and in no group.
        reserved: ids in front that stand for no value.
    """
    ids = np.flatnonzero(dims > 0)
    ids = ids[ids >= reserved][::-1]
    if len(ids) < GROUPS:
        return []
    return list(np.array_split(ids[np.argsort(counts[ids], kind="stable")], GROUPS))
