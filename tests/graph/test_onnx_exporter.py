"""PyTorch's exporter as it is used here."""

import logging
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import onnxscript
import pytest
import torch
from onnxscript.function_libs.torch_lib import registration
from torch import Tensor, nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from amtl_export.freezing.frozen import freeze
from amtl_export.graph.onnx_exporter import exact_translations, exporter
from amtl_export.graph.trace import trace
from amtl_export.graph.versions import OPSET

op = onnxscript.values.Opset("", OPSET)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return torch.sinh(x)


def operators(translate: dict[Any, Callable[..., Any]]) -> list[str]:
    """Of the graph that is exported with some translations."""
    made = torch.onnx.export(
        Doubled(), (torch.ones(2),), opset_version=OPSET, dynamo=True, verbose=False, custom_translation_table=translate
    )
    assert made is not None
    return [node.op_type for node in made.model.graph]


def test_a_table_is_made_once_and_each_export_has_its_own() -> None:
    with exporter():
        first, second = (ONNXRegistry.from_torchlib(opset_version=OPSET) for _ in range(2))
    assert first.functions == second.functions
    assert first.opset_version == second.opset_version == OPSET
    for target, functions in first.functions.items():
        assert functions is not second.functions[target]
        assert all(a is b for a, b in zip(functions, second.functions[target], strict=True))
    assert ONNXRegistry.from_torchlib(opset_version=OPSET).functions.keys() == first.functions.keys()


def test_operators_that_a_library_brought_meanwhile_are_known() -> None:
    name = "quantized_decomposed::choose_qparams.tensor_that_a_library_brings"
    functions = registration.default_registry["aten::sinh"]
    with exporter():
        registration.default_registry._registry[name] = functions
        try:
            before = ONNXRegistry.from_torchlib(opset_version=OPSET)
            library = torch.library.Library("quantized_decomposed", "FRAGMENT")
            library.define("choose_qparams.tensor_that_a_library_brings(Tensor x) -> Tensor")
            after = ONNXRegistry.from_torchlib(opset_version=OPSET)
        finally:
            del registration.default_registry._registry[name]
    assert name not in before.functions
    assert name in after.functions


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(7, 4, mode="sum", include_last_offset=True)

    def forward(self, values: Tensor, offsets: Tensor, weights: Tensor) -> Any:
        return self.bag(values, offsets, per_sample_weights=weights)


def test_the_exporter_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    trace(freeze(Bag().eval(), example=(torch.arange(6), torch.tensor([0, 2, 3, 6]), torch.ones(6))))
    assert [record.getMessage() for record in caplog.records if record.name == "onnx_ir._convenience"] == []


def test_what_one_export_translates_is_not_in_the_next() -> None:
    with exporter():
        before = operators({})
        assert operators({torch.ops.aten.sinh.default: lambda x: op.Add(x, x)}) == ["Add"]
        assert operators({}) == before == ["Sinh"]


def test_an_operator_that_was_registered_meanwhile_is_known() -> None:
    with exporter():
        ONNXRegistry.from_torchlib(opset_version=OPSET)
        functions = registration.default_registry["aten::sinh"]
        functions.overloads.append(functions.overloads[0])
        try:
            more = ONNXRegistry.from_torchlib(opset_version=OPSET)
        finally:
            functions.overloads.pop()
        less = ONNXRegistry.from_torchlib(opset_version=OPSET)
    assert len(more.functions["aten::sinh"]) == len(less.functions["aten::sinh"]) + 1


FACTORY = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.item, self.out = nn.Embedding(50, 8), nn.Linear(8, 1)


class Branch(Net):
    def forward(self, item, price):
        row = self.item(item)
        if price.max() > 0.5:  # line 15
            row = row * 2
        return self.out(row)


class Loop(Net):
    def forward(self, item, price):
        rows = torch.stack([self.item(one) for one in item])  # line 22
        return self.out(rows)


class NoOnnx(Net):
    def forward(self, item, price):
        rows = self.item(item)
        return self.out(rows - rows.kthvalue(2, dim=1, keepdim=True).values)  # line 29


def source(module):
    return module, {"item": torch.arange(16), "price": torch.rand(16)}


def branch():
    return source(Branch())


def loop():
    return source(Loop())


def no_onnx():
    return source(NoOnnx())
"""


@pytest.mark.parametrize(("function", "line"), [("branch", 15), ("loop", 22), ("no_onnx", 29)])
def test_a_refusal_names_the_line_and_is_all_that_is_said(tmp_path: Path, function: str, line: int) -> None:
    (tmp_path / "factory.py").write_text(FACTORY)
    words = ["export", f"factory.py:{function}", "--out", "bundle"]
    done = subprocess.run(
        [sys.executable, "-m", "amtl_export", *words], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    told = done.stderr.splitlines()
    assert [text.split(":")[0].strip() for text in told] == ["error", "where", "found", "fix"]
    assert f"factory.py, line {line}" in told[1]
    assert (function == "no_onnx") == (told[2] == "  found: torch.onnx has no translation of aten.kthvalue")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["factory.py"]


def test_what_torch_logs_asks_for_is_still_told() -> None:
    asked, other = logging.getLogger("torch._dynamo"), logging.getLogger("torch._guards")
    before = asked.level, other.level
    asked.setLevel(logging.DEBUG)
    try:
        with exporter():
            assert asked.isEnabledFor(logging.DEBUG)
            assert not other.isEnabledFor(logging.ERROR)
        assert (asked.level, other.level) == (logging.DEBUG, before[1])
    finally:
        asked.setLevel(before[0])


class Logarithms(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        wide, labels = x.double(), (x > 0).float()
        return (
            *(nn.functional.logsigmoid(value) for value in (x, wide)),
            *(torch.logaddexp(value, value.flip(0)) for value in (x, wide)),
            nn.functional.binary_cross_entropy_with_logits(x, labels, reduction="none"),
        )


def test_logarithms_of_small_numbers_are_none_of_zero() -> None:
    x = torch.tensor([0.0, 3.0, -3.0, 20.0, -20.0, 40.0, -40.0, 100.0, -100.0, math.inf, -math.inf, -math.inf])
    with exporter():
        made = torch.onnx.export(
            Logarithms(), (x,), opset_version=OPSET, dynamo=True, custom_translation_table=exact_translations()
        )
    assert made is not None
    session = onnxruntime.InferenceSession(made.model_proto.SerializeToString())
    answers = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for answer, expected in zip(answers, Logarithms()(x), strict=True):
        np.testing.assert_allclose(answer, expected.numpy(), rtol=1e-5, atol=1e-6)
