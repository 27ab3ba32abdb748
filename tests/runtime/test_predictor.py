"""`load(bundle).predict(…)`: what servers and benchmarks call."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import amtl_export
from amtl_export.bundle.bundle import Bundle
from amtl_export.errors import EnvironmentLacks, InputError
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.spec import Feed
from amtl_export.traffic.draw import draw


@pytest.fixture
def feed(frozen: FrozenModel) -> Feed:
    return draw(frozen.config, frozen.vocabularies, 9, np.random.default_rng(2))


def test_answers_are_those_of_a_session(bundle: Bundle, feed: Feed) -> None:
    predictor = amtl_export.load(bundle.path)
    expected = dict(zip(("logit", "probability"), bundle.session().run(None, feed), strict=True))
    found = predictor.predict(feed)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert list(predictor.predict(feed, ["probability"])) == ["probability"]
    assert predictor.metadata["amtl.vocabulary_hash"] == bundle.signature.vocabulary_hash
    assert bool(predictor.native_operators) == (bundle.signature.layout == "ragged")
    fallback = amtl_export.load(bundle.path, native=False).predict(feed)["logit"]
    if {"RaggedLinear", "RaggedSum"} & set(predictor.native_operators):  # they add in another order
        np.testing.assert_allclose(fallback, expected["logit"], rtol=1e-5, atol=1e-6)
    else:
        assert np.array_equal(fallback, expected["logit"])


def test_arrays_that_fit_are_not_copied(paged_bundle: Bundle, feed: Feed) -> None:
    prepared = amtl_export.load(paged_bundle.path).prepare(feed)
    assert all(np.shares_memory(prepared[name], feed[name]) for name in feed)


def test_other_numbers_are_widened(paged_bundle: Bundle, feed: Feed) -> None:
    predictor = amtl_export.load(paged_bundle.path)
    expected = predictor.predict(feed)["logit"]
    lists = {name: values.tolist() for name, values in feed.items()}
    assert np.array_equal(predictor.predict(lists)["logit"], expected)
    narrow = feed | {"ids": np.asfortranarray(feed["ids"].astype(np.uint16))}
    assert np.array_equal(predictor.predict(narrow)["logit"], expected)
    empty = {name: values[:0] for name, values in feed.items()}
    assert predictor.predict(empty)["logit"].shape == (0,)


def test_one_predictor_serves_many_threads(bundle: Bundle, frozen: FrozenModel) -> None:
    predictor = amtl_export.load(bundle.path)
    feeds = [draw(frozen.config, frozen.vocabularies, n, np.random.default_rng(n)) for n in range(1, 30)]
    alone = [predictor.predict(feed)["logit"] for feed in feeds]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            together = list(pool.map(lambda feed: predictor.predict(feed)["logit"], feeds))
            assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_requests_that_do_not_fit(paged_bundle: Bundle, feed: Feed) -> None:
    predictor = amtl_export.load(paged_bundle.path)
    ids = feed["ids"]
    wrong: dict[str, Feed] = {
        "found: ids, idz": {"idz" if name == "ids" else name: values for name, values in feed.items()},
        "found: numeric": {name: values for name, values in feed.items() if name != "numeric"},
        "where: ids\n  found: float64": feed | {"ids": ids.astype(np.float64)},
        "where: ids\n  found: (9, 2)": feed | {"ids": ids[:, :2]},
        "where: ids\n  found: (27,)": feed | {"ids": ids.ravel()},
        "where: numeric\n  found: <U1": feed | {"numeric": np.array([["a"]] * 9)},
        "-9223372036854775808..9223372036854775807": feed | {"ids": np.full(ids.shape, 2**64 - 1, np.uint64)},
        "past float32\n  where: numeric\n  found: 1e+300": feed | {"numeric": np.full(feed["numeric"].shape, 1e300)},
        "masked\n  where: ids": feed | {"ids": np.ma.masked_equal(ids, ids[0, 0])},
    }
    for text, request in wrong.items():
        with pytest.raises(InputError) as error:
            predictor.predict(request)
        assert text in str(error.value)
    with pytest.raises(InputError, match="where: tags"):
        predictor.predict(feed | {"tags": feed["tags"][:5]})
    outputs: list[Any] = [["loss"], [], [1], "loss"]
    for one in outputs:
        with pytest.raises(InputError, match="allowed: logit, probability"):
            predictor.predict(feed, one)
    assert list(predictor.predict(feed, "logit")) == ["logit"]
    wide = feed | {"numeric": np.full(feed["numeric"].shape, -np.inf), "ids": np.ma.masked_equal(ids, -1)}
    assert predictor.predict(wide)["logit"].shape == (len(ids),)


def test_a_tensor_with_a_gradient_is_told_how_to_be_an_array(paged_bundle: Bundle, feed: Feed) -> None:
    numbers: Any = torch.from_numpy(feed["numeric"]).requires_grad_()
    with pytest.raises(InputError, match=r"(?s)an input is no array\n  where: numeric.*detach\(\)"):
        amtl_export.load(paged_bundle.path).predict(feed | {"numeric": numbers})


@pytest.mark.parametrize(
    "settings", [{"threads": n} for n in (0, -1, 1.5, "2", 10**9)] + [{"provider": "tpu"}], ids=str
)
def test_settings_that_no_session_has(paged_bundle: Bundle, settings: dict[str, Any]) -> None:
    (value,) = settings.values()
    with pytest.raises(InputError, match=rf"{value}'?\n  allowed: (1 to 4096|cpu, cuda)"):
        amtl_export.load(paged_bundle.path, **settings)


def test_what_is_missing_is_said(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such bundle"):
        amtl_export.load(tmp_path)
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(EnvironmentLacks, match="cuda"):
            amtl_export.load(bundle.path, provider="cuda")


def test_without_the_library_native_operators_are_an_error(bundle: Bundle, tmp_path: Path) -> None:
    """A copy of the package without its compiled library, as an installation without a compiler leaves it."""
    copy = shutil.copytree(
        Path(amtl_export.__file__).parent,
        tmp_path / "amtl_export",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import amtl_export\n"
        f"assert amtl_export.__file__.startswith({str(copy)!r})\n"
        "from amtl_export.errors import EnvironmentLacks\n"
        f"amtl_export.load({str(bundle.path)!r}, native=False)\n"
        "try:\n"
        f"    found = amtl_export.load({str(bundle.path)!r})\n"
        "except EnvironmentLacks as error:\n"
        "    print('refused:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    assert ("refused" in done.stdout) == (bundle.signature.layout == "ragged")


def test_rows_of_different_lengths_are_refused(bundle: Bundle) -> None:
    predictor = amtl_export.load(bundle.path)
    request = {spec.name: [[1], [1, 2]] for spec in predictor.inputs}
    with pytest.raises(InputError, match=r"(?s)an input is no array.*inhomogeneous.*fill rows up"):
        predictor.predict(request)
