"""Complete recipes: a preset is a function that returns everything `worldlab train` needs to know."""

from collections.abc import Callable
from dataclasses import dataclass

from worldlab.dynamics import StateModelConfig
from worldlab.errors import unknown
from worldlab.policies import FlowConfig, TokenConfig
from worldlab.training import FitConfig


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How a store is cut into training batches."""

    length: int
    """Rows of a window."""
    batch: int
    """Windows of a batch."""
    observed: int | None = None
    """Rows whose images are loaded; None loads all."""
    pad: bool = True
    """Whether a window may run past its episode's end (the rows beyond are not valid)."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole recipe."""

    model: FlowConfig | TokenConfig | StateModelConfig
    """What to train."""
    windows: WindowConfig
    """On what."""
    fit: FitConfig
    """How, and for how long."""
    held_out: float = 0.0
    """Fraction of the episodes, the last ones, that training never sees."""


def _flow(minutes: float) -> TrainConfig:
    model = FlowConfig()
    return TrainConfig(
        model=model,
        windows=WindowConfig(length=model.chunk, batch=32, observed=1),
        fit=FitConfig(minutes=minutes, ema=0.99),
    )


def _tokens(minutes: float) -> TrainConfig:
    model = TokenConfig()
    return TrainConfig(
        model=model,
        windows=WindowConfig(length=model.chunk, batch=32, observed=1),
        fit=FitConfig(minutes=minutes, ema=0.99),
    )


def _state(minutes: float) -> TrainConfig:
    return TrainConfig(
        model=StateModelConfig(),
        windows=WindowConfig(length=9, batch=64, pad=False),
        fit=FitConfig(minutes=minutes),
        held_out=0.1,
    )


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    **{f"flow-{task}": lambda m=m: _flow(m) for task, m in {"reach": 3, "push": 10, "lift": 10, "stack": 20}.items()},
    **{
        f"tokens-{task}": lambda m=m: _tokens(m)
        for task, m in {"reach": 3, "push": 10, "lift": 10, "stack": 20}.items()
    },
    **{f"state-{task}": lambda: _state(1) for task in ("reach", "push", "lift", "stack")},
}
"""MODEL-TASK -> recipe."""


def preset(name: str) -> TrainConfig:
    """The recipe of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]()
