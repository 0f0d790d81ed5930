"""Another budget for a preset: what `worldlab train --steps … --batch …` asks for."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from worldlab.errors import UsageError

if TYPE_CHECKING:
    from worldlab.presets import TrainConfig


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """What differs from the preset; None leaves it."""

    steps: int | None = None
    """Budget in steps, instead of the preset's."""
    minutes: float | None = None
    """Budget in minutes, instead of the preset's."""
    batch: int | None = None
    """Windows in a step, instead of the preset's."""
    compile: bool = False
    """Train through torch.compile, which takes a minute to begin with (docs/heads.md says what it buys)."""
    env_steps: int | None = None
    """Budget in control steps of --env, action repeats included."""
    ratio: float | None = None
    """Rows trained on for every row collected in --env."""

    @property
    def of_acting(self) -> bool:
        """Whether something is asked for that only learning while acting has."""
        return self.env_steps is not None or self.ratio is not None

    @property
    def of_a_store(self) -> bool:
        """Whether something is asked for that only learning from a store has."""
        return self.steps is not None or self.minutes is not None

    def applied_to(self, config: "TrainConfig", seed: int) -> "TrainConfig":
        """The recipe with this budget and this seed.

        Raises:
            UsageError: something is not a finite number above zero.
        """
        for name, value in vars(self).items():
            if value is not None and not isinstance(value, bool) and not 0 < value < math.inf:  # nor NaN
                raise UsageError(f"--{name.replace('_', '-')} must be a finite number above zero; got {value}.")
        fit, windows, online = replace(config.fit, seed=seed, compile=self.compile), config.windows, config.online
        if self.of_a_store:
            fit = replace(fit, steps=self.steps, minutes=self.minutes)
        if self.batch is not None:
            windows = replace(windows, batch=self.batch)
        if online is not None:
            env_steps, ratio = self.env_steps or online.env_steps, self.ratio or online.ratio
            online = replace(online, env_steps=env_steps, ratio=ratio)
        return replace(config, fit=fit, windows=windows, online=online)
