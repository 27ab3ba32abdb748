"""Whatever is changed in a bundle whose sums are right again is found: a node, an initializer, a file and its key."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from attack.spoil import TAMPERED, seal

from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.check import Checked
from amtl_export.bundle.contents import versions
from amtl_export.errors import AmtlError
from amtl_export.files import checksum_mismatches, write_json, write_sums
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.training.run import Run
from amtl_export.validation.as_exported import Rebuilt, rebuild, strangers
from amtl_export.validation.same_files import SameFiles
from amtl_export.validation.same_graph import graph_problems
from amtl_export.validation.validate import validate


@pytest.fixture(scope="module")
def rebuilt(paged_bundle: Bundle, frozen: FrozenModel) -> Rebuilt:
    return rebuild(paged_bundle, frozen)


def problems(folder: Path, rebuilt: Rebuilt) -> Iterator[str]:
    """What comparing finds, without running anything but the sample; sums and what cannot be opened, too."""
    try:
        yield from checksum_mismatches(folder)
        bundle = open_bundle(folder)
        found = graph_problems(bundle, rebuilt.built.model)
        session = bundle.session() if found.same_nodes and not found.structure else None
        yield from (*found.structure, *found.numbers)
        yield from SameFiles(bundle, rebuilt.built, Checked() if session else None, session).problems()
    except AmtlError as error:
        yield str(error)


def test_a_sound_bundle_has_no_problem(rebuilt: Rebuilt, paged_bundle: Bundle) -> None:
    assert rebuilt.same
    assert rebuilt.may_run
    assert not rebuilt.exporter
    signature = paged_bundle.signature
    checked = Checked(batches=signature.batches, out_of_range=signature.out_of_range)
    assert list(SameFiles(paged_bundle, rebuilt.built, checked, paged_bundle.session()).problems()) == []


@pytest.mark.parametrize("kind", sorted(TAMPERED))
def test_every_kind_of_tampering_is_found(rebuilt: Rebuilt, paged_bundle: Bundle, tmp_path: Path, kind: str) -> None:
    for seed in range(6):
        folder = Path(shutil.copytree(paged_bundle.path, tmp_path / f"{seed}"))
        if not TAMPERED[kind](folder, random.Random(seed)):
            continue
        if kind != "sums":
            seal(folder)
        assert list(problems(folder, rebuilt)), f"seed {seed}"


def edited(bundle: Path, change: dict[str, object], name: str = "report.json") -> None:
    values = json.loads((bundle / name).read_text())
    write_json(bundle / name, values | change)
    write_sums(bundle)


def test_a_back_door_is_not_run(bundle_copy: Path, run: Run) -> None:
    TAMPERED["trigger-number"](bundle_copy, random.Random(0))
    write_sums(bundle_copy)
    verdict = validate(bundle_copy, run.path)
    assert any("graph, node eq" in problem or "(Equal)" in problem for problem in verdict.problems)
    assert verdict.max_abs_logit_diff is None
    assert "the graph was not run: it is none that export writes" in verdict.notes


def test_settings_that_are_none_fail(bundle_copy: Path, run: Run) -> None:
    for settings in (None, {}, {"layout": "paged"}, {"layout": 3}):
        edited(bundle_copy, {"settings": settings})
        verdict = validate(bundle_copy, run.path)
        assert any("the bundle's settings cannot be read" in problem for problem in verdict.problems), settings


def test_another_exporter_is_said_and_the_bundle_proven_by_its_answers(bundle_copy: Path, run: Run) -> None:
    """The graph is this version's own, with a node more, as another version might write it."""
    model = onnx.load(str(bundle_copy / "model.onnx"), load_external_data=False)
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
        node.input[:] = ["before" if name == output else name for name in node.input]
    model.graph.node.append(onnx.helper.make_node("Identity", ["before"], [output]))
    (bundle_copy / "model.onnx").write_bytes(model.SerializeToString())
    edited(bundle_copy, {"versions": versions() | {"torch": "2.9.0"}})
    verdict = validate(bundle_copy, run.path)
    assert verdict.problems == []
    assert verdict.proof == "answers"
    assert any("states another exporter" in note and "torch 2.9.0" in note for note in verdict.notes)
    TAMPERED["trigger-number"](bundle_copy, random.Random(0))
    write_sums(bundle_copy)
    problems = validate(bundle_copy, run.path).problems
    assert any("initializer c_boost: its numbers are not the source's" in problem for problem in problems)


def test_one_version_more_with_the_same_graph_is_a_full_proof(bundle_copy: Path, run: Run) -> None:
    edited(bundle_copy, {"versions": versions() | {"onnx": "1.99.0"}})
    verdict = validate(bundle_copy, run.path)
    assert (verdict.problems, verdict.proof) == ([], "rebuilt")


def test_strangers_are_none_in_a_graph_of_ours(rebuilt: Rebuilt, paged_bundle: Bundle) -> None:
    assert list(strangers(paged_bundle, rebuilt)) == []


def test_values_laid_out_otherwise_are_named(bundle_copy: Path, rebuilt: Rebuilt) -> None:
    """Even if it is a newline that is cut off: a bundle is what export writes, to the byte."""
    for name in ("report.json", "signature.json", "schema.json", "samples/request.json"):
        file = bundle_copy / name
        was = file.read_bytes()
        for laid_out in (was[:-1], was.replace(b": ", b" : ", 1)):
            file.write_bytes(laid_out)
            write_sums(bundle_copy)
            assert [text for text in problems(bundle_copy, rebuilt) if text.startswith(f"{name}: ")] != [], name
        file.write_bytes(was)


def test_a_sample_that_was_edited_is_named(bundle_copy: Path, run: Run) -> None:
    file = bundle_copy / "test_data_set_0" / "output_0.pb"
    tensor = onnx.TensorProto.FromString(file.read_bytes())
    array = onnx.numpy_helper.to_array(tensor) + np.float32(5)
    file.write_bytes(onnx.numpy_helper.from_array(array, tensor.name).SerializeToString())
    write_sums(bundle_copy)
    (problem,) = validate(bundle_copy, run.path).problems
    assert problem.startswith("not what export writes: test_data_set_0, logit, row ")


def test_a_type_that_onnx_does_not_know_fails(bundle_copy: Path, run: Run) -> None:
    model = onnx.load(str(bundle_copy / "model.onnx"), load_external_data=False)
    model.graph.initializer[0].data_type = 99
    (bundle_copy / "model.onnx").write_bytes(model.SerializeToString())
    write_sums(bundle_copy)
    problems = validate(bundle_copy, run.path).problems
    assert any("data_type: found 99" in problem for problem in problems)
    assert any(problem.startswith("the graph cannot be read") for problem in problems)
