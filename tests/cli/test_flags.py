"""The library names parameters; the command line says the same with its flags."""

import pytest

from amtl_export.cli.errors import flags, in_flags
from amtl_export.cli.main import cli

EXPORT = flags(cli.get_command(None, "export"))  # type: ignore[arg-type]  # no context is read


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a page width goes with layout='paged'", "a page width goes with --layout paged"),
        ("choose another folder, or say overwrite=True", "choose another folder, or say --overwrite"),
        ("dtype='fp32', first_layer='plain'", "--dtype fp32, --first-layer plain"),
        ("page_width=99.", "--page-width 99."),
        ("max_auc_drop=1e-4 would do", "--max-auc-drop 1e-4 would do"),
        ("out=runs/first is there", "--out runs/first is there"),
        ("choose another out", "choose another out"),
        ("max_auc_drop=None", "max_auc_drop=None"),
        ("dim=12 is no parameter of export", "dim=12 is no parameter of export"),
        ("relayout='paged'", "relayout='paged'"),
    ],
)
def test_parameters_become_flags(said: str, shown: str) -> None:
    assert in_flags(said, EXPORT) == shown


def test_a_flag_is_the_long_one() -> None:
    assert EXPORT["quiet"] == "--quiet"
    assert EXPORT["json_path"] == "--json"
    assert "source" not in EXPORT
