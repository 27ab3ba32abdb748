"""Exporting and validating a module that this project did not build.

The same steps as `export` and `validate`, without what only a run knows: schema, vocabularies, labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from amtl_export.bundle.check import LOGIT_TOLERANCE
from amtl_export.bundle.export import ExportConfig, lower, write_model
from amtl_export.bundle.inputs import Feed
from amtl_export.bundle.samples import write_test_data
from amtl_export.errors import InputError, ValidationFailed
from amtl_export.files import atomic_folder, checksum_mismatches, producer, read_json, write_json, write_sums
from amtl_export.freezing.frozen import FrozenEmbedding, freeze_module, frozen_tables, with_tables
from amtl_export.graph.trace import trace_module
from amtl_export.graph.weights import with_quantized_weights
from amtl_export.runtime.session import onnxruntime, open_session
from amtl_export.tables.layout import Paged, from_arrays, stored_bytes
from amtl_export.tables.plan import lay_out_all, plan_table
from amtl_export.tables.values import quantized_tables
from amtl_export.validation.provenance import same_bits, trace_provenance


def export_module(
    module: nn.Module,
    example: Mapping[str, Tensor],
    out: Path,
    *,
    outputs: Sequence[str] = ("output",),
    config: ExportConfig | None = None,
    overwrite: bool = False,
) -> Path:
    """Freeze and export any module with something `Freezable` in it, for instance after `attach`.

    Args:
        module: called with the example's tensors in order; gives one tensor, or one for each of `outputs`.
        example: input name → tensor with the batch in front; all batches must agree and be at least 2.
        out: the folder; appears only when ONNX Runtime answers as PyTorch does for 0, 1, 2 and all rows.
        outputs: names of the outputs.
        config: layout, value type, page width, id policy. Tables narrower than four floats stay dense.
        overwrite: replace an earlier bundle.

    Returns:
        `out`.

    Raises:
        InputError: nothing to freeze, the module cannot be exported, or `out` exists.
        ValidationFailed: the graph answers differently.
        EnvironmentLacks: ONNX Runtime is missing; no disk space; no permission.
    """
    onnxruntime()
    config = config or ExportConfig()
    if config.request_fields:
        raise InputError("export_module: request fields are known by a schema alone", found=config.request_fields)
    batches = {len(tensor) for tensor in example.values()}
    if len(batches) != 1 or min(batches) < 2:
        raise InputError("export_module: example batches", found=sorted(batches), allowed="one batch size of 2 or more")
    frozen = freeze_module(module)
    plans = {path: plan_table(table, config) for path, table in frozen_tables(frozen).items()}
    tables = lay_out_all(frozen_tables(frozen), plans)
    stored = with_tables(frozen, quantized_tables(frozen_tables(frozen), config.dtype))
    with atomic_folder(out, overwrite=overwrite) as draft:
        model = trace_module(frozen, example, outputs)
        lower(model, plans, tables, config)
        stored = with_quantized_weights(stored, model.graph.initializers)
        model.metadata_props["amtl.tool"] = " ".join(producer().values())
        write_model(model, draft)
        feed = {name: tensor.numpy() for name, tensor in example.items()}
        answers = _compare(draft / "model.onnx", stored, feed, outputs)
        write_test_data(draft, feed, answers)
        summary = {
            path: {
                "layout": t.layout,
                "page_width": t.width if isinstance(t, Paged) else None,
                "bytes": stored_bytes(t),
            }
            for path, t in tables.items()
        }
        dense_bytes = sum(t.rows.numel() * 4 for t in frozen_tables(frozen).values())
        signature = {
            "producer": producer(),
            "kind": "module",
            "dtype": config.dtype,
            "inputs": list(example),
            "outputs": list(outputs),
        }
        write_json(draft / "signature.json", signature | {"tables": summary, "bytes_dense": dense_bytes})
        write_sums(draft)
    return out


def validate_module(bundle: Path, module: nn.Module, inputs: Mapping[str, Tensor]) -> list[str]:
    """Compare a bundle of `export_module` with the module that it came from.

    Args:
        bundle: its folder.
        module: trained, its selection networks in place.
        inputs: real ones; the answers to them are compared.

    Returns:
        Why it fails, a sentence each; empty when every row of every table is bit-equal (in fp16 and int8: to the
        module's rounded row), nothing of the
        selection networks is left, and the answers agree within 1e-4, optimised and not.

    Raises:
        InputError: the folder is not such a bundle.
        EnvironmentLacks: ONNX Runtime is missing.
    """
    signature = read_json(bundle / "signature.json")
    if signature.get("kind") != "module":
        raise InputError("not a bundle of export_module", where=bundle, found=signature.get("kind"))
    trained = freeze_module(module)
    tables = quantized_tables(frozen_tables(trained), signature.get("dtype", "fp32"))
    frozen = with_tables(trained, tables)
    problems = [f"{name} differs from SHA256SUMS" for name in checksum_mismatches(bundle)]
    try:
        found = trace_provenance(bundle / "model.onnx", module, frozen)
        # Other weights are judged by the answers: the exporter may fold a batch norm into them.
        problems += [f"of the selection network: {name}" for name in found.selector_nodes + found.selector_initializers]
        for path, table in frozen_tables(frozen).items():
            problems += _wrong_rows(bundle / "model.onnx", path, table)
        names = [
            tensor.name for tensor in onnx.load(str(bundle / "model.onnx"), load_external_data=False).graph.initializer
        ]
        rounded = with_quantized_weights(frozen, names)
        _compare(bundle / "model.onnx", rounded, {n: t.numpy() for n, t in inputs.items()}, signature["outputs"])
    except (ValidationFailed, InputError) as error:
        problems.append(" ".join(str(error).split()))
    return problems


def _wrong_rows(model: Path, path: str, table: FrozenEmbedding) -> list[str]:
    """Rows of a stored table that are not the module's, from the file itself."""
    graph = onnx.load(str(model)).graph
    arrays = {
        tensor.name.removeprefix(f"table/{path}/"): onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.name.startswith(f"table/{path}/")
    }
    reading = [node for node in graph.node if f"table/{path}/row_offsets" in node.input]
    steps = {attribute.f for node in reading for attribute in node.attribute if attribute.name == "scale_unit"}
    if len(steps) > 1:
        return [f"table {path} is read with different steps of its scales: {sorted(steps)}"]
    expected = table.rows.numpy()
    laid_out = from_arrays(arrays, expected.shape[1], *steps)
    if laid_out is None:
        return [f"table {path} is not in the graph"]
    stored = laid_out.read(np.arange(len(expected)))
    if stored.shape != expected.shape:
        return [f"table {path} has the shape {stored.shape}, the module {expected.shape}"]
    if same_bits(stored, expected):
        return []
    rows = np.flatnonzero((stored.view(np.uint32) != expected.view(np.uint32)).any(axis=1))
    return [f"table {path}: {len(rows)} rows differ, the first is {rows[0]}"]


def _compare(model: Path, module: nn.Module, feed: Feed, outputs: Sequence[str]) -> Feed:
    """Run 0, 1, 2 and all rows, optimised and not; the answers to all rows.

    Raises:
        ValidationFailed: an answer differs in shape or by more than 1e-4.
    """
    total = len(next(iter(feed.values())))
    answers: list[Any] = []
    for optimized in (False, True):
        session = open_session(model, optimized=optimized)
        for batch in (0, 1, 2, total):
            part = {name: values[:batch] for name, values in feed.items()}
            with torch.inference_mode():
                expected = module(*(torch.from_numpy(values) for values in part.values()))
            given = (expected,) if isinstance(expected, Tensor) else tuple(expected)
            answers = session.run(list(outputs), part)
            for name, found, tensor in zip(outputs, answers, given, strict=True):
                same_shape = found.shape == tuple(tensor.shape)
                difference = float(np.abs(found - tensor.numpy()).max(initial=0.0)) if same_shape else float("nan")
                if not difference <= LOGIT_TOLERANCE:
                    raise ValidationFailed(
                        "the graph answers differently from PyTorch",
                        where=f"{name}, batch {batch}, {'optimised' if optimized else 'not optimised'}",
                        found=difference,
                        allowed=LOGIT_TOLERANCE,
                    )
    return dict(zip(outputs, answers, strict=True))
