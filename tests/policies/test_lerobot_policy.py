"""LeRobot's edge: what goes there and back is the same, and LeRobot loads what is exported."""

import json
from dataclasses import replace

import pytest
import torch

from worldlab import policies, so101
from worldlab.errors import UsageError
from worldlab.normalize import Moments, Statistics
from worldlab.policies import BackboneConfig, FlowConfig, GroundingConfig, lerobot_policy
from worldlab.trajectory import Observation, Spec

SPEC = Spec(
    cameras={"front": (16, 16), "wrist": (16, 16)},
    state=so101.NAMES,
    action=so101.NAMES,
    privileged=(),
    control="joint_position",
    low=so101.LOW,
    high=so101.HIGH,
    fps=10,
)
TASKS = ("reach the red cube", "reach the blue cube")


def random_joints(n, seed=0):
    low, high = torch.tensor(so101.LOW), torch.tensor(so101.HIGH)
    return so101.snap(torch.lerp(low, high, torch.rand(n, 6, generator=torch.Generator().manual_seed(seed))))


def random_observation(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = {
        name: torch.randint(256, (n, *size, 3), generator=generator, dtype=torch.uint8)
        for name, size in SPEC.cameras.items()
    }
    return Observation(images, random_joints(n, seed), tuple(TASKS[i % 2] for i in range(n)))


def tiny_policy(spec=SPEC):
    moments = Moments.of(random_joints(200))
    config = FlowConfig(
        backbone=BackboneConfig(image=16, patch=8, width=32, layers=1, heads=2),
        grounding=GroundingConfig(weight=0.0),
        width=16,
        chunk=6,
        execute=3,
    )
    torch.manual_seed(0)
    return policies.create(config, spec, Statistics(moments, moments), TASKS).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    policy = tiny_policy()
    return policy, lerobot_policy.export_policy(policy, tmp_path_factory.mktemp("lerobot") / "policy")


def same(a, b):
    return (
        torch.equal(a.state, b.state)
        and a.task == b.task
        and all(torch.equal(a.images[c], b.images[c]) for c in a.images)
    )


def test_an_observation_survives_lerobot_bit_for_bit():
    obs = random_observation(5)
    obs.images["front"][0] = torch.arange(256, dtype=torch.uint8).reshape(16, 16, 1)
    batch = lerobot_policy.observation_to_batch(obs)
    assert batch["observation.images.front"].shape == (5, 3, 16, 16)
    assert same(lerobot_policy.observation_from_batch(batch, SPEC.cameras), obs)


def test_seeds_survive_lerobots_float32():
    seeds = [0, 1, 2**16, 2**24 + 1, 3_000_000_019]
    assert lerobot_policy.seeds_from_batch(lerobot_policy.seeds_to_batch(seeds).float()) == seeds


def test_the_exported_policy_acts_as_the_policy_that_was_exported(exported):
    policy, path = exported
    loaded = lerobot_policy.load(path)
    for each in (policy, loaded):
        each.reset([7, 8, 9])
    for look in range(2):
        obs = random_observation(3, seed=look)
        chunk = policy.act(obs)
        steps = torch.cat([loaded.act(obs) for _ in range(chunk.shape[1])], 1)
        torch.testing.assert_close(steps, chunk, rtol=0, atol=1e-6)


def test_lerobot_loads_the_directory_by_itself_and_everything_is_inside(exported):
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    policy, path = exported
    config = PreTrainedConfig.from_pretrained(path)
    assert (config.type, config.n_action_steps, config.chunk_size) == ("worldlab", 3, 6)
    assert config.action_feature_names == list(so101.NAMES)
    assert config.description == json.loads(json.dumps(policy.describe()))
    loaded = get_policy_class("worldlab").from_pretrained(path, config=config, strict=True)
    before, _ = make_pre_post_processors(
        config,
        str(path),
        preprocessor_overrides={
            "device_processor": {"device": "cpu"},
            "rename_observations_processor": {"rename_map": {}},
        },
    )
    obs = random_observation(2)
    batch = before(lerobot_policy.observation_to_batch(obs))
    first = loaded.select_action(batch)
    loaded.reset()
    second = loaded.select_action(batch)
    for seeds, action in (([0, 1], first), ([2, 3], second)):  # without a simulator, episodes count on from config.seed
        policy.reset(seeds)
        torch.testing.assert_close(action, so101.to_lerobot(policy.act(obs)[:, 0]))


def test_lerobots_loss_is_worldlabs(exported):
    from lerobot.policies.factory import get_policy_class

    policy, path = exported
    loaded = get_policy_class("worldlab").from_pretrained(path)
    padding = torch.zeros(4, 6, dtype=torch.bool)
    padding[1, 4:] = True
    action = random_joints(24).unflatten(0, (4, 6))
    batch = lerobot_policy.observation_to_batch(random_observation(4))
    batch |= {"action": so101.to_lerobot(action), "action_is_pad": padding}
    torch.manual_seed(1)
    loss, metrics = loaded.forward(batch)
    torch.manual_seed(1)
    window = lerobot_policy.window_from_batch(batch, SPEC.cameras)
    torch.testing.assert_close(loss, policy.loss(window)[0])
    assert torch.equal(window.action, action)
    assert window.length.tolist() == [6, 4, 6, 6]
    assert metrics["flow"] == pytest.approx(loss.item())


def test_any_lerobot_policy_is_a_worldlab_policy(tmp_path):
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

    images = {
        f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, *size))
        for name, size in SPEC.cameras.items()
    }
    config = make_policy_config(
        "act",
        device="cpu",
        push_to_hub=False,
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (6,)), **images},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
        pretrained_backbone_weights=None,
        dim_model=32,
        dim_feedforward=64,
        n_heads=2,
        n_encoder_layers=1,
        chunk_size=4,
        n_action_steps=2,
    )
    torch.manual_seed(0)
    act = get_policy_class("act")(config).eval()
    stats = {
        key: {"mean": torch.full((6,), 10.0), "std": torch.full((6,), 20.0)} for key in ("observation.state", "action")
    }
    for part in (act, *make_pre_post_processors(config, dataset_stats=stats)):
        part.save_pretrained(tmp_path)
    loaded = lerobot_policy.load(tmp_path)
    loaded.reset([0, 1])
    obs = random_observation(2)
    before, after = make_pre_post_processors(config, dataset_stats=stats)
    expected = after(act.select_action(before(lerobot_policy.observation_to_batch(obs))))
    torch.testing.assert_close(loaded.act(obs), so101.from_lerobot(expected)[:, None])
    with pytest.raises(UsageError, match="needs a camera 'wrist'; given: front"):
        loaded.act(replace(obs, images={"front": obs.images["front"]}))


@pytest.mark.parametrize("name", ["absent", "run"])
def test_what_is_no_lerobot_policy_is_refused(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"kind": "flow"}')
    with pytest.raises(UsageError, match="is not a directory of a LeRobot policy: it has no"):
        lerobot_policy.load(tmp_path / name)


def test_only_the_arm_goes_to_lerobot(tmp_path):
    delta = replace(SPEC, control="joint_delta")
    with pytest.raises(UsageError, match="only policies for the SO-101's joint positions"):
        lerobot_policy.export_policy(tiny_policy(delta), tmp_path / "out")


def test_nothing_is_overwritten(exported):
    with pytest.raises(UsageError, match="is not empty"):
        lerobot_policy.export_policy(*exported)


def test_a_camera_of_another_size_is_named():
    batch = lerobot_policy.observation_to_batch(random_observation(1))
    with pytest.raises(UsageError, match=r"needs camera 'front' at \(32, 32\) pixels, not \(16, 16\)"):
        lerobot_policy.observation_from_batch(batch, {"front": (32, 32)})
