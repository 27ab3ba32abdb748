"""Begin with an earlier run's rows and hidden layers (FBE → AMTL in the paper), in principal order or as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from amtl_export.data.normalise import normalisations
from amtl_export.data.schema import Schema
from amtl_export.data.vocabulary import FIRST_VALUE, Vocabulary
from amtl_export.errors import InputError
from amtl_export.models.amtl import MaskedEmbedding
from amtl_export.models.config import SELECTING, ModelConfig
from amtl_export.models.ctr import CtrModel
from amtl_export.models.mde import MixedEmbedding
from amtl_export.models.table import FieldTable
from amtl_export.training.config import TrainConfig
from amtl_export.training.order import Ordered, as_read, cut_fields, dims_for, in_principal_order, keeps_basis
from amtl_export.training.run import Run, load_run

#: Methods whose rows are read as they are, so that rows of any method can be theirs.
_PLAIN = SELECTING | {"fbe", "cut"}

#: Modules with one part a field, called by its position.
_BY_POSITION = ("selectors", "selections", "projections", "attention")

#: What is computed for a data set and a method, and belongs to no other.
_OWN = ("kept", "numeric.mean", "numeric.std")


@dataclass(frozen=True)
class Start:
    """What a model starts from.

    Attributes:
        run: the earlier run.
        model: the run's own, or a rewritten one; its tensors are taken by name.
        notes: what was decided, and what was measured.
        dims: governed field → mean dims that its selection begins at, as a part of D.
        rows_refused: why nothing of the embedding is taken; empty if something is.
    """

    run: Run
    model: CtrModel
    notes: tuple[str, ...] = ()
    dims: Mapping[str, float] = field(default_factory=dict)
    rows_refused: str = ""

    def fit(self, config: ModelConfig) -> ModelConfig:
        """The new model's settings: with bases of its fields where the start has some."""
        return replace(config, ordered=self.model.config.ordered and config.method in _PLAIN)


def check_start(config: TrainConfig) -> Run | None:
    """The run that a configuration starts from, before the data is read; None for a random start.

    Raises:
        InputError: the folder is no run, or D differs.
    """
    if config.warm_start is None:
        return None
    run = load_run(config.warm_start)
    if run.model_config.dim != config.dim:
        raise InputError(
            "warm start from a run of another D",
            where=config.warm_start,
            found=run.model_config.dim,
            allowed=config.dim,
            fix=f"dim={run.model_config.dim}",
        )
    return run


def open_start(config: TrainConfig) -> Start | None:
    """The start that a configuration asks for; None for a random one.

    Raises:
        InputError: the folder is no run, or D differs.
    """
    if (run := check_start(config)) is None:
        return None
    theirs = run.model_config.method
    if config.method not in SELECTING or config.warm_order == "as-is":
        return _as_is(run, config.method)
    if config.warm_order is None and theirs in SELECTING:
        start = _as_is(run, config.method)
        return replace(start, notes=(f"rows as they are: {theirs} has chosen their order already",))
    ordered = in_principal_order(run)
    fields = [run.model_config.embedded[i].name for i in ordered.bases]
    where = "kept as a projection" if keeps_basis(run.model_config.backbone) else "folded into the first layer"
    ranks = ", ".join(
        f"{name} {basis.effective_rank:.1f}" for name, basis in zip(fields, ordered.bases.values(), strict=True)
    )
    notes = (
        f"principal order, the bases {where}; effective rank of D = {config.dim}: {ranks or 'no governed field'}",
        f"logits differ from the earlier run's by at most {ordered.difference:.2g}, all dims kept",
    )
    return Start(run, ordered.model, notes, _first_dims(config, ordered, run))


def _first_dims(config: TrainConfig, ordered: Ordered, run: Run) -> dict[str, float]:
    """Mean dims of each field as a part of D that cost the model least within the budget; empty without a budget."""
    if config.dim_budget is None or config.selection.initial_ratio is not None:
        return {}
    dims = dims_for(cut_fields(ordered, run), config.dim_budget, config.dim)
    names = run.model_config.embedded
    return {names[i].name: float(own[own > 0].mean()) / config.dim for i, own in dims.items()}


def _as_is(run: Run, method: str) -> Start:
    """The run's model; with rows as it reads them where the new method has no use for how it makes them."""
    theirs = run.model_config.method
    if method in ("fbe", "cut") or (method in SELECTING and _selectors(method) != _selectors(theirs)):
        return Start(run, as_read(run))
    refused = "" if _selectors(method) == _selectors(theirs) else f"{method} has rows of another kind than {theirs}"
    return Start(run, run.model, rows_refused=refused)


def _selectors(method: str) -> str:
    """Methods with the same networks have the same name here: amtl_nste's are amtl's."""
    return "amtl" if method == "amtl_nste" else method


@torch.no_grad()
def warm_start(
    model: CtrModel, vocabularies: dict[str, Vocabulary], start: Start, schema: Schema | None = None
) -> list[str]:
    """Take every tensor whose name and shape agree; rows by field name and value, so that the data may differ.

    Args:
        model: is filled.
        vocabularies: of its fields.
        start: where from.
        schema: of the data, where values may mean something else there than in the run.

    Returns:
        What was taken and what was not, a line each.

    Raises:
        InputError: nothing agrees, or rows in a basis that the model keeps are of other fields than it governs.
    """
    ours, theirs = _governed(model.config), _governed(start.model.config)
    if model.config.ordered and ours != theirs:
        raise InputError(
            "warm start: the model keeps a basis of every governed field, and those differ",
            where=start.run.path,
            found=", ".join(theirs),
            allowed=", ".join(ours),
            fix="warm_order='as-is'",
        )
    taking = _Taking(model, vocabularies, start, schema or start.run.schema)
    lines = [*start.notes, *taking.rows(), *taking.tensors(), *_begin(model, start)]
    if not taking.taken:
        raise InputError(
            "warm start from a run that shares no field and no layer",
            where=start.run.path,
            allowed=", ".join(vocabularies),
        )
    return lines


def _meanings(schema: Schema) -> dict[str, tuple[object, ...]]:
    """Field → what its values were made with."""
    return {name: (spec.part, spec.boundaries, spec.buckets) for name, spec in normalisations(schema).items()}


def _governed(config: ModelConfig) -> list[str]:
    return [own.name for own in config.embedded if own.governed]


def _begin(model: CtrModel, start: Start) -> Iterator[str]:
    """Let the selection of each field begin at the start's dims."""
    for i, own in enumerate(model.config.embedded):
        if own.name in start.dims and own.governed and isinstance(model.chooser, MaskedEmbedding):
            model.chooser.begin_at(i, start.dims[own.name])
            yield f"{own.name}: the selection begins near {start.dims[own.name]:.3g} D, by energy within the budget"


class _Taking:
    """Copies from one model to another.

    Args:
        model: is filled.
        vocabularies: of its fields.
        start: where from.
        schema: of the data.

    Attributes:
        taken: how many tables' parts and tensors were.
    """

    def __init__(self, model: CtrModel, vocabularies: dict[str, Vocabulary], start: Start, schema: Schema) -> None:
        self.taken = 0
        self._meanings, self._earlier_meanings = _meanings(schema), _meanings(start.run.schema)
        self._model, self._vocabularies = model, vocabularies
        self._earlier, self._run, self._rows_refused = start.model, start.run, start.rows_refused
        self._positions = {field.name: i for i, field in enumerate(self._earlier.config.embedded)}
        self._moved = {
            i: self._positions[field.name]
            for i, field in enumerate(model.config.embedded)
            if field.name in self._positions
        }

    def rows(self) -> Iterator[str]:
        """Rows of every table that both models have."""
        earlier = _tables(self._earlier)
        for path, table in _tables(self._model).items():
            if path.startswith("embedding.") and self._rows_refused:
                yield f"not taken: {path}: {self._rows_refused}"
                continue
            if path not in earlier or earlier[path].dim != table.dim:
                why = "the earlier run has none" if path not in earlier else f"{earlier[path].dim} numbers a row there"
                yield f"not taken: {path}: {why}"
                continue
            for i, own in enumerate(table.fields):
                if own.shares is None:
                    yield self._field_rows(path, table, i, earlier[path])

    def _field_rows(self, path: str, table: FieldTable, i: int, earlier: FieldTable) -> str:
        name = table.fields[i].name
        where = "" if path.startswith("embedding.") else f" ({path})"
        if why := self._refused(name, i):
            return f"not taken: {name}{where}: {why}"
        vocabulary, known = self._vocabularies[name], self._run.vocabularies[name]
        encoded = torch.from_numpy(known.encode(vocabulary.values).astype(np.int64))
        old = torch.cat([torch.arange(FIRST_VALUE), encoded])
        new = torch.arange(len(old))
        shared = (old > 0) | (new == 0)
        target = table.part(table.weight, i)
        rows = earlier.weight[earlier.offsets[self._moved[i]] + old[shared]]
        width = table.widths[i]
        cut = f", cut to {width} numbers" if rows[:, width:].any() else ""
        target[new[shared], :width] = rows[:, :width]
        self.taken += 1
        return f"{name}{where}: {int(shared.sum())} of {vocabulary.size} rows{cut}"

    def _refused(self, name: str, i: int) -> str:
        """Why a field's rows are not taken; empty if they are."""
        if i not in self._moved:
            return "the earlier run has no such field"
        if self._run.vocabularies[name].type != self._vocabularies[name].type:
            return f"its values are of type {self._run.vocabularies[name].type} there"
        if self._meanings.get(name) != self._earlier_meanings.get(name):
            return "its boundaries, buckets or part of a time differ"
        ours, theirs = self._model.chooser, self._earlier.chooser
        if not (isinstance(ours, MixedEmbedding) and isinstance(theirs, MixedEmbedding)):
            return ""
        return "" if ours.blocks.get(i) == theirs.blocks.get(self._moved[i]) else "its blocks of frequency differ"

    def tensors(self) -> Iterator[str]:
        """All that is no table, by name and shape."""
        tables = {f"{path}.weight" for path in _tables(self._model)}
        ours, theirs = self._model.state_dict(), self._earlier.state_dict()
        taken: dict[str, int] = {}
        left: dict[tuple[str, str], int] = {}
        for name, tensor in ours.items():
            if name in tables or name.endswith(_OWN):
                continue
            why = self._take(name, tensor, theirs)
            if why:
                left[_group(name), why] = left.get((_group(name), why), 0) + 1
            else:
                taken[_group(name)] = taken.get(_group(name), 0) + 1
        self.taken += sum(taken.values())
        yield from (f"{group}: {number} tensors" for group, number in taken.items())
        yield from (f"not taken: {group}, {number} tensors: {why}" for (group, why), number in left.items())
        named = {self._there(name) for name in ours}
        unused = sorted({_group(name) for name in theirs if name not in named and not name.endswith(_OWN)})
        yield from (f"not taken: {group} of the earlier run: this model has none" for group in unused)

    def _take(self, name: str, tensor: Tensor, theirs: dict[str, Tensor]) -> str:
        """Copy one tensor; why not, if not."""
        if name.startswith("embedding.") and self._rows_refused:
            return self._rows_refused
        other = theirs.get(self._there(name))
        if other is None:
            return "the earlier run has none"
        if other.shape != tensor.shape:
            return f"{tuple(other.shape)} there, {tuple(tensor.shape)} here"
        parts = name.split(".")
        if "projections" in parts and (
            why := self._refused(self._model.config.embedded[int(parts[-1])].name, int(parts[-1]))
        ):
            return why
        tensor.copy_(other)
        return ""

    def _there(self, name: str) -> str:
        """The earlier model's name of a tensor: parts of fields are called by position."""
        parts = name.split(".")
        for container, position in enumerate(parts[1:]):
            if parts[container] in _BY_POSITION and position.isdecimal():
                parts[container + 1] = str(self._moved.get(int(position), "none"))
        return ".".join(parts)


def _tables(model: CtrModel) -> dict[str, FieldTable]:
    """Path → table, of the embedding and of a wide part."""
    return {path: module for path, module in model.named_modules() if isinstance(module, FieldTable)}


def _group(name: str) -> str:
    """`backbone.layers.1.weight` → `backbone.layers`."""
    return ".".join(name.split(".")[:2])
