"""The layout planner: what `layout="auto"` means for each table, with what it is expected to cost.

A plan needs the dims and how often each row is looked up, no values, so it is made before anything is written
(a dry run of `export`). Its rules; times are those of benchmarks/results/ (lookup, infer-1m, first-layer):

- nothing is laid out anew unless that saves a tenth of the bytes; tables of fewer than four floats a row stay dense;
- for the target native, `ragged` is the smallest and the fastest, so it is taken;
- for portable, where `ragged` would run by its slow fallback, `paged` is taken, of the width of least bytes times time;
- rows of int4 are `ragged` or `dense`;
- `blocks` has the fewest bytes for tables built in blocks (mde), its time was not measured alone;
- a lookup is fused with the layer that reads it (`ai.amtl::RaggedLinear`) where that multiplies enough less: surviving
  numbers alone, and a row that several examples of a block have once, at 0.78 to 0.99 of a plain layer's rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from amtl_export.errors import InputError
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.table import FrozenEmbedding
from amtl_export.tables.cost import best_width, blocks_bytes, dense_bytes, paged_cost, ragged_bytes
from amtl_export.tables.layout import LaidOut, blocks, dense, paged, ragged
from amtl_export.tables.values import NARROW, SCALED, VALUE_TYPES, Stored, ValueType, value_type

Layout = Literal["dense", "paged", "blocks", "ragged"]
LayoutName = Literal["auto", "dense", "paged", "blocks", "ragged"]
LAYOUTS: tuple[LayoutName, ...] = get_args(LayoutName)
FirstLayer = Literal["auto", "plain", "fused"]
FIRST_LAYERS: tuple[FirstLayer, ...] = get_args(FirstLayer)
Target = Literal["portable", "native"]
TARGETS: tuple[Target, ...] = get_args(Target)
LayerDtype = Literal["fp32", "int8"]
LAYER_DTYPES: tuple[LayerDtype, ...] = get_args(LayerDtype)

#: `auto` leaves a table dense unless another layout saves at least this part of its bytes.
WORTH_SAVING = 0.10

#: A lookup is fused with its layer where that multiplies at most this part of what a plain layer does.
WORTH_FUSING = 0.80

#: Examples whose rows a fused layer looks for among each other (AMTL_BLOCK of native/table.h).
BLOCK = 288

#: Lookup time against a dense table's, one core, 8,192 lookups, rows in memory (benchmarks/results, lookup).
_NATIVE_TIME, _FALLBACK_TIME = 0.7, 13.0
_DENSE_TIME: dict[ValueType, float] = {"fp32": 1.0, "fp16": 1.0, "int8": 1.6, "int4": 2.2}


@dataclass(frozen=True)
class PlanConfig:
    """What is asked of the planner.

    Attributes:
        layout: of every table, or `auto`.
        dtype: of the stored numbers.
        page_width: c of the paged layout; None lets the cost model choose.
        target: what will run the bundle: `portable`, any ONNX Runtime, by standard operators alone; `native`, one where
            the native library is registered.
        first_layer: `fused` makes a lookup and the linear layer behind it one node, which needs `ragged`.
        layer_dtype: of the weights of a layer that is fused; `int8` fuses it, and needs `dtype` int8 or int4.
    """

    layout: LayoutName = "auto"
    dtype: ValueType = "fp32"
    page_width: int | None = None
    target: Target = "portable"
    first_layer: FirstLayer = "auto"
    layer_dtype: LayerDtype = "fp32"

    @property
    def fuses(self) -> bool:
        """Whether a fused layer was asked for."""
        return self.first_layer == "fused" or self.layer_dtype == "int8"

    def __post_init__(self) -> None:
        for what, found, allowed in (
            ("layout", self.layout, LAYOUTS),
            ("value type", self.dtype, VALUE_TYPES),
            ("target", self.target, TARGETS),
            ("first layer", self.first_layer, FIRST_LAYERS),
            ("value type of layers", self.layer_dtype, LAYER_DTYPES),
        ):
            if found not in allowed:
                raise InputError(f"export: unknown {what}", found=found, allowed=", ".join(allowed))
        if self.page_width is not None and self.layout != "paged":
            raise InputError("export: a page width goes with layout='paged'", found=self.layout)
        if self.layer_dtype == "int8" and (self.dtype not in SCALED or self.first_layer == "plain"):
            asked, fix = f"dtype={self.dtype!r}, first_layer={self.first_layer!r}", "dtype='int8', first_layer='fused'"
            raise InputError("export: a layer in int8 reads int8 or int4 rows", found=asked, fix=fix)
        if self.fuses and self.layout not in ("auto", "ragged"):
            raise InputError("export: a fused first layer reads ragged tables", found=f"layout={self.layout!r}")
        if self.layout == "paged" and self.dtype == "int4":
            fix = "layout='ragged' or layout='dense'; or dtype='int8'"
            raise InputError("export: pages do not hold int4", found=f"layout={self.layout!r}", fix=fix)
        if self.layout == "blocks" and self.dtype != "fp32":
            raise InputError(
                "export: blocks hold fp32", found=self.dtype, fix="layout='ragged', layout='paged' or layout='dense'"
            )


@dataclass(frozen=True)
class TablePlan:
    """How one table will be stored.

    Attributes:
        rows: V.
        dim: D.
        avg_dim: mean dims over the rows.
        looked_up_dim: mean dims over lookups, each row as often as training saw it.
        multiplied: part of a plain first layer's products that a fused one makes; see `multiplied_part`.
        page_width: c, or None if the table is not paged.
        fused: whether the linear layer behind a lookup becomes part of it.
        bytes: in the file.
        bytes_dense: of the same table dense, in fp32.
        relative_time: expected lookup time against a dense fp32 table's; None for blocks, which was not measured alone.
        reason: why, in words.
    """

    rows: int
    dim: int
    avg_dim: float
    looked_up_dim: float
    multiplied: float
    layout: Layout
    page_width: int | None
    dtype: ValueType
    fused: bool
    bytes: int
    bytes_dense: int
    relative_time: float | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def plan_table(
    table: FrozenEmbedding,
    config: PlanConfig,
    counts: npt.NDArray[np.int64] | None = None,
    *,
    in_blocks: bool = False,
    read_whole: bool = False,
) -> TablePlan:
    """Choose for one table.

    Args:
        table: frozen.
        config: what is asked for.
        counts: int64 `[V]`, how often training saw each row; None takes every row as often.
        in_blocks: whether the method gives dims to blocks of neighbouring rows.
        read_whole: whether the model reads the whole table too, for a tied output layer for instance.

    Raises:
        InputError: the page width does not fit.
    """
    dims, (V, D) = table.dims.cpu().numpy(), table.rows.shape
    dtype = value_type(table, config.dtype)
    layout, reason = _choose(dims, D, dtype, config, in_blocks=in_blocks, read_whole=read_whole)
    width = _width(dims, D, dtype, config) if layout == "paged" else None
    weights = None if counts is None or not counts.any() else counts
    looked_up = float(np.average(dims, weights=weights)) if V else 0.0
    fusible = layout == "ragged" and config.first_layer != "plain"
    multiplied = multiplied_part(table, weights)
    fused = fusible and (config.fuses or (config.target == "native" and multiplied <= WORTH_FUSING))
    size, time = _cost(dims, D, layout, width, dtype, config.target)
    avg_dim = float(dims.mean()) if V else 0.0
    return TablePlan(
        V, D, avg_dim, looked_up, multiplied, layout, width, dtype, fused, size, dense_bytes(V, D), time, reason
    )  # fmt: skip


def multiplied_part(table: FrozenEmbedding, counts: npt.NDArray[np.int64] | None) -> float:
    """The part of a plain first layer's products that is left where zeros and rows seen before are not multiplied.

    Of a field's rows with dims k_r, drawn B times with probabilities p_r, the distinct ones have
    sum over r of k_r · (1 - (1 - p_r)^B) numbers on average; a plain layer multiplies B · D. The mean over fields.

    Args:
        table: frozen.
        counts: int64 `[V]`, how often each row is looked up; None takes every row as often.
    """
    dims, D = table.dims.cpu().numpy(), table.rows.shape[1]
    parts = []
    for size, offset in zip(table.sizes, table.offsets, strict=True):
        rows = slice(offset, offset + size)
        drawn = np.ones(size) if counts is None or not counts[rows].any() else counts[rows].astype(np.float64)
        with np.errstate(divide="ignore"):  # the only row of a field: log 0
            seen = -np.expm1(BLOCK * np.log1p(-drawn / drawn.sum()))
        parts.append(float((dims[rows] * seen).sum()) / (BLOCK * D))
    return float(np.mean(parts)) if parts else 0.0


def _choose(
    dims: npt.NDArray[np.int64], D: int, dtype: ValueType, config: PlanConfig, *, in_blocks: bool, read_whole: bool
) -> tuple[Layout, str]:
    if D < NARROW:
        return "dense", f"fewer than {NARROW} floats a row"
    if config.layout != "auto":
        return config.layout, "asked for"
    if read_whole:
        return "dense", "the model reads the whole table"
    if config.fuses:
        return "ragged", "a fused first layer was asked for"
    most = (1 - WORTH_SAVING) * dense_bytes(len(dims), D, dtype)
    if in_blocks and dtype == "fp32" and blocks_bytes(dims) <= most:
        return "blocks", "built in blocks of equal dims"
    ragged_fits = ragged_bytes(dims, D, dtype) <= most
    if ragged_fits and config.target == "native":
        return "ragged", "smallest, and the native operator will be there"
    if dtype == "int4":
        return "dense", "pages do not hold int4"
    if best_width(dims, D, dtype).bytes <= most:
        return "paged", "smallest without the native operator that is not slow"
    return "dense", f"no other layout saves {WORTH_SAVING:.0%}"


def _width(dims: npt.NDArray[np.int64], D: int, dtype: ValueType, config: PlanConfig) -> int:
    width = config.page_width or best_width(dims, D, dtype).width
    if not 1 <= width <= D:
        raise InputError("export: the width of a page", found=f"page_width={width}", allowed=f"1..{D}")
    return width


def _cost(
    dims: npt.NDArray[np.int64], D: int, layout: Layout, width: int | None, dtype: ValueType, target: Target
) -> tuple[int, float | None]:
    """Bytes, and time against dense fp32."""
    if width is not None:
        paged_table = paged_cost(dims, D, width, dtype)
        return paged_table.bytes, paged_table.relative_time
    if layout == "ragged":
        return ragged_bytes(dims, D, dtype), _NATIVE_TIME if target == "native" else _FALLBACK_TIME
    if layout == "blocks":
        return blocks_bytes(dims), None
    return dense_bytes(len(dims), D, dtype), _DENSE_TIME[dtype]


def lay_out(rows: Stored, dims: npt.NDArray[np.int64], plan: TablePlan) -> LaidOut:
    """A table as planned.

    Args:
        rows: in their value type.
        dims: int64 `[V]`.
        plan: of the table.

    Raises:
        InputError: a paged table has too many pages, or the layout does not fit the value type.
    """
    try:
        if plan.page_width is not None:
            return paged(rows, dims, plan.page_width)
        if plan.layout == "dense":
            return dense(rows)
        return blocks(rows, dims) if plan.layout == "blocks" else ragged(rows, dims)
    except ValueError as error:
        raise InputError(
            "export: the table cannot be laid out so", found=error, fix="another layout or dtype"
        ) from None


def lay_out_all(frozen: FrozenModel, rows: Mapping[str, Stored], plans: Mapping[str, TablePlan]) -> dict[str, LaidOut]:
    """Path of each table → the table as planned."""
    return {path: lay_out(rows[path], table.dims.cpu().numpy(), plans[path]) for path, table in frozen.tables.items()}


def plan(frozen: FrozenModel, config: PlanConfig) -> dict[str, TablePlan]:
    """Path of each table → how `export` would store it; nothing is written.

    Raises:
        InputError: the page width does not fit.
    """
    in_blocks = {frozen.table_path} if frozen.projection_bytes else set()
    return {
        path: plan_table(
            table,
            config,
            frozen.counts.get(path),
            in_blocks=path in in_blocks,
            read_whole=path in frozen.read_whole,
        )
        for path, table in frozen.tables.items()
    }
