"""worldlab's tasks as an environment type of `lerobot-eval`."""

from dataclasses import dataclass, field

from gymnasium.vector import VectorEnv
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs import EnvConfig

from worldlab import so101
from worldlab.errors import UsageError

CAMERAS = ("front", "wrist")
"""The cameras of every simulated task."""


@EnvConfig.register_subclass("worldlab")
@dataclass
class WorldlabEnvConfig(EnvConfig):
    """`--env.type=worldlab`."""

    task: str | None = "Reach-v0"
    """Reach-v0, Push-v0, Lift-v0 or Stack-v0."""
    fps: int = 10
    """Control steps a second; what the tasks are made for."""
    size: int = 64
    """Height and width of both cameras, in pixels."""
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Say what the environment offers, in LeRobot's names."""
        images = {
            f"observation.images.{camera}": PolicyFeature(FeatureType.VISUAL, (self.size, self.size, 3))
            for camera in CAMERAS
        }
        joints = (len(so101.NAMES),)
        self.features = {
            "action": PolicyFeature(FeatureType.ACTION, joints),
            "agent_pos": PolicyFeature(FeatureType.STATE, joints),
            **images,
        }
        self.features_map = {name: name for name in self.features} | {"agent_pos": "observation.state"}

    @property
    def gym_kwargs(self) -> dict[str, int]:
        """What `worldlab.envs.make` is told."""
        return {"size": self.size}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, VectorEnv]]:
        """All environments of a batch in one lockstep simulator; `use_async_envs` would change nothing."""
        from lerobot_policy_worldlab.vector_env import WorldlabVectorEnv
        from worldlab import envs

        env = envs.make(f"worldlab/{self.task}", n=n_envs, size=self.size)
        if self.fps != env.contract.fps:
            raise UsageError(
                f"worldlab/{self.task} runs at {env.contract.fps} control steps a second, not at {self.fps}."
            )
        return {self.type: {0: WorldlabVectorEnv(env)}}
