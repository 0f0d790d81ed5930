"""Policies: vision-language-action models with different heads on one trunk, and the baselines to hold them against."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

from pydantic import Field, TypeAdapter

from worldlab.errors import UsageError
from worldlab.normalize import Statistics
from worldlab.policies.backbone import Backbone as Backbone
from worldlab.policies.backbone_config import BackboneConfig as BackboneConfig
from worldlab.policies.flow_policy import FlowConfig as FlowConfig
from worldlab.policies.flow_policy import FlowHead
from worldlab.policies.grounding import GroundingConfig as GroundingConfig
from worldlab.policies.random_policy import RandomPolicy as RandomPolicy
from worldlab.policies.token_policy import TokenConfig as TokenConfig
from worldlab.policies.token_policy import TokenHead
from worldlab.policies.vla import VLA as VLA
from worldlab.policies.vla import Head
from worldlab.protocols import Environment, Policy
from worldlab.runs import Json, Run
from worldlab.trajectory import Spec

type Config = FlowConfig | TokenConfig

_KINDS = ("flow", "tokens")


@runtime_checkable
class Demonstrable(Protocol):
    """An environment that knows how its task is done."""

    def expert(self, noise: float = 0.0) -> Policy:
        """The scripted demonstrator, its executed actions disturbed by `noise`."""
        ...


def _cameras(config: Config, spec: Spec) -> dict[str, tuple[int, int]]:
    wanted = tuple(spec.cameras) if config.cameras is None else config.cameras
    if config.grounding.weight > 0 and config.grounding.camera not in wanted:
        raise UsageError(
            f"grounding points into camera '{config.grounding.camera}', which the policy does not look through "
            f"({', '.join(wanted) or 'no camera'}); name another with grounding.camera or set grounding.weight to 0."
        )
    if missing := [name for name in wanted if name not in spec.cameras]:
        raise UsageError(f"the data has no camera '{missing[0]}'; it has {', '.join(spec.cameras) or 'none'}.")
    return {name: spec.cameras[name] for name in wanted}


def _assemble(config: Config, spec: Spec, statistics: Statistics, backbone: Backbone) -> VLA:
    facts = [len(spec.state)] + ([2] if config.grounding.weight > 0 else [])
    head: Head
    if isinstance(config, FlowConfig):
        head = FlowHead(config, backbone, facts, len(spec.action))
    else:
        head = TokenHead(config, backbone, facts, len(spec.action))
    return VLA(config, config.kind, spec, statistics, backbone, head)


def create(config: Config, spec: Spec, statistics: Statistics, tasks: Sequence[str]) -> VLA:
    """A fresh policy for data of the given `Spec`.

    Args:
        config: which head, and its sizes.
        spec: of the data; its privileged columns name the labels of the grounding and the expert's actions.
        statistics: of the data.
        tasks: its instructions.

    Raises:
        UsageError: a camera is missing, or a pretrained part cannot be read.
    """
    reserved = config.bins if isinstance(config, TokenConfig) else 0
    pointing = config.grounding.camera if config.grounding.weight > 0 else None
    cameras = _cameras(config, spec)
    backbone = Backbone.create(config.backbone, cameras, tasks, reserved=reserved, pointing=pointing)
    return _assemble(config, spec, statistics, backbone)


def load(name: str | Path, device: str = "cpu", env: Environment | None = None) -> Policy:
    """A policy by name: a run's folder, "random", "expert" or "lerobot:DIR".

    Args:
        name: what to load.
        device: where a trained policy computes.
        env: whose expert, or whose action range, is asked for.

    Raises:
        UsageError: there is no such policy, or it needs an environment that was not given.
    """
    name = str(name)
    if name == "random":
        return RandomPolicy(_needed(name, env).contract)
    if name == "expert":
        world = _needed(name, env)
        if not isinstance(world, Demonstrable):
            raise UsageError("this environment has no scripted expert; load a trained run or 'random' instead.")
        return world.expert()
    if name.startswith("lerobot:"):
        from worldlab.policies import lerobot_policy

        return lerobot_policy.load(name.removeprefix("lerobot:"), device)
    return load_run(name).to(device)


def _needed(name: str, env: Environment | None) -> Environment:
    if env is None:
        raise UsageError(f"the policy '{name}' belongs to an environment: pass policies.load('{name}', env=env).")
    return env


def load_run(path: str | Path) -> VLA:
    """The policy that a run holds.

    Raises:
        UsageError: there is no run, or it holds something else.
    """
    run = Run.open(path)
    kind = run.config["kind"]
    if kind not in _KINDS:
        raise UsageError(f"'{path}' holds a model of kind '{kind}', not a policy ({', '.join(_KINDS)}).")
    policy = of_description(run.config)
    run.load_into(policy)
    return policy


def of_description(description: Mapping[str, Json]) -> VLA:
    """The policy that `VLA.describe` described, with untrained weights and in evaluation mode."""
    config = TypeAdapter[Config](Annotated[Config, Field(discriminator="kind")]).validate_python(description["model"])
    spec = TypeAdapter(Spec).validate_python(description["spec"])
    statistics = TypeAdapter(Statistics).validate_python(description["statistics"])
    architecture = description["backbone"]
    assert isinstance(architecture, dict)
    backbone = Backbone.of_description(config.backbone, architecture, spec.cameras)
    return _assemble(config, spec, statistics, backbone).eval()
