"""Tolerances that any number, or none, is within are refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from amtl_export.cli.main import run as called
from amtl_export.errors import InputError
from amtl_export.validation.verdict import Tolerances


@pytest.mark.parametrize("name", ["auc_atol", "logit_atol"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_tolerance_is_a_finite_number(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        Tolerances(**{name: value})


@pytest.mark.parametrize("words", [("--auc-atol", "nan"), ("--logit-atol", "inf")])
def test_the_command_refuses_it(words: tuple[str, str], tmp_path: Path) -> None:
    assert called(["validate", str(tmp_path), "--run", str(tmp_path), *words]) == 2
