"""Training: from a configuration to a run folder, resumable after any epoch."""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils import deterministic

from amtl_export.data.catalog import open_source
from amtl_export.data.encode import Encoded, Rows, encode, open_rows, open_unmatched
from amtl_export.data.joins import unmatched_notes
from amtl_export.data.numeric_stats import open_stats
from amtl_export.data.schema import Schema
from amtl_export.data.source import Source
from amtl_export.data.vocabulary import Vocabulary, read_vocabularies, vocabulary_hash, write_vocabularies
from amtl_export.errors import InputError, os_errors
from amtl_export.files import (
    check_source,
    check_target,
    producer,
    publish,
    read_json,
    refuse_inside,
    whole_file,
    write_json,
)
from amtl_export.interruptions import interruptions_held
from amtl_export.locks import locked
from amtl_export.metrics import auc
from amtl_export.models.config import ModelConfig
from amtl_export.models.ctr import CtrModel
from amtl_export.models.selection import SoftTwinSelector
from amtl_export.stages import stage
from amtl_export.training.batches import predict
from amtl_export.training.checkpoint import Progress, latest, save_checkpoint
from amtl_export.training.config import TrainConfig
from amtl_export.training.dims import all_dims, mean_dims, prune_trained
from amtl_export.training.distributed import Ranks, check_seen, check_shared, lost_processes
from amtl_export.training.held import own_rows
from amtl_export.training.measures import measured, notes
from amtl_export.training.observer import Silent, TrainObserver
from amtl_export.training.rows import check_rows
from amtl_export.training.run import Run, load_run, model_config_for, read_history, read_model_config
from amtl_export.training.sharded import build_shared, who_holds
from amtl_export.training.state import TrainState
from amtl_export.training.tensors import save_tensors
from amtl_export.training.warm_start import check_start, open_start, warm_start
from amtl_export.training.working import BEGUN, DONE, claim, is_done, partial_folder, tidy

#: Changes a new model, given the vocabularies of its fields.
Prepare = Callable[[CtrModel, Mapping[str, Vocabulary]], None]


def train(
    config: TrainConfig,
    out: Path | str,
    *,
    overwrite: bool = False,
    observer: TrainObserver | None = None,
    prepare: Prepare | None = None,
) -> Run:
    """Train, keep the epoch with the best validation AUC, and write the run folder.

    While training runs, its state is in `OUT.partial`; the same call after an interruption goes on
    from the last finished epoch and ends with the same bits as an uninterrupted one.

    In a process group of torch (torchrun) all processes call it alike and share out every batch; the
    first one encodes, writes and tells its observer. All need to see the same folder.

    Args:
        config: what to do.
        out: the run folder; appears when training is done.
        overwrite: replace an earlier run, and discard an unfinished training of other settings.
        observer: is told how it goes.
        prepare: changes the new model, in place, before its first epoch; the same on every call for one `out`.

    Raises:
        InputError: bad data or settings; `out` exists or holds the warm start; an unfinished training of other settings
            exists; another training uses it; the method trains in one process, and there are several.
        EnvironmentLacks: no disk space or no permission; another process of the group has ended.
    """
    out, observer, ranks = Path(out), observer or Silent(), Ranks.here()
    check_shared(config, ranks)
    with os_errors("training", out), lost_processes(ranks):
        if ranks.first:
            _lead(config, out, overwrite, observer, prepare, ranks)
        elif (found := ranks.told(0)) != DONE:
            _train_in(partial_folder(out), config, Silent(), prepare, found == BEGUN, ranks)
        ranks.wait()
    return load_run(out)


def _lead(
    config: TrainConfig, out: Path, overwrite: bool, observer: TrainObserver, prepare: Prepare | None, ranks: Ranks
) -> None:
    """What the first process does, or the only one."""
    if config.warm_start:
        check_source(str(config.warm_start), out, overwrite)
    refuse_inside(out)
    check_target(out, overwrite)
    work = partial_folder(out)
    with locked(out):
        check_target(out, overwrite)  # what another process has made since
        found = None
        try:
            with interruptions_held():
                found = claim(work, config, overwrite)
            ranks.told(found)
            if found == DONE:
                load_run(work)  # refuses what was damaged meanwhile
            else:
                _train_in(work, config, observer, prepare, found == BEGUN, ranks)
            tidy(work)
            publish(work, out, overwrite=overwrite)
        except BaseException:
            if found is not None and latest(work) is None and not is_done(work):
                shutil.rmtree(work, ignore_errors=True)
            raise


def _train_in(
    work: Path, config: TrainConfig, observer: TrainObserver, prepare: Prepare | None, resumed: bool, ranks: Ranks
) -> None:
    check_seen(work, ranks)
    if ranks.first and not resumed:
        check_start(config)
    stage("reading and encoding the rows")
    encoded = _prepare(work, config, observer) if ranks.first and not resumed else None
    ranks.wait()
    encoded = encoded or _reopen(work)
    said = notes(config, encoded.rows["train"], encoded.stats)
    said += unmatched_notes(encoded.schema, encoded.unmatched, sum(map(len, encoded.rows.values())))
    for line in said:
        observer.note(f"note: {line}")
    with reproducible(config.seed):
        drawn = config.warm_start is None and prepare is None
        build = partial(build_shared, vocabularies=encoded.vocabularies, ranks=ranks, drawn=drawn)
        stage("making the model")
        made = _resumed_model(work, config, encoded, build) if resumed else _new_model(config, encoded, observer, build)
        model, model_config = made
        for line in (held := who_holds(model_config, ranks, drawn=drawn)):
            observer.note(line)
        said += held
        if ranks.first and not resumed:
            write_json(work / "model.json", model_config.to_json())  # what a later resumption builds
        if prepare is not None and not resumed:
            prepare(model, encoded.vocabularies)
        if resumed:
            for split, rows in encoded.rows.items():
                check_rows(rows, model_config, work / "data" / split)
        state = TrainState.start(model, config, ranks)
        checkpoint = latest(work)
        if checkpoint is not None:
            state.resume(checkpoint)
            _check_history(work, state.progress)
            observer.note(f"resumed after epoch {state.progress.epoch} from {work}")
        stage("training")
        while not state.finished:
            record = state.run_epoch(encoded, observer)
            if ranks.first:
                _append_history(work, record)  # before the checkpoint: an epoch that is run again replaces its line
            state.best = save_checkpoint(work, state.progress, model, state.best, state.all_optimizers, ranks)
            observer.epoch_finished(record)
        stage("scoring the test split")
        progress, best = state.progress, state.best
        del state  # the optimizers' memory is free before the best weights are read
        if best is not None:
            model.load_state_dict(own_rows(model.state_dict(keep_vars=True), best))
        if config.dim_budget is not None and not config.warm_start:
            prune_trained(config.dim_budget, model)
        metrics = _metrics(config, model_config, model, encoded, progress, said, ranks)
        stage("writing the run")
        save_tensors(model.state_dict(keep_vars=True), work / "model.safetensors", ranks)
        if ranks.first:
            _finish(work, config, model_config, encoded, metrics, ranks)


def _new_model(
    config: TrainConfig, encoded: Encoded, observer: TrainObserver, build: Callable[[ModelConfig], CtrModel]
) -> tuple[CtrModel, ModelConfig]:
    """A model before its first epoch."""
    start = open_start(config)
    model_config = model_config_for(config, encoded)
    model_config = start.fit(model_config) if start is not None else model_config
    model = build(model_config)
    for line in warm_start(model, encoded.vocabularies, start, encoded.schema) if start is not None else ():
        observer.note(f"warm start: {line}")
    return model, model_config


def _resumed_model(
    work: Path, config: TrainConfig, encoded: Encoded, build: Callable[[ModelConfig], CtrModel]
) -> tuple[CtrModel, ModelConfig]:
    file = work / "model.json"
    model_config = read_model_config(read_json(file), encoded.schema, file)
    asked = replace(model_config_for(config, encoded), ordered=model_config.ordered)  # of a warm start
    if model_config != asked or (model_config.ordered and config.warm_start is None):
        found, wanted = model_config.to_json(), asked.to_json()
        key = next((key for key in found if found[key] != wanted[key]), "ordered")
        raise InputError(
            "an unfinished training is of another model", where=file, found=f"{key}: {found[key]}", allowed=wanted[key]
        )
    return build(model_config), model_config


def _check_history(work: Path, progress: Progress) -> None:
    """A line for each finished epoch, at least: one that is run again replaces its own."""
    records = read_history(work / "history.jsonl")
    if len(records) < progress.epoch:
        raise InputError(
            "a training's history lacks epochs",
            where=work / "history.jsonl",
            found=len(records),
            allowed=f"{progress.epoch} lines",
        )


def _prepare(work: Path, config: TrainConfig, observer: TrainObserver) -> Encoded:
    source: Source = open_source(config.data, config.path)
    started = time.perf_counter()
    encoded = encode(source, work / "data", config.seed, config.limit_rows, observer.rows_read)
    write_json(work / "schema.json", encoded.schema.to_json())
    write_vocabularies(work, encoded.vocabularies)
    counts = ", ".join(f"{len(rows):,} {split}" for split, rows in encoded.rows.items())
    observer.note(f"{source.name}: {counts} rows, encoded in {time.perf_counter() - started:.1f} s")
    return encoded


def _reopen(work: Path) -> Encoded:
    schema = Schema.from_values(read_json(work / "schema.json"), work / "schema.json")
    vocabularies = read_vocabularies(work, [f.name for f in schema.embedded])
    data = work / "data"
    try:
        stats, unmatched = open_stats(data), open_unmatched(data)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise InputError("a training's statistics cannot be read", where=data / "stats.json", found=error) from None
    if wrong := sorted(set(stats) ^ {field.name for field in schema.numeric}):
        raise InputError(
            "a training's statistics are of other fields", where=data / "stats.json", found=", ".join(wrong)
        )
    rows = open_rows(data, schema, vocabularies)
    if lacking := sorted({"train", "valid", "test"} - set(rows)):
        raise InputError("a training lacks encoded rows", where=data, found=f"no {', '.join(lacking)}")
    return Encoded(schema, vocabularies, stats, rows, unmatched)


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Deterministic algorithms and a seeded generator inside the block; the old state after it.

    New memory is not filled, which PyTorch would do at up to a twentieth of a step: nothing reads it unwritten.
    """
    state, mode = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    filled = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]  # is there, on a module that is more
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(mode)
        torch.set_rng_state(state)


def _append_history(work: Path, record: dict[str, Any]) -> None:
    """Add the epoch's line, dropping a later one that an interrupted epoch may have left."""
    file = work / "history.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    lines = [*lines[: record["epoch"] - 1], json.dumps(record)]
    with whole_file(file) as draft:
        draft.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _metrics(
    config: TrainConfig,
    model_config: ModelConfig,
    model: CtrModel,
    encoded: Encoded,
    progress: Progress,
    said: list[str],
    ranks: Ranks,
) -> dict[str, Any]:
    """`metrics.json`."""
    valid, test = encoded.rows["valid"], encoded.rows["test"]
    labels = encoded.schema.label_names
    judged = measured(predict(model, valid, ranks=ranks), valid, "valid", labels)
    tested = measured(predict(model, test, ranks=ranks), test, "test", labels)
    dims = all_dims(model, ranks)
    fields = {
        f.name: {"vocab": f.size, "dim": model_config.widths[i], "avg_dim": mean_dims(model, dims, [i])}
        for i, f in enumerate(model_config.embedded)
    }
    avg_dim = mean_dims(model, dims)
    metrics = {
        "method": config.method,
        "backbone": config.backbone,
        "data": config.data,
        "seed": config.seed,
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        **judged,
        **tested,
        "weighted": test.weight is not None,
        "avg_dim": avg_dim,
        "avg_dim_ratio": avg_dim / model_config.dim,
        "dim_budget": config.dim_budget,
        "fields": fields,
        "epoch_seconds": progress.epoch_seconds,
        "params_embedding": len(dims) * model_config.dim,
        "params_embedding_kept": int(dims.sum()),
        "rows": {split: len(rows) for split, rows in encoded.rows.items()},
        "notes": said,
    }
    if labels:
        metrics["labels"] = {name: judged["labels"][name] | tested["labels"][name] for name in labels}
    soft = _soft_auc(model, test, ranks)
    if soft is not None:
        metrics["auc_test_soft"] = soft  # what hardening the mask costs, against auc_test
    return metrics


def _finish(
    work: Path,
    config: TrainConfig,
    model_config: ModelConfig,
    encoded: Encoded,
    metrics: dict[str, Any],
    ranks: Ranks,
) -> None:
    (work / "history.jsonl").touch()  # no epoch, no line
    with whole_file(work / "metrics.json") as draft:
        write_json(draft, metrics)
    with whole_file(work / "config.json") as draft:  # the last one: with it, a training is done
        write_json(
            draft,
            {
                "producer": producer(),
                "kind": "run",
                "train": config.to_json(),
                "model": model_config.to_json(),
                "vocabulary_hash": vocabulary_hash(encoded.vocabularies),
                "environment": {
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "threads": torch.get_num_threads(),
                    "processes": ranks.size,
                    "machine": platform.machine(),
                },
            },
        )


def _soft_auc(model: CtrModel, rows: Rows, ranks: Ranks) -> float | None:
    """AUC with the soft masks of training, for methods that train with them; None for the others."""
    soft = [module for module in model.modules() if isinstance(module, SoftTwinSelector)]
    for module in soft:
        module.soft_evaluation = True
    logits = predict(model, rows, ranks=ranks) if soft else None
    for module in soft:
        module.soft_evaluation = False
    return None if logits is None else auc(logits[:, 0], rows.label, rows.weight)
