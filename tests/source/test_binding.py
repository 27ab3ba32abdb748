"""How a module is called: an example bound to forward's parameters, and the dimensions that may change."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amtl_export.errors import InputError
from amtl_export.source.binding import bind, describe, nested, same_structure


def module(forward: Callable[..., Any]) -> nn.Module:
    made = nn.Module()
    made.forward = forward
    return made


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.full(shape, float(i + 1)) for i, shape in enumerate(shapes)]


A, B, C = tensors((3, 2), (3,), (3, 4))


def called(forward: Callable[..., Any], example: Any) -> Any:
    """What the module answers to its example's own tensors."""
    bound = bind(module(forward), example)
    return bound.call(module(forward), list(bound.example.values()))


def names(forward: Callable[..., Any], example: Any) -> tuple[str, ...]:
    return bind(module(forward), example).names


def plain(ids: Tensor, age: Tensor) -> tuple[Tensor, Tensor]:
    return ids, age


def test_by_name_and_by_place() -> None:
    for example in ({"ids": A, "age": B}, {"age": B, "ids": A}, (A, B), {"first": A, "second": B}):
        ids, age = called(plain, example)
        assert torch.equal(ids, A)
        assert torch.equal(age, B)
    assert names(plain, {"age": B, "ids": A}) == ("age", "ids")
    assert names(plain, (A, B)) == ("ids", "age")


def test_one_tensor_alone() -> None:
    assert names(lambda x: x, A) == ("x",)
    assert torch.equal(called(lambda x: x, A), A)


def test_numpy_arrays() -> None:
    assert called(lambda x: x, np.zeros((3, 2), np.float32)).shape == (3, 2)


def test_forward_of_one_mapping() -> None:
    def forward(features: dict[str, Any]) -> Any:
        return features["user"], features["item"]

    for example in ({"user": A, "item": B}, {"features": {"user": A, "item": B}}, ({"user": A, "item": B},)):
        assert names(forward, example) == ("user", "item")
        assert torch.equal(called(forward, example)[1], B)


def test_a_mapping_that_may_be_forwards_own_is_told_of() -> None:
    def optional(batch: Any, mask: Tensor | None = None) -> Any:
        return batch["user"]

    for forward, example in ((lambda batch: batch, {"user": A}), (optional, {"user": A, "item": B})):
        fix = bind(module(forward), example).fix
        assert fix is not None
        assert "give ({…},) where forward takes one mapping" in fix
        assert bind(module(forward), (example,)).fix is None
    with pytest.raises(InputError, match=r"(?s)too many.*one mapping"):
        bind(module(optional), {"user": A, "item": B, "age": C})


def test_positional_only_parameters_by_their_names() -> None:
    def forward(ids: Tensor, tags: Tensor | None = None, /, age: Tensor | None = None, **more: Tensor) -> Any:
        return ids, tags, age, more

    ids, tags, age, more = called(forward, {"age": B, "tags": C, "ids": A, "more": B})
    assert torch.equal(ids, A)
    assert torch.equal(tags, C)
    assert torch.equal(age, B)
    assert list(more) == ["more"]
    assert names(forward, {"age": B, "ids": A}) == ("ids", "age")
    with pytest.raises(InputError, match="does not fit forward"):
        bind(module(forward), {"tags": C})

    def features(batch: dict[str, Tensor], /) -> Any:
        return batch["user"]

    assert names(features, {"user": A, "item": B}) == ("user", "item")


def test_an_optional_argument_left_out() -> None:
    def forward(ids: Tensor, mask: Tensor | None = None, *, scale: float = 2.0) -> Any:
        return ids * scale if mask is None else mask

    assert float(called(forward, {"ids": B})[0]) == 4
    assert float(called(forward, {"ids": B, "mask": None, "scale": 3.0})[0]) == 6
    assert names(forward, {"ids": B, "mask": None}) == ("ids",)


def test_keyword_only_and_any_keyword() -> None:
    def keyword(ids: Tensor, *, age: Tensor) -> Any:
        return age

    def anything(**features: Tensor) -> Any:
        return features["age"]

    for forward in (keyword, anything):
        assert torch.equal(called(forward, {"ids": A, "age": B}), B)
        assert names(forward, {"ids": A, "age": B}) == ("ids", "age")


def test_any_number_of_arguments() -> None:
    def forward(first: Tensor, *others: Tensor) -> Any:
        return others[-1]

    assert torch.equal(called(forward, (A, B, C)), C)
    assert len(set(names(forward, (A, B, C)))) == 3


def test_nested_values() -> None:
    @dataclass
    class Batch:
        ids: Tensor
        history: list[Tensor]

    def forward(batch: Batch, dense: dict[str, Tensor]) -> Any:
        return batch.history[1], dense["age"]

    example = {"batch": Batch(A, [B, C]), "dense": {"age": B}}
    assert names(forward, example) == ("ids", "history_0", "history_1", "age")
    assert torch.equal(called(forward, example)[0], C)


class Pair(NamedTuple):
    ids: Any
    age: Any


@pytest.mark.parametrize("example", [Pair(A, B), (Pair(A, B),), {"pair": Pair(A, B)}])
def test_a_named_tuple_names_its_inputs(example: Any) -> None:
    assert names(lambda pair: pair, example) == ("ids", "age")
    assert torch.equal(called(lambda pair: pair.age, example), B)
    bound = bind(module(lambda pair: pair), example)
    given = {"pair": Pair({0: "rows"}, {0: "others"})}
    with pytest.raises(InputError, match="two sizes"):
        describe(bound, {"pair": Pair({0: "n", 1: "n"}, {})})
    assert [spec.shape for spec in describe(bound, given)] == [("rows", 2), ("others",)]


def test_a_named_tuple_of_several_arguments_is_taken_in_order() -> None:
    assert torch.equal(called(plain, Pair(A, B))[1], B)


@pytest.mark.parametrize(
    ("forward", "example", "says"),
    [
        (plain, {"ids": A, "agee": B}, r"some are not(?s:.*)agee(?s:.*)age, ids"),
        (plain, {"ids": A}, r"does not fit forward(?s:.*)age"),
        (plain, (A, B, C), r"does not fit forward(?s:.*)too many"),
        (plain, {"ids": A, "age": 3.0, "more": B}, r"some are not(?s:.*)more"),
        (plain, {"ids": 1, "age": 3.0}, "has no tensor"),
        (lambda x: x, ({"": A},), r"an empty name(?s:.*)rename"),
        (plain, (A, torch.zeros(3, dtype=torch.complex64)), r"graphs do not take(?s:.*)age(?s:.*)complex64"),
        (plain, {"ids": A, "age": torch.zeros(3, dtype=torch.bfloat16)}, r"graphs do not take(?s:.*)bfloat16"),
        (lambda x: x, {"x": {"a": {"b_c": A}, "a_b": {"c": B}}}, "x"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(forward: Callable[..., Any], example: Any, says: str) -> None:
    if says == "x":  # names that differ once they are written whole
        assert len(set(names(forward, example))) == 2
        return
    with pytest.raises(InputError, match=says):
        bind(module(forward), example)


def test_names_that_clash_are_refused() -> None:
    def forward(a: dict[str, Any], a_b: dict[str, Any]) -> Any:
        return a, a_b

    with pytest.raises(InputError, match=r"(?s)same name.*a_b_c"):
        bind(module(forward), {"a": {"b": {"c": A}, "c": B}, "a_b": {"c": C}})


def shapes(dynamic: Any = None, **example: Tensor) -> dict[str, tuple[str | int, ...]]:
    bound = bind(module(lambda **inputs: inputs), example)
    return {spec.name: spec.shape for spec in describe(bound, dynamic)}


def test_the_batch_is_what_most_inputs_have_in_front() -> None:
    a, b, c, tables, one, scalar = *tensors((3, 2), (3,), (7, 4), (2, 3), (1, 3)), torch.tensor(1.0)
    assert shapes(a=a, b=b, c=c, tables=tables, one=one, scalar=scalar) == {
        "a": ("batch", 2), "b": ("batch",), "c": ("c_rows", 4), "tables": (2, "batch"), "one": (1, 3), "scalar": (),
    }  # fmt: skip


def test_an_example_of_one_row_has_no_batch() -> None:
    (history,) = tensors((1, 10))
    with pytest.raises(InputError, match="fewer than 2 rows"):
        shapes(h=history)


def test_dimensions_that_are_given() -> None:
    a, b, c = tensors((3, 6), (3, 6), (6, 3))
    given = {"a": {0: "batch", 1: "length"}, "b": {1: torch.export.Dim("length")}, "c": {1: "batch", 0: "long-est"}}
    with pytest.raises(InputError, match="two sizes"):
        shapes({"a": {0: "n", 1: "n"}}, a=a, b=b, c=c)
    assert shapes(given, a=a, b=b, c=c) == {
        "a": ("batch", "length"), "b": (3, "length"), "c": ("long_est", "batch"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"d": {0: "batch"}}, r"unknown inputs(?s:.*)d(?s:.*)a, b"),
        ({"a": {2: "length"}}, r"no such axis(?s:.*)a(?s:.*)\[2\](?s:.*)0\.\.1"),
        ({"a": {-1: "length"}}, r"no such axis(?s:.*)\[-1\]"),
        ({"a": {0: "batch"}, "b": {0: "batch"}}, r"two sizes of the dimension batch(?s:.*)4(?s:.*)3"),
        ({"a": {}, "b": {}}, "fewer than 2 rows"),
    ],
)
def test_dimensions_that_cannot_be(given: Any, says: str) -> None:
    a, b = tensors((3, 2), (4, 2))
    with pytest.raises(InputError, match=says):
        shapes(given, a=a, b=b)


def test_an_example_of_one_row_is_refused() -> None:
    with pytest.raises(InputError, match="fewer than 2 rows"):
        shapes(a=torch.zeros(1, 3))
    with pytest.raises(InputError, match="fewer than 2 rows"):
        shapes(a=torch.zeros(0, 3))


@pytest.mark.parametrize("kind", ["int64", "int32", "bool", "uint8", "float16", "float64"])
def test_types(kind: str) -> None:
    bound = bind(module(lambda x: x), torch.zeros(3, 2).to(getattr(torch, kind)))
    (spec,) = describe(bound)
    assert (spec.dtype, str(bound.feed["x"].dtype)) == (kind, kind)
    assert spec.integer == (kind in ("int64", "int32", "uint8"))


def test_a_feed_goes_back_into_its_places() -> None:
    example = {"features": {"ids": A, "history": [B, C]}, "age": B}
    bound = bind(module(lambda features, age: (features, age)), example)
    specs = describe(bound)
    again = nested(bound.feed, specs)
    assert isinstance(again["features"]["history"], list)
    rebound = bind(module(lambda features, age: (features, age)), again)
    assert rebound.names == bound.names
    for name, values in same_structure(rebound.feed, specs).items():
        np.testing.assert_array_equal(values, bound.feed[name])


def test_another_structure_is_refused() -> None:
    forward = module(lambda **inputs: inputs)
    specs = describe(bind(forward, {"a": A, "b": B}))
    with pytest.raises(InputError, match=r"(?s)another structure.*\['a', 'c'\].*\['a', 'b'\]"):
        same_structure(bind(forward, {"a": A, "c": B}).feed, specs)
