"""The one loop that meets policies and environments, real or imagined; and the other, that branches a simulator."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from worldlab.errors import UsageError
from worldlab.protocols import Arrays, Environment, Policy, Restorable
from worldlab.trajectory import Observation, Trajectory


def observation(raw: Arrays, task: tuple[str, ...]) -> Observation:
    """A Gymnasium observation dict as an `Observation`. The tensors share no memory with the environment."""
    images = {k.removeprefix("images."): torch.tensor(v) for k, v in raw.items() if k.startswith("images.")}
    return Observation(images, torch.tensor(raw["state"]), task)


class _Recorder:
    """Collects the rows of a rollout and puts them together."""

    def __init__(self, env: Environment) -> None:
        self.env = env
        self.rows: list[dict[str, Tensor]] = []
        self.observations: list[Observation] = []

    def see(self, obs: Observation, info: Mapping[str, object], alive: NDArray[np.bool_]) -> None:
        """Begin row t with what was observed."""
        row = {"valid": torch.tensor(alive)}
        if "privileged" in info:
            row["privileged"] = torch.as_tensor(np.array(info["privileged"], np.float32))
        if isinstance(self.env, Restorable):
            row["physics"] = self.env.physics.clone()
        self.observations.append(obs)
        self.rows.append(row)

    def happened(
        self,
        action: Tensor,
        reward: NDArray[np.floating],
        terminated: NDArray[np.bool_],
        success: NDArray[np.bool_],
        alive: NDArray[np.bool_],
    ) -> None:
        """End row t with what was done and what came of it; nothing happens to an episode that is over."""
        self.rows[-1] |= {
            "action": action * torch.tensor(alive)[:, None],
            "reward": torch.tensor(np.where(alive, reward, 0).astype(np.float32)),
            "terminated": torch.tensor(terminated & alive),
            "success": torch.tensor(success & alive),
        }

    def trajectory(self) -> Trajectory:
        """The whole episode, leading axes (b, t)."""
        none = torch.zeros_like(self.rows[0]["terminated"])
        final = {
            "action": torch.zeros_like(self.rows[0]["action"]),
            "reward": torch.zeros_like(self.rows[0]["reward"]),
            "terminated": none,
            "success": none,
        }
        rows = [*self.rows[:-1], self.rows[-1] | final]
        column = {name: torch.stack([row[name] for row in rows], 1) for name in rows[0]}
        seen = self.observations
        images = {name: torch.stack([o.images[name] for o in seen], 1) for name in seen[0].images}
        state = torch.stack([o.state for o in seen], 1)
        return Trajectory(obs=Observation(images, state, seen[0].task), **column)


def rollout(
    policy: Policy,
    env: Environment,
    seed: int,
    max_steps: int | None = None,
) -> Trajectory:
    """Run one episode per environment in lockstep; environment i and its policy noise start from `seed + i`.

    Args:
        policy: asked for a chunk whenever the last one is used up.
        env: real or imagined; see `Environment`.
        seed: of the first environment.
        max_steps: stop after this many steps even if episodes go on; None leaves it to the environment.

    Returns:
        Leading axes (env.num_envs, t), padded with invalid rows after each episode's end.

    Raises:
        UsageError: the policy returned no actions, or actions of another width than the environment's; or no step is
            asked for.
    """
    if max_steps is not None and max_steps < 1:
        raise UsageError(f"a rollout takes at least 1 step; got {max_steps}.")
    raw, info = env.reset(seed=seed)
    task = tuple(str(t) for t in info["task"])  # pyright: ignore[reportGeneralTypeIssues]
    policy.reset([seed + i for i in range(env.num_envs)])
    record = _Recorder(env)
    alive = np.ones(env.num_envs, bool)
    obs = observation(raw, task)
    record.see(obs, info, alive)
    steps = 0
    while alive.any() and (max_steps is None or steps < max_steps):
        chunk = policy.act(obs).detach().to("cpu", torch.float32)
        width = len(env.contract.action)
        if chunk.shape[1] == 0 or chunk.shape[2] != width:
            raise UsageError(f"the policy returned actions of shape {tuple(chunk.shape)}; needed (n, k, {width}).")
        for action in chunk[:, : None if max_steps is None else max_steps - steps].unbind(1):
            raw, reward, terminated, truncated, info = env.step(action.numpy())
            record.happened(action, reward, terminated, np.asarray(info["success"], bool), alive)
            obs = observation(raw, task)
            record.see(obs, info, alive)  # what follows a real action is real, also when it is the last observation
            alive = alive & ~(terminated | truncated)
            steps += 1
            if not alive.any():
                break
    return record.trajectory()


def branch(
    env: Environment,
    physics: Float64[Tensor, "n p"],
    action: Float[Tensor, "n t a"],
    task: Sequence[str] | None = None,
    cameras: Sequence[str] | None = None,
) -> tuple[Trajectory, Float64[Tensor, "n p"]]:
    """What follows actions from saved states, as many at once as the environment has simulations.

    Args:
        env: is restored; whatever went on there is lost.
        physics: where each branch begins.
        action: of each branch.
        task: instruction of each branch; None leaves them blank.
        cameras: whose frames are kept; None is all.

    Returns:
        Row t is the consequence of action[t], and not valid if the branch had ended before; and the states at the end.

    Raises:
        UsageError: the environment cannot be restored, or there is nothing to do.
    """
    if min(action.shape[:2]) < 1:
        raise UsageError(f"branches take actions; got {action.shape[0]} branches of {action.shape[1]} steps.")
    if not isinstance(env, Restorable):
        raise UsageError("this environment cannot be restored to a saved state, so it cannot be branched.")
    task = ("",) * len(action) if task is None else tuple(task)
    waves: list[dict[str, Tensor]] = []
    for begin in range(0, len(action), env.num_envs):
        n = min(env.num_envs, len(action) - begin)
        who = begin + torch.arange(env.num_envs).clamp(max=n - 1)  # spare simulations do what the last one does
        env.restore(physics[who], tuple(task[i] for i in who.tolist()))
        running, rows = torch.ones(n, dtype=torch.bool), list[dict[str, Tensor]]()
        for now in action[who].unbind(1):
            raw, reward, terminated, truncated, info = env.step(now.numpy())
            row = {
                "state": torch.as_tensor(np.array(raw["state"], np.float32)),
                "reward": torch.as_tensor(reward).float(),
                "terminated": torch.as_tensor(terminated),
                "success": torch.as_tensor(np.asarray(info["success"], bool)),
            }
            if "privileged" in info:
                row["privileged"] = torch.as_tensor(np.array(info["privileged"], np.float32))
            for name in env.contract.cameras if cameras is None else cameras:
                row[name] = torch.as_tensor(raw[f"images.{name}"])
            rows.append({name: x[:n].clone() for name, x in row.items()} | {"valid": running})
            running = running & ~torch.as_tensor(terminated | truncated)[:n]
        column = {name: torch.stack([row[name] for row in rows], 1) for name in rows[0]}
        waves.append(column | {"physics": env.physics[:n].clone()})
    column = {name: torch.cat([wave[name] for wave in waves]) for name in waves[0]}
    end = column.pop("physics")
    images = {name: column.pop(name) for name in list(column) if name in env.contract.cameras}
    return Trajectory(obs=Observation(images, column.pop("state"), task), action=action, **column), end
