"""`torch.onnx.export` of a frozen model, its lookups left as one custom node each.

The nodes `ai.amtl::Lookup(rows, ids)`, `ai.amtl::WholeTable(rows)` and `ai.amtl::Decode(rows, bases)` are the seam
between the model and the layout: tracing knows nothing of layouts, and lowering nothing of PyTorch.

ensures: inputs and outputs have the names asked for; an initializer that is a parameter or buffer of the model says so
in its metadata (`facts.WEIGHT`), one that is a frozen table's rows says which (`facts.TABLE`). Every other
`aten.embedding` of a float32 matrix of known size is a Lookup too, of a matrix that is no table: its ids are guarded
like all others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxscript
import torch
from onnxscript import opset20 as op
from torch import Tensor, nn

from amtl_export.errors import InputError
from amtl_export.freezing.flat import Flat
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.kept import draws_kept
from amtl_export.freezing.swap import frozen_tables
from amtl_export.graph.added_operators import added_translations
from amtl_export.graph.exporting import exported
from amtl_export.graph.facts import CLASSES, NAMESPACE, SCOPES, TABLE, WEIGHT, listed, module_of, scopes_of
from amtl_export.graph.inputs import as_request
from amtl_export.graph.onnx_exporter import exact_translations, exporter
from amtl_export.graph.padded_encoders import padded_encoders
from amtl_export.graph.user_lines import lines_of
from amtl_export.graph.versions import IR_VERSION, OPSET
from amtl_export.graph.weights import Part
from amtl_export.interruptions import interruptions_held
from amtl_export.native import DOMAIN
from amtl_export.spec import TensorSpec

#: Of a traced model's `meta`: dimension → its largest size, where the model has one.
LIMITS = "amtl.limits"

#: Where the exporter finds the model.
_MODEL = "model."

#: How the exporter says which operator it has no ONNX for.
_UNKNOWN = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")


class _Serving(nn.Module):
    """A model whose inputs are split: columns of the request are repeated for each candidate and put in their place."""

    def __init__(self, flat: Flat, inputs: Sequence[TensorSpec], taken: Sequence[TensorSpec]) -> None:
        super().__init__()
        self.model = flat.model
        self._flat = [flat]  # in a list: its model is registered above
        self._inputs, self._taken = tuple(inputs), tuple(taken)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        rows = next(t.shape[0] for spec, t in zip(self._taken, tensors, strict=True) if spec.batched)
        wide = [self._repeated(spec, t, rows) for spec, t in zip(self._taken, tensors, strict=True)]
        whole = [self._source(spec.name, wide) for spec in self._inputs]
        answers: tuple[Tensor, ...] = self._flat[0](*whole)
        return answers

    def _repeated(self, spec: TensorSpec, tensor: Tensor, rows: int) -> Tensor:
        return tensor.expand(rows, *tensor.shape[1:]) if spec.shared else tensor

    def _source(self, source: str, tensors: Sequence[Tensor]) -> Tensor:
        """One of the model's inputs, with all its columns in the model's order."""
        parts = [(spec.positions, t) for spec, t in zip(self._taken, tensors, strict=True) if spec.source == source]
        if len(parts) == 1:
            return parts[0][1]
        positions = [position for own, _ in parts for position in own]
        order = torch.tensor([positions.index(i) for i in range(len(positions))])
        return torch.cat([tensor for _, tensor in parts], dim=1).index_select(1, order)


def trace(frozen: FrozenModel, inputs: Sequence[TensorSpec] | None = None) -> ir.Model:
    """The graph of a frozen model.

    Args:
        frozen: the model.
        inputs: of the graph; the model's own if not given. Those of the request are repeated by an Expand each.

    Raises:
        InputError: the model cannot be exported; the exporter's reason is given.
    """
    taken = tuple(inputs or frozen.inputs)
    module = frozen.module if taken == frozen.inputs else _Serving(frozen.module, frozen.inputs, taken)
    example = as_request(frozen.example, taken)
    tensors = tuple(torch.from_numpy(example[spec.name].copy()) for spec in taken)
    where = str(frozen.origin.get("backbone"))
    with interruptions_held(), exporter(), draws_kept(), padded_encoders():
        found = exported(module.eval(), tensors, taken, where)
        model = _converted(found.program, len(taken), len(frozen.outputs), where)
    model.meta[LIMITS] = found.limits
    _check_types(model, where)
    _check_dimensions(model, taken)
    _name_dimensions(model, taken)
    _name(model, [spec.name for spec in taken], frozen.outputs)
    _state_facts(model, frozen)
    return cleaned(model)


def _converted(program: torch.export.ExportedProgram, inputs: int, outputs: int, where: str) -> ir.Model:
    """The graph of an exported program.

    Raises:
        InputError: an operator has no ONNX; the exporter's reason is given.
    """
    try:
        converted = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[f"input.{i}" for i in range(inputs)],
            output_names=[f"output.{i}" for i in range(outputs)],
            opset_version=OPSET,
            custom_translation_table=_translations(),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise InputError(
            "the model cannot be exported",
            where=where + lines_of(error, program),
            found=_root_cause(error),
            fix="use operations that torch.onnx knows",
        ) from error
    assert converted is not None
    return converted.model


def _check_types(model: ir.Model, where: str) -> None:
    """Make sure that nothing is computed in bfloat16, which ONNX Runtime has few operators for; casts alone are fine.

    Raises:
        InputError: a node's result is of that type.
    """
    for node in model.graph.all_nodes():  # those of branches too
        computed = node.op_type not in ("Cast", "Constant", "Identity")
        if computed and any(value.dtype == ir.DataType.BFLOAT16 for value in node.outputs):
            raise InputError(
                "the model computes in bfloat16",
                where=f"{module_of(node)}.".removeprefix(_MODEL).rstrip(".") or where,
                found=node.op_type,
                allowed="torch.float32",
                fix="leave torch.autocast out of forward",
            )


def _check_dimensions(model: ir.Model, inputs: Sequence[TensorSpec]) -> None:
    """Make sure that what may change did not become a number: the exporter can fall back to that without a word.

    Raises:
        InputError: a dimension is fixed.
    """
    for spec, value in zip(inputs, model.graph.inputs, strict=True):
        for axis, (wanted, found) in enumerate(zip(spec.shape, value.shape or (), strict=True)):
            if isinstance(wanted, str) and isinstance(found, int):
                raise InputError(
                    f"the model fixes a dimension that may change: {wanted}",
                    where=f"input {spec.name}, axis {axis}",
                    found=found,
                    fix="forward takes the size as a Python number somewhere: NumPy, int(), a list of it; "
                    "use tensors of x.shape",
                )


def _name_dimensions(model: ir.Model, inputs: Sequence[TensorSpec]) -> None:
    """Call the exporter's symbols (`s26`) what the inputs call their dimensions."""
    names: dict[str, str] = {}
    for spec, value in zip(inputs, model.graph.inputs, strict=True):
        for wanted, size in zip(spec.shape, value.shape or (), strict=True):
            if isinstance(wanted, str) and isinstance(size, ir.SymbolicDim) and size.value is not None:
                names.setdefault(str(size.value), wanted)
    values = [value for node in model.graph for value in node.outputs]
    for value in (*model.graph.inputs, *values):
        if value.shape is not None:
            value.shape = ir.Shape([_named(size, names) for size in value.shape.dims])


def _named(size: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | str | None:
    """A size with the symbols in it named."""
    if isinstance(size, int) or size.value is None:
        return size if isinstance(size, int) else None
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), str(size.value))


def _name(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give inputs and outputs their names; other values of these names get new ones."""
    graph = model.graph
    _part_outputs(graph)
    taken = set(inputs) | set(outputs)
    ends = {id(value) for value in (*graph.inputs, *graph.outputs)}
    values = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for value in values:
        if value.name in taken and id(value) not in ends:
            _rename(graph, value, f"{value.name}.value")
    for names, ended in ((inputs, graph.inputs), (outputs, graph.outputs)):
        for name, value in zip(names, ended, strict=True):
            value.name = name


def _part_outputs(graph: ir.Graph) -> None:
    """An output of its own for each: none is an input, a constant, or another output too."""
    seen: set[int] = {id(value) for value in graph.inputs}
    for i, value in enumerate(graph.outputs):
        if id(value) in seen or value.is_initializer():
            node = ir.node("Identity", [value])
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            graph.append(node)
            graph.outputs[i] = node.outputs[0]
        seen.add(id(value))


def _rename(graph: ir.Graph, value: ir.Value, name: str) -> None:
    if value.is_initializer():
        graph.initializers.pop(str(value.name))
        value.name = name
        graph.initializers[name] = value
    else:
        value.name = name


def _state_facts(model: ir.Model, frozen: FrozenModel) -> None:
    """Say of every initializer which weight or table it is."""
    own = frozen.module.model
    rows = {id(table.rows): path for path, table in frozen_tables(own).items()}
    tables, weights, first = dict[str, str](), dict[str, str](), dict[int, str]()
    for name, tensor in _names_of_weights(own):  # the exporter may take any of a shared one's names
        if id(tensor) in rows:
            tables[name] = rows[id(tensor)]
        else:
            weights[name] = first.setdefault(id(tensor), name)
    for name, value in model.graph.initializers.items():
        path = name.removeprefix(_MODEL)
        value.metadata_props.clear()
        if path in tables:
            value.metadata_props[TABLE] = tables[path]
        elif path in weights:
            value.metadata_props[WEIGHT] = weights[path]
    _state_transposed(model.graph, own)


def _names_of_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every name of every parameter and buffer, a shared one's first name first."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _state_transposed(graph: ir.Graph, own: nn.Module) -> None:
    """Say of constants that the exporter folded the transpose of a weight into which weight it is."""
    turned = {_digest(p.detach().numpy().T): (name, p.shape[0]) for name, p in own.named_parameters() if p.ndim == 2}
    for value in graph.initializers.values():
        if not value.metadata_props and len(value.shape or ()) == 2 and value.const_value is not None:
            name, columns = turned.get(_digest(value.const_value.numpy()), ("", 0))
            value.metadata_props.update(Part(name, tuple(range(columns)), transposed=True).facts if name else {})


def _digest(array: npt.NDArray[Any]) -> tuple[tuple[int, ...], str, bytes]:
    return array.shape, array.dtype.name, hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()


def cleaned(model: ir.Model) -> ir.Model:
    """Drop what names the exporting machine; keep each node's module and operator."""
    for node in model.graph:
        kept = _provenance(node)
        node.metadata_props.clear()
        node.metadata_props.update(kept)
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.ir_version = IR_VERSION
    return model


def _provenance(node: ir.Node) -> dict[str, str]:
    """Where a node came from, modules by their paths in the user's model: the wrapper around it is left out."""
    scopes = scopes_of(node)
    if len(scopes) < 2:
        return {}
    paths = [scope.removeprefix(_MODEL) for scope in scopes[:-1] if scope.startswith(_MODEL)]
    classes = listed(node.metadata_props.get(CLASSES, "[]"))[-1 - len(paths) :]
    names = [*paths, scopes[-1]]
    space = "/".join(f"{name}: {kind.replace('__main__.', '')}" for name, kind in zip(names, classes, strict=False))
    return {NAMESPACE: space, CLASSES: repr(classes), SCOPES: repr(names)}


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    if unknown := _UNKNOWN.search(str(error)):
        return f"torch.onnx has no translation of {unknown[1]}"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _translations() -> dict[Any, Any]:
    """Operator of PyTorch → the node that stands for it, registering the custom operators' schemas once."""
    _register_schemas()
    custom = onnxscript.values.Opset(DOMAIN, 1)

    def lookup(rows: Any, ids: Any, sizes: Sequence[int], offsets: Sequence[int]) -> Any:
        return custom.Lookup(rows, ids, sizes=sizes, offsets=offsets)

    def whole_table(rows: Any) -> Any:
        return custom.WholeTable(rows)

    def decode(coordinates: Any, bases: Any, fields: Sequence[int]) -> Any:
        return custom.Decode(coordinates, bases, fields=fields)

    def embedding(weight: Any, indices: Any, *_: Any, **__: Any) -> Any:
        if not isinstance(weight.shape[0], int) or weight.dtype != ir.DataType.FLOAT:
            return op.Gather(weight, indices, axis=0)
        ids: Any = op.Cast(indices, to=ir.DataType.INT64.value) if indices.dtype != ir.DataType.INT64 else indices
        V = int(weight.shape[0])
        if len(indices.shape) == 0:  # as FrozenEmbedding has it: ids have an axis
            axis: Any = [0]
            return op.Squeeze(custom.Lookup(weight, op.Unsqueeze(ids, axis), sizes=[V], offsets=[0]), axis)
        return custom.Lookup(weight, ids, sizes=[V], offsets=[0])

    operators = torch.ops
    return (
        exact_translations()
        | added_translations()
        | {
            operators.amtl.lookup.default: lookup,
            operators.amtl.whole_table.default: whole_table,
            operators.amtl.decode.default: decode,
            operators.aten.embedding.default: embedding,
        }
    )


def _register_schemas() -> None:
    if onnx.defs.has("Lookup", DOMAIN):
        return
    define = onnx.defs.OpSchema
    parameter, attribute = define.FormalParameter, define.Attribute
    floats = [("T", ["tensor(float)"], "value type")]
    sizes, offsets, fields = (attribute(n, define.AttrType.INTS, required=True) for n in ("sizes", "offsets", "fields"))
    rows, ids, bases = parameter("rows", "T"), parameter("ids", "tensor(int64)"), parameter("bases", "T")
    for name, inputs, attributes in (
        ("Lookup", [rows, ids], [sizes, offsets]),
        ("WholeTable", [rows], []),
        ("Decode", [rows, bases], [fields]),
    ):
        onnx.defs.register_schema(
            define(
                name,
                DOMAIN,
                1,
                inputs=inputs,
                outputs=[parameter("looked_up", "T")],
                type_constraints=floats,
                attributes=attributes,
            )
        )
