"""Nested arguments as a flat list of tensors, and back."""

from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from amtl_export.errors import InputError
from amtl_export.source.tree import Leaves, flatten, names_of, written


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass(frozen=True)
class Features:
    ids: Tensor
    history: list[Tensor]
    scale: float = 2.0


def flat(value: Any) -> tuple[list[tuple[Any, ...]], list[Tensor], Any]:
    """Paths, tensors, and the structure built anew of tensors that are one more."""
    leaves: Leaves = []
    rebuild = flatten(value, ("x",), leaves)
    others: Iterator[Tensor] = iter([tensor + 1 for _, tensor in leaves])
    built = rebuild(others)
    assert next(others, None) is None
    return [path for path, _ in leaves], [tensor for _, tensor in leaves], built


def test_structures_come_back_as_they_were() -> None:
    one, two, three = torch.zeros(2), torch.ones(2), torch.full((2,), 2.0)
    features = Features(one, [two, three])
    paths, tensors, built = flat({"a": features, "b": Pair(one, (two, None)), "c": "mean", "d": [3, True, 1.5]})
    assert paths == [
        ("x", "a", "ids"), ("x", "a", "history", 0), ("x", "a", "history", 1), ("x", "b", "left"),
        ("x", "b", "right", 0),
    ]  # fmt: skip
    assert [float(t[0]) for t in tensors] == [0, 1, 2, 0, 1]
    assert isinstance(built["a"], Features)
    assert [float(t[0]) for t in (built["a"].ids, *built["a"].history)] == [1, 2, 3]
    assert built["a"].scale == 2.0
    assert isinstance(built["b"], Pair)
    assert float(built["b"].right[0][0]) == 2
    assert built["b"].right[1] is None
    assert (built["c"], built["d"]) == ("mean", [3, True, 1.5])
    assert float(features.ids[0]) == 0  # the example's own is left alone


def test_kinds_of_mappings_and_sequences() -> None:
    tensor = torch.zeros(2)
    filled: defaultdict[str, Any] = defaultdict(list, {"a": tensor})
    _, _, built = flat([OrderedDict(b=tensor, a=tensor), filled, (tensor,)])
    assert list(built[0]) == ["b", "a"]
    assert isinstance(built[0], OrderedDict)
    assert built[1]["nothing"] == []
    assert isinstance(built[2], tuple)


def test_arrays_are_tensors() -> None:
    array = np.arange(3, dtype=np.int32)
    array.setflags(write=False)
    paths, (tensor,), _ = flat(array)
    assert paths == [("x",)]
    assert tensor.dtype == torch.int32


def test_a_tensor_with_a_history_is_detached() -> None:
    _, (tensor,), _ = flat((torch.zeros(2, requires_grad=True) * 2,))
    assert not tensor.requires_grad


@pytest.mark.parametrize("value", [object(), {1, 2}, iter([]), torch.nn.Linear(1, 1), b"bytes", Features])
def test_what_is_no_tensor_is_named_with_its_place(value: Any) -> None:
    with pytest.raises(InputError, match=rf"(?s)no tensor.*x\.a\.1.*{type(value).__name__}"):
        flat({"a": [torch.zeros(1), value]})


def test_a_key_that_is_no_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"(?s)no name\n  where: x\.1\n  found: \('a', 0\)"):
        flat([torch.zeros(1), {("a", 0): torch.zeros(1)}])


def test_names() -> None:
    assert names_of([("ids",), ("features", "age"), ("history", 0), ("history", 1)]) == [
        "ids", "age", "history_0", "history_1",
    ]  # fmt: skip
    assert names_of([("user", "ids"), ("item", "ids"), ("ids",)]) == ["user_ids", "item_ids", "ids"]
    assert names_of([("x", "a", 0, "b")]) == ["b"]
    assert written(("features", "history", 0)) == "features.history.0"


def test_a_named_tuple_made_by_its_function() -> None:
    point = namedtuple("point", "x y")
    _, _, built = flat(point(torch.zeros(1), 3))
    assert built.y == 3
    assert float(built.x) == 1
