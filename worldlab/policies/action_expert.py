"""The action expert of pi0 (Black et al. 2024) and pi0.5: a narrow transformer beside the trunk, layer by layer.

Its tokens are the noisy actions of a chunk. In each layer they attend, in one softmax, to the keys and values that the
trunk's layer left of images and instruction, to those of the facts, and to each other. What the trunk saw is read once
(`read`) and serves every noise level, and every draw of noise in training. Any trunk will do: keys and values have its
heads and its rotary positions, everything else is the expert's own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, pad, rms_norm, silu
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from worldlab.policies import languages
from worldlab.policies.attention import positions
from worldlab.policies.backbone import Prefix
from worldlab.policies.head import Facts, FactTokens, Interface

Conditioning = Literal["token", "adarms"]


def time_embedding(t: Float[Tensor, "*b"], width: int) -> Float[Tensor, "*b d"]:
    """Sines and cosines of periods from 0.004 to 4 (openpi's `posemb_sincos`)."""
    fraction = torch.linspace(0, 1, width // 2, device=t.device)
    angle = t[..., None] * (2 * math.pi / (4e-3 * (4.0 / 4e-3) ** fraction))
    return torch.cat([angle.sin(), angle.cos()], -1)


class Rotation(NamedTuple):
    """Rotary positions of n groups of k tokens."""

    cos: Float[Tensor, "b 1 k 1 d"]
    sin: Float[Tensor, "b 1 k 1 d"]
    """Negative for the first half of a head, which the second half turns into."""

    def __call__(self, x: Float[Tensor, "b n k h d"]) -> Float[Tensor, "b n k h d"]:
        """Queries or keys at their positions."""
        return x * self.cos.to(x.dtype) + swapped(x) * self.sin.to(x.dtype)


def swapped(x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """The halves of each head exchanged."""
    return x.view(*x.shape[:-1], 2, -1).flip(-2).view(x.shape)


@dataclass(frozen=True)
class Context:
    """What the action tokens attend to beside each other: the prefix and the facts."""

    keys: Sequence[Float[Tensor, "b g p d"]]
    """Of each layer."""
    values: Sequence[Float[Tensor, "b g p d"]]
    """Of each layer."""
    unseen: Float[Tensor, "b 1 1 1 p"] | None
    """Added to the attention scores: a large negative number on padding. None where there is no padding."""
    rotation: Rotation
    """Of the action tokens."""
    told: Float[Tensor, "b 1 w"] | float
    """The facts, for the entrance of every action token."""


@dataclass(frozen=True)
class Level:
    """What the noise levels of n groups of k actions are to the expert; depends on nothing that it computes."""

    entrance: Float[Tensor, "b n k w"] | None
    """Joins the actions at their entrance (conditioning "token")."""
    modulations: Sequence[Float[Tensor, "b n k m"] | None]
    """Scale, shift and gate (m = 3 w) of each norm (conditioning "adarms"): two of each layer, and the last one."""

    def __getitem__(self, i: int) -> "Level":
        """That of group i alone."""
        group = slice(i, i + 1)
        entrance = None if self.entrance is None else self.entrance[:, group]
        return Level(entrance, [None if m is None else m[:, group] for m in self.modulations])


class Norm(nn.Module):
    """RMS norm; with `adaptive` its scale, shift and gate are made of a condition (adaRMS of pi0.5).

    The modulation starts at zero, so that a fresh layer passes its input on unchanged, like DiT's adaLN-Zero.
    """

    def __init__(self, width: int, epsilon: float, adaptive: bool) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = None if adaptive else nn.Parameter(torch.ones(width))
        self.modulation = nn.Linear(width, 3 * width) if adaptive else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(
        self, x: Float[Tensor, "*b w"], modulation: Float[Tensor, "*b m"] | None
    ) -> tuple[Float[Tensor, "*b w"], Float[Tensor, "*b w"] | None]:
        """The normalised tokens, and the gate of what is made of them, if there is one."""
        weight = None if self.weight is None else self.weight.to(x.dtype)
        normal = rms_norm(x, x.shape[-1:], weight, self.epsilon)
        if modulation is None:
            return normal, None
        scale, shift, gate = modulation.chunk(3, -1)
        return normal * (1 + scale) + shift, gate


def gated(
    x: Float[Tensor, "*b w"], gate: Float[Tensor, "*b w"] | None, made: Float[Tensor, "*b w"]
) -> Float[Tensor, "*b w"]:
    """Tokens with what was made of them."""
    return x + made if gate is None else x + gate * made


class ExpertLayer(nn.Module):
    """Attention to the context and among the tokens of one group, then a gated MLP."""

    def __init__(self, trunk: PreTrainedConfig, width: int, mlp: int, adaptive: bool) -> None:
        super().__init__()
        heads, self.groups = trunk.num_attention_heads, trunk.num_key_value_heads
        self.size = languages.head_size(trunk)
        self.query = nn.Linear(width, heads * self.size, bias=False)
        self.key = nn.Linear(width, self.groups * self.size, bias=False)
        self.value = nn.Linear(width, self.groups * self.size, bias=False)
        self.out = nn.Linear(heads * self.size, width, bias=False)
        self.gate, self.up = (nn.Linear(width, mlp, bias=False) for _ in range(2))
        self.down = nn.Linear(mlp, width, bias=False)
        self.activation = ACT2FN[languages.activation(trunk)]
        self.before_attention, self.before_mlp = (Norm(width, trunk.rms_norm_eps, adaptive) for _ in range(2))

    def _heads(self, x: Float[Tensor, "b n k _"]) -> Float[Tensor, "b n k _ d"]:
        return x.unflatten(-1, (-1, self.size))

    def forward(
        self,
        x: Float[Tensor, "b n k w"],
        keys: Float[Tensor, "b g p d"],
        values: Float[Tensor, "b g p d"],
        unseen: Float[Tensor, "b 1 1 1 p"] | None,
        rotation: Rotation,
        modulations: Sequence[Float[Tensor, "b n k m"] | None] = (None, None),
    ) -> tuple[Float[Tensor, "b n k w"], Float[Tensor, "b g n k d"], Float[Tensor, "b g n k d"]]:
        """The tokens after this layer, and the keys and values that they left."""
        normal, gate = self.before_attention(x, modulations[0])
        key, value = rotation(self._heads(self.key(normal))), self._heads(self.value(normal))
        query = rotation(self._heads(self.query(normal)) * self.size**-0.5)
        query, key, value = (x.movedim(3, 1) for x in (query, key, value))
        seen = _attend(query, keys, values, unseen, key, value)
        x = gated(x, gate, self.out(seen.movedim(1, 3).flatten(3)))
        normal, gate = self.before_mlp(x, modulations[1])
        return gated(x, gate, self.down(self.activation(self.gate(normal)) * self.up(normal))), key, value


def _attend(
    query: Float[Tensor, "b h n k d"],
    keys: Float[Tensor, "b g p d"],
    values: Float[Tensor, "b g p d"],
    unseen: Float[Tensor, "b 1 1 1 p"] | None,
    key: Float[Tensor, "b g n k d"],
    value: Float[Tensor, "b g n k d"],
) -> Float[Tensor, "b h n k d"]:
    """One softmax over the context, which all n groups share, and the tokens of the own group."""
    b, h, n, k, d = query.shape
    g, p = keys.shape[1:3]
    if n == 1:  # nothing is shared: two products do instead of four
        keys, values = torch.cat([keys, key[:, :, 0]], 2), torch.cat([values, value[:, :, 0]], 2)
        score = (query.reshape(b, g, -1, d) @ keys.mT).float()
        score = score if unseen is None else score + pad(unseen[:, 0], (0, k))
        return (score.softmax(-1).to(values.dtype) @ values).view(b, h, 1, k, d)
    grouped = query.unflatten(1, (g, h // g))  # b g r n k d
    shared = (grouped.flatten(2, 4) @ keys.mT).unflatten(2, (h // g, n, k)).float()
    among = (grouped @ key[:, :, None].mT).float()
    shared = shared if unseen is None else shared + unseen[:, None]
    weight = torch.cat([shared, among], -1).softmax(-1).to(value.dtype)
    from_context = (weight[..., :p].flatten(2, 4) @ values).unflatten(2, (h // g, n, k))
    return (from_context + weight[..., p:] @ value[:, :, None]).flatten(1, 2).view(b, h, n, k, d)


class ActionExpert(nn.Module):
    """Noisy actions and their noise levels -> what to make of them, given the prefix and the facts.

    Conditioning "token" is pi0's: each fact is a token before the actions, and the time joins each action through an
    MLP. "adarms" is pi0.5's: no such tokens (the state is in the prompt), and the time conditions every norm.
    """

    def __init__(
        self,
        trunk: PreTrainedConfig,
        width: int,
        interface: Interface,
        conditioning: Conditioning = "token",
        mlp: int | None = None,
    ) -> None:
        """`trunk` is the language model's configuration; see `FlowSettings` for the rest."""
        super().__init__()
        adaptive = conditioning == "adarms"
        self.width, self.conditioning = width, conditioning
        self.facts = FactTokens(interface, width) if interface.direct or not adaptive else None
        self.action_in, self.action_out = nn.Linear(interface.actions, width), nn.Linear(width, interface.actions)
        self.time_in, self.time_out = nn.Linear(width if adaptive else 2 * width, width), nn.Linear(width, width)
        self.layers = nn.ModuleList(
            ExpertLayer(trunk, width, mlp or 8 * width // 3, adaptive) for _ in range(trunk.num_hidden_layers)
        )
        self.norm = Norm(width, trunk.rms_norm_eps, adaptive)
        self.rotary = LlamaRotaryEmbedding(trunk)  # pyright: ignore[reportArgumentType] - any configuration with rope
        for layer in self.layers:
            for module in (m for name, m in layer.named_modules() if isinstance(m, nn.Linear) and "mod" not in name):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)

    def read(self, prefix: Prefix, facts: Facts, k: int) -> Context:
        """What k action tokens attend to."""
        keys, values = prefix.memory()
        valid, place = prefix.valid, positions(prefix.valid)[:, -1:] + 1
        known, told = None, 0.0
        if self.facts is not None:
            known = self.facts(facts)
            told = self.facts.told(known)
        if known is not None and self.conditioning == "token":
            rotation, place = self._rotation(place, known.shape[1]), place + known.shape[1]
            x, unseen = known[:, None], _unseen(valid)
            for i, layer in enumerate(self.layers):
                x, key, value = layer(x, keys[i], values[i], unseen, rotation)
                keys[i] = torch.cat([keys[i], key[:, :, 0]], 2)
                values[i] = torch.cat([values[i], value[:, :, 0]], 2)
            valid = torch.cat([valid, valid.new_ones(known.shape[:2])], 1)
        return Context(keys, values, _unseen(valid), self._rotation(place, k), told)

    def _rotation(self, place: Int[Tensor, "b 1"], k: int) -> Rotation:
        cos, sin = self.rotary(self.action_in.weight, place + torch.arange(k, device=place.device))
        sin = torch.cat([-sin[..., : sin.shape[-1] // 2], sin[..., sin.shape[-1] // 2 :]], -1)
        return Rotation(cos[:, None, :, None], sin[:, None, :, None])

    def forward(
        self, context: Context, x: Float[Tensor, "b n k a"], t: Float[Tensor, "b n k"]
    ) -> Float[Tensor, "b n k a"]:
        """Of n draws of noise per row, which share the context and do not see each other; t is each action's level."""
        return self.predict(context, x, self.level(context, t))

    def level(self, context: Context, t: Float[Tensor, "b n k"]) -> Level:
        """What each action's level will be to `predict`; that of many steps may be computed at once."""
        told = context.told[:, None] if isinstance(context.told, Tensor) else context.told
        time = time_embedding(t, self.width) + told
        if self.conditioning == "token":
            entrance = linear(time, self.time_in.weight[:, self.width :], self.time_in.bias)
            return Level(entrance, [None] * (2 * len(self.layers) + 1))
        condition = silu(self.time_out(silu(self.time_in(time))))
        norms = (m.modulation for m in self.modules() if isinstance(m, Norm))
        return Level(None, [modulation and modulation(condition) for modulation in norms])

    def predict(self, context: Context, x: Float[Tensor, "b n k a"], level: Level) -> Float[Tensor, "b n k a"]:
        """What `forward` says, at levels that are known already."""
        tokens = self.action_in(x)
        if level.entrance is not None:
            tokens = linear(tokens, self.time_in.weight[:, : self.width]) + level.entrance
            tokens = self.time_out(silu(tokens))
        for i, layer in enumerate(self.layers):
            modulations = level.modulations[2 * i : 2 * i + 2]
            memory = context.keys[i], context.values[i], context.unseen
            tokens, _, _ = layer(tokens, *memory, context.rotation, modulations)
        return self.action_out(self.norm(tokens, level.modulations[-1])[0])


def _unseen(valid: Bool[Tensor, "b p"]) -> Float[Tensor, "b 1 1 1 p"] | None:
    looked_at = valid.device.type == "cpu" and not torch.compiler.is_compiling()  # elsewhere, one would have to wait
    if looked_at and valid.all():
        return None
    return torch.where(valid, 0.0, torch.finfo(torch.float32).min)[:, None, None, None]
