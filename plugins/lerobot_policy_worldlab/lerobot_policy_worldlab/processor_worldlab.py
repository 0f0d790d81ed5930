"""LeRobot's processors around a worldlab policy: its defaults, which normalise nothing here."""

from lerobot.processor import PolicyProcessorPipeline, make_default_pre_post_processors
from torch import Tensor

from lerobot_policy_worldlab.configuration_worldlab import WorldlabConfig


def make_worldlab_pre_post_processors(
    config: WorldlabConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """Rename, add the batch axis, move to the device; and back to the CPU. Statistics of a dataset are not used."""
    return make_default_pre_post_processors(config)
