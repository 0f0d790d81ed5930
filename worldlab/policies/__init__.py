"""Policies: vision-language-action models with different heads on one trunk, and the baselines to hold them against."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

from pydantic import Field, TypeAdapter

from worldlab.errors import UsageError
from worldlab.normalize import Statistics
from worldlab.policies.backbone import Backbone as Backbone
from worldlab.policies.backbone import BackboneConfig as BackboneConfig
from worldlab.policies.diffusion_policy import DiffusionConfig as DiffusionConfig
from worldlab.policies.diffusion_policy import DiffusionHead
from worldlab.policies.execution import ChunkPolicy as ChunkPolicy
from worldlab.policies.execution import Execution as Execution
from worldlab.policies.execution import ExecutionConfig as ExecutionConfig
from worldlab.policies.execution import execute as execute
from worldlab.policies.fast_policy import FastConfig as FastConfig
from worldlab.policies.fast_policy import FastHead, FastSettings
from worldlab.policies.fast_tokens import FastTokenizer
from worldlab.policies.flow_policy import FlowConfig as FlowConfig
from worldlab.policies.flow_policy import FlowHead
from worldlab.policies.grounding import GroundingConfig as GroundingConfig
from worldlab.policies.grounding import Referent as Referent
from worldlab.policies.head import Head, Interface
from worldlab.policies.inherit import InitRun as InitRun
from worldlab.policies.insulated_policy import InsulatedConfig as InsulatedConfig
from worldlab.policies.insulated_policy import InsulatedHead
from worldlab.policies.lerobot_baseline import LeRobotBaseline as LeRobotBaseline
from worldlab.policies.lerobot_baseline import LeRobotConfig as LeRobotConfig
from worldlab.policies.random_policy import RandomPolicy as RandomPolicy
from worldlab.policies.regression_policy import RegressionConfig as RegressionConfig
from worldlab.policies.regression_policy import RegressionHead
from worldlab.policies.state_policy import StateOnlyConfig as StateOnlyConfig
from worldlab.policies.state_policy import StateOnlyPolicy as StateOnlyPolicy
from worldlab.policies.token_policy import ParallelTokenConfig as ParallelTokenConfig
from worldlab.policies.token_policy import ParallelTokenHead, TokenHead
from worldlab.policies.token_policy import TokenConfig as TokenConfig
from worldlab.policies.vla import VLA as VLA
from worldlab.policies.vla import note_examples
from worldlab.protocols import Environment, Policy
from worldlab.runs import Json, Run, restored
from worldlab.trajectory import Spec, Trajectory

type VLAConfigs = (
    FlowConfig | InsulatedConfig | DiffusionConfig | RegressionConfig | TokenConfig | ParallelTokenConfig | FastConfig
)
type Config = VLAConfigs | StateOnlyConfig | LeRobotConfig
type Trained = VLA | StateOnlyPolicy | LeRobotBaseline

_KINDS = ("flow", "flow-insulated", "diffusion", "l1", "tokens", "tokens-parallel", "fast", "state-only", "lerobot")


@runtime_checkable
class Demonstrable(Protocol):
    """An environment that knows how its task is done."""

    def expert(self, noise: float = 0.0) -> Policy:
        """The scripted demonstrator, its executed actions disturbed by `noise`."""
        ...


def _cameras(config: VLAConfigs, spec: Spec) -> dict[str, tuple[int, int]]:
    wanted = tuple(spec.cameras) if config.cameras is None else config.cameras
    if config.grounding.weight > 0 and config.grounding.camera not in wanted:
        raise UsageError(
            f"grounding points into camera '{config.grounding.camera}', which the policy does not look through "
            f"({', '.join(wanted) or 'no camera'}); give one that name: `worldlab import --rename "
            f"{config.grounding.camera}=observation.images.NAME`."
        )
    if missing := [name for name in wanted if name not in spec.cameras]:
        raise UsageError(f"the data has no camera '{missing[0]}'; it has {', '.join(spec.cameras) or 'none'}.")
    return {name: spec.cameras[name] for name in wanted}


def _assemble(
    config: VLAConfigs, spec: Spec, statistics: Statistics, backbone: Backbone, words: FastTokenizer | None = None
) -> VLA:
    facts = (len(spec.state), 2 * len(config.grounding.at)) if config.grounding.weight > 0 else (len(spec.state),)
    interface = Interface(facts, config.direct, config.chunk, len(spec.action), config.execute)
    head: Head
    match config:
        case FlowConfig():
            head = FlowHead(config, backbone, interface)
        case InsulatedConfig():
            head = InsulatedHead(config, backbone, interface, words)
        case DiffusionConfig():
            head = DiffusionHead(config, backbone, interface)
        case RegressionConfig():
            head = RegressionHead(config, backbone, interface)
        case TokenConfig():
            head = TokenHead(config, backbone, interface)
        case ParallelTokenConfig():
            head = ParallelTokenHead(config, backbone, interface)
        case FastConfig():
            head = FastHead(config, backbone, interface, words)
    return VLA(config, config.kind, spec, statistics, backbone, head)


def _reserved(config: VLAConfigs) -> int:
    """Ids that the head needs at the end of the vocabulary."""
    match config:
        case TokenConfig():
            return config.bins
        case FastSettings():
            return config.vocabulary
        case _:
            return 0


def needs_examples(config: Config) -> bool:
    """Whether `create` must be given a sample of the data."""
    return isinstance(config, FastSettings)


def create(
    config: Config,
    spec: Spec,
    statistics: Statistics,
    tasks: Sequence[str],
    examples: Trajectory | None = None,
    init_run: InitRun | None = None,
) -> Trained:
    """A fresh policy for data of the given `Spec`.

    Args:
        config: which head, and its sizes.
        spec: of the data; its privileged columns name the labels of the grounding and the expert's actions.
        statistics: of the data.
        tasks: its instructions.
        examples: a batch of training windows; heads that write FAST words learn their vocabulary from it.
        init_run: whose trunk is gone on with; its weights are not loaded here.

    Raises:
        UsageError: a camera is missing, or a pretrained part cannot be read.
    """
    if isinstance(config, StateOnlyConfig):
        return StateOnlyPolicy(config, spec, statistics)
    if isinstance(config, LeRobotConfig):
        return LeRobotBaseline(config, spec, statistics, sorted(set(tasks)))
    pointing = config.grounding.camera if config.grounding.weight > 0 else None
    notes = note_examples(len(spec.state)) if config.state_in_prompt else ()
    make = Backbone.create if init_run is None else init_run.backbone
    backbone = make(
        config.backbone, _cameras(config, spec), tasks, reserved=_reserved(config), notes=notes, pointing=pointing
    )
    policy = _assemble(config, spec, statistics, backbone)
    if examples is not None:
        action, real = policy.chunks.targets(examples)
        policy.head.learn(action[real[:, : (config.execute + 1) // 2].all(-1)])
    return policy


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


def load_run(path: str | Path) -> Trained:
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


def load_vla(path: str | Path) -> VLA:
    """The policy that a run holds, for those who need one that sees.

    Raises:
        UsageError: there is no run, or it holds something else.
    """
    policy = load_run(path)
    if not isinstance(policy, VLA):
        raise UsageError(f"'{path}' holds a baseline ({policy.config.kind}); a vision-language policy is needed here.")
    return policy


def of_description(description: Mapping[str, Json]) -> Trained:
    """The policy that its `describe` described, with untrained weights and in evaluation mode."""
    config = restored(
        TypeAdapter[Config](Annotated[Config, Field(discriminator="kind")]).validate_python, description["model"]
    )
    spec = restored(TypeAdapter(Spec).validate_python, description["spec"])
    statistics = restored(TypeAdapter(Statistics).validate_python, description["statistics"])
    if isinstance(config, StateOnlyConfig):
        return StateOnlyPolicy(config, spec, statistics).eval()
    if isinstance(config, LeRobotConfig):
        if "tasks" not in description:  # of before 2026-11-30: absolute targets, no instruction
            config = replace(config, pace=None)
        tasks = restored(TypeAdapter(list[str]).validate_python, description.get("tasks", []))
        return LeRobotBaseline(config, spec, statistics, tasks).eval()
    architecture, words = description["backbone"], description["head"]
    assert isinstance(architecture, dict)
    assert isinstance(words, str | None)
    backbone = Backbone.of_description(config.backbone, architecture, spec.cameras)
    tokenizer = None if words is None else FastTokenizer.of_description(words)
    return _assemble(config, spec, statistics, backbone, tokenizer).eval()
