"""Raw values three ways: what training wrote, what `encoder/` gives, what the graph in front gives; one id each."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import polars as pl

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.derived_values import examples
from amtl_export.bundle.encoder import Encoder
from amtl_export.bundle.encoder_files import write_encoder
from amtl_export.bundle.raw import as_column, encoded_columns, raw_fields, raw_numbers, refusing, unknown_value
from amtl_export.data.encode import Rows
from amtl_export.data.normalise import NO_NUMBER, Normalisation, normalised
from amtl_export.errors import InputError
from amtl_export.graph.raw_features import encoder_model, fits_one_model, prepend_encoder
from amtl_export.graph.raw_field import RawField, encoded_name
from amtl_export.runtime.predictor import load
from amtl_export.runtime.session import open_session
from amtl_export.spec import BATCH, Column, Feed, TensorSpec
from amtl_export.validation.provenance import load_graph

#: Examples whose scores are compared where a bundle takes fields once per request, each a request of its own.
_REQUESTS = 8

#: How many differences are told.
_TOLD = 3


@dataclass
class RawCheck:
    """What came of it.

    Attributes:
        rows: raw rows that went all ways; `equal` of them have the same ids on each.
        problems: field, raw value and its ids, where they differ.
        notes: which way was not gone, and why.
    """

    rows: int = 0
    equal: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_source(bundle: Bundle, frame: pl.DataFrame, trained: Rows) -> RawCheck:
    """Raw rows that a run kept, with what training made of them; then values that nobody should send.

    Raises:
        InputError: as `check_raw`.
    """
    ways = _Ways(bundle)
    columns = {name: frame[spec.column] for name, spec in ways.specs.items()}
    kept, others = _raw(ways, columns, trained), _hostile(ways)
    return RawCheck(kept.rows + others.rows, kept.equal + others.equal, kept.problems + others.problems, kept.notes)


def check_raw(bundle: Bundle, columns: Mapping[str, pl.Series], trained: Rows | None = None) -> RawCheck:
    """Send raw rows all ways and compare their ids, and the scores of a graph with its encoder and without.

    Args:
        bundle: of a run.
        columns: field → raw values as the data has them, of any type.
        trained: what training wrote for these rows; what its reader makes of them if not given.

    Raises:
        InputError: the vocabularies are not the bundle's; a value cannot be used.
    """
    return _raw(_Ways(bundle), columns, trained)


def check_hostile(bundle: Bundle) -> RawCheck:
    """The same with values that nobody should send; what training's reader refuses `encoder/` must refuse too."""
    return _hostile(_Ways(bundle))


def _raw(ways: _Ways, columns: Mapping[str, pl.Series], trained: Rows | None = None) -> RawCheck:
    reader = ways.reader(columns)
    expected = reader if trained is None else ways.written(trained)
    found = RawCheck(len(next(iter(columns.values()))))
    wrong = np.zeros(found.rows, dtype=bool)
    for way, values in (
        ("the reader", reader),
        ("encoder/", ways.encoder(columns)),
        ("the graph", ways.graph(columns)),
    ):
        for name, ids in ((name, ids) for name, ids in expected.items() if name in values):
            differ = [row for row, (a, b) in enumerate(zip(ids, values[name], strict=True)) if a != b]
            wrong[differ] = True
            found.problems += [
                f"{name}: {columns[name][row]!r} is {ids[row]} in training and {values[name][row]} by {way}"
                for row in differ[:_TOLD]
            ]
    found.equal = found.rows - int(wrong.sum())
    return replace(found, problems=found.problems + ways.score_differences(columns), notes=ways.notes)


def _hostile(ways: _Ways) -> RawCheck:
    taken, refused = {}, []
    for name, spec in ways.specs.items():
        field_ = ways.fields.get(name)
        own = [1.5, 2.0] if field_ is None else field_.vocabulary.values.head(3).to_list()
        known = examples(spec) if spec.derived else own
        values = hostile(spec, known, 3.25 if field_ is None else unknown_value(field_))
        by_reader = [ways.reads(name, value) for value in values]
        by_encoder = [ways.serves(name, value) for value in values]
        refused += [
            f"{name}: {value!r} is {'taken' if ours else 'refused'} in training and not by encoder/"
            for value, ours, theirs in zip(values, by_reader, by_encoder, strict=True)
            if ours != theirs
        ]
        taken[name] = [value for value, ours in zip(values, by_reader, strict=True) if ours]
    longest = max(map(len, taken.values()))
    rows = {name: [values[i % len(values)] for i in range(longest)] for name, values in taken.items()}
    found = _raw(ways, {name: as_column(values, ways.specs[name]) for name, values in rows.items()})
    return replace(found, problems=found.problems + refused)


def hostile(spec: Normalisation, known: Sequence[Any], unknown: Any) -> list[Any]:
    """Values of a field as texts: known, unknown, missing, with spaces, too large, no numbers; and lists of them."""
    default = () if spec.default is None else (spec.default,)
    given = [str(value) for value in (*known, unknown, *default)]
    one: list[Any] = [None, "", " ", *given, *(f"  {text} " for text in given), *spec.missing]
    if spec.type == "string":
        one += ["nan", "a  b", "x" * 5000, "\t", "é\n", "true", "19.0"]
    else:
        one += [
            "nan",
            "inf",
            "1e300",
            "9007199254740993",
            "9223372036854775808",
            "1_0",
            "0x1",
            "1.5",
            "+1",
            " 7.0 ",
            "x",
            *("2024-02-30", "2024-5-1", "2024-05-01T24:00", "2024-05-01T12", "0000-01-01T00:00", "2024-05-01T1:00:60"),
        ]
    if not spec.many:
        return one
    usable = [text for text in one if text is not None]
    return [None, [], *([text] for text in usable), [*given, None, "", *given], given * (spec.max_length or 1)]


class _Ways:
    """The ways of one bundle; each gives field → an id, a number, or a list of ids for each row."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.specs = bundle.normalisations()
        self.fields = raw_fields(bundle)
        self._inputs = _by_field(bundle, self.fields)
        self._hashed = {name for name, spec in self.specs.items() if spec.buckets is not None}
        self._fits = fits_one_model(self.fields)
        self.notes = (
            [] if self._fits else ["the vocabularies are too large for a graph in front, which was not checked"]
        )
        with tempfile.TemporaryDirectory() as scratch:
            write_encoder(bundle, Path(scratch) / "encoder")
            self._encoder = Encoder(Path(scratch) / "encoder")

    def written(self, rows: Rows) -> dict[str, list[Any]]:
        """What training wrote."""
        schema, ids = self._bundle.run_schema, rows.ids
        feed: Feed = {f.name: ids[:, i : i + 1] for i, f in enumerate(schema.categorical)}
        return self._listed(feed | rows.multi | ({_NUMBERS: rows.numeric} if schema.numeric else {}))

    def reader(self, columns: Mapping[str, pl.Series]) -> dict[str, list[Any]]:
        """What training's reader makes of it now."""
        return self._listed(encoded_columns(columns, self._inputs, self.fields, self.specs))

    def encoder(self, columns: Mapping[str, pl.Series]) -> dict[str, list[Any]]:
        """By `encoder/` as it is shipped, a row at a time, since a request may have fields for all of its rows."""
        found: dict[str, list[Any]] = {name: [] for name in self.specs}
        for row in pl.DataFrame([_sent(column).alias(name) for name, column in columns.items()]).to_dicts():
            encoded = self._encoder.encode([row])
            for spec in self._bundle.inputs:
                (values,) = encoded[spec.name]
                if spec.packed or spec.source == "numeric":
                    for name, value in zip(spec.fields, values, strict=True):
                        found[name].append(None if value != value else value)
                else:
                    found[spec.name].append(values)
        return found

    def graph(self, columns: Mapping[str, pl.Series]) -> dict[str, list[Any]]:
        """By the nodes in front, which hash nothing: fields with buckets are left out."""
        inputs = [spec for spec in self._inputs if spec.name not in self._hashed]
        if all(spec.source == "numeric" for spec in inputs) or not self._fits:
            return {}
        model = encoder_model(inputs, self.fields, raw_numbers(self._bundle))
        session = open_session(ir.to_proto(model).SerializeToString())
        raw = self._raw(columns)
        given = [value.name for value in session.get_outputs()]
        taken = {value.name: raw[value.name] for value in session.get_inputs()}
        encoded = dict(zip(given, session.run(given, taken), strict=True))
        same = {name: values for name, values in raw.items() if name == _NUMBERS}
        outputs = {spec.name: encoded_name(spec.name) for spec in inputs}
        return self._listed(same | {name: encoded[out] for name, out in outputs.items() if out in encoded})

    def score_differences(self, columns: Mapping[str, pl.Series]) -> list[str]:
        """Where the graph with its encoder in front answers otherwise, by a bit, than the graph alone to its ids."""
        bundle = self._bundle
        if self._hashed or not self._fits:
            return []  # there is no such graph
        with tempfile.TemporaryDirectory() as scratch:
            front = ir.to_proto(encoder_model(bundle.inputs, self.fields, raw_numbers(bundle)))
            encoder = open_session(front.SerializeToString())
            model = load_graph(bundle.model)
            prepend_encoder(model, bundle.inputs, self.fields, raw_numbers(bundle))
            ir.save(model, Path(scratch) / "model.onnx")
            _link(bundle.path / "model.onnx.data", Path(scratch) / "model.onnx.data")
            whole, alone = load(scratch), load(bundle.path)
            for part in self._requests(columns):
                raw = self._graph_inputs(part)
                taken = {value.name: raw[value.name] for value in encoder.get_inputs()}
                given = [value.name for value in encoder.get_outputs()]
                encoded = dict(zip(given, encoder.run(given, taken), strict=True))
                ids = {s.name: encoded.get(encoded_name(s.name), raw.get(s.name)) for s in bundle.inputs}
                expected, found = alone.predict(ids), whole.predict(raw)  # type: ignore[arg-type]  # each is there
                for name, answers in expected.items():
                    if not np.array_equal(found[name], answers, equal_nan=True):
                        row = int(np.argmax(np.any((found[name] != answers).reshape(len(answers), -1), axis=1)))
                        return [f"{name}: row {row} of raw values is answered otherwise than its ids"]
        return []

    def _requests(self, columns: Mapping[str, pl.Series]) -> Iterator[dict[str, pl.Series]]:
        """All rows together; where fields are given once for a request, some rows, each by itself."""
        if not any(spec.request for spec in self._bundle.inputs):
            yield dict(columns)
            return
        for row in range(min(_REQUESTS, len(next(iter(columns.values()))))):
            yield {name: column[row : row + 1] for name, column in columns.items()}

    def _graph_inputs(self, columns: Mapping[str, pl.Series]) -> Feed:
        """What the bundle with its encoder takes."""
        by_field = self._raw(columns)
        schema = [f.name for f in self._bundle.run_schema.numeric]
        feed = {name: values for name, values in by_field.items() if name != _NUMBERS}
        for spec in self._bundle.inputs:
            if spec.source == "numeric":
                feed[spec.name] = by_field[_NUMBERS][:, [schema.index(name) for name in spec.fields]]
        return feed

    def _raw(self, columns: Mapping[str, pl.Series]) -> Feed:
        """What a client sends to a graph: texts as they are, numbers parsed, lists filled up with "missing"."""
        feed, numbers = {}, []
        for name, column in columns.items():
            if name in self._hashed:
                continue
            spec = _parsing(self.specs[name]).model_copy(update={"default": None, "boundaries": ()})
            spec = spec.model_copy(update={"part": None, "unit": None} if spec.type == "int64" else {})
            if spec.type == "float32":
                number = normalised(column, spec, refusing(name)).fill_null(float("nan")).to_numpy()
                if name in self.fields:
                    feed[name] = number[:, None]
                else:
                    numbers.append(number)
            elif spec.type == "time":
                parts = normalised(column, self.specs[name].model_copy(update={"default": None}), refusing(name))
                feed[name] = _filled(parts.to_list(), NO_NUMBER, np.int64, many=False)
            elif spec.type == "int64":
                whole = normalised(column, spec.model_copy(update={"max_length": 2**31}), refusing(name))
                feed[name] = _filled(whole.to_list(), NO_NUMBER, np.int64, many=spec.many)
            else:
                feed[name] = _filled(_texts(column, spec).to_list(), "", object, many=spec.many)
        if numbers:
            order = [name for name in columns if name not in self.fields]
            by_name = dict(zip(order, numbers, strict=True))
            feed[_NUMBERS] = np.stack([by_name[f.name] for f in self._bundle.run_schema.numeric], axis=1)
        return feed

    def _listed(self, feed: Feed) -> dict[str, list[Any]]:
        """Field → ids, numbers (None for NaN), or lists of ids without padding."""
        found: dict[str, list[Any]] = {}
        for name, values in feed.items():
            if name == _NUMBERS:
                for field_, column in zip(self._bundle.run_schema.numeric, values.T, strict=True):
                    found[field_.name] = [None if x != x else x for x in column.astype(np.float32).tolist()]
            elif self.specs[name].many:
                padding = self.fields[name].vocabulary.padding
                found[name] = [[i for i in row if i != padding] for row in values.tolist()]
            else:
                found[name] = values[:, 0].tolist()
        return found

    def reads(self, name: str, value: Any) -> bool:
        """Whether training's reader takes a value."""
        try:
            normalised(as_column([value], self.specs[name]), self.specs[name], refusing(name))
        except InputError:
            return False
        return True

    def serves(self, name: str, value: Any) -> bool:
        """Whether `encoder/` takes it."""
        try:
            self._encoder.encode([{name: value}])
        except ValueError:
            return False
        return True


#: The input of all numeric fields.
_NUMBERS = "numeric"


def _by_field(bundle: Bundle, fields: Mapping[str, RawField]) -> tuple[TensorSpec, ...]:
    """An input for each embedded field, and one for all numbers."""
    inputs = []
    for name, own in fields.items():
        shape = (BATCH, f"length_{name}") if own.spec.many else (BATCH, 1)
        inputs.append(TensorSpec(name, "int64", shape, (Column(name, own.vocabulary.size),), name))
    numeric = tuple(Column(field_.name) for field_ in bundle.run_schema.numeric)
    numbers = TensorSpec(_NUMBERS, "float32", (BATCH, len(numeric)), numeric, "numeric")
    return (*inputs, numbers) if numeric else tuple(inputs)


def _parsing(spec: Normalisation) -> Normalisation:
    """What a client does that sends numbers: it parses them, and leaves it to the graph which of them are missing."""
    alone = [(text, spec.model_copy(update={"missing": (text,)})) for text in spec.missing]
    no_numbers = tuple(text for text, own in alone if not own.missing_numbers and own.missing_whole == (NO_NUMBER,))
    return spec.model_copy(update={"missing": no_numbers})


def _texts(column: pl.Series, spec: Normalisation) -> pl.Series:
    """Texts, or lists of them, as a client that does nothing to them would send them."""
    if not spec.many:
        return column.cast(pl.String)
    if column.dtype == pl.String:
        return column.str.split(spec.separator or "|")
    lists = column.arr.to_list() if isinstance(column.dtype, pl.Array) else column
    return lists.cast(pl.List(pl.String))


def _filled(values: list[Any], nothing: Any, dtype: Any, *, many: bool) -> npt.NDArray[Any]:
    """`[n, 1]`, or `[n, L]` for lists."""
    if not many:
        return np.array([nothing if value is None else value for value in values], dtype=dtype).reshape(-1, 1)
    rows = [[nothing if value is None else value for value in row or ()] for row in values]
    width = max([1, *map(len, rows)])
    return np.array([[*row, *[nothing] * (width - len(row))] for row in rows], dtype=dtype).reshape(-1, width)


def _sent(column: pl.Series) -> pl.Series:
    """What JSON can hold of a column: dates and decimals as their texts."""
    inner = column.dtype
    while isinstance(inner, pl.List | pl.Array):
        inner = inner.inner  # type: ignore[assignment]  # of a column
    if inner.is_temporal() or inner.is_decimal() or inner in (pl.Categorical, pl.Enum):
        nested = isinstance(column.dtype, pl.List | pl.Array)
        return column.cast(pl.List(pl.String) if nested else pl.String)
    return column


def _link(source: Path, target: Path) -> None:
    """The same file, or a copy where the two are on different disks."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
