"""Whether a frozen model is still what its module freezes to: asked where the two answer differently."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amtl_export.errors import InputError
from amtl_export.freezing.copying import frozen_copy
from amtl_export.freezing.frozen import FrozenModel


def changed_since(frozen: FrozenModel) -> str | None:
    """What of a module is not as it was when it was frozen.

    The module is frozen anew and compared with the copy: weights, buffers, plain attributes, classes and hooks.

    Args:
        frozen: as `freeze` gave it.

    Returns:
        The name of the first difference, or why it cannot be frozen now; None if there is none, or the model that was
        given is not at hand.
    """
    if frozen.trained is None or frozen.compressed is not None:
        return None
    try:
        now = frozen_copy(frozen.trained.model, shared=False)
    except InputError as error:
        return error.what
    before: dict[str, nn.Module] = dict(frozen.module.model.named_modules())
    after: dict[str, nn.Module] = dict(now.named_modules())
    if other := sorted(before.keys() ^ after.keys()):
        return other[0]
    for name, part in before.items():
        if what := _difference(part, after[name]):
            return f"{name}.{what}" if name else what
    return None


def _difference(before: nn.Module, after: nn.Module) -> str | None:
    """Attribute of a module that differs, the modules in it left out."""
    if type(before) is not type(after):
        return "__class__"
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        if len(getattr(before, hooks)) != len(getattr(after, hooks)):
            return hooks
    values = [{**vars(part), **part._parameters, **part._buffers} for part in (before, after)]
    for name in sorted({*values[0], *values[1]}):
        if not _alike(*(own.get(name) for own in values)):
            return name
    return None


def _alike(before: object, after: object) -> bool:
    """Whether two values are equal; of other things than tensors and plain values nobody can say."""
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        if before.shape != after.shape or before.dtype != after.dtype:
            return False
        if before.layout is not torch.strided or after.layout is not torch.strided:
            return True  # nobody can say
        return bool(((before == after) | ((before != before) & (after != after))).all())
    if isinstance(before, (bool, int, float, str)) and isinstance(after, (bool, int, float, str)):
        return before == after or (before != before and after != after)
    return True
