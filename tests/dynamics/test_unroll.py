"""The hand-written way back through the recurrence is autograd's."""

import pytest
import torch

from worldlab.dynamics.latents import sample
from worldlab.dynamics.recurrence import Recurrence, Size
from worldlab.dynamics.unroll import Unrolled, unroll

SIZE = Size(deter=16, hidden=6, stoch=3, classes=4, units=8, channels=4, blocks=4)
N, ROWS = 5, 4


def by_modules(core, pushed, looks, noise):
    """The same, step by step."""
    deter, stoch, steps = pushed.new_zeros(N, 16), pushed.new_zeros(N, 12), []
    for i in range(ROWS):
        expected = core.advance(deter, stoch, pushed[:, i])
        deter, posterior = core.see(expected, looks[:, i])
        stoch = sample(posterior, None if noise is None else noise[:, i])
        steps.append((expected, deter, stoch, posterior))
    return Unrolled(*(torch.stack(column, 1) for column in zip(*steps, strict=True)))


def parts(of):
    return of.expected, of.deter, of.stoch, of.posterior


@pytest.fixture(params=[False, True], ids=["", "correct"])
def core(request):
    torch.manual_seed(0)
    core = Recurrence(3, 7, SIZE, correct=request.param).double()
    for parameter in core.parameters():  # norms too, and biases that begin at zero
        parameter.data += 0.3 * torch.randn_like(parameter)
    return core


@pytest.fixture
def windows():
    torch.manual_seed(1)
    return (torch.randn(N, ROWS, 6, dtype=torch.float64).requires_grad_() for _ in range(2))


@pytest.mark.parametrize("drawn", [True, False])
def test_values_and_gradients_are_those_of_the_modules(core, windows, drawn):
    pushed, looks = windows
    noise = torch.rand(N, ROWS, 3) if drawn else None
    # Every output is asked for something else, so that none of their gradients can be forgotten.
    wanted = [torch.randn(shape).double() for shape in ((N, ROWS, 16), (N, ROWS, 16), (N, ROWS, 12), (N, ROWS, 3, 4))]
    learning = {name: p for name, p in core.named_parameters() if not name.startswith(("prior", "see_look", "from_in"))}
    sources = [pushed, looks, *learning.values()]
    found = []
    for way in (unroll, by_modules):
        outputs = parts(way(core, pushed, looks, noise))
        total = sum((output * weight).sum() for output, weight in zip(outputs, wanted, strict=True))
        once = torch.autograd.grad(total, sources, retain_graph=True)
        found.append((outputs, torch.autograd.grad(total, sources)))
        for a, b in zip(once, found[-1][1], strict=True):
            assert torch.equal(a, b)
    (ours, our_gradients), (theirs, their_gradients) = found
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    for name, a, b in zip(["pushed", "looks", *learning], our_gradients, their_gradients, strict=True):
        assert b.abs().max() > 1e-6, name
        torch.testing.assert_close(a, b, msg=lambda said, name=name: f"{name}: {said}")


def test_in_half_precision_it_errs_no_more_than_the_modules(core, windows):
    core.float()
    pushed, looks = (x.detach().float().requires_grad_() for x in windows)
    noise = torch.rand(N, ROWS, 3)

    def gradients(way, half):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = parts(way(core, pushed, looks, noise))
            total = outputs[1].square().sum() + outputs[3].square().sum()
        assert all(x.dtype == torch.float32 for x in outputs)
        return torch.cat([g.flatten() for g in torch.autograd.grad(total, [pushed, looks, core.mix.weight])])

    exact = gradients(by_modules, half=False)
    torch.testing.assert_close(gradients(unroll, half=False), exact)
    off = {way: (gradients(way, half=True) - exact).norm() / exact.norm() for way in (unroll, by_modules)}
    assert off[unroll] < 1.5 * off[by_modules] + 0.01


def test_without_gradients_nothing_is_kept(core, windows):
    pushed, looks = windows
    with torch.no_grad():
        outputs = parts(unroll(core, pushed, looks, None))
    assert not any(x.requires_grad for x in outputs)
    for a, b in zip(outputs, parts(by_modules(core, pushed, looks, None)), strict=True):
        torch.testing.assert_close(a, b.detach())
