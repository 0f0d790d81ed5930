"""Actions as words: each number falls into one of 256 bins, and each bin is an id at the end of the vocabulary."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


class ActionTokenizer:
    """OpenVLA's uniform bins (Kim et al. 2024): 256 edges on [-1, 1], and the 255 centres between them.

    Bin number i, 1 to 256, has the id `vocabulary - i`. What lies outside [-1, 1] goes to the nearest edge.
    """

    def __init__(self, vocabulary: int, bins: int = 256) -> None:
        """`vocabulary` is the number of ids of the language model; its last `bins` ones stand for actions."""
        self.vocabulary, self.bins = vocabulary, bins
        self.edges = torch.linspace(-1, 1, bins)
        self.centres = (self.edges[1:] + self.edges[:-1]) / 2

    @property
    def first(self) -> int:
        """The smallest id that stands for an action."""
        return self.vocabulary - self.bins

    def encode(self, action: Float[Tensor, "*b"]) -> Int[Tensor, "*b"]:
        """Numbers about [-1, 1] -> ids."""
        return self.vocabulary - torch.bucketize(action.clamp(-1, 1), self.edges.to(action), right=True)

    def decode(self, ids: Int[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Ids -> the centres of their bins."""
        return self.centres.to(ids.device)[(self.vocabulary - ids - 1).clamp(0, self.bins - 2)]
