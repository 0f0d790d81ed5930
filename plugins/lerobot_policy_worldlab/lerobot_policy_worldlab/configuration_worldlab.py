"""LeRobot's configuration of a worldlab policy."""

from dataclasses import dataclass, field

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig

from worldlab.errors import UsageError


@PreTrainedConfig.register_subclass("worldlab")
@dataclass
class WorldlabConfig(PreTrainedConfig):
    """What config.json of an exported policy holds; `worldlab export policy` writes it."""

    description: dict = field(default_factory=dict)
    """The policy's own: kind, model, Spec, statistics, vocabulary. With the weights it is the whole policy."""
    chunk_size: int = 1
    """Actions predicted at once."""
    n_action_steps: int = 1
    """Actions executed before the policy looks again."""
    action_feature_names: list[str] | None = None
    """LeRobot's names of the actions, in order."""
    seed: int = 0
    """Of the first episode's noise where the world gives no seed, as on an arm; the next episode's is one more."""
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY)
    )
    """Nothing: the policy normalises inside, with statistics that are buffers of its weights."""

    def validate_features(self) -> None:
        """Refuse a configuration that describes no policy.

        Raises:
            UsageError: there is no description, as with `--policy.type=worldlab` instead of `--policy.path=DIR`.
        """
        if not self.description:
            raise UsageError(
                "a worldlab policy is not configured by hand: train one with `worldlab train`, write it with "
                "`worldlab export policy RUN --out DIR`, and pass --policy.path=DIR."
            )

    @property
    def observation_delta_indices(self) -> None:
        """Only the present is observed."""

    @property
    def action_delta_indices(self) -> list[int]:
        """The chunk that is predicted, in control steps from now."""
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        """No reward is learnt from."""

    def get_optimizer_preset(self) -> AdamWConfig:
        """How `lerobot-train` fine-tunes."""
        return AdamWConfig(lr=1e-4)

    def get_scheduler_preset(self) -> None:
        """A constant learning rate."""
