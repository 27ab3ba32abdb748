"""`package`: what it writes, what it refuses, and that no version is ever touched again."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.errors import InputError, ValidationFailed
from amtl_export.files import sha256, write_sums
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.serving.package import PackageConfig, package
from amtl_export.serving.vendored import vendored


def parsed(file: Path) -> Any:
    return text_format.Parse(file.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def fingerprints(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256(p) for p in folder.rglob("*") if p.is_file()}


def test_configurations_say_what_servers_need(repository: Path, served_bundle: Bundle, settings: PackageConfig) -> None:
    model = repository / "ctr"
    files = ("config.pbtxt", "configs/cpu.pbtxt", "configs/gpu.pbtxt", "configs/onnxruntime.pbtxt")
    own, cpu, gpu, runtime = (parsed(model / file) for file in files)
    assert own == cpu
    assert (own.backend, gpu.backend, runtime.backend) == ("python", "python", "onnxruntime")
    for config in (own, gpu, runtime):
        assert (config.name, config.max_batch_size) == ("ctr", settings.max_batch)
        assert config.dynamic_batching.max_queue_delay_microseconds == settings.queue_us
        assert config.version_policy.latest.num_versions == 1
        assert [(group.count, len(group.gpus)) for group in config.instance_group] == [(1, int(config is gpu))]
        assert config.parameters["intra_op_thread_count"].string_value == "1"
        shapes = {tensor.name: list(tensor.dims) for tensor in config.input}
        for tensor in served_bundle.signature.inputs:
            assert shapes[tensor.name] == [-1 if isinstance(n, str) else n for n in tensor.shape[1:]]
        assert [(o.name, list(o.dims), o.HasField("reshape")) for o in config.output] == [
            ("logit", [1], True),
            ("probability", [1], True),
        ]
    (library,) = runtime.model_operations.op_library_filename
    assert Path(library) == model.resolve() / "lib" / "amtl_ort.so"
    assert sha256(Path(library)) == sha256(model / "1" / "amtl_export" / "native" / "amtl_ort.so")
    assert own.parameters["native"].string_value == "true"
    assert gpu.parameters["provider"].string_value == "cuda"
    assert not own.model_operations.op_library_filename
    assert gpu.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU


def test_warm_up_files_hold_legal_ids(repository: Path, served_bundle: Bundle, settings: PackageConfig) -> None:
    model = repository / "ctr"
    sizes = {own.name: own.size for own in served_bundle.signature.fields}
    inputs = {tensor.name: tensor for tensor in served_bundle.signature.inputs}
    warm_up = parsed(model / "config.pbtxt").model_warmup
    assert [sample.batch_size for sample in warm_up] == [1, 64, settings.max_batch]
    for sample in warm_up:
        assert set(sample.inputs) == set(inputs)
        for name, given in sample.inputs.items():
            tensor = inputs[name]
            values = np.frombuffer((model / "warmup" / given.input_data_file).read_bytes(), tensor.dtype)
            assert values.size == math.prod(given.dims)
            if tensor.integer:
                limits = [sizes[column.field] for column in tensor.columns]
                assert (values.reshape(-1, len(limits)) < limits).all()
                assert (values >= 0).all()


def test_each_time_a_new_version_and_none_is_touched(
    tmp_path: Path, served_bundle: Bundle, other_bundle: Bundle, settings: PackageConfig
) -> None:
    models = tmp_path / "models"
    first = package(served_bundle.path, models, "ctr", settings)
    assert first.path == models / "ctr" / "1"
    before = fingerprints(models)
    assert package(other_bundle.path, models, "ctr", settings).version == 2
    shutil.rmtree(models / "ctr" / "1")
    assert package(served_bundle.path, models, "ctr", settings).version == 3
    after = fingerprints(models)
    assert {file: after[file] for file in before if not file.startswith("ctr/1/")} == {
        file: digest for file, digest in before.items() if not file.startswith("ctr/1/")
    }
    assert open_bundle(models / "ctr" / "2" / "model.onnx").signature == other_bundle.signature
    assert sorted(p.name for p in (models / "ctr").iterdir()) == [
        "2", "3", "client.py", "config.json", "config.pbtxt", "configs", "lib", "samples", "warmup",
    ]  # fmt: skip


def test_what_travels_imports_numpy_and_onnxruntime_alone(repository: Path, served_bundle: Bundle) -> None:
    version = repository / "ctr" / "1"
    code = (
        f"import sys; sys.path.insert(0, {str(version)!r})\n"
        "from amtl_export.runtime.predictor import load\n"
        "import amtl_export, numpy\n"
        f"assert amtl_export.__file__.startswith({str(version)!r})\n"
        f"p = load({str(version / 'model.onnx')!r}, native=True)\n"
        "shapes = {s: [1 if isinstance(n, str) else n for n in s.shape] for s in p.inputs}\n"
        "p.predict({s.name: numpy.zeros(shape, s.dtype) for s, shape in shapes.items()})\n"
        "wrong = {'torch', 'onnx', 'polars', 'pydantic', 'click', 'rich', 'google'} & set(sys.modules)\n"
        "assert not wrong, wrong\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'amtl_export'), sep='\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    carried = {str(p.relative_to(version / "amtl_export")) for p in (version / "amtl_export").rglob("*.py")}
    assert carried == set(vendored())
    used = {str(Path(line).relative_to(version / "amtl_export")) for line in done.stdout.splitlines()}
    assert "runtime/predictor.py" in used
    assert carried - used == {"extras.py"}  # says what to install, where something is missing


def test_a_bundle_without_native_operators_carries_none(tmp_path: Path, paged_bundle: Bundle) -> None:
    model = package(paged_bundle.path, tmp_path, "paged").model
    assert not list(model.rglob("*.so"))
    assert not parsed(model / "config.pbtxt").model_operations.op_library_filename
    assert parsed(model / "configs" / "python.pbtxt").parameters["native"].string_value == "false"


def test_inputs_of_the_request_are_not_batched(tmp_path: Path, frozen: FrozenModel) -> None:
    fields = (frozen.config.embedded[0].name,)
    bundle = export(frozen, tmp_path / "bundle", ExportConfig("dense", request_fields=fields))
    config = parsed(package(bundle.path, tmp_path / "models", "ctr").model / "config.pbtxt")
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert {tensor.name: list(tensor.dims) for tensor in config.input}["request_ids"] == [1, 1]
    assert [list(output.dims) for output in config.output] == [[-1], [-1]]
    assert len(config.model_warmup) == 1


def test_what_is_refused_leaves_nothing(tmp_path: Path, paged_bundle: Bundle, served_bundle: Bundle) -> None:
    models = tmp_path / "models"
    for name in ("", "a/b", "../x", ".hidden"):
        with pytest.raises(InputError, match="name"):
            package(paged_bundle.path, models, name)
    spoilt = Path(shutil.copytree(paged_bundle.path, tmp_path / "spoilt"))
    data = bytearray((spoilt / "model.onnx.data").read_bytes())
    data[len(data) // 2] ^= 0x40
    (spoilt / "model.onnx.data").write_bytes(data)
    with pytest.raises(InputError, match=r"model\.onnx\.data"):
        package(spoilt, models, "ctr")
    assert not models.exists()

    package(paged_bundle.path, models, "ctr")
    before = fingerprints(models)
    for bundle, config in ((paged_bundle, PackageConfig(threads=2)), (served_bundle, None)):
        with pytest.raises(InputError, match="configured otherwise"):
            package(bundle.path, models, "ctr", config)
    (models / "foreign").mkdir()
    with pytest.raises(InputError, match="not made by this tool"):
        package(paged_bundle.path, models, "foreign")
    (models / "foreign").rmdir()
    assert fingerprints(models) == before


def test_a_bundle_that_answers_otherwise_is_refused(tmp_path: Path, bundle_copy: Path, other_bundle: Bundle) -> None:
    for name in ("output_0.pb", "output_1.pb"):
        shutil.copy(other_bundle.path / "test_data_set_0" / name, bundle_copy / "test_data_set_0" / name)
    write_sums(bundle_copy)
    with pytest.raises(ValidationFailed, match="sample"):
        package(bundle_copy, tmp_path / "models", "ctr")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("signature.json", b'"name": "numeric"', b'"name": "other"', "other inputs than the bundle's signature says"),
        ("model.onnx", b"amtl.operators", b"amtl\xffoperators", "a name in the graph is not UTF-8"),
        ("test_data_set_0/input_0.pb", b"ids", b"i\xffs", "a sample cannot be read"),
    ],
)
def test_a_bundle_whose_names_differ_is_refused(
    file: str, old: bytes, new: bytes, says: str, tmp_path: Path, bundle_copy: Path
) -> None:
    content = (bundle_copy / file).read_bytes()
    assert old in content
    (bundle_copy / file).write_bytes(content.replace(old, new))
    write_sums(bundle_copy)
    for settings in (PackageConfig(), PackageConfig(raw_features=True)):
        with pytest.raises(InputError, match=says):
            package(bundle_copy, tmp_path / "models", "ctr", settings)


def test_kserve_gets_its_resource(tmp_path: Path, served_bundle: Bundle) -> None:
    config = PackageConfig(storage_uri="s3://bucket/models")
    model = package(served_bundle.path, tmp_path, "Ctr_1.0", config).model
    made = yaml.safe_load((model / "kserve.yaml").read_text(encoding="utf-8"))
    assert (made["apiVersion"], made["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert made["metadata"]["name"] == "ctr-1-0"
    served = made["spec"]["predictor"]["model"]
    assert (served["storageUri"], served["protocolVersion"]) == ("s3://bucket/models", "v2")
    (library,) = parsed(model / "config.pbtxt").model_operations.op_library_filename
    assert library == "/mnt/models/Ctr_1.0/lib/amtl_ort.so"
    with pytest.raises(InputError, match="service cannot have this name"):
        package(served_bundle.path, tmp_path, "1st", config)
    assert not (tmp_path / "1st").exists()


RAW, ENSEMBLE = PackageConfig("python", raw_features=True), PackageConfig("python", raw_features=True, graph_keys=10)


def test_raw_features_in_the_graph(tmp_path: Path, served_bundle: Bundle) -> None:
    made = package(served_bundle.path, tmp_path, "ctr", RAW)
    config = parsed(made.model / "config.pbtxt")
    assert {tensor.name: list(tensor.dims) for tensor in config.input} == {
        "user": [1], "item": [1], "segment": [1], "tags": [-1], "numeric": [1],
    }  # fmt: skip
    assert {t.name for t in config.input if t.data_type == model_config_pb2.TYPE_STRING} == {"segment"}
    warm_up = config.model_warmup[0].inputs["segment"]
    text = (made.model / "warmup" / warm_up.input_data_file).read_bytes()
    assert int.from_bytes(text[:4], "little") == len(text) - 4
    assert not (made.path / "encoder").exists()
    assert package(served_bundle.path, tmp_path, "ctr", RAW).version == 2


def test_raw_features_by_an_ensemble(tmp_path: Path, served_bundle: Bundle, other_bundle: Bundle) -> None:
    first = package(served_bundle.path, tmp_path, "ctr", ENSEMBLE)
    before = fingerprints(tmp_path)
    second = package(other_bundle.path, tmp_path, "ctr", ENSEMBLE)
    assert (first.version, second.version) == (1, 2)
    after = fingerprints(tmp_path)
    assert {file for file, digest in before.items() if after[file] != digest} == {"ctr/config.pbtxt"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ctr", "ctr_encoder", "ctr_scorer"]
    config = parsed(tmp_path / "ctr" / "config.pbtxt")
    steps = [(step.model_name, step.model_version) for step in config.ensemble_scheduling.step]
    assert steps == [("ctr_encoder", 2), ("ctr_scorer", 2)]
    for name, _ in steps:
        assert parsed(tmp_path / name / "config.pbtxt").version_policy.latest.num_versions == 2
    assert not config.model_warmup
    assert not any(output.HasField("reshape") for output in config.output)


def test_raw_features_and_what_is_there(tmp_path: Path, served_bundle: Bundle) -> None:
    """A model that takes ids does not begin to take values, nor becomes an ensemble, nor the other way round."""
    package(served_bundle.path, tmp_path, "ids", PackageConfig("python"))
    package(served_bundle.path, tmp_path, "graph", RAW)
    package(served_bundle.path, tmp_path, "many", ENSEMBLE)
    before = fingerprints(tmp_path)
    for name, config, says in (
        ("ids", RAW, "configured otherwise"),
        ("ids", ENSEMBLE, "of another kind"),
        ("graph", ENSEMBLE, "of another kind"),
        ("many", RAW, "of another kind"),
        ("many", PackageConfig("python"), "of another kind"),
        ("many", PackageConfig("python", raw_features=True, graph_keys=10, threads=2), "configured otherwise"),
    ):
        with pytest.raises(InputError, match=says):
            package(served_bundle.path, tmp_path, name, config)
    assert fingerprints(tmp_path) == before


def test_raw_features_of_a_request_and_its_candidates(tmp_path: Path, frozen: FrozenModel) -> None:
    bundle = export(frozen, tmp_path / "bundle", ExportConfig("dense", request_fields=("user", "age")))
    package(bundle.path, tmp_path / "models", "ctr", ENSEMBLE)
    sizes = {m.name: parsed(m / "config.pbtxt").max_batch_size for m in (tmp_path / "models").iterdir()}
    assert sizes == {"ctr": 0, "ctr_encoder": 0, "ctr_scorer": 0}
    inputs = {t.name: list(t.dims) for t in parsed(tmp_path / "models" / "ctr" / "config.pbtxt").input}
    assert inputs["user"] == inputs["request_numeric"] == [1, 1]
    assert inputs["item"] == [-1, 1]
