"""An earlier run's model rewritten: rows as it reads them, and those in principal order.

    z = e · encode          what a table holds
    e = z · decode          what the rest of the model reads

`decode` goes into the first linear layer where that alone reads a field's rows (dnn, widedeep); deepfm shares one
orthogonal basis between all fields, which FM's products do not feel, and folds it too; crosses and attention keep it as
a projection, `models.ordered`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from amtl_export.data.encode import Rows
from amtl_export.models.config import ModelConfig
from amtl_export.models.ctr import CtrModel
from amtl_export.models.deepfm import DeepFm
from amtl_export.models.dnn import Dnn
from amtl_export.models.ordered import OrderedEmbedding
from amtl_export.models.table import FieldTable
from amtl_export.principal.basis import Basis, covariance, principal_basis, rows_in, shared_basis
from amtl_export.principal.dims import Dims, dims_within
from amtl_export.principal.dims import Rows as CutRows
from amtl_export.principal.gradients import Inputs, gradient_metrics
from amtl_export.training.batches import Batch
from amtl_export.training.run import Run, build_model

#: Backbones whose only reader of rows is linear, so that a basis of each field folds into it.
FOLDED = frozenset({"dnn", "widedeep"})

#: Backbones that a basis leaves alone if it is orthogonal and all fields share it, but for a linear layer.
SHARED = frozenset({"deepfm"})

#: Examples of the valid split that metrics are taken from, and that answers are compared on.
SAMPLE = 8192
_BATCH = 1024


@dataclass(frozen=True)
class Ordered:
    """A model in principal order.

    Attributes:
        model: method fbe: all dims kept.
        bases: governed field's position → its basis.
        difference: largest difference of a logit to the earlier model's, on a sample.
    """

    model: CtrModel
    bases: dict[int, Basis]
    difference: float


def keeps_basis(backbone: str) -> bool:
    """Whether a backbone's models keep the basis as a projection."""
    return backbone not in FOLDED | SHARED


@torch.no_grad()
def as_read(run: Run) -> CtrModel:
    """The run's model with method fbe: a row of each id as the backbone reads it, selection networks gone."""
    whole = tuple(replace(field, dim=None) for field in run.model_config.embedded)  # another basis has no such columns
    config = replace(run.model_config, method="fbe", ordered=False, embedded=whole)
    return _with_rows(run, run.model, config, _rows_read(run.model))


@torch.no_grad()
def in_principal_order(run: Run) -> Ordered:
    """The run's model with its governed fields in principal order; it answers as before but for float32 roundings."""
    plain = as_read(run).eval()
    sample = list(_sample(run.rows("valid")))
    bases = _bases(plain, run, sample)
    table = _table(plain)
    rows = table.weight.clone()
    for position, basis in bases.items():
        if run.model_config.embedded[position].shares is None:
            own = table.part(table.weight, position).numpy()
            table.part(rows, position).copy_(torch.from_numpy(rows_in(basis, own)))
    config = replace(plain.config, ordered=keeps_basis(plain.config.backbone))
    model = _with_rows(run, plain, config, rows).eval()
    _take_decode(model, bases)
    difference = max(float((model(*inputs) - run.model(*inputs)).abs().max()) for inputs in sample)
    governed = {i: basis for i, basis in bases.items() if run.model_config.embedded[i].governed}
    return Ordered(model, governed, difference)


def cut_fields(ordered: Ordered, run: Run) -> dict[int, CutRows]:
    """Position of every governed field that has rows of its own → its rows in principal order, as they may be cut."""
    table = _table(ordered.model)
    counts = [vocabulary.counts for vocabulary in run.vocabularies.values()]
    longest = table.full_dims()
    return {
        i: CutRows(
            table.part(table.weight.detach(), i).numpy(),
            counts[i].astype(np.float64),
            basis.weights,
            table.part(longest, i).numpy(),
        )
        for i, basis in ordered.bases.items()
        if run.model_config.embedded[i].shares is None
    }


def dims_for(fields: Mapping[int, CutRows], ratio: float, D: int) -> dict[int, Dims]:
    """The dims of least damage whose mean over all fields is at most ratio·D; field → int64 `[V]`."""
    most = int(ratio * D * sum(int((own.longest > 0).sum()) for own in fields.values()) + 1e-6)
    return dict(zip(fields, dims_within(list(fields.values()), most), strict=True))


def _bases(model: CtrModel, run: Run, sample: Sequence[Inputs]) -> dict[int, Basis]:
    """Position of every field whose rows are rewritten → basis.

    The directions are those of the rows alone, weighed by counts; gradients say how much a field's rows matter beside
    another's. So a basis is orthogonal and z is as large as e: training goes on with the step sizes that it knows.
    """
    config, table = model.config, _table(model)
    metrics = [np.eye(len(G)) * np.trace(G) / len(G) for G in gradient_metrics(model, sample)]
    counts = [vocabulary.counts for vocabulary in run.vocabularies.values()]
    scatters = [
        covariance(table.part(table.weight, i).numpy(), counts[i].astype(np.float64)) for i in range(len(counts))
    ]
    own = [i for i, field in enumerate(config.embedded) if field.governed and field.shares is None]
    if not own:
        return {}
    if config.backbone in SHARED:
        shared = dict(zip(own, shared_basis([scatters[i] for i in own], [metrics[i] for i in own]), strict=True))
        return {i: shared.get(owner, shared[own[0]]) for i, owner in enumerate(config.owners)}
    single = {i: principal_basis(scatters[i], metrics[i]) for i in own}
    return {i: single[owner] for i, owner in enumerate(config.owners) if owner in single}


def _take_decode(model: CtrModel, bases: Mapping[int, Basis]) -> None:
    """Undo the bases behind the table: in a projection, or in the first layer's columns."""
    decodes = {i: torch.from_numpy(basis.decode) for i, basis in bases.items()}
    if isinstance(model.embedding, OrderedEmbedding):
        for position, decode in decodes.items():
            model.embedding.bases[model.embedding.basis_of[position]] = decode.float()
        return
    weight = first_layer(model.backbone).weight
    D = model.config.dim
    for position, decode in decodes.items():
        columns = weight[:, position * D : (position + 1) * D]
        columns.copy_((columns.double() @ decode.T).float())


def first_layer(backbone: nn.Module) -> nn.Linear:
    """The linear layer that reads all rows side by side."""
    deep = backbone.deep if isinstance(backbone, DeepFm) else backbone
    assert isinstance(deep, Dnn)
    return next(layer for layer in deep.layers if isinstance(layer, nn.Linear))


def _with_rows(run: Run, model: CtrModel, config: ModelConfig, rows: Tensor) -> CtrModel:
    """A model of method fbe with the given rows; whatever stands behind the rows is the given model's."""
    with torch.random.fork_rng(devices=[]):
        made = build_model(config, run.vocabularies)
    rest = {name: value for name, value in model.state_dict().items() if not name.startswith("embedding.")}
    made.load_state_dict(rest, strict=False)
    _table(made).weight.copy_(rows)
    return made


def _table(model: CtrModel) -> FieldTable:
    return next(module for module in model.embedding.modules() if isinstance(module, FieldTable))


def _rows_read(model: CtrModel) -> Tensor:
    """float32 `[V_total, D]`: what the backbone reads of every id."""
    method = model.eval().method
    rows = torch.zeros(len(method.frozen_dims()), model.config.dim)
    for position, (size, offset) in enumerate(zip(method.sizes, method.offsets, strict=True)):
        for ids in torch.arange(size).split(1 << 16):
            rows[offset + ids] = method.lookup(ids.unsqueeze(1), (position,)).squeeze(1)
    return rows


def _sample(rows: Rows) -> Iterator[Inputs]:
    """Examples from all over a split."""
    index = np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64))
    for start in range(0, len(index), _BATCH):
        batch = Batch.of(rows.take(index[start : start + _BATCH]), torch.device("cpu"))
        yield batch.ids, batch.numeric, batch.multi
