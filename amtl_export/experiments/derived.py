"""Arms that are made rather than trained, and dims that are given rather than learned.

An arm may be trained by another process, so its functions are functions of modules and what is bound to them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from amtl_export.compression.compress import compress
from amtl_export.data.vocabulary import Vocabulary
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.models.ctr import CtrModel
from amtl_export.models.cut import CutEmbedding
from amtl_export.models.selection import Selector
from amtl_export.training.run import Run


def compressed(ratio: float) -> Callable[[Run], FrozenModel]:
    """A function from a run to its model in principal order, governed fields cut to mean dims of at most ratio·D."""
    return functools.partial(_compress, ratio)


def _compress(ratio: float, run: Run) -> FrozenModel:
    return compress(freeze(run), dim_budget=ratio, curve=False)


def fixed_dims(
    truth: Callable[[Vocabulary], npt.NDArray[np.int64]], *, reverse: bool
) -> Callable[[CtrModel, Mapping[str, Vocabulary]], None]:
    """A preparation that gives every governed id its true rank and one dim for its bias, or those turned round."""
    return functools.partial(_fix_dims, truth, reverse)


def _fix_dims(
    truth: Callable[[Vocabulary], npt.NDArray[np.int64]],
    reverse: bool,
    model: CtrModel,
    vocabularies: Mapping[str, Vocabulary],
) -> None:
    table = _cut(model)
    for i, field in enumerate(model.config.embedded):
        if field.governed and field.shares is None:
            rank = np.minimum(truth(vocabularies[field.name]) + 1, model.config.dim)
            kept = table.table.part(table.kept, i)
            dims = torch.from_numpy(rank[::-1].copy() if reverse else rank)
            kept.copy_(torch.where(kept > 0, dims, 0))


@torch.no_grad()
def keep_all(model: CtrModel, vocabularies: Mapping[str, Vocabulary]) -> None:  # noqa: ARG001 - a preparation's
    """Let selection networks choose all D dims for every id, whatever its frequency: h is its last bias alone."""
    for module in model.modules():
        if isinstance(module, Selector):
            biases = {id(bias) for bias in module.last_biases()}
            for layer in module.modules():
                if isinstance(layer, nn.Linear) and id(layer.bias) in biases:
                    layer.weight.zero_()
                    layer.bias.copy_(torch.arange(module.dim) / module.dim)


def _cut(model: CtrModel) -> CutEmbedding:
    assert isinstance(model.chooser, CutEmbedding)
    return model.chooser
