"""An actor and a critic that learn from imagined steps alone (DreamerV3, Hafner et al. 2023, "Critic", "Actor").

Nothing is differentiated through time: dreams are drawn without gradients, and the actor learns from the score function
(Williams 1992). So a dream costs a forward pass only, and it need not begin from every belief of a batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Normal

from worldlab.dynamics.heads import TwoHot, mlp, precision


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig:
    """`ActorCritic`, with DreamerV3's values where it has one."""

    units: int = 128
    """Width of actor and critic."""
    depth: int = 3
    """Hidden layers of either."""
    horizon: int = 15
    """Steps of a dream."""
    starts: int = 256
    """Beliefs of a batch from which dreams begin, at most; DreamerV3 begins from all."""
    discount: float = 0.99
    """Of a reward one step later. DreamerV3 has 1 - 1/333, which a critic needs many more training steps to learn."""
    absorbing_success: bool = False
    """Whether what ends in success goes on earning its last reward for ever. Where rewards are shaped and success ends
    the episode, an actor would else be paid for not succeeding."""
    lam: float = 0.95
    """Lambda of the returns: 0 trusts the critic after one step, 1 only at the end of a dream."""
    entropy: float = 3e-4
    """Weight of the actor's entropy, against returns in units of their range."""
    slow_rate: float = 0.02
    """How far the slow critic moves towards the critic in a training step."""
    min_std: float = 0.1
    """Smallest standard deviation of an action, of which the whole range is 2."""
    output_scale: float = 0.1
    """Factor on the actor's last layer, so that it changes less per optimizer step than the critic."""
    output_penalty: float = 1e-3
    """Weight of its squared outputs, means and widths, before they are bounded. Adam's steps are as large where
    gradients are next to nothing: an actor that has not seen any reward yet would drift to where its bounds leave no
    gradient. It keeps widths up more than `entropy` does, which pays (docs/dreamer.md)."""


@runtime_checkable
class Dreamable(Protocol):
    """What an actor needs of a world model; see `worldlab.dynamics.RSSM`."""

    def features(self, belief: Float[Tensor, "*b d"]) -> Float[Tensor, "*b f"]:
        """What actor and critic read."""
        ...

    def advance(
        self, belief: Float[Tensor, "b d"], action: Float[Tensor, "b a"], noise: Float[Tensor, "b z"]
    ) -> Float[Tensor, "b d"]:
        """The belief after an action, in environment units."""
        ...

    def noise(self, n: int) -> Float[Tensor, "n z"]:
        """What draws n beliefs."""
        ...

    def reward(self, features: Float[Tensor, "*b f"]) -> Float[Tensor, "*b"]:
        """Received on arriving."""
        ...

    def endings(self, features: Float[Tensor, "*b f"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        """Probabilities that the episode goes on, and that it has ended in success."""
        ...


@dataclass(frozen=True)
class Dream:
    """Imagined steps of n episodes: row 0 is where they begin, row i what action i - 1 led to."""

    features: Float[Tensor, "n t f"]
    move: Float[Tensor, "n h a"]
    """What the actor drew, t = h + 1."""
    reward: Float[Tensor, "n h"]
    """Received after each action."""
    goes_on: Float[Tensor, "n h"]
    """Probability that the episode does, after each action."""


type ToAction = Callable[[Float[Tensor, "b d"], Float[Tensor, "b a"]], Float[Tensor, "b a"]]
"""From a belief and a move in -1..1 to an action in environment units."""


def lambda_returns(
    reward: Float[Tensor, "n h"], value: Float[Tensor, "n t"], discount: Float[Tensor, "n h"], lam: float
) -> Float[Tensor, "n h"]:
    """R_i = r_i + d_i ((1 - λ) v_{i+1} + λ R_{i+1}), and R_h = v_h (DreamerV3, "Critic").

    Args:
        reward: received after each of h steps.
        value: of where the steps begin and of what each leads to, t = h + 1.
        discount: of what follows each step; 0 where the episode ends with it.
        lam: λ.
    """
    last = value[:, -1]
    returns: list[Tensor] = []
    for r, v, d in zip(reward.unbind(1)[::-1], value.unbind(1)[:0:-1], discount.unbind(1)[::-1], strict=True):
        last = r + d * torch.lerp(v, last, lam)
        returns.append(last)
    return torch.stack(returns[::-1], 1)


class ReturnScale(nn.Module):
    """The range of returns, from their 5 % to their 95 % quantile, as a moving average; not below 1 ("Actor").

    Large returns are scaled down so that entropy weighs the same everywhere; small ones are not blown up, because
    where nothing was earned yet they are noise.
    """

    low: Tensor
    high: Tensor
    DECAY = 0.99

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, returns: Float[Tensor, "*b"]) -> Float[Tensor, ""]:
        """The range, with these returns taken into account while training."""
        if self.training:
            level = torch.tensor([0.05, 0.95], device=returns.device)
            low, high = torch.quantile(returns.detach().float().flatten(), level)
            self.low.lerp_(low, 1 - self.DECAY)
            self.high.lerp_(high, 1 - self.DECAY)
        return (self.high - self.low).clamp(min=1.0)


class ActorCritic(nn.Module):
    """Draws moves in -1..1 from features of beliefs, and says what they are worth."""

    def __init__(self, config: ActorCriticConfig, features: int, actions: int) -> None:
        """`features` is the width of what is read, `actions` the number of dimensions of an action."""
        super().__init__()
        self.config = config
        self.two_hot = TwoHot()
        self.actor = mlp(features, config.units, config.depth, 2 * actions, silent=True)
        self.critic, self.slow = (
            mlp(features, config.units, config.depth, len(self.two_hot.bins), silent=True) for _ in range(2)
        )
        self.slow.load_state_dict(self.critic.state_dict())
        self.slow.requires_grad_(requires_grad=False)
        self.scale = ReturnScale()

    def distribution(self, features: Float[Tensor, "*b f"]) -> Normal:
        """Of moves: bounded mean, and a standard deviation from `min_std` to 1 (DreamerV3's bounded normal)."""
        return self._bounded(self._outputs(features))

    def _outputs(self, features: Float[Tensor, "*b f"]) -> Float[Tensor, "*b o"]:
        """Mean and width of moves, not yet bounded."""
        return self.config.output_scale * self.actor(features).float()

    def _bounded(self, outputs: Float[Tensor, "*b o"]) -> Normal:
        mean, width = outputs.chunk(2, -1)
        return Normal(mean.tanh(), self.config.min_std + (1 - self.config.min_std) * (width + 2).sigmoid())

    def dream(self, world: Dreamable, start: Float[Tensor, "n d"], action: ToAction) -> Dream:
        """Imagine `horizon` steps from each belief, with torch's own randomness."""
        belief, features, moves = start, [self._read(world, start)], list[Tensor]()
        for _ in range(self.config.horizon):
            moves.append(self.distribution(features[-1]).sample())
            belief = world.advance(belief, action(belief, moves[-1].clamp(-1, 1)), world.noise(len(belief)))
            features.append(self._read(world, belief))
        seen = torch.stack(features, 1)
        after = seen[:, 1:].contiguous()
        reward, discount = world.reward(after), self.config.discount
        goes_on, succeeded = world.endings(after)
        if self.config.absorbing_success:
            reward = reward * (1 + succeeded * discount / (1 - discount))
        return Dream(seen, torch.stack(moves, 1), reward, goes_on)

    @staticmethod
    def _read(world: Dreamable, belief: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        """Features in the precision of the layers that read them, each of which would convert them again."""
        features = world.features(belief)
        return features.to(precision(features))

    def losses(self, dream: Dream) -> dict[str, Float[Tensor, ""]]:
        """Of actor and critic; the slow critic follows meanwhile, where this is training.

        The critic learns the returns and, once more, what the slow critic says, which holds it still. A step counts by
        the probability that the episode has not ended before it.
        """
        config = self.config
        if self.training:
            with torch.no_grad():
                for slow, fast in zip(self.slow.parameters(), self.critic.parameters(), strict=True):
                    slow.lerp_(fast, config.slow_rate)
        before = dream.features[:, :-1].contiguous()  # or every layer that reads them copies them
        logits = self.critic(before).float()
        with torch.no_grad():
            last = self.critic(dream.features[:, -1:])
            value = self.two_hot.mean(torch.cat([logits.detach(), last.float()], 1))
            discount = config.discount * dream.goes_on
            returns = lambda_returns(dream.reward, value, discount, config.lam)
            weight = torch.cat([torch.ones_like(discount[:, :1]), discount[:, :-1]], 1).cumprod(1)
            advantage = (returns - value[:, :-1]) / self.scale(returns)
            slow = self.two_hot.mean(self.slow(before))
        error = self.two_hot.loss(logits, returns) + self.two_hot.loss(logits, slow)
        outputs = self._outputs(before)
        chosen = self._bounded(outputs)
        gain = chosen.log_prob(dream.move).sum(-1) * advantage + config.entropy * chosen.entropy().sum(-1)
        gain = gain - config.output_penalty * outputs.square().sum(-1)
        return {"critic": (weight * error).mean(), "actor": -(weight * gain).mean()}
