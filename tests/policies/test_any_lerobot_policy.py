"""LeRobot's own policies act in worldlab as they do in LeRobot: with chunks, memory, noise and language."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from worldlab import policies, so101
from worldlab.cli import main
from worldlab.errors import UsageError
from worldlab.policies import lerobot_policy
from worldlab.seeding import key
from worldlab.trajectory import Observation

SIZE = (64, 64)
WORDS = ("[PAD]", "[UNK]", "<image>", "<fake>", "<global>", "<end>", "reach", "lift", "the", "red", "blue", "cube")


def small_vlm(folder: Path) -> Path:
    """A language model with eyes, of SmolVLM's kind and without weights: what SmolVLA's `vlm_model_name` points to."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SmolVLMConfig,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"image": "<image>", "fake_image": "<fake>", "global_image": "<global>", "end_of_utterance": "<end>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        extra_special_tokens={f"{name}_token": token for name, token in special.items()},
    )
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    SmolVLMConfig(
        vision_config=size | {"image_size": 32, "patch_size": 8},
        text_config=size
        | {"model_type": "llama", "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 64, "pad_token_id": 0},
        scale_factor=2,
        image_token_id=2,
        pad_token_id=0,
    ).save_pretrained(folder)
    SmolVLMProcessor(SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor()).save_pretrained(folder)
    return folder


def sizes(kind: str, folder: Path) -> dict[str, object]:
    match kind:
        case "act":
            return {"dim_model": 32, "dim_feedforward": 64, "n_heads": 2, "n_encoder_layers": 1, "chunk_size": 4}
        case "diffusion":
            return {
                "n_obs_steps": 2,
                "horizon": 8,
                "down_dims": (16, 32),
                "diffusion_step_embed_dim": 16,
                "spatial_softmax_num_keypoints": 4,
                "num_inference_steps": 2,
            }
        case _:
            return {
                "vlm_model_name": str(small_vlm(folder)),
                "chunk_size": 4,
                "num_vlm_layers": 2,
                "num_steps": 2,
                "resize_imgs_with_padding": (32, 32),
                "max_state_dim": 8,
                "max_action_dim": 8,
                "tokenizer_max_length": 8,
            }


@pytest.fixture(scope="module", params=["act", "diffusion", "smolvla"])
def saved(request, tmp_path_factory):
    """LeRobot's policy with its processors, and the directory that it saved them to."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

    joints = PolicyFeature(FeatureType.STATE, (6,))
    images = {f"observation.images.{c}": PolicyFeature(FeatureType.VISUAL, (3, *SIZE)) for c in ("front", "wrist")}
    eyes = {} if request.param == "smolvla" else {"pretrained_backbone_weights": None}
    config = make_policy_config(
        request.param,
        device="cpu",
        push_to_hub=False,
        input_features={"observation.state": joints, **images},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
        n_action_steps=2,
        **eyes,
        **sizes(request.param, tmp_path_factory.mktemp("vlm")),
    )
    torch.manual_seed(0)
    policy = get_policy_class(request.param)(config).eval()
    spread = {
        "mean": torch.full((6,), 10.0),
        "std": torch.full((6,), 20.0),
        "min": torch.full((6,), -60.0),
        "max": torch.full((6,), 80.0),
    }
    steps = make_pre_post_processors(config, dataset_stats=dict.fromkeys(("observation.state", "action"), spread))
    if eyes:  # their default: LeRobot would fetch these weights, only to load the directory's own over them
        config.pretrained_backbone_weights = "ResNet18_Weights.IMAGENET1K_V1"
    path = tmp_path_factory.mktemp("lerobot") / request.param
    for part in (policy, *steps):
        part.save_pretrained(path)
    return (policy, *steps), path


def look(n: int, seed: int) -> Observation:
    generator = torch.Generator().manual_seed(seed)
    images = {c: torch.randint(256, (n, *SIZE, 3), generator=generator, dtype=torch.uint8) for c in ("front", "wrist")}
    state = so101.snap(torch.rand(n, 6, generator=generator) - 0.5)
    return Observation(images, state, tuple(("reach the red cube", "lift the blue cube")[i % 2] for i in range(n)))


def test_it_acts_as_it_does_in_lerobot_also_in_the_next_episodes(saved):
    (policy, before, after), path = saved
    loaded = policies.load(f"lerobot:{path}")
    for seeds in ([0, 1], [5, 6, 7]):  # another number of episodes, from which nothing must be left of the first ones
        loaded.reset(seeds)
        policy.reset()
        for step in range(5):  # two chunks and the beginning of a third
            obs = look(len(seeds), seed=step)
            torch.manual_seed(key(step, *seeds))
            expected = after(policy.select_action(before(lerobot_policy.observation_to_batch(obs))))
            torch.testing.assert_close(loaded.act(obs)[:, 0], so101.from_lerobot(expected), rtol=0, atol=1e-5)


def test_it_is_evaluated_like_any_other(saved, capsys):
    command = ["eval", f"lerobot:{saved[1]}", "--env", "worldlab/Reach-v0", "--episodes", "2", "--n", "1"]
    main([*command, "--no-controls", "--json"])
    assert json.loads(capsys.readouterr().out)["n"] == 2


def test_a_camera_that_is_not_there_is_named(saved):
    loaded = lerobot_policy.load(saved[1])
    loaded.reset([0])
    obs = look(1, seed=0)
    with pytest.raises(UsageError, match="needs a camera 'wrist'; given: front"):
        loaded.act(replace(obs, images={"front": obs.images["front"]}))


def test_a_model_that_another_directory_holds_must_be_there(saved, tmp_path):
    (policy, *_), path = saved
    if policy.name != "smolvla":
        pytest.skip("only SmolVLA's directory names another one")
    for file in filter(Path.is_file, path.iterdir()):
        text = file.read_bytes().replace(policy.config.vlm_model_name.encode(), b"somebody/some-vlm")
        (tmp_path / file.name).write_bytes(text)
    with pytest.raises(UsageError, match="needs files that are not on this machine"):
        lerobot_policy.load(tmp_path)
