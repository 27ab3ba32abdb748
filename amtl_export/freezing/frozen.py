"""`freeze`: every embedding method in a model becomes a table of constants."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from amtl_export.data.schema import Schema
from amtl_export.data.vocabulary import Vocabulary, read_vocabularies, vocabulary_hash, write_vocabularies
from amtl_export.errors import InputError
from amtl_export.files import atomic_folder, producer, read_json, write_json
from amtl_export.freezing.op import lookup
from amtl_export.models.config import ModelConfig
from amtl_export.models.ctr import CtrModel
from amtl_export.models.protocol import Freezable
from amtl_export.training.run import Run, build_model
from amtl_export.training.tensors import load_into, load_tensors, save_tensors

M = TypeVar("M", bound=nn.Module)

#: Where the embedding table is in a `CtrModel`, itself or below; a wide part has a second one, of D = 1.
EMBEDDING = "embedding"


class FrozenEmbedding(nn.Module):
    """A table of constants; stands where an embedding method stood.

    Args:
        rows: float32 `[V_total, D]`, zero past `dims`.
        dims: int64 `[V_total]`, 0..D.
        sizes: V of each field.
        offsets: first row of each field.

    Raises:
        ValueError: shapes do not fit, dims are out of range, or a row is not zero past its dims.
    """

    rows: Tensor
    dims: Tensor

    def __init__(self, rows: Tensor, dims: Tensor, sizes: Sequence[int], offsets: Sequence[int]) -> None:
        super().__init__()
        self.sizes, self.offsets = tuple(sizes), tuple(offsets)
        _check_table(rows, dims, self.sizes, self.offsets)
        kept = torch.arange(rows.shape[1], device=rows.device) < dims.unsqueeze(1)
        # Every zero +0, never -0: layouts store one zero for all past dims, and may add zeros to a row.
        self.register_buffer("rows", torch.where(kept & (rows != 0), rows.detach(), 0.0))
        self.register_buffer("dims", dims.detach())

    def lookup(self, ids: Tensor, fields: Sequence[int]) -> Tensor:
        """Rows of ids `[B, K]` as `[B, K, D]`, any int64 ids."""
        sizes, offsets = ([values[f] for f in fields] for values in (self.sizes, self.offsets))
        rows: Tensor = lookup(self.rows, ids, sizes, offsets)
        return rows

    def forward(self, ids: Tensor) -> Tensor:
        """Rows `[*ids.shape, D]` of a table of one field: called like the `nn.Embedding` it may stand in for."""
        rows: Tensor = lookup(self.rows, ids.long(), self.sizes, self.offsets)
        return rows

    def frozen_rows(self) -> Tensor:
        """float32 `[V_total, D]`."""
        return self.rows

    def frozen_dims(self) -> Tensor:
        """int64 `[V_total]`."""
        return self.dims


def _check_table(rows: Tensor, dims: Tensor, sizes: Sequence[int], offsets: Sequence[int]) -> None:
    V, D = rows.shape
    needed = max((size + offset for size, offset in zip(sizes, offsets, strict=True)), default=0)
    if needed != V or dims.shape != (V,):
        raise ValueError(f"{V} rows and {len(dims)} dims for fields of {needed} ids")
    if V and (int(dims.min()) < 0 or int(dims.max()) > D):
        raise ValueError(f"dims must be within 0..{D}, got {int(dims.min())}..{int(dims.max())}")
    for start in range(0, V, 1 << 18):
        part = slice(start, start + (1 << 18))
        past = torch.arange(D, device=rows.device) >= dims[part].unsqueeze(1)
        wrong = ((rows[part] != 0) & past).any(dim=1)
        if wrong.any():
            row = start + int(wrong.int().argmax())
            raise ValueError(f"row {row} is not zero past its {int(dims[row])} dims")


@dataclass(frozen=True)
class FrozenModel:
    """A model whose embeddings are constants: what is exported.

    Attributes:
        module: evaluation mode; takes (ids, numeric, multi), gives logits.
        config: what the trained model was built from.
        schema: what the columns mean.
        vocabularies: embedded field → vocabulary.
        origin: the run's name, method and seed, for the bundle's report.
    """

    module: CtrModel
    config: ModelConfig
    schema: Schema
    vocabularies: dict[str, Vocabulary]
    origin: dict[str, Any]

    @property
    def tables(self) -> dict[str, FrozenEmbedding]:
        """Path in the module → frozen table."""
        return frozen_tables(self.module)

    @property
    def table(self) -> FrozenEmbedding:
        """The embedding table, which serves all fields."""
        return self.tables[self.table_path]

    @property
    def table_path(self) -> str:
        """Path of the embedding table in the module."""
        return next(path for path in self.tables if path.split(".")[0] == EMBEDDING)

    @property
    def projection_bytes(self) -> int:
        """Of what else stands between table and backbone: mde's projections."""
        return sum(p.numel() * p.element_size() for p in self.module.embedding.parameters())

    @property
    def dense_bytes(self) -> int:
        """Of all tables, dense."""
        return sum(table.rows.numel() * table.rows.element_size() for table in self.tables.values())

    @property
    def vocabulary_hash(self) -> str:
        """Over all vocabularies."""
        return vocabulary_hash(self.vocabularies)

    def field_dims(self, field: str) -> Tensor:
        """int64 `[V]`, dims of every id of a field."""
        index = [f.name for f in self.config.embedded].index(field)
        start = self.table.offsets[index]
        return self.table.dims[start : start + self.table.sizes[index]]


def frozen_tables(module: nn.Module) -> dict[str, FrozenEmbedding]:
    """Path in a module → frozen table."""
    return {name: part for name, part in module.named_modules() if isinstance(part, FrozenEmbedding)}


@torch.no_grad()
def freeze_module(model: M) -> M:
    """A copy of `model` with every `Freezable` in it replaced by a `FrozenEmbedding`.

    The copy shares no parameter with the original's tables and holds nothing of their selection networks.

    Raises:
        InputError: the model has nothing to freeze, or a method's rows and dims contradict each other.
    """
    memo: dict[int, Any] = {}
    frozen = 0
    for name, module in model.named_modules():
        if isinstance(module, Freezable):
            try:
                rows, dims = module.frozen_rows().clone(), module.frozen_dims().clone()
                memo[id(module)] = FrozenEmbedding(rows, dims, module.sizes, module.offsets)
            except ValueError as error:
                raise InputError("an embedding method's rows and dims disagree", where=name, found=error) from None
            frozen += 1
    if not frozen:
        raise InputError(
            "the model has nothing to freeze",
            found=type(model).__name__,
            allowed="a module with frozen_rows(), frozen_dims(), sizes and offsets",
        )
    return copy.deepcopy(model, memo).eval().requires_grad_(False)


def with_tables(module: M, tables: Mapping[str, FrozenEmbedding]) -> M:
    """A copy of a frozen module with other tables, by their paths; the rest is shared with nobody."""
    return copy.deepcopy(module, {id(module.get_submodule(path)): table for path, table in tables.items()})


@torch.no_grad()
def fold(frozen: FrozenModel) -> FrozenModel:
    """The same model with one row of D numbers for every id, projections multiplied in: the dense alternative."""
    method, D = frozen.module.method, frozen.config.dim
    rows = torch.zeros(len(frozen.table.dims), D)
    for field, (size, offset) in enumerate(zip(method.sizes, method.offsets, strict=True)):
        for ids in torch.arange(size).split(1 << 16):
            rows[offset + ids] = method.lookup(ids.unsqueeze(1), (field,)).squeeze(1)
    dims = torch.where(frozen.table.dims > 0, D, 0)
    folded = FrozenEmbedding(rows * (dims > 0).unsqueeze(1), dims, method.sizes, method.offsets)
    module = copy.deepcopy(frozen.module, {id(frozen.module.embedding): folded})
    return replace(frozen, module=module)


def freeze(run: Run) -> FrozenModel:
    """Freeze a run: dims of every id of every field in one batched pass, the selection network gone.

    Raises:
        InputError: as `freeze_module`.
    """
    origin = {
        "run": run.path.name,
        "method": run.model_config.method,
        "backbone": run.model_config.backbone,
        "seed": run.train.seed,
        "data": Path(run.train.data).name,  # a bundle travels: no path of the machine that trained it
    }
    return FrozenModel(freeze_module(run.model), run.model_config, run.schema, run.vocabularies, origin)


def save_frozen(frozen: FrozenModel, out: Path, *, overwrite: bool = False) -> None:
    """Write a frozen model as a folder that `export` also takes.

    Raises:
        InputError: `out` exists and may not be replaced.
        EnvironmentLacks: no disk space or no permission.
    """
    with atomic_folder(out, overwrite=overwrite) as draft:
        write_json(
            draft / "config.json",
            {
                "producer": producer(),
                "kind": "frozen",
                "model": frozen.config.to_json(),
                "origin": frozen.origin,
                "vocabulary_hash": frozen.vocabulary_hash,
            },
        )
        write_json(draft / "schema.json", frozen.schema.to_json())
        write_vocabularies(draft, frozen.vocabularies)
        save_tensors(frozen.module.state_dict(), draft / "frozen.safetensors")


def load_frozen(path: Path) -> FrozenModel:
    """Open what `save_frozen` wrote.

    Raises:
        InputError: not a frozen model, or a file of it is missing, truncated or corrupted.
    """
    config = read_json(path / "config.json")
    if config.get("kind") != "frozen":
        raise InputError("the folder is not a frozen model", where=path, found=f"kind {config.get('kind')!r}")
    schema = Schema.from_values(read_json(path / "schema.json"), path / "schema.json")
    vocabularies = read_vocabularies(path, [f.name for f in schema.embedded])
    file = path / "frozen.safetensors"
    tensors = load_tensors(file)
    try:
        model_config = ModelConfig.from_json(config["model"])
        module = freeze_module(build_model(model_config, vocabularies))
        for name, table in frozen_tables(module).items():
            rows, dims = tensors[f"{name}.rows"], tensors[f"{name}.dims"]
            module.set_submodule(name, FrozenEmbedding(rows, dims, table.sizes, table.offsets))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("a frozen model's settings do not fit", where=path, found=error) from None
    load_into(module, tensors, file)
    return FrozenModel(module.eval().requires_grad_(False), model_config, schema, vocabularies, config["origin"])
