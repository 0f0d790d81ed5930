"""Random trajectories for the laws of the store."""

import torch

from worldlab.trajectory import Observation, Spec, Trajectory

SPEC = Spec(
    cameras={"front": (8, 6), "wrist": (4, 4)},
    state=("a.pos", "b.pos"),
    action=("a.pos", "b.pos"),
    privileged=("thing.x", "thing.y", "thing.z"),
    control="joint_position",
    low=(-1.0, -1.0),
    high=(1.0, 1.0),
    fps=10,
)


def random_trajectory(actions, seed=0, spec=SPEC, physics=5, privileged=True) -> Trajectory:
    """A rollout whose episode i has actions[i] actions; every value is random, also under the padding."""
    g = torch.Generator().manual_seed(seed)
    b, t = len(actions), max(actions) + 1
    n = torch.tensor(actions)[:, None]
    acted, valid = torch.arange(t) < n, torch.arange(t) <= n

    def flags():
        return (torch.rand(b, t, generator=g) < 0.5) & acted

    images = {
        name: torch.randint(0, 256, (b, t, *size, 3), generator=g, dtype=torch.uint8)
        for name, size in spec.cameras.items()
    }
    return Trajectory(
        obs=Observation(
            images,
            torch.randn(b, t, len(spec.state), generator=g),
            tuple(f"do thing {(seed + i) % 3}" for i in range(b)),
        ),
        action=torch.randn(b, t, len(spec.action), generator=g) * acted[..., None],
        reward=torch.randn(b, t, generator=g) * acted,
        terminated=flags(),
        success=flags(),
        valid=valid,
        physics=torch.randn(b, t, physics, generator=g, dtype=torch.float64) if physics else None,
        privileged=torch.randn(b, t, len(spec.privileged), generator=g) if privileged else None,
    )


def columns(t: Trajectory) -> dict[str, torch.Tensor]:
    """Every tensor of a trajectory by name."""
    named = {f"images/{k}": v for k, v in t.obs.images.items()} | {"state": t.obs.state, "action": t.action}
    named |= {"reward": t.reward, "terminated": t.terminated, "success": t.success, "valid": t.valid}
    named |= {"physics": t.physics, "privileged": t.privileged}
    return {k: v for k, v in named.items() if v is not None}


def assert_equal(a: Trajectory, b: Trajectory) -> None:
    """Same columns, same types, same bits, same instructions."""
    assert a.obs.task == b.obs.task
    x, y = columns(a), columns(b)
    assert x.keys() == y.keys()
    for name in x:
        assert x[name].dtype == y[name].dtype, name
        assert torch.equal(x[name], y[name]), name
