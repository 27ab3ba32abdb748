"""A run: the folder that training leaves, opened and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from amtl_export.data.encode import Encoded, Rows, open_rows
from amtl_export.data.schema import Schema, SplitName
from amtl_export.data.vocabulary import Vocabulary, read_vocabularies, vocabulary_hash
from amtl_export.errors import InputError
from amtl_export.files import read_json
from amtl_export.models.config import ATTENDING, SIZING, EmbeddedField, MixedConfig, ModelConfig, NumericField
from amtl_export.models.ctr import CtrModel
from amtl_export.training.config import SPARSE_ABOVE, TrainConfig
from amtl_export.training.tensors import map_into


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
            InputError: the run does not keep that split.
        """
        splits = open_rows(self.path / "data", self.schema)
        if split not in splits:
            raise InputError(
                "the run does not keep this split", where=self.path, found=split, allowed=", ".join(splits)
            )
        return splits[split]

    def history(self) -> list[dict[str, Any]]:
        """One record an epoch."""
        text = (self.path / "history.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]


def load_run(path: Path | str) -> Run:
    """Open a run folder.

    Raises:
        InputError: not a run, or a file of it is missing, truncated, corrupted or of another run.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError("no such run", where=path, fix="give a folder that train wrote")
    if not (path / "config.json").is_file():
        raise InputError(
            "the folder is not a run", where=path, found="no config.json", fix="give a folder made by train"
        )
    config = read_json(path / "config.json")
    if config.get("kind") != "run":
        raise InputError("the folder is not a run", where=path, found=f"kind {config.get('kind')!r}", allowed="run")
    schema = Schema.from_values(read_json(path / "schema.json"), path / "schema.json")
    vocabularies = read_vocabularies(path, [f.name for f in schema.embedded])
    try:
        model_config = ModelConfig.from_json(config["model"])
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn and replaced; the caller's numbers stay
            model = build_model(model_config, vocabularies)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("a run's model settings do not fit", where=path / "config.json", found=error) from None
    map_into(model, path / "model.safetensors")
    train = TrainConfig.from_json(config["train"], path / "config.json")
    return Run(path, train, model_config, schema, vocabularies, model.eval(), read_json(path / "metrics.json"))


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
    sparse = sum(f.size for f in embedded) > SPARSE_ABOVE if train.sparse is None else train.sparse
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
