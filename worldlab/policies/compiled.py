"""A lean policy whose tensors run through kernels that PyTorch's compiler (Inductor) writes for it.

What is compiled has the same shapes at every look: what the trunk makes of images and instruction, and a step of the
action expert. What a token head says one after the other is left as it is.
"""

import torch
from torch import nn

from worldlab import compiling
from worldlab.errors import UsageError
from worldlab.policies.action_expert import ActionExpert
from worldlab.policies.lean import lean
from worldlab.policies.vla import VLA
from worldlab.trajectory import Observation


def compiled(policy: VLA, dtype: torch.dtype = torch.bfloat16) -> VLA:
    """A copy that acts faster than a lean one, compiled before this returns: half a minute, and a C++ compiler.

    Args:
        policy: stays as it is.
        dtype: of the matrix products, as for `lean`.

    Raises:
        UsageError: PyTorch cannot compile it here, or it is not on a CPU, which alone plans for one row at a time.
    """
    device = policy.scale_state.mean.device
    if device.type != "cpu":
        raise UsageError("compiled:RUN acts on a CPU; on another device, act with RUN itself.")
    fast = lean(policy, dtype)
    parts: list[tuple[nn.Module, str]] = [(fast.backbone.fusion, "forward"), (fast.backbone, "read")]
    for expert in (m for m in fast.head.modules() if isinstance(m, ActionExpert)):
        parts += [(expert, "read"), (expert, "predict")]
    compiling.compile_parts(parts, device)
    from torch._inductor import config  # takes a second

    # Weights that do not change are laid out once as the products want them.
    with compiling.compile_errors_as_usage("act with lean:RUN"), config.patch(freezing=True):
        fast.reset([0])
        fast.plan(_nothing(fast, device))
    fast.reset([])
    return fast


def _nothing(policy: VLA, device: torch.device) -> Observation:
    """Black images and an arm at zero."""
    black = {name: torch.zeros(1, *size, 3, dtype=torch.uint8) for name, size in policy.spec.cameras.items()}
    return Observation(black, torch.zeros(1, len(policy.spec.state)), ("",)).to(device)
