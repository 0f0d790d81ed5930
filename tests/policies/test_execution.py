"""Laws of executing chunks, with a planner that says (number of the plan, step of the plan)."""

import pytest
import torch
from policies.synthetic import HEADS, STATE_ONLY, make_batch, make_policy, make_spec

from worldlab.errors import UsageError
from worldlab.policies import ChunkPolicy, Execution, ExecutionConfig
from worldlab.trajectory import Observation

K = 6


class Counting:
    """Plan p says at its step j: time at which the step happens, and p."""

    def __init__(self, n_action_steps=3, supports_rtc=True):
        self.spec, self.n_action_steps, self.supports_rtc, self.told = make_spec(), n_action_steps, supports_rtc, []

    def reset(self, seeds):
        self.told = []

    def plan(self, obs, committed=None):
        self.told.append(committed)
        now = obs.state[:, :1, None]
        step = torch.arange(K)[:, None]
        chunk = torch.cat([now + step, torch.full((len(obs.state), K, 1), len(self.told) - 1.0)], -1)
        return chunk if committed is None else torch.cat([committed, chunk[:, committed.shape[1] :]], 1)

    def act(self, obs):
        return self.plan(obs)[:, : self.n_action_steps]


def drive(execution, steps=12):
    """The actions at every step, asked for as `rollout` does."""
    execution.reset([0, 1])
    done = torch.zeros(2, 0, 2)
    while done.shape[1] < steps:
        done = torch.cat([done, execution.act(Observation({}, torch.full((2, 6), float(done.shape[1])), ("",) * 2))], 1)
    return done[0, :steps]


def test_by_default_the_policy_has_its_own_way():
    assert torch.equal(drive(Execution(Counting(), ExecutionConfig()))[:, 1], torch.arange(12) // 3)


@pytest.mark.parametrize("execute", [1, 2, 6])
def test_it_looks_again_after_so_many_actions(execute):
    actions = drive(Execution(Counting(), ExecutionConfig(execute=execute)))
    assert torch.equal(actions[:, 1], torch.arange(12) // execute)
    assert torch.equal(actions[:, 0], torch.arange(12.0))  # every action is the one for its moment


def test_a_late_plan_takes_over_where_it_has_got_to():
    """Observed at 3, computed for 2 steps: steps 3 and 4 are the old plan's, step 5 is the new one's."""
    for rtc in (True, False):
        actions = drive(Execution(Counting(), ExecutionConfig(execute=3, delay=2, rtc=rtc)))
        assert actions[:, 1].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
        assert torch.equal(actions[:, 0], torch.arange(12.0))


def test_only_a_continuing_policy_is_told_what_happens_meanwhile():
    planner = Counting()
    drive(Execution(planner, ExecutionConfig(execute=3, delay=2)))
    assert planner.told[0] is None
    assert planner.told[1][0, :, 0].tolist() == [3, 4]
    for deaf, asked in ((planner, False), (Counting(supports_rtc=False), True)):
        execution = Execution(deaf, ExecutionConfig(execute=3, delay=2, rtc=asked))
        drive(execution)
        assert deaf.told == [None] * 4
        assert execution.describe() == ["execute=3", "delay=2", "naive"]
    assert Execution(planner, ExecutionConfig(execute=3, delay=2)).describe() == ["execute=3", "delay=2"]


def test_ensembling_is_the_weighted_mean_of_all_plans_oldest_first():
    actions = drive(Execution(Counting(), ExecutionConfig(ensemble=0.5)))
    torch.testing.assert_close(actions[:, 0], torch.arange(12.0))
    weight = torch.exp(-0.5 * torch.arange(K))
    expected = (weight * torch.arange(4, 10)).sum() / weight.sum()  # at step 9 plans 4 to 9 have a say
    torch.testing.assert_close(actions[9, 1], expected)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (ExecutionConfig(ensemble=0.01, delay=1), "do not go with it"),
        (ExecutionConfig(delay=-1), "at least 0"),
        (ExecutionConfig(execute=0), "at least 1"),
        (ExecutionConfig(delay=4), "not there when the next is begun after 3; give --execute 4"),
        (ExecutionConfig(execute=1, delay=2), "not there when the next is begun after 1"),
    ],
)
def test_what_makes_no_sense_is_refused(config, sentence):
    with pytest.raises(UsageError, match=sentence):
        Execution(Counting(), config)


def test_a_chunk_too_short_for_the_delay_is_refused():
    with pytest.raises(UsageError, match="too few to execute 5 and compute for 2 more"):
        drive(Execution(Counting(), ExecutionConfig(execute=5, delay=2)))


@pytest.mark.parametrize("config", [*HEADS.values(), STATE_ONLY], ids=lambda c: c.kind)
def test_every_policy_plans(config):
    policy = make_policy(config)
    assert isinstance(policy, ChunkPolicy)
    obs = make_batch(make_spec(), b=2).obs.map(lambda x: x[:, 0])
    execution = Execution(policy, ExecutionConfig(execute=2, delay=2))
    execution.reset([0, 1])
    first = policy.plan(obs)
    assert execution.act(obs).shape == (2, 2, 6)
    execution._plans = [first]
    torch.testing.assert_close(execution.act(obs), first[:, 2:4])


@pytest.mark.parametrize("config", HEADS.values(), ids=HEADS)
def test_what_is_planned_goes_on_from_what_is_committed_where_it_says_so(config):
    policy = make_policy(config)
    with torch.no_grad():  # or the plans of some heads are constant as yet
        for weight in policy.head.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    obs = make_batch(make_spec(), b=2).obs.map(lambda x: x[:, 0])

    def plan(committed):
        policy.reset([0, 1])
        return policy.plan(obs, committed)

    free = plan(None)
    committed = [free[:, :2], obs.state[:, None].expand(-1, 2, -1)]
    plans = [plan(c) for c in committed]
    for c, p in zip(committed, plans, strict=True):
        torch.testing.assert_close(p[:, :2], c)
    assert policy.supports_rtc != torch.equal(plans[0][:, 2:], plans[1][:, 2:])
