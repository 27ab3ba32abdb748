"""Begin with the embeddings and hidden layers of an earlier run (FBE → AMTL in the paper)."""

from __future__ import annotations

from pathlib import Path

import torch

from amtl_export.data.vocabulary import FIRST_VALUE, Vocabulary
from amtl_export.errors import InputError
from amtl_export.models.ctr import CtrModel
from amtl_export.models.table import FieldTable
from amtl_export.training.run import Run, load_run


@torch.no_grad()
def warm_start(model: CtrModel, vocabularies: dict[str, Vocabulary], earlier: Path) -> list[str]:
    """Copy what fits, by field name and value, so the earlier run's data may differ.

    Returns:
        What was copied, a line each.

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
            fix=f"dim={run.model_config.dim}",
        )
    copied: list[str] = []
    tables, earlier_tables = _tables(model), _tables(run.model)
    if _row_width(tables) is None or _row_width(tables) != _row_width(earlier_tables):
        raise InputError(
            "warm start between methods whose rows differ in kind",
            where=earlier,
            found=f"{run.model_config.method} → {model.config.method}",
            allowed="from and to fbe, amtl, aml, amtl_nste, magprune",
        )
    for path, table in tables.items():
        if path in earlier_tables:
            copied += _rows(path, table, vocabularies, run, earlier_tables[path])
    if not copied:
        raise InputError("warm start from a run that shares no field", where=earlier, allowed=", ".join(vocabularies))
    ours, theirs = model.state_dict(), run.model.state_dict()
    for name, tensor in theirs.items():
        if name.startswith(("backbone.", "wide.numeric")) and name in ours and ours[name].shape == tensor.shape:
            ours[name].copy_(tensor)
            copied.append(name)
    return copied


def _tables(model: CtrModel) -> dict[str, FieldTable]:
    """Path → table, of the embedding and of a wide part."""
    return {path: module for path, module in model.named_modules() if isinstance(module, FieldTable)}


def _row_width(tables: dict[str, FieldTable]) -> int | None:
    """Floats of an embedding row that is used as it is; None for methods that keep rows of another kind."""
    table = tables.get("embedding.table")
    return None if table is None else table.dim


def _rows(
    path: str, table: FieldTable, vocabularies: dict[str, Vocabulary], run: Run, earlier: FieldTable
) -> list[str]:
    positions = {field.name: i for i, field in enumerate(run.model_config.embedded)}
    copied = []
    for i, (name, vocabulary) in enumerate(vocabularies.items()):
        if (
            table.fields[i].shares is not None
            or name not in positions
            or run.vocabularies[name].type != vocabulary.type
        ):
            continue
        known = torch.from_numpy(run.vocabularies[name].encode(vocabulary.values)).long()
        old = torch.cat([torch.arange(FIRST_VALUE), known])
        new = torch.arange(len(old))
        shared = (old > 0) | (new == 0)
        target = table.part(table.weight, i)
        target[new[shared]] = earlier.weight[earlier.offsets[positions[name]] + old[shared]]
        where = "" if path == "embedding.table" else f" ({path})"
        copied.append(f"{name}{where}: {int(shared.sum())} of {vocabulary.size} rows")
    return copied
