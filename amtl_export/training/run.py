"""A run: the folder that training leaves, opened and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amtl_export.data.encode import Encoded, Rows, open_rows
from amtl_export.data.schema import Schema, SplitName
from amtl_export.data.vocabulary import Vocabulary, read_vocabularies, vocabulary_hash
from amtl_export.errors import InputError
from amtl_export.files import check_regular, read_json, read_object
from amtl_export.models.config import ATTENDING, SIZING, EmbeddedField, MixedConfig, ModelConfig, NumericField
from amtl_export.models.ctr import CtrModel
from amtl_export.training.config import SPARSE_ABOVE, TrainConfig
from amtl_export.training.rows import check_rows
from amtl_export.training.tensors import load_tensors, map_into
from amtl_export.training.undrawn import undrawn
from amtl_export.typed import typed

#: Numbers that `metrics.json` has of every run.
METRICS = ("seed", "epochs", "best_epoch", "avg_dim", "avg_dim_ratio")


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        path: its folder.
        train: what was asked.
        model_config: what was built.
        schema: what the columns mean.
        vocabularies: embedded field → vocabulary.
        model: the trained model, in evaluation mode, selection network in place.
        metrics: `metrics.json`.
    """

    path: Path
    train: TrainConfig
    model_config: ModelConfig
    schema: Schema
    vocabularies: dict[str, Vocabulary]
    model: CtrModel
    metrics: dict[str, Any]

    @property
    def vocabulary_hash(self) -> str:
        """Over all vocabularies."""
        return vocabulary_hash(self.vocabularies)

    def rows(self, split: SplitName) -> Rows:
        """Encoded rows of a split; the run keeps `valid` and `test`.

        Raises:
            InputError: the run does not keep that split, or it is damaged.
        """
        splits = open_rows(self.path / "data", self.schema, self.vocabularies)
        if split not in splits:
            raise InputError(
                "the run does not keep this split", where=self.path, found=split, allowed=", ".join(splits)
            )
        check_rows(splits[split], self.model_config, self.path / "data" / split)
        return splits[split]

    def history(self) -> list[dict[str, Any]]:
        """One record an epoch."""
        return read_history(self.path / "history.jsonl")


def load_run(path: Path | str) -> Run:
    """Open a run folder.

    Raises:
        InputError: not a run, or a file of it is missing, truncated, corrupted or of another run.
    """
    path = Path(path)
    if not path.is_dir():
        fix = "give a folder that train wrote; of a module FILE.py:FUNCTION, whose function makes it"
        raise InputError("no such run", where=path, fix=fix)
    if not (path / "config.json").is_file():
        raise InputError(
            "the folder is not a run", where=path, found="no config.json", fix="give a folder made by train"
        )
    check_regular(path)
    config, file = read_object(path / "config.json"), path / "config.json"
    if config.get("kind") != "run":
        raise InputError("the folder is not a run", where=path, found=f"kind {config.get('kind')!r}", allowed="run")
    train = TrainConfig.from_json(config.get("train"), file)
    schema = Schema.from_values(read_json(path / "schema.json"), path / "schema.json")
    vocabularies = known_vocabularies(path, schema, config.get("vocabulary_hash"))
    model_config = read_model_config(config.get("model"), schema, file)
    tensors = load_tensors(path / "model.safetensors")
    model = built_for(tensors, model_config, vocabularies, file)
    map_into(model, path / "model.safetensors")
    metrics = read_object(path / "metrics.json")
    if wrong := [name for name in METRICS if isinstance(metrics.get(name), bool | str | list | dict | None)]:
        found = {name: metrics.get(name) for name in wrong[:3]}
        raise InputError("a run's metrics cannot be read", where=path / "metrics.json", found=found, allowed="numbers")
    return Run(path, train, model_config, schema, vocabularies, model.eval(), metrics)


def known_vocabularies(path: Path, schema: Schema, stated: object) -> dict[str, Vocabulary]:
    """The vocabularies of a folder, which are those that it says it has.

    Raises:
        InputError: one is missing or damaged, or their hash is another.
    """
    vocabularies = read_vocabularies(path, [f.name for f in schema.embedded])
    if stated != (found := vocabulary_hash(vocabularies)):
        raise InputError("vocabularies changed", where=path / "vocab", found=f"hash {found}", allowed=stated)
    return vocabularies


def read_model_config(values: object, schema: Schema, where: Path) -> ModelConfig:
    """A model's settings, as a folder states them.

    Raises:
        InputError: a key is missing or unknown, a value out of range, or the fields are not the schema's.
    """
    config = typed(ModelConfig, values, where, "a model's settings cannot be read")
    stated = [f.name for f in config.embedded], [f.name for f in config.numeric]
    known = [f.name for f in schema.embedded], [f.name for f in schema.numeric]
    if stated != known:
        raise InputError("a model's fields are not the schema's", where=where, found=stated, allowed=known)
    return config


def built_for(
    tensors: Mapping[str, Tensor], config: ModelConfig, vocabularies: dict[str, Vocabulary], where: Path
) -> CtrModel:
    """A model that tensors will be loaded into: nothing is drawn for it, and it is no larger than they are.

    Raises:
        InputError: the settings contradict the vocabularies or each other, or are of a larger model.
    """
    try:
        with undrawn(sum(tensor.numel() for tensor in tensors.values())):
            return build_model(config, vocabularies)
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError, OverflowError, MemoryError) as error:
        found = f"{type(error).__name__}: {error}"
        raise InputError("a model's settings do not fit", where=where, found=found) from None


def read_history(file: Path) -> list[dict[str, Any]]:
    """One record an epoch.

    Raises:
        InputError: the file is missing or damaged, or a line is no record of its epoch.
    """
    try:
        lines = file.read_bytes().decode().splitlines()
        records = [json.loads(line) for line in lines]
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("a training's history cannot be read", where=file, found=error) from None
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict) or record.get("epoch") != number:
            raise InputError(
                "a training's history cannot be read", where=f"{file}, line {number}", found=lines[number - 1][:80]
            )
    return records


def model_config_for(train: TrainConfig, encoded: Encoded) -> ModelConfig:
    """The model that a configuration and a data set ask for."""
    embedded = tuple(
        EmbeddedField(f.name, v.size, f.governed, v.padding if f.kind != "categorical" else None, f.pool, f.of, f.dim)
        for f, v in zip(encoded.schema.embedded, encoded.vocabularies.values(), strict=True)
    )
    for name, width in ((field.name, field.dim or 0) for field in embedded):
        if width > train.dim or (width and train.method in SIZING):
            why = f"D = {train.dim}" if width > train.dim else f"method {train.method}, which chooses sizes itself"
            raise InputError(
                f"train: dim = {width} of field {name} in schema.toml does not go with the model",
                where=train.data,
                found=why,
                fix="leave dim out of the field, or choose another method or D",
            )
    if train.backbone in ATTENDING and not any(field.shares for field in embedded):
        raise InputError(
            f"train: backbone {train.backbone} attends to a sequence, and the data has none",
            where=train.data,
            fix='a field with kind = "sequence" and of = "…" in schema.toml, or another backbone',
        )
    numeric = tuple(
        NumericField(f.name, encoded.stats[f.name].mean, encoded.stats[f.name].std, f.transform)
        for f in encoded.schema.numeric
    )
    numbers = sum(f.size for f in embedded) * train.dim
    sparse = numbers > SPARSE_ABOVE if train.sparse is None else train.sparse
    return ModelConfig(
        embedded=embedded,
        numeric=numeric,
        dim=train.dim,
        method=train.method,
        backbone=train.backbone,
        hidden=train.hidden,
        dropout=train.dropout,
        embedding_dropout=train.embedding_dropout,
        selection=train.selection,
        mixed=MixedConfig(train.mde_blocks, train.mde_alpha, train.dim_budget),
        candidates=train.candidates,
        sparse=sparse,
        labels=encoded.schema.label_names,
    )


def build_model(config: ModelConfig, vocabularies: dict[str, Vocabulary]) -> CtrModel:
    """A model with its initial weights, drawn from torch's global generator."""
    return CtrModel(config, [torch.from_numpy(v.counts) for v in vocabularies.values()])
