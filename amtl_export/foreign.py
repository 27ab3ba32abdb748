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
from amtl_export.bundle.export import ExportConfig, lay_out_tables, write_model
from amtl_export.bundle.inputs import Feed
from amtl_export.bundle.samples import write_test_data
from amtl_export.errors import InputError, ValidationFailed
from amtl_export.files import made_by, read_json, whole_folder, write_json, write_sums, wrong_sums
from amtl_export.freezing.frozen import FrozenEmbedding, freeze_module, frozen_tables
from amtl_export.graph.lower import lower_lookups
from amtl_export.graph.trace import trace_module
from amtl_export.runtime.session import onnxruntime, open_session
from amtl_export.tables.layout import BLOCK_NAME, Blocks, Paged, Ragged, stored_bytes
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
        config: layout, page width, id policy. Tables narrower than four floats stay dense.
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
    batches = {len(tensor) for tensor in example.values()}
    if len(batches) != 1 or min(batches) < 2:
        raise InputError("export_module: example batches", found=sorted(batches), allowed="one batch size of 2 or more")
    frozen = freeze_module(module)
    tables = lay_out_tables(frozen_tables(frozen), config)
    with whole_folder(out, overwrite=overwrite) as draft:
        model = trace_module(frozen, example, outputs)
        lower_lookups(model, tables, config.id_policy)
        model.metadata_props["amtl.tool"] = " ".join(made_by().values())
        write_model(model, draft)
        feed = {name: tensor.numpy() for name, tensor in example.items()}
        answers = _compare(draft / "model.onnx", frozen, feed, outputs)
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
        signature = {"made_by": made_by(), "kind": "module", "inputs": list(example), "outputs": list(outputs)}
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
        Why it fails, a sentence each; empty when every row of every table is bit-equal, nothing of the
        selection networks is left, and the answers agree within 1e-4, optimised and not.

    Raises:
        InputError: the folder is not such a bundle.
        EnvironmentLacks: ONNX Runtime is missing.
    """
    signature = read_json(bundle / "signature.json")
    if signature.get("kind") != "module":
        raise InputError("not a bundle of export_module", where=bundle, found=signature.get("kind"))
    frozen = freeze_module(module)
    problems = [f"{name} differs from SHA256SUMS" for name in wrong_sums(bundle)]
    try:
        found = trace_provenance(bundle / "model.onnx", module, frozen)
        # Other weights are judged by the answers: the exporter may fold a batch norm into them.
        problems += [f"of the selection network: {name}" for name in found.selector_nodes + found.selector_initializers]
        for path, table in frozen_tables(frozen).items():
            problems += _wrong_rows(bundle / "model.onnx", path, table)
        _compare(bundle / "model.onnx", frozen, {n: t.numpy() for n, t in inputs.items()}, signature["outputs"])
    except (ValidationFailed, InputError) as error:
        problems.append(" ".join(str(error).split()))
    return problems


def _wrong_rows(model: Path, path: str, table: FrozenEmbedding) -> list[str]:
    """Rows of a stored table that are not the module's, from the file itself."""
    arrays = {
        tensor.name.removeprefix(f"table/{path}/"): onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(str(model)).graph.initializer
        if tensor.name.startswith(f"table/{path}/")
    }
    expected = table.rows.numpy()
    if "rows" in arrays:
        stored = arrays["rows"]
    elif {"pages", "page_table"} <= set(arrays):
        stored = Paged(arrays["pages"], arrays["page_table"], expected.shape[1]).read(np.arange(len(expected)))
    elif {"values", "offsets"} <= set(arrays):
        stored = Ragged(arrays["values"], arrays["offsets"], expected.shape[1]).read(np.arange(len(expected)))
    elif runs := {int(name.removeprefix("block_")): name for name in arrays if BLOCK_NAME.fullmatch(name)}:
        tables = tuple(arrays[name] for _, name in sorted(runs.items()))
        stored = Blocks(np.array(sorted(runs)), tables, expected.shape[1]).read(np.arange(len(expected)))
    else:
        return [f"table {path} is not in the graph"]
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
