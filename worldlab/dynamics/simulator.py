"""A simulator, seen as the world model that is never wrong."""

from dataclasses import replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from worldlab.errors import UsageError
from worldlab.protocols import Environment
from worldlab.rollout import branch
from worldlab.trajectory import Spec, Trajectory


class Simulator:
    """Imagines by simulating: the inverse of `ImaginedEnv`, and the bound on what a world model is worth.

    A planner that fails with it fails by its search or by what it wants; one that succeeds with it alone, by its model.
    A belief is the simulator's whole state.
    """

    def __init__(self, env: Environment) -> None:
        """`env` is where dreams are simulated, as many at once as it has simulations; what goes on there is lost."""
        self.env = env
        env.reset(seed=0)

    @property
    def spec(self) -> Spec:
        """The environment's."""
        return self.env.contract

    def observe(self, context: Trajectory) -> Float64[Tensor, "b p"]:
        """The state of the simulator in the last valid row.

        Raises:
            UsageError: the context does not hold it.
        """
        if context.physics is None:
            raise UsageError("a simulator goes on from its own state (`physics`), which was not recorded here.")
        return context.physics[torch.arange(len(context.length)), (context.length - 1).clamp(min=0)]

    def imagine(
        self, belief: Float64[Tensor, "b p"], action: Float[Tensor, "b t a"], generator: torch.Generator | None = None
    ) -> tuple[Trajectory, Float64[Tensor, "b p"]]:
        """What follows each action. Nothing is drawn, so `generator` is not used; what has ended stands still.

        Raises:
            UsageError: the environment cannot be restored.
        """
        dream, end = branch(self.env, belief, action.cpu())
        return replace(dream, valid=torch.ones_like(dream.valid)), end
