"""`encoder/` of a version: Python alone gives the ids that training gave, and ids of other vocabularies are refused."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from triton_server import Server, post

from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.encoder import Encoder
from amtl_export.bundle.encoder_files import write_encoder
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.errors import InputError
from amtl_export.files import read_json
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.runtime.predictor import load


@pytest.fixture(scope="session")
def folder(repository: Path) -> Path:
    return repository / "ctr" / "1" / "encoder"


def as_json(encoded: dict[str, list[list[Any]]]) -> dict[str, list[list[Any]]]:
    return {n: [[None if x != x else x for x in row] for row in rows] for n, rows in encoded.items()}


def check_golden(folder: Path) -> int:
    encoder, golden = Encoder(folder), read_json(folder / "golden.json")
    assert golden["vocabulary_hash"] == encoder.vocabulary_hash
    for case in golden["cases"]:
        assert as_json(encoder.encode([case["row"]])) == case["inputs"]
    return len(golden["cases"])


def test_golden_rows_try_every_kind_of_value(folder: Path, served_bundle: Bundle) -> None:
    assert check_golden(folder) > 8
    cases = read_json(folder / "golden.json")["cases"]
    ids = np.array([case["inputs"]["ids"][0] for case in cases])
    sizes = [served_bundle.vocabularies()[name].size for name in ("user", "item", "segment")]
    for column, size in zip(ids.T, sizes, strict=True):
        assert {0, 1, 2, size - 1} <= set(column.tolist())
    lists = [case["inputs"]["tags"][0] for case in cases]
    assert [1] in lists
    assert max(map(len, lists)) == served_bundle.run_schema.multi_valued[0].max_length
    assert any(0 in own and len(own) > 1 for own in lists)


def test_it_needs_python_alone(folder: Path) -> None:
    """Isolated, without site-packages: as on a machine where nothing is installed."""
    code = (
        "import sys, json, pathlib; sys.path.insert(0, '.'); from encoder import Encoder\n"
        "golden = json.loads(pathlib.Path('golden.json').read_text())['cases']\n"
        "encoder = Encoder('.')\n"
        "for case in golden: assert encoder.encode([case['row']])['ids'] == case['inputs']['ids']\n"
        "print(len(golden))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 8


def test_rows_of_many(folder: Path, served_bundle: Bundle) -> None:
    encoder = Encoder(folder)
    known = served_bundle.vocabularies()
    user, tag = known["user"].values[0], known["tags"].values[1]
    found = encoder.encode([{"user": user, "tags": [tag, None, -7]}, {}, {"tags": (), "age": 3}])
    assert found["ids"] == [[2, 1, 1], [1, 1, 1], [1, 1, 1]]
    assert found["tags"] == [[3, 0], [1, 14], [1, 14]]
    assert [math.isnan(row[0]) for row in found["numeric"]] == [True, True, False]
    assert encoder.encode([])["ids"] == []


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"usr": 1}, r"row 1: unknown fields usr; there are age, item, .*user"),
        ({"user": "one"}, "row 1: user takes a whole number that int64 holds, found 'one'"),
        ({"user": True}, "user takes a whole number that int64 holds, found True"),
        ({"user": 1.5}, "user takes a whole number that int64 holds, found 1.5"),
        ({"user": 2**63}, "user takes a whole number that int64 holds, found 9223372036854775808"),
        ({"segment": 3.0}, "segment takes a text or a whole number, found 3.0"),
        ({"segment": {}}, "segment takes a text or a whole number, found {}"),
        ({"tags": 3}, "tags takes a list, found 3"),
        ({"tags": ["x"]}, "tags takes a whole number that int64 holds, found 'x'"),
        ({"age": "old"}, "age takes a finite number that float32 holds, found 'old'"),
        ({"age": math.inf}, "age takes a finite number that float32 holds, found inf"),
        ({"age": 1e300}, r"age takes a finite number that float32 holds, found 1e\+300"),
        ({"age": 10**400}, "age takes a finite number that float32 holds"),
    ],
)
def test_values_of_another_kind_are_refused(folder: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Encoder(folder).encode([{}, row])


@pytest.mark.parametrize("change", ["a value", "a count", "their order", "a line less"])
def test_files_of_another_vocabulary_are_refused(served_bundle: Bundle, tmp_path: Path, change: str) -> None:
    write_encoder(served_bundle, tmp_path / "encoder")
    file = tmp_path / "encoder" / "segment.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    third, fourth = json.loads(lines[2]), lines[3]
    changed = {
        "a value": [*lines[:2], json.dumps([third[0] + "x", third[1]]), *lines[3:]],
        "a count": [*lines[:2], json.dumps([third[0], third[1] + 1]), *lines[3:]],
        "their order": [*lines[:2], fourth, lines[2], *lines[4:]],
        "a line less": lines[:-1],
    }[change]
    file.write_text("\n".join(changed) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="copy it again"):
        Encoder(tmp_path / "encoder")


def test_fields_given_once(frozen: FrozenModel, tmp_path: Path) -> None:
    bundle = export(frozen, tmp_path / "bundle", ExportConfig("dense", request_fields=("user", "tags")))
    write_encoder(open_bundle(bundle.path), tmp_path / "encoder")
    assert check_golden(tmp_path / "encoder") > 8
    encoder = Encoder(tmp_path / "encoder")
    candidates = [{"user": 1000, "tags": [1, 2], "item": item, "age": 30.0} for item in (1001, 1002, 1003)]
    feed = {name: np.array(rows) for name, rows in encoder.encode(candidates).items()}
    assert {name: len(rows) for name, rows in feed.items()} == {"request_ids": 1, "tags": 1, "ids": 3, "numeric": 3}
    assert load(bundle.path).predict(feed)["probability"].shape == (3,)
    with pytest.raises(ValueError, match="differ in user"):
        encoder.encode([candidates[0], candidates[1] | {"user": 1001}])


def test_a_server_answers_and_refuses_other_vocabularies(server: Server, folder: Path, served_bundle: Bundle) -> None:
    encoder = Encoder(folder)
    rows = [case["row"] for case in read_json(folder / "golden.json")["cases"]]
    request = encoder.request(rows)
    status, answer = post(server, json.dumps(request).encode())
    assert status == 200, answer
    found = {output["name"]: output["data"] for output in answer["outputs"]}
    feed = {name: np.array(values) for name, values in encoder.encode(rows).items()}
    expected = load(served_bundle.path).predict(feed)
    np.testing.assert_array_equal(np.array(found["logit"], dtype=np.float32), expected["logit"])
    request["parameters"]["vocabulary_hash"] = "0" * 64
    status, answer = post(server, json.dumps(request).encode())
    assert status == 400
    assert "ids of another vocabulary" in answer["error"]
    assert encoder.vocabulary_hash in answer["error"]


def test_in_python_too(folder: Path, served_bundle: Bundle) -> None:
    predictor = load(served_bundle.path)
    predictor.check_vocabulary(Encoder(folder).vocabulary_hash)
    with pytest.raises(InputError, match="ids of another vocabulary"):
        predictor.check_vocabulary("0" * 64)


def test_the_file_in_a_version_is_the_packages_own(folder: Path) -> None:
    spec = importlib.util.find_spec("amtl_export.bundle.encoder")
    assert spec is not None
    assert (folder / "encoder.py").read_text() == Path(str(spec.origin)).read_text()
