"""A simulator, seen as the world model that is never wrong."""

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from worldlab.errors import UsageError
from worldlab.protocols import Environment, Restorable
from worldlab.rollout import observation
from worldlab.trajectory import Observation, Spec, Trajectory


class Simulator:
    """Imagines by simulating: the inverse of `ImaginedEnv`, and the bound on what a world model is worth.

    A planner that fails with it fails by its search or by what it wants; one that succeeds with it alone, by its model.
    A belief is the simulator's whole state.
    """

    def __init__(self, env: Environment) -> None:
        """`env` is where dreams are simulated, as many at once as it has simulations; what goes on there is lost.

        Raises:
            UsageError: it cannot be restored.
        """
        if not isinstance(env, Restorable):
            raise UsageError("this environment cannot be restored, so it is no world model of itself.")
        self.env, self._restorable = env, env
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
        """What follows each action. Nothing is drawn, so `generator` is not used; what has ended stands still."""
        n = self.env.num_envs
        waves = [self._simulate(b, a) for b, a in zip(belief.split(n), action.cpu().split(n), strict=True)]
        column = {name: torch.cat([wave[name] for wave in waves]) for name in waves[0]}
        end = column.pop("physics")
        images = {name: column.pop(name) for name in list(column) if name in self.spec.cameras}
        obs = Observation(images, column.pop("state"), ("",) * len(action))
        valid = torch.ones_like(column["terminated"])
        return Trajectory(obs=obs, action=action, valid=valid, **column), end

    def _simulate(self, belief: Float64[Tensor, "n p"], action: Float[Tensor, "n t a"]) -> dict[str, Tensor]:
        """The columns of what follows (n, t, ...), and the state after it (n, p). Spare simulations do the same."""
        n, rows = len(belief), list[dict[str, Tensor]]()
        who = torch.arange(self.env.num_envs).clamp(max=n - 1)
        self._restorable.restore(belief[who], ("",) * len(who))
        for now in action[who].unbind(1):
            raw, reward, terminated, _, info = self.env.step(now.numpy())
            seen = observation(raw, ())
            row = {
                "state": seen.state,
                "reward": torch.as_tensor(reward).float(),
                "terminated": torch.as_tensor(terminated),
                "success": torch.as_tensor(np.asarray(info["success"], bool)),
                **seen.images,
            }
            if "privileged" in info:
                row["privileged"] = torch.as_tensor(np.array(info["privileged"], np.float32))
            rows.append({name: x[:n].clone() for name, x in row.items()})
        column = {name: torch.stack([row[name] for row in rows], 1) for name in rows[0]}
        return column | {"physics": self._restorable.physics[:n].clone()}
