"""The recurrence over all rows of windows at once, with a backward pass written by hand.

Step by step (`Recurrence.advance`, `Recurrence.see`), autograd makes a node of every operation and a gradient of every
weight at every step; with the small batches of a recurrent model that is most of the cost on a CPU. Here the way back
through time carries the gradients of states only; that of a weight is one matrix product over all steps, after it.
A step there and a step back are pure functions of tensors, so that PyTorch can compile either once for all steps.
tests/dynamics/test_unroll.py holds values and gradients against the modules'.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from worldlab.dynamics.heads import precision
from worldlab.dynamics.latents import UNIMIX, mixed, sample

if TYPE_CHECKING:
    from worldlab.dynamics.recurrence import Recurrence, Size

_aten = torch.ops.aten


@dataclass(frozen=True)
class Unrolled:
    """What came of every row."""

    expected: Float[Tensor, "b t h"]
    """The deterministic state before the row is seen."""
    deter: Float[Tensor, "b t h"]
    """And after: the same, unless what is seen corrects it."""
    stoch: Float[Tensor, "b t n"]
    """One-hot latents, flat, whose gradients go straight through to their probabilities."""
    posterior: Float[Tensor, "b t z c"]
    """These probabilities."""


def _unrolled(
    core: "Recurrence",
    pushed: Float[Tensor, "b t n"],
    looks: Float[Tensor, "b t n"],
    noise: Float[Tensor, "b t z"] | None,
) -> Unrolled:
    """See rows one after another, knowing nothing before the first.

    Args:
        core: whose layers.
        pushed: what was done before each row (`Recurrence.push`).
        looks: what is seen of each row (`Recurrence.look`).
        noise: uniform, draws the latents; None takes the likeliest.
    """
    loop = _Loop(core, keep=torch.is_grad_enabled())
    return Unrolled(*_Unroll.apply(loop, pushed, looks, noise, *loop.parameters))


# Compilers of what is around it would repeat the loop for every row.
unroll: Callable[["Recurrence", Tensor, Tensor, Tensor | None], Unrolled] = torch.compiler.disable()(_unrolled)


class _Unroll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, loop: "_Loop", pushed: Tensor, looks: Tensor, noise: Tensor | None, *_: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.loop = loop  # pyright: ignore[reportAttributeAccessIssue]
        with torch.autocast(pushed.device.type, enabled=False):
            return loop.forward(pushed, looks, noise)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        loop: _Loop = ctx.loop  # pyright: ignore[reportAttributeAccessIssue]
        with torch.autocast(gradients[0].device.type, enabled=False):
            pushed, looks, weights = loop.backward(*gradients)
        return None, pushed, looks, None, *weights


class _Linear(NamedTuple):
    """A linear layer, or one of blocks."""

    weight: Tensor
    """(inputs, outputs), or (blocks, inputs, outputs)."""
    bias: Tensor | None

    def of(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return x @ self.weight
        return (torch.baddbmm if self.weight.ndim == 3 else torch.addmm)(self.bias, x, self.weight)

    def back(self, gradient: Tensor) -> Tensor:
        """Of the input, from that of the output."""
        return gradient @ self.weight.mT

    def learnt(self, inputs: Iterable[Tensor], gradients: Iterable[Tensor]) -> list[Tensor]:
        """Of weight (as the module has it) and bias, over all steps."""
        x, g, block = torch.cat([*inputs], -2), torch.cat([*gradients], -2), self.weight.ndim == 3
        weight = x.mT @ g if block else g.mT @ x
        return [weight] if self.bias is None else [weight, g.sum(-2, keepdim=block)]


class _Normed(NamedTuple):
    """What the way back through a norm needs."""

    x: Tensor
    mean: Tensor
    scale: Tensor
    y: Tensor


class _Norm(NamedTuple):
    """Layer normalisation and SiLU."""

    weight: Tensor
    bias: Tensor
    epsilon: float

    def of(self, x: Tensor) -> tuple[Tensor, _Normed]:
        # On a CPU its kernel takes inputs of half the precision of its weights; elsewhere autocast does it in fp32.
        # Inductor would round mean and scale to the precision of the inputs.
        narrow = x.device.type == "cpu" and not torch.compiler.is_compiling()
        wide = x if narrow else x.to(self.weight.dtype)
        y, mean, scale = torch.native_layer_norm(wide, self.weight.shape, self.weight, self.bias, self.epsilon)
        return functional.silu(y).to(x.dtype), _Normed(wide, mean, scale, y)

    def back(self, gradient: Tensor, past: _Normed) -> tuple[Tensor, Tensor]:
        """Of the input and of the normalised input, from that of the output."""
        of_y = _aten.silu_backward(gradient.to(past.y.dtype), past.y)
        of_x, _, _ = _aten.native_layer_norm_backward(of_y, *self._known(past), [True, False, False])
        return of_x.to(gradient.dtype), of_y

    def learnt(self, past: Iterable[_Normed], of_y: Iterable[Tensor]) -> list[Tensor]:
        """Of weight and bias, over all steps."""
        known = self._known(_Normed(*(torch.cat(column) for column in zip(*past, strict=True))))
        _, *learnt = _aten.native_layer_norm_backward(torch.cat([*of_y]), *known, [False, True, True])
        return learnt

    def _known(self, past: _Normed) -> tuple[object, ...]:
        return past.x, self.weight.shape, past.mean, past.scale, self.weight, self.bias


class _Layers(NamedTuple):
    """Of a `Recurrence`, in the precision that they are multiplied in."""

    from_deter: _Linear
    deter_norm: _Norm
    from_stoch: _Linear
    stoch_norm: _Norm
    mix: _Linear
    within: _Linear
    norm: _Norm
    gates: _Linear
    see_deter: _Linear
    see_norm: _Norm
    posterior: _Linear
    correction: _Linear | None


class _State(NamedTuple):
    """What a step hands to the next."""

    deter: Tensor
    low: Tensor
    """The same in the precision of the layers."""
    stoch: Tensor


class _Kept(NamedTuple):
    """What the way back through a step needs."""

    before: _State
    deter_norm: _Normed
    stoch_norm: _Normed
    parts: Tensor
    norm: _Normed
    x: Tensor
    reset: Tensor
    candidate: Tensor
    fresh: Tensor
    update: Tensor
    low: Tensor
    see_norm: _Normed
    seen: Tensor
    sharp: Tensor
    expected: Tensor
    correction: tuple[Tensor, Tensor] | None


class _Gradients(NamedTuple):
    """Of what each layer gave at a step; of what norms normalised."""

    from_deter: Tensor
    deter_norm: Tensor
    from_stoch: Tensor
    stoch_norm: Tensor
    mix: Tensor
    norm: Tensor
    gates: Tensor
    see_deter: Tensor
    see_norm: Tensor
    posterior: Tensor
    correction: Tensor | None


def step(
    layers: _Layers, size: "Size", state: _State, pushed: Tensor, look: Tensor, noise: Tensor | None
) -> tuple[_State, tuple[Tensor, Tensor], _Kept]:
    """`Recurrence.advance` and `Recurrence.see`: the next state, the expected one and the posterior, what to keep."""
    of_deter, deter_norm = layers.deter_norm.of(layers.from_deter.of(state.low))
    of_stoch, stoch_norm = layers.stoch_norm.of(layers.from_stoch.of(state.stoch))
    parts = torch.cat([of_deter, of_stoch, pushed], -1)
    within = _flat(layers.within.of(_blocks(state.low, size.blocks)))
    x, norm = layers.norm.of(layers.mix.of(parts) + within)
    reset, candidate, update = layers.gates.of(_blocks(x, size.blocks)).chunk(3, -1)
    reset, update = reset.sigmoid(), update.sigmoid().to(state.deter.dtype)
    fresh = torch.tanh(reset * candidate).to(state.deter.dtype)
    expected = _flat(torch.lerp(_blocks(state.deter, size.blocks), fresh, update))
    low = expected.to(state.low.dtype)
    seen, see_norm = layers.see_norm.of(layers.see_deter.of(low) + look)
    deter, after, correction = expected, low, None
    if layers.correction is not None:
        into, share = layers.correction.of(seen).to(expected.dtype).chunk(2, -1)
        correction = into.tanh(), share.sigmoid()
        deter = torch.lerp(expected, *correction)
        after = deter.to(low.dtype)
    sharp, posterior = mixed(layers.posterior.of(seen), size.stoch, size.classes)
    stoch = sample(posterior, noise).to(low.dtype)
    gates = reset, candidate, fresh, update
    kept = _Kept(
        state, deter_norm, stoch_norm, parts, norm, x, *gates, low, see_norm, seen, sharp, expected, correction
    )
    return _State(deter, after, stoch), (expected, posterior), kept


def retreat(
    layers: _Layers, size: "Size", kept: _Kept, of_next: tuple[Tensor, Tensor], wanted: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, Tensor], _Gradients]:
    """Back through `step`: gradients of the state and the latents before it, and of what its layers gave.

    `of_next` are those of state and latents after it, as far as later steps want them; `wanted` those of its row of
    `Unrolled`'s parts.
    """
    expected, deter, stoch, posterior = wanted
    low_type = kept.low.dtype
    of_deter = of_next[0] + deter
    # Latents are straight through: what is wanted of them is wanted of their probabilities.
    of_p = (of_next[1] + stoch).unflatten(-1, (size.stoch, size.classes)) + posterior
    of_logits = _aten._softmax_backward_data((1 - UNIMIX) * of_p, kept.sharp, -1, kept.sharp.dtype)  # noqa: SLF001
    of_logits = of_logits.flatten(-2).to(low_type)
    of_seen, of_correction = layers.posterior.back(of_logits), None
    if layers.correction is not None and kept.correction is not None:
        into, share = kept.correction
        parts = of_deter * share * (1 - into.square()), of_deter * (into - kept.expected) * share * (1 - share)
        of_correction = torch.cat(parts, -1).to(low_type)
        of_seen = of_seen + layers.correction.back(of_correction)
        of_deter = of_deter * (1 - share)
    of_look, see_norm = layers.see_norm.back(of_seen, kept.see_norm)
    of_new = _blocks(of_deter + expected + layers.see_deter.back(of_look), size.blocks)
    old, fresh, update = _blocks(kept.before.deter, size.blocks), kept.fresh, kept.update
    of_product = (of_new * update * (1 - fresh.square())).to(low_type)
    of_update = (of_new * (fresh - old) * update * (1 - update)).to(low_type)
    of_reset = _aten.sigmoid_backward(of_product * kept.candidate, kept.reset)
    of_gates = torch.cat([of_reset, of_product * kept.reset, of_update], -1)
    of_x, norm = layers.norm.back(_flat(layers.gates.back(of_gates)), kept.norm)
    from_deter, from_stoch, _ = layers.mix.back(of_x).chunk(3, -1)
    from_deter, deter_norm = layers.deter_norm.back(from_deter, kept.deter_norm)
    from_stoch, stoch_norm = layers.stoch_norm.back(from_stoch, kept.stoch_norm)
    of_low = _flat(layers.within.back(_blocks(of_x, size.blocks))) + layers.from_deter.back(from_deter)
    of_old = _flat(of_new * (1 - update)) + of_low
    gradients = _Gradients(
        from_deter,
        deter_norm,
        from_stoch,
        stoch_norm,
        of_x,
        norm,
        of_gates,
        of_look,
        see_norm,
        of_logits,
        of_correction,
    )
    return (of_old, layers.from_stoch.back(from_stoch).to(of_old.dtype)), gradients


class _Loop:
    """One pass over windows: what `Recurrence` does at every step, there and back."""

    def __init__(self, core: "Recurrence", *, keep: bool) -> None:
        self.dtype = precision(core.mix.weight)
        self.size, self.keep = core.size, keep
        names = ("from_deter", "from_stoch")
        (from_deter, deter_norm), (from_stoch, stoch_norm) = (getattr(core, name)[:2] for name in names)
        before = [from_deter, deter_norm, from_stoch, stoch_norm]
        after = [core.mix, core.within, core.norm, core.gates, core.see_deter, core.see_norm, core.posterior_net]
        self._modules: list[nn.Module | None] = [*before, *after, core.correction]
        self.parameters = [
            p for module in self._modules if module is not None for p in module.parameters(recurse=False)
        ]
        self.layers = _Layers(*map(self._layer, self._modules))  # pyright: ignore[reportArgumentType]
        self.past: list[_Kept] = []
        self._step, self._retreat = core.step, core.retreat

    def _layer(self, module: nn.Module | None) -> _Linear | _Norm | None:
        """Cast once, where autocast would do it at every step. Blocks are (inputs, outputs) already."""
        if module is None:
            return None
        weight, bias = module.weight, module.bias
        assert isinstance(weight, Tensor)
        if isinstance(module, nn.LayerNorm):
            assert isinstance(bias, Tensor)
            return _Norm(weight.detach(), bias.detach(), module.eps)
        cast = weight.detach().to(self.dtype)
        bias = bias.detach().to(self.dtype) if isinstance(bias, Tensor) else None
        return _Linear(cast if cast.ndim == 3 else cast.T, bias)

    def forward(self, pushed: Tensor, looks: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`Unrolled`'s parts."""
        n, rows = pushed.shape[:2]
        wide, size = self.layers.norm.weight.dtype, self.size
        pushed, looks = pushed.to(self.dtype), looks.to(self.dtype)
        deter = pushed.new_zeros(n, size.deter, dtype=wide)
        state = _State(deter, deter.to(self.dtype), pushed.new_zeros(n, size.stoch * size.classes))
        steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for i in range(rows):
            drawn = None if noise is None else noise[:, i]
            state, (expected, posterior), kept = self._step(self.layers, size, state, pushed[:, i], looks[:, i], drawn)
            steps.append((expected, state.deter, state.stoch, posterior))
            if self.keep:
                self.past.append(kept)
        expected, deter, stoch, posterior = (torch.stack(column, 1) for column in zip(*steps, strict=True))
        return expected, deter, stoch.to(wide), posterior

    def backward(
        self, expected: Tensor, deter: Tensor, stoch: Tensor, posterior: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Gradients of what was done, of what was seen and of the parameters, from those of `Unrolled`'s parts."""
        of_next = torch.zeros_like(deter[:, 0]), torch.zeros_like(stoch[:, 0])
        found: list[_Gradients] = []
        for i in reversed(range(len(self.past))):
            wanted = expected[:, i], deter[:, i], stoch[:, i], posterior[:, i]
            of_next, gradients = self._retreat(self.layers, self.size, self.past[i], of_next, wanted)
            found.append(gradients)
        found.reverse()
        of_parts = torch.stack([g.mix for g in found], 1) @ self.layers.mix.weight.mT
        pushed = of_parts.chunk(3, -1)[2]
        learnt = [g.to(p.dtype) for g, p in zip(self._learnt(found), self.parameters, strict=True)]
        return pushed, torch.stack([g.see_deter for g in found], 1), learnt

    def _learnt(self, found: Sequence[_Gradients]) -> list[Tensor]:
        """Gradients of the parameters, over all steps."""
        layers, past, g = self.layers, self.past, _Gradients(*zip(*found, strict=True))  # pyright: ignore[reportArgumentType]
        size = self.size.blocks
        learnt = layers.from_deter.learnt((k.before.low for k in past), g.from_deter)
        learnt += layers.deter_norm.learnt((k.deter_norm for k in past), g.deter_norm)
        learnt += layers.from_stoch.learnt((k.before.stoch for k in past), g.from_stoch)
        learnt += layers.stoch_norm.learnt((k.stoch_norm for k in past), g.stoch_norm)
        learnt += layers.mix.learnt((k.parts for k in past), g.mix)
        learnt += layers.within.learnt((_blocks(k.before.low, size) for k in past), (_blocks(x, size) for x in g.mix))
        learnt += layers.norm.learnt((k.norm for k in past), g.norm)
        learnt += layers.gates.learnt((_blocks(k.x, size) for k in past), g.gates)
        learnt += layers.see_deter.learnt((k.low for k in past), g.see_deter)
        learnt += layers.see_norm.learnt((k.see_norm for k in past), g.see_norm)
        learnt += layers.posterior.learnt((k.seen for k in past), g.posterior)
        if layers.correction is not None and g.correction is not None:
            learnt += layers.correction.learnt((k.seen for k in past), g.correction)
        return learnt


def _blocks(x: Float[Tensor, "b h"], blocks: int) -> Float[Tensor, "g b o"]:
    return x.unflatten(-1, (blocks, -1)).transpose(0, 1)


def _flat(x: Float[Tensor, "g b o"]) -> Float[Tensor, "b h"]:
    return x.transpose(0, 1).flatten(1)
