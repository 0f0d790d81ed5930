"""FAST (Pertsch et al. 2025, arXiv:2501.09747): a chunk's cosine transform, rounded, in words of its own."""

import json
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.fft import dct, idct
from tokenizers import Tokenizer, models, trainers
from torch import Tensor

from worldlab.errors import UsageError

_FIRST = 0x4E00
"""A range of characters without case, marks or spaces; one stands for each value of a coefficient."""


class FastTokenizer:
    """Chunks of k steps and a dimensions <-> words.

    The orthonormal DCT-II along time, times `scale`, is rounded to integers and written with the lowest frequency
    first, dimension by dimension; byte-pair encoding merges what often stands together. A word stands for a known
    number of coefficients (`sizes`), so a decoder can be held to sequences that make exactly one chunk.
    """

    def __init__(self, words: Tokenizer, low: int, high: int, scale: float, steps: int, actions: int) -> None:
        """`low` and `high` are the smallest and largest coefficient that can be written; see `learn`."""
        self.low, self.high, self.scale, self.steps, self.actions = low, high, scale, steps, actions
        self._words = words
        named = {i: word for word, i in words.get_vocab().items()}
        self.sizes = torch.tensor([len(named[i]) for i in range(len(named))])
        """Coefficients that each word stands for."""

    @classmethod
    def learn(cls, chunk: Float[Tensor, "n k a"], scale: float, vocabulary: int) -> "FastTokenizer":
        """Words for chunks like these.

        Args:
            chunk: scaled to about [-1, 1].
            scale: steps per unit of a coefficient; the rounding error of an action is about 0.3 / scale.
            vocabulary: the most words.

        Raises:
            UsageError: there are no chunks, or the coefficients alone need more words than that.
        """
        if len(chunk) == 0:
            raise UsageError(
                "FAST learns its words from chunks of which at least half is known, and these episodes have none; "
                "collect the expert's."
            )
        coefficients = _transform(chunk.numpy(), scale)
        low, high = int(coefficients.min()), int(coefficients.max())
        if high - low >= vocabulary:
            raise UsageError(
                f"FAST needs {high - low + 1} words for the coefficients of these actions at scale {scale:g}, and may "
                f"have {vocabulary}: they range too widely to be written at this scale."
            )
        words = Tokenizer(models.BPE())
        alphabet = [chr(_FIRST + i) for i in range(high - low + 1)]
        trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
        words.train_from_iterator(_written(coefficients, low), trainer)
        return cls(words, low, high, scale, chunk.shape[1], chunk.shape[2])

    @classmethod
    def of_description(cls, description: str) -> "FastTokenizer":
        """The inverse of `describe`."""
        told = json.loads(description)
        return cls(Tokenizer.from_str(told.pop("words")), **told)

    def describe(self) -> str:
        """All of it as JSON."""
        return json.dumps(
            {
                "words": self._words.to_str(),
                "low": self.low,
                "high": self.high,
                "scale": self.scale,
                "steps": self.steps,
                "actions": self.actions,
            }
        )

    @property
    def coefficients(self) -> int:
        """Of a chunk, and so the most words that it takes."""
        return self.steps * self.actions

    def encode(self, chunk: Float[Tensor, "b k a"]) -> list[Int[Tensor, " n"]]:
        """The words of each chunk; coefficients beyond those that were learnt go to the nearest."""
        coefficients = _transform(chunk.cpu().numpy(), self.scale).clip(self.low, self.high)
        encodings = self._words.encode_batch(_written(coefficients, self.low))
        return [torch.tensor(e.ids, dtype=torch.long) for e in encodings]

    def decode(self, words: Sequence[Sequence[int]]) -> Float[Tensor, "b k a"]:
        """The chunk of each sequence.

        Raises:
            ValueError: a sequence does not make exactly one chunk.
        """
        rows: list[NDArray[np.float64]] = []
        for row in words:
            text = "".join(str(self._words.id_to_token(i)) for i in row)
            if len(text) != self.coefficients:
                raise ValueError(f"{len(text)} coefficients do not make a chunk of {self.steps} x {self.actions}")
            rows.append(np.array([ord(c) - _FIRST + self.low for c in text], np.float64))
        spectrum = np.stack(rows).reshape(-1, self.steps, self.actions) / self.scale
        chunk: NDArray[np.float64] = np.asarray(idct(spectrum, axis=1, norm="ortho"))
        return torch.from_numpy(chunk.astype(np.float32))


def _transform(chunk: NDArray[np.float32], scale: float) -> NDArray[np.int64]:
    """(n, k, a) -> integers (n, k * a), the lowest frequency of every dimension first."""
    spectrum: NDArray[np.float64] = np.asarray(dct(chunk.astype(np.float64), axis=1, norm="ortho"))
    return np.rint(scale * spectrum).astype(np.int64).reshape(len(chunk), -1)


def _written(coefficients: NDArray[np.int64], low: int) -> list[str]:
    """One character for each coefficient."""
    return ["".join(chr(_FIRST + c - low) for c in row) for row in coefficients.tolist()]
