"""A copy of a policy that acts fast on a CPU: the same numbers up to rounding, from fewer and cheaper operations.

Large matrices are multiplied in bf16; norms, rotations, softmax, residuals, keys and values, and the integration of a
chunk are in fp32. Weights are cast once, and matrices that read the same tokens are one. Decoder layers of Llama's
shape, SigLIP's layers and the action expert's are rebuilt so; of other trunks only the linear layers are cast. A lean
policy does not learn and is not saved: keep the policy that it was made of.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
# The layers of transformers carry no types.

import math
from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import DynamicCache
from transformers.activations import GELUTanh
from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer, GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from worldlab.policies.action_expert import ExpertLayer, Norm, Rotation, gated, swapped
from worldlab.policies.diffusion_policy import DiffusionHead
from worldlab.policies.flow_policy import FlowHead
from worldlab.policies.vla import VLA

_LARGE = 2**15
"""Weights of a matrix from which on casting its input pays."""
_MANY = 2**20
"""Multiplications of an attention from which on casting its queries, keys and values pays."""
Decoder = GemmaDecoderLayer | LlamaDecoderLayer | MistralDecoderLayer | Qwen2DecoderLayer


def lean(policy: VLA, dtype: torch.dtype = torch.bfloat16) -> VLA:
    """A copy that acts fast.

    Args:
        policy: stays as it is.
        dtype: of the matrix products; float32 gives the policy's own numbers to about 1e-5.
    """
    copy = deepcopy(policy).eval().requires_grad_(False)
    crossed = copy.config.backbone.fusion == "flamingo"  # its cross-attention hangs on the decoder's own layers
    _rebuild(copy.backbone, lambda part: _of_trunk(part, dtype, crossed))
    _rebuild(copy.head, lambda part: LeanExpertLayer(part, dtype) if isinstance(part, ExpertLayer) else None)
    if copy.grounding is None and isinstance(copy.head, FlowHead | DiffusionHead):
        for last in [m for m in copy.backbone.modules() if isinstance(m, LeanDecoderLayer)][-1:]:
            last.read = False  # the expert reads keys and values alone
    return copy.to(policy.scale_state.mean.device)


def _rebuild(module: nn.Module, replacement: Callable[[nn.Module], nn.Module | None]) -> None:
    for name, child in module.named_children():
        new = replacement(child)
        if new is None:
            _rebuild(child, replacement)
        else:
            setattr(module, name, new)


def _of_trunk(part: nn.Module, dtype: torch.dtype, crossed: bool) -> nn.Module | None:
    """What takes the place of a part of the trunk; None where its own parts are looked at."""
    if isinstance(part, Decoder) and not crossed and _plain(part):
        return LeanDecoderLayer(part, dtype)
    if isinstance(part, SiglipEncoderLayer) and _plain(part):
        return LeanEncoderLayer(part, dtype)
    if isinstance(part, nn.Conv2d) and part.stride == part.kernel_size and part.padding in ("valid", (0, 0)):
        return Patches(part, dtype)
    return Linear(part, dtype) if type(part) is nn.Linear else None


def _plain(layer: nn.Module) -> bool:
    """Whether there are no adapters beside the linear layers."""
    return all(type(m) is nn.Linear for name, m in layer.named_modules() if name.endswith(("_proj", "fc1", "fc2")))


class Product(nn.Module):
    """What one or several linear layers make of the same tokens, side by side, multiplied in `dtype` if that pays."""

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        linears: Sequence[nn.Linear | nn.Conv2d],
        dtype: torch.dtype,
        scale: Float[Tensor, " i"] | None = None,
    ) -> None:
        """`scale` is what the tokens are still to be multiplied by."""
        super().__init__()
        weight = torch.cat([m.weight.flatten(1) for m in linears])
        biases = [m.bias for m in linears if m.bias is not None]
        self.dtype = dtype if weight.numel() >= _LARGE else torch.float32
        self.register_buffer("weight", (weight if scale is None else weight * scale).to(self.dtype))
        self.register_buffer("bias", torch.cat(biases).to(self.dtype) if biases else None)

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """In the type that was multiplied in."""
        return linear(x.to(self.dtype), self.weight, self.bias)


class Linear(Product):
    """A linear layer for whoever expects fp32 of it."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__([layer], dtype)

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """In fp32."""
        return super().forward(x).float()


class Patches(Product):
    """A convolution whose windows touch: a linear layer of each of them."""

    def __init__(self, convolution: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__([convolution], dtype)
        self.size = convolution.kernel_size

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o _ _"]:
        """In fp32."""
        p, q = self.size
        x = x[..., : x.shape[-2] // p * p, : x.shape[-1] // q * q]  # what no whole window holds, no convolution sees
        windows = rearrange(x, "b c (h p) (w q) -> b h w (c p q)", p=p, q=q)
        return super().forward(windows).float().permute(0, 3, 1, 2)


class Root(nn.Module):
    """x / sqrt(|x|² + w ε): RMS norm without the factors sqrt(w) and `weight`, which go into the matrix after it."""

    floor: Tensor

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.register_buffer("floor", torch.tensor((width * epsilon) ** 0.5))

    def forward(self, x: Float[Tensor, "*b w"]) -> Float[Tensor, "*b w"]:
        """Of each token."""
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.floor)


def gelu(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """GELU with tanh, by x (1 + tanh u) / 2 = x / (1 + exp(-2 u)): PyTorch's tanh is several times slower."""
    slope = math.sqrt(8 / math.pi)
    return x.square().mul_(0.044715 * slope).add_(slope).mul_(x).sigmoid_().mul_(x)


def _activation(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return gelu if isinstance(module, GELUTanh) else module


def attend(
    query: Float[Tensor, "b q h d"],
    keys: Float[Tensor, "b g n d"],
    values: Float[Tensor, "b g n d"],
    unseen: Float[Tensor, "b 1 _ p"] | None,
    dtype: torch.dtype,
) -> Float[Tensor, "bq hd"]:
    """Softmax attention, multiplied in `dtype` if that pays; `unseen` is added to the scores of the first p keys."""
    b, q, h, d = query.shape
    g, n = keys.shape[1:3]
    if q * h * n * d < _MANY:
        dtype = torch.float32
    rows = query.view(b, q, g, h // g, d).transpose(1, 2).reshape(b * g, -1, d)
    score = torch.bmm(rows.to(dtype), keys.flatten(0, 1).to(dtype).mT).float()
    if unseen is not None:
        score.view(b, g, q, h // g, n)[..., : unseen.shape[-1]] += unseen[:, :, :, None]
    seen = torch.bmm(score.softmax(-1).to(dtype), values.flatten(0, 1).to(dtype))
    return seen.view(b, g, q, h // g, d).transpose(1, 2).reshape(b * q, h * d)


class _Gated(nn.Module):
    """Attention with rotary positions, and a gated MLP: what a decoder's layer and the expert's have in common."""

    def __init__(
        self,
        attention: Sequence[nn.Linear],
        mlp: Sequence[nn.Linear],
        scales: Sequence[Float[Tensor, " w"] | None],
        epsilon: float,
        size: int,
        dtype: torch.dtype,
    ) -> None:
        """Linear layers in this order: query, key, value, out; gate, up, down. `size` is that of a head."""
        super().__init__()
        self.size, self.heads, self.groups = size, *(m.out_features // size for m in attention[:2])
        self.project, self.out = Product(attention[:3], dtype, scales[0]), Product(attention[3:], dtype)
        self.gate_up, self.down = Product(mlp[:2], dtype, scales[1]), Product(mlp[2:], dtype)
        for x in (self.project.weight, self.project.bias):
            if x is not None:
                x[: self.heads * size] *= size**-0.5
        self.root, self.dtype = Root(attention[0].in_features, epsilon), dtype

    def queries(
        self, x: Float[Tensor, "bq w"], cos: Float[Tensor, "b q 1 d"], sin: Float[Tensor, "b q 1 d"]
    ) -> tuple[Float[Tensor, "b q h d"], Float[Tensor, "b g q d"], Float[Tensor, "b g q d"]]:
        """Queries, keys and values; `sin` as in `Rotation`."""
        heads = self.project(x).float().view(*cos.shape[:2], -1, self.size)
        turning, value = heads.split([self.heads + self.groups, self.groups], 2)
        turned = torch.addcmul(turning * cos, swapped(turning), sin)
        query, key = turned.split([self.heads, self.groups], 2)
        return query, key.transpose(1, 2), value.transpose(1, 2)


class LeanDecoderLayer(_Gated):
    """A language model's layer."""

    sign: Tensor

    def __init__(self, layer: Decoder, dtype: torch.dtype) -> None:
        a, m, norms = layer.self_attn, layer.mlp, (layer.input_layernorm, layer.post_attention_layernorm)
        shift = 1.0 if isinstance(norms[0], GemmaRMSNorm) else 0.0  # Gemma's norms store the deviation from 1
        epsilon = norms[0].eps if isinstance(norms[0], GemmaRMSNorm) else norms[0].variance_epsilon
        scales = [(n.weight + shift) * a.q_proj.in_features**0.5 for n in norms]
        attention, mlp = [a.q_proj, a.k_proj, a.v_proj, a.o_proj], [m.gate_proj, m.up_proj, m.down_proj]
        super().__init__(attention, mlp, scales, epsilon, a.head_dim, dtype)
        self.index, self.activation = a.layer_idx, _activation(m.act_fn)
        self.register_buffer("sign", torch.tensor([-1.0, 1.0]).repeat_interleave(self.size // 2))
        self.read = True
        """Whether anybody reads what this layer makes of its tokens, beside their keys and values."""

    def forward(
        self,
        hidden_states: Float[Tensor, "b q w"],
        attention_mask: Float[Tensor, "b 1 q n"],
        position_embeddings: tuple[Float[Tensor, "b q d"], Float[Tensor, "b q d"]],
        past_key_values: DynamicCache,
        **_: object,
    ) -> Float[Tensor, "b q w"]:
        """As transformers' layer, which is given more."""
        x, (cos, sin) = hidden_states.flatten(0, 1), position_embeddings
        query, key, value = self.queries(self.root(x), cos[:, :, None], (sin * self.sign)[:, :, None])
        keys, values = past_key_values.update(key, value, self.index)
        if not self.read:
            return hidden_states
        x = x + self.out(attend(query, keys, values, attention_mask, self.dtype))
        gate, up = self.gate_up(self.root(x)).chunk(2, -1)
        x = x + self.down(self.activation(gate.float()).mul_(up))
        return x.view(hidden_states.shape)


class LeanExpertLayer(_Gated):
    """An `ExpertLayer` for one group of tokens."""

    def __init__(self, layer: ExpertLayer, dtype: torch.dtype) -> None:
        norms, width = (layer.before_attention, layer.before_mlp), layer.query.in_features
        scales = [None if n.weight is None else n.weight * width**0.5 for n in norms]
        attention, mlp = [layer.query, layer.key, layer.value, layer.out], [layer.gate, layer.up, layer.down]
        super().__init__(attention, mlp, scales, norms[0].epsilon, layer.size, dtype)
        self.activation, (self.before_attention, self.before_mlp) = layer.activation, norms

    def forward(
        self,
        x: Float[Tensor, "b 1 k w"],
        keys: Float[Tensor, "b g p d"],
        values: Float[Tensor, "b g p d"],
        unseen: Float[Tensor, "b 1 1 1 p"] | None,
        rotation: Rotation,
        modulations: Sequence[Float[Tensor, "b 1 k m"] | None] = (None, None),
    ) -> tuple[Float[Tensor, "b 1 k w"], Float[Tensor, "b g 1 k d"], Float[Tensor, "b g 1 k d"]]:
        """As `ExpertLayer`."""
        tokens = x.flatten(0, 2)
        normal, gate = self._normal(self.before_attention, tokens, modulations[0])
        query, key, value = self.queries(normal, rotation.cos[:, 0], rotation.sin[:, 0])
        keys, values = torch.cat([keys, key], 2), torch.cat([values, value], 2)
        seen = attend(query, keys, values, None if unseen is None else unseen[:, 0], self.dtype)
        tokens = gated(tokens, gate, self.out(seen))
        normal, gate = self._normal(self.before_mlp, tokens, modulations[1])
        open_, up = self.gate_up(normal).chunk(2, -1)
        tokens = gated(tokens, gate, self.down(self.activation(open_).mul_(up)))
        return tokens.view(x.shape), key[:, :, None], value[:, :, None]

    def _normal(
        self, norm: Norm, x: Float[Tensor, "bk w"], modulation: Float[Tensor, "b 1 k m"] | None
    ) -> tuple[Float[Tensor, "bk w"], Float[Tensor, "bk w"] | None]:
        return (self.root(x), None) if modulation is None else norm(x, modulation.flatten(0, 2))


class LeanEncoderLayer(nn.Module):
    """A vision tower's layer."""

    def __init__(self, layer: SiglipEncoderLayer, dtype: torch.dtype) -> None:
        super().__init__()
        a = layer.self_attn
        self.size, self.scale, self.dtype = a.head_dim, a.scale, dtype
        self.project, self.out = Product([a.q_proj, a.k_proj, a.v_proj], dtype), Product([a.out_proj], dtype)
        self.up, self.down = Product([layer.mlp.fc1], dtype), Product([layer.mlp.fc2], dtype)
        self.activation = _activation(layer.mlp.activation_fn)
        self.before_attention, self.before_mlp = layer.layer_norm1, layer.layer_norm2

    def forward(self, hidden_states: Float[Tensor, "b n w"], *_: object, **__: object) -> Float[Tensor, "b n w"]:
        """As transformers' layer, without a mask."""
        b, n = hidden_states.shape[:2]
        x = hidden_states.flatten(0, 1)
        heads = self.project(self.before_attention(x)).view(b, n, 3, -1, self.size)
        query, key, value = heads.unbind(2)
        seen = attend(query * self.scale, key.transpose(1, 2), value.transpose(1, 2), None, self.dtype)
        x = x + self.out(seen)
        x = x + self.down(self.activation(self.up(self.before_mlp(x)).float()))
        return x.view(hidden_states.shape)
