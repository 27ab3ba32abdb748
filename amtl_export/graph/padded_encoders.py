"""`nn.TransformerEncoder` as it answers outside of tracing, where it may drop padded positions.

In evaluation mode PyTorch computes histories that are padded at their ends as nested tensors: a padded position gives
0. While it traces, it does not, and gives what attention makes of the padding. Its fast path through a layer is one
operator that has no ONNX, so that is off too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def padded_encoders() -> Iterator[None]:
    """Traced inside the block, padded positions of such encoders give 0 too; one block at a time."""
    own, fast = nn.TransformerEncoder.forward, torch.backends.mha.get_fastpath_enabled()
    setattr(nn.TransformerEncoder, "forward", _padded(own, fast))  # noqa: B010 - to mypy it is no variable
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        setattr(nn.TransformerEncoder, "forward", own)  # noqa: B010


def _padded(own: Callable[..., Tensor], fast: bool) -> Callable[..., Tensor]:
    def forward(
        self: Any,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        # of None for is_causal PyTorch looks at the mask's numbers, which a trace cannot
        answer = own(self, src, mask, src_key_padding_mask, is_causal or False)
        nested = fast and self.use_nested_tensor and mask is None and src.dim() == 3
        if src_key_padding_mask is None or not nested:
            return answer
        padded = src_key_padding_mask.bool()  # or -inf
        if self.mask_check:  # PyTorch asks it of the whole batch; here each example is asked, for it may come alone
            padded = padded & (padded[:, 1:] | ~padded[:, :-1]).all(dim=1, keepdim=True)
        nothing = torch.zeros_like(answer)
        return torch.where(padded.unsqueeze(-1), nothing if self.norm is None else self.norm(nothing), answer)

    return forward
