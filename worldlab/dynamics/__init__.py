"""World models, and the environment that a world model is."""

from pathlib import Path

from pydantic import TypeAdapter

from worldlab.dynamics.imagined import ImaginedEnv
from worldlab.dynamics.objectives import ToZone, mean_reward
from worldlab.dynamics.planners import CEM, MPPI, Planner
from worldlab.dynamics.rssm import RSSM
from worldlab.dynamics.rssm_config import RSSMConfig
from worldlab.dynamics.state_model import StateModel, StateModelConfig
from worldlab.errors import UsageError
from worldlab.normalize import Statistics
from worldlab.runs import Run
from worldlab.trajectory import Spec

__all__ = [
    "CEM",
    "MPPI",
    "RSSM",
    "ImaginedEnv",
    "ModelConfig",
    "Planner",
    "RSSMConfig",
    "StateModel",
    "StateModelConfig",
    "ToZone",
    "create",
    "load",
    "mean_reward",
]


type ModelConfig = StateModelConfig | RSSMConfig
"""Of any world model."""


def create(config: ModelConfig, spec: Spec, statistics: Statistics) -> StateModel | RSSM:
    """An untrained world model for data of that `Spec`."""
    match config:
        case StateModelConfig():
            return StateModel(config, spec, statistics)
        case RSSMConfig():
            return RSSM(config, spec, statistics)


def load(path: str | Path, device: str = "cpu") -> StateModel | RSSM:
    """The world model of a run.

    Raises:
        UsageError: there is no run, it holds something else, or its weights are missing.
    """
    run = Run.open(path)
    config = run.config
    if config["kind"] not in ("state", "rssm"):
        raise UsageError(f"'{path}' holds a policy ({config['kind']}), not a world model (state or rssm).")
    model = create(
        TypeAdapter[ModelConfig](ModelConfig).validate_python(config["model"]),
        TypeAdapter(Spec).validate_python(config["spec"]),
        TypeAdapter(Statistics).validate_python(config["statistics"]),
    )
    run.load_into(model)
    return model.to(device).eval()
