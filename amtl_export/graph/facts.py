"""What is known of a graph's values, kept in their metadata: which weight, which table, which part of it.

Names are for people; no room reads a fact from a name.
"""

from __future__ import annotations

import ast

import onnx_ir as ir

#: Of an initializer: the model's parameter or buffer that it is, or is a part of.
WEIGHT = "amtl.weight"
#: Of an initializer: the table that it holds, or holds a part of; of a node's result: the table whose rows it has.
TABLE = "amtl.table"
#: Of an initializer: which array of a layout it is.
ARRAY = "amtl.array"

#: Of a part of a weight: which columns, how they lie, and whether they are columns of the transposed weight.
COLUMNS, FORM, TRANSPOSED = "amtl.columns", "amtl.form", "amtl.transposed"
#: Of a weight into which bases are folded: what it multiplies, side by side; see `weights.Segment`.
FOLD = "amtl.fold"
#: Of an initializer: a number that lowering needs (bounds, axes, sizes).
CONSTANT = "amtl.constant"

#: Of a node: paths of the modules that it came from, outermost first, then its operator's name; as a list's repr.
SCOPES = "pkg.torch.onnx.name_scopes"
#: Of a node: their classes, then the operator; as a list's repr. And both in one line, for people.
CLASSES, NAMESPACE = "pkg.torch.onnx.class_hierarchy", "namespace"
#: Node metadata that says which module and operator a node came from; kept as provenance.
PROVENANCE = (NAMESPACE, CLASSES, SCOPES)


def fact(value: ir.Value | None, key: str) -> str | None:
    """What a value's metadata says; None if it says nothing."""
    return None if value is None else value.metadata_props.get(key)


def table_of(node: ir.Node) -> str | None:
    """The table that a Lookup or WholeTable reads; None if its matrix is no table."""
    return fact(node.inputs[0], TABLE)


def scopes_of(node: ir.Node) -> list[str]:
    """Paths of the modules that a node came from, outermost first, then its operator's name; empty if unknown."""
    return listed(node.metadata_props.get(SCOPES, "[]"))


def listed(text: str) -> list[str]:
    """The texts of a list's repr; the text itself if it is none."""
    try:
        return [str(element) for element in ast.literal_eval(text)]
    except (ValueError, SyntaxError):
        return [text]


def module_of(node: ir.Node) -> str:
    """Path of the innermost module that a node came from; empty for the model itself, or if unknown."""
    return (scopes_of(node)[:-1] or [""])[-1]
