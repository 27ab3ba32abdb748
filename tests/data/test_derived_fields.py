"""Fields whose values are made of the data's: what `schema.toml` may say, and what it says where it is wrong."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from amtl_export.data.normalise import normalisations
from amtl_export.data.schema import Schema
from amtl_export.errors import InputError

REST = 'label = "y"\n[[field]]\nname = "item"\nkind = "categorical"\n'
FIELD = '[[field]]\nname = "f"\n'


def read(folder: Path, text: str) -> Schema:
    (folder / "schema.toml").write_text(REST + FIELD + text, encoding="utf-8")
    return Schema.from_toml(folder / "schema.toml")


def refused(folder: Path, text: str) -> str:
    """The one line that says what is wrong."""
    with pytest.raises(InputError) as caught:
        read(folder, text)
    head, *lines = caught.value.what.split("\n")
    assert head == "1 problem(s) in the schema:"
    (line,) = lines
    return line.strip()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('kind = "categorical"\ndefault = "  none  given "', "none given"),
        ('kind = "categorical"\ndefault = " none "\ntrim = false', " none "),
        ('kind = "categorical"\ndefault = 7', "7"),
        ('kind = "categorical"\ntype = "int64"\ndefault = 7', 7),
        ('kind = "categorical"\ntype = "int64"\ndefault = "+7.0"', 7),
        ('kind = "numeric"\ndefault = 0.1', 0.10000000149011612),
        ('kind = "numeric"\ndefault = -1', -1.0),
        ('kind = "multi-valued"\ndefault = "none"', "none"),
        ('kind = "sequence"\nof = "item"\ndefault = "none"', "none"),
        ('kind = "categorical"\nboundaries = [0, 10]\ndefault = 12.5', 2),
        ('kind = "categorical"\nboundaries = [0, 10]\ndefault = "-1"', 0),
    ],
)
def test_a_default_is_read_as_a_value_is(tmp_path: Path, text: str, found: object) -> None:
    schema = read(tmp_path, text)
    default = normalisations(schema)["f"].default
    assert (default, type(default)) == (found, type(found))
    assert Schema.from_values(schema.to_json(), "json") == schema


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('kind = "categorical"\ndefault = " "', "schema: field f: default = ' ' means that a value is missing"),
        ('kind = "categorical"\nmissing = ["?"]\ndefault = "?"', "default = '?' means that a value is missing"),
        ('kind = "categorical"\ndefault = 1.5', "default = 1.5 is no value of the field, which takes texts or whole"),
        ('kind = "categorical"\ndefault = true', "field.1.default: neither a text nor a number, found True"),
        ('kind = "categorical"\ndefault = ["a"]', "field.1.default: neither a text nor a number"),
        ('kind = "categorical"\ntype = "int64"\ndefault = "a"', "which takes a whole number that int64 holds"),
        ('kind = "categorical"\ntype = "int64"\ndefault = 9223372036854775808', "int64 does not hold it"),
        ('kind = "categorical"\ntype = "int64"\ndefault = -9223372036854775808', "means that a value is missing"),
        ('kind = "numeric"\ndefault = "a"', "which takes a finite number that float32 holds"),
        ('kind = "numeric"\ndefault = 1e39', "which takes a finite number that float32 holds"),
        ('kind = "numeric"\ndefault = nan', "means that a value is missing"),
        ('kind = "numeric"\nmissing = ["-1"]\ndefault = -1', "means that a value is missing"),
        ('kind = "multi-valued"\ndefault = "a|b"', "default = 'a|b' holds the separator '|'; give one value"),
    ],
)
def test_a_default_that_is_no_value(tmp_path: Path, text: str, says: str) -> None:
    assert says in refused(tmp_path, text)


def test_boundaries_imply_whole_numbers(tmp_path: Path) -> None:
    schema = read(tmp_path, 'kind = "categorical"\nboundaries = [-1, 0.1, 1e3]\n')
    assert schema.fields[1].type == "int64"
    spec = normalisations(schema)["f"]
    assert (spec.type, spec.value_type) == ("float32", "int64")
    assert spec.boundaries == (-1.0, 0.10000000149011612, 1000.0)
    assert Schema.from_values(schema.to_json(), "json") == schema
    assert read(tmp_path, 'kind = "categorical"\ntype = "int64"\nboundaries = [-1, 0.1, 1e3]\n') == schema


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('kind = "categorical"\nboundaries = []', "field.1.boundaries: at least one is needed"),
        ('kind = "categorical"\nboundaries = 3', "field.1.boundaries: is no list, found 3"),
        ('kind = "categorical"\nboundaries = ["1"]', "field.1.boundaries.0: Input should be a valid number, found '1'"),
        ('kind = "categorical"\nboundaries = [0, inf]', "field.1.boundaries.1: Input should be a finite number"),
        ('kind = "categorical"\nboundaries = [0, 1e39]', "boundaries has 1e+39, which float32 does not hold"),
        ('kind = "categorical"\nboundaries = [0, 2, 1]', "boundaries must increase, as float32 too: 2.0, 1.0"),
        ('kind = "categorical"\nboundaries = [1, 1.00000001]', "as float32 too: 1.0, 1.00000001"),
        ('kind = "categorical"\nboundaries = [1]\ndefault = "x"', "which takes a finite number that float32 holds"),
        ('kind = "categorical"\nboundaries = [1]\ntype = "string"', "boundaries gives whole numbers; leave type = 's"),
        ('kind = "numeric"\nboundaries = [1]', "boundaries is for kind = \"categorical\", not 'numeric'"),
        ('kind = "multi-valued"\nboundaries = [1]', "boundaries is for kind = \"categorical\", not 'multi-valued'"),
    ],
)
def test_boundaries_that_make_no_sense(tmp_path: Path, text: str, says: str) -> None:
    assert says in refused(tmp_path, text)


def test_a_sequence_cannot_list_buckets(tmp_path: Path) -> None:
    seen = '[[field]]\nname = "seen"\nkind = "sequence"\nof = "f"\n'
    says = refused(tmp_path, 'kind = "categorical"\nboundaries = [1]\n' + seen)
    assert says == "schema: field seen: f has boundaries, and its values are no other field's"


def test_parts_imply_whole_numbers(tmp_path: Path) -> None:
    text = 'kind = "categorical"\npart = "month"\ndefault = "2024-05-01"\n'
    schema = read(tmp_path, text)
    assert schema.fields[1].type == "int64"
    spec = normalisations(schema)["f"]
    assert (spec.type, spec.value_type, spec.part, spec.unit, spec.default) == ("time", "int64", "month", None, 5)
    assert Schema.from_values(schema.to_json(), "json") == schema
    spec = normalisations(read(tmp_path, 'kind = "categorical"\npart = "hour"\nunit = "ms"\ndefault = 3600000'))["f"]
    assert (spec.type, spec.unit, spec.default) == ("int64", "ms", 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('kind = "categorical"\npart = "year"', "field.1.part: Input should be 'hour', 'weekday', 'day' or 'month'"),
        ('kind = "categorical"\npart = "day"\nunit = "us"', "field.1.unit: Input should be 's' or 'ms'"),
        ('kind = "categorical"\nunit = "s"', "unit is for part = …"),
        ('kind = "categorical"\npart = "day"\nboundaries = [1]', "boundaries and part exclude each other"),
        ('kind = "categorical"\npart = "day"\ntype = "string"', "part gives whole numbers; leave type = 'string' out"),
        ('kind = "numeric"\npart = "day"', "part is for kind = \"categorical\", not 'numeric'"),
        ('kind = "categorical"\npart = "hour"\ndefault = "2024-05-01"', "which takes a time like 2024-05-01T12:00:00"),
        ('kind = "categorical"\npart = "day"\nunit = "s"\ndefault = "2024-05-01"', "a whole number, in s since 1970"),
    ],
)
def test_parts_that_make_no_sense(tmp_path: Path, text: str, says: str) -> None:
    assert says in refused(tmp_path, text)


def test_buckets_keep_the_type_that_values_are_read_as(tmp_path: Path) -> None:
    seen = '[[field]]\nname = "seen"\nkind = "sequence"\nof = "f"\n'
    schema = read(tmp_path, 'kind = "categorical"\nbuckets = 50\ndefault = "x"\n' + seen)
    specs = normalisations(schema)
    assert [(specs[name].type, specs[name].value_type, specs[name].buckets) for name in ("f", "seen")] == [
        ("string", "int64", 50),
        ("string", "int64", 50),
    ]
    assert specs["f"].default == zlib.crc32(b"x") % 50
    assert Schema.from_values(schema.to_json(), "json") == schema


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('kind = "categorical"\nbuckets = 1', "field.1.buckets: Input should be greater than or equal to 2, found 1"),
        ('kind = "categorical"\nbuckets = 16777217', "field.1.buckets: Input should be less than or equal to 16777216"),
        ('kind = "categorical"\nbuckets = true', "field.1.buckets: Input should be a valid integer, found True"),
        ('kind = "numeric"\nbuckets = 9', 'buckets is for kind = "categorical" or "multi-valued", not \'numeric\''),
        ('kind = "sequence"\nof = "item"\nbuckets = 9', "or \"multi-valued\", not 'sequence'"),
        ('kind = "categorical"\nboundaries = [1]\nbuckets = 9', "buckets and boundaries exclude each other"),
        ('kind = "categorical"\npart = "day"\nbuckets = 9', "buckets and part exclude each other"),
    ],
)
def test_buckets_that_make_no_sense(tmp_path: Path, text: str, says: str) -> None:
    assert says in refused(tmp_path, text)
