"""What is known of a graph's values, kept in their metadata: which weight, which table, which part of it.

Names are for people; no room reads a fact from a name.
"""

from __future__ import annotations

import onnx_ir as ir

#: Of an initializer: the model's parameter or buffer that it is, or is a part of.
WEIGHT = "amtl.weight"
#: Of an initializer: the table that it holds, or holds a part of; of a node's result: the table whose rows it has.
TABLE = "amtl.table"
#: Of an initializer: which array of a layout it is.
ARRAY = "amtl.array"

#: Of a part of a weight: which columns, and how they lie.
COLUMNS, FORM = "amtl.columns", "amtl.form"
#: Of an initializer: a number that lowering needs (bounds, axes, sizes).
CONSTANT = "amtl.constant"

#: Node metadata that says which module and operator a node came from; kept as provenance.
PROVENANCE = ("namespace", "pkg.torch.onnx.class_hierarchy", "pkg.torch.onnx.name_scopes")


def fact(value: ir.Value | None, key: str) -> str | None:
    """What a value's metadata says; None if it says nothing."""
    return None if value is None else value.metadata_props.get(key)


def table_of(node: ir.Node) -> str | None:
    """The table that a Lookup or WholeTable reads; None if its matrix is no table."""
    return fact(node.inputs[0], TABLE)
