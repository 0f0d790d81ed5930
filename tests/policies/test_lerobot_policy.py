"""LeRobot's edge: what goes there and back is the same, and LeRobot loads what is exported."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from worldlab import policies, so101
from worldlab.errors import UsageError
from worldlab.normalize import Moments, Statistics
from worldlab.policies import BackboneConfig, FlowConfig, GroundingConfig, TokenConfig, lerobot_policy
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


def tiny_policy(head="flow", spec=SPEC):
    moments = Moments.of(random_joints(200))
    shared = {
        "backbone": BackboneConfig(image=16, patch=8, width=32, layers=1, heads=2),
        "grounding": GroundingConfig(weight=0.0),
        "chunk": 6,
        "execute": 3,
    }
    config = FlowConfig(**shared, width=16) if head == "flow" else TokenConfig(**shared, bins=32)
    torch.manual_seed(0)
    return policies.create(config, spec, Statistics(moments, moments), TASKS).eval()


@pytest.fixture(scope="module", params=["flow", "tokens"])
def exported(request, tmp_path_factory):
    policy = tiny_policy(request.param)
    return policy, lerobot_policy.export_policy(policy, tmp_path_factory.mktemp("lerobot") / request.param)


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


ALONE = """
import json, socket, sys
from pathlib import Path

def refuse(*arguments, **names):
    raise OSError("there is no network")

socket.socket.connect = socket.getaddrinfo = refuse
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.envs import EnvConfig
from lerobot.policies.factory import make_policy, make_pre_post_processors
from lerobot.utils.import_utils import register_third_party_plugins

register_third_party_plugins()
batches = torch.load(sys.argv[1])
for path in sys.argv[2:]:
    config = PreTrainedConfig.from_pretrained(path)
    config.pretrained_path = Path(path)
    policy = make_policy(config, env_cfg=EnvConfig.get_choice_class("worldlab")(size=16))
    before, after = make_pre_post_processors(config, path)
    actions = [after(policy.select_action(before(batch))).tolist() for batch in batches]
    (Path(path).parent / "actions.json").write_text(json.dumps(actions))
"""


@pytest.mark.slow
def test_a_fresh_process_without_network_and_tokenizer_files_acts_the_same(tmp_path):
    looks = [random_observation(2, seed=t) for t in range(5)]  # one chunk and part of the next
    torch.save([lerobot_policy.observation_to_batch(obs) for obs in looks], tmp_path / "batches.pt")
    ours = {head: tiny_policy(head) for head in ("flow", "tokens")}
    paths = [lerobot_policy.export_policy(policy, tmp_path / head / "policy") for head, policy in ours.items()]
    held = {file.name for path in paths for file in path.iterdir()}
    assert held == {"config.json", "model.safetensors", "policy_preprocessor.json", "policy_postprocessor.json"}
    empty = {"HF_HOME": str(tmp_path / "hub"), "HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", ALONE, tmp_path / "batches.pt", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | empty)
    assert done.returncode == 0, done.stderr[-3000:]
    for policy, path in zip(ours.values(), paths, strict=True):
        policy.reset([0, 1])
        chunks = [policy.act(looks[0]), policy.act(looks[3])[:, :2]]
        expected = so101.to_lerobot(torch.cat(chunks, 1))
        theirs = torch.tensor(json.loads((path.parent / "actions.json").read_text())).transpose(0, 1)
        torch.testing.assert_close(theirs, expected, rtol=0, atol=1e-5)


def test_real_time_chunking_goes_on_from_the_actions_that_are_under_way(exported):
    from lerobot.policies.factory import get_policy_class
    from lerobot.rollout.inference.rtc import supports_rtc_inference

    loaded = get_policy_class("worldlab").from_pretrained(exported[1])
    assert supports_rtc_inference(loaded)
    now, later = (lerobot_policy.observation_to_batch(random_observation(1, seed=t)) for t in range(2))
    first = loaded.predict_action_chunk(now)
    assert first.shape == (1, 6, 6)
    left_over = torch.zeros(10, 6)  # LeRobot's program fills what is left with zeros to a fixed length
    left_over[:4] = first[0, 2:]
    for delay in (0, 1, 3):
        loaded.reset()
        loaded._episodes = 0
        chunk = loaded.predict_action_chunk(later, inference_delay=delay, prev_chunk_left_over=left_over)
        assert torch.equal(chunk[0, :delay], left_over[:delay])
        assert not torch.isclose(chunk[0, delay:], torch.zeros(6)).all(-1).any()
    chunk = loaded.predict_action_chunk(later, inference_delay=9, prev_chunk_left_over=left_over)
    assert torch.equal(chunk[0, :4], left_over[:4])
    assert not torch.isclose(chunk[0, 4:], torch.zeros(6)).all(-1).any()


def test_what_is_committed_shapes_what_follows():
    flow, tokens = tiny_policy("flow"), tiny_policy("tokens")
    obs = random_observation(2)
    tokens.reset([0, 1])
    chunk = tokens.plan(obs)
    torch.testing.assert_close(tokens.plan(obs, chunk[:, :2]), chunk)  # to commit to its own choice changes nothing
    flow.reset([0, 1])
    free = flow.plan(obs)
    flow.reset([0, 1])
    bound = flow.plan(obs, free[:, :2] + 0.1)
    assert (bound - free)[:, 2:].abs().amax() > 1e-4


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
    assert metrics[policy.kind] == pytest.approx(loss.item())


@pytest.mark.parametrize("name", ["absent", "run"])
def test_what_is_no_lerobot_policy_is_refused(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"kind": "flow"}')
    with pytest.raises(UsageError, match="is not a directory of a LeRobot policy: it has no"):
        lerobot_policy.load(tmp_path / name)


def test_only_the_arm_goes_to_lerobot(tmp_path):
    delta = replace(SPEC, control="joint_delta")
    with pytest.raises(UsageError, match="only policies for the SO-101's joint positions"):
        lerobot_policy.export_policy(tiny_policy(spec=delta), tmp_path / "out")


def test_nothing_is_overwritten(exported):
    with pytest.raises(UsageError, match="is not empty"):
        lerobot_policy.export_policy(*exported)


def test_a_camera_of_another_size_is_named():
    batch = lerobot_policy.observation_to_batch(random_observation(1))
    with pytest.raises(UsageError, match=r"needs camera 'front' at \(32, 32\) pixels, not \(16, 16\)"):
        lerobot_policy.observation_from_batch(batch, {"front": (32, 32)})
