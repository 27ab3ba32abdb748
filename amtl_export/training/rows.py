"""Encoded rows that a folder holds, checked before a model reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from amtl_export.data.encode import Rows
from amtl_export.data.packed_ids import PackedIds, id_type
from amtl_export.errors import InputError
from amtl_export.models.config import ModelConfig

#: Numbers that are looked at in one go.
_CHUNK = 1 << 22


def check_rows(rows: Rows, config: ModelConfig, where: Path) -> None:
    """Make sure that rows are such as the model takes.

    Args:
        rows: of a split, memory-mapped.
        config: of the model.
        where: folder of the split, for errors.

    Raises:
        InputError: an array has another shape or type, an id is outside its table, or labels are of one class.
    """
    if rows.labels.ndim != 2 or rows.labels.dtype.kind not in "iufb" or not rows.labels.shape[1]:
        raise InputError(_WHAT, where=where / "labels.npy", found=f"{rows.labels.dtype} {list(rows.labels.shape)}")
    count = len(rows)
    single, multi = [config.embedded[i] for i in config.single], [config.embedded[i] for i in config.multi]
    _check_shape(rows.packed.data, "ids", (count, sum(id_type(own.size).itemsize for own in single)), "u", where)
    _check_shape(rows.numeric, "numeric", (count, len(config.numeric)), "f", where)
    for own in multi:
        _check_shape(rows.multi[own.name], f"multi_{own.name}", (count, None), "iu", where)
        _check_ids(rows.multi[own.name], f"multi_{own.name}", np.array(own.size), where)
    _check_ids(rows.packed, "ids", np.array([own.size for own in single]), where)
    for name, array in (("group", rows.group), ("weight", rows.weight)):
        if array is not None and (array.ndim == 0 or len(array) != count or array.dtype.kind not in "iufb"):
            raise InputError(_WHAT, where=where / f"{name}.npy", found=f"{array.dtype} {list(array.shape)}")
    if not count:
        raise InputError("encoded rows cannot be read", where=where, found="no row")
    labels = rows.labels if rows.weight is None else rows.labels[np.asarray(rows.weight) > 0]
    clicks = (labels == 1).sum(axis=0)
    if not ((rows.labels == 0) | (rows.labels == 1)).all() or ((clicks == 0) | (clicks == len(labels))).any():
        raise InputError(
            "labels are no clicks and non-clicks",
            where=where / "labels.npy",
            found=f"{clicks.tolist()} clicks among {len(labels)} rows",
            allowed="0 and 1, and both of them",
            fix="train anew",
        )


_WHAT = "encoded rows do not fit their model"


def _check_shape(array: npt.NDArray[Any], name: str, shape: tuple[int | None, ...], kinds: str, where: Path) -> None:
    fits = array.ndim == len(shape) and all(
        wanted is None or size == wanted for size, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype.kind not in kinds:
        raise InputError(_WHAT, where=where / f"{name}.npy", found=f"{array.dtype} {list(array.shape)}", allowed=shape)


def _check_ids(ids: npt.NDArray[Any] | PackedIds, name: str, sizes: npt.NDArray[np.int64], where: Path) -> None:
    step = max(1, _CHUNK // max(1, ids.width if isinstance(ids, PackedIds) else ids.shape[1]))
    for start in range(0, len(ids), step):
        part = ids[start : start + step]
        part = part.unpacked() if isinstance(part, PackedIds) else part
        if ((part < 0) | (part >= sizes)).any():
            raise InputError("an id is outside its table", where=f"{where / name}.npy", fix="train anew")
