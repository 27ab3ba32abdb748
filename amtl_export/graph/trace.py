"""`torch.onnx.export` of a frozen model, its lookups left as one custom op each.

The node `ai.amtl::Lookup(rows, ids)` is the seam between the model and the layout: tracing knows
nothing of layouts, and `lower.py` nothing of PyTorch.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import onnx_ir as ir
import onnxscript
import torch
from torch import Tensor, nn

from amtl_export.errors import InputError
from amtl_export.graph.inputs import Input, model_inputs
from amtl_export.models.ctr import CtrModel
from amtl_export.native import DOMAIN

OPSET = 20
IR_VERSION = 10

#: Node metadata that says which module and operator a node came from; kept as provenance.
PROVENANCE = ("namespace", "pkg.torch.onnx.class_hierarchy", "pkg.torch.onnx.name_scopes")


def table_of(lookup: ir.Node) -> str:
    """Path of the module whose table a Lookup reads."""
    source = lookup.inputs[0]
    assert source is not None
    assert source.name is not None
    return source.name.removeprefix("model.").removesuffix(".rows")


class _Serving(nn.Module):
    """The model as it serves: flat inputs, those of the request repeated for each candidate; logit and probability."""

    def __init__(self, model: CtrModel, inputs: Sequence[Input]) -> None:
        super().__init__()
        self.model, self.inputs = model, tuple(inputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        batch = next(tensor.shape[0] for spec, tensor in zip(self.inputs, tensors, strict=True) if not spec.request)
        rows = [t.expand(batch, -1) if spec.request else t for spec, t in zip(self.inputs, tensors, strict=True)]
        multi = [self.model.config.embedded[i].name for i in self.model.config.multi]
        ids, numeric = self._source("ids", rows), self._source("numeric", rows)
        by_name = {spec.name: row for spec, row in zip(self.inputs, rows, strict=True)}
        logit = self.model(ids, numeric, [by_name[name] for name in multi])
        return logit, torch.sigmoid(logit)

    def _source(self, source: str, rows: Sequence[Tensor]) -> Tensor | None:
        """`ids` or `numeric` with all its columns in the model's order; None if the model has none."""
        parts = [(spec.columns, row) for spec, row in zip(self.inputs, rows, strict=True) if spec.source == source]
        if len(parts) < 2:
            return parts[0][1] if parts else None
        positions = [position for columns, _ in parts for position in columns]
        order = torch.tensor([positions.index(i) for i in range(len(positions))])
        return torch.cat([row for _, row in parts], dim=1).index_select(1, order)


def _example(spec: Input, batch: int = 3, length: int = 4) -> Tensor:
    """An input of the right shape; which sizes may change is said to the exporter apart from it."""
    dtype = torch.float32 if spec.source == "numeric" else torch.int64
    return torch.zeros(1 if spec.request else batch, len(spec.columns) or length, dtype=dtype)


def trace(model: CtrModel, inputs: Sequence[Input] | None = None) -> ir.Model:
    """The graph of a frozen model: outputs `logit` and `probability`, float32 `[B]`.

    Any backbone that `torch.export` can trace passes. The batch and the length of multi-valued
    fields stay dynamic, 0 included.

    Args:
        model: frozen.
        inputs: of the graph; the model's own if not given. Those of the request are repeated by an Expand each.

    Raises:
        InputError: the backbone cannot be exported; the exporter's reason is given.
    """
    inputs = inputs or model_inputs(model.config)
    batch = torch.export.Dim("batch", min=0)
    shapes: list[dict[int, Any]] = [{} if spec.request else {0: batch} for spec in inputs]
    for spec, shape in zip(inputs, shapes, strict=True):
        if not spec.columns:
            shape[1] = torch.export.Dim(f"length_{spec.name}".replace(".", "_").replace("-", "_"), min=0)
    examples, outputs = {spec.name: _example(spec) for spec in inputs}, ["logit", "probability"]
    return _exported(_Serving(model, inputs), examples, outputs, shapes, f"backbone {model.config.backbone}")


class _Flat(nn.Module):
    """Any module, called with the graph's inputs in order; named `model` as in `_Serving`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.model = module

    def forward(self, *inputs: Tensor) -> Any:
        return self.model(*inputs)


def trace_module(module: nn.Module, example: Mapping[str, Tensor], outputs: Sequence[str]) -> ir.Model:
    """The graph of any frozen module, the first dimension of every input dynamic.

    Args:
        module: frozen.
        example: input name → tensor, in the order in which the module takes them.
        outputs: names of what it gives.

    Raises:
        InputError: the module cannot be exported; the exporter's reason is given.
    """
    batch = torch.export.Dim("batch", min=0)
    shapes: list[dict[int, Any]] = [{0: batch} for _ in example]
    return _exported(_Flat(module), example, outputs, shapes, type(module).__name__)


def _exported(
    module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], shapes: list[dict[int, Any]], where: str
) -> ir.Model:
    try:
        with _quiet():
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=(tuple(shapes),),
                opset_version=OPSET,
                custom_translation_table={torch.ops.amtl.lookup.default: _lookup_node()},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise InputError(
            "the model cannot be exported",
            where=where,
            found=_root_cause(error),
            fix="use operations that torch.export traces with a dynamic batch (no loops over the batch, no .item())",
        ) from error
    assert program is not None
    return cleaned(program.model)


def cleaned(model: ir.Model) -> ir.Model:
    """Drop what names the exporting machine; keep each node's module and operator."""
    for node in model.graph:
        kept = {key: node.metadata_props[key] for key in PROVENANCE if key in node.metadata_props}
        node.metadata_props.clear()
        node.metadata_props.update({key: value.replace("__main__.", "") for key, value in kept.items()})
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.ir_version = IR_VERSION
    return model


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's talk about absent torchvision and shared axis names; errors still come through."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _lookup_node() -> Any:
    """The translation of `amtl::lookup`, registering the custom op's schema once."""
    _register_schema()
    opset = onnxscript.values.Opset(DOMAIN, 1)

    def translate(rows: Any, ids: Any, sizes: Sequence[int], offsets: Sequence[int]) -> Any:
        return opset.Lookup(rows, ids, sizes=sizes, offsets=offsets)

    return translate


def _register_schema() -> None:
    if onnx.defs.has("Lookup", DOMAIN):
        return
    define = onnx.defs.OpSchema
    parameter, attribute = define.FormalParameter, define.Attribute
    onnx.defs.register_schema(
        define(
            "Lookup",
            DOMAIN,
            1,
            inputs=[parameter("rows", "T"), parameter("ids", "tensor(int64)")],
            outputs=[parameter("looked_up", "T")],
            type_constraints=[("T", ["tensor(float)"], "value type")],
            attributes=[
                attribute("sizes", define.AttrType.INTS, required=True),
                attribute("offsets", define.AttrType.INTS, required=True),
            ],
        )
    )
