"""The one loop that meets policies and environments, real or imagined."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
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
    on_step: Callable[[int], None] | None = None,
) -> Trajectory:
    """Run one episode per environment in lockstep; environment i and its policy noise start from `seed + i`.

    Args:
        policy: asked for a chunk whenever the last one is used up.
        env: real or imagined; see `Environment`.
        seed: of the first environment.
        max_steps: stop after this many steps even if episodes go on; None leaves it to the environment.
        on_step: called with the number of episodes still running, for a progress bar.

    Returns:
        Leading axes (env.num_envs, t), padded with invalid rows after each episode's end.

    Raises:
        UsageError: the policy returned no actions, or actions of another width than the environment's.
    """
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
            if on_step is not None:
                on_step(int(alive.sum()))
            if not alive.any():
                break
    return record.trajectory()
