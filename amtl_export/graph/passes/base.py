"""What the passes share: how near they came where they changed nothing, and what they hold true."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from amtl_export.graph.facts import module_of
from amtl_export.native import DOMAIN


@dataclass(frozen=True)
class Miss:
    """A node that a pass looked at and left.

    Attributes:
        node: in words: operator, name, module.
        reason: why it did not match.
        progress: how many conditions held before that; the miss with most is the nearest.
    """

    node: str
    reason: str
    progress: int = 0

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}"


class GraphPass(ir.passes.InPlacePass):
    """A pass that remembers what it left, so that one that was asked for can say why it changed nothing."""

    def __init__(self) -> None:
        self._misses: list[Miss] = []

    def missed(self, node: ir.Node, reason: str, progress: int = 0) -> None:
        """Note that a node did not match."""
        self._misses.append(Miss(described(node), reason, progress))

    @property
    def nearest(self) -> Miss | None:
        """The first of those that came nearest; None if no node was looked at."""
        return max(self._misses, key=lambda miss: miss.progress, default=None)


def described(node: ir.Node) -> str:
    """A node for people: `Gemm linear_1 of backbone.layers.1`."""
    module = module_of(node)
    return f"{node.op_type} {node.outputs[0].name}" + (f" of {module}" if module else "")


def is_op(node: ir.Node | None, kind: str, domain: str = "") -> bool:
    """Whether a node is of this operator."""
    return node is not None and node.op_type == kind and node.domain == domain


def is_custom(node: ir.Node | None, kind: str) -> bool:
    """Whether a node is of this operator of ours."""
    return is_op(node, kind, DOMAIN)


def custom_nodes(model: ir.Model) -> list[ir.Node]:
    """The nodes of our own operators, in order."""
    return [node for node in model.graph if node.domain == DOMAIN]


def require(holds: bool, what: str) -> None:
    """Raise PreconditionError unless it holds."""
    if not holds:
        raise ir.passes.PreconditionError(what)


def ensure(holds: bool, what: str) -> None:
    """Raise PostconditionError unless it holds."""
    if not holds:
        raise ir.passes.PostconditionError(what)


def require_unlowered(model: ir.Model) -> None:
    """Raise PreconditionError if a lookup was lowered already."""
    known = {"Lookup", "WholeTable", "LookupSum", "LookupPairs", "LookupLinear", "Decode"}
    others = [described(node) for node in custom_nodes(model) if node.op_type not in known]
    require(not others, f"lookups are lowered already: {', '.join(others)}")


def ensure_none(nodes: Iterable[ir.Node], what: str) -> None:
    """Raise PostconditionError with the nodes, if there are any."""
    left = [described(node) for node in nodes]
    ensure(not left, f"{what}: {', '.join(left)}")
