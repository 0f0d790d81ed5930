"""What every verb has in common."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from worldlab.workbench import Outcome

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Verb(ABC):
    """What every verb takes."""

    json: bool = False
    """Print the last line as JSON on stdout; everything else goes to stderr."""
    seed: int = 0
    """Everything random is keyed by it."""
    device: Device = "auto"
    """Where networks run."""

    @abstractmethod
    def run(self) -> "Outcome":
        """Do it, and say what came of it."""

    def leave(self) -> None:  # noqa: B027 - most have nothing to leave
        """Called after the outcome was printed."""
