from pathlib import Path

import pytest

from amtl_export.data.schema import Schema
from amtl_export.errors import InputError

GOOD = """
label = "rating >= 4"
filter = "rating <> 3"
[split]
rule = "time"
column = "day"
valid_from = "2024-01-02"
test_from = "2024-01-03"
[[field]]
name = "user"
kind = "categorical"
[[field]]
name = "tags"
kind = "multi-valued"
separator = ";"
pool = "sum"
[[field]]
name = "price"
kind = "numeric"
transform = "log1p"
"""


def read(tmp_path: Path, text: str) -> Schema:
    (tmp_path / "schema.toml").write_text(text)
    return Schema.from_toml(tmp_path / "schema.toml")


def test_reads_every_part(tmp_path: Path) -> None:
    schema = read(tmp_path, GOOD)
    assert [f.name for f in schema.categorical] == ["user"]
    assert [f.name for f in schema.multi_valued] == ["tags"]
    assert [f.name for f in schema.numeric] == ["price"]
    assert schema.columns() == {"user", "tags", "price", "rating", "day"}


def test_is_the_same_as_json(tmp_path: Path) -> None:
    schema = read(tmp_path, GOOD)
    assert Schema.from_values(schema.to_json(), "json") == schema


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('kind = "numeric"', 'kind = "number"', "number"),
        ('label = "rating >= 4"', "", "label"),
        ('label = "rating >= 4"', 'label = "rating >="', "not a column or SQL expression"),
        ('name = "price"', 'name = "user"', "named twice: user"),
        ('name = "price"', 'name = "logit"', "used by the exported graph"),
        ('name = "price"', 'name = "pri ce"', "pri ce"),
        ('transform = "log1p"', 'transform = "log1p"\ncolour = 3', "colour"),
        ('test_from = "2024-01-03"', 'test_from = "2024-01-01"', "must come before"),
        ('test_from = "2024-01-03"', "test_from = 3", "both be texts or both be numbers"),
        ('pool = "sum"', "max_length = 0", "max_length"),
        ('kind = "categorical"', 'kind = "categorical"\nmin_count = 0', "min_count"),
    ],
)
def test_names_the_key_and_what_was_found(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in GOOD
    with pytest.raises(InputError) as caught:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert says in str(caught.value)
    assert "schema.toml" in str(caught.value)


def test_needs_an_embedded_field(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one categorical"):
        read(tmp_path, 'label = "y"\n[[field]]\nname = "x"\nkind = "numeric"\n')


@pytest.mark.parametrize("text", ["label = = 3", f"x = {'[' * 2000}", f"x = {'9' * 5000}"], ids=len)
def test_says_what_is_not_toml(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="not TOML"):
        read(tmp_path, text)


def test_says_that_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no schema\.toml"):
        Schema.from_toml(tmp_path / "schema.toml")


FIELD = '[[field]]\nname = "user"\nkind = "categorical"\n'


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ('label = "y"\n' + FIELD + "colour = 3\n", ["field.0.colour: unknown key, found 3; known are name, kind, "]),
        (
            'lable = "y"\n' + FIELD,
            ["lable: unknown key, found 'y'; did you mean label?"],
        ),
        (
            'label = "y"\n' + FIELD.replace("name", "nmae"),
            ["field.0.nmae: unknown key, found 'user'; did you mean name?"],
        ),
        (
            'label = "y"\n' + FIELD + 'governd = "x"\nmin_count = "a"\n',
            ["field.0.governd: unknown key, found 'x'; did you mean governed?", "field.0.min_count: Input should be"],
        ),
        ('label = "y"\n[[filed]]\nname = "user"\nkind = "categorical"\n', ["filed: unknown key; did you mean field?"]),
        (
            'label = "y"\n[split]\nrul = "random"\n' + FIELD,
            ["split.rul: unknown key, found 'random'; did you mean rule?"],
        ),
        (
            'label = "y"\n[split]\nrule = "random"\nvald = 0.2\n' + FIELD,
            ["split.vald: unknown key, found 0.2; did you mean valid?"],
        ),
        (
            'label = "y"\n[split]\nrule = "random"\ncolumn = "day"\n' + FIELD,
            ["split.column: unknown key, found 'day'; known are rule, valid, test"],
        ),
        (
            'label = "y"\n[split]\nrul = "column"\ncolum = "x"\n' + FIELD,
            ["split.rul: unknown key", "split.colum: unknown key, found 'x'; did you mean column?"],
        ),
        ('label = "y"\n[split]\nrule = "tme"\n' + FIELD, ["split: Input tag 'tme'"]),
        ('label = "y"\n[split]\nvalid = 0.1\n' + FIELD, ["split: rule is missing: random, time, column or files"]),
        (
            'label = "y"\n[split]\nrule = "time"\ncolumn = "d"\nvalid_from = [1]\ntest_from = "2024-01-02"\n' + FIELD,
            ["split.valid_from: neither a number nor a text nor a date"],
        ),
        ('label = "y"\n' + FIELD.replace("categorical", "number"), ["field.0.kind: Input should be 'categorical'"]),
        ('label = "y"\n' + FIELD + "min_count = true\n", ["field.0.min_count: Input should be a valid integer"]),
        ('label = "y"\nfield = []\n', ["field: at least one is needed"]),
        ('label = "y"\n', ["field: is missing"]),
        ('label = "y"\n' + FIELD.replace("[[field]]", "[field]"), ["field: is one table; say [[field]] before each"]),
        ('label = "y"\nfield = [1]\n', ["field.0: is no table, found 1"]),
        ('label = "y"\nsplit = "random"\n' + FIELD, ["split: is no table, found 'random'"]),
        ('label = "y"\n[files]\nmissing = "-"\n' + FIELD, ["files.missing: is no list, found '-'"]),
        ('label = "y"\ngrup = "user"\nfilter = 3\n' + FIELD, ["grup: unknown key", "filter: Input should be"]),
        (
            'label = "y"\n[files]\nformt = "csv"\n' + FIELD,
            ["files.formt: unknown key, found 'csv'; did you mean format?"],
        ),
        ('label = "y"\ngroup = ""\n' + FIELD, ["group: String should have at least 1 character"]),
        (
            'label = "y"\nweight = "tags"\n' + FIELD + '[[field]]\nname = "tags"\nkind = "multi-valued"\n',
            ["schema: weight = 'tags' is a field of several values a row"],
        ),
    ],
)
def test_each_problem_has_one_line(tmp_path: Path, text: str, problems: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    head, *found = caught.value.what.split("\n")
    assert head == f"{len(problems)} problem(s) in the schema:"
    assert len(found) == len(problems), found
    for line, start in zip(found, problems, strict=True):
        assert line.startswith(f"  {start}"), line


def test_group_and_weight_are_columns_or_fields(tmp_path: Path) -> None:
    text = 'group = "user"\nweight = "w"\n' + GOOD.replace('name = "user"', 'name = "user"\ncolumn = "uid"')
    schema = read(tmp_path, text)
    assert (schema.group_column, schema.weight_column) == ("uid", "w")
    assert schema.columns() == {"uid", "tags", "price", "rating", "day", "w"}
    assert Schema.from_values(schema.to_json(), "json") == schema
    assert read(tmp_path, GOOD).group_column is None


SEQUENCE = (
    GOOD.replace('name = "user"', 'name = "user"\ntype = "int64"', 1)
    + """
[[field]]
name = "seen"
kind = "sequence"
of = "user"
type = "int64"
"""
)


def test_a_sequence_lists_values_of_a_categorical_field(tmp_path: Path) -> None:
    schema = read(tmp_path, SEQUENCE)
    assert [f.name for f in schema.sequences] == ["seen"]
    assert schema.embedded[-1].name == "seen"
    assert Schema.from_values(schema.to_json(), "json") == schema


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('of = "user"\n', "", "go together"),
        ('kind = "sequence"', 'kind = "multi-valued"', "go together"),
        ('of = "user"', 'of = "tags"', "'tags' is no categorical field"),
        ('of = "user"\ntype = "int64"', 'of = "user"', "type 'string', but user has 'int64'"),
    ],
)
def test_a_sequence_that_does_not_fit_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in SEQUENCE
    with pytest.raises(InputError, match=says):
        read(tmp_path, SEQUENCE.replace(old, new, 1))
