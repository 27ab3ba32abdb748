"""`attach`: put AMTL behind embeddings of a model that somebody else wrote and trained; `detach` takes it off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from amtl_export.models.attached.budget import dim_penalty, project_to_budget
from amtl_export.models.attached.counts import checked_counts, count_ids
from amtl_export.models.attached.holders import Attached, AttachedTable, attached_class, swap_class
from amtl_export.models.attached.reading import SELECTORS, selector_of, watch_of
from amtl_export.models.attached.tables import (
    attached_tables,
    embeddings,
    holders,
    is_attached,
    is_hidden,
    parameter_of,
    refuse_crowded,
    refuse_hidden,
    refuse_table,
    refuse_wrappers,
    selectors,
)
from amtl_export.models.attached.watch import TrainingWatch
from amtl_export.models.config import SelectionConfig
from amtl_export.models.selection import Selector, TwinSelector

__all__ = [
    "Attached",
    "AttachedTable",
    "attach",
    "attached_tables",
    "count_ids",
    "counts_of",
    "detach",
    "dim_penalty",
    "is_attached",
    "is_hidden",
    "project_to_budget",
    "release",
    "selection_parameters",
]

M = TypeVar("M", bound=nn.Module)


def attach(
    model: M,
    fields: Mapping[str, Tensor],
    config: SelectionConfig | None = None,
    selector: type[Selector] = TwinSelector,
) -> M:
    """Put a selection network behind embeddings, in place; nothing is retrained from scratch.

    Modules stay the same objects, with their hooks and parameters. Every module of the model that shares a weight
    reads it masked, and so do `F.embedding(ids, emb.weight)` and `emb.weight[ids]`. Answers stay the model's own until
    training selects dims, or start near `config.initial_ratio` if that is given.

        attach(model, count_ids(model, batches))
        optimizer.add_param_group({"params": selection_parameters(model)})
        ...                                  # fine-tune with your own loop
        project_to_budget(model, 0.4)        # where mean dims have a budget

    Args:
        model: any module; attach before compiling it or wrapping it in DistributedDataParallel.
        fields: dotted name of an `nn.Embedding` or `nn.EmbeddingBag` → int64 `[V]`, training occurrences of every row.
        config: of the selection networks.
        selector: which selection network.

    Returns:
        The model.

    Raises:
        ValueError: something cannot be attached exactly (an unknown name, counts that do not fit, `max_norm`, a bag of
            mode max, a computed, sharded or non-float32 weight, attached already); the model is as it was.
    """
    refuse_wrappers(model)
    networks: dict[int, Selector] = {}
    for name, (table, counts) in _tables(model, fields).items():
        networks[id(table)] = _network(f"{name}.weight", table, counts, config or SelectionConfig(), selector)
    _attach_modules(_plan(model, networks))
    return model


def detach(model: M, *, cut: bool = False) -> M:
    """Take the selection networks off again, in place: the plain model, with the same parameters.

    Args:
        model: attached; a plain one is left alone.
        cut: zero every row past its dims, in place, so that answers stay those of the attached model in evaluation.

    Returns:
        The model.

    Raises:
        ValueError: a module's class was changed after `attach`; the model is as it was.
    """
    modules = {name: module for name, module in model.named_modules() if isinstance(module, Attached)}
    for name, module in modules.items():
        if "plain_class" not in vars(type(module)):
            raise ValueError(f"{name} became a {type(module).__name__} after attach; undo that first")
    for table in attached_tables(model).values() if cut else ():
        with torch.no_grad():
            table.table.copy_(table.frozen_rows())
    for module in modules.values():
        release(module)
    return model


def selection_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters of all selection networks: `optimizer.add_param_group({"params": selection_parameters(model)})`.

    An optimizer made before `attach` has none of them; a `UserWarning` says so after some steps.
    """
    return [parameter for network in selectors(model) for parameter in network.parameters()]


def release(module: nn.Module) -> None:
    """Make one attached module plain again, whatever reads its weight elsewhere; a plain one is left alone."""
    if isinstance(module, Attached):
        if None in vars(module).pop(SELECTORS).values():
            del module._modules["selector"]
        swap_class(module, module.plain_class)


def counts_of(module: nn.Module) -> Tensor:
    """The counts that an attached embedding was given, or loaded since: int64 `[V]`.

    Raises:
        ValueError: the module is not an attached embedding.
    """
    if not isinstance(module, AttachedTable):
        raise ValueError(f"{type(module).__name__} is not an attached embedding")
    return selector_of(module, "weight").get_buffer("counts")


def _tables(model: nn.Module, fields: Mapping[str, Tensor]) -> dict[str, tuple[nn.Parameter, Tensor]]:
    """First name of every distinct weight → it and its checked counts."""
    tables: dict[str, tuple[nn.Parameter, Tensor]] = {}
    for name, module in embeddings(model, fields).items():
        table = parameter_of(name, module)
        try:
            counts = checked_counts(fields[name], len(table))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        twin = next((known for known, (other, _) in tables.items() if other is table), None)
        if twin is None:
            _refuse(model, name, table)
            tables[name] = table, counts
        elif not torch.equal(tables[twin][1], counts):
            raise ValueError(f"{name} and {twin} share one weight, but their counts differ; give equal counts")
    return tables


def _refuse(model: nn.Module, field: str, table: nn.Parameter) -> None:
    """Whatever cannot be masked, in any module that holds the table."""
    refuse_hidden(model, field, table)
    for name, module, parameter_name in holders(model, table):
        if isinstance(module, Attached) and parameter_name in module.table_names:
            raise ValueError(f"{field} is attached already; detach the model first")
        refuse_table(name, module, parameter_name, table)


def _network(
    where: str, table: nn.Parameter, counts: Tensor, config: SelectionConfig, selector: type[Selector]
) -> Selector:
    """A selection network with its counts in the state dict; it keeps all dims unless `initial_ratio` is given."""
    whole = config.initial_ratio is None
    network = selector(counts, table.shape[1], replace(config, initial_ratio=1.0) if whole else config)
    if whole:
        _forget_features(network)
    network.register_buffer("counts", counts)
    network.register_buffer("penalty_weight", torch.zeros(()))
    vars(network)["watch"] = TrainingWatch(where, network.last_biases())
    network.register_load_state_dict_post_hook(_loaded)  # type: ignore[no-untyped-call]
    return network.to(table.device)


@torch.no_grad()
def _forget_features(network: Selector) -> None:
    """Zero the weights of the output layers, so that h is their biases alone, for every id."""
    biases = {id(bias) for bias in network.last_biases()}
    for layer in network.modules():
        if isinstance(layer, nn.Linear) and id(layer.bias) in biases:
            layer.weight.zero_()


def _loaded(network: nn.Module, _: Any) -> None:
    """After `load_state_dict`: what depends on the counts follows them, and the watch starts anew."""
    assert isinstance(network, Selector)
    before = dict(network.named_buffers(recurse=False))
    network.set_counts(network.get_buffer("counts").cpu())
    for name, buffer in before.items():
        network.register_buffer(
            name, network.get_buffer(name).to(buffer), name not in network._non_persistent_buffers_set
        )
    watch_of(network).restart(network.last_biases())


def _plan(model: nn.Module, networks: Mapping[int, Selector]) -> dict[nn.Module, dict[str, Selector]]:
    """Every holder of a table → its parameter names and their selection networks."""
    plan: dict[nn.Module, dict[str, Selector]] = {}
    for name, module in model.named_modules():
        tables = {key: networks[id(p)] for key, p in module._parameters.items() if id(p) in networks}
        if tables:
            refuse_crowded(name, module, tuple(tables))
            plan[module] = tables
    return plan


def _attach_modules(plan: Mapping[nn.Module, Mapping[str, Selector]]) -> None:
    """Cannot fail: everything was checked. The first embedding that holds a table has its network as a submodule."""
    homeless = {id(network) for tables in plan.values() for network in tables.values()}
    for module, tables in plan.items():
        swap_class(module, attached_class(type(module), tuple(tables)))
        vars(module)[SELECTORS] = dict(tables)
        network = tables.get("weight")
        if isinstance(module, AttachedTable) and network is not None and id(network) in homeless:
            homeless.remove(id(network))
            vars(module)[SELECTORS]["weight"] = None
            module._modules["selector"] = network.train(module.training)
