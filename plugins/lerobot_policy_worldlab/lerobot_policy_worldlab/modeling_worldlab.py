"""A worldlab policy behind LeRobot's `PreTrainedPolicy`."""

from collections import deque
from collections.abc import Iterator

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor, nn

from lerobot_policy_worldlab.configuration_worldlab import WorldlabConfig
from worldlab import policies, so101
from worldlab.policies.lerobot_policy import SEED, Batch, observation_from_batch, seeds_from_batch, window_from_batch


class WorldlabPolicy(PreTrainedPolicy):
    """Speaks LeRobot's batches, keys and units, and leaves the thinking to the policy that it wraps."""

    config_class = WorldlabConfig
    name = "worldlab"

    def __init__(self, config: WorldlabConfig, dataset_stats: object = None, dataset_meta: object = None) -> None:
        """`dataset_stats` and `dataset_meta` are LeRobot's to give; the policy carries its own statistics."""
        super().__init__(config)
        config.validate_features()
        self.model = policies.of_description(config.description)
        self._episodes = 0
        self.reset()

    def get_optim_params(self) -> Iterator[nn.Parameter]:
        """All of it."""
        return self.parameters()

    def reset(self) -> None:
        """Forget the plan; the next observation begins an episode."""
        self._plan: deque[Tensor] = deque()
        self._fresh = True

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss of imitating the batch's chunks, and what to log."""
        loss, metrics = self.model.loss(window_from_batch(batch, self.model.spec.cameras))
        return loss, {name: value.item() for name, value in metrics.items()}

    def supports_rtc(self) -> bool:
        """Whether the head goes on from actions that are already decided."""
        return self.model.supports_rtc

    @torch.no_grad()
    def predict_action_chunk(
        self, batch: Batch, inference_delay: int = 0, prev_chunk_left_over: Tensor | None = None, **kwargs: object
    ) -> Tensor:
        """The next actions of each episode in LeRobot's units, (b, k, 6). Each call goes on with the episode.

        Real-time chunking: the arm executes the first `inference_delay` actions of `prev_chunk_left_over` while this
        computes, so the new chunk begins with exactly these, and the rest is sampled to follow them.
        """
        obs = observation_from_batch(batch, self.model.spec.cameras)
        if self._fresh:
            self.model.reset(self._seeds(batch, len(obs.task)))
            self._fresh = False
        committed = None
        if prev_chunk_left_over is not None:
            committed = so101.from_lerobot(_unpadded(prev_chunk_left_over)[:, :inference_delay])
        return so101.to_lerobot(self.model.plan(obs, committed))

    @torch.no_grad()
    def select_action(self, batch: Batch, **kwargs: object) -> Tensor:
        """The next action of each episode, (b, 6)."""
        if not self._plan:
            self._plan.extend(self.predict_action_chunk(batch)[:, : self.config.n_action_steps].unbind(1))
        return self._plan.popleft()

    def _seeds(self, batch: Batch, n: int) -> list[int]:
        """Of the episodes that begin: the simulator's, or else consecutive from `config.seed`."""
        given = batch.get(SEED)
        if isinstance(given, Tensor):
            return seeds_from_batch(given)
        first = self.config.seed + self._episodes
        self._episodes += n
        return list(range(first, first + n))


def _unpadded(left_over: Tensor) -> Tensor:
    """LeRobot's (t, 6) or (b, t, 6) as (b, t, 6), without the zeros with which it fills short ones."""
    batch = left_over if left_over.ndim == 3 else left_over[None]
    acting = batch.abs().amax((0, 2)).nonzero()
    return batch[:, : int(acting[-1]) + 1 if len(acting) else 0]
