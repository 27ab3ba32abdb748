"""The passes that turn a traced graph into one that serves, in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import onnx_ir as ir

from amtl_export.graph.first_layer import fuse_first_layers
from amtl_export.graph.lower import IdPolicy, Lookup, lower_lookups
from amtl_export.graph.pooling import fuse_sums
from amtl_export.graph.request import hoist_request
from amtl_export.graph.whole import read_rows_alone
from amtl_export.tables.layout import LaidOut
from amtl_export.tables.plan import LayerDtype, TablePlan


class Wanted(Protocol):
    """What was asked of the export."""

    @property
    def fuses(self) -> bool:
        """Whether a fused first layer was asked for."""

    @property
    def layer_dtype(self) -> LayerDtype:
        """Of fused layers."""

    @property
    def id_policy(self) -> IdPolicy:
        """Whether ids are guarded."""


def lower(
    model: ir.Model,
    plans: Mapping[str, TablePlan],
    tables: Mapping[str, LaidOut],
    wanted: Wanted,
    shared: Sequence[str] = (),
) -> list[Lookup]:
    """Turn a traced graph's custom ops into those of the planned layouts, in place; where the lookups are now.

    Args:
        model: from `trace`.
        plans: table → how it is stored.
        tables: table → its arrays.
        wanted: what was asked for.
        shared: names of inputs that are given once per request.

    Raises:
        InputError: a fused first layer was asked for, and no layer can be fused.
    """
    read_rows_alone(model)
    hoist_request(model, shared)
    fuse_sums(model, [path for path, table in plans.items() if table.layout == "ragged"])
    fusable = [path for path, table in plans.items() if table.fused]
    fuse_first_layers(model, fusable, required=wanted.fuses, int8=wanted.layer_dtype == "int8")
    return lower_lookups(model, tables, wanted.id_policy)
