"""A frozen model as a folder that `export` takes like a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from amtl_export.data.schema import Schema
from amtl_export.data.vocabulary import read_vocabularies, write_vocabularies
from amtl_export.errors import InputError
from amtl_export.files import atomic_folder, producer, read_json, write_json
from amtl_export.freezing.frozen import FrozenModel, frozen_tables, of_module, of_trained
from amtl_export.freezing.table import FrozenEmbedding
from amtl_export.models.config import ModelConfig
from amtl_export.source.source import build, is_factory
from amtl_export.training.run import build_model
from amtl_export.training.tensors import load_into, load_tensors, save_tensors


def is_frozen(path: Path) -> bool:
    """Whether a folder is a frozen model."""
    return (path / "config.json").is_file() and read_json(path / "config.json").get("kind") == "frozen"


def save_frozen(frozen: FrozenModel, out: Path | str, *, factory: str | None = None, overwrite: bool = False) -> None:
    """Write a frozen model.

    Args:
        frozen: from `freeze`.
        out: the folder.
        factory: `file.py:function` that makes a user's module, which is called again when the folder is opened.
        overwrite: replace an earlier folder.

    Raises:
        InputError: `out` exists and may not be replaced, or a user's module comes without its factory.
        EnvironmentLacks: no disk space or no permission.
    """
    if frozen.data is None and factory is None:
        raise InputError(
            "a user's module is saved with the factory that makes it", fix='save_frozen(…, factory="my_model.py:build")'
        )
    model = frozen.data.config.to_json() if frozen.data else None
    with atomic_folder(Path(out), overwrite=overwrite) as draft:
        config = {"producer": producer(), "kind": "frozen", "model": model, "factory": _absolute(factory)}
        hashes = {"origin": frozen.origin, "vocabulary_hash": frozen.vocabulary_hash}
        write_json(draft / "config.json", config | hashes)
        if frozen.data:
            write_json(draft / "schema.json", frozen.data.schema.to_json())
            write_vocabularies(draft, frozen.data.vocabularies)
        save_tensors(frozen.module.model.state_dict(), draft / "frozen.safetensors")


def _absolute(factory: str | None) -> str | None:
    """A factory's file wherever the command runs that opens the folder."""
    if factory is None:
        return None
    file, _, function = factory.rpartition(":")
    return f"{Path(file).resolve()}:{function}" if file.endswith(".py") else factory


def load_frozen(path: Path | str) -> FrozenModel:
    """Open what `save_frozen` wrote.

    Raises:
        InputError: not a frozen model, or a file of it is missing, truncated or corrupted.
    """
    path = Path(path)
    config = read_json(path / "config.json")
    if config.get("kind") != "frozen":
        raise InputError("the folder is not a frozen model", where=path, found=f"kind {config.get('kind')!r}")
    file = path / "frozen.safetensors"
    tensors = load_tensors(file)
    try:
        frozen = _rebuilt(path, config)
        frozen = frozen.with_tables(_tables(frozen.module.model, tensors))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("a frozen model's settings do not fit", where=path, found=error) from None
    load_into(frozen.module.model, tensors, file)
    frozen.module.eval().requires_grad_(False)
    return replace(frozen, origin=config["origin"])


def _tables(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, FrozenEmbedding]:
    """Path of every table → the table, from the tensors of a state dict."""
    names = {id(part): f"{name}." if name else "" for name, part in model.named_modules()}
    return {
        path: FrozenEmbedding(
            tensors[f"{names[id(table)]}rows"], tensors[f"{names[id(table)]}dims"], table.sizes, table.offsets
        )
        for path, table in frozen_tables(model).items()
    }


def _rebuilt(path: Path, config: dict[str, Any]) -> FrozenModel:
    """The model with other weights: of a run from its settings, of a user from the factory."""
    factory = config.get("factory")
    if factory:
        if not is_factory(factory):
            raise InputError("a frozen model's factory cannot be read", where=path, found=factory)
        return of_module(build(factory), factory)
    schema = Schema.from_values(read_json(path / "schema.json"), path / "schema.json")
    vocabularies = read_vocabularies(path, [f.name for f in schema.embedded])
    model_config = ModelConfig.from_json(config["model"])
    model = build_model(model_config, vocabularies)
    return replace(of_trained(model, model_config, schema, vocabularies, config["origin"]), trained=None)
