"""Nodes of hostile models in the real runtime: each is refused with words, or answered; the process lives."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from amtl_export.graph.ragged import GATHER, LINEAR, LINEAR_INT8, PAIRS, SUM
from amtl_export.native import DOMAIN, MOST_DIM, library_path

OPERATORS = (GATHER, SUM, PAIRS, LINEAR, LINEAR_INT8)
BIG = (2**31, 2**61, 2**62, 2**62 + 16, 2**63 - 1)
NAN, INFINITE = float("nan"), float("inf")

pytestmark = pytest.mark.skipif(library_path() is None, reason="the native operator was not built: no C compiler")


@dataclass(frozen=True)
class Node:
    """A node, its constants and its request: three fields (one for a sum) of five rows, row r of r % 4 numbers."""

    kind: str
    offsets: Any = np.int32
    attributes: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)
    ids: Any = None

    def but(self, **changes: Any) -> "Node":
        """With other arrays; `ids` is one of them. None leaves an input out."""
        ids = changes.pop("ids", self.ids)
        return replace(self, arrays=self.arrays | changes, ids=ids)

    def saying(self, **attributes: Any) -> "Node":
        """With other attributes; None leaves one out."""
        return replace(self, attributes=self.attributes | attributes)

    def write(self, file: Path) -> None:
        given = {name: value for name, value in self.attributes.items() if value is not None}
        names = ["values", "block_offsets", "row_offsets", "ids", "sizes", "shifts", "weights", "bias", "scales"]
        names = [name for name in names if name == "ids" or name in self.arrays]
        inputs = [name if name == "ids" or self.arrays[name] is not None else "" for name in names]
        node = helper.make_node(self.kind, inputs, ["y"], domain=DOMAIN, **given)
        ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [f"n{i}" for i in range(self.ids.ndim)])
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        constants = [numpy_helper.from_array(a, n) for n, a in self.arrays.items() if isinstance(a, np.ndarray)]
        shapes = {n: a for n, a in self.arrays.items() if isinstance(a, tuple)}  # of no numbers, whatever else they say
        constants += [helper.make_tensor(n, TensorProto.FLOAT, shape, []) for n, shape in shapes.items()]
        graph = helper.make_graph([node], "g", [ids], [output], constants)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
        file.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
        np.save(file.with_suffix(".npy"), self.ids)


def sound(kind: str, offsets: Any = np.int32) -> Node:
    fields = 1 if kind == SUM else 3
    rows = 5 * fields
    begins = np.concatenate([[0], np.cumsum(np.arange(rows) % 4)])
    arrays = {
        "values": np.ones(begins[-1], np.int8 if kind == LINEAR_INT8 else np.float32),
        "block_offsets": np.zeros(1, np.int64),
        "row_offsets": begins.astype(offsets)[:, None],
        "sizes": np.full(fields, 5),
        "shifts": 5 * np.arange(fields),
    }
    attributes: dict[str, Any] = {"dim": 4, "block_bits": 10, "scale_base": 1.0, "scale_unit": 0.0}
    if kind in (LINEAR, LINEAR_INT8):
        attributes["least"] = -3e38
        arrays["weights"] = np.ones((2, fields * 4, 16), np.float32)
        arrays["bias"] = np.zeros(20, np.float32)
    if kind == LINEAR_INT8:
        arrays["weights"] = np.full((2, fields, 16, 4), 129, np.uint8)
        arrays["scales"] = np.ones(20, np.float32)
    return Node(kind, offsets, attributes, arrays, np.array([[1, 2, 3], [-1, 9, 4]]))


def attributes_of(node: Node) -> Iterator[tuple[str, Node]]:
    for dim in (0, -1, MOST_DIM + 1, -(2**63), *BIG):
        yield "dim", node.saying(dim=dim)
    for bits in (-1, 63, 64, *BIG):
        yield "block_bits", node.saying(block_bits=bits)
    for number in (NAN, INFINITE, -INFINITE):
        yield "scale_base", node.saying(scale_base=number)
        yield "scale_unit", node.saying(scale_unit=number)
    yield "scale_unit", node.saying(scale_unit=3e38)
    if "least" in node.attributes:
        yield "least", node.saying(least=NAN)
    for name in node.attributes:
        yield name, node.saying(**{name: None})


def inputs_of(node: Node) -> Iterator[tuple[str, Node]]:
    for name, array in node.arrays.items():
        yield name, node.but(**{name: None})
        yield name, node.but(**{name: array.astype(np.float64)})
        yield name, node.but(**{name: array[:0]})
        yield name, node.but(**{name: array[:-4] if name == "bias" else array[:-1]})  # another panel of columns
        yield name, node.but(**{name: array[:, None]})
        if name not in ("values", "row_offsets"):  # rows and numbers that nobody looks up are nobody's
            yield name, node.but(**{name: np.concatenate([array, array if name == "bias" else array[:1]])})
    yield "ids", node.but(ids=node.ids[..., :-1] if node.kind != SUM else node.ids[0])
    yield "ids", node.but(ids=node.ids.reshape((1,) * 7 + node.ids.shape))


def contents_of(node: Node) -> Iterator[tuple[str, Node]]:
    for name, numbers in (
        ("block_offsets", [-1, -(2**63), 2**31, 2**63 - 1]),
        ("sizes", [0, -1, 6 if node.kind == SUM else 16, *BIG]),
        ("shifts", [-1, -(2**63), 11, *BIG]),
    ):
        for number in numbers:
            array = node.arrays[name].copy()
            array[-1] = number
            yield name, node.but(**{name: array})
    offsets = node.arrays["row_offsets"]
    yield "row_offsets", node.but(row_offsets=offsets[::-1].copy())
    for number in (np.iinfo(node.offsets).max, np.iinfo(node.offsets).max - 1, 9):
        third = np.arange(len(offsets))[:, None] == 2
        yield "row_offsets", node.but(row_offsets=np.where(third, number, offsets).astype(node.offsets))
    if "scales" in node.arrays:
        for wrong in (NAN, INFINITE):
            yield "scales", node.but(scales=np.where(np.arange(20) == 7, wrong, 1).astype(np.float32))


def together_of(node: Node) -> Iterator[tuple[str, Node]]:
    """Things that lie alike: shapes that fit a product that wraps around, or is zero."""
    none = node.but(sizes=np.zeros(0, np.int64), shifts=np.zeros(0, np.int64), ids=np.zeros((3, 0), np.int64))
    yield "sizes", none
    yield "row_offsets", node.but(row_offsets=node.arrays["row_offsets"][:1])
    if node.kind == LINEAR:
        empty = np.zeros(0, np.float32)
        one = node.but(sizes=np.array([5]), shifts=np.array([0]), ids=node.ids[:, :1])
        yield "dim", one.but(weights=(0, 2**61, 16), bias=empty).saying(dim=2**61)
        yield "bias", one.but(weights=(0, 4, 16), bias=empty)
        four = node.but(sizes=np.full(4, 5), shifts=np.zeros(4, np.int64), ids=np.zeros((3, 4), np.int64))
        yield "dim", four.but(weights=np.ones((2, 64, 16), np.float32)).saying(dim=2**62 + 16)
        yield "dim", four.but(weights=(2, 0, 16)).saying(dim=2**62)


def answered(tmp_path: Path, nodes: list[Node]) -> list[str]:
    """What the runtime says of each, in one process."""
    for number, node in enumerate(nodes):
        node.write(tmp_path / f"{number:04}.onnx")
    program = [sys.executable, str(Path(__file__).with_name("answer_nodes.py")), str(tmp_path), str(library_path())]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=120)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"ended with {done.returncode} after {lines[-1:]}: {done.stderr[-300:]}"
    assert [line.split()[0] for line in lines] == [f"{number:04}" for number in range(len(nodes))]
    return [line.split(" ", 1)[1] for line in lines]


@pytest.mark.parametrize("offsets", [np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("kind", OPERATORS)
def test_what_contradicts_itself_is_refused_by_name(tmp_path: Path, kind: str, offsets: Any) -> None:
    good = sound(kind, offsets)
    bad = [*attributes_of(good), *inputs_of(good), *contents_of(good), *together_of(good)]
    assert len(bad) > 60
    first, *others = answered(tmp_path, [good, *(node for _, node in bad)])
    assert first.startswith("answered"), first
    for (name, _), line in zip(bad, others, strict=True):
        assert line.startswith("refused"), f"{name}: {line}"
        if "amtl: " in line:
            assert f"amtl: {kind}: " in line
            assert re.search(rf"(attributes?|inputs?) [^:]*\b{name}\b|weights must be", line), f"{name}: {line}"


def test_a_table_without_numbers_is_zeros(tmp_path: Path) -> None:
    nodes = []
    for kind in OPERATORS:
        good = sound(kind)
        zeros = np.zeros_like(good.arrays["row_offsets"])
        nodes.append(good.but(values=good.arrays["values"][:0], row_offsets=zeros, ids=np.ones((50, 3), np.int64)))
    shapes = ([50, 3, 4], [50, 4], [50, 4], [50, 20], [50, 20])
    assert answered(tmp_path, nodes) == [f"answered {shape} 0.0" for shape in shapes]


def test_words_say_which_row_and_which_lookup(tmp_path: Path) -> None:
    good = sound(GATHER)
    offsets = good.arrays["row_offsets"].copy()
    offsets[13] = 3
    (line,) = answered(tmp_path, [good.but(row_offsets=offsets)])
    assert "row_offsets, row 13 (lookup 2 of input ids): begins at 3 and ends at 19 of 21 values" in line


def test_the_widest_rows(tmp_path: Path) -> None:
    good = sound(GATHER).saying(dim=MOST_DIM)
    assert answered(tmp_path, [good])[0].startswith(f"answered [2, 3, {MOST_DIM}]")
