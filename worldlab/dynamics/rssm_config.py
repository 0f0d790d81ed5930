"""What a recurrent state-space model is made of, and how it learns."""

from dataclasses import dataclass
from typing import Literal

from worldlab.dynamics.recurrence import SizeName


@dataclass(frozen=True, kw_only=True)
class RSSMConfig:
    """`RSSM`. By default it is DreamerV3's.

    That is with `carry_state`, `correct`, `overshooting`, `privileged` and `foreground_weight` off, but for LayerNorm
    (one kernel on a CPU) instead of RMSNorm; weights of the posterior that begin sharper; the first row of a window,
    which costs no divergence, because nothing is known before it; and what goes in and out: `FrameEncoder` and
    `FrameDecoder`, which draws some of the frames of a batch; actions, which are standardised and go through two layers
    (one there); the state, which is standardised before symlog, goes in through one layer and comes out of two (three
    each there).
    """

    kind: Literal["rssm"] = "rssm"
    """Names the model in a run."""
    size: SizeName = "small"
    """The one dial: tiny, small, medium or base."""
    sees: Literal["both", "images", "state"] = "both"
    """What is seen and predicted: images, proprioception, or both."""
    cameras: tuple[str, ...] | None = None
    """The cameras it sees through; None is all."""
    carry_state: bool = False
    """Whether the belief holds proprioception itself, which moves first; otherwise it is read off the features."""
    correct: bool = False
    """Whether what is seen moves the recurrent state at once, as in a filter, and not only through the latents."""
    overshooting: int = 0
    """Steps imagined in training from every row of a window that has so many after it; 0 trains single steps only."""
    privileged: float = 0.0
    """Weight of what only a simulator knows in shaping the latents. At 0 it is read off them, and shapes nothing."""
    slots: bool = False
    """Whether the belief holds where objects are, read from frames and moved by contact, which only a simulator can
    teach. Needs `carry_state` and `privileged`, which weighs what is read then."""
    free_bits: float = 1.0
    """Divergence of prior and posterior that costs nothing, nats."""
    dynamics: float = 1.0
    """Weight of training the prior towards the posterior."""
    representation: float = 0.1
    """Weight of training the posterior towards the prior."""
    image_weight: float = 1.0
    """Weight of drawing frames. Their errors are summed over pixels of 0..1, each of which weighs 1 or more."""
    frames: int = 32
    """Frames drawn per training step, of rows and again of dreams."""
    foreground_weight: float = 0.0
    """How much more a pixel weighs that differs by its whole range from the mean frame."""
