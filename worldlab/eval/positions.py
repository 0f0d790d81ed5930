"""Where everything is in the truth and in a dream: effect errors, distances and angles."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import pi

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldlab.eval.pooling import Finish, Pooled, at_horizons
from worldlab.trajectory import Spec, Trajectory

MOVED = 0.01
"""An object has moved when it is this far from where it was, metres."""
_QUATERNION = ("qw", "qx", "qy", "qz")


def bodies_of(spec: Spec) -> tuple[str, ...]:
    """The gripper and the objects: whatever has a position, but for the goal zone, which is a mark."""
    prefixes = [name.removesuffix(".x") for name in spec.privileged if name.endswith(".x")]
    return tuple(p for p in prefixes if p != "zone" and {f"{p}.y", f"{p}.z"} <= set(spec.privileged))


def metres(privileged: Tensor, spec: Spec, bodies: Sequence[str]) -> Float[Tensor, "*b bodies 3"]:
    """The positions of the bodies."""
    columns = [spec.privileged.index(f"{body}.{axis}") for body in bodies for axis in "xyz"]
    return privileged[..., columns].double().unflatten(-1, (len(bodies), 3))


def present(privileged: Float[Tensor, "*b z"], spec: Spec, bodies: Sequence[str]) -> Bool[Tensor, "*b bodies"]:
    """Which bodies are there at all; those of which nothing says so are."""
    known = {name: i for i, name in enumerate(spec.privileged)}
    flags = [known.get(f"{body}.present") for body in bodies]
    here = torch.ones(privileged.shape[:-1], dtype=torch.bool)
    return torch.stack([here if flag is None else privileged[..., flag] > 0.5 for flag in flags], -1)


def informative(privileged: Float[Tensor, "*b z"], spec: Spec) -> Bool[Tensor, "*b z"]:
    """Which numbers say anything: where a body is, is zero while it is not there."""
    there = present(privileged, spec, [name.partition(".")[0] for name in spec.privileged])
    return there | torch.tensor([name.endswith((".present", ".target")) for name in spec.privileged])


@dataclass(frozen=True)
class Compared:
    """What of a world is compared: where its bodies are, or, if nobody knows where, the state that is observed."""

    bodies: tuple[str, ...]
    """The gripper and the objects; () compares the state."""
    deviation: Float[Tensor, " s"]
    """Standard deviation of each column of the state in the data. One that is 0 is not compared."""

    def of(self, world: Trajectory, spec: Spec) -> Float[Tensor, "*b n d"]:
        """Positions (bodies, 3) in metres, or the state (columns, 1) in standard deviations."""
        if not self.bodies:
            return self.standard(world.obs.state)[..., None]
        assert world.privileged is not None
        return metres(world.privileged, spec, self.bodies)

    def standard(self, state: Float[Tensor, "*b s"]) -> Float[Tensor, "*b s"]:
        """The state in standard deviations, 0 where it is not compared."""
        return state.double() / torch.where(self.deviation > 0, self.deviation, torch.inf)


def headings(privileged: Tensor, spec: Spec, bodies: Sequence[str]) -> Float[Tensor, "*b bodies"]:
    """Rotation about the vertical, radians; nan for a body without an orientation."""
    found: list[Tensor] = []
    for body in bodies:
        columns = [f"{body}.{part}" for part in _QUATERNION]
        if set(columns) <= set(spec.privileged):
            w, x, y, z = privileged[..., [spec.privileged.index(c) for c in columns]].double().unbind(-1)
            found.append(torch.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))
        else:
            found.append(torch.full(privileged.shape[:-1], torch.nan, dtype=torch.float64))
    return torch.stack(found, -1)


@dataclass(frozen=True)
class Positions:
    """Where everything really was, as `Compared` says; index t is after action t. Branch 0 is the recorded one."""

    truth: Float[Tensor, "s k t bodies d"]
    start: Float[Tensor, "s 1 1 bodies d"]
    counts: Bool[Tensor, "s k t bodies"]
    """The branch had not ended, and the body is there."""
    objects: Bool[Tensor, " bodies"]
    """Which bodies are objects; none, where the state is compared."""

    @property
    def pairs(self) -> Bool[Tensor, "s j t bodies"]:
        """Which bodies count in the comparison of each alternative with the recorded branch."""
        return self.counts[:, 1:] & self.counts[:, :1]

    @cached_property
    def _ever(self) -> Bool[Tensor, "s k t bodies"]:
        """The objects that have moved by then."""
        far = ((self.truth - self.start).norm(dim=-1) > MOVED) & self.counts & self.objects
        return far.int().cummax(2).values.bool()

    @property
    def moved(self) -> Bool[Tensor, "s j t bodies"]:
        """The objects of the pairs in which an object has moved."""
        ever = self._ever.any(-1, keepdim=True)
        return self.pairs & self.objects & (ever[:, 1:] | ever[:, :1])

    @property
    def displaced(self) -> Bool[Tensor, "s j t bodies"]:
        """The objects that have themselves moved in the alternative branch, be it by its actions or not."""
        return self.pairs & self._ever[:, 1:]

    def effect(self, said: Float[Tensor, "s k t bodies d"], mask: Bool[Tensor, "s j t bodies"]) -> Pooled:
        """The effect error of a prediction over the pairs in the mask."""
        true, said = self.truth[:, 1:] - self.truth[:, :1], said[:, 1:] - said[:, :1]

        def energy(x: Float[Tensor, "s j t bodies d"]) -> Float[Tensor, "s t"]:
            return (x.square().sum(-1) * mask).sum((1, 3))

        return _pool(energy(said - true), energy(true), mask, "root")

    def distance(self, said: Float[Tensor, "s k t bodies d"], mask: Bool[Tensor, "s j t bodies"]) -> Pooled:
        """The mean distance of a prediction from the truth in the alternative branches of the mask, centimetres."""
        off = 100 * (said - self.truth).norm(dim=-1)[:, 1:]
        return _pool((off * mask).sum((1, 3)), mask.sum((1, 3)), mask)

    def spread_skill(self, samples: Float[Tensor, "m s k t bodies d"], mask: Bool[Tensor, "s j t bodies"]) -> Pooled:
        """How far samples of a dream are apart, as a share of how far their mean is off.

        1 where the model knows what it does not know, less where it is too sure (Fortin et al. 2014, J. Hydrometeorol.
        15:1708, eq. 15).
        """
        m = len(samples)
        apart = (samples.var(0, correction=1).sum(-1)[:, 1:] * mask).sum((1, 3)) * (m + 1) / m
        off = ((samples.mean(0) - self.truth).square().sum(-1)[:, 1:] * mask).sum((1, 3))
        return _pool(apart, off, mask, "root")


def turned(
    said: Float[Tensor, "s k t bodies"], truth: Float[Tensor, "s k t bodies"], mask: Bool[Tensor, "s j t bodies"]
) -> Pooled:
    """The mean difference of headings in the mask, radians, modulo the quarter turns that a cube does not show."""
    off = ((said - truth + pi / 4) % (pi / 2) - pi / 4).abs()[:, 1:]
    known = mask & ~off.isnan()
    return _pool((off.nan_to_num() * known).sum((1, 3)), known.sum((1, 3)), known)


def _pool(
    numerator: Float[Tensor, "s t"],
    denominator: Tensor,
    mask: Bool[Tensor, "s j t bodies"],
    finish: Finish = "mean",
) -> Pooled:
    summed, over, cases = (at_horizons(x.double()) for x in (numerator, denominator, mask.any(-1).sum(1)))
    return Pooled(summed, over, cases, finish)
