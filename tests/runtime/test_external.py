"""A graph whose weights are elsewhere is refused before the runtime sees it."""

import shutil
from pathlib import Path

import onnx
import pytest

from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.errors import InputError
from amtl_export.runtime.external import check_external
from amtl_export.runtime.predictor import load


def test_a_sound_bundle_is_taken(bundle: Bundle) -> None:
    check_external(bundle.model)


@pytest.mark.parametrize("location", ["/etc/passwd", "../model.onnx.data", "a/../../x", "", "./x", "C:\\x", "nowhere"])
def test_a_place_elsewhere_is_refused(bundle_copy: Path, location: str) -> None:
    model = onnx.load(str(bundle_copy / "model.onnx"), load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    next(entry for entry in tensor.external_data if entry.key == "location").value = location
    (bundle_copy / "model.onnx").write_bytes(model.SerializeToString())
    for opened in (load, open_bundle):
        with pytest.raises(InputError, match="a graph's weights are"):
            opened(bundle_copy)


def test_a_place_in_a_body_is_found(tmp_path: Path) -> None:
    """An initializer of a branch, two bodies down."""
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    graph = onnx.helper.make_graph([], "inner", [], [], [tensor])
    for name in ("middle", "outer"):
        graph = onnx.helper.make_graph([onnx.helper.make_node("If", ["c"], ["y"], then_branch=graph)], name, [], [])
    file = tmp_path / "model.onnx"
    file.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(InputError, match="outside its folder"):
        check_external(file)


def test_links_are_refused(bundle_copy: Path, tmp_path: Path) -> None:
    data = bundle_copy / "model.onnx.data"
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="behind a link"):
        load(bundle_copy)
    with pytest.raises(InputError, match="a bundle holds a link"):
        open_bundle(bundle_copy)


@pytest.mark.parametrize("at", [1, 100, 3000])
def test_a_truncated_graph_is_refused(bundle_copy: Path, at: int) -> None:
    file = bundle_copy / "model.onnx"
    file.write_bytes(file.read_bytes()[:-at])
    with pytest.raises(InputError):
        load(bundle_copy)


def test_a_missing_bundle_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such bundle"):
        load(tmp_path / "nothing")


def test_a_graph_that_fails_on_a_request_is_an_error_of_ours(bundle_copy: Path, bundle: Bundle) -> None:
    shutil.copyfile(bundle.path / "signature.json", bundle_copy / "signature.json")
    model = onnx.load(str(bundle_copy / "model.onnx"), load_external_data=False)
    output = model.graph.output[1].name
    for node in model.graph.node:
        node.output[:] = ["was" if name == output else name for name in node.output]
    model.graph.initializer.append(onnx.helper.make_tensor("seven", 1, [7], [0.0] * 7))
    model.graph.node.append(onnx.helper.make_node("Add", ["was", "seven"], [output]))
    (bundle_copy / "model.onnx").write_bytes(model.SerializeToString())
    from amtl_export.bundle.samples import read_test_data

    with pytest.raises(InputError, match="graph fails on a request"):
        load(bundle_copy).predict(read_test_data(bundle_copy, "input"))
