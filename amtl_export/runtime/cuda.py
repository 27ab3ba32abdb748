"""Sessions on a GPU: how they run, and why one does not.

This file travels with a model into servers, as `runtime.predictor`.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from amtl_export.errors import EnvironmentLacks, InputError
from amtl_export.native import DOMAIN

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

#: A model: y = Relu(x), of one number.
ONE_NODE = bytes.fromhex(
    "08083a330a0c0a0178120179220452656c751201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a020801"
    "42040a001011"
)


@dataclass(frozen=True)
class Cuda:
    """How a session on a GPU runs.

    Attributes:
        tf32: matrix products may round their numbers to 10 bits of fraction: faster, scores differ in the fourth digit.
        graphs: runs may be recorded as CUDA graphs and replayed; see `runtime.bound.Bound`.
        tables: where the tables are and are looked up. On the CPU for tables larger than the GPU's memory: native
            operators alone, so of layout ragged; what they look up is copied over at each run, so no graphs.

    Raises:
        InputError: graphs of tables on the CPU.
    """

    tf32: bool = False
    graphs: bool = False
    tables: Literal["cpu", "cuda"] = "cuda"

    def __post_init__(self) -> None:
        if self.graphs and self.tables == "cpu":
            raise InputError("CUDA graphs cannot hold copies of what the CPU looks up", found="tables on the CPU")

    @property
    def providers(self) -> list[Any]:
        """Of a session, in ONNX Runtime's words."""
        options = {"use_tf32": str(int(self.tf32)), "enable_cuda_graph": str(int(self.graphs))}
        return [(CUDA, options), *([CPU] if self.tables == "cpu" else [])]


def load_libraries(ort: Any) -> None:
    """Load CUDA's libraries where NVIDIA's packages put them; PyTorch, where it is loaded, has done so."""
    if "torch" not in sys.modules and hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # what fails shows when the session is opened
            ort.preload_dlls()


def check_device(ort: Any) -> None:
    """Open a session of one node on the GPU.

    Raises:
        EnvironmentLacks: ONNX Runtime gave it to the CPU.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    providers = ort.InferenceSession(ONE_NODE, options, providers=[CUDA]).get_providers()
    if providers[0] != CUDA:
        raise EnvironmentLacks(
            "CUDA cannot be used",
            found=", ".join(providers),
            fix="an NVIDIA driver, CUDA 13 and cuDNN 9 (pip install 'onnxruntime-gpu[cuda,cudnn]' brings these two)",
        )


def check_alone(session: Any) -> None:
    """Refuse a session in which the CPU has nodes.

    Raises:
        InputError: it has.
    """
    if counts := Counter(kind for _, kind in _on_cpu(session)):
        nodes = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        raise InputError("nodes of the graph would run on the CPU", found=nodes, fix="export it again; or provider cpu")


def check_tables_on_cpu(session: Any) -> None:
    """Refuse a session in which the CPU has other nodes than native operators, or none.

    Raises:
        InputError: the CPU has other nodes, or none.
    """
    on_cpu = _on_cpu(session)
    others = sorted({kind for domain, kind in on_cpu if domain != DOMAIN})
    if others or not on_cpu:
        raise InputError(
            "the tables alone cannot be kept on the CPU",
            found=f"{', '.join(others)} there" if others else "no native operator",
            fix="export with layout='ragged'",
        )


def _on_cpu(session: Any) -> list[tuple[str, str]]:
    """Domain and kind of the nodes that the CPU runs."""
    parts = session.get_provider_graph_assignment_info()
    return [(node.domain, node.op_type) for part in parts if part.ep_name == CPU for node in part.get_nodes()]
