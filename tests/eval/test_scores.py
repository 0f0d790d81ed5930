"""The measures against their definitions and against SciPy's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from worldlab.eval import pictures
from worldlab.eval.positions import Positions, headings, informative, turned
from worldlab.eval.probe import _fit
from worldlab.eval.ranking import rank_correlation, ranks, regret
from worldlab.eval.scores import average
from worldlab.trajectory import Observation, Spec, Trajectory

G = torch.Generator().manual_seed(0)


def frames(*shape):
    return torch.randint(0, 256, (*shape, 16, 16, 3), generator=G, dtype=torch.uint8)


def test_ranks_and_their_correlation_are_scipys():
    said, true = torch.randint(0, 5, (20, 8, 1), generator=G).float(), torch.randn(20, 8, 1, generator=G)
    for row in said[..., 0]:
        np.testing.assert_allclose(ranks(row), stats.rankdata(row) - 1)
    expected = np.mean([stats.spearmanr(a, b).statistic for a, b in zip(said[..., 0], true[..., 0], strict=True)])
    np.testing.assert_allclose(rank_correlation(said, true).measure().value[1], expected, atol=1e-4)


@pytest.mark.parametrize("k", range(2, 9))
def test_perfect_ranks_claim_no_certainty(k):
    true = torch.arange(float(k)).expand(4, k)[..., None]
    measure = rank_correlation(true, true).measure()
    assert measure.value[1] == 1
    assert np.isnan(measure.interval[1]).all()


def test_regret_is_what_the_choice_costs():
    true = torch.tensor([[1.0, 3.0, 2.0], [0.0, 4.0, 0.0], [5.0, 5.0, 5.0]])[..., None]
    right, wrong, blind = true, -true, torch.zeros_like(true)
    assert regret(right, true).measure().value == {1: 0.0}
    assert regret(wrong, true).measure().value == {1: (2 + 4) / 2}
    assert regret(blind, true).measure().value == {1: round((1 + 8 / 3) / 2, 4)}
    assert regret(blind, true).measure().n == {1: 2}  # where all branches are equal there is nothing to choose


def test_displaced_are_the_objects_that_have_themselves_moved():
    start = torch.zeros(1, 1, 1, 3, 3, dtype=torch.float64)
    truth = start.repeat(1, 3, 2, 1, 1)
    truth[0, 0, :, 1, 0] = 0.05  # the recorded actions move one object,
    truth[0, 1, 0, 2, 0] = 0.02  # an alternative another, which comes back,
    truth[..., 0, :] = 1.0  # and the gripper moves everywhere
    p = Positions(truth, start, torch.ones(1, 3, 2, 3, dtype=torch.bool), torch.tensor([False, True, True]))
    assert p.displaced[0].tolist() == [[[False, False, True]] * 2, [[False] * 3] * 2]
    assert p.moved[0].tolist() == [[[False, True, True]] * 2] * 2
    said = p.distance(start.expand_as(truth), p.displaced).measure()
    assert said.value == {1: 2.0, 2: 0.0}  # centimetres
    assert said.n == {1: 1, 2: 1}


def test_what_is_not_there_has_no_mean_place():
    names = ("gripper.x", "red_cube.x", "red_cube.target", "red_cube.present")
    spec = Spec({}, ("s",), ("a",), names, "raw", (-1.0,), (1.0,), 10)
    told = torch.tensor([[[0.1, 0.2, 1.0, 1.0]], [[0.3, 0.0, 0.0, 0.0]], [[0.2, 0.4, 0.0, 1.0]]])
    assert informative(told, spec)[:, 0].tolist() == [[True] * 4, [True, False, True, True], [True] * 4]
    no = torch.zeros(1, dtype=torch.bool)
    rows = [Trajectory(Observation({}, torch.zeros(1, 1), ("",)), torch.zeros(1, 1), no.float(), no, no, ~no)]
    episodes = Episodes(replace(rows[0], privileged=row) for row in told)
    episodes.spec = spec
    torch.testing.assert_close(
        average(episodes, range(3), 0).privileged.float(), torch.tensor([[0.2, 0.3, 1 / 3, 2 / 3]])
    )
    # A probe that reads places off x is right about where bodies are, whatever it was shown where they are not.
    x = torch.randn(200, 3, generator=G).double()
    y = torch.stack([x[:, 0], x[:, 1] + 5, x[:, 2], (x[:, 2] > 0).double()], 1)
    said = informative(y, spec)
    probe = _fit(x, torch.where(said, y, 0), said, names)
    torch.testing.assert_close(probe(x)[:, 1].double(), y[:, 1], atol=0.05, rtol=0)


class Episodes(list):
    """A store of them."""


def test_similarity_is_the_published_formula():
    a, b = frames(), frames()
    x, y = a.numpy().astype(float), b.numpy().astype(float)

    def mean(f):
        return ndimage.uniform_filter(f, (7, 7, 1))

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 6.5025, 58.5225
    expected = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[3:-3, 3:-3] = True  # beyond, SciPy mirrors the frame
    np.testing.assert_allclose(pictures.similarity(a, b, inside), expected[3:-3, 3:-3].mean(-1).sum(), rtol=1e-4)
    np.testing.assert_allclose(pictures.similarity(a, a, inside), 100, rtol=1e-5)


def test_only_what_moves_counts():
    first = frames()
    branch = first.expand(2, 3, -1, -1, -1).clone()
    branch[1, 2, 4, 5, 0] = (first[4, 5, 0].int() + 128) % 256
    mask = pictures.moving(branch, first)
    assert mask.nonzero().tolist() == [[4, 5]]
    off = 128 / 255
    np.testing.assert_allclose(pictures.squared_error(first, branch[1, 2], mask), off**2 / 3, rtol=1e-5)
    assert pictures.squared_error(frames(), branch[1, 2], ~mask & mask) == 0


def test_a_quarter_turn_of_a_cube_is_no_turn():
    spec = Spec({}, (), (), ("c.x", "c.y", "c.z", "c.qw", "c.qx", "c.qy", "c.qz"), "raw", (), (), 10)

    def lying(angle):
        half = torch.tensor(angle) / 2
        pose = torch.tensor([0, 0, 0, half.cos(), 0, 0, half.sin()])
        return headings(pose.expand(1, 2, 1, 7), spec, ("c",))

    everything = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    for said, true, apart in (
        (0.3, 0.1, 0.2),
        (0.1 + np.pi / 2, 0.1, 0.0),
        (-0.7, 0.8, np.pi / 2 - 1.5),
        (3.0, -3.0, 0.2832),
    ):
        value = turned(lying(said), lying(true), everything).measure().value[1]
        np.testing.assert_allclose(value, apart, atol=1e-3)
