"""Every file of a bundle beside its graph, held against what export writes; each difference names file and key."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import polars as pl

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.check import Checked
from amtl_export.bundle.contents import Built, field_frames, field_settings, report_of, signature_of
from amtl_export.bundle.export import DATA
from amtl_export.bundle.samples import MESSAGES, MessageKind, message, read_test_data, readme, sample_feeds
from amtl_export.compare import compare
from amtl_export.data.frame_parts import FrameParts, StoredFrame
from amtl_export.data.vocabulary import vocabulary_file
from amtl_export.errors import AmtlError, InputError, ValidationFailed
from amtl_export.files import SUMS, json_text, read_json
from amtl_export.runtime.session import run
from amtl_export.spec import Feed, mismatch, rows_of

#: Relative, of floats that a planner computes.
_ROUNDING = 1e-9

#: Of a machine's words on why something fails.
_LONGEST = 2000

#: Differences that are listed of one file.
_MOST = 5


@dataclass(frozen=True)
class SameFiles:
    """A bundle's files, and those that export writes.

    Attributes:
        bundle: opened.
        built: its graph made anew.
        checked: what trying the graph here came to; None where it was not run.
        session: answers the sample; None where the graph is not run.
        other_version: the bundle is of another version of the exporter: nodes and their names may be others.
        tried_as_exported: whether the graph was tried here as it was when it was exported: on the same examples, on
            the CPU, by the same ONNX Runtime.
    """

    bundle: Bundle
    built: Built
    checked: Checked | None
    session: Any
    other_version: bool = False
    tried_as_exported: bool = True

    def problems(self) -> Iterator[str]:
        """Everything that differs."""
        for check in (self._listing, self._json, self._layout, self._vocabularies, self._readme, self._samples):
            try:
                yield from itertools.islice(check(), _MOST)
            except (InputError, ValidationFailed) as error:
                yield one_line(error)

    @property
    def names(self) -> list[str]:
        """Files that export writes."""
        frozen = self.built.frozen
        fields = [vocabulary_file(own.name) for own in frozen.fields if own.table in frozen.tables]
        inputs = [f"test_data_set_0/input_{number}.pb" for number in range(len(self.built.inputs))]
        outputs = [f"test_data_set_0/output_{number}.pb" for number in range(len(frozen.outputs))]
        schema = list(field_settings(frozen))
        plain = ["README.md", SUMS, "model.onnx", DATA, "report.json", "signature.json", *MESSAGES.values()]
        return [*plain, *schema, *fields, *inputs, *outputs]

    def _listing(self) -> Iterator[str]:
        folder, wanted = self.bundle.path, set(self.names)
        folders = {parent.as_posix() for name in wanted for parent in Path(name).parents}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink():
                yield f"{name}: is a link"
            elif name not in wanted and name not in folders:
                yield f"{name}: export writes no such file"
        yield from (f"{name}: is missing" for name in sorted(wanted) if not (folder / name).is_file())

    def _json(self) -> Iterator[str]:
        path, built = self.bundle.path, self.built
        for name, values in field_settings(built.frozen).items():
            yield from json_differences(name, read_json(path / name), _plain(values))
        signature, report = read_json(path / "signature.json"), read_json(path / "report.json")
        checked = self.checked or Checked()
        wanted = signature_of(built, checked).model_dump(mode="json")
        stated = _plain(report_of(built, checked))
        if _is_words(here := report.get("onnxruntime") if isinstance(report, dict) else None):
            stated["onnxruntime"] = here
        for found, expected in ((signature, wanted), (report, stated)):
            self._take_over_what_was_tried(found, expected)
        self._take_over_parity(report, stated)
        if self.other_version:
            _take_over(signature, wanted, "producer", "lookups", "batches", "out_of_range")
            _take_over(report, stated, "producer", "versions", "ops", "ops_traced")
        yield from json_differences("signature.json", signature, wanted)
        yield from json_differences("report.json", report, stated)

    def _layout(self) -> Iterator[str]:
        """JSON is laid out as it is written: nothing hides between its values, and nothing is cut off behind them."""
        for name in sorted(name for name in self.names if name.endswith(".json")):
            file = self.bundle.path / name
            if file.is_file() and file.read_bytes() != json_text(read_json(file)).encode():
                yield f"{name}: the same values laid out otherwise than export writes them"

    def _take_over_what_was_tried(self, found: Any, expected: dict[str, Any]) -> None:
        """Where the graph was tried otherwise, words of a machine may be others; not whether it answers."""
        if self.checked is None:
            _take_over(found, expected, "batches", "out_of_range", "unoptimized")
        if self.checked is None or self.tried_as_exported:
            return
        for key in ("batches", "out_of_range"):
            if isinstance(found, dict) and isinstance(own := found.get(key), dict):
                taken = {name: _same_kind(own.get(name), text) for name, text in expected[key].items()}
                expected[key] = taken
        if "unoptimized" in expected and isinstance(found, dict) and _is_words(found.get("unoptimized")):
            expected["unoptimized"] = found["unoptimized"]

    def _take_over_parity(self, found: Any, expected: dict[str, Any]) -> None:
        """Differences to PyTorch are a machine's own; they are numbers that were allowed."""
        parity = found.get("parity_on_samples") if isinstance(found, dict) else None
        if isinstance(parity, dict) and set(parity) <= {"plain", "optimized"} and "optimized" in parity:
            allowed = [isinstance(x, float) and 0 <= x <= self.built.tolerance for x in parity.values()]
            expected["parity_on_samples"] = parity if all(allowed) else {}

    def _vocabularies(self) -> Iterator[str]:
        for name, wanted in field_frames(self.built.frozen):
            place = vocabulary_file(name)
            found = StoredFrame(self.bundle.path / place)
            if found.schema != wanted.schema:
                yield f"{place}, columns: found {_schema(found.schema)}, export writes {_schema(wanted.schema)}"
                continue
            if found.size != wanted.size:
                yield f"{place}: found {found.size} ids, export writes {wanted.size}"
                continue
            yield from _other_values(place, found, wanted)

    def _readme(self) -> Iterator[str]:
        file = self.bundle.path / "README.md"
        try:
            found = file.read_bytes().decode().split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError("a file cannot be read", where=file, found=error) from None
        wanted = readme(self.built.frozen, self.bundle.signature).split("\n")
        for number, (mine, other) in enumerate(itertools.zip_longest(found, wanted), start=1):
            if mine != other:
                yield f"README.md, line {number}: found {mine!r}, export writes {other!r}"
                return

    def _samples(self) -> Iterator[str]:
        bundle, inputs = self.bundle, self.built.inputs
        test = read_test_data(bundle.path, "input")
        if self.built.frozen.data is not None:
            request, wanted = sample_feeds(self.built.frozen, inputs)
        else:  # rows of the example that it was exported with: any that the model takes
            wrong = mismatch(test, inputs) or _other_types(test, inputs)
            if wrong or list(test) != [spec.name for spec in inputs]:
                yield f"test_data_set_0: {wrong or f'inputs {list(test)}'}"
                return
            whole = any(s.batch_axis is None and any(isinstance(n, str) for n in s.shape) for s in self.built.inputs)
            request, wanted = test if whole else rows_of(test, inputs, slice(4)), test
        yield from _tensor_differences(bundle.path, "input", wanted)
        file = MESSAGES["inputs"]
        yield from json_differences(file, read_json(bundle.path / file), _plain(message("inputs", request)))
        if self.session is None:
            return
        names = list(self.built.frozen.outputs)
        for feed, place in ((wanted, "test_data_set_0"), (request, MESSAGES["outputs"])):
            expected = run(self.session, names, feed, where=bundle.path)
            stored = place == "test_data_set_0"
            found = read_test_data(bundle.path, "output") if stored else _message_feed(bundle.path, "outputs", expected)
            yield from _answer_differences(place, expected, found, self.built.tolerance)


def one_line(error: AmtlError) -> str:
    """An error as a sentence of a verdict."""
    return " ".join(str(error).split())


def json_differences(where: str, found: Any, wanted: Any) -> Iterator[str]:
    """Where two JSON values differ, each with its key; floats may differ by a rounding."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            own = f"{where}, {key}" if "," not in where else f"{where}.{key}"
            if key not in found:
                yield f"{own}: is missing"
            elif key not in wanted:
                yield f"{own}: export writes none"
            else:
                yield from json_differences(own, found[key], wanted[key])
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for number, (mine, other) in enumerate(zip(found, wanted, strict=True)):
            yield from json_differences(f"{where}[{number}]", mine, other)
    elif type(found) is not type(wanted) or not _equal(found, wanted):
        yield f"{where}: found {_shown(found)}, export writes {_shown(wanted)}"


def _equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, float):
        return math.isclose(found, wanted, rel_tol=_ROUNDING)
    return bool(found == wanted)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _plain(values: Any) -> Any:
    """As JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(values))


def _take_over(found: Any, expected: dict[str, Any], *keys: str) -> None:
    for key in keys:
        if key in expected and isinstance(found, dict) and key in found:
            expected[key] = found[key]


def _same_kind(found: Any, expected: Any) -> Any:
    """What is found, if it says the same of whether the graph answers; else what is expected."""
    if not _is_words(found) or not isinstance(expected, str):
        return expected
    good = ("answered", "guarded")
    return found if found.startswith(good) == expected.startswith(good) else expected


def _is_words(text: Any) -> bool:
    return isinstance(text, str) and len(text) <= _LONGEST


def _schema(schema: pl.Schema) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in schema.items())


def _other_types(feed: Feed, inputs: Any) -> str:
    wrong = [f"input {s.name} is {feed[s.name].dtype}, the graph takes {s.dtype}" for s in inputs]
    return next((text for text, s in zip(wrong, inputs, strict=True) if str(feed[s.name].dtype) != s.dtype), "")


def _tensor_differences(bundle: Path, kind: Literal["input", "output"], wanted: Feed) -> Iterator[str]:
    for number, (name, array) in enumerate(wanted.items()):
        place = f"test_data_set_0/{kind}_{number}.pb"
        if (bundle / place).read_bytes() != onnx.numpy_helper.from_array(array, name).SerializeToString():
            yield f"{place}, {name}: not the sample that export writes"


def _message_feed(bundle: Path, kind: MessageKind, like: Mapping[str, npt.NDArray[Any]]) -> Feed:
    """The arrays of a message; null is NaN.

    Raises:
        InputError: it is no message of these outputs.
    """
    file = bundle / MESSAGES[kind]
    values, wanted = read_json(file), _plain(message(kind, dict(like)))
    shape = {kind: [own | {"data": None} for own in wanted[kind]]}
    try:
        found = {kind: [own | {"data": None} for own in values[kind]]} | {k: v for k, v in values.items() if k != kind}
        if wrong := next(json_differences(MESSAGES[kind], found, shape), None):
            raise ValueError(wrong)
        return {
            name: np.array(
                [math.nan if x is None else x for x in own["data"]], np.float64 if array.dtype.kind == "f" else None
            )
            .astype(array.dtype)
            .reshape(array.shape)
            for own, (name, array) in zip(values[kind], like.items(), strict=True)
        }
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise InputError("a sample cannot be read", where=file, found=error) from None


def _other_values(place: str, found: StoredFrame, wanted: FrameParts) -> Iterator[str]:
    """Of each column of a field's file, the first value that is another."""
    known: set[str] = set()
    for first, part in wanted:
        rows = found.rows(first, len(part))
        for column in (own for own in part.columns if own not in known):
            if not rows[column].equals(part[column], null_equal=True):
                known.add(column)
                row = int((rows[column].ne_missing(part[column])).arg_true()[0])
                mine, other = rows[column][row], part[column][row]
                yield f"{place}, column {column}, id {first + row}: found {mine!r}, export writes {other!r}"


def _answer_differences(place: str, expected: Feed, found: Feed, tolerance: float) -> Iterator[str]:
    """Sample answers that the graph does not give."""
    if list(found) != list(expected):
        yield f"{place}: outputs {list(found)}, the graph gives {list(expected)}"
        return
    as_json = place != "test_data_set_0"  # which has no infinity
    for name, values in expected.items():
        wanted = np.where(np.isfinite(values), values, np.nan) if as_json and values.dtype.kind == "f" else values
        if found[name].dtype != values.dtype:
            yield f"{place}, {name}: found {found[name].dtype}, the graph gives {values.dtype}"
            continue
        (difference,) = compare({name: wanted}, {name: found[name]})
        if not difference.relative <= tolerance:
            yield (
                f"{place}, {name}, row {difference.row}: found {difference.answered:.6g}, "
                f"the graph gives {difference.expected:.6g}"
            )
