"""What every part of worldlab passes around: observations, trajectories of them, and the contract they meet under.

Axes: b batch, t time (control steps), h w image, s state, a action, k chunk, p physics, z privileged.
Images are uint8 and channels-last everywhere outside a network. SI units, radians and seconds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from worldlab.errors import UsageError


@dataclass(frozen=True)
class Observation:
    """What a robot perceives at one instant, for any leading axes."""

    images: dict[str, UInt8[Tensor, "*b _ _ 3"]]
    """Camera name -> RGB."""
    state: Float[Tensor, "*b s"]
    """Proprioception, in the units of `Spec.state` (radians for joints)."""
    task: tuple[str, ...]
    """The instruction of each batch entry; one entry where there is no batch axis."""

    def map(self, f: Callable[[Tensor], Tensor]) -> "Observation":
        """Apply `f` to every tensor."""
        return Observation({name: f(image) for name, image in self.images.items()}, f(self.state), self.task)

    def to(self, device: torch.device | str) -> "Observation":
        """Move every tensor to `device`."""
        return self.map(lambda x: x.to(device))


@dataclass(frozen=True)
class Trajectory:
    """Consecutive control steps: row t holds what was seen, what was done, and what came of it.

    An episode of n actions has n + 1 rows (the RLDS convention); the last row is the final observation, and its action
    and reward are zero. A window for training a policy may hold observations for its first rows only.

    Two sources are shifted by one row: in what `WorldModel.imagine` and `rollout.branch` return, row t holds the
    *consequence* of `action[t]`, and there is no final row. They are no episodes, to be stored or trained on.
    """

    obs: Observation
    """Leading axes *b t."""
    action: Float[Tensor, "*b t a"]
    """Taken at `obs[t]`, in environment units."""
    reward: Float[Tensor, "*b t"]
    """Received after `action[t]`."""
    terminated: Bool[Tensor, "*b t"]
    """The episode ended for good after `action[t]` (not by a time limit)."""
    success: Bool[Tensor, "*b t"]
    """The task's own predicate, after `action[t]`."""
    valid: Bool[Tensor, "*b t"]
    """False on padding rows."""
    physics: Float64[Tensor, "*b t p"] | None = None
    """The simulator's whole integration state at `obs[t]`; None where no simulator recorded it."""
    privileged: Float[Tensor, "*b t z"] | None = None
    """What only a simulator knows, named in `Spec.privileged`: labels and probe targets.
    Never an input of a policy that is meant for a robot."""

    @property
    def length(self) -> Tensor:
        """Number of real rows of each episode, shape (*b,)."""
        return self.valid.sum(-1)

    @property
    def succeeded(self) -> Tensor:
        """Whether the task was achieved at any real row, shape (*b,)."""
        return (self.success & self.valid).any(-1)

    @property
    def absorbing_reward(self) -> Tensor:
        """The reward of each row, were episodes to go on standing still after their end, shape (*b, t).

        What ends in success goes on earning its last reward, so that it does not pay to put success off; what ends
        otherwise earns nothing more.
        """
        ended = self.terminated.int().cummax(-1).values.bool()
        first = ended & ~torch.nn.functional.pad(ended, (1, 0))[..., :-1]
        last = torch.where(first & self.success, self.reward, 0).sum(-1, keepdim=True)
        return torch.where(ended & ~first, last, self.reward)

    def map(self, f: Callable[[Tensor], Tensor]) -> "Trajectory":
        """Apply `f` to every tensor."""
        return Trajectory(
            obs=self.obs.map(f),
            action=f(self.action),
            reward=f(self.reward),
            terminated=f(self.terminated),
            success=f(self.success),
            valid=f(self.valid),
            physics=None if self.physics is None else f(self.physics),
            privileged=None if self.privileged is None else f(self.privileged),
        )

    def to(self, device: torch.device | str) -> "Trajectory":
        """Move every tensor to `device`."""
        return self.map(lambda x: x.to(device))

    def rows(self, start: int, stop: int) -> "Trajectory":
        """The rows start..stop-1 of every batch entry."""
        axis = self.valid.ndim - 1
        return self.map(lambda x: x.narrow(axis, start, min(stop, x.shape[axis]) - start))

    def strided(self, stride: int) -> "Trajectory":
        """Every `stride`-th row of an episode (t,), as if its actions had been repeated for so long.

        Rewards are summed, and success or an end between counts. The last row stays the last, also where the episode
        ended before a stride was over.
        """
        taken = len(self.valid) - 1
        rows = torch.tensor([*range(0, taken, stride), taken])

        def between(x: Tensor, total: Callable[[Tensor], Tensor]) -> Tensor:
            totals = [total(part) for part in x[:taken].split(stride)]
            return torch.stack([*totals, x.new_zeros(())]).to(x.dtype)

        every = self.map(lambda x: x[rows])
        return replace(
            every,
            action=torch.cat([every.action[:-1], torch.zeros_like(every.action[-1:])]),
            reward=between(self.reward, lambda x: x.sum()),
            terminated=between(self.terminated, lambda x: x.any()),
            success=between(self.success, lambda x: x.any()),
        )

    def pick(self, entries: Sequence[int]) -> "Trajectory":
        """The given batch entries, in the given order (the first axis must be the batch)."""
        index = torch.as_tensor(entries, dtype=torch.long)
        part = self.map(lambda x: x[index.to(x.device)])
        return replace(part, obs=replace(part.obs, task=tuple(self.obs.task[i] for i in entries)))

    def episode(self, i: int) -> "Trajectory":
        """Batch entry i without its batch axis and without its padding."""
        n = int(self.length[i])
        part = self.map(lambda x: x[i, :n])
        return replace(part, obs=replace(part.obs, task=(self.obs.task[i],)))


def stack(episodes: Sequence[Trajectory]) -> Trajectory:
    """Put trajectories of one episode each side by side, padding the shorter with invalid zero rows."""
    longest = max(len(e.valid) for e in episodes)

    def pad(x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(longest - len(x), *x.shape[1:])])

    return _together([e.map(pad) for e in episodes], torch.stack, tuple(e.obs.task[0] for e in episodes))


def concatenate(batches: Sequence[Trajectory]) -> Trajectory:
    """The entries of several batches as one batch."""
    return _together(batches, torch.cat, tuple(task for batch in batches for task in batch.obs.task))


def join(parts: Sequence[Trajectory]) -> Trajectory:
    """Consecutive parts of the same episodes as one trajectory, leading axes *b t."""
    axis = parts[0].valid.ndim - 1
    return _together(parts, lambda tensors: torch.cat(tensors, axis), parts[0].obs.task)


def _together(parts: Sequence[Trajectory], put: Callable[[list[Tensor]], Tensor], task: tuple[str, ...]) -> Trajectory:
    """One trajectory of several, column by column; what not all of them have is None."""

    def column(get: Callable[[Trajectory], Tensor]) -> Tensor:
        return put([get(part) for part in parts])

    def column_or_none(get: Callable[[Trajectory], Tensor | None]) -> Tensor | None:
        found = [x for part in parts if (x := get(part)) is not None]
        return put(found) if len(found) == len(parts) else None

    return Trajectory(
        obs=Observation(
            {name: column(lambda t, name=name: t.obs.images[name]) for name in parts[0].obs.images},
            column(lambda t: t.obs.state),
            task,
        ),
        action=column(lambda t: t.action),
        reward=column(lambda t: t.reward),
        terminated=column(lambda t: t.terminated),
        success=column(lambda t: t.success),
        valid=column(lambda t: t.valid),
        physics=column_or_none(lambda t: t.physics),
        privileged=column_or_none(lambda t: t.privileged),
    )


Control = Literal["joint_position", "joint_delta", "ee_delta", "raw"]


@dataclass(frozen=True)
class Spec:
    """What a policy and an environment must agree on before they meet."""

    cameras: dict[str, tuple[int, int]]
    """Camera name -> (height, width) in pixels."""
    state: tuple[str, ...]
    """Name of each state dimension, LeRobot's where LeRobot has one: "shoulder_pan.pos"."""
    action: tuple[str, ...]
    """Name of each action dimension."""
    privileged: tuple[str, ...]
    """Name of each privileged dimension, "red_cube.x"; () outside simulation. Not part of the agreement."""
    control: Control
    """What an action means."""
    low: tuple[float, ...]
    """Smallest action, environment units."""
    high: tuple[float, ...]
    """Largest action, environment units."""
    fps: int
    """Control steps a second."""

    @property
    def joint_targets(self) -> bool:
        """Whether actions are joint targets in the coordinates of `state`, so that `action - state` is meaningful."""
        return self.control == "joint_position" and self.action == self.state

    def check(self, other: "Spec", names: tuple[str, str] = ("policy", "environment")) -> None:
        """Raise `UsageError` naming the first thing in which `other` does not offer what this contract needs."""

        def differ(what: str, mine: object, theirs: object) -> UsageError:
            return UsageError(f"{names[0]} and {names[1]} disagree on {what}: {names[0]} {mine}, {names[1]} {theirs}.")

        for camera, size in self.cameras.items():
            if camera not in other.cameras:
                raise differ("cameras", f"needs '{camera}'", f"has {', '.join(other.cameras) or 'none'}")
            if tuple(other.cameras[camera]) != tuple(size):
                raise differ(f"the size of camera '{camera}'", tuple(size), tuple(other.cameras[camera]))
        pairs: list[tuple[str, object, object]] = [
            ("state", self.state, other.state),
            ("action", self.action, other.action),
            ("control", self.control, other.control),
            ("fps", self.fps, other.fps),
        ]
        for what, mine, theirs in pairs:
            if mine != theirs:
                raise differ(what, mine, theirs)
        for what, mine, theirs in (("low", self.low, other.low), ("high", self.high, other.high)):
            if any(abs(a - b) > 1e-5 for a, b in zip(mine, theirs, strict=True)):
                raise differ(f"the {what}est action", mine, theirs)
