"""Controls: does a policy look, and does it listen? One that does neither keeps its success rate without either."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from worldlab.errors import UsageError
from worldlab.protocols import Arrays, Environment, Policy
from worldlab.seeding import key
from worldlab.trajectory import Observation, Spec

_PRESENT = "_cube.present"


class BlankImage:
    """A policy whose cameras show uniform grey."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin one episode per seed."""
        self.policy.reset(seeds)

    def act(self, obs: Observation) -> Float[Tensor, "b k a"]:
        """What the policy does with its eyes shut."""
        grey = {name: torch.full_like(image, 128) for name, image in obs.images.items()}
        return self.policy.act(replace(obs, images=grey))


class WrongInstruction:
    """An environment that asks for another object than the one it judges by.

    The colour that the instruction names first changes places with the colour of another cube in the same scene, chosen
    by the episode's seed: "stack the red cube on the blue one" may become "stack the blue cube on the red one". Which
    cubes are in the scene is read from `info["privileged"]`. Success is still that of the true instruction.

    Raises:
        UsageError: the environment names no coloured cubes, or a scene holds no other cube.
    """

    def __init__(self, env: Environment) -> None:
        self.colours = cube_colours(env.contract)
        if not self.colours:
            raise UsageError("the wrong-instruction control needs coloured cubes, and this environment names none.")
        self.env = env
        self.num_envs = env.num_envs
        self.metadata = env.metadata
        self.task: tuple[str, ...] = ()

    @property
    def contract(self) -> Spec:
        """That of the environment."""
        return self.env.contract

    def reset(self, *, seed: int | None = None) -> tuple[Arrays, dict[str, object]]:
        """The environment's start, with the wrong instructions."""
        raw, info = self.env.reset(seed=seed)
        true = tuple(str(t) for t in info["task"])  # pyright: ignore[reportGeneralTypeIssues]
        columns = [self.contract.privileged.index(colour + _PRESENT) for colour in self.colours]
        present = np.array(info["privileged"], np.float32)[:, columns] > 0.5
        self.task = tuple(self._wrong(true[i], present[i], (seed or 0) + i) for i in range(self.num_envs))
        return raw, info | {"task": self.task}

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[Arrays, NDArray[np.floating], NDArray[np.bool_], NDArray[np.bool_], dict[str, object]]:
        """The environment's step."""
        raw, reward, terminated, truncated, info = self.env.step(actions)
        return raw, reward, terminated, truncated, info | {"task": self.task}

    def _wrong(self, task: str, present: NDArray[np.bool_], seed: int) -> str:
        named = re.findall(rf"\b({'|'.join(self.colours)})\b", task)[:1]
        others = [c for c, there in zip(self.colours, present, strict=True) if there and [c] != named]
        if not named or not others:
            raise UsageError(
                f"no wrong instruction can be made of '{task}': it names no cube, or the scene has no other."
            )
        other = others[key(seed) % len(others)]
        swap = {named[0]: other, other: named[0]}
        return re.sub(rf"\b({'|'.join(swap)})\b", lambda match: swap[match[0]], task)


def cube_colours(spec: Spec) -> list[str]:
    """The colours whose cubes a simulator reports as present or absent (`"<colour>_cube.present"`)."""
    return [name.removesuffix(_PRESENT) for name in spec.privileged if name.endswith(_PRESENT)]


def controls(policy: Policy, env: Environment) -> dict[str, tuple[Policy, Environment]]:
    """The policy and environment of each control, to be evaluated on the same starts as the policy itself.

    Returns:
        "blank_image" where there are images, and "wrong_instruction" where the environment names coloured cubes.
    """
    pairs: dict[str, tuple[Policy, Environment]] = {}
    if env.contract.cameras:
        pairs["blank_image"] = (BlankImage(policy), env)
    if cube_colours(env.contract):
        pairs["wrong_instruction"] = (policy, WrongInstruction(env))
    return pairs
