"""The recurrence over all rows of windows at once, with a backward pass written by hand.

Step by step (`Recurrence.advance`, `Recurrence.see`), autograd makes a node of every operation and a gradient of every
weight at every step; with the small batches of a recurrent model that is most of the cost on a CPU. Here the way back
through time carries the gradients of states only; that of a weight is one matrix product over all steps, after it.
tests/dynamics/test_unroll.py holds values and gradients against the modules'.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from worldlab.dynamics.heads import precision
from worldlab.dynamics.latents import UNIMIX, mixed, sample

if TYPE_CHECKING:
    from worldlab.dynamics.recurrence import Recurrence

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


def unroll(
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


class _Linear:
    """A linear layer, or one of blocks, that remembers what went through."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, *, keep: bool) -> None:
        self.parameters = (weight,) if bias is None else (weight, bias)
        self.keep, self.block = keep, weight.ndim == 3
        # Once, where autocast would do it at every step. Blocks are (inputs, outputs) already.
        self.weight = weight.detach().to(dtype)
        self.weight = self.weight if self.block else self.weight.T
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.inputs: list[Tensor] = []
        self.gradients: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        if self.keep:
            self.inputs.append(x)
        if self.bias is None:
            return x @ self.weight
        return (torch.baddbmm if self.block else torch.addmm)(self.bias, x, self.weight)

    def back(self, gradient: Tensor) -> Tensor:
        """Of the input, from that of the output."""
        self.gradients.append(gradient)
        return gradient @ self.weight.mT

    def learnt(self) -> Sequence[Tensor]:
        """Of the parameters, over all steps."""
        x, g = torch.cat(self.inputs, -2), torch.cat(self.gradients[::-1], -2)
        weight = x.mT @ g if self.block else g.mT @ x
        found = (weight,) if self.bias is None else (weight, g.sum(-2, keepdim=self.block))
        return [x.to(p.dtype) for x, p in zip(found, self.parameters, strict=True)]


class _Norm:
    """Layer normalisation and SiLU."""

    def __init__(self, norm: nn.LayerNorm, *, keep: bool) -> None:
        self.parameters, self.keep, self.epsilon = (norm.weight, norm.bias), keep, norm.eps
        self.weight, self.bias, self.shape = norm.weight.detach(), norm.bias.detach(), norm.normalized_shape
        self.past: list[tuple[Tensor, ...]] = []
        self.gradients: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        # On a CPU its kernel takes inputs of half the precision of its weights; elsewhere autocast does it in fp32.
        wide = x if x.device.type == "cpu" else x.to(self.weight.dtype)
        y, mean, scale = torch.native_layer_norm(wide, self.shape, self.weight, self.bias, self.epsilon)
        if self.keep:
            self.past.append((wide, mean, scale, y))
        return functional.silu(y).to(x.dtype)

    def back(self, gradient: Tensor) -> Tensor:
        """Of the input, from that of the output."""
        x, mean, scale, y = self.past[-1 - len(self.gradients)]
        of_y = _aten.silu_backward(gradient.to(y.dtype), y)
        self.gradients.append(of_y)
        wanted = [True, False, False]
        found = _aten.native_layer_norm_backward(of_y, x, self.shape, mean, scale, self.weight, self.bias, wanted)
        return found[0].to(gradient.dtype)

    def learnt(self) -> Sequence[Tensor]:
        """Of the parameters, over all steps."""
        x, mean, scale, _ = (torch.cat(column) for column in zip(*self.past, strict=True))
        gradient, wanted = torch.cat(self.gradients[::-1]), [False, True, True]
        found = _aten.native_layer_norm_backward(gradient, x, self.shape, mean, scale, self.weight, self.bias, wanted)
        return [g.to(p.dtype) for g, p in zip(found[1:], self.parameters, strict=True)]


class _Loop:
    """One pass over windows: what `Recurrence` does at every step, there and back."""

    def __init__(self, core: "Recurrence", *, keep: bool) -> None:
        self.dtype = precision(core.mix.weight)
        self.size, self.keep, self.latents = core.size, keep, (core.size.stoch, core.size.classes)

        def linear(layer: nn.Module) -> _Linear:
            assert isinstance(layer.weight, Tensor)
            assert layer.bias is None or isinstance(layer.bias, Tensor)
            return _Linear(layer.weight, layer.bias, self.dtype, keep=keep)

        def norm(layer: nn.Module) -> _Norm:
            assert isinstance(layer, nn.LayerNorm)
            return _Norm(layer, keep=keep)

        self.from_deter, self.deter_norm = linear(core.from_deter[0]), norm(core.from_deter[1])
        self.from_stoch, self.stoch_norm = linear(core.from_stoch[0]), norm(core.from_stoch[1])
        self.mix, self.within = linear(core.mix), linear(core.within)
        self.norm, self.gates = norm(core.norm), linear(core.gates)
        self.see_deter, self.see_norm = linear(core.see_deter), norm(core.see_norm)
        self.posterior = linear(core.posterior_net)
        self.correction = None if core.correction is None else linear(core.correction)
        self.past: list[tuple[Tensor, ...]] = []

    @property
    def layers(self) -> list[_Linear | _Norm]:
        """All that learns."""
        before = [self.from_deter, self.deter_norm, self.from_stoch, self.stoch_norm]
        within = [self.mix, self.within, self.norm, self.gates]
        after = [self.see_deter, self.see_norm, self.posterior]
        return [*before, *within, *after, *(() if self.correction is None else (self.correction,))]

    @property
    def parameters(self) -> list[Tensor]:
        """Of all layers."""
        return [p for layer in self.layers for p in layer.parameters]

    def forward(self, pushed: Tensor, looks: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`Unrolled`'s parts."""
        n, rows = pushed.shape[:2]
        wide = self.norm.weight.dtype
        pushed, looks = pushed.to(self.dtype), looks.to(self.dtype)
        deter = pushed.new_zeros(n, self.size.deter, dtype=wide)
        low, stoch = deter.to(self.dtype), pushed.new_zeros(n, self.latents[0] * self.latents[1])
        steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for i in range(rows):
            expected, gates = self._advance(deter, low, stoch, pushed[:, i])
            low = expected.to(self.dtype)
            seen = self.see_norm(self.see_deter(low) + looks[:, i])
            deter, corrected = self._correct(expected, seen)
            if self.correction is not None:
                low = deter.to(self.dtype)
            sharp, posterior = mixed(self.posterior(seen), *self.latents)
            stoch = sample(posterior, None if noise is None else noise[:, i]).to(self.dtype)
            steps.append((expected, deter, stoch, posterior))
            if self.keep:
                self.past.append((*gates, *corrected, sharp))
        expected, deter, stoch, posterior = (torch.stack(column, 1) for column in zip(*steps, strict=True))
        return expected, deter, stoch.to(wide), posterior

    def _advance(self, deter: Tensor, low: Tensor, stoch: Tensor, pushed: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """`Recurrence.advance`, and what its way back needs; `low` is the state in the precision of the layers."""
        parts = [self.deter_norm(self.from_deter(low)), self.stoch_norm(self.from_stoch(stoch)), pushed]
        x = self.norm(self.mix(torch.cat(parts, -1)) + _flat(self.within(self._blocks(low))))
        reset, candidate, update = self.gates(self._blocks(x)).chunk(3, -1)
        reset, update = reset.sigmoid(), update.sigmoid().to(deter.dtype)
        fresh = torch.tanh(reset * candidate).to(deter.dtype)
        old = self._blocks(deter)
        return _flat(torch.lerp(old, fresh, update)), (reset, candidate, fresh, update, old)

    def _correct(self, deter: Tensor, seen: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The other half of `Recurrence.see`."""
        if self.correction is None:
            return deter, ()
        candidate, update = self.correction(seen).to(deter.dtype).chunk(2, -1)
        candidate, update = candidate.tanh(), update.sigmoid()
        return torch.lerp(deter, candidate, update), (candidate, update, deter)

    def backward(
        self, expected: Tensor, deter: Tensor, stoch: Tensor, posterior: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Gradients of what was done, of what was seen and of the parameters, from those of `Unrolled`'s parts."""
        for layer in self.layers:
            layer.gradients.clear()  # a retained graph may be gone through again
        of_deter, of_stoch = torch.zeros_like(deter[:, 0]), torch.zeros_like(stoch[:, 0])
        pushed, looks = list[Tensor](), list[Tensor]()
        for i in reversed(range(len(self.past))):
            *gates, sharp = self.past[i]
            of_deter = of_deter + deter[:, i]
            # Latents are straight through: what is wanted of them is wanted of their probabilities.
            wanted = (of_stoch + stoch[:, i]).unflatten(-1, self.latents) + posterior[:, i]
            of_logits = _aten._softmax_backward_data((1 - UNIMIX) * wanted, sharp, -1, sharp.dtype)  # noqa: SLF001
            of_seen = self.posterior.back(of_logits.flatten(-2).to(self.dtype))
            if self.correction is not None:
                candidate, update, before = gates[5:]
                into = [
                    of_deter * update * (1 - candidate.square()),
                    of_deter * (candidate - before) * update * (1 - update),
                ]
                of_seen = of_seen + self.correction.back(torch.cat(into, -1).to(self.dtype))
                of_deter = of_deter * (1 - update)
            looks.append(self.see_norm.back(of_seen))
            of_deter = of_deter + expected[:, i] + self.see_deter.back(looks[-1])
            of_deter, of_stoch, of_pushed = self._retreat(of_deter, gates)
            pushed.append(of_pushed)
        learnt = [g for layer in self.layers for g in layer.learnt()]
        return torch.stack(pushed[::-1], 1), torch.stack(looks[::-1], 1), learnt

    def _retreat(self, of_new: Tensor, gates: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Through `_advance` backwards: gradients of the state, the latents and what was done before."""
        reset, candidate, fresh, update, old = gates[:5]
        of_new = self._blocks(of_new)
        of_product = (of_new * update * (1 - fresh.square())).to(self.dtype)
        of_update = (of_new * (fresh - old) * update * (1 - update)).to(self.dtype)
        of_reset = _aten.sigmoid_backward(of_product * candidate, reset)
        of_x = self.norm.back(_flat(self.gates.back(torch.cat([of_reset, of_product * reset, of_update], -1))))
        of_low = _flat(self.within.back(self._blocks(of_x)))
        of_deter, of_stoch, of_pushed = self.mix.back(of_x).chunk(3, -1)
        of_low = of_low + self.from_deter.back(self.deter_norm.back(of_deter))
        of_old = _flat(of_new * (1 - update)) + of_low
        return of_old, self.from_stoch.back(self.stoch_norm.back(of_stoch)).to(of_old.dtype), of_pushed

    def _blocks(self, x: Float[Tensor, "b h"]) -> Float[Tensor, "g b o"]:
        return x.unflatten(-1, (self.size.blocks, -1)).transpose(0, 1)


def _flat(x: Float[Tensor, "g b o"]) -> Float[Tensor, "b h"]:
    return x.transpose(0, 1).flatten(1)
