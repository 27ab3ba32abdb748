"""`my_model.py:build`: found, called, and told apart from what is no factory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from amtl_export.errors import InputError
from amtl_export.freezing.frozen import freeze
from amtl_export.source.source import Source, build, is_factory, source_of

MODEL = """
from dataclasses import dataclass
import torch
from torch import nn
from amtl_export import Source
from neighbour import SIZE

@dataclass
class Settings:
    dim: int = 4

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.items = nn.Embedding(SIZE, Settings().dim)
    def forward(self, item):
        return self.items(item).sum(-1)

EXAMPLE = {"item": torch.arange(5)}

def build():
    return Source(Model(), EXAMPLE, outputs=["score"])

def as_tuple():
    return Model(), EXAMPLE

def with_batches():
    return Model(), EXAMPLE, [(EXAMPLE, torch.ones(5))]

def as_dict():
    return {"module": Model(), "example": EXAMPLE, "score": "output"}

def fails():
    x = 1
    raise RuntimeError("no weights here")

def nothing():
    return None

def other_keys():
    return {"module": Model(), "inputs": EXAMPLE}

def of_no_module():
    return Source(3, EXAMPLE)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "my_model.py").write_text(MODEL)
    (tmp_path / "neighbour.py").write_text("SIZE = 9\n")
    return tmp_path / "my_model.py"


@pytest.mark.parametrize("name", ["build", "as_tuple", "with_batches", "as_dict"])
def test_what_factories_may_give(file: Path, name: str) -> None:
    source = build(f"{file}:{name}")
    assert isinstance(source.module, nn.Module)
    assert torch.equal(source.example["item"], torch.arange(5))
    assert (source.batches is not None) == (name == "with_batches")
    frozen = freeze(f"{file}:{name}")
    assert frozen.outputs == (("score",) if name == "build" else ("output",))
    assert frozen.tables["items"].rows.shape == (9, 4)
    assert frozen.origin["run"] == f"my_model.py:{name}"


def test_a_module_of_the_current_folder_or_of_a_package(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "shop_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "models.py").write_text(MODEL.replace("from neighbour import SIZE", "SIZE = 7"))
    monkeypatch.chdir(tmp_path)
    assert freeze("shop_of_mine.models:build").tables["items"].rows.shape == (7, 4)
    monkeypatch.chdir("/")
    with pytest.raises(InputError, match=r"(?s)failed.*ModuleNotFoundError.*shop_of_yours"):
        build("shop_of_yours.models:build")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("absent", r"(?s)the factory is not there.*absent.*build, as_tuple"),
        ("EXAMPLE", r"(?s)the factory is not there.*EXAMPLE"),
        ("fails", r"(?s)the factory failed.*my_model\.py, line 35.*RuntimeError: no weights here"),
        ("nothing", r"(?s)gives no model.*NoneType.*Source\(module="),
        ("other_keys", r"(?s)gives no model.*inputs"),
        ("of_no_module", "gives no model"),
    ],
)
def test_what_is_wrong_is_said(file: Path, name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        build(f"{file}:{name}")


def test_a_file_that_is_not_there_or_no_python(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)no such file.*absent\.py"):
        build(f"{tmp_path}/absent.py:build")
    (tmp_path / "broken_model.py").write_text("x = 1\ndef build(:\n")
    with pytest.raises(InputError, match=r"(?s)the factory failed.*:build \(broken_model\.py, line 2\).*SyntaxError"):
        build(f"{tmp_path}/broken_model.py:build")


def test_no_line_of_other_files_is_named() -> None:
    with pytest.raises(InputError, match=r"(?s)where: shop_of_yours:build\n.*ModuleNotFoundError"):
        build("shop_of_yours:build")


def test_a_factory_that_needs_arguments(tmp_path: Path) -> None:
    (tmp_path / "asks_model.py").write_text("def build(path, dim=4): ...\n")
    with pytest.raises(InputError, match=r"(?s)needs arguments.*build\(path, dim=4\).*fix: write one that calls it"):
        build(f"{tmp_path}/asks_model.py:build")


@pytest.mark.parametrize("code", ["", "'no weights'", "3"])
def test_a_factory_that_ends_the_process_is_an_error(tmp_path: Path, code: str) -> None:
    """As one does that reads its own arguments, or a program without a guard."""
    (tmp_path / "ends_model.py").write_text(f"import sys\nsys.exit({code})\n")
    with pytest.raises(InputError, match=r"(?s)the factory failed.*ends_model\.py, line 2.*SystemExit.*__main__"):
        build(f"{tmp_path}/ends_model.py:build")


def test_an_error_of_the_librarys_own_comes_through(tmp_path: Path) -> None:
    (tmp_path / "refuses.py").write_text(
        "from amtl_export.errors import InputError\ndef build():\n    raise InputError('weights are missing')\n"
    )
    with pytest.raises(InputError, match=r"^weights are missing$"):
        build(f"{tmp_path}/refuses.py:build")


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("my_model.py:build", True),
        ("/a/b/my_model.py:build", True),
        ("package.module:build", True),
        ("runs/first", False),
        ("runs/first:second", False),
        ("my_model.py", False),
        ("my_model.py:3", False),
        (":build", False),
    ],
)
def test_names_of_factories(text: str, is_one: bool) -> None:
    assert is_factory(text) == is_one


@pytest.mark.parametrize("value", [(), (nn.Linear(1, 1),), {"module": nn.Linear(1, 1)}, nn.Linear(1, 1), "text"])
def test_what_is_no_source(value: Any) -> None:
    with pytest.raises(InputError, match="gives no model"):
        source_of(value, "here")


def test_a_module_needs_an_example() -> None:
    with pytest.raises(InputError, match="needs an example"):
        freeze(nn.Linear(2, 2))


def test_splits_of_labelled_batches() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items = nn.Embedding(9, 4)

        def forward(self, item: torch.Tensor) -> Any:
            return self.items(item).sum(-1)

    def batches() -> Any:
        return ((torch.arange(3) + i, torch.tensor([[0], [1], [0]])) for i in range(2))

    frozen = freeze(Source(Model(), torch.arange(3), batches={"test": batches}))
    assert frozen.labelled is not None
    for _ in range(2):  # a function is called anew
        found = list(frozen.labelled("test"))
        assert [feed["item"].tolist() for feed, _ in found] == [[0, 1, 2], [1, 2, 3]]
        assert [labels["output"].tolist() for _, labels in found] == [[0, 1, 0]] * 2
    with pytest.raises(InputError, match=r"(?s)no such split.*valid.*test"):
        list(frozen.labelled("valid"))
