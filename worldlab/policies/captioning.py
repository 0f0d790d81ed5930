"""The second and third stage: the trunk reads an image and a request, and its language model answers in words.

align     the request is always the same and the answer is a caption; what lies between tower and language model learns
          (the first stage of LLaVA, Liu et al. 2023)
instruct  requests are questions, each with one right word for an answer (their second stage)

The language model's embeddings are its output layer too, as in the small ones of every family.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldlab.policies.backbone import Backbone
from worldlab.policies.captions import PROMPT, Question, caption, questions
from worldlab.policies.head import masked_mean
from worldlab.policies.stage import Stage, StageConfig
from worldlab.policies.writer import attend
from worldlab.trajectory import Observation, Spec, Trajectory


@dataclass(frozen=True, kw_only=True)
class CaptioningConfig(StageConfig):
    """Either stage."""

    kind: Literal["align", "instruct"] = "align"
    """Captions, or questions and answers."""


class Captioning(Stage):
    """The trunk as a vision-language model."""

    def __init__(self, config: CaptioningConfig, spec: Spec, backbone: Backbone) -> None:
        """See `worldlab.policies.stages`.

        Raises:
            UsageError: the data has no labels.
        """
        super().__init__(config, config.kind, spec, backbone)
        self.config = config

    def loss(self, batch: Trajectory) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Next-token cross entropy of the answers' tokens alone, on first rows; also how often a token is right."""
        requests, answers = self.dialogue(batch)
        logits, right, said = self.forced(batch.obs.map(lambda x: x[:, 0]), requests, answers)
        error = -logits.log_softmax(-1).gather(-1, right[..., None])[..., 0]
        loss = masked_mean(error, said)
        return loss, {"tokens": loss, "token_accuracy": masked_mean((logits.argmax(-1) == right).float(), said)}

    def dialogue(self, batch: Trajectory) -> tuple[list[str], list[str]]:
        """What is asked of each first row, and what is to be said; questions are drawn by torch's generator."""
        sights = self.sights(batch)
        if self.config.kind == "align":
            return [PROMPT] * len(sights), [caption(sight, self.config.richness) for sight in sights]
        asked = [draw(questions(sight)) for sight in sights]
        return [q.text for q in asked], [q.answer for q in asked]

    def forced(
        self, obs: Observation, requests: list[str], answers: list[str]
    ) -> tuple[Float[Tensor, "b n v"], Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """Logits of each of the answers' tokens given those before it, the tokens, and which are no padding.

        The request's last word asks for the first token.
        """
        device = self.words.device
        ids, said = (x.to(device) for x in self.backbone.tokenizer.notes(answers))
        longest = int(said.sum(1).max())
        ids, said = ids[:, :longest], said[:, :longest]
        prefix = self.backbone(obs.images, requests)
        last = prefix.spoken.sum(1) - 1
        hidden = prefix.words[torch.arange(len(ids), device=device), last][:, None]
        if longest > 1:
            order = torch.arange(1, longest, device=device)
            more = attend(self.backbone, prefix, self.backbone.embed(ids[:, :-1]), order)
            hidden = torch.cat([hidden, more], 1)
        return (hidden @ self.words.T).float(), ids, said

    @property
    def words(self) -> Float[Tensor, "v d"]:
        """The vocabulary, as it goes in and as it comes out."""
        weight = self.backbone.language.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight


def draw(asked: dict[str, list[Question]]) -> Question:
    """One of the questions: first the kind, then one of its kind, each as probable as the others."""
    kinds = list(asked.values())
    of_kind = kinds[int(torch.randint(len(kinds), ()))]
    return of_kind[int(torch.randint(len(of_kind), ()))]
