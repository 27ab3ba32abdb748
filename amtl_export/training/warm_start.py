"""Begin with the embeddings and hidden layers of an earlier run (FBE → AMTL in the paper)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from amtl_export.data.vocabulary import FIRST_VALUE, Vocabulary
from amtl_export.errors import InputError
from amtl_export.models.ctr import CtrModel
from amtl_export.models.protocol import EmbeddingMethod
from amtl_export.training.run import Run, load_run


@torch.no_grad()
def warm_start(model: CtrModel, vocabularies: dict[str, Vocabulary], earlier: Path) -> list[str]:
    """Copy what fits, by field name and value, so the earlier run's data may differ.

    Returns:
        What was taken, a line each.

    Raises:
        InputError: the folder is no run, D differs, or no field is shared.
    """
    run = load_run(earlier)
    if run.model_config.dim != model.config.dim:
        raise InputError(
            "warm start from a run of another D",
            where=earlier,
            found=run.model_config.dim,
            allowed=model.config.dim,
            fix=f"--dim {run.model_config.dim}",
        )
    taken = []
    for path, method in model.named_modules():
        if isinstance(method, EmbeddingMethod) and isinstance(earlier_method := _at(run.model, path), EmbeddingMethod):
            taken += _rows(path, method, vocabularies, run, earlier_method)
    if not taken:
        raise InputError("warm start from a run that shares no field", where=earlier, allowed=", ".join(vocabularies))
    own, theirs = model.state_dict(), run.model.state_dict()
    for name, tensor in theirs.items():
        if name.startswith(("backbone.", "wide.numeric")) and name in own and own[name].shape == tensor.shape:
            own[name].copy_(tensor)
            taken.append(name)
    return taken


def _at(model: CtrModel, path: str) -> nn.Module | None:
    """The module at a path, if there is one."""
    return dict(model.named_modules()).get(path)


def _rows(
    path: str, method: EmbeddingMethod, vocabularies: dict[str, Vocabulary], run: Run, earlier_method: EmbeddingMethod
) -> list[str]:
    assert isinstance(method, nn.Module)
    assert isinstance(earlier_method, nn.Module)
    table, earlier_rows = (m.get_parameter("table.weight") for m in (method, earlier_method))
    positions = {field.name: i for i, field in enumerate(run.model_config.embedded)}
    taken = []
    for i, (name, vocabulary) in enumerate(vocabularies.items()):
        if name not in positions or run.vocabularies[name].type != vocabulary.type:
            continue
        known = torch.from_numpy(run.vocabularies[name].encode(vocabulary.values)).long()
        old = torch.cat([torch.arange(FIRST_VALUE), known])
        new = torch.arange(len(old))
        shared = (old > 0) | (new == 0)
        target = table[method.offsets[i] :]
        target[new[shared]] = earlier_rows[earlier_method.offsets[positions[name]] + old[shared]]
        where = "" if path == "embedding" else f" ({path})"
        taken.append(f"{name}{where}: {int(shared.sum())} of {vocabulary.size} rows")
    return taken
