"""Modules that are written otherwise than most: exported as they are, or refused by name with nothing changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amtl_export import compress, load
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import freeze, of_module
from amtl_export.freezing.swap import freeze_module, frozen_tables, thawed
from amtl_export.models.attach import attach, detach
from amtl_export.models.config import SelectionConfig
from amtl_export.source.source import Source
from amtl_export.validation.validate import validate

V, D = 30, 8


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Items(nn.Module):
    """A table, a layer, and what a test makes of them."""

    def __init__(
        self,
        items: nn.Module | None = None,
        answer: Callable[[Any, Tensor], Any] = lambda self, x: self.out(self.items(x)),
    ) -> None:
        super().__init__()
        self.items, self.out = items or nn.Embedding(V, D), nn.Linear(D, 1)
        self._answer = answer

    def forward(self, item: Tensor) -> Any:
        return self._answer(self, item)


IDS = torch.arange(6)


def proven(module: nn.Module, folder: Path, config: ExportConfig | None = None) -> list[str]:
    """Files of the fields of a bundle that is valid."""
    bundle = export(freeze(module.eval(), example=IDS), folder, config)
    assert validate(bundle.path, module).problems == []
    counts = [bundle.counts(name) for name in bundle.fields]
    assert counts == [None] * len(counts)
    assert all(len(bundle.dims(name)) == V for name in bundle.fields)
    return sorted(file.name for file in (bundle.path / "vocab").iterdir())


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("user/id", "user%2Fid.parquet"),
        ("{folder}/beside", "%2Fbeside.parquet"),
        ("a b-c_d", "a%20b-c_d.parquet"),
        ("%2F", "%252F.parquet"),
    ],
)
def test_a_name_of_a_module_leads_nowhere(tmp_path: Path, name: str, file: str) -> None:
    module = Items(answer=lambda self, x: self.out(self.get_submodule(name.format(folder=tmp_path))(x)))
    module.add_module(name.format(folder=tmp_path), nn.Embedding(V, D))
    del module.items
    assert [found[-len(file) :] for found in proven(module, tmp_path / "bundle")] == [file]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_name_that_is_too_long_for_a_file_is_refused() -> None:
    module = Items(nn.ModuleDict({"é" * 50: nn.Embedding(V, D)}), lambda self, x: self.out(self.items["é" * 50](x)))
    with pytest.raises(InputError, match=r"too long for a file\n  where: items\.é+\n  found: 314 bytes"):
        freeze(module, example=IDS)


def ones_id(self: Any, x: Tensor) -> Tensor:
    rows: Tensor = self.items(x) * self.items(x[0])
    return rows


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("config", [ExportConfig(), ExportConfig(layout="ragged", target="native")])
@pytest.mark.parametrize(
    "read",
    [
        ones_id,
        lambda self, x: self.items(x) * self.items(torch.tensor(3)),
        lambda self, x: self.items(x) * F.embedding(x[0], self.items.weight),
        lambda self, x: self.items(x) * self.items.weight[x[0]],
    ],
)
def test_one_id_without_an_axis(tmp_path: Path, read: Any, config: ExportConfig, attached: bool) -> None:
    module = Items(answer=lambda self, x: self.out(read(self, x)))
    if attached:
        attach(module, {"items": torch.arange(V)}, SelectionConfig(initial_ratio=0.5))
    bundle = export(freeze(module.eval(), example=IDS), tmp_path / "bundle", config)
    assert validate(bundle.path, module).problems == []


def test_one_id_without_an_axis_of_a_compressed_model(tmp_path: Path) -> None:
    module = Items(answer=lambda self, x: self.out(ones_id(self, x)))
    frozen = compress(freeze(module.eval(), example=IDS), dim_budget=0.5)
    bundle = export(frozen, tmp_path / "bundle")
    expected = frozen.answers(frozen.example)["output"]
    np.testing.assert_allclose(load(bundle.path).predict(frozen.example)["output"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("answer", "read", "whole"),
    [
        (lambda self, x: self.out(self.items(x) * self.twin(x + 1)), ["items", "twin"], []),
        (lambda self, x: self.out(self.items(x)), ["items"], []),
        (lambda self, x: self.out(self.items(x)) + self.twin.weight.sum(), ["items", "twin"], ["twin"]),
    ],
)
def test_tables_in_one_memory(tmp_path: Path, answer: Any, read: list[str], whole: list[str]) -> None:
    module = Items(answer=answer)
    weight: Any = module.items.weight
    module.twin = nn.Embedding.from_pretrained(weight.detach())
    source = Source(module.eval(), IDS)
    frozen = of_module(source, "two", shared=True)
    assert len({table.rows.data_ptr() for table in frozen_tables(frozen.module.model).values()}) == 1
    assert sorted(frozen.tables) == read
    assert sorted(frozen.read_whole) == whole
    bundle = export(frozen, tmp_path / "bundle")
    assert validate(bundle.path, source).problems == []


class Myself(nn.Embedding):
    def __deepcopy__(self, memo: Any) -> "Myself":
        return self


class MyselfWhole(Items):
    def __deepcopy__(self, memo: Any) -> "MyselfWhole":
        return self


def test_a_copy_that_is_the_module_itself_is_refused() -> None:
    for module, where in ((Items(Myself(V, D)), "items"), (MyselfWhole(), "MyselfWhole")):
        classes = [type(part) for part in module.modules()]
        with pytest.raises(InputError, match=rf"cannot be copied\n  where: {where}\n  found: the __deepcopy__ of"):
            freeze(module, example=IDS)
        assert [type(part) for part in module.modules()] == classes
        assert "weight" in module.items._parameters


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
@pytest.mark.parametrize("make", [torch.jit.script, lambda layer: torch.jit.trace(layer, torch.ones(2, D))])
def test_a_part_in_torchscript_is_refused(make: Any) -> None:
    module = Items()
    module.out = make(module.out)
    with pytest.raises(InputError, match=r"(?s)TorchScript.*where: out\n.*before torch\.jit"):
        freeze(module, example=IDS)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of torch.ao.quantization
def test_a_layer_that_is_quantized_already_is_refused() -> None:
    module = torch.ao.quantization.quantize_dynamic(Items().eval(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(InputError, match=r"(?s)quantized already\n  where: out\n.*layer_dtype='int8'"):
        freeze(module, example=IDS)


def test_a_layer_without_a_shape_is_refused() -> None:
    module = Items()
    module.out = nn.LazyLinear(1)
    with pytest.raises(InputError, match=r"(?s)lazy.*where: out\.weight\n.*run the model once"):
        freeze(module, example=IDS)
    module(IDS)
    norm = nn.Sequential(Items(), nn.LazyBatchNorm1d(affine=False))
    freeze(module, example=IDS)
    with pytest.raises(InputError, match=r"lazy layer has no shape yet\n  where: 1\.running_mean"):
        freeze(norm, example=(IDS,))


class Tagged(nn.Embedding):
    """Each subclass says a tag, and says it once."""

    known: ClassVar[set[str]] = set()

    def __init_subclass__(cls, *, tag: str, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        if tag in cls.known:
            raise TypeError(f"{tag} is known")
        cls.known.add(tag)


class First(Tagged, tag="first"):
    pass


class Last(type):
    """Of classes that have no subclass."""

    def __init__(cls, name: str, bases: tuple[type, ...], members: dict[str, Any]) -> None:
        super().__init__(name, bases, members)
        if any(isinstance(base, Last) for base in bases):
            raise TypeError("it is the last one")


class LastTable(nn.Embedding, metaclass=Last):
    pass


@pytest.mark.parametrize("kind", [Tagged, First])
def test_a_class_does_not_hear_of_generated_ones(tmp_path: Path, kind: Any) -> None:
    module = Items(kind(V, D)).eval()
    proven(module, tmp_path / "plain")
    assert type(thawed(freeze_module(module)).items) is kind
    attach(module, {"items": torch.arange(V)}, SelectionConfig(initial_ratio=0.5))
    bundle = export(freeze(module.eval(), example=IDS), tmp_path / "attached")
    assert validate(bundle.path, module).problems == []
    detach(module)
    assert type(module.items) is kind
    assert Tagged.known == {"first"}


def test_a_class_without_subclasses_is_refused() -> None:
    module = Items(LastTable(V, D))
    with pytest.raises(InputError, match=r"(?s)no subclass.*LastTable.*it is the last one"):
        freeze(module, example=IDS)
    with pytest.raises(ValueError, match="LastTable has no subclass, which attaching needs: it is the last one"):
        attach(module, {"items": torch.arange(V)})
    assert type(module.items) is LastTable


class Normed(nn.Embedding):
    """Gives rows of length 1 for its weight."""

    def __init__(self) -> None:
        super().__init__(V, D, _weight=torch.randn(V, D))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        if "weight" not in self._parameters:
            raise AttributeError("weight")
        return F.normalize(self._parameters["weight"], dim=1)  # type: ignore[arg-type]


def test_a_weight_that_a_class_computes(tmp_path: Path) -> None:
    module = Items(Normed(), lambda self, x: self.out(self.items(x) * self.users(x)))
    module.users = nn.Embedding(V, D)
    assert proven(module, tmp_path / "bundle") == ["users.parquet"]
    expected = module(IDS)
    with pytest.raises(ValueError, match=r"items: Normed\.weight computes the weight"):
        attach(module, {"items": torch.arange(V)})
    assert torch.equal(module(IDS), expected)


def test_a_weight_that_another_holder_computes(tmp_path: Path) -> None:
    module = Items(answer=lambda self, x: self.out(self.items(x) * self.twin(x) * self.users(x)))
    module.twin, module.users = Normed(), nn.Embedding(V, D)
    module.twin._parameters["weight"] = module.items._parameters["weight"]
    assert proven(module, tmp_path / "bundle") == ["users.parquet"]
    with pytest.raises(ValueError, match=r"twin: Normed\.weight computes the weight"):
        attach(module, {"items": torch.arange(V)})


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn])
def test_a_buffer_of_a_type_that_numpy_lacks_is_refused(kind: torch.dtype) -> None:
    module = Items()
    module.register_buffer("scale", torch.ones(D).to(kind))
    with pytest.raises(InputError, match=rf"(?s)a buffer is of a type.*scale.*{kind}"):
        freeze(module, example=IDS)


def test_a_complex_buffer(tmp_path: Path) -> None:
    def turned(self: Any, x: Tensor) -> Any:
        pairs = torch.view_as_complex(self.items(x).reshape(-1, D // 2, 2))
        return self.out(torch.view_as_real(pairs * self.angles).flatten(1))

    module = Items(answer=turned)
    module.register_buffer("angles", torch.polar(torch.ones(D // 2), torch.arange(D / 2)))
    proven(module, tmp_path / "bundle")


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.complex64, torch.uint16])
def test_an_output_of_a_type_that_graphs_do_not_give_is_refused(kind: torch.dtype) -> None:
    module = Items(answer=lambda self, x: {"score": self.out(self.items(x)), "other": self.items(x).to(kind)})
    with pytest.raises(InputError, match=rf"(?s)an output is of a type.*where: other.*{kind}.*float32"):
        freeze(module, example=IDS)


def test_autocast_to_bfloat16_is_refused(tmp_path: Path) -> None:
    def cast(self: Any, x: Tensor) -> Any:
        with torch.autocast("cpu"):
            return self.out(self.items(x)).float()

    with pytest.raises(InputError, match=r"(?s)computes in bfloat16\n  where: Items\n  found: Gemm.*torch\.autocast"):
        export(freeze(Items(answer=cast), example=IDS), tmp_path / "bundle")
    proven(Items(answer=lambda self, x: self.out(self.items(x).bfloat16().float())), tmp_path / "rounded")

    def branch(self: Any, x: Tensor) -> Any:
        rows = self.out(self.items(x))
        return torch.cond(rows.sum() > 0, lambda y: (y.bfloat16() * 2).float(), lambda y: y * 1.0, (rows,))

    with pytest.raises(InputError, match=r"(?s)computes in bfloat16\n.*found: Mul"):
        export(freeze(Items(answer=branch), example=IDS), tmp_path / "branch")
