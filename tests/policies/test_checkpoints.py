"""Pretrained parts: read from every kind of checkpoint, or refused in one sentence."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from policies.synthetic import TASKS, TINY
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    T5Config,
)

from worldlab.errors import UsageError
from worldlab.policies import Backbone
from worldlab.policies.backbone_config import LANGUAGE_FAMILIES, VISION_FAMILIES
from worldlab.policies.checkpoints import parts_of, read_language, read_tower
from worldlab.trunk import BackboneOptions

CAMERAS = {"front": (32, 32)}


def make(**fields):
    torch.manual_seed(1)
    return Backbone.create(replace(TINY, **fields), CAMERAS, TASKS)


def save_words(backbone, path):
    words = PreTrainedTokenizerFast(tokenizer_object=backbone.tokenizer._tokenizer, pad_token="[PAD]")
    words.save_pretrained(path)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    path = tmp_path_factory.mktemp("parts")
    made = make()
    made.tower.model.save_pretrained(path / "vision")
    made.language.save_pretrained(path / "language")
    save_words(made, path / "language")
    return path


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    """A whole LLaVA, as transformers saves it."""
    path = tmp_path_factory.mktemp("llava")
    made = make()
    config = LlavaConfig(
        vision_config=made.tower.model.config,
        text_config=made.language.config,
        image_token_index=1,
        image_seq_length=16,
    )
    model = LlavaForConditionalGeneration(config)
    model.save_pretrained(path)
    save_words(made, path)
    return path, model


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_a_tower_of_every_family_is_read(family, tmp_path):
    made = make(vision=family).tower
    made.model.save_pretrained(tmp_path)
    read = read_tower(str(tmp_path))
    assert read.describe() == made.describe()
    for name, weight in made.state_dict().items():
        assert torch.equal(read.state_dict()[name], weight)
    CLIPImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    assert read_tower(str(tmp_path)).describe()["mean"] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("family", LANGUAGE_FAMILIES)
def test_a_language_model_of_every_family_is_read_in_full_precision(family, tmp_path):
    made = make(language=family)
    made.language.half().save_pretrained(tmp_path)
    save_words(made, tmp_path)
    read, words = read_language(str(tmp_path))
    assert {p.dtype for p in read.parameters()} == {torch.float32}
    for name, weight in made.language.state_dict().items():
        assert torch.equal(read.state_dict()[name], weight.float())
    assert words.get_vocab_size() == made.tokenizer.size


def test_the_parts_of_a_vision_language_model_are_taken_out_of_it(vlm):
    path, model = vlm
    assert parts_of(str(path)) == {"vision": str(path), "language": str(path)}
    trunk = BackboneOptions(backbone=str(path)).instead_of(TINY)
    made = Backbone.create(trunk, CAMERAS, TASKS)
    for ours, theirs in ((made.tower.model, model.model.vision_tower), (made.language, model.model.language_model)):
        for name, weight in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], weight)


def test_a_tower_is_taken_out_of_a_dual_encoder(tmp_path):
    tower = make().tower.model
    text = {"vocab_size": 20, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    both = SiglipModel(SiglipConfig(vision_config=tower.config.to_dict(), text_config=text))
    both.save_pretrained(tmp_path)
    read = read_tower(str(tmp_path))
    for name, weight in both.vision_model.state_dict().items():
        assert torch.equal(read.model.vision_model.state_dict()[name], weight)
    assert parts_of(str(tmp_path)) == {"vision": str(tmp_path)}


def test_a_backbone_fills_the_parts_that_it_has(parts):
    vision, language = str(parts / "vision"), str(parts / "language")
    assert BackboneOptions(backbone=vision).instead_of(TINY) == replace(TINY, vision=vision)
    assert BackboneOptions(backbone=language, vision="clip").instead_of(TINY) == replace(
        TINY, vision="clip", language=language
    )
    assert BackboneOptions(fusion="anyres", frozen=("language",), lora=2).instead_of(TINY) == (
        replace(TINY, fusion="anyres", image=TINY.image // 2, frozen=("language",), lora=2)
    )
    with pytest.raises(UsageError, match="--vision clip has no place"):
        BackboneOptions(fusion="native", vision="clip").instead_of(TINY)
    for trunk in (BackboneOptions(fusion="lava"), BackboneOptions(frozen=("visoin",))):
        with pytest.raises(UsageError, match="Did you mean"):
            trunk.instead_of(TINY)


def refusal(read, path):
    with pytest.raises(UsageError) as caught:
        read(str(path))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(path) in sentence
    return sentence


@pytest.mark.parametrize("read", [parts_of, read_tower, read_language])
def test_what_is_not_there_is_named_in_one_sentence(read, tmp_path):
    assert "would work" in refusal(read, tmp_path)
    assert "hub" in refusal(read, "nobody/no-such-model")
    T5Config().save_pretrained(tmp_path)
    assert "is of type 't5'" in refusal(read, tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "cannot read" in refusal(read, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no such type"}')
    assert "cannot read" in refusal(read, tmp_path)


@pytest.mark.parametrize(("read", "part"), [(read_tower, "vision"), (read_language, "language")])
def test_weights_that_do_not_fit_are_named_in_one_sentence(read, part, parts, tmp_path):
    path = shutil.copytree(parts / part, tmp_path / part)
    weights, file = load_file(path / "model.safetensors"), path / "model.safetensors"
    first = min(weights)
    save_file({name: w for name, w in weights.items() if name != first}, file, {"format": "pt"})
    assert first in refusal(read, path)
    save_file({**weights, first: weights[first].repeat(2, *[1] * (weights[first].ndim - 1))}, file, {"format": "pt"})
    assert "cannot read" in refusal(read, path)
    file.write_bytes(file.read_bytes()[:1000])
    assert "cannot read" in refusal(read, path)
    file.unlink()
    assert "cannot read" in refusal(read, path)


def test_one_part_does_not_stand_for_the_other(parts, vlm, tmp_path):
    assert "siglip, siglip2, clip, vit or dinov2 would work" in refusal(read_tower, parts / "language")
    assert "llama, gemma" in refusal(read_language, parts / "vision")
    path = shutil.copytree(vlm[0], tmp_path / "vlm")
    config = json.loads((path / "config.json").read_text())
    config["model_type"] = "idefics3"
    config["text_config"]["model_type"] = "opt"
    (path / "config.json").write_text(json.dumps(config))
    refusal(read_language, path)


def test_a_language_model_needs_its_tokenizer(parts, tmp_path):
    path = shutil.copytree(parts / "language", tmp_path / "language")
    for file in path.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer" in refusal(read_language, path)
