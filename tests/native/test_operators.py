"""The native operators against their function bodies of standard operators."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from amtl_export import native
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.errors import EnvironmentLacks
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.graph.ragged import (
    BITS,
    GATHER,
    LINEAR,
    LINEAR_INT8,
    NO_LEAST,
    PAIRS,
    SUM,
    fake_quantized_weight,
    function,
    panels,
    quantized_panels,
    scales_of,
)
from amtl_export.native import DOMAIN, library_path, needed_library
from amtl_export.runtime.session import open_session
from amtl_export.tables.arrange import ragged
from amtl_export.tables.layout import Ragged
from amtl_export.tables.values import SCALED, VALUE_TYPES, Stored, ValueType, stored

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "amtl_export" / "native"
CC = shutil.which(os.environ.get("CC", "cc"))

needs_compiler = pytest.mark.skipif(CC is None, reason="no C compiler: install gcc or clang, or set CC")
needs_library = pytest.mark.skipif(library_path() is None, reason="the native operator was not built: no C compiler")


@needs_compiler
def test_the_whole_library_compiles_without_a_warning(tmp_path: Path) -> None:
    assert CC is not None
    flags = ["-std=c11", "-O3", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fPIC", "-shared"]
    sources = [str(file) for file in SOURCES.glob("*.c")]
    subprocess.run([CC, *flags, *sources, "-o", str(tmp_path / "library.so")], check=True)


def model_of(
    table: Ragged,
    sizes: list[int],
    shifts: list[int],
    rank: int = 2,
    layer: tuple[Any, Any, float] | None = None,
    *,
    summed: str = "",
    quantized: bool = False,
) -> bytes:
    """A lookup, or what `SUM` or `PAIRS` makes of its rows.

    With `layer` (weight `[outputs, inputs]`, bias, least) a fused layer; with `quantized` its weights are int8.
    """
    arrays = {
        **table.arrays,
        "sizes": np.array(sizes, dtype=np.int64),
        "shifts": np.array(shifts, dtype=np.int64),
    }
    scale = {"scale_base": 1.0 if table.scales is None else 0.0, "scale_unit": table.scale_unit}
    attributes: dict[str, Any] = {"dim": table.dim, "block_bits": table.block_bits, **scale}
    attributes |= {BITS: 4} if table.paired else {}
    inputs = ["values", "block_offsets", "row_offsets", "ids", "sizes", "shifts"]
    axes: list[Any] = [f"n{i}" for i in range(rank)]
    shape = [*axes, table.dim]
    if layer is not None:
        weight, bias, least = layer
        arrays |= {"weights": quantized_panels(weight, table.dim) if quantized else panels(weight), "bias": bias}
        arrays |= {"scales": scales_of(weight)} if quantized else {}
        inputs += ["weights", "bias", "scales"][: 3 if quantized else 2]
        attributes["least"] = least
        shape = [axes[0], len(bias)]
    elif summed:
        shape = [axes[0], table.dim]
    kind = summed or (GATHER if layer is None else LINEAR_INT8 if quantized else LINEAR)
    node = helper.make_node(kind, inputs, ["rows"], domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "lookup",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, axes)],
        [helper.make_tensor_value_info("rows", onnx.TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    operators = (GATHER, SUM, PAIRS, LINEAR, LINEAR_INT8)
    bodies = [ir.serde.serialize_function(function(name, paired=table.paired)) for name in operators]
    made = helper.make_model(graph, opset_imports=opsets, functions=bodies, ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())


def answers(model: bytes, ids: Any, *, threads: int = 1) -> list[Any]:
    """With the library and without."""
    sessions = [open_session(model, threads=threads, native=kind) for kind in (True, False)]
    return [session.run(["rows"], {"ids": ids})[0] for session in sessions]


def drawn(V: int, D: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    dims = rng.integers(0, D + 1, V)
    return np.where(np.arange(D) < dims[:, None], rng.normal(size=(V, D)).astype(np.float32), np.float32(0)), dims


@needs_library
@given(
    st.integers(1, 30),
    st.integers(1, 40),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 33), max_size=12),
    st.sampled_from(VALUE_TYPES),
    st.sampled_from([np.uint16, np.int32, np.int64]),
)
def test_kernel_and_function_body_agree_bit_for_bit(
    V: int, D: int, ids: list[int], dtype: ValueType, offset_type: Any
) -> None:
    rows, dims = drawn(V, D)
    numbers = stored(rows, dtype)
    table = ragged(numbers, dims)
    table = replace(table, row_offsets=table.row_offsets.astype(offset_type))
    column = np.array(ids, dtype=np.int64).reshape(-1, 1)
    kernel, fallback = answers(model_of(table, [V], [0]), column)
    expected = numbers.read()[np.where((column >= 0) & (column < V), column, 0)]
    assert kernel.tobytes() == fallback.tobytes() == expected.tobytes()
    assert kernel.shape == (len(ids), 1, D)


@needs_library
@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (20_000, 3), (2, 7, 3)])
@pytest.mark.parametrize("threads", [1, 2])
def test_fields_shapes_and_threads(shape: tuple[int, ...], threads: int) -> None:
    rows, dims = drawn(60, 24)
    sizes, shifts = [10, 20, 30], [0, 10, 30]
    ids = np.random.default_rng(1).integers(-5, 40, shape)
    kernel, fallback = answers(model_of(ragged(Stored(rows), dims), sizes, shifts, len(shape)), ids, threads=threads)
    expected = rows[np.where((ids >= 0) & (ids < sizes), ids, 0) + shifts]
    assert kernel.tobytes() == fallback.tobytes() == expected.astype(np.float32).tobytes()
    assert kernel.shape == (*shape, 24)


@needs_library
@pytest.mark.parametrize("dtype", VALUE_TYPES)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (4000, 9), (7, 6000)])
def test_rows_are_summed_up(dtype: ValueType, shape: tuple[int, int]) -> None:
    rows, dims = drawn(60, 24)
    numbers = stored(rows, dtype)
    ids = np.random.default_rng(1).integers(-5, 40, shape)
    model = model_of(ragged(numbers, dims), [30], [20], summed=SUM)
    found = numbers.read()[np.where((ids >= 0) & (ids < 30), ids, 0) + 20].astype(np.float64)
    allowed = 5e-5 * (1 + np.abs(found).sum(axis=1).max(initial=0))  # 6,000 float32 numbers one after the other
    for threads in (1, 2):
        for total in answers(model, ids, threads=threads):
            assert total.shape == (shape[0], 24)
            np.testing.assert_allclose(total, found.sum(axis=1), rtol=0, atol=allowed)


@needs_library
@pytest.mark.parametrize("dtype", VALUE_TYPES)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 3), (9000, 3)])
def test_pairs_are_what_a_factorization_machine_adds_up(dtype: ValueType, shape: tuple[int, int]) -> None:
    rows, dims = drawn(60, 21)
    numbers = stored(rows, dtype)
    sizes, shifts = ([10, 20, 30], [0, 10, 30]) if shape[1] else ([30], [20])
    ids = np.random.default_rng(1).integers(-5, 40, shape)
    model = model_of(ragged(numbers, dims), sizes, shifts, summed=PAIRS)
    found = numbers.read()[np.where((ids >= 0) & (ids < sizes), ids, 0) + shifts].astype(np.float64)
    expected = found.sum(axis=1) ** 2 - (found**2).sum(axis=1)
    for threads in (1, 2):
        for pairs in answers(model, ids, threads=threads):
            assert pairs.shape == (shape[0], 21)
            np.testing.assert_allclose(pairs, expected, rtol=0, atol=1e-5 * (1 + np.abs(expected).max(initial=0)))


@needs_library
@pytest.mark.parametrize("shape", [(4,), (4, 1, 1)])
def test_a_sum_takes_examples_by_values(shape: tuple[int, ...]) -> None:
    rows, _ = drawn(6, 4)
    model = model_of(ragged(Stored(rows), np.full(6, 4)), [6], [0], len(shape))
    wrong = onnx.load_from_string(model)
    wrong.graph.node[0].op_type = SUM
    wrong.graph.output[0].type.tensor_type.ClearField("shape")
    session = open_session(wrong.SerializeToString(), native=True)
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument, match=r"examples, length"):
        session.run(["rows"], {"ids": np.zeros(shape, np.int64)})


@needs_library
@pytest.mark.parametrize("dtype", VALUE_TYPES)
@pytest.mark.parametrize("outputs", [1, 16, 70])
@pytest.mark.parametrize("examples", [0, 1, 5, 300])
def test_a_fused_layer_multiplies_as_a_plain_one(dtype: ValueType, outputs: int, examples: int) -> None:
    rows, dims = drawn(60, 24)
    rng = np.random.default_rng(2)
    weight, bias = rng.normal(size=(outputs, 72)).astype(np.float32), rng.normal(size=outputs).astype(np.float32)
    numbers = stored(rows, dtype)
    sizes, shifts = [10, 20, 30], [0, 10, 30]
    ids = rng.integers(-5, 40, (examples, 3))
    looked_up = numbers.read()[np.where((ids >= 0) & (ids < sizes), ids, 0) + shifts].reshape(examples, 72)
    product = looked_up.astype(np.float64) @ weight.T.astype(np.float64) + bias
    for least, expected in ((NO_LEAST, product), (0.0, np.maximum(product, 0))):
        model = model_of(ragged(numbers, dims), sizes, shifts, layer=(weight, bias, least))
        for threads in (1, 2):
            for found in answers(model, ids, threads=threads):
                assert found.shape == (examples, outputs)
                np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@needs_library
@pytest.mark.parametrize("dtype", SCALED)
@pytest.mark.parametrize("width", [1, 3, 24, 66])
@pytest.mark.parametrize("outputs", [1, 16, 70])
@pytest.mark.parametrize("examples", [0, 1, 5, 300])
def test_a_quantized_layer_multiplies_as_its_fake_quantized_weight(
    dtype: ValueType, width: int, outputs: int, examples: int
) -> None:
    rows, dims = drawn(60, width)
    rng = np.random.default_rng(2)
    weight, bias = rng.normal(size=(outputs, 3 * width)).astype(np.float32), rng.normal(size=outputs).astype(np.float32)
    weight[1:2] = 0  # an output that reads nothing, beside others
    assert np.abs(fake_quantized_weight(weight) - weight).max() <= np.abs(weight).max() / 254 * 1.001
    numbers = stored(rows, dtype)
    sizes, shifts = [10, 20, 30], [0, 10, 30]
    ids = rng.integers(-5, 40, (examples, 3))
    looked_up = numbers.read()[np.where((ids >= 0) & (ids < sizes), ids, 0) + shifts].reshape(examples, 3 * width)
    product = looked_up.astype(np.float64) @ fake_quantized_weight(weight).T.astype(np.float64) + bias
    for least, expected in ((NO_LEAST, product), (0.0, np.maximum(product, 0))):
        model = model_of(ragged(numbers, dims), sizes, shifts, layer=(weight, bias, least), quantized=True)
        for threads in (1, 2):
            for found in answers(model, ids, threads=threads):
                assert found.shape == (examples, outputs)
                np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5)


@needs_library
@pytest.mark.parametrize("dtype", ["fp32", "int8", "int4"])
def test_a_score_does_not_depend_on_the_other_examples(dtype: ValueType) -> None:
    """Rows that several examples have are multiplied once; who else has them must not show."""
    rows, dims = drawn(500, 40)
    rng = np.random.default_rng(3)
    layer = (rng.normal(size=(70, 80)).astype(np.float32), rng.normal(size=70).astype(np.float32), NO_LEAST)
    table = ragged(stored(rows, dtype), dims)
    session = open_session(model_of(table, [200, 300], [0, 200], layer=layer, quantized=dtype != "fp32"), native=True)
    few = np.stack([rng.integers(0, 3, 1000), rng.integers(0, 300, 1000)], axis=1)  # one field of three rows
    together = session.run(["rows"], {"ids": few})[0]
    alone = [session.run(["rows"], {"ids": few[i : i + 1]})[0] for i in range(1000)]
    assert together.tobytes() == np.concatenate(alone).tobytes()
    order = rng.permutation(1000)
    assert session.run(["rows"], {"ids": few[order]})[0].tobytes() == together[order].tobytes()


@needs_library
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: (replace(t, dim=3), (3,)), "weights must be"),
        (lambda t: (t, (4, 1)), "must be .examples, fields."),
        (lambda t: (t, (4,)), None),
    ],
)
@pytest.mark.parametrize("quantized", [False, True])
def test_a_fused_layer_refuses_what_does_not_fit(spoil: Any, says: str | None, quantized: bool) -> None:
    rows, _ = drawn(6, 4)
    table, shape = spoil(ragged(stored(rows, "int8" if quantized else "fp32"), np.full(6, 4)))
    layer = (np.ones((5, 12 if quantized else 4), np.float32), np.zeros(5, np.float32), 0.0)
    if quantized and table.dim == 4:
        layer = (layer[0][:, :4], *layer[1:])
    session = open_session(model_of(table, [6], [0], len(shape) + 1, layer, quantized=quantized), native=True)
    ids = {"ids": np.zeros((*shape, 1), np.int64)}
    if says is None:
        assert session.run(["rows"], ids)[0].shape == (4, 5)
        return
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument, match=says):
        session.run(["rows"], ids)


@needs_library
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: (replace(t, row_offsets=t.row_offsets[::-1].copy()), [6], [0]), "row_offsets fall"),
        (lambda t: (replace(t, values=t.values[:3]), [6], [0]), "leave the values"),
        (lambda t: (replace(t, dim=2), [6], [0]), "longer than dim"),
        (lambda t: (replace(t, block_offsets=np.zeros(2, np.int64)), [6], [0]), "one for each block"),
        (lambda t: (t, [7], [0]), "rows that the table does not have"),
        (lambda t: (t, [6], [-1]), "rows that the table does not have"),
        (lambda t: (t, [6, 6], [0, 0]), "last dimension of ids"),
        (lambda t: (t, [6], [0, 0]), "as many"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(spoil: Any, says: str) -> None:
    rows, _ = drawn(6, 4)
    table, sizes, shifts = spoil(ragged(Stored(rows), np.array([4, 4, 4, 4, 4, 4])))
    session = open_session(model_of(table, sizes, shifts), native=True)
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument, match=says):
        session.run(["rows"], {"ids": np.arange(9, dtype=np.int64)[:, None] % 7})


@needs_library
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: replace(t, row_offsets=t.row_offsets[::-1].copy()), "row_offsets fall"),
        (lambda t: replace(t, values=t.values[:17]), "leave the values"),
        (lambda t: replace(t, dim=4), "longer than dim"),
    ],
)
def test_a_table_of_int4_that_contradicts_itself_is_refused(spoil: Any, says: str) -> None:
    rows = np.ones((6, 5), np.float32)
    table = spoil(ragged(stored(rows, "int4"), np.full(6, 5)))  # three bytes a row
    session = open_session(model_of(table, [6], [0]), native=True)
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument, match=says):
        session.run(["rows"], {"ids": np.arange(6, dtype=np.int64)[:, None]})


@needs_library
@pytest.mark.parametrize("bits", [None, 2])
def test_bytes_of_other_than_two_numbers_are_refused(bits: int | None) -> None:
    table = ragged(stored(np.ones((6, 5), np.float32), "int4"), np.full(6, 5))
    model = onnx.load_from_string(model_of(table, [6], [0]))
    (node,) = model.graph.node
    kept = [attribute for attribute in node.attribute if attribute.name != BITS]
    del node.attribute[:]
    node.attribute.extend([*kept, *([] if bits is None else [helper.make_attribute(BITS, bits)])])
    with pytest.raises(Exception, match=BITS):
        open_session(model.SerializeToString(), native=True)


@needs_library
def test_sessions_and_runs_in_many_threads() -> None:
    rows, dims = drawn(500, 32)
    model = model_of(ragged(Stored(rows), dims), [500], [0])
    shared = open_session(model, native=True, threads=2)

    def one(seed: int) -> bool:
        ids = np.random.default_rng(seed).integers(0, 500, (9000, 1))
        session = shared if seed % 2 else open_session(model, native=True)
        return bool((session.run(["rows"], {"ids": ids})[0] == rows[ids]).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(32)))


def test_an_operator_that_is_not_built_is_an_error_that_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(native.LIBRARIES, "cpu", "nothing.so")
    assert library_path() is None
    with pytest.raises(EnvironmentLacks, match="install a C compiler"):
        needed_library()
    rows, dims = drawn(5, 4)
    model = model_of(ragged(Stored(rows), dims), [5], [0])
    with pytest.raises(EnvironmentLacks, match="not built"):
        open_session(model, native=True)
    found = open_session(model).run(["rows"], {"ids": np.array([[3]])})[0]
    assert found.tobytes() == rows[[[3]]].tobytes()


def test_an_export_for_a_library_that_is_not_built_is_an_error(
    monkeypatch: pytest.MonkeyPatch, frozen: FrozenModel, tmp_path: Path
) -> None:
    monkeypatch.setitem(native.LIBRARIES, "cpu", "nothing.so")
    with pytest.raises(EnvironmentLacks, match="install a C compiler"):
        export(frozen, tmp_path / "bundle", ExportConfig(target="native"))
    assert list(tmp_path.iterdir()) == []


def test_without_a_compiler_the_package_installs_without_the_operator(tmp_path: Path) -> None:
    source = shutil.copytree(
        ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "*.so", "build", "demo-out")
    )
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site")]
    none = {"CC": "/bin/false", "NVCC": "/bin/false"}
    done = subprocess.run([*pip, str(source)], env=os.environ | none, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    here = tmp_path / "site" / "amtl_export" / "native"
    assert (here / "__init__.py").is_file()
    assert not list(here.glob("*.so"))
