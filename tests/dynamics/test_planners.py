"""With a perfect model a planner does the best there is, whatever it guessed first and whoever plans beside it."""

from dataclasses import replace

import pytest
import torch
from conftest import COUNT_SPEC, CountEnv, Ones, PerfectModel

from worldlab.dynamics import CEM, MPPI, Planner, mean_reward
from worldlab.dynamics.planners import MAX_STEP
from worldlab.errors import UsageError
from worldlab.protocols import Policy
from worldlab.rollout import rollout
from worldlab.trajectory import Observation, Trajectory

SEARCHES = {
    "cem": CEM(horizon=4, candidates=256, iterations=25, elites=24, std_tolerance=0.03, noise_correlation=0.0),
    "mppi": MPPI(horizon=4, candidates=512, iterations=25, temperature=0.1, std_tolerance=0.03, noise_correlation=0.0),
}


@pytest.fixture(params=SEARCHES)
def search(request):
    return SEARCHES[request.param]


def starts(*counts: float) -> Trajectory:
    """One row of each episode, at these counts."""
    state = torch.tensor(counts)[:, None, None]
    nothing = torch.zeros(len(counts), 1)
    obs = Observation({}, state, ("count",) * len(counts))
    return Trajectory(obs, nothing[..., None], nothing, nothing.bool(), nothing.bool(), ~nothing.bool())


def near(target: float):
    """Wants the count to be as near the target as can be."""
    return lambda dream: -(dream.obs.state[..., 0] - target).square().mean(1)


def test_it_is_a_policy_that_does_the_best_there_is(search):
    planner = Planner(PerfectModel(), search)
    assert isinstance(planner, Policy)
    real, best = rollout(planner, CountEnv(), seed=0), rollout(Ones(), CountEnv(), seed=0)
    assert real.succeeded.all()
    fastest = best.length - 1
    reached = real.obs.state[torch.arange(4), fastest, 0]
    torch.testing.assert_close(reached, torch.full((4,), 5.0), rtol=0, atol=0.1)


def test_the_optimum_is_that_of_each_state(search):
    counts = torch.tensor([0.0, 1.0, 1.2, 2.0, 4.0])
    plan = Planner(PerfectModel(), search, near(1.5)).plan(starts(*counts.tolist()), range(5))
    torch.testing.assert_close(plan.action[:, 0, 0], (1.5 - counts).clamp(-1, 1), rtol=0, atol=0.05)


def test_a_guess_does_not_change_the_optimum(search):
    planner, context = Planner(PerfectModel(), search, near(1.5)), starts(0.0, 2.0)
    cold, warm = (planner.plan(context, [0, 1], guess=g) for g in (None, torch.full((2, 4, 1), -1.0)))
    torch.testing.assert_close(warm.action, cold.action, rtol=0, atol=0.1)
    torch.testing.assert_close(warm.score, cold.score, rtol=0, atol=0.02)


def test_stopping_early_saves_rounds_and_not_quality(search):
    context = starts(0.0, 1.0, 4.5)
    early = Planner(PerfectModel(), search, near(1.5)).plan(context, range(3))
    late = Planner(PerfectModel(), replace(search, std_tolerance=0.0), near(1.5)).plan(context, range(3))
    assert late.iterations == (search.iterations,) * 3
    assert max(early.iterations) < search.iterations
    torch.testing.assert_close(early.action[:, 0], late.action[:, 0], rtol=0, atol=0.05)
    torch.testing.assert_close(early.score, late.score, rtol=0, atol=0.05)


def test_a_plan_does_not_depend_on_its_company(search):
    planner = Planner(PerfectModel(), search, near(1.5))
    together = planner.plan(starts(0.0, 1.0, 4.0), [7, 8, 9])
    for i, count in enumerate((0.0, 1.0, 4.0)):
        alone = planner.plan(starts(count), [7 + i])
        assert torch.equal(alone.action[0], together.action[i])
        assert alone.iterations[0] == together.iterations[i]


def test_the_noise_is_that_of_the_seed_and_the_step(search):
    planner, context = Planner(PerfectModel(), replace(search, iterations=1)), starts(0.0)
    first = planner.plan(context, [3], step=2).action
    assert torch.equal(planner.plan(context, [3], step=2).action, first)
    assert not torch.equal(planner.plan(context, [3], step=3).action, first)
    assert not torch.equal(planner.plan(context, [4], step=2).action, first)


class Servo(PerfectModel):
    """A joint that goes to its target."""

    spec = replace(COUNT_SPEC, control="joint_position", state=("joint",), action=("joint",))

    def imagine(self, belief, action, generator=None):
        moves = torch.diff(action, dim=1, prepend=belief[:, None])
        return super().imagine(belief, moves, generator)


def test_joint_targets_go_no_farther_than_servos_should(search):
    plan = Planner(Servo(), search, near(0.2)).plan(starts(0.0, 0.15, -0.9), range(3))
    targets = torch.cat([torch.tensor([0.0, 0.15, -0.9])[:, None], plan.action[..., 0]], 1)
    assert (targets.diff(dim=1).abs() <= MAX_STEP + 1e-5).all()
    torch.testing.assert_close(plan.action[:2, 2, 0], torch.tensor([0.2, 0.2]), rtol=0, atol=0.02)
    torch.testing.assert_close(plan.action[2, :, 0].diff(), torch.full((3,), MAX_STEP), rtol=0, atol=0.02)


def test_success_is_not_put_off():
    def dream(reward, success_at, terminated_at):
        t = starts(0.0).map(lambda x: x.expand(1, 4, *x.shape[2:]).clone())
        ended, success = torch.zeros(1, 4, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.bool)
        ended[:, terminated_at:], success[:, success_at:] = True, True
        return replace(t, reward=torch.tensor([reward]), terminated=ended, success=success)

    assert mean_reward(dream([0.5, 1.0, 0.0, 9.0], 1, 1)).item() == pytest.approx(3.5 / 4)  # goes on earning 1
    assert mean_reward(dream([0.5, 1.0, 7.0, 9.0], 4, 1)).item() == pytest.approx(1.5 / 4)  # failed for good
    assert mean_reward(dream([0.5, 1.0, 0.0, 0.5], 4, 4)).item() == pytest.approx(2.0 / 4)  # never ended


@pytest.mark.parametrize(
    "wrong", [{"horizon": 0}, {"candidates": 8}, {"noise_correlation": 1.0}, {"context": 0}], ids=str
)
def test_what_cannot_be_searched_is_refused(wrong):
    with pytest.raises(UsageError, match="got"):
        CEM(**wrong)


def test_who_looks_back_on_one_row_only_can_plan():
    planner = Planner(PerfectModel(), CEM(horizon=4, context=1))
    assert rollout(planner, CountEnv(), seed=0).succeeded.all()


def test_what_cannot_be_imagined_is_not_wanted(search):
    def mostly(dream):
        score = -(dream.obs.state[..., 0] - 1.5).square().mean(1)
        return torch.where(dream.action[:, 0, 0] < -0.5, torch.nan, score)

    plan = Planner(PerfectModel(), search, mostly).plan(starts(0.0), [0])
    assert plan.score.isfinite()
    torch.testing.assert_close(plan.action[0, 0, 0], torch.tensor(1.0), rtol=0, atol=0.05)


@pytest.mark.parametrize("wrong", [torch.inf, -torch.inf, torch.nan])
def test_what_cannot_be_scored_does_not_spoil_the_plan(search, wrong):
    def some(dream):
        scored = near(1.5)(dream)
        return torch.where(dream.action[:, 0, 0] > 0.9, wrong, scored)

    for objective in (some, lambda dream: torch.full((len(dream.action),), wrong)):
        plan = Planner(PerfectModel(), search, objective).plan(starts(0.0, 2.0), [0, 1])
        assert plan.action.isfinite().all()


def test_a_temperature_is_above_zero():
    with pytest.raises(UsageError, match="temperature"):
        MPPI(temperature=0.0)
