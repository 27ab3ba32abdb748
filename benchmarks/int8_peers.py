"""What others offer for a whole model in int8 on a CPU: OpenVINO with NNCF, torchao, FBGEMM's tables with x86 layers.

pip install '.[peers]'
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amtl_export.bench.subjects import TorchSubject, apart, dense_torch
from amtl_export.bench.timing import Subject
from amtl_export.bundle.bundle import Bundle
from amtl_export.freezing.flat import Flat
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.scores import Scores, gathered, labelled
from amtl_export.models.fbe import FixedEmbedding
from amtl_export.spec import Feed


class OpenVino:
    """A dense bundle in OpenVINO: as it is; all weights in int8; or layers in int8 by scales of a calibration.

    Args:
        bundle: dense; its file is its own, since files that are shared find rows that another has just read.
        threads: of a request.
        kind: dense, int8-weights (NNCF's weight compression), or int8 (its post-training quantization).
        calibration: requests that int8 sees.
    """

    def __init__(self, bundle: Bundle, threads: int, kind: str = "dense", calibration: Sequence[Feed] = ()) -> None:
        import openvino

        self.name, self.bytes = f"openvino-{kind}", bundle.bytes()
        core = openvino.Core()
        model: Any = core.read_model(str(bundle.model))
        if kind != "dense":
            model = _by_nncf(model, kind, calibration)
        hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        self._request = core.compile_model(model, "CPU", hints).create_infer_request()

    def prepare(self, feed: Feed) -> Feed:
        """As it is."""
        return feed

    def run(self, prepared: Feed) -> Any:
        """Probabilities `[B]`."""
        return self._request.infer(prepared, share_inputs=True)["probability"]


def _by_nncf(model: Any, kind: str, calibration: Sequence[Feed]) -> Any:
    import nncf

    if kind == "int8-weights":
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    return nncf.quantize(model, nncf.Dataset(list(calibration)), subset_size=len(calibration))


def fill_int8(own: Tensor, scales: Tensor, rows: Tensor) -> None:
    """Write rows `[V, D]` into the bytes of one of FBGEMM's int8 tables: asymmetric, by row, scale and bias in fp16."""
    D = rows.shape[1]
    packed = torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(rows)
    own[:, :D] = packed[:, :D]
    scales.copy_(packed[:, D:].contiguous().view(torch.float32).half().view(torch.uint8))


class FbgemmTable:
    """Rows in one of FBGEMM's inference tables in int8, one id a bag.

    Args:
        rows: float32 `[V, D]`.
    """

    def __init__(self, rows: Tensor) -> None:
        from fbgemm_gpu.split_embedding_configs import SparseType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen

        size, self._dim = rows.shape
        spec = ("rows", size, self._dim, SparseType.INT8, EmbeddingLocation.HOST)
        self._table = IntNBitTableBatchedEmbeddingBagsCodegen([spec], device="cpu", output_dtype=SparseType.FP32)
        self._table.initialize_weights()
        own, scales = self._table.split_embedding_weights()[0]
        fill_int8(own, scales, rows)

    def __call__(self, ids: Tensor) -> Tensor:
        """Rows of ids, whatever their shape."""
        bags = torch.arange(ids.numel() + 1, dtype=torch.int32)
        rows: Tensor = self._table(ids.reshape(-1).int(), bags)
        return rows.view(*ids.shape, self._dim)


def x86_int8(frozen: FrozenModel) -> TorchSubject:
    """Rows in FBGEMM's int8 tables, layers in PyTorch's dynamic int8 on its x86 engine."""
    flat = dense_torch(frozen)
    for path, table in frozen.tables.items():
        method = flat.model.get_submodule(path)
        assert isinstance(method, FixedEmbedding)
        method.table.fetch = FbgemmTable(table.rows)
    torch.backends.quantized.engine = "x86"
    layers = torch.ao.quantization.quantize_dynamic(flat.model, {nn.Linear}, dtype=torch.qint8)
    return TorchSubject("fbgemm-x86-int8", Flat(layers, flat.call), frozen.inputs)


def torchao_int8(frozen: FrozenModel) -> TorchSubject:
    """Layers in torchao's dynamic int8, compiled."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    flat = dense_torch(frozen)
    quantize_(flat.model, Int8DynamicActivationInt8WeightConfig())
    compiled = torch.compile(flat.model, dynamic=True)
    assert isinstance(compiled, nn.Module)
    return TorchSubject("torchao-int8", Flat(compiled, flat.call), frozen.inputs)


PEERS = "openvino-int8-weights,openvino-int8,torchao,fbgemm"


def int8_peers(
    names: Sequence[str], frozen: FrozenModel, dense: Bundle, folder: Path, threads: int, calibration: Sequence[Feed]
) -> list[Subject]:
    """Those of `PEERS` that are named.

    Args:
        names: others are left out.
        frozen: the model as trained.
        dense: its bundle.
        folder: copies of the bundle are made there.
        threads: of a request.
        calibration: requests that OpenVINO's quantization sees.
    """
    found: list[Subject] = [
        OpenVino(apart(dense, folder / name), threads, name.removeprefix("openvino-"), calibration)
        for name in ("openvino-int8-weights", "openvino-int8")
        if name in names
    ]
    if "torchao" in names:
        found.append(torchao_int8(frozen))
    if "fbgemm" in names:
        found.append(x86_int8(frozen))
    return found


def probabilities(subject: Subject, feed: Feed) -> Any:
    """What a subject answers, `[B]`; of several outputs the last, or the one that is called so."""
    answer = subject.run(subject.prepare(feed))
    if isinstance(answer, dict):
        answer = answer["probability"]
    return np.asarray(answer[-1] if isinstance(answer, (list, tuple)) else answer).reshape(-1)


def auc_of(subject: Subject, frozen: FrozenModel, split: str) -> float:
    """Of what a subject answers on a split."""
    parts = (({frozen.score: probabilities(subject, feed)}, labels) for feed, labels in labelled(frozen, split))
    return Scores.of(gathered(parts, frozen, split)[frozen.score]).auc
