"""Who may attend to whom."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def block_causal(
    query: Int[Tensor, " q"],
    key: Int[Tensor, " n"],
    valid: Bool[Tensor, "b n"],
) -> Bool[Tensor, "b q n"]:
    """Tokens see the valid tokens of their own block and of earlier blocks (openpi's `make_attn_mask`).

    Args:
        query: block number of each token that asks.
        key: block number of each token that is asked.
        valid: False on padding.
    """
    return (key[None, :] <= query[:, None]) & valid[:, None, :]


def additive(mask: Bool[Tensor, "b q n"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "b 1 q n"]:
    """The mask as transformers adds it to attention scores: 0 where seen, the most negative number elsewhere."""
    unseen = torch.finfo(dtype).min
    return torch.where(mask, 0.0, unseen).to(dtype)[:, None]


def positions(valid: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """The place of each token among the valid ones, so that padding does not shift anybody."""
    return (valid.long().cumsum(-1) - 1).clamp(min=0)
