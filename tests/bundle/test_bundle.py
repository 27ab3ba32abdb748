import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest

from amtl_export.bundle import export as export_module
from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.errors import InputError
from amtl_export.files import SUMS, checksum_mismatches
from amtl_export.freezing.folder import save_frozen
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.scoring.scorer import Scorer
from amtl_export.traffic.draw import draw
from amtl_export.training.run import Run


def test_holds_what_the_design_fixes(bundle: Bundle, frozen: FrozenModel) -> None:
    names = {p.relative_to(bundle.path).as_posix() for p in bundle.path.rglob("*") if p.is_file()}
    vocabularies = {f"vocab/{name}.parquet" for name in frozen.vocabularies}
    tests = {f"test_data_set_0/{kind}.pb" for kind in ("input_0", "input_1", "input_2", "output_0", "output_1")}
    assert names == vocabularies | tests | {
        "model.onnx", "model.onnx.data", "schema.json", "signature.json", "samples/request.json",
        "samples/response.json", "report.json", "SHA256SUMS", "README.md", "normalisation.json",
    }  # fmt: skip
    assert (bundle.path.stat().st_mode & 0o777) == 0o755


def test_checksums_hold_for_everybody(bundle: Bundle) -> None:
    assert checksum_mismatches(bundle.path) == []
    subprocess.run(["sha256sum", "-c", "--quiet", SUMS], cwd=bundle.path, check=True)


def test_metadata(bundle: Bundle, frozen: FrozenModel) -> None:
    model = onnx.load(str(bundle.model), load_external_data=False)
    props = {entry.key: entry.value for entry in model.metadata_props}
    assert props["amtl.vocabulary_hash"] == frozen.vocabulary_hash == bundle.signature.vocabulary_hash
    assert props["amtl.layout"] == bundle.signature.layout
    assert props["amtl.tool"].startswith("amtl-export ")
    assert props["amtl.schema_version"] == "2"


def test_samples_are_what_the_graph_answers(bundle: Bundle) -> None:
    types = {"INT64": np.int64, "FP32": np.float32}
    folder = bundle.path / "samples"
    request = json.loads((folder / "request.json").read_text())["inputs"]
    response = json.loads((folder / "response.json").read_text())["outputs"]
    feed = {t["name"]: np.array(t["data"], types[t["datatype"]]).reshape(t["shape"]) for t in request}
    answers = bundle.session().run([t["name"] for t in response], feed)
    for tensor, answer in zip(response, answers, strict=True):
        np.testing.assert_array_equal(np.array(tensor["data"], np.float32), answer)


def test_onnx_test_data_holds(bundle: Bundle) -> None:
    folder = bundle.path / "test_data_set_0"

    def load(name: str) -> Any:
        tensor = onnx.TensorProto.FromString((folder / name).read_bytes())
        return tensor.name, onnx.numpy_helper.to_array(tensor)

    feed = dict(load(f"input_{i}.pb") for i in range(3))
    for i in range(2):
        name, expected = load(f"output_{i}.pb")
        np.testing.assert_array_equal(bundle.session().run([name], feed)[0], expected)


def test_the_readme_code_runs(bundle: Bundle) -> None:
    text = (bundle.path / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=bundle.path, capture_output=True, text=True, check=True)
    assert "array" in done.stdout


def test_vocabularies_carry_dims(bundle: Bundle, frozen: FrozenModel) -> None:
    frame = pl.read_parquet(bundle.path / "vocab" / "user.parquet")
    assert frame.columns == ["id", "kind", "value", "count", "dims"]
    assert np.array_equal(bundle.dims("user"), frozen.field_dims("user").numpy())


def test_report_counts_parameters_and_bytes(bundle: Bundle, frozen: FrozenModel) -> None:
    report = bundle.report()
    assert report["bytes_dense"] == frozen.table.rows.numel() * 4
    assert sum(f["params_kept"] for f in report["fields"].values()) == int(frozen.table.dims.sum())
    assert report["ops"]["Gemm"] == 3
    if bundle.signature.layout == "paged":
        assert report["bytes_table"] == bundle.signature.table_bytes != report["bytes_dense"]


def test_a_frozen_folder_exports_like_its_run(tmp_path: Path, frozen: FrozenModel, run: Run) -> None:
    save_frozen(frozen, tmp_path / "frozen")
    config = ExportConfig(layout="paged")
    one = export(tmp_path / "frozen", tmp_path / "one", config)
    two = export(run.path, tmp_path / "two", config)
    assert (one.path / "model.onnx.data").read_bytes() == (two.path / "model.onnx.data").read_bytes()
    assert one.model.read_bytes() == two.model.read_bytes()


def test_a_failed_check_leaves_nothing(tmp_path: Path, frozen: FrozenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step fails: the draft goes, an older bundle stays."""
    older = export(frozen, tmp_path / "b", ExportConfig(layout="dense"))
    before = older.model.read_bytes()

    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "write_sums", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(frozen, tmp_path / "b", ExportConfig(layout="paged"), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert open_bundle(tmp_path / "b").model.read_bytes() == before


def test_overwrite_replaces_only_what_is_ours(tmp_path: Path, frozen: FrozenModel) -> None:
    export(frozen, tmp_path / "b", ExportConfig(layout="dense"))
    with pytest.raises(InputError, match="exists"):
        export(frozen, tmp_path / "b")
    assert export(frozen, tmp_path / "b", ExportConfig(layout="paged"), overwrite=True).signature.layout == "paged"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="was not made by amtl-export"):
        export(frozen, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_config_refuses_contradictions() -> None:
    with pytest.raises(InputError, match="unknown layout"):
        ExportConfig(layout="folded")  # type: ignore[arg-type]  # refused at run time, too
    with pytest.raises(InputError, match="layout='paged'"):
        ExportConfig(layout="dense", page_width=4)


@pytest.mark.parametrize("distribution", ["zipf", "uniform"])
def test_drawn_ids_are_legal_and_follow_their_distribution(frozen: FrozenModel, distribution: Any) -> None:
    feed = draw(frozen.config, frozen.vocabularies, 20_000, np.random.default_rng(0), distribution)
    user = feed["ids"][:, 0]
    size = frozen.vocabularies["user"].size
    assert user.min() >= 0
    assert user.max() < size
    often = np.bincount(user, minlength=size)[2:12].sum() / len(user)
    assert (often > 0.3) == (distribution == "zipf")
    tags = feed["tags"]
    assert tags.max() == frozen.vocabularies["tags"].padding
    assert (np.diff((tags == tags.max()).astype(int), axis=1) >= 0).all()  # padding stays at the end


@pytest.mark.parametrize("name", ["signature.json", "model.onnx", "model.onnx.data", "schema.json"])
def test_an_incomplete_bundle_is_refused(bundle_copy: Path, name: str) -> None:
    (bundle_copy / name).unlink()
    with pytest.raises(InputError, match=f"no {name}"):
        open_bundle(bundle_copy)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda values: values.update(main="xxx"), "main is in table 'xxx'"),
        (lambda values: values["fields"][1].update(table="xxx"), "is in table 'xxx', and the tables are"),
        (lambda values: values["tables"][values["main"]].update(dim=10**30), "less than or equal to 16777216"),
    ],
)
def test_a_signature_that_contradicts_itself_is_refused(bundle_copy: Path, change: Any, found: str) -> None:
    file = bundle_copy / "signature.json"
    change(values := json.loads(file.read_text()))
    file.write_text(json.dumps(values))
    with pytest.raises(InputError, match=f"(?s)a bundle's signature cannot be read.*{found}"):
        open_bundle(bundle_copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda inputs: inputs[0]["columns"].pop(),
        lambda inputs: inputs[0]["columns"].append(inputs[0]["columns"][0]),
        lambda inputs: inputs[0]["columns"][0].update(field="nobody"),
        lambda inputs: inputs[0]["shape"].append(3),
        lambda inputs: inputs[1].pop("source"),
        lambda inputs: inputs[1].pop("columns"),
        lambda inputs: inputs[2].update(name="nobody"),
    ],
)
def test_inputs_that_are_not_the_schemas_are_refused(bundle_copy: Path, change: Any) -> None:
    file = bundle_copy / "signature.json"
    values = json.loads(file.read_text())
    assert [own["name"] for own in values["inputs"]] == ["ids", "numeric", "tags"]
    change(values["inputs"])
    file.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"(?s)a bundle's signature does not fit its schema.*signature\.json.*fix:"):
        open_bundle(bundle_copy)


@pytest.mark.parametrize(
    ("change", "found"),
    [(lambda inputs: inputs[0].update(dtype="int32"), "ids"), (lambda inputs: inputs.pop(), "tags")],
)
def test_a_graph_with_other_inputs_than_the_signatures_is_not_scored(
    bundle_copy: Path, change: Any, found: str
) -> None:
    file = bundle_copy / "signature.json"
    change((values := json.loads(file.read_text()))["inputs"])
    file.write_text(json.dumps(values))
    with pytest.raises(InputError, match=rf"(?s)other inputs than the bundle's signature says.*found: {found}"):
        Scorer.open(open_bundle(bundle_copy))
