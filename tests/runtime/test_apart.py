"""Graphs that end the process, or fail, in a process of their own."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from amtl_export.freezing.frozen import freeze
from amtl_export.graph.trace import trace
from amtl_export.runtime.apart import run_apart
from amtl_export.runtime.session import open_session


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.gru(x)[0][:, -1]


@pytest.fixture(scope="module")
def gru(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime's GRU ends the process where the batch is empty."""
    path = tmp_path_factory.mktemp("gru") / "model.onnx"
    ir.save(trace(freeze(Recurrent(), example=torch.rand(3, 5, 3), outputs=["h"])), path)
    return path


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(count).random((count, 5, 3)).astype(np.float32)}


def test_a_crash_is_one_requests_own(gru: Path) -> None:
    requests = {"three": rows(3), "none": rows(0), "one": rows(1), "none again": rows(0), "two": rows(2)}
    answers = run_apart(gru, requests)
    assert list(answers) == list(requests)
    session = open_session(gru)
    for name in ("three", "one", "two"):
        answer = answers[name]
        assert not isinstance(answer, str)
        np.testing.assert_array_equal(answer["h"], session.run(["h"], requests[name])[0])
    assert answers["none"] == answers["none again"] == "ends the process (exit code -6)"


def test_a_crash_at_the_end_and_alone(gru: Path) -> None:
    assert run_apart(gru, {"none": rows(0)}) == {"none": "ends the process (exit code -6)"}
    answers = run_apart(gru, {"two": rows(2), "none": rows(0)})
    assert isinstance(answers["two"], dict)
    assert isinstance(answers["none"], str)
    assert run_apart(gru, {}) == {}


def gather(path: Path, name: str, output: str) -> Path:
    """A lookup without a guard, whose input and output have the given names."""
    ids, found = (
        helper.make_tensor_value_info(n, kind, ["n"])
        for n, kind in ((name, TensorProto.INT64), (output, TensorProto.FLOAT))
    )
    table = onnx.numpy_helper.from_array(np.arange(5, dtype=np.float32), "table")
    graph = helper.make_graph([helper.make_node("Gather", ["table", name], [output])], "g", [ids], [found], [table])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("name", "output"), [("ids", "rows"), ("user/ids:0", "a/b/c"), ("../ids", "."), ("file", "file"), ("Größe 1", "ü")]
)
def test_names_need_not_be_names_of_files(tmp_path: Path, name: str, output: str) -> None:
    output = f"{output}.out"
    model = gather(tmp_path / "model.onnx", name, output)
    answers = run_apart(model, {"a/b": {name: np.array([4, 0])}, "..": {name: np.array([1])}})
    assert isinstance(answers["a/b"], dict)
    assert list(answers["a/b"]) == [output]
    assert answers["a/b"][output].tolist() == [4, 0]
    assert isinstance(answers[".."], dict)


def test_an_error_is_one_requests_own_too(tmp_path: Path) -> None:
    model = gather(tmp_path / "model.onnx", "ids", "rows")
    wanted = {"good": np.array([4]), "outside": np.array([5]), "floats": np.array([1.0]), "again": np.array([2, 3])}
    answers = run_apart(model, {name: {"ids": ids} for name, ids in wanted.items()})
    assert [isinstance(answers[name], dict) for name in wanted] == [True, False, False, True]
    assert "indices element out of data bounds" in str(answers["outside"])
    assert "Unexpected input data type" in str(answers["floats"])
    assert all("\n" not in str(answer) for answer in answers.values() if isinstance(answer, str))


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    answers = run_apart(tmp_path / "model.onnx", {"a": {}, "b": {}})
    assert list(answers) == ["a", "b"]
    for answer in answers.values():  # with the runtime's own reason
        assert str(answer).startswith("ONNX Runtime cannot load the model: [ONNXRuntimeError]")
