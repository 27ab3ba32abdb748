"""`MaskedWeight`: what an attached module's weight is when it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_IN_PLACE = {
    "__setitem__",
    *(f"__i{name}__" for name in ("add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow")),
    *(f"__i{name}__" for name in ("and", "or", "xor", "lshift", "rshift")),
}

#: What is asked of the parameter, not of the masked values: gradients, data, whether it is trained.
_GRAD, _DATA, _REQUIRES_GRAD = (vars(torch._C.TensorBase)[name] for name in ("grad", "data", "requires_grad"))
_OF_THE_PARAMETER: set[Callable[..., Any]] = {
    *(getattr(member, access) for member in (_GRAD, _DATA, _REQUIRES_GRAD) for access in ("__get__", "__set__")),
    _GRAD.__delete__,
    Tensor.requires_grad_,
    Tensor.register_hook,
    Tensor.register_post_accumulate_grad_hook,
    Tensor.retain_grad,
}


class ReadOnly(Tensor):
    """A tensor of computed values, or a view of one: a plain tensor to every function, but not written to.

    Raises:
        RuntimeError: an operation would write to it. What it wrote would be lost at the next read.
    """

    #: Dotted name of the weight.
    weight_name: str

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Refuse writes, pass on what is the parameter's, else act as a plain tensor."""
        kwargs = kwargs or {}
        for target in _written(func, args, kwargs):
            raise RuntimeError(
                f"{target.weight_name} is attached: its masked values are computed at every read, so what "
                f"{func.__name__} writes would be lost; write to {target.weight_name}.data, which is the parameter's"
            )
        if args and isinstance(args[0], MaskedWeight) and func in _OF_THE_PARAMETER:
            return func(args[0].parameter, *args[1:], **kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return _guarded(func(*args, **kwargs), args)


class MaskedWeight(ReadOnly):
    """The masked rows `[V, D]` of a table; `.grad`, `.data` and `.requires_grad` are the parameter's."""

    #: The table itself, float32 `[V, D]`.
    parameter: Tensor

    @staticmethod
    def of(values: Tensor, parameter: Tensor, name: str) -> MaskedWeight:
        """Masked values of a parameter.

        Args:
            values: float32 `[V, D]`, just computed.
            parameter: float32 `[V, D]`.
            name: dotted name of the parameter, for errors.
        """
        masked = values.as_subclass(MaskedWeight)
        masked.parameter, masked.weight_name = parameter, name
        return masked


def _written(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[ReadOnly]:
    """The read-only tensors that a call would write to."""
    name = getattr(func, "__name__", "")
    targets = [kwargs["out"]] if kwargs.get("out") is not None else []
    if name in _IN_PLACE or (name.endswith("_") and not name.endswith("__") and func not in _OF_THE_PARAMETER):
        targets.append(args[0] if args else next(iter(kwargs.values()), None))
    flat = [part for target in targets for part in (target if isinstance(target, (list, tuple)) else [target])]
    return [target for target in flat if isinstance(target, ReadOnly)]


def _guarded(result: Any, args: Iterable[Any]) -> Any:
    """A result of a call; a view of a read-only tensor is read-only too."""
    source = next((arg for arg in args if isinstance(arg, ReadOnly)), None)
    if source is None or type(result) is not Tensor or not result._is_view() or result._base is not source._base:
        return result
    view = result.as_subclass(ReadOnly)
    view.weight_name = source.weight_name
    return view
