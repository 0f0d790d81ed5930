"""What PyTorch's compiler is asked for here, and what is said when it cannot do it."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager

import torch
from torch import nn

from worldlab.errors import UsageError


def options(device: torch.device) -> dict[str, str | int | bool | Callable[..., object]]:
    """For Inductor: on a CPU its kernels are called from C++, since small models spend much of a step in Python."""
    return {"cpp_wrapper": True} if device.type == "cpu" else {}


def compile_parts(parts: Iterable[tuple[nn.Module, str]], device: torch.device) -> None:
    """Replace methods, given as (module, name), by their compiled versions, each for fixed shapes."""
    for owner, name in parts:
        setattr(owner, name, torch.compile(getattr(owner, name), dynamic=False, options=options(device)))


@contextmanager
def compile_errors_as_usage(otherwise: str) -> Generator[None]:
    """What PyTorch cannot compile ends in a sentence.

    Args:
        otherwise: what to do instead.

    Raises:
        UsageError: it does not compile, or there is no compiler.
    """
    from torch._dynamo.exc import TorchDynamoException  # takes a second

    try:
        yield
    except TorchDynamoException as error:
        reason = str(getattr(error, "inner_exception", error)).strip().partition("\n")[0]
        raise UsageError(f"PyTorch cannot compile this model here ({reason}); {otherwise}.") from error
