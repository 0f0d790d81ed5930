"""A world model of what the simulator knows: joints, gripper, objects. It draws frames from that."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from worldlab.dynamics.contact import NEAR, Contact, Kinematics, plain_mlp
from worldlab.dynamics.decoder import FrameDecoder
from worldlab.dynamics.filtered import some_of
from worldlab.dynamics.layout import Layout, WorldState, stack
from worldlab.errors import UsageError
from worldlab.normalize import Moments, Standardize, Statistics
from worldlab.runs import Json, described
from worldlab.trajectory import Observation, Spec, Trajectory

STEP = 0.1
"""A control step changes a quantity by about this fraction of its standard deviation over the data."""
CENTIMETRE = 0.01


@dataclass(frozen=True, kw_only=True)
class StateModelConfig:
    """`StateModel`."""

    kind: Literal["state"] = "state"
    """Names the model in a run."""
    width: int = 128
    """Of the hidden layers."""
    depth: int = 3
    """Layers of each network of the dynamics."""
    horizon: int = 8
    """Steps imagined in training; every row of a window that has so many after it is a start."""
    frames: int = 8
    """Frames drawn per training step; drawing is trained beside the dynamics and does not shape it."""
    foreground_weight: float = 20.0
    """How much more a pixel weighs that differs by its whole range from the mean frame."""


class StateModel(nn.Module):
    """Predicts the simulator's low-dimensional state, and draws the frames from it.

    **It is taught with labels that only a simulator has** (`Trajectory.privileged`: object poses) and needs them to
    begin a dream, so it cannot start from a real camera. What that buys: it heeds actions after a minute on a laptop.

    One step is residual: first the arm (state and free columns) from the action, then each object by one shared network
    from its place relative to the gripper before and after, gated, so that what is not touched stays where it is. The
    belief is [state, its last change, privileged], in the units of the data.
    """

    def __init__(self, config: StateModelConfig, spec: Spec, statistics: Statistics) -> None:
        """`spec` and `statistics` are those of the data."""
        super().__init__()
        self.config, self._spec, self.statistics = config, spec, statistics
        layout = self.layout = Layout.of(spec.privileged)
        known = statistics.privileged or Moments((), (), (), ())
        self.scale_state = Standardize(statistics.state)
        self.scale_action = Standardize(statistics.action)
        self.scale_free = Standardize(_select(known, layout.free))
        self.scale_constants = Standardize(_select(known, layout.constants))
        objects, marks, pixels = layout.sizes
        states, free = len(spec.state), len(layout.free)
        arm, seen = 2 * states + free, 9 + marks
        width, depth = config.width, config.depth
        self.arm = plain_mlp(arm + len(spec.action), width, depth, 2 * states + free)
        self.linear = nn.Linear(arm + len(spec.action), states)
        self.pose = Kinematics(statistics.state, width, free)
        self.contact = Contact(layout, statistics.state, width, depth)
        world = arm + len(layout.constants)
        self.part = plain_mlp(world + seen + 3, width // 2, 2, width // 2)
        self.outcome = plain_mlp(world + width // 2, width // 2, 2, 3)
        self.decoder = FrameDecoder(world + objects * (seen + pixels), spec.cameras)
        for last in (self.arm[-1], self.linear):
            nn.init.zeros_(last.weight)  # pyright: ignore[reportArgumentType]

    @property
    def spec(self) -> Spec:
        """The data's, without the columns that are an expert's opinion and no part of the world."""
        return replace(self._spec, privileged=self.layout.names)

    def describe(self) -> dict[str, Json]:
        """Everything that `load` needs except the weights."""
        return described(self.config.kind, model=self.config, spec=self._spec, statistics=self.statistics)

    def observe(self, context: Trajectory) -> Float[Tensor, "b d"]:
        """The last valid row, and how the state changed to it (zero if it is the only one).

        Raises:
            UsageError: the context holds no privileged state.
        """
        rows = self._rows(context.to(self.linear.weight.device))
        last = (context.length - 1).clamp(min=0).to(rows.device)
        return rows[torch.arange(len(rows), device=rows.device), last]

    @torch.no_grad()
    def imagine(
        self, belief: Float[Tensor, "b d"], action: Float[Tensor, "b t a"], generator: torch.Generator | None = None
    ) -> tuple[Trajectory, Float[Tensor, "b d"]]:
        """What follows each action; deterministic, so `generator` is not used."""
        dream, end = self._dream(belief, action)
        return self._trajectory(dream, action, self.decoder.draw(self._drawn(dream))), end

    @torch.no_grad()
    def sketch(
        self, belief: Float[Tensor, "b d"], action: Float[Tensor, "b t a"], generator: torch.Generator | None = None
    ) -> tuple[Trajectory, Float[Tensor, "b d"]]:
        """`imagine` without images, some ten times as fast."""
        dream, end = self._dream(belief, action)
        return self._trajectory(dream, action, {}), end

    def _dream(
        self, belief: Float[Tensor, "b d"], action: Float[Tensor, "b t a"]
    ) -> tuple[WorldState, Float[Tensor, "b d"]]:
        """The worlds (b, t, ...) after each action, and the belief after the last."""
        beliefs: list[Tensor] = []
        for now in action.to(belief.device).unbind(1):
            belief = self._join(self.advance(self._split(belief), now))
            beliefs.append(belief)
        return self._split(torch.stack(beliefs, 1)), belief

    def _trajectory(
        self, dream: WorldState, action: Float[Tensor, "b t a"], images: dict[str, UInt8[Tensor, "b t _ _ 3"]]
    ) -> Trajectory:
        """A dream as others see it."""
        reward, terminated, success = self._outcome(dream).unbind(-1)
        return Trajectory(
            obs=Observation(images, dream.state, ("",) * len(action)),
            action=action,
            reward=reward,
            terminated=terminated > 0,
            success=success > 0,
            valid=torch.ones_like(reward, dtype=torch.bool),
            privileged=self.layout.join(dream),
        )

    def loss(self, batch: Trajectory) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Errors of dreams of `config.horizon` steps from every row, of their outcomes, and of drawn frames.

        Raises:
            UsageError: the windows are too short to hold a step, or hold no privileged state.
        """
        rows = self._rows(batch)
        # A dream begins at row 1 or later: how fast the arm is at row 0 of a window is not known.
        rows, batch = rows[:, 1:], batch.rows(1, rows.shape[1])
        horizon = min(self.config.horizon, rows.shape[1] - 1)
        if horizon < 1:
            raise UsageError(f"a world model learns from windows of at least 3 rows; got {rows.shape[1] + 1}.")
        starts = rows.shape[1] - horizon
        truth, starting = self._split(rows), rows[:, :starts]
        arm = world = self._split(starting)
        dreamt: list[WorldState] = []
        for h in range(horizon):
            # The objects learn from what the arm really did; its own errors would teach them that contact is luck.
            real = truth.rows(h + 1, h + 1 + starts)
            pushed = self.contact(world, real)
            arm = self._move(arm, batch.action[:, h : h + starts])
            dreamt.append(replace(pushed, state=arm.state, velocity=arm.velocity, free=arm.free))
            world = replace(real, place=pushed.place, axes=pushed.axes, pixels=pushed.pixels)
        dream = stack(dreamt)

        def after(x: Tensor, delay: int) -> Tensor:
            """What a column (b, t, ...) holds so many rows after each step of each dream, (b, starts, horizon, ...)."""
            return torch.stack([x[:, h + delay : h + delay + starts] for h in range(horizon)], 2)

        valid = after(batch.valid, 1)
        happened = torch.stack([after(x.float(), 0) for x in (batch.reward, batch.terminated, batch.success)], -1)
        errors = self._errors(
            dream, stack([truth.rows(h + 1, h + 1 + starts) for h in range(horizon)])
        ) | self._outcome_errors(dream, happened)
        metrics = {name: (error * valid).sum() / valid.sum().clamp(min=1) for name, error in errors.items()}
        metrics["frames"] = self._frame_loss(batch, rows)
        return torch.stack(list(metrics.values())).sum(), metrics

    def advance(self, world: WorldState, action: Float[Tensor, "*b a"]) -> WorldState:
        """One control step."""
        return self.contact(world, self._move(world, action))

    def _move(self, world: WorldState, action: Float[Tensor, "*b a"]) -> WorldState:
        """What the action does to the arm."""
        std = self.scale_state.std * STEP
        aim = (action - world.state) / std if self._spec.joint_targets else self.scale_action(action)
        inputs = torch.cat([self._arm(world), aim], -1)
        moved, free, gate = self.arm(inputs).split([len(std), len(self.layout.free), len(std)], -1)
        moved = moved + self.linear(inputs)
        if self._spec.joint_targets:
            # A servo either arrives, or is on its way as fast as it can.
            moved = torch.lerp(moved, aim, gate.sigmoid())
        velocity = std * moved
        state = world.state + velocity
        # What the pose of the arm explains moves with it, so that it cannot drift away over a long dream.
        carried = self.pose(state) - self.pose(world.state) + STEP * free
        return replace(world, state=state, velocity=velocity, free=world.free + self.scale_free.std * carried)

    def _rows(self, batch: Trajectory) -> Float[Tensor, "b t d"]:
        """Every row as a belief; the first row of a window is taken to be at rest."""
        if batch.privileged is None:
            raise UsageError("this world model needs the simulator's privileged state, and these episodes have none.")
        state = batch.obs.state
        velocity = torch.diff(state, dim=1, prepend=state[:, :1])
        return torch.cat([state, velocity, batch.privileged[..., : len(self.layout.names)]], -1)

    def _split(self, belief: Float[Tensor, "*b d"]) -> WorldState:
        states = len(self._spec.state)
        return self.layout.split(*belief.split([states, states, len(self.layout.names)], -1))

    def _join(self, world: WorldState) -> Float[Tensor, "*b d"]:
        """The inverse of `_split`."""
        return torch.cat([world.state, world.velocity, self.layout.join(world)], -1)

    def _arm(self, world: WorldState) -> Float[Tensor, "*b w"]:
        """State, velocity and free columns, scaled."""
        velocity = world.velocity / (STEP * self.scale_state.std)
        return torch.cat([self.scale_state(world.state), velocity, self.scale_free(world.free)], -1)

    def _summary(self, world: WorldState) -> Float[Tensor, "*b w"]:
        """All but the objects, scaled."""
        return torch.cat([self._arm(world), self.scale_constants(world.constants)], -1)

    def _seen(self, world: WorldState) -> Float[Tensor, "*b o f"]:
        """Each object, scaled; zero where there is none."""
        return torch.cat([world.place / NEAR, world.axes.flatten(-2), world.marks], -1) * world.marks[..., :1]

    def _outcome(self, world: WorldState) -> Float[Tensor, "*b 3"]:
        """Reward, and the logits of termination and success, on arriving in a world."""
        summary, seen = self._summary(world), self._seen(world)
        inputs = [summary[..., None, :].expand(*seen.shape[:-1], summary.shape[-1]), seen, self.contact.near(world)]
        parts = self.part(torch.cat(inputs, -1)) * world.marks[..., :1]
        return self.outcome(torch.cat([summary, parts.sum(-2)], -1))

    def _drawn(self, world: WorldState) -> Float[Tensor, "*b f"]:
        """What the decoder draws from."""
        objects = torch.cat([self._seen(world), world.pixels * world.marks[..., :1]], -1)
        return torch.cat([self._summary(world), objects.flatten(-2)], -1)

    def _errors(self, dream: WorldState, truth: WorldState) -> dict[str, Tensor]:
        """Squared errors of each row, in steps of the arm, and in centimetres and radians of objects."""
        joints = (dream.state - truth.state) / (STEP * self.scale_state.std)
        errors = {"state": joints.square().mean(-1)}
        if self.layout.free:
            errors["free"] = ((dream.free - truth.free) / (STEP * self.scale_free.std)).square().mean(-1)
        if self.layout.poses:
            present = truth.marks[..., 0]
            place = ((dream.place - truth.place) / CENTIMETRE).square().sum(-1)
            turn = (dream.axes - truth.axes).square().sum((-1, -2))
            pixels = ((dream.pixels - truth.pixels) / NEAR).square().sum(-1)
            errors["place"] = (present * place).mean(-1)
            errors["turn"] = (present * turn).mean(-1)
            errors["pixels"] = (present * pixels).mean(-1)
        return errors

    def _outcome_errors(self, dream: WorldState, happened: Float[Tensor, "*b 3"]) -> dict[str, Tensor]:
        """Errors of the outcomes as read off a dream; they do not shape it."""
        predicted = self._outcome(dream.detach())
        ended = functional.binary_cross_entropy_with_logits(predicted[..., 1:], happened[..., 1:], reduction="none")
        return {"reward": (predicted[..., 0] - happened[..., 0]).square(), "ended": ended.mean(-1)}

    def _frame_loss(self, batch: Trajectory, rows: Float[Tensor, "b t d"]) -> Float[Tensor, ""]:
        """The decoder's loss on some real rows of the batch, drawn from what was true of them."""
        seen = min((image.shape[1] for image in batch.obs.images.values()), default=0)
        some = some_of(batch.valid[:, :seen].flatten(), self.config.frames)
        if len(some) == 0:
            return rows.new_zeros(())
        images = {name: image[:, :seen].flatten(0, 1)[some] for name, image in batch.obs.images.items()}
        return self.decoder.loss(
            self._drawn(self._split(rows[:, :seen].flatten(0, 1)[some])), images, self.config.foreground_weight
        )


def _select(moments: Moments, columns: tuple[int, ...]) -> Moments:
    """The statistics of some dimensions."""
    mean, std, q01, q99 = (
        tuple(values[i] for i in columns) for values in (moments.mean, moments.std, moments.q01, moments.q99)
    )
    return Moments(mean, std, q01, q99)
