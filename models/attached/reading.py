"""How an attached module reads its table: the whole masked weight, or masked rows of ids."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amtl_export.models.attached.watch import TrainingWatch
from amtl_export.models.attached.weight import MaskedWeight
from amtl_export.models.selection import Selector

#: Attribute of a holder: parameter name → its selection network, None where that is the submodule `selector`. Only one
#: holder of a table has the submodule: `torch.func.functional_call` does not put back what two modules share.
SELECTORS = "_selectors"

#: Ids whose dims are computed at once.
_CHUNK = 1 << 18


def raw(module: nn.Module, name: str) -> Tensor:
    """The unmasked table of a holder; in a replica of `nn.DataParallel`, which has no parameters, its copy there."""
    table = module._parameters.get(name)
    if table is None:
        table = module.__dict__[name]
    assert isinstance(table, Tensor)
    return table


def selector_of(module: nn.Module, name: str) -> Selector:
    """The selection network of a holder's table."""
    selector = module.__dict__[SELECTORS][name] or module._modules["selector"]
    assert isinstance(selector, Selector)
    return selector


def watch_of(selector: Selector) -> TrainingWatch:
    """What notices that an attached selection network is not trained."""
    watch: TrainingWatch = vars(selector)["watch"]
    return watch


def masked_weight(module: nn.Module, name: str) -> Tensor:
    """The masked rows `[V, D]` of a holder's table: a `MaskedWeight`, or a plain tensor in a graph that is traced."""
    weight, selector = raw(module, name), selector_of(module, name)
    if torch.is_grad_enabled() or _is_tracing():
        mask = _mask(selector, _every(weight), weight)
    else:
        mask = torch.cat([_mask(selector, ids, weight) for ids in _every(weight).split(_CHUNK)])
    if not _is_tracing():
        mask = _DenseGradient.apply(mask)  # type: ignore[no-untyped-call]
    values = weight * mask
    return values if _is_tracing() else MaskedWeight.of(values, weight, watch_of(selector).where)


class _DenseGradient(torch.autograd.Function):
    """The identity; makes a sparse gradient dense, because the selection network has no sparse one."""

    @staticmethod
    def forward(_: Any, mask: Tensor) -> Tensor:
        return mask.view_as(mask)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient.to_dense() if gradient.is_sparse else gradient


def embedding_forward(self: nn.Embedding, input: Tensor) -> Tensor:
    """`nn.Embedding.forward` on masked rows: float32 `[*input.shape, D]`.

    Args:
        input: ids, int64 or int32.
    """
    weight, selector = raw(self, "weight"), selector_of(self, "weight")
    rows = F.embedding(input, weight, self.padding_idx, None, 2.0, self.scale_grad_by_freq, self.sparse)
    if _is_tracing() or input.is_cuda:  # finding distinct ids waits for the GPU, and breaks graphs
        return rows * _mask(selector, input.flatten(), weight).reshape(rows.shape)
    distinct, inverse = torch.unique(input.flatten(), return_inverse=True)
    return rows * F.embedding(inverse, _mask(selector, distinct, weight)).reshape(rows.shape)


def bag_forward(
    self: nn.EmbeddingBag, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
) -> Tensor:
    """`nn.EmbeddingBag.forward` on masked rows: float32 `[bags, D]`.

    Args:
        input: ids, int64 or int32, `[bags, L]`, or `[N]` with offsets.
        offsets: the first position of every bag.
        per_sample_weights: float32, of the shape of `input`; mode sum only.
    """
    if _is_tracing() or input.is_nested:
        return nn.EmbeddingBag.forward(self, input, offsets, per_sample_weights)
    weight = raw(self, "weight")
    distinct, inverse, padding = _distinct(input, self.padding_idx)
    rows = F.embedding(distinct, weight, self.padding_idx, sparse=self.sparse)
    return F.embedding_bag(
        inverse,
        rows * _mask(selector_of(self, "weight"), distinct, weight),
        offsets,
        scale_grad_by_freq=self.scale_grad_by_freq,
        mode=self.mode,
        per_sample_weights=per_sample_weights,
        include_last_offset=self.include_last_offset,
        padding_idx=padding,
    )


def dims_of(module: nn.Module, name: str) -> Tensor:
    """int64 `[V]`: k + 1 of every id of a holder's table.

    Raises:
        ValueError: the table has another V than it was attached with.
    """
    weight, selector = raw(module, name), selector_of(module, name)
    _check_rows(selector, weight)
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        return torch.cat([selector.dims(ids) for ids in _every(weight).split(_CHUNK)])


def _distinct(ids: Tensor, padding_idx: int | None) -> tuple[Tensor, Tensor, int | None]:
    """Distinct ids `[U]`, the position there of every id, and of the padding id: it is always among them."""
    if padding_idx is None:
        return *torch.unique(ids, return_inverse=True), None
    distinct, inverse = torch.unique(torch.cat([ids.flatten(), ids.new_tensor([padding_idx])]), return_inverse=True)
    return distinct, inverse[:-1].reshape(ids.shape), int(inverse[-1])


def _mask(selector: Selector, ids: Tensor, weight: Tensor) -> Tensor:
    """Masks of ids `[U]`, `[U, D]`; in full precision under autocast, so that dims are the same everywhere.

    Raises:
        ValueError: the table has another V than it was attached with.
    """
    if not _is_tracing():
        _check_rows(selector, weight)
    with torch.autocast(weight.device.type, enabled=False):
        mask = selector.mask(ids)
    if not _is_tracing() and mask.requires_grad and isinstance(weight, nn.Parameter):
        watch = watch_of(selector)
        watch.observe(weight, selector.last_biases())
        mask.register_hook(watch.note_gradient)
    return mask


def _check_rows(selector: Selector, weight: Tensor) -> None:
    """Refuse a table that was replaced by one of another V."""
    if len(weight) != (counted := len(selector.features)):
        name = watch_of(selector).where.removesuffix(".weight")
        raise ValueError(
            f"{name} has {len(weight)} rows and was attached with {counted} counts; "
            "detach, and attach again with a count for each row"
        )


def _every(weight: Tensor) -> Tensor:
    return torch.arange(weight.shape[0], device=weight.device)


def _is_tracing() -> bool:
    """Whether PyTorch compiles, exports, traces or transforms (`torch.func`): plain tensors and static shapes then."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None
