"""How images get into the language model: one contract, five ways.

llava     an MLP projects the features of every patch into the sequence (Liu et al. 2023)
anyres    that for a thumbnail of the image and for tiles of it, as many as a cap allows (LLaVA-NeXT)
qformer   a few learned queries read the patches; what they say goes into the sequence (BLIP-2, Li et al. 2023)
flamingo  gated cross-attention before layers of the language model reads the patches; the sequence is text alone
          (Alayrac et al. 2022)
native    the pixels of each patch go straight into the sequence; there is no tower (as in Fuyu)

Each also says which of its features have a place in the image that the grounding points into.
"""

# pyright: reportCallIssue=false
# The configurations of transformers carry no types.

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import Blip2QFormerConfig, Blip2QFormerModel, IdeficsConfig, PreTrainedModel
from transformers.image_processing_utils import select_best_resolution
from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer

from worldlab.errors import UsageError
from worldlab.policies.backbone_config import BackboneConfig
from worldlab.policies.towers import Tower, together

type Images = Mapping[str, UInt8[Tensor, "b _ _ 3"]]


@dataclass(frozen=True)
class CameraSetup:
    """What the cameras see, how large their images are (h, w), and which one is pointed into."""

    cameras: Mapping[str, tuple[int, int]]
    pointing: str


@dataclass(frozen=True)
class Seen:
    """What a fusion makes of the images."""

    tokens: Float[Tensor, "b n d"]
    """Goes into the sequence, before the instruction."""
    features: Float[Tensor, "b m e"] | None = None
    """Those with a place in the image; None where they are among the tokens."""
    cross: Float[Tensor, "b c e"] | None = None
    """What the gated cross-attention layers read."""


class Fusion(nn.Module):
    """Images -> `Seen`."""

    centres: Tensor
    """(m, 2): where each feature with a place is in the pointing camera's image, (u, v)."""

    def __init__(self, tower: Tower | None, centres: Float[Tensor, "m 2"], start: int | None, map_width: int) -> None:
        """`start` is where the features with a place begin among the tokens; None if they are not among them."""
        super().__init__()
        self.tower, self.map_width = tower, map_width
        self.place = None if start is None else slice(start, start + len(centres))
        self.register_buffer("centres", centres, persistent=False)

    @abstractmethod
    def forward(self, images: Images) -> Seen:
        """What goes into the language model."""


def create(config: BackboneConfig, tower: Tower | None, language: PreTrainedModel, scene: CameraSetup) -> Fusion:
    """The fusion that the config names; the one that adds layers to the language model does so."""
    width = language.config.hidden_size
    if config.fusion == "native":
        return Native(config.patch, scene, width)
    assert tower is not None
    if config.fusion == "qformer":
        return Querying(config, tower, scene, width)
    if config.fusion == "flamingo":
        return Flamingo(config, tower, scene, language)
    return Projecting(tower, scene, width, config.tiles if config.fusion == "anyres" else 1)


def grid(rows: int, columns: int) -> Float[Tensor, "m 2"]:
    """Centres of rows x columns patches as (u, v), row by row from the top left."""
    v, u = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    return torch.stack([u, v], -1).flatten(0, 1)


class Tiling(NamedTuple):
    """How an image is cut."""

    down: int
    across: int

    @classmethod
    def best(cls, size: tuple[int, int], side: int, cap: int) -> "Tiling":
        """The grid of at most `cap` tiles that keeps most of an image (h, w), as LLaVA-NeXT picks it."""
        grids = [(r * side, c * side) for r in range(1, cap + 1) for c in range(1, cap // r + 1)]
        h, w = select_best_resolution(size, grids)
        return cls(h // side, w // side)

    @property
    def shown(self) -> int:
        """Tiles shown beside the thumbnail, which is the only one of an image that is not cut."""
        return self.down * self.across if self.down * self.across > 1 else 0


class Projecting(Fusion):
    """llava and anyres: [thumbnail][tile] ... of each camera, every patch a token."""

    tower: Tower

    def __init__(self, tower: Tower, scene: CameraSetup, width: int, tiles: int) -> None:
        """`tiles` is the cap for each camera; 1 is llava, which has thumbnails alone."""
        tilings = {name: Tiling.best(size, tower.side, tiles) for name, size in scene.cameras.items()}
        whole = {name: tower.grid(size) for name, size in scene.cameras.items()}
        cells = tower.side // tower.patch

        def tokens(name: str) -> int:
            rows, columns = whole[name]
            return rows * columns + tilings[name].shown * cells**2

        start = sum(tokens(name) for name in list(tilings)[: list(tilings).index(scene.pointing)])
        rows, columns = whole[scene.pointing]
        centres = grid(rows, columns)
        if tilings[scene.pointing].shown:
            start += rows * columns
            down, across = tilings[scene.pointing]
            fine = grid(down * cells, across * cells)
            centres = rearrange(fine, "(i r j c) k -> (i j r c) k", i=down, j=across, r=cells)
        super().__init__(tower, centres, start, width)
        self.tilings = tilings
        self.projector = nn.Sequential(nn.Linear(tower.width, width), nn.GELU(), nn.Linear(width, width))
        self.view = nn.Parameter(torch.randn(sum(1 + t.shown for t in tilings.values()), 1, width) * 0.02)

    def views(self, images: Images) -> list[Float[Tensor, "b 3 _ _"]]:
        """What the tower is shown: of each camera a thumbnail, and its tiles row by row."""
        shown: list[Tensor] = []
        for name, tiling in self.tilings.items():
            image, side = images[name], self.tower.side
            shown.append(self.tower.pixels(image, self.tower.size(image)))
            if tiling.shown:
                whole = self.tower.pixels(image, (tiling.down * side, tiling.across * side))
                tiles = rearrange(whole, "b k (i h) (j w) -> (i j) b k h w", i=tiling.down, j=tiling.across)
                shown.extend(tiles)
        return shown

    def forward(self, images: Images) -> Seen:
        """Every patch of every view is a token."""
        features = self.tower(self.views(images))
        tokens = [self.projector(x) + view for x, view in zip(features, self.view, strict=True)]
        return Seen(torch.cat(tokens, 1))


class Querying(Fusion):
    """qformer: as many tokens per camera as there are queries, however many patches it has."""

    tower: Tower

    def __init__(self, config: BackboneConfig, tower: Tower, scene: CameraSetup, width: int) -> None:
        """`width` of the language model; the Q-Former's own sizes are the config's."""
        super().__init__(tower, grid(*tower.grid(scene.cameras[scene.pointing])), None, tower.width)
        self.scene = scene
        sizes = Blip2QFormerConfig(
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=4 * config.width,
            encoder_hidden_size=tower.width,
            cross_attention_frequency=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.former = Blip2QFormerModel(sizes)
        self.queries = nn.Parameter(torch.randn(1, config.queries, config.width) * 0.02)
        self.projector = nn.Linear(config.width, width)
        self.camera = nn.Parameter(torch.randn(len(scene.cameras), 1, width) * 0.02)

    def _ask(self, features: Float[Tensor, "b m e"]) -> Float[Tensor, "b q d"]:
        queries = self.queries.expand(len(features), -1, -1)
        return self.projector(self.former(query_embeds=queries, encoder_hidden_states=features).last_hidden_state)

    def forward(self, images: Images) -> Seen:
        """The queries' answers are the tokens; the pointing is among the patches they were asked of."""
        features = _patches(self.tower, self.scene, images)
        answers = together(self._ask, list(features.values()))
        tokens = [x + camera for x, camera in zip(answers, self.camera, strict=True)]
        return Seen(torch.cat(tokens, 1), features[self.scene.pointing])


class Crossing(nn.Module):
    """What a layer of the language model does first: read the second stream through a gate that starts closed."""

    def __init__(self, layer: IdeficsGatedCrossAttentionLayer | None) -> None:
        """None reads nothing, and only takes the stream out of the layer's arguments."""
        super().__init__()
        self.layer = layer

    def before(
        self, _: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """The hook: a layer's arguments as it gets them."""
        rest = {name: value for name, value in named.items() if name != "cross"}
        if self.layer is None:
            return args, rest
        hidden, cross = args[0], named["cross"]
        everything = cross.new_zeros(len(hidden), 1, hidden.shape[1], cross.shape[1])
        read = self.layer(
            hidden_states=hidden,
            image_hidden_states=cross,
            image_attention_mask=everything,  # without a mask, SDPA would take it for causal
            cross_attention_gate=hidden.new_ones(hidden.shape[:2]),
        )
        return (read, *args[1:]), rest


class Flamingo(Fusion):
    """flamingo: nothing goes into the sequence; layers of the language model read the patches by cross-attention."""

    tower: Tower

    def __init__(self, config: BackboneConfig, tower: Tower, scene: CameraSetup, language: PreTrainedModel) -> None:
        """Adds layers before those of the language model."""
        super().__init__(tower, grid(*tower.grid(scene.cameras[scene.pointing])), None, tower.width)
        self.scene, self.width = scene, language.config.hidden_size
        sizes = IdeficsConfig(
            hidden_size=self.width,
            intermediate_size=8 * self.width // 3,
            num_attention_heads=language.config.num_attention_heads,
            vision_config={"embed_dim": tower.width},
            attn_implementation=config.attention,
        )
        layers = language.layers
        assert isinstance(layers, nn.ModuleList)
        self.crossings = nn.ModuleList(
            Crossing(IdeficsGatedCrossAttentionLayer(sizes, layer_idx=i) if i % config.every == 0 else None)
            for i in range(len(layers))
        )
        for crossing, layer in zip(self.crossings, layers, strict=True):
            assert isinstance(crossing, Crossing)
            layer.register_forward_pre_hook(crossing.before, with_kwargs=True)
        self.camera = nn.Parameter(torch.randn(len(scene.cameras), 1, tower.width) * 0.02)

    def forward(self, images: Images) -> Seen:
        """The patches of all cameras are the second stream."""
        features = _patches(self.tower, self.scene, images)
        cross = torch.cat([x + camera for x, camera in zip(features.values(), self.camera, strict=True)], 1)
        return Seen(cross.new_zeros(len(cross), 0, self.width), features[self.scene.pointing], cross)


class Native(Fusion):
    """native: one linear map from a patch's pixels to a token. Rows and columns are told by learned embeddings.

    Images keep their size, up to whole patches. (Fuyu tells a row's end by a token; with attention in both directions
    an embedding of the place says it at once.)
    """

    def __init__(self, patch: int, scene: CameraSetup, width: int) -> None:
        """`patch` is its side in pixels, `width` that of the language model.

        Raises:
            UsageError: an image is smaller than a patch.
        """
        for name, size in scene.cameras.items():
            if min(size) < patch:
                raise UsageError(f"camera '{name}' has {size[0]} x {size[1]} pixels, less than a patch of {patch}.")
        cells = {name: (h // patch, w // patch) for name, (h, w) in scene.cameras.items()}
        before = list(cells)[: list(cells).index(scene.pointing)]
        start = sum(cells[name][0] * cells[name][1] for name in before)
        super().__init__(None, grid(*cells[scene.pointing]), start, width)
        self.patch, self.cells = patch, cells
        self.linear = nn.Linear(3 * patch**2, width)
        self.camera = nn.Parameter(torch.randn(len(cells), 1, width) * 0.02)
        self.row = nn.Parameter(torch.randn(max(r for r, _ in cells.values()), 1, width) * 0.02)
        self.column = nn.Parameter(torch.randn(max(c for _, c in cells.values()), width) * 0.02)

    def _tokens(self, name: str, image: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b n d"]:
        rows, columns = self.cells[name]
        size = rows * self.patch, columns * self.patch
        x = image.permute(0, 3, 1, 2) / 127.5 - 1
        if x.shape[-2:] != size:
            x = interpolate(x, size, mode="bilinear", antialias=True)
        pixels = rearrange(x, "b k (r p) (c q) -> b (r c) (p q k)", p=self.patch, q=self.patch)
        return self.linear(pixels) + (self.row[:rows] + self.column[:columns]).flatten(0, 1)

    def forward(self, images: Images) -> Seen:
        """Every patch of every camera is a token."""
        tokens = [
            self._tokens(name, images[name]) + camera for name, camera in zip(self.cells, self.camera, strict=True)
        ]
        return Seen(torch.cat(tokens, 1))


def _patches(tower: Tower, scene: CameraSetup, images: Images) -> dict[str, Float[Tensor, "b _ e"]]:
    """The features of each camera's patches."""
    pixels = [tower.pixels(images[name], tower.size(images[name])) for name in scene.cameras]
    return dict(zip(scene.cameras, tower(pixels), strict=True))
