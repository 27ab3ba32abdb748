"""What tensors are, and batches that do not fit them."""

import re

import numpy as np
import pytest

from amtl_export.spec import BATCH, Column, Feed, TensorSpec, batch_size, mismatch, rows_of

IDS = TensorSpec("ids", "int64", (BATCH, 2), (Column("user", 5), Column("item", 7)), "ids")
TAGS = TensorSpec("tags", "int64", (BATCH, "length"), (Column("tags", 9, 8),), "tags")
SEEN = TensorSpec("seen", "int64", ("length", BATCH), source="seen")
ONE = TensorSpec("bias", "float32", (1, 3), source="bias")


def feed(batch: int = 4, length: int = 3) -> Feed:
    return {
        "ids": np.arange(2 * batch).reshape(batch, 2),
        "tags": np.arange(batch * length).reshape(batch, length),
        "seen": np.arange(batch * length).reshape(batch, length).T,
        "bias": np.zeros((1, 3), np.float32),
    }


def test_what_is_said_of_itself() -> None:
    assert [spec.packed for spec in (IDS, TAGS, SEEN, ONE)] == [True, False, False, False]
    assert [spec.request for spec in (IDS, TAGS, SEEN, ONE)] == [False, False, False, True]
    assert [spec.batch_axis for spec in (IDS, TAGS, SEEN, ONE)] == [0, 0, 1, None]
    assert [spec.batched for spec in (IDS, TAGS, SEEN, ONE)] == [True, True, False, False]
    assert [spec.integer for spec in (IDS, ONE)] == [True, False]
    assert IDS.fields == ("user", "item")


def test_arrays_that_fit() -> None:
    specs = (IDS, TAGS, SEEN, ONE)
    for batch, length in ((4, 3), (1, 1), (0, 5), (3, 0)):
        assert mismatch(feed(batch, length), specs) == ""
        assert batch_size(feed(batch, length), specs) == batch
    assert batch_size(feed(), (ONE,)) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ids": np.zeros((4, 3))}, r"input ids has the shape \[4, 3\], the graph takes \[4, 2\]"),
        ({"ids": np.zeros(4)}, r"input ids has the shape \[4\], the graph takes \[batch, 2\]"),
        ({"tags": np.zeros((5, 3))}, r"input tags has the shape \[5, 3\], the graph takes \[4, length\]"),
        ({"seen": np.zeros((2, 4))}, r"input seen has the shape \[2, 4\], the graph takes \[3, 4\]"),
        ({"bias": np.zeros((4, 3))}, r"input bias has the shape \[4, 3\], the graph takes \[1, 3\]"),
    ],
)
def test_arrays_that_do_not(change: Feed, says: str) -> None:
    assert re.fullmatch(says, mismatch(feed() | change, (IDS, TAGS, SEEN, ONE)))


def test_an_input_left_out() -> None:
    given = feed()
    del given["tags"]
    assert mismatch(given, (IDS, TAGS)) == "input tags is not given"


def test_rows_are_taken_along_the_axis_of_the_batch() -> None:
    given, specs = feed(), (IDS, TAGS, SEEN, ONE)
    for rows in (slice(1, 3), np.array([1, 2])):
        part = rows_of(given, specs, rows)
        np.testing.assert_array_equal(part["ids"], [[2, 3], [4, 5]])
        np.testing.assert_array_equal(part["seen"], part["tags"].T)
        assert part["bias"] is given["bias"]
        assert all(values.flags["C_CONTIGUOUS"] for values in part.values())
    assert rows_of(given, specs, slice(0))["seen"].shape == (3, 0)
