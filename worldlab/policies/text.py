"""Instructions as token ids: a word-level tokenizer made from the data, or the one of a pretrained language model."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from worldlab.errors import UsageError
from worldlab.runs import Json

_PAD, _UNKNOWN = "[PAD]", "[UNK]"


class TextTokenizer:
    """Turns texts into ids of fixed widths, so that no row's numbers depend on its neighbour's length.

    There are two texts: the instruction, and notes that may follow it. Shorter ones are padded, longer ones are cut.
    """

    def __init__(self, tokenizer: Tokenizer, width: int, notes_width: int = 0) -> None:
        """`width` is the number of tokens of every instruction, `notes_width` that of every note."""
        self.width, self.notes_width = width, notes_width
        self._tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()

    @classmethod
    def of_words(cls, tasks: Sequence[str], notes: Sequence[str] = ()) -> "TextTokenizer":
        """One token for each word and mark of the given texts, and one for every word that is not among them.

        Raises:
            UsageError: there is no instruction to learn the words from.
        """
        if not tasks:
            raise UsageError("the data set has no instruction, so there are no words to build a tokenizer from.")
        tokenizer = Tokenizer(models.WordLevel(unk_token=_UNKNOWN))
        tokenizer.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
        trainer = trainers.WordLevelTrainer(special_tokens=[_PAD, _UNKNOWN])
        tokenizer.train_from_iterator(sorted({*tasks, *notes}), trainer)
        return cls.fitting(tokenizer, tasks, notes)

    @classmethod
    def fitting(cls, tokenizer: Tokenizer, tasks: Sequence[str], notes: Sequence[str] = ()) -> "TextTokenizer":
        """As wide as the longest of the given instructions, and of the given notes."""
        tokenizer.no_truncation()
        width = max((len(e.ids) for e in tokenizer.encode_batch(list(tasks))), default=1)
        follow = tokenizer.encode_batch(list(notes), add_special_tokens=False)
        return cls(tokenizer, width, max((len(e.ids) for e in follow), default=0))

    @classmethod
    def of_description(cls, description: Mapping[str, Json]) -> "TextTokenizer":
        """The inverse of `describe`."""
        tokenizer, width, notes_width = (description[name] for name in ("json", "width", "notes_width"))
        assert isinstance(tokenizer, str)
        assert isinstance(width, int)
        assert isinstance(notes_width, int)
        return cls(Tokenizer.from_str(tokenizer), width, notes_width)

    def describe(self) -> dict[str, Json]:
        """The whole tokenizer, and the widths."""
        return {"json": self._tokenizer.to_str(), "width": self.width, "notes_width": self.notes_width}

    @property
    def size(self) -> int:
        """Number of ids."""
        return self._tokenizer.get_vocab_size()

    def __call__(self, tasks: Sequence[str]) -> tuple[Int[Tensor, "b l"], Bool[Tensor, "b l"]]:
        """Ids of the instructions and which of them are not padding."""
        return _padded(self._tokenizer, tasks, self.width, special=True)

    def notes(self, texts: Sequence[str]) -> tuple[Int[Tensor, "b l"], Bool[Tensor, "b l"]]:
        """Ids of the notes and which of them are not padding."""
        return _padded(self._tokenizer, texts, self.notes_width, special=False)


def _padded_now(
    tokenizer: Tokenizer, texts: Sequence[str], width: int, *, special: bool
) -> tuple[Int[Tensor, "b l"], Bool[Tensor, "b l"]]:
    rows = [e.ids[:width] for e in tokenizer.encode_batch(list(texts), add_special_tokens=special)]
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.long)
    return ids, torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]


# Compiled, it would be compiled for every instruction.
_padded: Callable[..., tuple[Tensor, Tensor]] = torch.compiler.disable()(_padded_now)
