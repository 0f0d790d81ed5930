"""The action expert of pi0 (Black et al. 2024) and pi0.5: a narrow transformer beside the trunk, layer by layer.

Its tokens are the noisy actions of a chunk. In each layer they attend, in one softmax, to the keys and values that the
trunk's layer left of images and instruction, to those of the facts, and to each other. What the trunk saw is read once
(`read`) and serves every noise level, and every draw of noise in training. Any trunk will do: keys and values have its
heads and its rotary positions, everything else is the expert's own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, rotate_half

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


@dataclass(frozen=True)
class Rotation:
    """Rotary positions of n groups of k tokens."""

    cos: Float[Tensor, "b 1 1 k d"]
    sin: Float[Tensor, "b 1 1 k d"]

    def __call__(self, x: Float[Tensor, "b h n k d"]) -> Float[Tensor, "b h n k d"]:
        """Queries or keys at their positions."""
        return x * self.cos.to(x.dtype) + rotate_half(x) * self.sin.to(x.dtype)


@dataclass(frozen=True)
class Context:
    """What the action tokens attend to beside each other: the prefix and the facts."""

    keys: Sequence[Float[Tensor, "b g p d"]]
    """Of each layer."""
    values: Sequence[Float[Tensor, "b g p d"]]
    """Of each layer."""
    unseen: Float[Tensor, "b 1 1 1 p"]
    """Added to the attention scores: a large negative number on padding."""
    rotation: Rotation
    """Of the action tokens."""
    told: Float[Tensor, "b 1 w"] | float
    """The facts, for the entrance of every action token."""


class Norm(nn.Module):
    """RMS norm; with `adaptive` it takes scale, shift and gate from a condition (adaRMS of pi0.5).

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
        self, x: Float[Tensor, "b n k w"], condition: Float[Tensor, "b n k w"] | None
    ) -> tuple[Float[Tensor, "b n k w"], Float[Tensor, "b n k w"] | float]:
        """The normalised tokens, and the gate of what is made of them."""
        weight = None if self.weight is None else self.weight.to(x.dtype)
        normal = rms_norm(x, x.shape[-1:], weight, self.epsilon)
        if self.modulation is None or condition is None:
            return normal, 1.0
        scale, shift, gate = self.modulation(condition).chunk(3, -1)
        return normal * (1 + scale) + shift, gate


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

    def _heads(self, x: Float[Tensor, "b n k _"]) -> Float[Tensor, "b _ n k d"]:
        return x.unflatten(-1, (-1, self.size)).movedim(3, 1)

    def forward(
        self,
        x: Float[Tensor, "b n k w"],
        keys: Float[Tensor, "b g p d"],
        values: Float[Tensor, "b g p d"],
        unseen: Float[Tensor, "b 1 1 1 p"],
        rotation: Rotation,
        condition: Float[Tensor, "b n k w"] | None,
    ) -> tuple[Float[Tensor, "b n k w"], Float[Tensor, "b g n k d"], Float[Tensor, "b g n k d"]]:
        """The tokens after this layer, and the keys and values that they left."""
        normal, gate = self.before_attention(x, condition)
        key, value = rotation(self._heads(self.key(normal))), self._heads(self.value(normal))
        query = rotation(self._heads(self.query(normal)) * self.size**-0.5)
        seen = _attend(query, keys, values, unseen, key, value)
        x = x + gate * self.out(seen.movedim(1, 3).flatten(3))
        normal, gate = self.before_mlp(x, condition)
        return x + gate * self.down(self.activation(self.gate(normal)) * self.up(normal)), key, value


def _attend(
    query: Float[Tensor, "b h n k d"],
    keys: Float[Tensor, "b g p d"],
    values: Float[Tensor, "b g p d"],
    unseen: Float[Tensor, "b 1 1 1 p"],
    key: Float[Tensor, "b g n k d"],
    value: Float[Tensor, "b g n k d"],
) -> Float[Tensor, "b h n k d"]:
    """One softmax over the context, which all n groups share, and the tokens of the own group."""
    b, h, n, k, d = query.shape
    g, p = keys.shape[1:3]
    grouped = query.unflatten(1, (g, h // g))  # b g r n k d
    shared = (grouped.flatten(2, 4) @ keys.mT).unflatten(2, (h // g, n, k)).float()
    among = (grouped @ key[:, :, None].mT).float()
    weight = torch.cat([shared + unseen[:, None], among], -1).softmax(-1).to(value.dtype)
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
            for linear in (m for name, m in layer.named_modules() if isinstance(m, nn.Linear) and "mod" not in name):
                nn.init.normal_(linear.weight, std=linear.in_features**-0.5)

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
                x, key, value = layer(x, keys[i], values[i], unseen, rotation, None)
                keys[i] = torch.cat([keys[i], key[:, :, 0]], 2)
                values[i] = torch.cat([values[i], value[:, :, 0]], 2)
            valid = torch.cat([valid, valid.new_ones(known.shape[:2])], 1)
        return Context(keys, values, _unseen(valid), self._rotation(place, k), told)

    def _rotation(self, place: Int[Tensor, "b 1"], k: int) -> Rotation:
        cos, sin = self.rotary(self.action_in.weight, place + torch.arange(k, device=place.device))
        return Rotation(cos[:, None, None], sin[:, None, None])

    def forward(
        self, context: Context, x: Float[Tensor, "b n k a"], t: Float[Tensor, "b n k"]
    ) -> Float[Tensor, "b n k a"]:
        """Of n draws of noise per row, which share the context and do not see each other; t is each action's level."""
        told = context.told[:, None] if isinstance(context.told, Tensor) else context.told
        time = time_embedding(t, self.width) + told
        tokens = self.action_in(x)
        if self.conditioning == "adarms":
            condition = silu(self.time_out(silu(self.time_in(time))))
        else:
            condition = None
            tokens = self.time_out(silu(self.time_in(torch.cat([tokens, time], -1))))
        for layer, keys, values in zip(self.layers, context.keys, context.values, strict=True):
            tokens, _, _ = layer(tokens, keys, values, context.unseen, context.rotation, condition)
        return self.action_out(self.norm(tokens, condition)[0])


def _unseen(valid: Bool[Tensor, "b p"]) -> Float[Tensor, "b 1 1 1 p"]:
    return torch.where(valid, 0.0, torch.finfo(torch.float32).min)[:, None, None, None]
