"""Learning while acting."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from test_cli import refused

from worldlab import datasets, dynamics, envs, online, players, summaries
from worldlab.cli import main
from worldlab.dynamics.actor_critic import ActorCriticConfig
from worldlab.errors import UsageError
from worldlab.presets import OnlineConfig, TrainConfig, WindowConfig, preset
from worldlab.runs import Run
from worldlab.training import FitConfig

ENV = "Pendulum-v1"  # 200 steps an episode
RECIPE = TrainConfig(
    model=dynamics.DreamerConfig(
        world=dynamics.RSSMConfig(size="tiny", sees="state", carry_state=True),
        behaviour=ActorCriticConfig(units=8, depth=1, horizon=3, starts=8),
        repeat=2,
    ),
    windows=WindowConfig(length=5, batch=4, pad=False, stride=2),
    fit=FitConfig(seed=3, checkpoint_seconds=0.0),
    online=OnlineConfig(env_steps=800, ratio=2.0, random=2),
)
STEPS = 400 // 20  # control steps that are not random, over 4 * 5 * 2 / 2 of them for an optimizer step


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("online") / "run"
    outcome = online.train_recipe_online(RECIPE, "dreamer-proprio", ENV, path, device="cpu", show=False)
    assert outcome.values["steps"] == STEPS
    return path


def test_it_acts_as_often_as_it_should_and_keeps_what_happened(run):
    store = datasets.EpisodeStore(run / online.STORE)
    assert store.lengths.tolist() == [201] * 4
    assert store.seeds.tolist() == [4_000_000 + i for i in range(4)]
    lines = [json.loads(line) for line in (run / summaries.EPISODES).read_text().splitlines()]
    assert [(line["episode"], line["env_steps"]) for line in lines] == [(2, 600), (3, 800)]
    assert [line["step"] for line in lines] == [1, 11]
    for line in lines:
        assert line["return"] == pytest.approx(float(store[line["episode"]].reward.sum()), rel=1e-5)
    for episode in store:  # actions are repeated for two steps
        action = episode.action[:-1]
        assert torch.equal(action[::2], action[1::2])


def test_success_stands_in_the_dreams_of_an_arm_alone():
    assert preset("dreamer-reach").model.behaviour.absorbing_success
    assert not preset("dreamer-proprio").model.behaviour.absorbing_success


def test_actions_that_did_not_last_are_not_taken_for_such_that_did(run):
    store = datasets.EpisodeStore(run / online.STORE)
    datasets.check_action_repeat(store, 2)
    with pytest.raises(UsageError, match="last 3 control steps, and those of"):
        datasets.check_action_repeat(store, 3)


def test_batch_i_is_of_the_episodes_due_by_then(run):
    store = datasets.EpisodeStore(run / online.STORE)
    model = dynamics.load_dreamer(run)
    replay = online.Replay(store, envs.make(ENV, size=None), model, RECIPE, Run(run))
    seen = [{int(t) for t in _episodes_of(replay[step], store)} for step in range(STEPS)]
    assert seen[0] <= {0, 1}
    assert set.union(*seen[1:11]) == {0, 1, 2}
    assert set.union(*seen[11:]) == {0, 1, 2, 3}


def _episodes_of(batch, store):
    whole = [episode.obs.state for episode in store]
    for window in batch.obs.state:
        yield next(i for i, state in enumerate(whole) if (state == window[0]).all(1).any())


def test_killed_and_resumed_ends_with_the_same_bits(run, tmp_path, monkeypatch):
    killed = tmp_path / "killed"
    whole, collected = online.Replay.__getitem__, []

    def until(self, step):
        batch = whole(self, step)
        collected.append(len(self.store))
        if step == 12:  # an episode later than a checkpoint of an earlier step might say
            raise KeyboardInterrupt
        return batch

    monkeypatch.setattr(online.Replay, "__getitem__", until)
    with pytest.raises(KeyboardInterrupt):
        online.train_recipe_online(RECIPE, "dreamer-proprio", ENV, killed, device="cpu", show=False)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="not empty"):
        online.train_recipe_online(RECIPE, "dreamer-proprio", ENV, killed, device="cpu", show=False)
    other = replace(RECIPE, online=replace(RECIPE.online, ratio=4.0))
    with pytest.raises(UsageError, match="another recipe"):
        online.train_recipe_online(other, "dreamer-proprio", ENV, killed, resume=True, device="cpu", show=False)
    online.train_recipe_online(RECIPE, "dreamer-proprio", ENV, killed, resume=True, device="cpu", show=False)
    one, two = (load_file(path / "model.safetensors") for path in (run, killed))
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def test_the_run_is_a_policy_and_a_world_model(run):
    world = envs.make(ENV, n=2, size=None)
    policy = players.load(str(run), world)
    assert isinstance(policy, dynamics.Dreamer)
    policy.spec.check(world.contract)
    assert isinstance(dynamics.load(run), dynamics.RSSM)
    assert players.image_size(str(run)) is None


def test_it_is_held_against_the_behaviour_that_made_its_store(run, capsys):
    recorded = f"recorded:{run / online.STORE}"
    main(["compare", str(run), recorded, "--env", ENV, "--episodes", "4", "--n", "2", "--seed", "4000000", "--json"])
    told = json.loads(capsys.readouterr().out)
    earned = [float(episode.reward.sum()) for episode in datasets.EpisodeStore(run / online.STORE)]
    assert told["mean_return_b"] == pytest.approx(sum(earned) / 4, rel=1e-5)
    assert told["by"] == "return"


def test_a_budget_of_minutes_does_not_end_it(tmp_path):
    hurried = replace(RECIPE, fit=replace(RECIPE.fit, minutes=0.001))
    outcome = online.train_recipe_online(hurried, "dreamer-proprio", ENV, tmp_path / "run", device="cpu", show=False)
    assert Run.open(tmp_path / "run").read_log()[-1]["step"] == outcome.values["steps"] == STEPS


def test_it_goes_on_where_it_was_killed_acting_at_random(run, tmp_path, monkeypatch):
    whole, killed = online._episode, tmp_path / "run"

    def once(policy, world, store, seed):
        if len(store):
            raise KeyboardInterrupt
        return whole(policy, world, store, seed)

    monkeypatch.setattr(online, "_episode", once)
    with pytest.raises(KeyboardInterrupt):
        online.train_recipe_online(RECIPE, "dreamer-proprio", ENV, killed, device="cpu", show=False)
    monkeypatch.undo()
    other = replace(RECIPE, fit=replace(RECIPE.fit, seed=4))
    for recipe, env in ((other, ENV), (RECIPE, "MountainCarContinuous-v0")):
        with pytest.raises(UsageError, match="another run experienced"):
            online.train_recipe_online(recipe, "dreamer-proprio", env, killed, device="cpu", show=False)
    online.train_recipe_online(RECIPE, "dreamer-proprio", ENV, killed, resume=True, device="cpu", show=False)
    one, two = (load_file(path / "model.safetensors") for path in (run, killed))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_what_cannot_be_is_said(tmp_path, capsys, monkeypatch):
    out = ("--out", str(tmp_path / "a"))
    assert "--env ENV to act in" in refused(capsys, "train", "dreamer-proprio", *out)
    assert "learns from a store" in refused(capsys, "train", "flow-reach", "--env", ENV, *out)
    assert "go with --env" in refused(capsys, "train", "flow-reach", "--data", "x", "--ratio", "2", *out)
    assert "--env takes" in refused(capsys, "train", "dreamer-proprio", "--env", ENV, "--steps", "5", *out)
    for steps in (400, 419):  # none is left, or too few for an optimizer step
        short = replace(RECIPE, online=replace(RECIPE.online, env_steps=steps))
        with pytest.raises(UsageError, match=f"must be at least 420, not {steps}"):
            online.train_recipe_online(short, "dreamer-proprio", ENV, tmp_path / "b", device="cpu", show=False)
    assert [file.name for file in (tmp_path / "b").iterdir()] == [online.STORE]
    enough = replace(RECIPE, online=replace(RECIPE.online, env_steps=420))  # goes on from there
    outcome = online.train_recipe_online(enough, "dreamer-proprio", ENV, tmp_path / "b", device="cpu", show=False)
    assert outcome.values["steps"] == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "in one process" in refused(capsys, "train", "dreamer-proprio", "--env", ENV, *out)
