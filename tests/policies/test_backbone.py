"""The trunk from a checkpoint on disk, and what is said when there is none."""

from dataclasses import replace

import pytest
import torch
from policies.synthetic import HEADS, TASKS, TINY, make_batch, make_spec, make_statistics
from transformers import PreTrainedTokenizerFast

from worldlab import policies
from worldlab.policies import Backbone
from worldlab.policies.text import TextTokenizer
from worldlab.runs import Run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A vision tower and a language model as transformers saves them."""
    path = tmp_path_factory.mktemp("hub")
    torch.manual_seed(1)
    made = Backbone.create(replace(TINY, width=48, image=48, layers=2), {"front": (32, 32)}, TASKS)
    made.tower.model.save_pretrained(path / "vision")
    made.language.save_pretrained(path / "language")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made.tokenizer._tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    )
    tokenizer.save_pretrained(path / "language")
    return path, made


def test_pretrained_parts_train_act_and_live_on_in_the_run(checkpoint, tmp_path):
    path, made = checkpoint
    spec = make_spec()
    parts = replace(TINY, vision=str(path / "vision"), language=str(path / "language"))
    policy = policies.create(replace(HEADS["flow"], backbone=parts), spec, make_statistics(), TASKS).eval()
    for ours, theirs in (
        (policy.backbone.tower, made.tower),
        (policy.backbone.language, made.language),
    ):
        for name, weight in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], weight)
    policy.loss(make_batch(spec))[0].backward()
    run = Run.create(tmp_path / "run", policy.describe())
    run.save(policy.state_dict())
    loaded = policies.load(tmp_path / "run")
    obs = make_batch(spec).obs.map(lambda x: x[:, 0])
    policy.reset(range(8))
    loaded.reset(range(8))
    assert torch.equal(loaded.act(obs), policy.act(obs))


def test_words_unheard_of_become_the_unknown_token():
    tokenizer = TextTokenizer.of_words(["Reach the red cube", "reach the blue cube!"])
    ids, valid = tokenizer(["reach the purple CUBE", "reach"])
    assert valid.tolist() == [[True] * 4 + [False], [True] + [False] * 4]
    known, _ = tokenizer(["reach the red cube"])
    assert (ids[0] == known[0]).tolist() == [True, True, False, True, True]
    assert ids[0, 2] == 1
    again = TextTokenizer.of_description(tokenizer.describe())
    assert torch.equal(again(["reach the purple CUBE"])[0], ids[:1])


def test_cameras_of_another_size_are_resized():
    spec = make_spec()
    wide = replace(spec, cameras={"front": (48, 64), "wrist": (32, 32)})
    batch = make_batch(spec)
    images = {"front": torch.zeros(8, 48, 64, 3, dtype=torch.uint8), "wrist": batch.obs.images["wrist"][:, 0]}
    backbone = Backbone.create(TINY, wide.cameras, TASKS)
    prefix = backbone(images, batch.obs.task)
    assert prefix.valid.shape == (8, 2 * 16 + backbone.tokenizer.width)
    assert prefix.map.shape == (8, len(backbone.centres), 32)


def test_a_detached_prefix_has_the_same_numbers_and_no_gradient():
    obs = make_batch(make_spec()).obs.map(lambda x: x[:, 0])
    prefix = Backbone.create(TINY, make_spec().cameras, TASKS)(obs.images, obs.task)
    cut = prefix.detach()
    for (keys, values, _), (k, v, _) in zip(prefix.cache, cut.cache, strict=True):
        assert keys.requires_grad
        assert not k.requires_grad
        assert not v.requires_grad
        assert torch.equal(k, keys)
        assert torch.equal(v, values)
    assert torch.equal(cut.words, prefix.words)
    assert not cut.words.requires_grad
    assert not cut.map.requires_grad
    cut.cache.crop(3)
    assert prefix.cache.get_seq_length() == prefix.valid.shape[1]


def test_notes_follow_the_instruction_and_matter():
    obs = make_batch(make_spec(), b=2).obs.map(lambda x: x[:, 0])
    notes = ["state 1 2 3", "state 4"]
    backbone = Backbone.create(TINY, make_spec().cameras, TASKS, notes=notes)
    one = backbone(obs.images, obs.task, notes)
    two = backbone(obs.images, obs.task, notes[::-1])
    assert one.valid.shape[1] == 32 + backbone.tokenizer.width + 4
    assert one.valid[:, -4:].tolist() == [[True] * 4, [True, True, False, False]]
    assert one.words.shape == (2, backbone.tokenizer.width, 32)
    assert not torch.equal(one.words, two.words)
    assert (
        not backbone.of_description(TINY, backbone.describe(), backbone.cameras)
        .load_state_dict(backbone.state_dict(), strict=True)
        .missing_keys
    )
