"""Demonstrations without a simulator: the named colour is a bright patch, and the action is where it is."""

from dataclasses import replace

import torch

from worldlab import policies, so101
from worldlab.normalize import Moments, Statistics
from worldlab.policies import (
    BackboneConfig,
    DiffusionConfig,
    FastConfig,
    FlowConfig,
    GroundingConfig,
    InsulatedConfig,
    ParallelTokenConfig,
    RegressionConfig,
    StateOnlyConfig,
    TokenConfig,
)
from worldlab.trajectory import Observation, Spec, Trajectory

COLOURS = ("red", "green", "blue", "yellow")
RGB = torch.tensor([[220, 30, 30], [30, 200, 30], [40, 60, 230], [230, 210, 30]])
TASKS = (*(f"reach the {c} cube" for c in COLOURS), "please go and reach the green cube")
TINY = BackboneConfig(width=32, layers=1, heads=2, image=32)


def make_spec(cameras=("front", "wrist"), labelled=True) -> Spec:
    suffixes = ("x", "y", "z", "present", "target", "front.u", "front.v")
    cubes = tuple(f"{c}_cube.{s}" for c in COLOURS for s in suffixes)
    expert = tuple(f"expert.{name}" for name in so101.NAMES)
    return Spec(
        cameras=dict.fromkeys(cameras, (32, 32)),
        state=so101.NAMES,
        action=so101.NAMES,
        privileged=(*cubes, *expert) if labelled else (),
        control="joint_position",
        low=so101.LOW,
        high=so101.HIGH,
        fps=10,
    )


def make_batch(spec: Spec, b=8, t=6, seed=0) -> Trajectory:
    """Three cubes of four colours on each image; the instruction names one of them."""
    g = torch.Generator().manual_seed(seed)
    index = {name: i for i, name in enumerate(spec.privileged)}
    order = torch.stack([torch.randperm(4, generator=g) for _ in range(b)])
    uv = 0.1 + 0.8 * torch.rand(b, 4, 2, generator=g)
    target = order[:, 0]
    image = torch.full((b, 32, 32, 3), 90, dtype=torch.uint8)
    privileged = torch.zeros(b, t, len(spec.privileged))
    for i in range(b):
        for colour in order[i, :3].tolist():
            u, v = (uv[i, colour] * 32).long().tolist()
            image[i, max(v - 2, 0) : v + 3, max(u - 2, 0) : u + 3] = RGB[colour].to(torch.uint8)
            for name, value in (("present", 1.0), ("front.u", uv[i, colour, 0]), ("front.v", uv[i, colour, 1])):
                if spec.privileged:
                    privileged[i, :, index[f"{COLOURS[colour]}_cube.{name}"]] = value
        if spec.privileged:
            privileged[i, :, index[f"{COLOURS[target[i]]}_cube.target"]] = 1.0
    goal = uv[torch.arange(b), target]
    action = torch.zeros(b, t, 6)
    action[..., :2] = goal[:, None] * torch.linspace(0.5, 1, t)[:, None]
    if spec.privileged:
        privileged[..., -6:] = action
    no = torch.zeros(b, t, dtype=torch.bool)
    return Trajectory(
        obs=Observation(
            dict.fromkeys(spec.cameras, image[:, None]),
            0.1 * torch.randn(b, 1, 6, generator=g),
            tuple(f"reach the {COLOURS[c]} cube" for c in target),
        ),
        action=action,
        reward=torch.zeros(b, t),
        terminated=no,
        success=no,
        valid=~no,
        privileged=privileged if spec.privileged else None,
    )


def make_statistics() -> Statistics:
    x = torch.rand(1000, 6, generator=torch.Generator().manual_seed(5))
    return Statistics(state=Moments.of(0.2 * x - 0.1), action=Moments.of(x * torch.tensor([1.0, 1, 0, 0, 0, 0])))


_SMALL = {"backbone": TINY, "chunk": 4, "execute": 2, "pace": None}

HEADS = {
    "flow": FlowConfig(**_SMALL, width=32, euler_steps=4),
    "flow-adarms": FlowConfig(**_SMALL, width=32, euler_steps=4, conditioning="adarms", state_in_prompt=True),
    "flow-delay": FlowConfig(**_SMALL, width=32, euler_steps=4, max_delay=2),
    "flow-insulated": InsulatedConfig(**_SMALL, width=32, euler_steps=4, vocabulary=300),
    "diffusion": DiffusionConfig(**_SMALL, width=32),
    "l1": RegressionConfig(**_SMALL, width=64),
    "l1-two-points": RegressionConfig(**_SMALL, width=64, grounding=GroundingConfig(at=("first", "second"))),
    "tokens": TokenConfig(**_SMALL),
    "tokens-parallel": ParallelTokenConfig(**_SMALL),
    "fast": FastConfig(**_SMALL, vocabulary=300),
}
"""Name -> every head, small."""

FUSED = {
    f"{head}-{fusion}": replace(
        HEADS[head], backbone=replace(TINY, fusion=fusion, queries=4, image=16 if fusion == "anyres" else 32)
    )
    for head in ("flow", "tokens")
    for fusion in ("anyres", "qformer", "flamingo", "native")
}
"""Name -> two of them on every other fusion."""

STATE_ONLY = StateOnlyConfig(width=64, chunk=4, execute=2, pace=None)


def make_policy(config, spec=None, seed=0):
    """Untrained, for the demonstrations of this file."""
    torch.manual_seed(seed)
    spec = make_spec() if spec is None else spec
    return policies.create(config, spec, make_statistics(), TASKS, make_batch(spec, b=256, seed=9)).eval()


def read(policy, b=8, task=None):
    """What the policy's head is given for a batch: prefix and facts."""
    obs = make_batch(make_spec(), b=b).obs.map(lambda x: x[:, 0])
    prefix, facts, _ = policy.read(obs, task or obs.task)
    return prefix, facts
