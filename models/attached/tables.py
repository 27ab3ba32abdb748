"""Tables of a model and the modules that hold them; what cannot be attached is refused here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from amtl_export.models.attached.holders import Attached, AttachedTable, new_names
from amtl_export.models.attached.reading import selector_of
from amtl_export.models.selection import Selector


def embeddings(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, nn.Module]:
    """Dotted name → `nn.Embedding` or `nn.EmbeddingBag`, all of them or those asked for.

    Raises:
        ValueError: a name is none of the model's.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    known: dict[str, nn.Module] = {
        name: module for name, module in modules.items() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    }
    if names is None:
        return known
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(
            f"no nn.Embedding or nn.EmbeddingBag named {', '.join(unknown)}; the model has {', '.join(known) or 'none'}"
        )
    return {name: known[name] for name in names}


def parameter_of(name: str, module: nn.Module) -> nn.Parameter:
    """The table of an embedding.

    Args:
        name: dotted name of the embedding, for errors.
        module: an `nn.Embedding` or `nn.EmbeddingBag`.

    Raises:
        ValueError: it is parametrized, sharded, or another tensor class.
    """
    weight = module._parameters.get("weight")
    if weight is None:
        raise ValueError(
            f"{name}: weight is no nn.Parameter of the embedding: it is parametrized (weight_norm, parametrize) or "
            "sharded; remove the parametrization first, or attach before sharding"
        )
    kind = type(weight) if type(weight) is not nn.Parameter else type(weight.data)
    if kind is not Tensor:
        raise ValueError(f"{name}: weight is a {kind.__name__}, sharded or wrapped; attach to a plain nn.Parameter")
    return weight


def refuse_wrappers(model: nn.Module) -> None:
    """Refuse wrappers that have already taken note of a model's parameters or code.

    Raises:
        ValueError: a module is compiled, or wrapped for distributed training.
    """
    for name, module in model.named_modules():
        where = name or type(module).__name__
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise ValueError(f"{where}: DistributedDataParallel would not reduce new parameters; attach, then wrap")
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise ValueError(f"{where} is compiled already; attach, then compile")


def is_hidden(module: nn.Module, parameter: str) -> bool:
    """Whether a module's class has an attribute, a property for instance, that is read in place of a parameter."""
    return hasattr(type(module), parameter)


def refuse_table(name: str, module: nn.Module, parameter: str, table: nn.Parameter) -> None:
    """Refuse what cannot be masked.

    Args:
        name: dotted name of a module that holds the table.
        module: the module.
        parameter: what the table is called there.
        table: the weight.

    Raises:
        ValueError: dtype, `max_norm`, mode max, or a class that computes what it gives for the weight.
    """
    if is_hidden(module, parameter):
        raise ValueError(f"{name}: {type(module).__name__}.{parameter} computes the weight, and would be left out")
    if table.dtype != torch.float32:
        raise ValueError(f"{name}: the table's dtype is {table.dtype}; attach a float32 table, {name}.float()")
    if getattr(module, "max_norm", None) is not None:
        raise ValueError(f"{name}: max_norm rewrites rows as they are read, so they cannot be frozen; set it to None")
    if getattr(module, "mode", None) == "max":
        raise ValueError(f"{name}: an EmbeddingBag of mode max would take a masked zero for a value; use sum or mean")


def holders(model: nn.Module, table: Tensor) -> Iterator[tuple[str, nn.Module, str]]:
    """Name, module and parameter name, wherever a model holds a table."""
    for name, module in model.named_modules():
        for parameter_name, parameter in module._parameters.items():
            if parameter is table:
                yield name, module, parameter_name


def refuse_hidden(model: nn.Module, field: str, table: nn.Parameter) -> None:
    """Refuse a table that is kept where no mask reaches it, beside the parameters of a module.

    Raises:
        ValueError: a plain attribute is the parameter, a list, tuple or dict with it, or a method of its embedding.
    """
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in ("_parameters", "_modules", "_buffers"):
                continue
            where = f"{name}.{attribute}" if name else attribute
            if _contains(value, table):
                raise ValueError(f"{field}: its weight is also kept in {where}, where it would be read unmasked")
            if _is_method_of(value, table):
                raise ValueError(
                    f"{field}: a method of it is kept in {where}, past the attached layer; call {field} itself"
                )


def _is_method_of(value: Any, table: nn.Parameter) -> bool:
    """Whether a value is a bound method of a module with the table, or a partial of one."""
    owner = getattr(getattr(value, "func", value), "__self__", None)
    return isinstance(owner, nn.Module) and any(p is table for p in owner._parameters.values())


def _contains(value: Any, table: nn.Parameter) -> bool:
    if isinstance(value, (list, tuple, dict)):
        return any(part is table for part in (value.values() if isinstance(value, dict) else value))
    return value is table


def refuse_crowded(name: str, module: nn.Module, names: tuple[str, ...]) -> None:
    """Refuse a holder that has no room for what attaching adds.

    Args:
        name: dotted name of the holder, empty for the model itself.
        module: the holder.
        names: its parameters that are tables.

    Raises:
        ValueError: another table of its own is attached, or it has attributes of the names that are added.
    """
    where = f"{name or 'the model'} ({type(module).__name__})"
    if isinstance(module, Attached):
        raise ValueError(f"{where} holds another table that is attached already; attach both in one call")
    if clashes := sorted(attribute for attribute in new_names(type(module), names) if hasattr(module, attribute)):
        raise ValueError(f"{where} has attributes that attaching adds: {', '.join(clashes)}; rename them")


def is_attached(module: object) -> bool:
    """Whether a module's weight is read masked."""
    return isinstance(module, Attached)


def attached_tables(model: nn.Module) -> dict[str, AttachedTable]:
    """The first name of every distinct attached table → the embedding that holds it."""
    tables: dict[str, AttachedTable] = {}
    for name, module in model.named_modules():
        if isinstance(module, AttachedTable) and id(module.table) not in {id(known.table) for known in tables.values()}:
            tables[name] = module
    return tables


def selectors(model: nn.Module) -> list[Selector]:
    """The distinct selection networks of attached modules."""
    attached = [module for module in model.modules() if isinstance(module, Attached)]
    every = [selector_of(module, name) for module in attached for name in module.table_names]
    return list({id(selector): selector for selector in every}.values())
