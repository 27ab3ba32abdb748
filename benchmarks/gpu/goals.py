"""What the measurements say, in a few numbers."""

from __future__ import annotations

from typing import Any


def goals(result: dict[str, Any]) -> dict[str, Any]:
    """Ratios of what a stage measured; of stages that did not run, none."""
    found: dict[str, Any] = {}
    for measure, stage in (
        (_lookups, "lookups"),
        (_models, "models"),
        (_compressed, "compressed"),
        (_training, "training"),
    ):
        if result.get(stage):
            found |= measure(result[stage])
    return found


def _lookups(stage: dict[str, Any]) -> dict[str, Any]:
    """At the largest batch: the part of a copy's rate; time and bytes against dense."""
    batch = max(case["batch"] for case in stage["cases"])
    found: dict[str, Any] = {}
    for distribution in ("zipf", "uniform"):
        own = {c["subject"]: c for c in stage["cases"] if c["batch"] == batch and c["ids"] == distribution}
        dense = own["onnx-dense"]
        for name in ("onnx-ragged", "onnx-paged"):
            found |= {
                f"{name}, {batch} x 8 {distribution}, of copy": own[name]["of_copy"],
                f"{name}, {batch} x 8 {distribution}, time of dense": own[name]["us"] / dense["us"],
                f"{name}, bytes of dense": own[name]["bytes"] / dense["bytes"],
            }
    return found


def _models(stage: dict[str, Any]) -> dict[str, Any]:
    """At batch 1 p50 of the kernels' sum; at every batch p50 of torch.compile's."""
    p50 = {(case["subject"], case["batch"]): case["p50_us"] for case in stage["cases"]}
    batches = sorted({batch for _, batch in p50})
    found = {
        f"{name}, batch {batches[0]}, p50 of its kernels": p50[name, batches[0]] / kernels
        for name, kernels in stage["kernels_us"].items()
        if kernels
    }
    for batch in batches:
        for name in ("onnx-dense", "onnx-ragged", "onnx-paged"):
            for peer in ("torch-compile", "torch-eager"):
                if (peer, batch) in p50:
                    found[f"{name}, batch {batch}, p50 of {peer}"] = p50[name, batch] / p50[peer, batch]
    return found


def _compressed(stage: list[dict[str, Any]]) -> dict[str, Any]:
    """p50 and bytes of the compressed bundles, of the dense one's."""
    own = {(case["subject"], case["batch"]): case for case in stage}
    return {
        f"{name}, batch {batch}, {key} of onnx-dense": case[key] / own["onnx-dense", batch][key]
        for (name, batch), case in own.items()
        for key in ("p50_us", "bytes")
        if name != "onnx-dense"
    }


def _training(stage: dict[str, Any]) -> dict[str, Any]:
    """Against FBE: a step, and inference in ONNX Runtime."""
    found = {}
    for case in stage["cases"]:
        found[f"{case['method']}, step of fbe"] = case["epoch_ratio"]
        found[f"{case['method']}, inference of fbe"] = case["inference_onnx_ratio"]
    return found
