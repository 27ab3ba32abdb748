"""Attached modules: a module stays the same object and gets a class whose weight is read masked.

A table is one `nn.Parameter`; its holders are the modules that have it among their parameters. Swapping the class, as
PyTorch's own parametrizations do, leaves hooks, attributes, bound methods, a subclass's forward and the state dict's
keys alone.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from amtl_export.models.attached.reading import bag_forward, dims_of, embedding_forward, masked_weight, raw
from amtl_export.models.table import zero_past

#: Forwards that select once per distinct id; any other one reads the whole masked weight.
_FORWARDS: dict[Any, Callable[..., Tensor]] = {
    nn.Embedding.forward: embedding_forward,
    nn.EmbeddingBag.forward: bag_forward,
}

_CLASSES: dict[tuple[type[nn.Module], tuple[str, ...]], type[Attached]] = {}


class Attached(nn.Module):
    """A holder of a table: reading the parameter's name gives the masked weight.

    The parameter itself stays in `_parameters`, under its own name.
    """

    #: The class that the module had, and has again after `detach`.
    plain_class: ClassVar[type[nn.Module]]
    #: Names of the parameters that are tables.
    table_names: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls, **_: Any) -> None:
        """Stands before that of the plain class, which a generated class is no news for."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A generated class is found by what it was generated from."""
        function, args, *rest = cast(tuple[Any, ...], super().__reduce_ex__(max(protocol, 2)))
        if "plain_class" in vars(type(self)) and args and args[0] is type(self):
            return blank, (self.plain_class, self.table_names, *args[1:]), *rest
        return function, args, *rest


class AttachedTable(Attached):
    """An `nn.Embedding` or `nn.EmbeddingBag`, or a subclass of one, whose rows are masked.

    The forward of exactly those two selects once per distinct id. A subclass with a forward of its own keeps it and
    reads the whole masked weight, which costs V·D a pass.
    """

    padding_idx: int | None

    @property
    def table(self) -> nn.Parameter:
        """The parameter, float32 `[V, D]`, unmasked."""
        table = raw(self, "weight")
        assert isinstance(table, nn.Parameter)
        return table

    @torch.no_grad()
    def frozen_dims(self) -> Tensor:
        """int64 `[V]`: k + 1, and 0 for a padding row of zeros."""
        dims = dims_of(self, "weight")
        if self.padding_idx is not None and not bool(raw(self, "weight")[self.padding_idx].any()):
            dims[self.padding_idx] = 0
        return dims

    @torch.no_grad()
    def frozen_rows(self) -> Tensor:
        """float32 `[V, D]`, zero past `frozen_dims`."""
        return zero_past(raw(self, "weight").detach(), self.frozen_dims())


def attached_class(plain: type[nn.Module], names: tuple[str, ...]) -> type[Attached]:
    """`Attached<Plain>`: the class of a holder, one for each class and the names of its tables.

    Raises:
        ValueError: the class allows no subclass.
    """
    if (plain, names) not in _CLASSES:
        members = _members(plain, names)
        base = AttachedTable if _is_table(plain, names) else Attached
        try:
            _CLASSES[plain, names] = types.new_class(
                f"Attached{plain.__name__}", (base, plain), exec_body=lambda namespace: namespace.update(members)
            )
        except Exception as error:  # whatever a metaclass of the user's raises
            raise ValueError(f"{plain.__name__} has no subclass, which attaching needs: {error}") from error
    return _CLASSES[plain, names]


def _is_table(plain: type[nn.Module], names: tuple[str, ...]) -> bool:
    return "weight" in names and issubclass(plain, (nn.Embedding, nn.EmbeddingBag))


def _members(plain: type[nn.Module], names: tuple[str, ...]) -> dict[str, Any]:
    """What a generated class has of its own."""
    members: dict[str, Any] = {name: _masked(name) for name in names}
    if _is_table(plain, names) and plain.forward in _FORWARDS:
        members["forward"] = _FORWARDS[plain.forward]
    return members | {
        "plain_class": plain,
        "table_names": names,
        "__module__": plain.__module__,
        "__doc__": plain.__doc__,
    }


def new_names(plain: type[nn.Module], names: tuple[str, ...]) -> set[str]:
    """Attributes that a holder gets and has not: one that has them already cannot be attached."""
    added = {"selector"} if _is_table(plain, names) else set()
    added |= {name for cls in attached_class(plain, names).__mro__ if cls not in plain.__mro__ for name in vars(cls)}
    return {name for name in added - set(names) if not name.startswith("_")} - {"forward", "padding_idx"}


def blank(plain: type[nn.Module], names: tuple[str, ...], *args: Any) -> Attached:
    """A holder without state, for a copy to fill."""
    cls = attached_class(plain, names)
    return cls.__new__(cls, *args)


def swap_class(module: nn.Module, cls: type[nn.Module]) -> None:
    """Make a module an instance of another class; all its attributes stay."""
    object.__setattr__(module, "__class__", cls)


def _masked(name: str) -> property:
    """The property that stands before a parameter."""

    def read(self: nn.Module) -> Tensor:
        try:
            return masked_weight(self, name)
        except AttributeError as error:  # else nn.Module would look further, and find the unmasked parameter
            raise RuntimeError(f"the masked weight {name} cannot be computed: {error}") from error

    def write(self: nn.Module, value: Tensor) -> None:
        self.__dict__[name] = value  # a replica of nn.DataParallel; a parameter does not come here

    return property(read, write, doc="The masked rows, `[V, D]`.")
