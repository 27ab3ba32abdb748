"""IO binding: requests of one shape whose inputs and outputs stay where they are."""

from __future__ import annotations

import numpy as np
import pytest

import amtl_export
from amtl_export.bundle.bundle import Bundle
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.runtime.bound import Bound
from amtl_export.spec import Feed
from amtl_export.traffic.draw import draw


def feeds(frozen: FrozenModel, count: int, batch: int = 9) -> list[Feed]:
    return [draw(frozen.config, frozen.vocabularies, batch, np.random.default_rng(i)) for i in range(count)]


def test_answers_are_those_of_predict(bundle: Bundle, frozen: FrozenModel) -> None:
    predictor = amtl_export.load(bundle.path)
    first, *others = feeds(frozen, 4)
    kept = {name: values.copy() for name, values in first.items()}
    bound = Bound(predictor, first)
    bound.run()
    answers = bound.copy_out()
    assert all(np.array_equal(answers[name], values) for name, values in predictor.predict(first).items())
    for feed in others:
        bound.copy_in(feed)
        bound.run(wait=False)
        found, expected = bound.copy_out(), predictor.predict(feed)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert all(np.array_equal(first[name], kept[name]) for name in kept)  # the caller's arrays are the caller's
    assert np.array_equal(answers["logit"], predictor.predict(first)["logit"])  # and so are answers


def test_outputs_may_be_chosen(paged_bundle: Bundle, frozen: FrozenModel) -> None:
    predictor = amtl_export.load(paged_bundle.path)
    bound = Bound(predictor, feeds(frozen, 1)[0], ["probability"])
    bound.run()
    assert list(bound.copy_out()) == ["probability"]


def test_what_does_not_fit_is_refused(paged_bundle: Bundle, frozen: FrozenModel) -> None:
    predictor = amtl_export.load(paged_bundle.path)
    (feed,) = feeds(frozen, 1)
    with pytest.raises(InputError, match="found: loss"):
        Bound(predictor, feed, ["loss"])
    with pytest.raises(InputError, match=r"Cuda\(graphs=True\)"):
        Bound(predictor, feed, graph=1)
    with pytest.raises(InputError, match="where: ids"):
        Bound(predictor, feed | {"ids": feed["ids"][:, :1]})
    bound = Bound(predictor, feed)
    (other,) = feeds(frozen, 1, batch=10)
    with pytest.raises(InputError, match="another shape than what is bound"):
        bound.copy_in(other)
