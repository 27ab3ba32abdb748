"""A frozen model as a folder that `export` takes like a run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from amtl_export.data.schema import Schema
from amtl_export.data.vocabulary import write_vocabularies
from amtl_export.errors import InputError
from amtl_export.files import (
    atomic_folder,
    check_regular,
    check_source,
    producer,
    read_json,
    read_object,
    real,
    refuse_inside,
    write_json,
)
from amtl_export.freezing.compressed import Compressed
from amtl_export.freezing.folding import fold
from amtl_export.freezing.frozen import FrozenModel, freeze, of_module, of_trained
from amtl_export.freezing.swap import frozen_tables
from amtl_export.freezing.table import CodedEmbedding, FrozenEmbedding
from amtl_export.source.source import absolute, build, is_factory
from amtl_export.training.run import built_for, known_vocabularies, read_model_config
from amtl_export.training.tensors import load_tensors, map_into, save_tensors

#: Of a compressed model: what it was compressed from, and what that found.
COMPRESSED = "compressed.json"


def is_frozen(path: Path) -> bool:
    """Whether a folder is a frozen model."""
    return (path / "config.json").is_file() and read_object(path / "config.json").get("kind") == "frozen"


def save_frozen(frozen: FrozenModel, out: Path | str, *, factory: str | None = None, overwrite: bool = False) -> None:
    """Write a frozen model.

    Args:
        frozen: from `freeze`.
        out: the folder.
        factory: `file.py:function` that makes a user's module, which is called again when the folder is opened; not
            needed where the model was opened from one.
        overwrite: replace an earlier folder.

    Raises:
        InputError: `out` exists and may not be replaced, it holds what the model was read from, or a user's
            module comes without its factory.
        EnvironmentLacks: no disk space or no permission.
    """
    factory = None if frozen.data else factory or _factory(frozen.source)
    if frozen.data is None and factory is None:
        raise InputError(
            "a user's module is saved with the factory that makes it", fix='save_frozen(…, factory="my_model.py:build")'
        )
    refuse_sources(frozen, Path(out))
    original = None if frozen.compressed is None else frozen.compressed.original
    if original is not None and original.source is not None:  # the folder states its digest
        check_source(original.source, Path(out), overwrite)
    model = frozen.data.config.to_json() if frozen.data else None
    with atomic_folder(Path(out), overwrite=overwrite) as draft:
        config = {"producer": producer(), "kind": "frozen", "model": model}
        known = {"factory": factory and absolute(factory), "origin": frozen.origin}
        write_json(draft / "config.json", config | known | {"vocabulary_hash": frozen.vocabulary_hash})
        if frozen.compressed:
            write_json(draft / COMPRESSED, _compressed(frozen, Path(out)))
        if frozen.data:
            write_json(draft / "schema.json", frozen.data.schema.to_json())
            write_vocabularies(draft, frozen.data.vocabularies)
        save_tensors(frozen.module.model.state_dict(), draft / "frozen.safetensors")


def refuse_sources(frozen: FrozenModel, out: Path) -> None:
    """Refuse to write a folder over the one that the model was read from, or was compressed from.

    Raises:
        InputError: `out` is such a folder, or holds one, or lies in a folder that this tool made.
    """
    refuse_inside(out)
    model: FrozenModel | None = frozen
    while model is not None:
        source = model.source
        if source is not None and Path(source).is_dir() and real(source).is_relative_to(real(out)):
            raise InputError("the output folder holds what is read", where=out, fix="choose another folder")
        model = model.compressed.original if model.compressed is not None else None


def _factory(source: str | None) -> str | None:
    """The factory behind a source: itself, or that of a frozen folder."""
    if source is None or is_factory(source):
        return source
    factory: str | None = read_object(Path(source) / "config.json").get("factory")
    return factory


def _compressed(frozen: FrozenModel, out: Path) -> dict[str, Any]:
    """What a compressed model is judged by, and where what it was made of can be opened."""
    assert frozen.compressed is not None
    original = frozen.compressed.original
    source = None if original is None or original.source is None or is_factory(original.source) else original.source
    places = {"source": source, "relative": source and os.path.relpath(source, real(out))}
    bases = {path: list(table.basis_of) for path, table in frozen.coded.items()}
    return places | {"digest": _digest(source), "bases": bases, "report": frozen.compressed.report}


def _digest(source: Path | str | None) -> str | None:
    """SHA-256 of a run's or a frozen folder's weights; None where there are none."""
    files = [] if source is None else [Path(source) / name for name in ("model.safetensors", "frozen.safetensors")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_frozen(path: Path | str) -> FrozenModel:
    """Open what `save_frozen` wrote.

    Raises:
        InputError: not a frozen model, or a file of it is missing, truncated or corrupted.
    """
    path = Path(path)
    check_regular(path)
    config = read_object(path / "config.json")
    if config.get("kind") != "frozen":
        raise InputError("the folder is not a frozen model", where=path, found=f"kind {config.get('kind')!r}")
    _check_origin(config.get("origin"), path / "config.json")
    file = path / "frozen.safetensors"
    tensors = load_tensors(file)
    compressed = read_object(path / COMPRESSED) if (path / COMPRESSED).is_file() else None
    if compressed is not None:
        _check_compressed(compressed, path / COMPRESSED)
    try:
        frozen = _rebuilt(path, config, tensors)
        original: FrozenModel | None = None
        if compressed is not None:
            original = _original(path, compressed, frozen)
            frozen = replace(fold(frozen), trained=None)
        bases = {} if compressed is None else compressed["bases"]
        frozen = frozen.with_tables(_tables(frozen.module.model, tensors, bases))
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise InputError("a frozen model's settings do not fit", where=path, found=found) from None
    map_into(frozen.module.model, file)
    frozen.module.eval().requires_grad_(False)
    frozen = replace(frozen, origin=config["origin"], source=str(real(path)))
    if compressed is None:
        return frozen
    report = compressed["report"]
    judged = Compressed(original, report["max_auc_drop"], report)
    if original is None:
        return replace(frozen, labelled=None, beside=None, compressed=judged)
    beside = original.beside
    return replace(frozen, labelled=original.labelled, beside=beside, raw=original.raw, compressed=judged)


def _original(path: Path, compressed: dict[str, Any], frozen: FrozenModel) -> FrozenModel | None:
    """The model that was compressed: the factory's, or a folder whose weights are still what they were."""
    if compressed["source"] is None:
        return frozen if frozen.data is None else None
    places = [path / compressed["relative"], Path(compressed["source"])]
    found = next((place for place in places if _digest(place) == compressed["digest"]), None)
    return None if found is None else freeze(found)


def _tables(
    model: nn.Module, tensors: Mapping[str, Tensor], bases: Mapping[str, list[int]]
) -> dict[str, FrozenEmbedding | CodedEmbedding]:
    """Path of every table → the table, from the tensors of a state dict."""
    names = {id(part): f"{name}." if name else "" for name, part in model.named_modules()}
    made: dict[str, FrozenEmbedding | CodedEmbedding] = {}
    for path, table in frozen_tables(model).items():
        name = names[id(table)] + ("coded." if path in bases else "")
        stored, dims = tensors[f"{name}rows"], tensors[f"{name}dims"]
        made[path] = rows = FrozenEmbedding(stored, dims, table.sizes, table.offsets, shared=True)
        if path in bases:
            made[path] = CodedEmbedding(rows, tensors[f"{names[id(table)]}bases"].clone(), bases[path])
    return made


def _check_origin(origin: Any, where: Path) -> None:
    """Where a model comes from, in words of one line, and a number."""
    texts = ("run", "method", "backbone", "data")
    if not isinstance(origin, dict) or set(origin) != {*texts, "seed"}:
        raise InputError("a frozen model's origin cannot be read", where=where, found=f"origin: {origin!r}")
    for name in texts:
        sound = isinstance(origin[name], str) and origin[name].isprintable()
        if not sound and not (name == "data" and origin[name] is None):
            raise InputError("a frozen model's origin cannot be read", where=where, found=f"{name}: {origin[name]!r}")
    if origin["seed"] is not None and type(origin["seed"]) is not int:
        raise InputError("a frozen model's origin cannot be read", where=where, found=f"seed: {origin['seed']!r}")


def _check_compressed(values: dict[str, Any], where: Path) -> None:
    """What a compressed model was before, and what compressing it found: the keys that are read."""
    report, bases = values.get("report"), values.get("bases")
    texts = all(isinstance(values.get(name), str | None) for name in ("source", "relative", "digest"))
    keys = {"source", "relative", "digest", "bases", "report"}
    if set(values) != keys or not texts or (values["source"] is None) != (values["relative"] is None):
        raise InputError("what a model was compressed from cannot be read", where=where, found=sorted(values))
    lists = isinstance(bases, dict) and all(
        isinstance(own, list) and all(type(number) is int for number in own) for own in bases.values()
    )
    if not lists:
        raise InputError("a compressed model's bases cannot be read", where=where, found=f"bases: {bases!r:.200}")
    drop, dtype = (report.get(key, {}) if isinstance(report, dict) else {} for key in ("max_auc_drop", "dtype"))
    if not isinstance(drop, float | int | None) or not isinstance(dtype, str):
        raise InputError("a compressed model's report cannot be read", where=where, found=f"max_auc_drop: {drop!r}")


def _rebuilt(path: Path, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> FrozenModel:
    """The model with other weights: of a run from its settings, of a user from the factory."""
    factory = config.get("factory")
    if factory:
        if not isinstance(factory, str) or not is_factory(factory):
            raise InputError("a frozen model's factory cannot be read", where=path, found=factory)
        return replace(of_module(build(factory), factory, shared=True), source=factory)
    schema = Schema.from_values(read_json(path / "schema.json"), path / "schema.json")
    vocabularies = known_vocabularies(path, schema, config.get("vocabulary_hash"))
    model_config = read_model_config(config.get("model"), schema, path / "config.json")
    model = built_for(tensors, model_config, vocabularies, path / "config.json")
    return replace(of_trained(model, model_config, schema, vocabularies, config["origin"], shared=True), trained=None)
