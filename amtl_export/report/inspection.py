"""`inspect`: what a run or a bundle holds, field by field."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from amtl_export.data.vocabulary import FIRST_VALUE, Vocabulary
from amtl_export.errors import InputError
from amtl_export.files import read_json

#: Frequency groups of the paper's Figure 3.
GROUPS = 7


@dataclass(frozen=True)
class FieldInspection:
    """One field.

    Attributes:
        vocab: V, reserved ids included.
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


def inspect(path: Path) -> Inspection:
    """Open a run, a frozen model or a bundle and sum it up.

    Raises:
        InputError: the folder is none of these, or cannot be read.
    """
    if not path.is_dir():
        raise InputError("no such folder", where=path, allowed="a run, a frozen model or a bundle")
    if (path / "signature.json").is_file():
        return _bundle(path)
    if (path / "config.json").is_file():
        return _trained(path)
    raise InputError("neither a run nor a bundle", where=path, fix="give a folder made by train, freeze or export")


def _bundle(path: Path) -> Inspection:
    from amtl_export.bundle.bundle import open_bundle
    from amtl_export.tables.cost import ITEM_BYTES

    bundle = open_bundle(path)
    report = bundle.report()
    governed = {f.name: f.governed for f in bundle.schema.embedded}
    vocabularies = bundle.vocabularies()
    fields = tuple(
        inspect_field(
            name,
            governed[name],
            vocabularies[name],
            bundle.dims(name),
            bundle.signature.dim,
            ITEM_BYTES[bundle.signature.dtype],
        )
        for name in bundle.fields
    )
    return Inspection(
        str(path),
        "bundle",
        bundle.signature.producer,
        report["origin"],
        fields,
        f"{bundle.signature.layout}, values {bundle.signature.dtype}",
        report["bytes_dense"],
        bundle.signature.table_bytes,
        report["ops"],
    )


def _trained(path: Path) -> Inspection:
    from amtl_export.bundle.export import open_exportable

    frozen = open_exportable(path)
    config = read_json(path / "config.json")
    fields = tuple(
        inspect_field(
            f.name,
            f.governed,
            frozen.vocabularies[f.name],
            frozen.field_dims(f.name).numpy(),
            frozen.config.dim,
        )
        for f in frozen.config.embedded
    )
    dims = frozen.table.dims
    dense, kept = 4 * len(dims) * frozen.config.dim, 4 * int(dims.sum()) + frozen.projection_bytes
    return Inspection(str(path), config["kind"], config["producer"], frozen.origin, fields, None, dense, kept, {})


def inspect_field(
    name: str, governed: bool, vocabulary: Vocabulary, dims: npt.NDArray[np.int64], D: int, item: int = 4
) -> FieldInspection:
    """Sum up one field.

    Args:
        name: of the field.
        governed: whether the method chose its dims.
        vocabulary: of the field.
        dims: int64 `[V]`.
        D: floats of a full row.
        item: bytes of a stored number.
    """
    own = dims[dims > 0]
    groups = frequency_groups(vocabulary)
    return FieldInspection(
        name=name,
        governed=governed,
        vocab=len(dims),
        dim=D,
        avg_dim=float(own.mean()),
        params_dense=len(dims) * D,
        params_kept=int(dims.sum()),
        bytes_dense=4 * len(dims) * D,
        bytes_kept=item * int(dims.sum()),
        histogram=tuple(int(n) for n in np.bincount(dims, minlength=D + 1)),
        group_dims=tuple(float(dims[ids].mean()) for ids in groups),
        group_counts=tuple(float(vocabulary.counts[ids].mean()) for ids in groups),
    )


def frequency_groups(vocabulary: Vocabulary) -> list[npt.NDArray[np.int64]]:
    """Ids of the known values in seven groups of equal size by training count, rarest first."""
    known = len(vocabulary.values)
    if known < GROUPS:
        return []
    ids = np.arange(FIRST_VALUE + known - 1, FIRST_VALUE - 1, -1, dtype=np.int64)  # ids fall with the count
    return list(np.array_split(ids, GROUPS))
