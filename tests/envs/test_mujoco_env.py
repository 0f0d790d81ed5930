"""Laws of the simulated SO-101: replay is exact, episodes are independent, what is over stands still."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from seen import seen

from worldlab import envs
from worldlab.errors import UsageError
from worldlab.protocols import Displaceable, Environment, Policy, Restorable
from worldlab.rollout import rollout

TASKS = envs.names()


def run(task, n=3, seed=0, threads=1, noise=1.0, **kwargs):
    env = envs.make(task, n, threads=threads, **kwargs)
    return env, rollout(env.expert(noise), env, seed=seed, max_steps=40)


def assert_same(a, b):
    """Equal bit for bit, images included."""
    length = min(a.valid.shape[1], b.valid.shape[1])
    a, b = a.rows(0, length), b.rows(0, length)
    torch.testing.assert_close(a.length, b.length, rtol=0, atol=0)
    for name in a.obs.images:
        assert torch.equal(a.obs.images[name], b.obs.images[name])
    assert torch.equal(a.obs.state, b.obs.state)
    assert torch.equal(a.physics, b.physics)
    assert torch.equal(a.privileged, b.privileged)
    assert torch.equal(a.reward, b.reward)
    assert a.obs.task == b.obs.task


@pytest.mark.parametrize("task", TASKS)
def test_any_recorded_row_replays_bit_for_bit(task):
    env, recorded = run(task, n=2)
    rows = int(recorded.length.min()) - 1
    for start in range(0, rows, max(1, rows // 3)):
        env.restore(recorded.physics[:, start], recorded.obs.task)
        for t in range(start, rows):
            raw, info = env.observe()
            assert torch.equal(env.physics, recorded.physics[:, t])
            assert torch.equal(torch.tensor(raw["state"]), recorded.obs.state[:, t])
            assert torch.equal(torch.tensor(info["privileged"]), recorded.privileged[:, t])
            for name, images in recorded.obs.images.items():
                assert torch.equal(torch.tensor(raw[f"images.{name}"]), images[:, t])
            _, reward, terminated, _, _ = env.step(recorded.action[:, t].numpy())
            np.testing.assert_array_equal(reward.astype(np.float32), recorded.reward[:, t].numpy())
            np.testing.assert_array_equal(terminated, recorded.terminated[:, t].numpy())


def test_only_as_many_states_as_there_are_environments_are_restored():
    env = envs.make("Reach", 2, cameras=())
    env.reset(seed=0)
    before = env.physics
    for physics, task in ((before[:1], ("a",) * 2), (before, ("a",)), (before[:, :1], ("a",) * 2)):
        with pytest.raises(UsageError, match="one instruction for each of 2 environments"):
            env.restore(physics + 1, task)
    assert torch.equal(env.physics, before)


def test_displaced_cubes_lie_aside_by_so_much_and_all_else_is_as_it_was():
    env = envs.make("Push", 64, cameras=())
    env.reset(seed=0)
    before, situation, was = env.physics, env.situation, env.observe()[1]["privileged"]
    beside = env.displaced(before, 0.001, seed=3)
    env.restore(beside, ("",) * 64)
    off = env.situation.cubes - situation.cubes
    assert not off[~situation.present].any()
    assert not off[..., 2:].any()
    aside = off[situation.present][:, :2]
    np.testing.assert_allclose(aside.std(0), 0.001, rtol=0.2)  # some 190 cubes
    assert abs(aside.mean()) < 2e-4
    assert len(np.unique(aside)) == aside.size
    kept = [not name.endswith(("_cube.x", "_cube.y", ".u", ".v")) for name in env.contract.privileged]
    np.testing.assert_array_equal(env.observe()[1]["privileged"][:, kept], was[:, kept])
    np.testing.assert_array_equal(env.displaced(before[:5], 0.001, seed=3), beside[:5])  # by its row alone
    np.testing.assert_array_equal(env.displaced(before, 0.0, seed=3), before)


def test_drawing_and_looking_leave_no_trace():
    env, recorded = run("Lift")
    env.restore(recorded.physics[:, 2], recorded.obs.task)
    env.step(recorded.action[:, 2].numpy())
    plain = env.physics
    env.restore(recorded.physics[:, 2], recorded.obs.task)
    env.render()
    env.observe()
    env.step(recorded.action[:, 2].numpy())
    assert torch.equal(env.physics, plain)


@pytest.mark.parametrize("task", TASKS)
def test_an_episode_depends_on_its_seed_alone(task):
    _, four = run(task, n=4, seed=5)
    _, again = run(task, n=4, seed=5, threads=2)
    assert_same(four, again)
    for i in (0, 3):
        _, alone = run(task, n=1, seed=5 + i)
        assert_same(alone, four.pick([i]).rows(0, int(four.length[i])))


def test_an_episode_does_not_depend_on_thirty_two():
    _, many = run("Lift", n=32, threads=3, cameras=())
    for i in (0, 17, 31):
        _, alone = run("Lift", n=1, seed=i, cameras=())
        assert_same(alone, many.pick([i]).rows(0, int(many.length[i])))


@pytest.mark.parametrize("task", TASKS)
def test_finished_environments_stand_still(task):
    env = envs.make(task, 2, threads=1)
    policy = env.expert()
    env.reset(seed=0)
    policy.reset([0, 1])
    over = np.zeros(2, bool)
    for _ in range(env.objective.limit + 2):
        before, (shown, _) = env.physics, env.observe()
        after, _, terminated, truncated, _ = env.step(policy.act(seen(env))[:, 0].numpy())
        assert torch.equal(env.physics[over], before[over])
        for name in shown:
            np.testing.assert_array_equal(after[name][over], shown[name][over])
        assert (terminated | truncated)[over].all()
        over = terminated | truncated
    assert over.all()


def test_success_that_must_hold_is_what_has_held():
    brief, long = (envs.make("Reach", 4, cameras=(), threads=1, hold=steps) for steps in (0, 5))
    once, after = (rollout(env.expert(), env, seed=0) for env in (brief, long))
    assert once.terminated.any(1).all()
    assert torch.equal(after.length, once.length + 5)
    assert torch.equal(after.success.sum(1), torch.ones(4))
    assert torch.equal(after.terminated, after.success)
    assert torch.equal((after.reward == 1).sum(1), torch.full((4,), 6))
    end = once.physics[torch.arange(4), once.length - 1]
    for env, over in ((brief, True), (long, False)):
        env.restore(end, once.obs.task)
        assert torch.equal(env.physics, end)
        env.step(np.zeros((4, 6), np.float32))
        assert torch.equal(env.physics, end) == over


def test_the_time_limit_truncates():
    env = envs.make("Reach", 2, cameras=(), threads=1)
    raw, _ = env.reset(seed=0)
    for _ in range(env.objective.limit):
        _, _, terminated, truncated, _ = env.step(raw["state"])
    assert truncated.all()
    assert not terminated.any()


@pytest.mark.parametrize("task", TASKS)
def test_pictures_show_the_named_cube_where_the_label_says(task):
    env = envs.make(task, 8, threads=1)
    raw, info = env.reset(seed=0)
    names = env.contract.privileged
    paint = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
    for i in range(8):
        assert np.ptp(raw["images.front"][i]) > 50
        assert np.ptp(raw["images.wrist"][i]) > 50
        row = dict(zip(names, info["privileged"][i], strict=True))
        colour = next(c for c in paint if row[f"{c}_cube.target"])
        assert colour in info["task"][i].split()
        assert row[f"{colour}_cube.present"] == 1
        u, v = (round(64 * row[f"{colour}_cube.front.{axis}"] - 0.5) for axis in "uv")
        patch = raw["images.front"][i][v - 1 : v + 2, u - 1 : u + 2].astype(float)
        patch /= patch.max(-1, keepdims=True)
        assert np.abs(patch - paint[colour]).max(-1).min() < 0.4, (i, colour, u, v)


def test_the_zone_is_a_white_disc():
    env = envs.make("Push", 8, threads=1)
    raw, info = env.reset(seed=0)
    white = raw["images.front"].min(-1) > 200
    assert (white.sum((1, 2)) > 100).all()
    for i, mask in enumerate(white):  # its middle, off by what a cube or the arm covers
        v, u = (np.nonzero(mask)[axis].mean() for axis in (0, 1))
        seen = 64 * info["privileged"][i, [env.contract.privileged.index(f"zone.front.{axis}") for axis in "uv"]] - 0.5
        assert np.abs(seen - (u, v)).max() < 4, (i, seen, u, v)


def test_the_front_camera_sees_every_place_of_a_cube():
    env = envs.make("Stack", 64, cameras=(), threads=1)
    places = []
    for seed in range(0, 256, 64):
        _, info = env.reset(seed=seed)
        columns = info["privileged"][:, 3:].reshape(64, 4, 11)
        places.append(columns[columns[..., 7] == 1][:, -2:])
    u, v = np.concatenate(places).T
    assert u.min() > 0.03
    assert u.max() < 0.97
    assert v.min() > 0.03
    assert v.max() < 0.97
    assert np.ptp(u) > 0.75
    assert np.ptp(v) > 0.25


def test_the_roles_are_fulfilled():
    env = envs.make("worldlab/Push-v0", 2)
    assert isinstance(env, Environment)
    assert isinstance(env, Restorable)
    assert isinstance(env, Displaceable)
    assert isinstance(env.expert(), Policy)
    env.reset(seed=0)
    assert len(env.contract.privileged) == env.observe()[1]["privileged"].shape[1]
    assert env.model.site("gripperframe").id >= 0


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized")
@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_accepts_the_single_environment(task):
    env = gymnasium.make(task, render_mode="rgb_array")
    check_env(env.unwrapped, skip_render_check=task != TASKS[0])
    env.reset(seed=0)
    assert env.render().shape == (360, 480, 3)


def test_the_single_environment_is_the_batch_of_one():
    single, batch = gymnasium.make("worldlab/Lift-v0"), envs.make("Lift")
    seen, told = single.reset(seed=3)
    seen_, told_ = batch.reset(seed=3)
    for name, value in seen.items():
        np.testing.assert_array_equal(value, seen_[name][0])
    assert told["task"] == told_["task"][0]


def test_the_single_environment_too_can_ask_success_to_hold():
    batch = envs.make("Reach", cameras=(), hold=5)
    acted = rollout(batch.expert(), batch, seed=0)
    single = gymnasium.make("worldlab/Reach-v0", cameras=(), hold=5)
    single.reset(seed=0)
    for action, terminated in zip(acted.action[0, :-1], acted.terminated[0, :-1], strict=True):
        assert single.step(action.numpy())[2] == terminated
    assert terminated


def test_without_a_seed_episodes_follow_from_the_last_one_given():
    env = envs.make("Reach", 2, cameras=())
    drawn = []
    for seed in (7, 7, 8):
        env.reset(seed=seed)
        env.reset()
        drawn.append(env.physics)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_bad_requests_get_a_sentence():
    env = envs.make("Reach", 2, cameras=())
    with pytest.raises(UsageError, match="takes no options here; got reset_mask"):
        env.reset(seed=0, options={"reset_mask": np.array([True, False])})
    with pytest.raises(UsageError, match=r"'worldlab/Lfit-v0'\. Did you mean 'worldlab/Lift-v0'"):
        envs.make("worldlab/Lfit-v0")
    with pytest.raises(UsageError, match=r"unknown camera 'wirst'\. Did you mean 'wrist'"):
        envs.make("Lift", cameras=("wirst",))
    assert envs.make("lift", cameras=()).objective.name == "Lift"


def test_real_meshes_change_the_picture_and_nothing_else():
    pytest.importorskip("so101_nexus")
    drawn, plain = envs.make("Lift", meshes=True, cameras=("front",)), envs.make("Lift", cameras=("front",))
    real, _ = drawn.reset(seed=0)
    boxes, _ = plain.reset(seed=0)
    assert (real["images.front"] != boxes["images.front"]).any()
    drawn.step(real["state"])
    plain.step(real["state"])
    assert torch.equal(drawn.physics, plain.physics)
