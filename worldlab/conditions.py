"""The world that a policy is judged in: what `worldlab eval --variation … --hold …` asks for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worldlab.errors import UsageError

if TYPE_CHECKING:
    from worldlab.protocols import Environment
    from worldlab.runs import Json


@dataclass(frozen=True, kw_only=True)
class EvalConditions:
    """How the world and its verdict differ from those of training."""

    variation: tuple[str, ...] = ()
    """Departures from the training world, NAME=SEVERITY. `worldlab list variations` shows them."""
    hold: int = 0
    """Control steps for which the task must stay achieved before that counts: nobody stops a real arm when it is."""

    def world(self, env_id: str, n: int, size: int | tuple[int, int] | None) -> "Environment":
        """So many environments under these conditions.

        Raises:
            UsageError: they make no sense, or this environment cannot have them.
        """
        from worldlab import envs

        return envs.make(env_id, n=n, size=size, variation=self._severities(), hold=self.hold)

    def to_json(self) -> "dict[str, Json]":
        """Both, by name."""
        return {"variation": list(self.variation), "hold": self.hold}

    def describe(self) -> list[str]:
        """Names for a folder of results; none under the nominal conditions."""
        return [*self.variation, *([f"hold{self.hold}"] if self.hold else [])]

    def _severities(self) -> dict[str, float]:
        """`("light=0.5",)` -> `{"light": 0.5}`."""
        result: dict[str, float] = {}
        for setting in self.variation:
            name, _, severity = setting.partition("=")
            try:
                result[name] = float(severity)
            except ValueError:
                raise UsageError(f"--variation takes NAME=SEVERITY, for example light=0.5; got '{setting}'.") from None
        return result
