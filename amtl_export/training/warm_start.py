"""Begin with the embeddings and hidden layers of an earlier run (FBE → AMTL in the paper)."""

from __future__ import annotations

from pathlib import Path

import torch

from amtl_export.data.vocabulary import FIRST_VALUE, Vocabulary
from amtl_export.errors import InputError
from amtl_export.models.ctr import CtrModel
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
    taken = _rows(model, vocabularies, run)
    if not taken:
        raise InputError("warm start from a run that shares no field", where=earlier, allowed=", ".join(vocabularies))
    own, theirs = model.state_dict(), run.model.state_dict()
    for name, tensor in theirs.items():
        if name.startswith("backbone.") and name in own and own[name].shape == tensor.shape:
            own[name].copy_(tensor)
            taken.append(name)
    return taken


def _rows(model: CtrModel, vocabularies: dict[str, Vocabulary], run: Run) -> list[str]:
    table = model.get_parameter("embedding.table.weight")
    earlier_rows = run.model.get_parameter("embedding.table.weight")
    positions = {field.name: i for i, field in enumerate(run.model_config.embedded)}
    taken = []
    for i, (name, vocabulary) in enumerate(vocabularies.items()):
        if name not in positions or run.vocabularies[name].type != vocabulary.type:
            continue
        earlier = run.vocabularies[name]
        known = torch.from_numpy(earlier.encode(vocabulary.values)).long()
        old = torch.cat([torch.arange(FIRST_VALUE), known])
        new = torch.arange(len(old))
        shared = (old > 0) | (new == 0)
        target = table[model.method.offsets[i] :]
        target[new[shared]] = earlier_rows[run.model.method.offsets[positions[name]] + old[shared]]
        taken.append(f"{name}: {int(shared.sum())} of {vocabulary.size} rows")
    return taken
