"""A raw value means the same to training's reader, to the encoder in Python and to the graph in front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import onnx_ir as ir
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amtl_export.bundle.encoder import Normaliser
from amtl_export.data.counting import ValueCounter
from amtl_export.data.encode import padded_ids
from amtl_export.data.normalise import NO_NUMBER, Normalisation, normalised
from amtl_export.data.times import ISO, RANGES, Part, Unit
from amtl_export.graph.raw_features import encoder_model
from amtl_export.graph.raw_field import RawField
from amtl_export.runtime.session import open_session
from amtl_export.spec import BATCH, Column, TensorSpec

WORDS = st.text(st.sampled_from(" ab|\t\nnan.é"), max_size=8)
NUMBERS = st.one_of(
    st.integers(-(2**64), 2**64).map(str),
    st.integers(-30, 30).map(lambda n: f" {n}.0"),
    st.floats().map(repr),
    st.sampled_from(
        ["", " ", "-1", "+7", "07", "1.", ".5", "1e3", "1E400", "nan", "inf", "9007199254740993", "1_0", "٣"]
    ),
)
TEXTS = st.one_of(WORDS, NUMBERS)
DEFAULTS: dict[str, st.SearchStrategy[Any]] = {
    "string": st.sampled_from(["a", "b b", "none"]),
    "int64": st.integers(-3, 8),
    "float32": st.floats(width=32, allow_nan=False, allow_infinity=False),
}
BOUNDARIES = st.sets(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=5).map(
    lambda found: tuple(sorted(found))
)


class Refused(Exception):
    pass


def refuse(bad: pl.Series, allowed: str) -> None:
    if bad.fill_null(False).any():
        raise Refused(allowed)


def read(values: Sequence[Any], dtype: Any, spec: Normalisation) -> list[Any]:
    """Each value by itself through training's reader; Refused where it is."""
    found: list[Any] = []
    for value in values:
        try:
            found.append(normalised(pl.Series([value], dtype=dtype), spec, refuse).to_list()[0])
        except Refused:
            found.append(Refused)
    return found


def encode(values: Sequence[Any], spec: Normalisation) -> list[Any]:
    """The same by the encoder of requests."""
    own = Normaliser(spec.model_dump(mode="json"))
    found: list[Any] = []
    for value in values:
        try:
            found.append((own.many(value) or None) if spec.many else own.one(value))
        except ValueError:
            found.append(Refused)
    return found


@st.composite
def specs(draw: st.DrawFn, *types: str, hashed: bool = False) -> Normalisation:
    many, kind = draw(st.booleans()), draw(st.sampled_from(types))
    buckets = draw(st.sampled_from([None, 2, 1000])) if hashed and kind != "float32" else None
    boundaries = () if many or kind != "float32" else draw(st.one_of(st.just(()), BOUNDARIES))
    return Normalisation(
        field="f",
        column="c",
        many=many,
        type=kind,
        trim=draw(st.booleans()),
        missing=tuple(draw(st.lists(TEXTS, max_size=3))),
        separator=draw(st.sampled_from(["|", " ", "ab"])) if many else None,
        max_length=draw(st.integers(1, 4)) if many else None,
        default=draw(st.one_of(st.none(), DEFAULTS["int64" if boundaries or buckets else kind])),
        buckets=buckets,
        boundaries=boundaries,
    )


@given(specs("string", "int64", "float32", hashed=True), st.lists(st.one_of(st.none(), TEXTS), max_size=12))
def test_texts(spec: Normalisation, values: list[str | None]) -> None:
    assert encode(values, spec) == read(values, pl.String, spec)


@given(specs("string", "int64", "float32", hashed=True), st.data())
def test_numbers(spec: Normalisation, data: st.DataObject) -> None:
    kinds: dict[Any, st.SearchStrategy[Any]] = {
        pl.Int64: st.integers(-(2**63), 2**63 - 1),
        pl.Int8: st.integers(-128, 127),
        pl.UInt64: st.integers(0, 2**64 - 1),
        pl.Float64: st.one_of(st.floats(), st.integers(-(2**54), 2**54).map(float)),
        pl.Float32: st.floats(width=32),
    }
    dtype = data.draw(st.sampled_from(list(kinds)))
    values = data.draw(st.lists(st.one_of(st.none(), kinds[dtype]), max_size=8))
    if spec.many:
        lists = [values[:i] for i in range(len(values) + 1)]
        assert encode(lists, spec) == read(lists, pl.List(dtype), spec)
    else:
        assert encode(values, spec) == read(values, dtype, spec)


def test_a_column_is_read_as_its_values_are() -> None:
    """Many rows at once as each alone."""
    spec = Normalisation(field="f", column="c", many=True, type="int64", missing=("-1",), separator=",", max_length=2)
    values = ["1,2,3", None, "", "-1", " 4 , ,-1,5 ,6", ",", "7"]
    whole = normalised(pl.Series(values), spec, refuse)
    assert whole.to_list() == [[1, 2], None, None, None, [4, 5], None, [7]] == read(values, pl.String, spec)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([True, False, None], "string", ["true", "false", None]),
        ([True, False, None], "float32", [1.0, 0.0, None]),
        ([date(2024, 5, 1)], "string", ["2024-05-01"]),
        ([datetime(2024, 5, 1, 3, 4, 5)], "string", ["2024-05-01 03:04:05.000000"]),
        ([Decimal("12.50"), None], "float32", [12.5, None]),
        ([Decimal("12.00"), None], "int64", [12, None]),
        ([2**64 - 1], "string", ["18446744073709551615"]),
        ([19.0, math.nan, None], "int64", [19, None, None]),
        ([None, None], "int64", [None, None]),
        ([NO_NUMBER, -1], "int64", [None, None]),
    ],
)
def test_types_of_parquet(values: list[Any], kind: Any, expected: list[Any]) -> None:
    spec = Normalisation(field="f", column="c", type=kind, missing=("-1",))
    series = pl.Series(values, dtype=pl.UInt64) if values == [2**64 - 1] else pl.Series(values)
    assert normalised(series, spec, refuse).to_list() == expected


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.5], "string"),
        ([1.5], "int64"),
        ([2.0**53 + 2], "int64"),
        ([2**64 - 1], "int64"),
        ([True], "int64"),
        ([date(2024, 5, 1)], "int64"),
        ([date(2024, 5, 1)], "float32"),
        ([b"x"], "string"),
        ([{"a": 1}], "string"),
        ([[1]], "int64"),
        ([1e39], "float32"),
        ([math.inf], "float32"),
        (["1,5"], "float32"),
        (["19.5"], "int64"),
    ],
)
def test_what_is_refused(values: list[Any], kind: Any) -> None:
    spec = Normalisation(field="f", column="c", type=kind)
    series = pl.Series(values, dtype=pl.UInt64) if values == [2**64 - 1] else pl.Series(values)
    with pytest.raises(Refused):
        normalised(series, spec, refuse)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("string", -1),
        ("string", 2.0),
        ("int64", "a"),
        ("int64", 1.5),
        ("int64", 2**63),
        ("float32", "1"),
        ("float32", 1e39),
    ],
)
@pytest.mark.parametrize("key", ["default", "unknown"])
def test_a_value_that_is_none_of_the_field(kind: Any, value: Any, key: str) -> None:
    with pytest.raises(ValueError, match=f"field f: {key} = .* is no {kind}"):
        Normalisation.model_validate({"field": "f", "column": "f", "type": kind, key: value})


def test_dictionaries_and_arrays() -> None:
    spec = Normalisation(field="f", column="c", type="string", missing=("-1",))
    assert normalised(pl.Series(["a", "-1", None], dtype=pl.Categorical), spec, refuse).to_list() == ["a", None, None]
    many = spec.model_copy(update={"many": True, "max_length": 2})
    arrays = pl.Series([["a", "-1", "b"], ["-1", "-1", None]], dtype=pl.Array(pl.String, 3))
    assert normalised(arrays, many, refuse).to_list() == [["a", "b"], None]


def ids_of(values: Sequence[Any], spec: Normalisation) -> tuple[Any, Any]:
    """Ids by the reader, and by the graph, of values that both take; the vocabulary is of every second value."""
    dtype = {"int64": pl.Int64, "float32": pl.Float32}.get(spec.type, pl.String)
    found = normalised(pl.Series(values, dtype=pl.List(dtype) if spec.many else dtype), spec, refuse)
    counter = ValueCounter("f", "string" if spec.type == "string" else "int64", padded=spec.many)
    half = found[::2]
    counter.add(half.explode() if spec.many else half)
    vocabulary = counter.vocabulary(1)
    column = (Column("f", vocabulary.size, vocabulary.padding),)
    shape = (BATCH, "length_f") if spec.many else (BATCH, 1)
    inputs = [TensorSpec("f" if spec.many else "ids", "int64", shape, column, "f" if spec.many else "ids")]
    model = encoder_model(inputs, {"f": RawField(vocabulary, spec, "f")}, {})
    nothing = NO_NUMBER if spec.type == "int64" else ""
    width = max([1, *map(len, values)]) if spec.many else 1
    rows = [[*row, *[nothing] * (width - len(row))] if spec.many else [row] for row in values]
    array = np.array(rows, dtype=dtype.to_python() if dtype == pl.Int64 else object).reshape(len(values), width)
    array = array.astype(np.float32) if spec.type == "float32" else array
    (graph,) = open_session(ir.to_proto(model).SerializeToString()).run(None, {"f": array})
    if not spec.many:
        return vocabulary.encode(found).tolist(), graph[:, 0].tolist()
    reader = padded_ids(found, vocabulary, width).tolist()
    padding = vocabulary.padding
    return [[i for i in row if i != padding] for row in reader], [[i for i in row if i != padding] for row in graph]


@given(specs("string"), st.data())
def test_the_graph_gives_the_ids_of_texts(spec: Normalisation, data: st.DataObject) -> None:
    one = WORDS.map(lambda text: text.replace("\0", ""))
    values = data.draw(st.lists(st.lists(one, max_size=5) if spec.many else one, min_size=1, max_size=12))
    reader, graph = ids_of(values, spec)
    assert graph == reader


@given(specs("int64"), st.data())
def test_the_graph_gives_the_ids_of_whole_numbers(spec: Normalisation, data: st.DataObject) -> None:
    spec = spec.model_copy(update={"missing": ("-1", "3.0", "n/a", *spec.missing)})
    one = st.one_of(st.integers(-3, 8), st.sampled_from([NO_NUMBER, 2**63 - 1, 2**53 + 1]))
    values = data.draw(st.lists(st.lists(one, max_size=5) if spec.many else one, min_size=1, max_size=12))
    reader, graph = ids_of(values, spec)
    assert graph == reader


@given(BOUNDARIES, st.data())
def test_the_graph_gives_the_ids_of_numbers_with_boundaries(boundaries: tuple[float, ...], data: st.DataObject) -> None:
    spec = Normalisation(
        field="f",
        column="c",
        type="float32",
        boundaries=boundaries,
        missing=tuple(data.draw(st.lists(st.one_of(NUMBERS, st.sampled_from(boundaries).map(repr)), max_size=3))),
        default=data.draw(st.one_of(st.none(), st.integers(0, len(boundaries)))),
    )
    with np.errstate(over="ignore"):
        near = [float(np.nextafter(np.float32(x), np.float32(to))) for x in boundaries for to in (-np.inf, np.inf)]
    close = [x for x in (*boundaries, *near, 0.0, -0.0, math.nan, NO_NUMBER) if not math.isinf(x)]
    one = st.one_of(st.sampled_from(close), st.floats(width=32, allow_infinity=False))
    values = data.draw(st.lists(one, min_size=1, max_size=12))
    reader, graph = ids_of(values, spec)
    assert graph == reader
    assert encode(values, spec) == read(values, pl.Float64, spec) == read(values, pl.Float32, spec)
    assert encode([repr(x) for x in values], spec) == read([repr(x) for x in values], pl.String, spec)


def test_a_number_is_the_count_of_boundaries_it_has_reached() -> None:
    spec = Normalisation(field="f", column="c", type="float32", boundaries=(0.0, 10.5, 100.0), missing=("-1",))
    values = ["-0.1", "0", "-0", "10.49999999", "10.4", "10.5", "99", "1e3", "-1", "", "nan", None]
    expected = [0, 1, 1, 2, 1, 2, 2, 3, None, None, None, None]
    assert read(values, pl.String, spec) == encode(values, spec) == expected
    assert encode([math.inf, "x", True], spec) == [Refused, Refused, 2 - 1]
    assert read([True], pl.Boolean, spec) == [1]


def of_time(part: Part, unit: Unit | None, **more: Any) -> Normalisation:
    return Normalisation(field="f", column="c", type="time" if unit is None else "int64", part=part, unit=unit, **more)


EPOCHS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(10**11), 10**11),
    st.integers(-3, 3).map(lambda days: 86400 * days),
    st.integers(-3, 3).map(lambda days: 86400000 * days - 1),
)


@given(st.sampled_from(list(RANGES)), st.sampled_from(["s", "ms"]), st.data())
def test_the_graph_gives_the_ids_of_times_in_whole_numbers(part: Part, unit: Unit, data: st.DataObject) -> None:
    missing = tuple(map(str, data.draw(st.lists(st.one_of(EPOCHS, st.just("n/a")), max_size=2))))
    default = data.draw(st.one_of(st.none(), st.sampled_from(RANGES[part])))
    spec = of_time(part, unit, missing=missing, default=default)
    values = data.draw(st.lists(EPOCHS, min_size=1, max_size=12))
    reader, graph = ids_of(values, spec)
    assert graph == reader
    found = read(values, pl.Int64, spec)
    assert encode(values, spec) == found
    assert encode(list(map(str, values)), spec) == read(list(map(str, values)), pl.String, spec) == found
    assert set(found) <= {None, *RANGES[part]}


@given(st.sampled_from(list(RANGES)), st.datetimes(), st.sampled_from(["s", "ms"]))
def test_a_time_in_whole_numbers_and_its_text_have_the_same_part(part: Part, time: datetime, unit: Unit) -> None:
    expected = {"hour": time.hour, "weekday": time.weekday(), "day": time.day, "month": time.month}[part]
    since = time - datetime(1970, 1, 1)
    epoch = since // timedelta(seconds=1) if unit == "s" else since // timedelta(milliseconds=1)
    assert read([epoch], pl.Int64, of_time(part, unit)) == encode([epoch], of_time(part, unit)) == [expected]
    text = of_time(part, None)
    for given_ in (time.isoformat(), str(time), f"{time.isoformat()}Z", f" {time} ".replace(" ", "T", 2)[1:]):
        assert encode([given_], text) == read([given_], pl.String, text)
    assert encode([time.isoformat()], text) == read([time], pl.Datetime("us"), text) == [expected]


TIMES = st.one_of(
    TEXTS,
    st.from_regex(ISO.removeprefix("^").removesuffix("$"), fullmatch=True),
    st.from_regex(r"[0-9]{4}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9](:[0-6][0-9](\.[0-9]*)?)?Z?", fullmatch=True),
    st.dates().map(str),
)


@given(st.sampled_from(list(RANGES)), st.booleans(), st.lists(TIMES, max_size=2), st.lists(st.one_of(st.none(), TIMES)))
def test_texts_of_times(part: Part, trim: bool, missing: list[str], values: list[str | None]) -> None:
    spec = of_time(part, None, trim=trim, missing=tuple(missing))
    assert encode(values, spec) == read(values, pl.String, spec)


@pytest.mark.parametrize(
    ("values", "spec", "expected"),
    [
        ([date(2024, 2, 29)], of_time("day", None), [29]),
        ([date(2024, 5, 6), None], of_time("weekday", None), [0, None]),
        ([datetime(2024, 5, 1, 3, 4, 5)], of_time("hour", None), [3]),
        (["2024-05-01T23:30:00-08:00", "2024-05-01"], of_time("day", None), [1, 1]),
        (["2024-05-01T23:30"], of_time("hour", None), [23]),
        ([-1, 0, 3599, 3600], of_time("hour", "s"), [23, 0, 0, 1]),
        ([-1, 0, -86400000], of_time("weekday", "ms"), [2, 3, 2]),
        ([951782400, 951868800, -1], of_time("month", "s"), [2, 3, 12]),
        ([951782400, 951868800, -1], of_time("day", "s"), [29, 1, 31]),
    ],
)
def test_parts_of_times(values: list[Any], spec: Normalisation, expected: list[Any]) -> None:
    assert normalised(pl.Series(values), spec, refuse).to_list() == expected


def test_the_clock_of_a_zone_is_what_counts() -> None:
    times = pl.Series([datetime(2024, 7, 1, 23, 30)]).dt.replace_time_zone("Europe/Paris")
    assert normalised(times, of_time("hour", None), refuse).to_list() == [23]
    assert encode(times.cast(pl.String).to_list(), of_time("hour", None)) == [23]


@pytest.mark.parametrize(
    ("values", "spec"),
    [
        ([1], of_time("day", None)),
        ([1.5], of_time("day", None)),
        ([True], of_time("day", None)),
        ([date(2024, 5, 1)], of_time("hour", None)),
        (["2024-05-01"], of_time("hour", None)),
        (["2023-02-29"], of_time("day", None)),
        (["0000-01-01"], of_time("day", None)),
        (["12:00"], of_time("hour", None)),
        (["2024-05-01"], of_time("day", "s")),
        ([datetime(2024, 5, 1)], of_time("day", "s")),
        ([1.5], of_time("day", "s")),
    ],
)
def test_times_that_are_refused(values: list[Any], spec: Normalisation) -> None:
    with pytest.raises(Refused, match=r"a time like 2024-05-01|in s since 1970"):
        normalised(pl.Series(values), spec, refuse)
    if not isinstance(values[0], date):
        assert encode(values, spec) == [Refused]


def test_a_bucket_is_the_crc_32_of_the_text() -> None:
    """The check value of CRC-32 is cbf43926, of the text 123456789."""
    spec = Normalisation(field="f", column="c", type="string", buckets=2**24, missing=("?",))
    values = ["123456789", " 123456789 ", "?", None, "é"]
    expected = [0xCBF43926 % 2**24, 0xCBF43926 % 2**24, None, None]
    assert read(values, pl.String, spec)[:4] == expected
    assert encode(values, spec) == read(values, pl.String, spec)
    whole = spec.model_copy(update={"type": "int64"})
    assert encode(["+0123456789", 123456789.0], whole) == read([123456789] * 2, pl.Int64, whole) == expected[:2]
    lists = spec.model_copy(update={"many": True, "separator": "|", "max_length": 2})
    assert encode(["?|123456789"], lists) == read(["?|123456789"], pl.String, lists) == [expected[:1]]


def test_the_graph_leaves_missing_numbers_out() -> None:
    spec = Normalisation(field="a", column="a", type="float32", missing=("-1", "0.1", "n/a"))
    numbers = {"a": spec, "b": spec.model_copy(update={"field": "b", "missing": ()})}
    inputs = [TensorSpec("numeric", "float32", (BATCH, 2), (Column("a"), Column("b")), "numeric")]
    session = open_session(ir.to_proto(encoder_model(inputs, {}, numbers)).SerializeToString())
    given_ = np.array([[-1, -1], [0.1, 0.1], [2, np.nan], [np.nan, 2]], dtype=np.float32)
    (found,) = session.run(None, {"numeric": given_})
    expected = given_.copy()
    expected[:2, 0] = np.nan
    np.testing.assert_array_equal(found, expected)
    reader = [normalised(pl.Series(given_[:, i]), own, refuse).to_list() for i, own in enumerate(numbers.values())]
    np.testing.assert_array_equal(np.array(reader, dtype=np.float32).T, expected)


def test_the_graph_gives_missing_numbers_their_default() -> None:
    spec = Normalisation(field="a", column="a", type="float32", missing=("-1",), default=0.5)
    numbers = {"a": spec, "b": spec.model_copy(update={"field": "b", "missing": (), "default": None})}
    inputs = [TensorSpec("numeric", "float32", (BATCH, 2), (Column("a"), Column("b")), "numeric")]
    for own in (numbers, numbers | {"a": spec.model_copy(update={"missing": ()})}):
        session = open_session(ir.to_proto(encoder_model(inputs, {}, own)).SerializeToString())
        given_ = np.array([[-1, -1], [np.nan, np.nan], [2, 2]], dtype=np.float32)
        (found,) = session.run(None, {"numeric": given_})
        reader = [normalised(pl.Series(given_[:, i]), one, refuse).to_list() for i, one in enumerate(own.values())]
        np.testing.assert_array_equal(found, np.array(reader, dtype=np.float32).T)


def test_the_least_int64_is_a_number_like_others_in_float32() -> None:
    spec = Normalisation(field="f", column="c", type="float32")
    assert encode([float(NO_NUMBER)], spec) == read([float(NO_NUMBER)], pl.Float64, spec) == [float(NO_NUMBER)]


def test_a_sequence_with_other_missing_texts_has_its_own_meaning() -> None:
    """Fields of one vocabulary whose texts for "missing" differ are looked up apart."""
    spec = Normalisation(field="item", column="item", type="string")
    seen = Normalisation(field="seen", column="seen", many=True, type="string", missing=("a",), max_length=3)
    counter = ValueCounter("item", "string", padded=True)
    counter.add(pl.Series(["a", "b"]))
    item = counter.vocabulary(1)
    fields = {"item": RawField(item, spec, "item"), "seen": RawField(replace(item, field="seen"), seen, "item")}
    inputs = [
        TensorSpec("ids", "int64", (BATCH, 1), (Column("item", 5),), "ids"),
        TensorSpec("seen", "int64", (BATCH, "length_seen"), (Column("seen", 5, 4),), "seen"),
    ]
    session = open_session(ir.to_proto(encoder_model(inputs, fields, {})).SerializeToString())
    texts = {"item": np.array([["a"]], object), "seen": np.array([["a", "b"]], object)}
    ids, lists = session.run(["encoded_ids", "encoded_seen"], texts)
    assert (ids.tolist(), lists.tolist()) == ([[2]], [[4, 3]])
