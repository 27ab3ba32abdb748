"""ONNX Runtime sessions that never fall back silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from amtl_export.errors import EnvironmentLacks, InputError
from amtl_export.native import library_path, needed_library

Provider = Literal["cpu", "cuda"]

_PROVIDERS: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def onnxruntime() -> Any:
    """The module `onnxruntime`.

    Raises:
        EnvironmentLacks: neither onnxruntime nor onnxruntime-gpu is installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise EnvironmentLacks(
            "ONNX Runtime is not installed",
            fix="pip install 'amtl-export[cpu]', or 'amtl-export[gpu]' on a CUDA machine (not both)",
        ) from None
    return onnxruntime


def open_session(
    model: Path | bytes,
    *,
    provider: Provider = "cpu",
    threads: int = 1,
    optimized: bool = True,
    weights: Path | None = None,
    record_assignment: bool = False,
    native: bool | None = None,
) -> Any:
    """An `onnxruntime.InferenceSession` on the provider asked for, and no other.

    Args:
        model: a .onnx file, or a serialised model.
        provider: cpu or cuda.
        threads: intra-op threads; inter-op is 1.
        optimized: all graph optimisations, or none.
        weights: folder of the external data, when `model` is bytes.
        record_assignment: keep which node runs where (for `nodes_by_provider`).
        native: True registers the native operator, False leaves it out, None registers it on the CPU if it is built.

    Raises:
        EnvironmentLacks: ONNX Runtime, the provider, or a native operator that was asked for is missing.
        InputError: the model cannot be loaded.
    """
    ort = onnxruntime()
    name = _PROVIDERS[provider]
    if name not in ort.get_available_providers():
        raise EnvironmentLacks(
            f"the execution provider {provider} is not there",
            found=", ".join(ort.get_available_providers()),
            allowed=name,
            fix="pip uninstall onnxruntime, then pip install 'amtl-export[gpu]' (CUDA 13, cuDNN 9)",
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    if weights is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights))
    library = needed_library() if native else library_path() if native is None and provider == "cpu" else None
    if library is not None:
        options.register_custom_ops_library(str(library))
    if record_assignment:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if provider == "cuda":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(str(model) if isinstance(model, Path) else model, options, providers=[name])
    except Exception as error:  # ONNX Runtime's own classes derive from Exception alone
        where = model if isinstance(model, Path) else weights
        raise InputError(
            "ONNX Runtime cannot load the model",
            where=where,
            found=str(error).splitlines()[0],
            fix="export it again",
        ) from error
    if session.get_providers()[0] != name:
        raise EnvironmentLacks(
            f"the session runs on another provider than {provider}",
            found=session.get_providers(),
            allowed=name,
        )
    return session


def nodes_by_provider(session: Any) -> dict[str, int]:
    """How many nodes of the optimised graph each provider runs (needs `record_assignment`)."""
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts
