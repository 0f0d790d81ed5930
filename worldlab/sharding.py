"""Processes that train together; with FSDP2 each holds a part of every tensor in its memory."""

import os
import sys
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from worldlab.errors import UsageError


def whole(x: Tensor) -> Tensor:
    """A tensor that FSDP2 sharded, put together again. All processes must ask, since each holds a part."""
    from torch.distributed.tensor import DTensor

    return x.full_tensor() if isinstance(x, DTensor) else x


def part(full: Tensor, like: Tensor) -> Tensor:
    """The inverse: what this process holds of a tensor where `like` is sharded."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return full
    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements)


@runtime_checkable
class Plugin(Protocol):
    """What is told to FSDP2 (accelerate's FullyShardedDataParallelPlugin)."""

    auto_wrap_policy: object
    cpu_ram_efficient_loading: bool


def shard_as_one(plugin: Plugin) -> None:
    """Have FSDP2 gather all weights at once, before the forward and before the backward pass.

    Layer by layer it would not work: FSDP2 gathers a layer again when the gradient of its output arrives, and action
    heads read keys and values of the trunk beside the outputs of its layers, so that their gradients arrive first.

    Raises:
        UsageError: `accelerate launch` was told to wrap layers.
    """
    if plugin.auto_wrap_policy is not None:
        raise UsageError(
            "models are sharded as a whole here, for action heads read keys and values inside the trunk's layers; "
            "give `accelerate launch` --fsdp_auto_wrap_policy NO_WRAP."
        )
    # Every process has built the model, and accelerate 1.15 cannot hand out one that has buffers.
    plugin.cpu_ram_efficient_loading = False


def exit_if_distributed() -> None:
    """End this process, in success, if it has trained with others; nothing may be left to do.

    By `os._exit`: FSDP2 keeps process groups alive past `destroy_process_group` (PyTorch 2.11), and a thread of gloo's
    that needs the interpreter during its shutdown aborts the process. About one training in thirty ended so, after
    everything was written.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(0)
