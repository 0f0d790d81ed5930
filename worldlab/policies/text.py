"""Instructions as token ids: a word-level tokenizer made from the data, or the one of a pretrained language model."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from worldlab.errors import UsageError

_PAD, _UNKNOWN = "[PAD]", "[UNK]"


class TextTokenizer:
    """Turns instructions into ids of one fixed width, so that no row's numbers depend on its neighbour's length."""

    def __init__(self, tokenizer: Tokenizer, width: int) -> None:
        """`width` is the number of tokens of every instruction; shorter ones are padded, longer ones are cut."""
        self.width = width
        self._tokenizer = tokenizer
        tokenizer.enable_truncation(width)
        tokenizer.no_padding()

    @classmethod
    def of_words(cls, tasks: Sequence[str]) -> "TextTokenizer":
        """One token for each word and mark of the given instructions, and one for every word that is not among them.

        Raises:
            UsageError: there is no instruction to learn the words from.
        """
        if not tasks:
            raise UsageError("the data set has no instruction, so there are no words to build a tokenizer from.")
        tokenizer = Tokenizer(models.WordLevel(unk_token=_UNKNOWN))
        tokenizer.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.train_from_iterator(sorted(set(tasks)), trainers.WordLevelTrainer(special_tokens=[_PAD, _UNKNOWN]))
        return cls.fitting(tokenizer, tasks)

    @classmethod
    def fitting(cls, tokenizer: Tokenizer, tasks: Sequence[str]) -> "TextTokenizer":
        """As wide as the longest of the given instructions."""
        tokenizer.no_truncation()
        return cls(tokenizer, max((len(e.ids) for e in tokenizer.encode_batch(list(tasks))), default=1))

    @classmethod
    def of_description(cls, description: str, width: int) -> "TextTokenizer":
        """The inverse of `describe`."""
        return cls(Tokenizer.from_str(description), width)

    def describe(self) -> str:
        """The whole tokenizer as JSON."""
        return self._tokenizer.to_str()

    @property
    def size(self) -> int:
        """Number of ids."""
        return self._tokenizer.get_vocab_size()

    def __call__(self, tasks: Sequence[str]) -> tuple[Int[Tensor, "b l"], Bool[Tensor, "b l"]]:
        """Ids and which of them are not padding."""
        ids = torch.zeros(len(tasks), self.width, dtype=torch.long)
        valid = torch.zeros(len(tasks), self.width, dtype=torch.bool)
        for row, encoding in enumerate(self._tokenizer.encode_batch(list(tasks))):
            ids[row, : len(encoding.ids)] = torch.tensor(encoding.ids, dtype=torch.long)
            valid[row, : len(encoding.ids)] = True
        return ids, valid
