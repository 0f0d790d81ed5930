"""Where objects are: read from frames, and moved by contact while nothing is seen."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from worldlab.dynamics.contact import NEAR, Contact, Kinematics
from worldlab.dynamics.filtered import Sightings, mean_of
from worldlab.dynamics.heads import mlp
from worldlab.dynamics.layout import Layout, WorldState
from worldlab.errors import UsageError
from worldlab.normalize import Statistics
from worldlab.trajectory import Spec

CENTIMETRE = 0.01
TURN = 1.3
"""An error of this size in a heading's cosine and sine costs as much as a centimetre."""
SURE = 0.3
"""And of this size in a mark, from 0 to 1."""
PIXEL = 0.05
"""And of this size in a place in the picture, of its width."""


class Slots(nn.Module):
    """One slot per object that a simulator names.

    **It is taught with labels that only a simulator has.** A slot holds an object's place, its two axes, its marks and
    where cameras see it, in the units of the data; what no action changes stands behind them. All of it is one vector
    w. An estimate is read from every frame and mixed with what contact predicted, by a gain for each object, as in a
    Kalman filter: where a gripper hides a cube, the prediction may stay. A frame says how an object stands up to
    quarter turns, and not whether it is tilted.

    What is predicted never touches what is read, nor the rest of a world model: w is given on without gradient.
    """

    middle: Tensor
    level: Tensor
    rest: Tensor
    unit: Tensor
    owner: Tensor

    def __init__(self, spec: Spec, statistics: Statistics, look: int, width: int, depth: int = 3) -> None:
        """`look` is the width of what is seen of a row.

        Raises:
            UsageError: the data hold no poses of objects.
        """
        super().__init__()
        layout = self.layout = Layout.of(spec.privileged)
        known = statistics.privileged
        if not layout.poses or known is None:
            raise UsageError("slots are for objects whose poses the data hold; use slots=False.")
        objects, marks, pixels = layout.sizes
        constants = len(layout.constants)
        self.parts = [3 * objects, 6 * objects, marks * objects, pixels * objects, constants]
        """Of w."""
        self._read_parts = [3 * objects, 2 * objects, *self.parts[2:]]
        units = [CENTIMETRE, TURN, SURE, PIXEL, CENTIMETRE]
        self.register_buffer("unit", torch.tensor(units).repeat_interleave(torch.tensor(self._read_parts)))
        whose = torch.arange(objects)
        each = [whose.repeat_interleave(n) for n in (3, 2, marks, pixels)]
        self.register_buffer("owner", torch.cat([*each, torch.full((constants,), objects)]))
        self.register_buffer("middle", torch.tensor(known.mean)[[i for pose in layout.poses for i in pose[:3]]])
        self.register_buffer("level", torch.tensor(known.mean)[list(layout.constants)])
        self.register_buffer("rest", torch.tensor(known.mean)[list(layout.free)])
        self.pose = Kinematics(statistics.state, width, len(layout.free))
        self.reader = mlp(look, width, 2, sum(self._read_parts))
        self.gain = mlp(look + sum(self._read_parts), width, 1, objects + 1)
        self.contact = Contact(layout, statistics.state, width, depth)
        self.width = sum(self.parts)
        """Of w."""
        self.features = objects * (3 + 3 + 4 + marks + pixels) + constants
        """Width of `show`."""

    def read(self, look: Float[Tensor, "*b e"]) -> Float[Tensor, "*b r"]:
        """What one frame says: places, cosine and sine of four times the headings, marks, pixels, and what stays."""
        place, code, marks, pixels, constants = self.reader(look).float().split(self._read_parts, -1)
        where = self.middle + NEAR * place
        return torch.cat([where, code, marks.sigmoid(), 0.5 + 0.25 * pixels, self.level + NEAR * constants], -1)

    def see(
        self, look: Float[Tensor, "*b e"], predicted: Float[Tensor, "*b w"] | None, read: Float[Tensor, "*b r"]
    ) -> tuple[Float[Tensor, "*b r"], Float[Tensor, "*b w"]]:
        """What a frame says, mixed with what was predicted of it if anything was, and w."""
        if predicted is None:
            return read, self.to_belief(read)
        known = self._known(self._world(None, predicted))
        news = (read - known) / self.unit
        gain = self.gain(torch.cat([look, news.detach().clamp(-5, 5)], -1)).float().sigmoid()
        mixed = known + gain[..., self.owner] * (read - known)
        return mixed, self.to_belief(mixed)

    def follow(self, look: Float[Tensor, "b t e"], states: Float[Tensor, "b t s"]) -> Sightings:
        """See one row after another."""
        read = self.read(look)
        mixed, slots = self.see(look[:, 0], None, read[:, 0])
        whole, held = [mixed], [slots]
        for i in range(1, read.shape[1]):
            with torch.no_grad():
                predicted = self.move(slots, states[:, i - 1], states[:, i])
            mixed, slots = self.see(look[:, i], predicted, read[:, i])
            whole.append(mixed)
            held.append(slots)
        return Sightings(read, torch.stack(whole, 1), torch.stack(held, 1))

    def to_belief(self, read: Float[Tensor, "*b r"]) -> Float[Tensor, "*b w"]:
        """What is read, as it is believed: w."""
        place, code, *rest = read.detach().split(self._read_parts, -1)
        cosine, sine = code.unflatten(-1, (-1, 2)).unbind(-1)
        heading = torch.atan2(sine, cosine) / 4
        flat = torch.zeros_like(heading)
        x = torch.stack([heading.cos(), heading.sin(), flat], -1)
        y = torch.stack([-heading.sin(), heading.cos(), flat], -1)
        return torch.cat([place, torch.stack([x, y], -2).flatten(-3), *rest], -1)

    def move(
        self, slots: Float[Tensor, "*b w"], before: Float[Tensor, "*b s"], after: Float[Tensor, "*b s"]
    ) -> Float[Tensor, "*b w"]:
        """What w is after the arm has moved from one state to another."""
        world = self._world(before, slots)
        return self._flat(self.contact(world, replace(world, state=after, free=self.gripper(after).detach())))

    def dream(self, slots: Float[Tensor, "n w"], states: Float[Tensor, "n k s"]) -> Float[Tensor, "n k w"]:
        """What w is at each of k states, given that of the first."""
        dreamt = [slots]
        for i in range(states.shape[1] - 1):
            dreamt.append(self.move(dreamt[-1], states[:, i], states[:, i + 1]))
        return torch.stack(dreamt, 1)

    def gripper(self, state: Float[Tensor, "*b s"]) -> Float[Tensor, "*b f"]:
        """What moves with the arm, metres: forward kinematics."""
        return self.rest + NEAR * self.pose(state).float()

    def show(self, state: Float[Tensor, "*b s"], slots: Float[Tensor, "*b w"]) -> Float[Tensor, "*b f"]:
        """What networks read of w."""
        world = self._world(state, slots)
        there = world.marks[..., :1]
        place = (world.place - self.middle.unflatten(0, (-1, 3))) / NEAR
        seen = torch.cat([place, self.contact.near(world), world.faces, world.marks, world.pixels], -1) * there
        return torch.cat([seen.flatten(-2), (world.constants - self.level) / NEAR], -1)

    def privileged(self, state: Float[Tensor, "*b s"], slots: Float[Tensor, "*b w"]) -> Float[Tensor, "*b z"]:
        """The columns of `Spec.privileged` that are of the world."""
        return self.layout.join(self._world(state, slots))

    def losses(
        self,
        seen: Sightings,
        states: Float[Tensor, "b t s"],
        privileged: Float[Tensor, "b t z"],
        valid: Bool[Tensor, "b t"],
        horizon: int,
    ) -> dict[str, Float[Tensor, ""]]:
        """Errors a row of what was read, before and after it was mixed, and a step of dreams from every row.

        A dream answers for how objects move from where they are believed to be; where they are is the reader's to say.
        """
        truth = self.layout.split(states, torch.zeros_like(states), privileged[..., : len(self.layout.names)])
        known, there = self._known(truth), truth.marks[..., 0]
        counts = torch.cat([there, torch.ones_like(there[..., :1])], -1)[..., self.owner]
        places, codes, marks, *_ = self._read_parts
        counts[..., places + codes : places + codes + marks] = 1.0  # of what is absent, that it is absent
        off = torch.stack([seen.read, seen.mixed]) - known
        wrong = (counts * _huber(off / self.unit)).sum(-1)
        arm = 0.5 * ((self.gripper(states) - truth.free) / CENTIMETRE).square().sum(-1)
        read, mixed, gripper = (mean_of(x, valid) for x in (*wrong, arm))
        contact = self._contact_error(seen.slots, states, truth, valid, horizon)
        return {"read": read, "mixed": mixed, "gripper": gripper, "contact": contact}

    def _contact_error(
        self,
        slots: Float[Tensor, "b t w"],
        states: Float[Tensor, "b t s"],
        truth: WorldState,
        valid: Bool[Tensor, "b t"],
        horizon: int,
    ) -> Float[Tensor, ""]:
        """Half the squared errors of displacements, in centimetres, and of headings, summed over objects."""
        start, rows = self._world(None, slots), states.shape[1]
        total, steps = states.new_zeros(()), states.new_zeros(())
        for h in range(1, min(horizon, rows - 1) + 1):
            slots = self.move(slots[:, : rows - h], states[:, h - 1 : -1], states[:, h:])
            world, began = self._world(None, slots), start.rows(0, rows - h)
            now, before = truth.rows(h, rows), truth.rows(0, rows - h)
            moved = (world.place - began.place - (now.place - before.place)) / CENTIMETRE
            seen = (world.pixels - began.pixels - (now.pixels - before.pixels)) / PIXEL
            turned = (world.faces - now.faces) / TURN
            wrong = moved.square().sum(-1) + seen.square().sum(-1) + turned.square().sum(-1)
            there = valid[:, h:, None] * now.marks[..., 0]
            total, steps = total + 0.5 * (there * wrong).sum(), steps + valid[:, h:].sum()
        return total / steps.clamp(min=1)

    def _world(self, state: Float[Tensor, "*b s"] | None, slots: Float[Tensor, "*b w"]) -> WorldState:
        """A world of slots; without a state it has no arm."""
        objects, of_mark, of_pixel = self.layout.sizes
        place, axes, marks, pixels, constants = slots.split(self.parts, -1)
        nothing = slots[..., :0]
        joints = nothing if state is None else state
        return WorldState(
            state=joints,
            velocity=torch.zeros_like(joints),
            free=nothing if state is None else self.gripper(state).detach(),
            constants=constants,
            place=place.unflatten(-1, (objects, 3)),
            axes=axes.unflatten(-1, (objects, 2, 3)),
            marks=marks.unflatten(-1, (objects, of_mark)),
            pixels=pixels.unflatten(-1, (objects, of_pixel)),
        )

    def _flat(self, world: WorldState) -> Float[Tensor, "*b w"]:
        """The inverse of `_world`."""
        of_objects = (
            world.place.flatten(-2),
            world.axes.flatten(-3),
            world.marks.flatten(-2),
            world.pixels.flatten(-2),
        )
        return torch.cat([*of_objects, world.constants], -1)

    def _known(self, world: WorldState) -> Float[Tensor, "*b r"]:
        """What a frame could say of a world."""
        code = world.faces[..., :2]
        return torch.cat(
            [x.flatten(-2) for x in (world.place, code, world.marks, world.pixels)] + [world.constants], -1
        )


def _huber(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    return functional.huber_loss(x, torch.zeros_like(x), reduction="none")
