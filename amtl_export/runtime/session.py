"""ONNX Runtime sessions that never fall back silently."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from amtl_export.errors import AmtlError, EnvironmentLacks, InputError
from amtl_export.native import HOW_TO_BUILD, isa_in_use, library_path, needed_library
from amtl_export.runtime.cuda import CPU, CUDA, Cuda, check_alone, check_device, check_tables_on_cpu, load_libraries
from amtl_export.runtime.external import check_external

Provider = Literal["cpu", "cuda"]

#: Of ONNX Runtime's severities, the one that writes least.
_FATAL = 4

#: ONNX Runtime does not survive more.
MOST_THREADS = 4096
_PROVIDERS: dict[Provider, str] = {"cpu": CPU, "cuda": CUDA}

_quiet = False


def quiet() -> None:
    """Let ONNX Runtime write nothing of its own in this process, whoever's sessions: errors are raised all the same.

    For programs that say themselves what fails. Sessions that this package opens write nothing as it is. The telemetry
    that wheels for Linux have from 1.32 on is turned off, unless ORT_DISABLE_TELEMETRY is set: where the home folder
    cannot be written it warns on standard error and leaves a file in the temporary folder.
    """
    global _quiet
    _quiet = True
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


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
    if _quiet:
        onnxruntime.set_default_logger_severity(_FATAL)
    return onnxruntime


def check_provider(provider: Provider) -> None:
    """Make sure that ONNX Runtime has a provider.

    Raises:
        EnvironmentLacks: ONNX Runtime or the provider is missing.
        InputError: there is no such provider.
    """
    available = onnxruntime().get_available_providers()
    if provider not in _PROVIDERS:
        raise InputError("no such provider", found=repr(provider), allowed=", ".join(_PROVIDERS))
    if _PROVIDERS[provider] not in available:
        raise EnvironmentLacks(
            f"the execution provider {provider} is not there",
            found=", ".join(available),
            allowed=_PROVIDERS[provider],
            fix="pip uninstall onnxruntime, then pip install 'amtl-export[gpu]' (CUDA 13, cuDNN 9)",
        )


def open_session(
    model: Path | bytes,
    *,
    provider: Provider = "cpu",
    threads: int = 1,
    optimized: bool = True,
    weights: Path | None = None,
    record_assignment: bool = False,
    native: bool | None = None,
    cuda: Cuda | None = None,
) -> Any:
    """An `onnxruntime.InferenceSession` on the provider asked for, and no other.

    Args:
        model: a .onnx file, or a serialised model.
        provider: cpu or cuda.
        threads: intra-op threads; inter-op is 1.
        optimized: all graph optimisations; or none, on CUDA the basic ones.
        weights: folder of the external data, when `model` is bytes.
        record_assignment: keep which node runs where (for `nodes_by_provider`).
        native: True registers the provider's native operators, False leaves them out, None registers them if they are
            built.
        cuda: how a session on CUDA runs; None for the usual.

    Raises:
        EnvironmentLacks: ONNX Runtime, the provider, a native operator that was asked for, or the instruction set that
            AMTL_FORCE_ISA names is missing.
        InputError: there is no such provider; no or too many threads; the model cannot be loaded, or its weights are
            outside its folder; AMTL_FORCE_ISA names no instruction set; nodes would run elsewhere than was asked for;
            `cuda` for the CPU.
    """
    if cuda is not None and provider != "cuda":
        raise InputError("options of CUDA for a session elsewhere", found=f"provider {provider}", fix="provider cuda")
    if threads not in range(1, MOST_THREADS + 1):
        raise InputError("threads of a session", found=f"threads={threads!r}", allowed=f"1 to {MOST_THREADS}")
    ort = onnxruntime()
    check_provider(provider)
    if isinstance(model, Path):
        check_external(model)
    if provider == "cuda":
        load_libraries(ort)
        cuda = cuda or Cuda()
    tables = cuda.tables if cuda else "cpu"
    alone = tables == provider

    def opened(*, record: bool, fallback: bool) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(threads)
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL  # what fails is an error of ours; its names are of the file
        level = ort.GraphOptimizationLevel
        # What is constant is computed beforehand even so on CUDA: left to a run, the CPU would get it.
        least = level.ORT_ENABLE_BASIC if cuda else level.ORT_DISABLE_ALL
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else least
        if weights is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights))
        if (library := _library(tables, native if alone else True)) is not None:
            _register(options, library, tables)
        if record:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if not fallback:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        providers = cuda.providers if cuda else [CPU]
        return ort.InferenceSession(str(model) if isinstance(model, Path) else model, options, providers=providers)

    try:
        session = opened(record=record_assignment or not alone, fallback=cuda is None or not alone)
    except AmtlError:
        raise
    except Exception as error:  # ONNX Runtime's own classes derive from Exception alone
        if cuda:
            _explain(ort, opened)
        where = model if isinstance(model, Path) else weights
        raise InputError(
            "ONNX Runtime cannot load the model",
            where=where,
            found=first_line(error),
            fix="export it again",
        ) from error
    if session.get_providers()[0] != _PROVIDERS[provider]:
        check_device(ort)
        raise EnvironmentLacks(
            f"the session runs on another provider than {provider}",
            found=session.get_providers(),
            allowed=_PROVIDERS[provider],
        )
    if not alone:
        check_tables_on_cpu(session)
    return session


def first_line(error: Exception) -> str:
    """What an error of the runtime says, in a line."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _explain(ort: Any, opened: Callable[..., Any]) -> None:
    """Why a session is not on the GPU: there is none, or nodes want the CPU."""
    check_device(ort)
    try:
        session = opened(record=True, fallback=True)
    except Exception:  # the model cannot be loaded there at all
        return
    check_alone(session)


def _library(provider: Provider, native: bool | None) -> Path | None:
    if native is None:
        return library_path(provider)
    return needed_library(provider) if native else None


def run(session: Any, names: Sequence[str], feed: Mapping[str, Any], *, where: object = None) -> dict[str, Any]:
    """A session's outputs to one request, by name.

    Args:
        session: from `open_session`.
        names: of the outputs wanted.
        feed: input → array.
        where: what an error names: the bundle's folder.

    Raises:
        InputError: the graph fails on the request.
    """
    try:
        return dict(zip(names, session.run(list(names), feed), strict=True))
    except Exception as error:  # ONNX Runtime's own classes derive from Exception alone
        found = first_line(error)
        raise InputError("the bundle's graph fails on a request", where=where, found=found) from error


def _register(options: Any, library: Path, provider: Provider) -> None:
    if provider == "cpu":
        isa_in_use(library)
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:  # ONNX Runtime's own classes derive from Exception alone
        what, found = "ONNX Runtime does not take the native library", str(error).splitlines()[0]
        raise EnvironmentLacks(what, where=library, found=found, fix=HOW_TO_BUILD[provider]) from error


def nodes_by_provider(session: Any) -> dict[str, int]:
    """How many nodes of the optimised graph each provider runs (needs `record_assignment`)."""
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts
