"""One dream in progress, and the simulator that does the same."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from worldlab.errors import UsageError
from worldlab.eval.branches import CONTEXT, Episodes
from worldlab.protocols import Environment, Restorable, WorldModel
from worldlab.rollout import observation
from worldlab.runs import Json
from worldlab.seeding import generator
from worldlab.trajectory import Observation, Spec, Trajectory, stack

type Frames = Mapping[str, Tensor]
"""Camera name -> one picture (h, w, 3)."""


@dataclass(frozen=True)
class SessionState[S]:
    """Where a dream and its simulator are; can be returned to."""

    belief: S
    steps: int
    """Since the beginning."""
    dream: Frames
    """What the model draws; at the beginning, what it was shown."""
    truth: Frames | None
    """What the simulator shows; None without one."""
    physics: Tensor | None
    """The simulator's state (1, p)."""
    joints: tuple[float, ...]
    """The state that the dream has come to."""
    imagined: Mapping[str, Json]
    """Reward, and whether it ended or succeeded, in the dream."""
    happened: Mapping[str, Json] | None
    """The same in the simulator."""


class Session[S]:
    """What a person does to a dream. Not for several threads: a simulator draws in the one that made it."""

    def __init__(
        self,
        model: WorldModel[S],
        store: Episodes | None,
        episodes: Sequence[int],
        env: Environment | None,
        seed: int,
    ) -> None:
        """Begin with the first recorded frame, or where the simulator starts, or nowhere yet.

        Args:
            model: to be driven.
            store: recorded episodes to begin from.
            episodes: which of them; the held-out ones.
            env: the simulator, of one environment.
            seed: of the model's own randomness and of the simulator's start.
        """
        self.model, self.store, self.episodes, self.env, self.seed = model, store, tuple(episodes), env, seed
        self.saved: SessionState[S] | None = None
        self.now: SessionState[S] | None = None
        self.task, self.source = "", ""
        if self.store is not None and self.episodes:
            self.reset(self.episodes[0], 0)
        elif self.env is not None:
            self.restart()

    @property
    def spec(self) -> Spec:
        """The model's."""
        return self.model.spec

    def reset(self, episode: int, row: int) -> None:
        """Begin from a recorded row.

        Raises:
            UsageError: there is no such row.
        """
        if self.store is None:
            raise UsageError("there are no recorded episodes; start `worldlab play` with --data.")
        if episode not in range(len(self.store)):
            raise UsageError(f"there is no episode {episode}; the store has {len(self.store)}, counted from 0.")
        recorded = self.store[episode]
        if row not in range(len(recorded.valid)):
            raise UsageError(f"episode {episode} has no row {row}; it has {len(recorded.valid)}, counted from 0.")
        context = recorded.rows(max(0, row + 1 - CONTEXT), row + 1)
        physics = None if context.physics is None else context.physics[-1:]
        self._begin(stack([context]), physics, f"episode {episode}, row {row}")
        if physics is not None and isinstance(self.env, Restorable):
            self.env.restore(physics, (self.task,))

    def restart(self) -> None:
        """Begin where the simulator starts."""
        if self.env is None:
            raise UsageError("there is no simulator to start.")
        raw, info = self.env.reset(seed=self.seed)
        task = str(info["task"][0])  # pyright: ignore[reportIndexIssue]
        context = _still(observation(raw, (task,)), len(self.spec.action))
        if "privileged" in info:
            context = replace(context, privileged=torch.tensor(np.asarray(info["privileged"], np.float32))[:, None])
        self._begin(context, self._physics(), "the simulator's start")

    def show(self, picture: Tensor) -> None:
        """Begin from any picture (h, w, 3), shown to every camera, with the present state; there is no truth then.

        Raises:
            UsageError: the model cannot begin from a picture.
        """
        state = torch.tensor([self.now.joints if self.now else (0.0,) * len(self.spec.state)])
        images = {name: _resized(picture, size)[None] for name, size in self.spec.cameras.items()}
        if not images:
            raise UsageError("this world model sees no pictures.")
        self._begin(_still(Observation(images, state, ("",)), len(self.spec.action)), None, "a picture")

    def step(self, action: Sequence[float]) -> None:
        """One control step, in the dream and in the simulator.

        Raises:
            UsageError: nothing has begun, or this is no action.
        """
        now = self._present()
        if len(action) != len(self.spec.action) or not all(map(math.isfinite, action)):
            names = ", ".join(self.spec.action)
            raise UsageError(f"an action is {len(self.spec.action)} finite numbers ({names}); got {list(action)}.")
        act = torch.clamp(torch.tensor(action), torch.tensor(self.spec.low), torch.tensor(self.spec.high))
        with torch.no_grad():
            g = generator(self.seed, now.steps)
            dream, belief = self.model.imagine(now.belief, act[None, None], g)
        dream = dream.to("cpu")
        truth, happened = now.truth, now.happened
        if now.physics is not None and self.env is not None:
            truth, happened = self._simulate(act)
        self.now = SessionState(
            belief=belief,
            steps=now.steps + 1,
            dream={name: dream.obs.images[name][0, 0] for name in self.spec.cameras},
            truth=truth,
            physics=None if now.physics is None else self._physics(),
            joints=tuple(dream.obs.state[0, 0].tolist()),
            imagined=_outcome(dream.reward[0, 0], dream.terminated[0, 0], dream.success[0, 0]),
            happened=happened,
        )

    def branch(self) -> None:
        """Remember the present, to return to it."""
        self.saved = self._present()

    def back(self) -> None:
        """Return to where it was branched.

        Raises:
            UsageError: it was not.
        """
        if self.saved is None:
            raise UsageError("there is no branch to return to; choose 'branch here' first.")
        self.now = self.saved
        if self.now.physics is not None and isinstance(self.env, Restorable):
            self.env.restore(self.now.physics, (self.task,))

    def _present(self) -> SessionState[S]:
        if self.now is None:
            raise UsageError("nothing has begun: choose a recorded frame or a picture first.")
        return self.now

    def _begin(self, context: Trajectory, physics: Tensor | None, source: str) -> None:
        with torch.no_grad():
            belief = self.model.observe(context)
        seen = {name: context.obs.images[name][0, -1] for name in self.spec.cameras}
        simulated = physics is not None and isinstance(self.env, Restorable)
        nothing = _outcome(torch.zeros(()), torch.zeros(()), torch.zeros(()))
        self.saved, self.source, self.task = None, source, context.obs.task[0]
        self.now = SessionState(
            belief=belief,
            steps=0,
            dream=seen,
            truth=seen if simulated else None,
            physics=physics if simulated else None,
            joints=tuple(context.obs.state[0, -1].tolist()),
            imagined=nothing,
            happened=nothing if simulated else None,
        )

    def _physics(self) -> Tensor | None:
        return self.env.physics.clone() if isinstance(self.env, Restorable) else None

    def _simulate(self, action: Tensor) -> tuple[Frames, Mapping[str, Json]]:
        """What the simulator makes of the action."""
        assert self.env is not None
        raw, reward, terminated, truncated, info = self.env.step(action[None].numpy())
        seen = observation(raw, (self.task,)).images
        success = np.asarray(info["success"], bool)
        ended = _outcome(torch.tensor(reward[0]), torch.tensor(terminated[0]), torch.tensor(success[0]))
        return {name: image[0] for name, image in seen.items()}, {**ended, "truncated": bool(truncated[0])}


def _outcome(reward: Tensor, terminated: Tensor, success: Tensor) -> dict[str, Json]:
    return {"reward": float(reward), "terminated": bool(terminated), "success": bool(success)}


def _still(obs: Observation, width: int) -> Trajectory:
    """One row (1, 1) in which nothing has been done yet."""
    nothing = torch.zeros(1, 1)
    seen = obs.map(lambda x: x[:, None])
    return Trajectory(
        seen, torch.zeros(1, 1, width), nothing, nothing.bool(), nothing.bool(), torch.ones(1, 1, dtype=torch.bool)
    )


def _resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of the picture, in the shape of a camera's."""
    from PIL import Image, ImageOps

    height, width = size
    fitted = ImageOps.fit(Image.fromarray(picture.numpy()), (width, height), Image.Resampling.BOX)
    return torch.from_numpy(np.array(fitted))
