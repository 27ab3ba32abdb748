"""LinearInt8 and CrossInt8 against their specification, bit for bit, by every instruction set."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from amtl_export.native import DOMAIN, FORCE_ISA, available_isas, library_path
from amtl_export.runtime.session import open_session

LIBRARY = library_path()
LINEAR, CROSS = "LinearInt8", "CrossInt8"
NO_LEAST = float(np.finfo(np.float32).min)
LANES = 16
NAN, INFINITE = float("nan"), float("inf")
HOSTILE = (-1, 1, 127, 129, 2**31, 2**61, 2**63 - 1, -(2**63))

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="the native operator was not built: no C compiler")

Array = np.ndarray[Any, Any]

#: Answers the requests of a folder, each by its node; prints the instruction set.
PROGRAM = """
import sys
import numpy as np
from pathlib import Path
from amtl_export.native import isa_in_use, library_path
from amtl_export.runtime.session import open_session
for file in sorted(Path(sys.argv[1]).glob("*.onnx")):
    with np.load(file.with_suffix(".npz")) as feed:
        np.save(sys.argv[2] + "/" + file.stem, open_session(file, native=True).run(None, dict(feed))[0])
print(isa_in_use(library_path()))
"""


@dataclass(frozen=True)
class Node:
    """A layer and its request."""

    feed: dict[str, Array]
    arrays: dict[str, Any]
    attributes: dict[str, Any] = field(default_factory=lambda: {"zero": 128, "least": NO_LEAST})

    @property
    def kind(self) -> str:
        return CROSS if "x0" in self.feed else LINEAR

    def but(self, **changes: Any) -> "Node":
        """With other constants, or another request; None leaves an input out."""
        feed = self.feed | {name: value for name, value in changes.items() if name in self.feed}
        arrays = self.arrays | {name: value for name, value in changes.items() if name not in self.feed}
        return replace(self, feed=feed, arrays=arrays)

    def saying(self, **attributes: Any) -> "Node":
        """With other attributes; None leaves one out."""
        return replace(self, attributes=self.attributes | attributes)

    def model(self) -> bytes:
        given = {name: value for name, value in self.attributes.items() if value is not None}
        arrays = {name: array for name, array in self.arrays.items() if array is not None}
        present = self.feed.keys() | arrays.keys()
        names = ["x", "weights", "scales", "offsets", "bias", *(["x0"] if self.kind == CROSS else [])]
        node = helper.make_node(self.kind, [n if n in present else "" for n in names], ["y"], domain=DOMAIN, **given)
        inputs = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, [f"{n}{i}" for i in range(array.ndim)])
            for n, array in self.feed.items()
        ]
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
        graph = helper.make_graph([node], "g", inputs, [output], constants)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
        return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())

    def run(self, threads: int = 1) -> Array:
        answer: Array = open_session(self.model(), native=True, threads=threads).run(None, self.feed)[0]
        return answer


def panels(weight: Array) -> Array:
    """[inputs, outputs] as [ceil(outputs / 16), ceil(inputs / 4), 16, 4]."""
    inputs, outputs = weight.shape
    whole = np.pad(weight, ((0, -inputs % 4), (0, -outputs % 16)))
    quads, columns = whole.shape[0] // 4, whole.shape[1] // 16
    return np.ascontiguousarray(whole.reshape(quads, 4, columns, 16).transpose(2, 0, 3, 1))


def columns(weights: Array, inputs: int, outputs: int) -> Array:
    """`panels` undone."""
    return weights.transpose(1, 3, 0, 2).reshape(4 * weights.shape[1], -1)[:inputs, :outputs]


def drawn(x: Array, outputs: int, seed: int, *, cross: bool = False, most: int = 64) -> Node:
    """A layer for these rows; some of its columns are all at the ends of their range."""
    random = np.random.default_rng(seed)
    weight = random.integers(-most, most + 1, (x.shape[-1], outputs)).astype(np.int8)
    weight[:, ::7] = most
    arrays = {
        "weights": panels(weight),
        "scales": (random.uniform(0.5, 2, outputs) / most).astype(np.float32),
        "offsets": random.integers(-3000, 3000, outputs).astype(np.int32),
        "bias": random.normal(0, 3, outputs).astype(np.float32),
    }
    x0 = {"x0": normal(*x.shape, seed=seed)} if cross else {}
    return Node({"x": x, **x0}, arrays)


def row_scales(x: Array, zero: int) -> tuple[Array, Array]:
    """By which rows are divided, and by which their sums are multiplied."""
    sizes = x if zero == 0 else np.abs(x)
    largest: Array = np.fmax.reduce(sizes, axis=-1, initial=np.float32(0))
    scale = np.maximum(largest * (np.float32(1) / np.float32(255 if zero == 0 else 127)), np.float32(2.0**-100))
    lanes = np.pad(x, ((0, 0), (0, -x.shape[-1] % LANES)))
    sums = np.zeros((len(x), LANES), np.float32)
    for k in range(0, lanes.shape[1], LANES):
        sums = sums + lanes[:, k : k + LANES]
    while sums.shape[1] > 1:
        sums = sums[:, : sums.shape[1] // 2] + sums[:, sums.shape[1] // 2 :]
    return scale, np.where(np.isfinite(sums[:, 0]), scale, np.float32(NAN))


def expected(node: Node) -> Array:
    """The specification, in numpy: every operation rounds once."""
    zero, arrays = node.attributes["zero"], node.arrays
    x = node.feed["x"].reshape(-1, node.feed["x"].shape[-1])
    outputs = arrays["bias"].size
    with np.errstate(all="ignore"):
        scale, scale_or_nan = row_scales(x, zero)
        quantized = np.clip(np.nan_to_num(np.rint(x / scale[:, None])) + np.float32(zero), 0, 255).astype(np.int64)
        weight = columns(arrays["weights"], x.shape[1], outputs).astype(np.int64)
        sums = (quantized @ weight + arrays["offsets"]).astype(np.int32).astype(np.float32)
        y = sums * scale_or_nan[:, None] * arrays["scales"] + arrays["bias"].reshape(-1)
        least = np.float32(node.attributes["least"])
        y = np.where(y < least, least, y)
        if node.kind == CROSS:
            y = node.feed["x0"].reshape(x.shape) * y + x
    answer: Array = y.astype(np.float32).reshape(*node.feed["x"].shape[:-1], outputs)
    return answer


def assert_equal(found: Array, wanted: Array) -> None:
    """To the last bit; one NaN is as good as another."""
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    numbers = ~np.isnan(wanted)
    assert np.array_equal(np.isnan(found), ~numbers)
    assert found[numbers].tobytes() == wanted[numbers].tobytes()


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def unusual() -> Array:
    """Rows of 37 numbers that ask something of the quantization."""
    random = np.random.default_rng(5)
    x = np.tile(normal(1, 37), (20, 1))
    x[0], x[1], x[2] = 0, -0.0, -np.abs(x[2])
    x[3, 4], x[4, 5], x[5, 6], x[6, 7] = NAN, INFINITE, -INFINITE, np.finfo(np.float32).max
    x[7] *= np.float32(1e30)
    x[8] *= np.float32(1e-30)
    x[9] = np.float32(1e-45) * random.integers(0, 9, 37)
    x[10] *= np.float32(1e-38)
    x[11] = np.finfo(np.float32).max  # their sum is infinite
    x[12] = np.arange(37) * np.float32(0.5)
    x[13] = np.float32(255) * random.choice([0.5, 1.5, 2.5, 1, 0], 37) / 255  # ties
    x[14, :] = 0
    x[14, 36] = 255
    x[15] = np.concatenate([np.arange(0.5, 36.5), [255]])  # ties again, where the scale is 1
    x[16] = np.concatenate([np.arange(0.5, 36.5), [127]])
    x[17] = -np.concatenate([np.arange(0.5, 36.5), [127]])
    x[18], x[18, 0] = NAN, -INFINITE
    x[19, 20] = 1e9
    return x


def cases() -> Iterator[Node]:
    sizes = [(1, 1, 1), (3, 5, 2), (7, 16, 16), (6, 64, 64), (13, 37, 79), (5, 130, 65), (25, 31, 17), (2, 515, 48)]
    for number, (rows, inputs, outputs) in enumerate(sizes):
        for zero in (0, 128):
            x = normal(rows, inputs, seed=number)
            yield drawn(np.maximum(x, 0) if zero == 0 and number % 2 else x, outputs, number).saying(zero=zero)
            yield drawn(x, inputs, number, cross=True).saying(zero=zero)
    for zero in (0, 128):
        for least in (0.0, -1.5, INFINITE, -INFINITE):
            yield drawn(normal(9, 21), 33, 3).saying(zero=zero, least=least)
        yield drawn(unusual(), 50, 4).saying(zero=zero)
        yield drawn(unusual(), 37, 4, cross=True).saying(zero=zero, least=0.0)
        yield drawn(normal(5, 44), 20, 8, most=1).saying(zero=zero)
    one = drawn(normal(20), 18, 5)
    yield one
    yield one.but(bias=one.arrays["bias"][None])
    yield drawn(normal(2, 3, 4, 10), 18, 6)
    yield drawn(normal(1, 2, 1, 2, 1, 2, 1, 6), 6, 6, cross=True)
    yield drawn(normal(0, 10), 18, 6)
    yield drawn(normal(3, 0, 10), 18, 6)
    yield drawn(normal(700, 24), 30, 7)  # more than a block
    yield drawn(normal(2, 32_768), 17, 9)  # sums near the end of 32 bits
    far = drawn(normal(4, 12), 8, 10)
    yield far.but(offsets=np.full(8, 2**31 - 1, np.int32))  # they wrap around
    yield far.but(scales=np.full(8, 1e38, np.float32))
    yield far.but(scales=np.full(8, 1e-45, np.float32), bias=np.zeros(8, np.float32))


def python(program: str, *words: object, isa: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {FORCE_ISA: isa, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_every_set_answers_as_specified(tmp_path: Path) -> None:
    assert LIBRARY is not None
    nodes = list(cases())
    wanted = [expected(node) for node in nodes]
    for number, node in enumerate(nodes):
        (tmp_path / f"{number:03}.onnx").write_bytes(node.model())
        np.savez(tmp_path / f"{number:03}.npz", **node.feed)  # type: ignore[arg-type]  # its stub takes names for flags
    for isa in available_isas(LIBRARY):
        answers = tmp_path / isa
        answers.mkdir()
        done = python(PROGRAM, tmp_path, answers, isa=isa)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [isa]
        for number, answer in enumerate(wanted):
            assert_equal(np.load(answers / f"{number:03}.npy"), answer)


def test_products_are_rounded_before_a_sum() -> None:
    """With a fused multiplication and addition many of these numbers would be others."""
    node = drawn(normal(30, 40), 40, 12, cross=True)
    node = node.but(bias=(node.arrays["bias"] * np.float32(np.pi)).astype(np.float32))
    arrays, x = node.arrays, node.feed["x"]
    scale, _ = row_scales(x, 128)
    quantized = np.clip(np.rint(x / scale[:, None]) + np.float32(128), 0, 255).astype(np.int64)
    sums = (quantized @ columns(arrays["weights"], 40, 40) + arrays["offsets"]).astype(np.float32) * scale[:, None]
    fused = (sums.astype(np.float64) * arrays["scales"] + arrays["bias"]).astype(np.float32)
    fused_too = (fused.astype(np.float64) * node.feed["x0"] + x).astype(np.float32)
    assert np.mean(fused_too != expected(node)) > 0.2
    assert_equal(node.run(), expected(node))


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("zero", [0, 128])
def test_a_row_is_answered_alike_alone_and_among_others(zero: int, cross: bool) -> None:
    x = np.concatenate([normal(11, 37), unusual()])
    node = drawn(x, 37 if cross else 41, 11, cross=cross).saying(zero=zero)
    together = node.run()
    session = open_session(node.model(), native=True)
    for i in range(len(x)):
        alone = session.run(None, {name: array[i : i + 1] for name, array in node.feed.items()})[0]
        assert_equal(alone, together[i : i + 1])


def test_two_threads_answer_as_one() -> None:
    node = drawn(normal(1300, 256), 256, 13, cross=True)  # several shares
    assert_equal(node.run(threads=2), node.run())


def attributes_of(node: Node) -> Iterator[tuple[str, Node]]:
    for zero in HOSTILE:
        yield "zero", node.saying(zero=zero)
    yield "least", node.saying(least=NAN)
    for name in node.attributes:
        yield name, node.saying(**{name: None})


def inputs_of(node: Node) -> Iterator[tuple[str, Node]]:
    for name, array in node.arrays.items():
        yield name, node.but(**{name: None})
        yield name, node.but(**{name: array.astype(np.float64)})
        yield name, node.but(**{name: array[:0]})
        yield name, node.but(**{name: array[:-4] if name == "bias" else array[:-1]})
        yield name, node.but(**{name: array[:, None]})
        yield name, node.but(**{name: np.concatenate([array, array])})
    for wrong in (NAN, INFINITE, -INFINITE):
        scales = np.where(np.arange(20) == 7, wrong, 1).astype(np.float32)
        yield "scales, output 7", node.but(scales=scales)
    rows = node.feed["x"]
    for name in node.feed:
        yield name, node.but(**{name: np.ones((), np.float32)})
        yield name, node.but(**{name: rows.reshape((1,) * 7 + rows.shape)})
        yield "x", node.but(**{name: rows[:, :0]})
        yield ("weights" if name == "x" else "x0"), node.but(**{name: normal(3, 25)})
    wide = np.zeros((1, 32_769), np.float32)
    yield "x", node.but(x=wide, weights=np.zeros((2, 8193, 16, 4), np.int8))


def refusal(node: Node) -> str:
    """The words with which the runtime refuses a node."""
    try:
        node.run()
    except Exception as error:
        return str(error)
    raise AssertionError(f"{node.attributes} was answered")


@pytest.mark.parametrize("cross", [False, True])
def test_what_contradicts_itself_is_refused_by_name(cross: bool) -> None:
    good = drawn(normal(3, 20), 20, 14, cross=cross)
    assert_equal(good.run(), expected(good))
    bad = [*attributes_of(good), *inputs_of(good)]
    if cross:
        bad += [("x0", good.but(x0=x0)) for x0 in (normal(2, 20), normal(20), normal(1, 3, 20), normal(3, 1))]
    for name, node in bad:
        said = refusal(node)
        if "amtl: " in said:  # else the runtime saw it first: a type, or an attribute that is missing
            assert f"amtl: {good.kind}: " in said
            assert f" {name}" in said or (name == "bias" and "weights must be" in said), f"{name}: {said}"


def test_a_cross_of_other_sizes_is_refused() -> None:
    x = normal(3, 20)
    node = replace(drawn(x, 24, 15), feed={"x": x, "x0": x})
    with pytest.raises(Exception, match=r"amtl: CrossInt8: inputs x and bias: 20 inputs and 24 outputs, of a cross"):
        node.run()


def test_words_say_what_weights_must_be() -> None:
    node = drawn(normal(3, 20), 20, 16)
    with pytest.raises(Exception, match=r"input weights is \[2, 5, 16, 4\]; weights must be .* = \[2, 6, 16, 4\]"):
        node.but(x=normal(3, 21)).run()
