"""The passes that turn a traced graph into one that serves, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir
import onnx_ir.passes.common as common

from amtl_export.errors import InputError
from amtl_export.graph.lookups import IdPolicy, Lookup
from amtl_export.graph.passes.base import GraphPass
from amtl_export.graph.passes.drop_idle_squeezes import DropIdleSqueezes
from amtl_export.graph.passes.exact_sigmoids import ExactSigmoids
from amtl_export.graph.passes.fold_bases import FoldBases
from amtl_export.graph.passes.fuse_first_layers import FuseFirstLayers
from amtl_export.graph.passes.fuse_pairs import FusePairs
from amtl_export.graph.passes.fuse_sums import NARROW, FuseSums
from amtl_export.graph.passes.hoist_request import HoistRequest
from amtl_export.graph.passes.lower_lookups import LowerLookups
from amtl_export.graph.passes.quantize_layers import QuantizeLayers
from amtl_export.graph.passes.read_rows_alone import ReadRowsAlone
from amtl_export.graph.passes.state_linear_layers import StateLinearLayers
from amtl_export.graph.passes.state_shapes import StateShapes
from amtl_export.graph.passes.sum_flat import SumFlat
from amtl_export.graph.quantized_linear import Quantizable
from amtl_export.graph.weights import SCALES, parts_of
from amtl_export.tables.layout import LaidOut
from amtl_export.tables.plan import FirstLayer, LayerDtype, TablePlan
from amtl_export.tables.values import SCALED

_NOTHING = Quantizable({}, {})


class Wanted(Protocol):
    """What was asked of the export."""

    @property
    def first_layer(self) -> FirstLayer:
        """Whether a fused first layer was asked for."""

    @property
    def layer_dtype(self) -> LayerDtype:
        """Of the weights of layers that gain by it."""

    @property
    def native_layers(self) -> bool:
        """Whether the native operators compute layers."""

    @property
    def id_policy(self) -> IdPolicy:
        """Whether ids are guarded."""


@dataclass(frozen=True)
class Step:
    """A pass in its place.

    Attributes:
        rewrite: the pass.
        asked: what asked for it, if it is an error that it changes nothing: the setting, and the fix.
        purpose: what it was to do, in words.
    """

    rewrite: GraphPass
    asked: tuple[str, str] | None = None
    purpose: str = ""


def lower(
    model: ir.Model,
    plans: Mapping[str, TablePlan],
    tables: Mapping[str, LaidOut],
    wanted: Wanted,
    shared: Sequence[str] = (),
    layers: Quantizable = _NOTHING,
    most: Mapping[str, int] | None = None,
) -> list[Lookup]:
    """Turn a traced graph's custom ops into those of the planned layouts, in place; where the lookups are now.

    Args:
        model: from `trace`.
        plans: table → how it is stored.
        tables: table → its arrays.
        wanted: what was asked for.
        shared: names of inputs that are given once per request.
        layers: what may be quantized.
        most: dimension → its largest size, where that is known.

    Raises:
        InputError: what was asked for changed nothing: no layer can be fused or quantized, or nothing depends on the
            request alone.
    """
    lowering = LowerLookups(tables, wanted.id_policy)
    quantizing = QuantizeLayers(layers, native=wanted.native_layers) if wanted.layer_dtype == "int8" else None
    run([*_steps(plans, wanted, shared, quantizing, most or {}), Step(lowering)], model)
    if quantizing:
        asked = ("layer_dtype: int8", 'layer_dtype="fp32"')
        fused = any(part.form == SCALES for part in parts_of(model.graph))
        run([Step(quantizing, None if fused else asked, "no layer gains by it")], model)
    return lowering.lookups


def _steps(
    plans: Mapping[str, TablePlan],
    wanted: Wanted,
    shared: Sequence[str],
    quantizing: QuantizeLayers | None,
    most: Mapping[str, int],
) -> Iterator[Step]:
    """The rewrites before lookups are lowered."""
    yield from _first()
    if shared:
        asked = (f"request_fields: {', '.join(shared)}", "leave request_fields out")
        yield Step(HoistRequest(shared), asked, "nothing can be computed once per request")
    ragged = [path for path, table in plans.items() if table.layout == "ragged"]
    narrow = [path for path, table in plans.items() if table.layout != "ragged" and table.dim <= NARROW]
    yield from (Step(FuseSums(ragged, narrow, most)), Step(FusePairs(ragged)))
    fusable = [path for path, table in plans.items() if table.fused]
    asked_layer = ("first_layer: fused", 'first_layer="plain"') if wanted.first_layer == "fused" else None
    int8 = quantizing is not None and all(plans[path].dtype in SCALED for path in fusable)
    fuse = FuseFirstLayers(fusable, int8=int8, asked=wanted.first_layer == "fused", quantizing=quantizing)
    yield Step(fuse, asked_layer, "no linear layer can be fused with a lookup")
    yield Step(SumFlat())


def _first() -> Iterator[Step]:
    """Whatever was asked for."""
    rewrites = (DropIdleSqueezes(), StateShapes(), ExactSigmoids(), StateLinearLayers(), ReadRowsAlone(), FoldBases())
    yield from map(Step, rewrites)


def fold_bases(model: ir.Model) -> None:
    """The first passes alone, up to the one that folds bases into what reads the rows, in place."""
    run(list(_first()), model)


def run(steps: Sequence[Step], model: ir.Model) -> None:
    """Run passes in order, in place.

    Raises:
        InputError: one that was asked for changed nothing; the nearest failed match is given.
        ir.passes.InvariantError: what a pass requires or ensures does not hold; its notes name the passes before it.
    """
    done: list[str] = []
    for step in steps:
        try:
            result = step.rewrite(model)
        except ir.passes.InvariantError as error:
            error.add_note(f"in {type(step.rewrite).__name__}, after {', '.join(done) or 'no other pass'}")
            raise
        if step.asked and not result.modified:
            _refuse(step, step.asked)
        common.NameFixPass()(model)  # a value without a name got one that an input may have: val_0
        done.append(type(step.rewrite).__name__)


def _refuse(step: Step, asked: tuple[str, str]) -> None:
    nearest = step.rewrite.nearest
    found = f"nearest: {nearest}" if nearest else "no node that it could apply to"
    raise InputError(step.purpose, where=asked[0], found=found, fix=asked[1])
