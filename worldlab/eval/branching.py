"""The same branches in the simulator and in a dream."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from worldlab.errors import UsageError
from worldlab.eval.branches import BranchStart
from worldlab.eval.positions import Compared
from worldlab.protocols import Displaceable, Environment, Observable, Policy, Restorable, Sketching, WorldModel
from worldlab.rollout import branch, observation
from worldlab.seeding import generator
from worldlab.trajectory import Observation, Spec, Trajectory, stack


def camera_of(spec: Spec) -> str | None:
    """The first camera, whose frames are compared."""
    return next(iter(spec.cameras), None)


def _empty(shape: tuple[int, int, int], spec: Spec) -> Trajectory:
    """Room for dreams (s, k, t), of which one camera is kept."""
    name = camera_of(spec)
    images = {} if name is None else {name: torch.zeros(*shape, *spec.cameras[name], 3, dtype=torch.uint8)}
    return Trajectory(
        obs=Observation(images, torch.zeros(*shape, len(spec.state)), ()),
        action=torch.zeros(*shape, len(spec.action)),
        reward=torch.zeros(shape),
        terminated=torch.zeros(shape, dtype=torch.bool),
        success=torch.zeros(shape, dtype=torch.bool),
        valid=torch.ones(shape, dtype=torch.bool),
        privileged=torch.zeros(*shape, len(spec.privileged)) if spec.privileged else None,
    )


def _physics(start: BranchStart) -> Float64[Tensor, " p"]:
    """The simulator's state there."""
    assert start.context.physics is not None
    return start.context.physics[-1]


def _restore(env: Environment, starts: Sequence[BranchStart]) -> None:
    """Put a start into each environment; the spare ones get the first, and what they do is thrown away."""
    assert isinstance(env, Restorable)
    full = [*starts, *[starts[0]] * (env.num_envs - len(starts))]
    env.restore(torch.stack([_physics(s) for s in full]), tuple(s.task for s in full))


def simulate(
    env: Environment,
    starts: Sequence[BranchStart],
    actions: Float[Tensor, "s k t a"],
    physics: Float64[Tensor, "s p"] | None = None,
) -> Trajectory:
    """Run every branch in the simulator, from the starts or, where given, from other states instead.

    Returns:
        Leading axes (s, k, t); row t is the consequence of action t, and not valid if the branch had ended before.
    """
    camera, branches = camera_of(env.contract), actions.shape[1]
    env.reset(seed=0)
    rolled, _ = branch(
        env,
        (torch.stack([_physics(s) for s in starts]) if physics is None else physics).repeat_interleave(branches, 0),
        actions.flatten(0, 1),
        [start.task for start in starts for _ in range(branches)],
        () if camera is None else (camera,),
    )
    return rolled.map(lambda x: x.unflatten(0, (len(starts), branches)))


def foresee(
    env: Displaceable, starts: Sequence[BranchStart], actions: Float[Tensor, "s k t a"], sight: float, seed: int
) -> Trajectory:
    """What the simulator says of the same branches when it is told where objects are to within `sight` metres.

    Meteorology's perfect-model experiment (Lorenz 1982, Tellus 34:505): what remains of its error is that of sight
    alone, grown by the world itself, and no model that sees no better can be expected to do better.
    """
    elsewhere = env.displaced(torch.stack([_physics(start) for start in starts]), sight, seed)
    return simulate(env.spare(env.num_envs), starts, actions, elsewhere)


def follow(
    env: Environment, starts: Sequence[BranchStart], policy: Policy, horizon: int, seed: int
) -> Float[Tensor, "s t a"]:
    """What a policy does in the simulator from each start.

    Raises:
        UsageError: the environment cannot show what it looks like after being restored.
    """
    if not isinstance(env, Observable):
        raise UsageError(
            "this environment cannot be looked at after it is restored, so no policy can branch from there."
        )
    done: list[Tensor] = []
    env.reset(seed=0)
    for begin in range(0, len(starts), env.num_envs):
        wave = starts[begin : begin + env.num_envs]
        _restore(env, wave)
        raw, info = env.observe()
        task = tuple(str(t) for t in info["task"])  # pyright: ignore[reportGeneralTypeIssues]
        policy.reset([seed + begin + i for i in range(env.num_envs)])
        rows: list[Tensor] = []
        while len(rows) < horizon:
            for action in policy.act(observation(raw, task)).cpu().float().unbind(1)[: horizon - len(rows)]:
                raw = env.step(action.numpy())[0]
                rows.append(action)
        done.append(torch.stack(rows, 1)[: len(wave)])
    return torch.cat(done)


def imagine[S](
    model: WorldModel[S],
    starts: Sequence[BranchStart],
    actions: Float[Tensor, "s k t a"],
    seed: int,
    samples: int,
    compared: Compared,
) -> tuple[Trajectory, Float[Tensor, "m s k t n d"]]:
    """Dream every branch, those of one start state at once.

    Returns:
        One dream (s, k, t), and what is compared of so many dreams, that one among them.
    """
    rolled = _empty((actions.shape[0], actions.shape[1], actions.shape[2]), model.spec)
    nothing = compared.of(rolled, model.spec)
    spread = nothing.new_zeros(samples, *nothing.shape)
    unsure = False
    sketch = model.sketch if isinstance(model, Sketching) else model.imagine
    for s, start in enumerate(starts):
        belief = model.observe(stack([start.context] * actions.shape[1]))
        dream = model.imagine(belief, actions[s], generator(seed, s))[0].to("cpu")
        for into, column in (
            (rolled.reward, dream.reward),
            (rolled.terminated, dream.terminated),
            (rolled.success, dream.success),
            (rolled.obs.state, dream.obs.state),
            *((frames, dream.obs.images[name]) for name, frames in rolled.obs.images.items()),
        ):
            into[s] = column
        if rolled.privileged is not None:
            assert dream.privileged is not None
            rolled.privileged[s] = dream.privileged
        spread[:, s] = compared.of(dream, model.spec)
        if s and not unsure:
            continue  # it dreamt the same every time of the first start, so it always does
        for m in range(1, samples):
            other = sketch(belief, actions[s], generator(seed, s, m))[0].to("cpu")
            spread[m, s] = compared.of(other, model.spec)
        unsure = unsure or bool((spread[:, s] != spread[0, s]).any())
    return rolled, spread
