"""The first stage: the vision tower learns which caption belongs to which image.

sigmoid  every pair of image and caption is a yes-or-no question of its own (SigLIP, Zhai et al. 2023). The loss is a
         sum over pairs. Of several processes each asks about the pairs of its own images and captions alone, so that
         nothing is gathered; SigLIP passes captions on, which asks about the others too
softmax  each image picks its caption among the batch's, and the other way round (CLIP, Radford et al. 2021)

Equal captions belong to each other's images too; where all differ, both are what transformers' models compute.
The text tower is left behind when the stage is over.
"""

# pyright: reportCallIssue=false
# The configurations of transformers carry no types.

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize
from transformers import SiglipTextConfig, SiglipTextModel, SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from worldlab.errors import UsageError
from worldlab.policies.backbone import Backbone
from worldlab.policies.captions import caption
from worldlab.policies.stage import Stage, StageConfig, equal
from worldlab.policies.towers import Tower
from worldlab.trajectory import Spec, Trajectory


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(StageConfig):
    """Sizes of the text tower are those of a small trunk."""

    kind: Literal["contrastive"] = "contrastive"
    """Names the model in config.json."""
    objective: Literal["sigmoid", "softmax"] = "sigmoid"
    """SigLIP's loss or CLIP's."""
    width: int = 96
    """Of the space in which images and captions meet."""


class Contrastive(Stage):
    """The trunk's tower beside a text tower."""

    def __init__(self, config: ContrastiveConfig, spec: Spec, backbone: Backbone) -> None:
        """See `worldlab.policies.stages`.

        Raises:
            UsageError: the trunk has no vision tower, or the data no labels.
        """
        super().__init__(config, config.kind, spec, backbone)
        if backbone.tower is None:
            raise UsageError("native fusion has no vision tower to pretrain; begin with align, or use another fusion.")
        self.config = config
        sizes, tower = config.backbone, backbone.tower.width
        self.pool = SiglipMultiheadAttentionPoolingHead(
            SiglipVisionConfig(hidden_size=tower, intermediate_size=4 * tower, num_attention_heads=sizes.heads)
        )
        self.text = SiglipTextModel(
            SiglipTextConfig(
                vocab_size=backbone.tokenizer.size,
                hidden_size=sizes.width,
                intermediate_size=4 * sizes.width,
                num_hidden_layers=sizes.layers,
                num_attention_heads=sizes.heads,
                max_position_embeddings=backbone.tokenizer.notes_width,
                attn_implementation=sizes.attention,
            )
        )
        self.text.text_model.head.requires_grad_(False)  # it reads one token alone; the mean of all is read here
        self.of_image, self.of_text = nn.Linear(tower, config.width), nn.Linear(sizes.width, config.width)
        self.scale = nn.Parameter(torch.tensor(10.0).log())  # both as SigLIP begins
        self.bias = nn.Parameter(torch.tensor(-10.0), requires_grad=config.objective == "sigmoid")

    @property
    def tower(self) -> Tower:
        """The trunk's."""
        tower = self.backbone.tower
        assert tower is not None
        return tower

    def images(self, batch: Trajectory) -> Float[Tensor, "b e"]:
        """Unit vectors of the images of the first rows."""
        image = batch.obs.images[self.camera][:, 0]
        (features,) = self.tower([self.tower.pixels(image, self.tower.size(image))])
        return normalize(self.of_image(self.pool(features)), dim=-1)

    def texts(self, captions: list[str]) -> Float[Tensor, "b e"]:
        """Unit vectors of captions."""
        ids, spoken = (x.to(self.scale.device) for x in self.backbone.tokenizer.notes(captions))
        hidden = self.text(input_ids=ids, attention_mask=spoken).last_hidden_state
        weight = spoken[..., None].to(hidden.dtype)
        return normalize(self.of_text((hidden * weight).sum(1) / weight.sum(1)), dim=-1)

    def captions(self, batch: Trajectory) -> list[str]:
        """Of the first rows."""
        return [caption(sight, self.config.richness) for sight in self.sights(batch)]

    def loss(self, batch: Trajectory) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Which caption belongs to which image, on first rows alone; also how often the most similar one does."""
        captions = self.captions(batch)
        match = torch.tensor(equal(captions), device=self.scale.device)
        similarity = (self.texts(captions) @ self.images(batch).T).float()
        if self.config.objective == "sigmoid":
            loss = sigmoid_loss(similarity * self.scale.exp() + self.bias, match)
        else:
            loss = softmax_loss(similarity * self.scale.exp(), match)
        return loss, {"retrieved": retrieved(similarity, match)}


def sigmoid_loss(logits: Float[Tensor, "t i"], match: Bool[Tensor, "t i"]) -> Float[Tensor, ""]:
    """SigLIP's loss of captions (rows) and images (columns): summed over images, averaged over captions.

    It is a sum over pairs: that of all pairs is the sum of those of any blocks of them, weighted by their rows.
    """
    return -logsigmoid(torch.where(match, logits, -logits)).sum(-1).mean()


def softmax_loss(logits: Float[Tensor, "b b"], match: Bool[Tensor, "b b"]) -> Float[Tensor, ""]:
    """CLIP's loss in both directions; where several match, each is as right as the others."""
    wanted = match / match.sum(-1, keepdim=True)
    chosen = torch.stack([(wanted * x.log_softmax(-1)).sum(-1).mean() for x in (logits, logits.T)])
    return -chosen.mean()


def retrieved(similarity: Float[Tensor, "t i"], match: Bool[Tensor, "t i"]) -> Float[Tensor, ""]:
    """How often the caption that is most similar to an image belongs to it."""
    best = similarity.argmax(0, keepdim=True)
    return match.gather(0, best).float().mean()
