"""The frozen copy of a user's module, and whether it stands by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from amtl_export.errors import InputError
from amtl_export.freezing.kept import address, evaluating
from amtl_export.freezing.swap import freeze_module
from amtl_export.models.attached.reading import selector_of
from amtl_export.models.attached.tables import attached_tables


def frozen_copy(trained: nn.Module, *, shared: bool) -> nn.Module:
    """A copy with its tables frozen, as the module is in evaluation mode.

    Some modules merge weights into others in that mode. One that is shared with the copy is left in it.

    Args:
        trained: the module.
        shared: whether constants may lie in the memory of the module's weights, which nobody changes then.

    Raises:
        InputError: the module cannot be frozen.
    """
    if shared:
        trained.eval()
    try:
        with evaluating(trained):
            return freeze_module(trained, shared=shared)
    except ValueError as error:  # of a table that was replaced after it was attached
        raise InputError("the module cannot be frozen", where=type(trained).__name__, found=error) from None


class _Reached(TorchDispatchMode):
    """Notes the tables whose selection networks an operator reads.

    Args:
        parameters: the bytes in memory of a parameter of one, and the path of its table.
    """

    supports_higher_order_operators = True

    def __init__(self, parameters: Sequence[tuple[range, str]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's
        self.parameters = parameters
        self.tables: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs or {})):
            if isinstance(value, Tensor) and address(value):
                start = value.data_ptr()  # of a view, within; whole memories may be one for all parameters
                self.tables.update(path for own, path in self.parameters if start in own)
        return func(*args, **(kwargs or {}))


@contextmanager
def copy_reads_itself(trained: nn.Module) -> Iterator[None]:
    """Refuse a frozen copy that computes with a selection network of its original inside the block.

    `copy.deepcopy` does not follow a closure, a weak reference or a global variable, so what is read through one is
    the module that was given: its table would be exported uncut, its selection network with it.

    Args:
        trained: the original.

    Raises:
        InputError: one is read, behind the block.
    """
    tables = attached_tables(trained)
    reached = _Reached(
        [
            (range(own.data_ptr(), own.data_ptr() + own.nbytes), path)
            for path, table in tables.items()
            for own in selector_of(table, "weight").parameters()
            if address(own)
        ]
    )
    with reached:
        yield
    if reached.tables:
        raise InputError(
            "an attached table is reached past the copy: through a closure, a weak reference or a global variable",
            where=", ".join(sorted(reached.tables)),
            fix="let the hook or forward find it in the module that it is called with",
        )
