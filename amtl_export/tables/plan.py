"""The layout planner: what `layout="auto"` means for each table, with what it is expected to cost.

A plan needs the dims and how often each row is looked up, no values, so it is made before anything is written
(a dry run of `export`). Its rules; times are those of benchmarks/results/ (lookup, infer-1m, first-layer):

- nothing is laid out anew unless that saves a tenth of the bytes; tables of fewer than four floats a row stay dense;
- for the target native, `ragged` is the smallest and the fastest, so it is taken;
- for portable, where `ragged` would run by its slow fallback, that of `paged` and `blocks` is taken that has the least
  bytes times time;
- rows of int4 are `ragged` or `dense`;
- a lookup is fused with the layer that reads it (`ai.amtl::RaggedLinear`) where that multiplies enough less: surviving
  numbers alone, and a row that several examples of a block have once, at 0.78 to 0.99 of a plain layer's rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from amtl_export.errors import InputError
from amtl_export.native import MOST_DIM
from amtl_export.tables.arrange import blocks, dense, paged, ragged
from amtl_export.tables.cost import Cost, best_blocks, best_pages, dense_bytes, dense_cost, paged_cost, ragged_cost
from amtl_export.tables.layout import LaidOut
from amtl_export.tables.values import NARROW, SCALED, VALUE_TYPES, Stored, ValueType, ValueTypeName, value_type

if TYPE_CHECKING:  # bundles are read without PyTorch
    from amtl_export.freezing.frozen import FrozenModel
    from amtl_export.freezing.table import FrozenEmbedding

Layout = Literal["dense", "paged", "blocks", "ragged"]
LayoutName = Literal["auto", "dense", "paged", "blocks", "ragged"]
LAYOUTS: tuple[LayoutName, ...] = get_args(LayoutName)
FirstLayer = Literal["auto", "plain", "fused"]
FIRST_LAYERS: tuple[FirstLayer, ...] = get_args(FirstLayer)
Target = Literal["portable", "native"]
TARGETS: tuple[Target, ...] = get_args(Target)

#: Layouts that are smaller than dense, of standard operators.
_SMALLER: tuple[Layout, ...] = ("paged", "blocks")

LayerDtype = Literal["fp32", "int8"]
LAYER_DTYPES: tuple[LayerDtype, ...] = get_args(LayerDtype)

#: `auto` leaves a table dense unless another layout saves at least this part of its bytes.
WORTH_SAVING = 0.10

#: A lookup is fused with its layer where that multiplies at most this part of what a plain layer does.
WORTH_FUSING = 0.80

#: Examples whose rows a fused layer looks for among each other (AMTL_BLOCK of native/table.h).
BLOCK = 288

#: Rows counted at a time.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class PlanConfig:
    """What is asked of the planner.

    Attributes:
        layout: of every table, or `auto`.
        dtype: of the stored numbers; `auto` is what `compress` found for the target native, fp32 otherwise.
        page_width: c of the paged layout; None lets the cost model choose.
        target: what will run the bundle: `portable`, any ONNX Runtime, by standard operators alone; `native`, one where
            the native library is registered.
        first_layer: `fused` makes a lookup and the linear layer behind it one node, which needs `ragged`.
        layer_dtype: of the weights of linear layers; `int8` quantizes those that gain by it, and what they multiply at
            each call. One that reads rows of int8 or int4 is fused with their lookup where the tables are ragged.
    """

    layout: LayoutName = "auto"
    dtype: ValueTypeName = "auto"
    page_width: int | None = None
    target: Target = "portable"
    first_layer: FirstLayer = "auto"
    layer_dtype: LayerDtype = "fp32"

    @property
    def stored(self) -> ValueType:
        """The value type, once it is known; fp32 where nothing says more."""
        return "fp32" if self.dtype == "auto" else self.dtype

    @property
    def fuses(self) -> bool:
        """Whether a fused layer was asked for, by itself or as one in int8."""
        ragged = self.layout == "ragged" or (self.layout == "auto" and self.target == "native")
        reads_int8 = self.layer_dtype == "int8" and self.dtype in SCALED and self.first_layer == "auto"
        return self.first_layer == "fused" or (reads_int8 and ragged)

    @property
    def native_layers(self) -> bool:
        """Whether the native operators compute layers: the library will be there, for the tables' sake too."""
        return self.target == "native" or self.layout == "ragged" or self.fuses

    def __post_init__(self) -> None:
        for what, found, allowed in (
            ("layout", self.layout, LAYOUTS),
            ("value type", self.dtype, ("auto", *VALUE_TYPES)),
            ("target", self.target, TARGETS),
            ("first layer", self.first_layer, FIRST_LAYERS),
            ("value type of layers", self.layer_dtype, LAYER_DTYPES),
        ):
            if found not in allowed:
                raise InputError(f"export: unknown {what}", found=found, allowed=", ".join(allowed))
        if self.page_width is not None and self.layout != "paged":
            raise InputError("export: a page width goes with layout='paged'", found=self.layout)
        if self.fuses and self.layout not in ("auto", "ragged"):
            raise InputError("export: a fused first layer reads ragged tables", found=f"layout={self.layout!r}")
        if self.layout in ("paged", "blocks") and self.dtype == "int4":
            fix = "layout='ragged' or layout='dense'; or dtype='int8'"
            raise InputError(f"export: {self.layout} tables do not hold int4", found=f"dtype={self.dtype!r}", fix=fix)


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
        block_widths: columns of each block, or None if the table is not cut into blocks.
        fused: whether the linear layer behind a lookup becomes part of it.
        bytes: in the file.
        bytes_dense: of the same table dense, in fp32.
        relative_time: expected lookup time against a dense table's.
        reason: why, in words.
    """

    rows: int
    dim: int
    avg_dim: float
    looked_up_dim: float
    multiplied: float
    layout: Layout
    page_width: int | None
    block_widths: tuple[int, ...] | None
    dtype: ValueType
    fused: bool
    bytes: int
    bytes_dense: int
    relative_time: float
    reason: str

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def target_gives(frozen: FrozenModel, config: PlanConfig, target: Target) -> dict[str, Any]:
    """What a target would give, all that `config` says of layouts left to the planner.

    Returns:
        JSON values: `target`; `problem`, in words where there is no such plan, else None; where there is one, `layout`,
        `dtype` and `relative_time` of the main table, `bytes_table` and `bytes_ratio` of all.
    """
    found: dict[str, Any] = {"target": target, "problem": None}
    try:
        plans = plan(frozen, replace(config, target=target, layout="auto", page_width=None, first_layer="auto"))
    except InputError as error:
        return found | {"problem": error.what}
    main = plans[frozen.table_path]
    total = sum(own.bytes for own in plans.values())
    return found | {
        "layout": main.layout,
        "dtype": main.dtype,
        "bytes_table": total,
        "bytes_ratio": total / max(frozen.dense_bytes, 1),
        "relative_time": main.relative_time,
    }


def plan_table(
    table: FrozenEmbedding,
    config: PlanConfig,
    counts: npt.NDArray[np.int64] | None = None,
    *,
    read_whole: bool = False,
    narrowed: bool = False,
) -> TablePlan:
    """Choose for one table.

    Args:
        table: frozen.
        config: what is asked for.
        counts: int64 `[V]`, how often training saw each row; None takes every row as often.
        read_whole: whether the model reads the whole table too, for a tied output layer for instance.
        narrowed: whether the table is narrower than what the model reads, so that dense rows are a saving too.

    Raises:
        InputError: the page width does not fit; rows are wider than the native operators take.
    """
    dims, (V, D) = table.dims.cpu().numpy(), table.rows.shape
    dtype = value_type(table, config.stored)
    layout, cost, reason = _choose(dims, D, dtype, config, read_whole=read_whole, narrowed=narrowed)
    weights = None if counts is None or not counts.any() else counts
    looked_up = 0.0 if not V else float(dims.mean()) if weights is None else float(dims @ weights / weights.sum())
    fusible = layout == "ragged" and config.first_layer != "plain"
    multiplied = multiplied_part(table, weights)
    fused = fusible and (config.fuses or (config.target == "native" and multiplied <= WORTH_FUSING))
    return TablePlan(
        rows=V,
        dim=D,
        avg_dim=float(dims.mean()) if V else 0.0,
        looked_up_dim=looked_up,
        multiplied=multiplied,
        layout=layout,
        page_width=cost.widths[0] if layout == "paged" else None,
        block_widths=cost.widths if layout == "blocks" else None,
        dtype=dtype,
        fused=fused,
        bytes=cost.bytes,
        bytes_dense=dense_bytes(V, D),
        relative_time=cost.relative_time,
        reason=reason,
    )


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
        drawn = None if counts is None or not counts[offset : offset + size].any() else counts[offset : offset + size]
        numbers, total = 0.0, size if drawn is None else drawn.sum()
        for first in range(0, size, _CHUNK):
            rows = slice(first, min(first + _CHUNK, size))
            probability = (1.0 if drawn is None else drawn[rows]) / total
            with np.errstate(divide="ignore"):  # the only row of a field: log 0
                seen = -np.expm1(BLOCK * np.log1p(-probability))
            numbers += float((dims[offset : offset + size][rows] * seen).sum())
        parts.append(numbers / (BLOCK * D))
    return float(np.mean(parts)) if parts else 0.0


def _choose(
    dims: npt.NDArray[np.int64],
    D: int,
    dtype: ValueType,
    config: PlanConfig,
    *,
    read_whole: bool,
    narrowed: bool,
) -> tuple[Layout, Cost, str]:
    dense = dense_cost(len(dims), D, dtype)
    if D < NARROW:
        return "dense", dense, f"fewer than {NARROW} floats a row"
    if D > MOST_DIM and (config.layout == "ragged" or config.fuses):
        found, fix = f"D = {D}", "layout='dense', or one of 'paged' and 'blocks'"
        raise InputError("export: rows are too wide for ragged tables", found=found, allowed=f"D ≤ {MOST_DIM}", fix=fix)
    if config.layout != "auto":
        return config.layout, _cost(dims, D, dtype, config.layout, config), "asked for"
    if read_whole:
        return "dense", dense, "the model reads the whole table"
    ragged = ragged_cost(dims, D, dtype, native=config.target == "native")
    if config.fuses:
        return "ragged", ragged, "a fused first layer was asked for"
    most = _most_bytes(dims, D, dtype)
    # Dense rows that are quantized take several standard operators to decode.
    if config.target == "native" and ragged.bytes <= (dense.bytes if dtype in SCALED else most) and D <= MOST_DIM:
        return "ragged", ragged, "smallest, and the native operator will be there"
    if dtype == "int4":
        return "dense", dense, "pages and blocks do not hold int4"
    smaller = {layout: _cost(dims, D, dtype, layout, config) for layout in _SMALLER}
    saving = {layout: cost for layout, cost in smaller.items() if cost.bytes <= most}
    if narrowed and min(cost.score for cost in [dense, *saving.values()]) == dense.score:
        return "dense", dense, "narrow enough for one Gather"
    if not saving:
        return "dense", dense, f"no other layout saves {WORTH_SAVING:.0%}"
    best = min(saving, key=lambda layout: saving[layout].score)
    return best, saving[best], "least bytes times time without the native operator"


def _most_bytes(dims: npt.NDArray[np.int64], D: int, dtype: ValueType) -> float:
    """Of a layout that is worth it."""
    return (1 - WORTH_SAVING) * dense_bytes(len(dims), D, dtype)


def _cost(dims: npt.NDArray[np.int64], D: int, dtype: ValueType, layout: Layout, config: PlanConfig) -> Cost:
    """Of a layout, with the widths that are best in it, of those that save enough if any do."""
    if layout == "paged":
        if config.page_width is None:
            return best_pages(dims, D, dtype, _most_bytes(dims, D, dtype))
        if not 1 <= config.page_width <= D:
            raise InputError("export: the width of a page", found=f"page_width={config.page_width}", allowed=f"1..{D}")
        return paged_cost(dims, D, config.page_width, dtype)
    if layout == "blocks":
        return best_blocks(dims, D, dtype, _most_bytes(dims, D, dtype))
    if layout == "ragged":
        return ragged_cost(dims, D, dtype, native=config.target == "native")
    return dense_cost(len(dims), D, dtype)


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
        if plan.block_widths is not None:
            return blocks(rows, dims, plan.block_widths)
        return dense(rows) if plan.layout == "dense" else ragged(rows, dims)
    except ValueError as error:
        raise InputError(
            "export: the table cannot be laid out so", found=error, fix="another layout or dtype"
        ) from None


def lay_out_all(frozen: FrozenModel, rows: Mapping[str, Stored], plans: Mapping[str, TablePlan]) -> dict[str, LaidOut]:
    """Path of each table → the table as planned."""
    return {path: lay_out(rows[path], table.dims.cpu().numpy(), plans[path]) for path, table in frozen.tables.items()}


C = TypeVar("C", bound=PlanConfig)


def for_model(config: C, frozen: FrozenModel) -> C:
    """The config with its value type decided: what `compress` found, if the native operators will read it.

    Standard operators read fp32 faster than anything smaller.

    Raises:
        InputError: it does not go with the rest of the config.
    """
    if config.dtype != "auto":
        return config
    found: ValueType = "fp32"
    if frozen.compressed and config.target == "native":
        found = frozen.compressed.report["dtype"]
    if found == "int4" and config.layout in ("paged", "blocks"):
        found = "int8"  # what they hold; the AUC drop allowed less than that
    return replace(config, dtype=found)


def plan(frozen: FrozenModel, config: PlanConfig) -> dict[str, TablePlan]:
    """Path of each table → how `export` would store it; nothing is written.

    Raises:
        InputError: the page width does not fit.
    """
    resolved = for_model(config, frozen)
    return {
        path: plan_table(
            table,
            resolved,
            frozen.counts.get(path),
            read_whole=path in frozen.read_whole,
            narrowed=table.rows.shape[1] < frozen.dim(path),
        )
        for path, table in frozen.tables.items()
    }
