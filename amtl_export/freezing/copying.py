"""The frozen copy of a user's module, and whether it stands by itself."""

from __future__ import annotations

from torch import nn

from amtl_export.errors import InputError
from amtl_export.freezing.kept import evaluating
from amtl_export.freezing.swap import freeze_module


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
