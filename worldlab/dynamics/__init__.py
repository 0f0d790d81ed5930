"""World models, and the environment that a world model is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from worldlab.dynamics.actor_critic import ActorCriticConfig
from worldlab.dynamics.dreamer import Dreamer, DreamerConfig
from worldlab.dynamics.imagined import ImaginedEnv
from worldlab.dynamics.objectives import ToZone, mean_reward
from worldlab.dynamics.planners import CEM, MPPI, Planner
from worldlab.dynamics.rssm import RSSM
from worldlab.dynamics.rssm_config import RSSMConfig
from worldlab.dynamics.simulator import Simulator
from worldlab.dynamics.state_model import StateModel, StateModelConfig
from worldlab.errors import UsageError
from worldlab.normalize import Statistics
from worldlab.runs import Json, Run, restored
from worldlab.trajectory import Spec

__all__ = [
    "CEM",
    "MPPI",
    "RSSM",
    "ActorCriticConfig",
    "Dreamer",
    "DreamerConfig",
    "ImaginedEnv",
    "ModelConfig",
    "Planner",
    "RSSMConfig",
    "Simulator",
    "StateModel",
    "StateModelConfig",
    "ToZone",
    "create",
    "load",
    "load_dreamer",
    "mean_reward",
    "of_description",
]


type ModelConfig = StateModelConfig | RSSMConfig | DreamerConfig
"""Of any world model."""


def create(config: ModelConfig, spec: Spec, statistics: Statistics) -> StateModel | RSSM | Dreamer:
    """An untrained world model for data of that `Spec`."""
    match config:
        case StateModelConfig():
            return StateModel(config, spec, statistics)
        case RSSMConfig():
            return RSSM(config, spec, statistics)
        case DreamerConfig():
            return Dreamer(config, spec, statistics)


def load(path: str | Path, device: str = "cpu") -> StateModel | RSSM:
    """The world model of a run; of a Dreamer, what it dreams in.

    Raises:
        UsageError: there is no run, it holds something else, or its weights are missing.
    """
    model = _load(path, ("state", "rssm", "dreamer"), "a world model").to(device)
    return model.world if isinstance(model, Dreamer) else model


def load_dreamer(path: str | Path, device: str = "cpu") -> Dreamer:
    """The Dreamer of a run, which is a `Policy`.

    Raises:
        UsageError: there is no run, it holds something else, or its weights are missing.
    """
    model = _load(path, ("dreamer",), "a policy that learnt in dreams").to(device)
    assert isinstance(model, Dreamer)
    return model


def _load(path: str | Path, kinds: tuple[str, ...], wanted: str) -> StateModel | RSSM | Dreamer:
    """The model of a run, if it is of one of these kinds."""
    run = Run.open(path)
    config = run.config
    if config["kind"] not in kinds:
        raise UsageError(f"'{path}' holds a model of kind '{config['kind']}', not {wanted} ({', '.join(kinds)}).")
    model = of_description(config)
    run.load_into(model)
    return model.eval()


def of_description(description: Mapping[str, Json]) -> StateModel | RSSM | Dreamer:
    """The model that its `describe` described, untrained."""
    union = Annotated[ModelConfig, Field(discriminator="kind")]
    return create(
        restored(TypeAdapter[ModelConfig](union).validate_python, description["model"]),
        restored(TypeAdapter(Spec).validate_python, description["spec"]),
        restored(TypeAdapter(Statistics).validate_python, description["statistics"]),
    )
