"""What each stage before the actions learns, leaves as it is, and hands on."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from policies.synthetic import HEADS, TASKS, TINY, make_batch, make_policy, make_spec, make_statistics
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel
from transformers.models.clip.modeling_clip import clip_loss

from worldlab import policies
from worldlab.creation import instructions
from worldlab.errors import UsageError
from worldlab.policies import stages
from worldlab.policies.captioning import CaptioningConfig
from worldlab.policies.contrastive import ContrastiveConfig, sigmoid_loss, softmax_loss
from worldlab.policies.inherit import InitRun
from worldlab.runs import Run

STAGES = {
    "contrastive": ContrastiveConfig(backbone=replace(TINY, frozen=("language", "fusion")), width=16),
    "contrastive-clip": ContrastiveConfig(
        backbone=replace(TINY, frozen=("language", "fusion")), width=16, objective="softmax"
    ),
    "align": CaptioningConfig(backbone=replace(TINY, frozen=("vision", "language"))),
    "instruct": CaptioningConfig(kind="instruct", backbone=replace(TINY, frozen=("vision",))),
}
LEARNS = {
    "contrastive": ("backbone.fusion.tower.", "pool.", "text.", "of_", "scale", "bias"),
    "contrastive-clip": ("backbone.fusion.tower.", "pool.", "text.", "of_", "scale"),
    "align": ("backbone.fusion.projector.", "backbone.fusion.view"),
    "instruct": ("backbone.fusion.projector.", "backbone.fusion.view", "backbone.language."),
}


def make_stage(name, init_run=None, seed=0):
    torch.manual_seed(seed)
    config = STAGES[name]
    if init_run is not None:
        config = replace(config, backbone=init_run.applied_to(config.backbone))
    return stages.create(config, make_spec(), [*TASKS, *instructions()], init_run)


def save(model, path):
    run = Run.create(path, model.describe())
    run.save(model.state_dict())
    return path


def step(model, seed=0, b=8, rate=1e-2):
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    loss, metrics = model.loss(make_batch(make_spec(), b=b, seed=seed))
    loss.backward()
    optimizer.step()
    return float(loss.detach()), metrics


@pytest.fixture(params=STAGES)
def name(request):
    return request.param


def test_what_a_stage_leaves_as_it_is_gets_no_gradient_and_does_not_move(name):
    stage = make_stage(name)
    before = {key: value.clone() for key, value in stage.state_dict().items()}
    step(stage)
    learning = {key for key, p in stage.named_parameters() if p.grad is not None}
    assert learning
    assert all(key.startswith(LEARNS[name]) for key in learning)
    assert {key for key, p in stage.named_parameters() if p.requires_grad} == learning
    moved = {key for key, value in stage.state_dict().items() if not torch.equal(value, before[key])}
    assert moved <= learning
    assert len(moved) > len(learning) / 2


def test_the_next_stage_begins_where_the_last_one_ended(tmp_path):
    """All the way from captions to actions, each built from the run before it alone."""
    init_run, ended = None, {}
    for name in ("contrastive", "align", "instruct"):
        stage = make_stage(name, init_run, seed=1)
        if init_run is not None:
            report = init_run.load_into(stage)
            assert report.fresh == ()
            for key, value in stage.state_dict().items():
                assert torch.equal(value, ended[key]), key
        step(stage)
        ended = {key: value.clone() for key, value in stage.state_dict().items()}
        init_run = InitRun(save(stage, tmp_path / name))
    config = HEADS["flow"]
    config = replace(config, backbone=init_run.applied_to(config.backbone))
    policy = policies.create(config, make_spec(), make_statistics(), TASKS, init_run=init_run)
    report = init_run.load_into(policy)
    trunk = {key for key in ended if key.startswith("backbone.")}
    assert trunk <= {*policy.state_dict()} - {*report.fresh}
    assert all(torch.equal(policy.state_dict()[key], ended[key]) for key in trunk)
    assert policy.backbone.tokenizer.width < stage.backbone.tokenizer.width
    save(policy, tmp_path / "flow")
    again = policies.load_run(tmp_path / "flow")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in policy.state_dict().items())


@pytest.mark.parametrize("head", ["tokens", "fast", "flow-adarms"])
def test_a_head_that_writes_into_the_vocabulary_leaves_the_words_where_they_were(head, tmp_path):
    stage = make_stage("align")
    init_run = InitRun(save(stage, tmp_path / "align"))
    config = replace(HEADS[head], backbone=init_run.applied_to(HEADS[head].backbone))
    batch = make_batch(make_spec(), b=256)
    policy = policies.create(config, make_spec(), make_statistics(), TASKS, batch, init_run)
    report = init_run.load_into(policy)
    old, new = stage.words, policy.backbone.language.get_input_embeddings().weight
    assert torch.equal(new[: len(old)], old)
    assert not any(key.startswith("backbone.") for key in report.fresh)
    assert stage.backbone.tokenizer(TASKS)[0].sum() == policy.backbone.tokenizer(TASKS)[0].sum()


def test_adapters_go_beside_the_weights_of_the_run_before(tmp_path):
    stage = make_stage("align")
    init_run = InitRun(save(stage, tmp_path / "align"))
    config = replace(HEADS["flow"], backbone=init_run.applied_to(replace(TINY, lora=2)))
    policy = policies.create(config, make_spec(), make_statistics(), TASKS, init_run=init_run)
    report = init_run.load_into(policy)
    assert all("lora_" in name for name in report.fresh if name.startswith("backbone."))
    layer = "backbone.language.layers.0.mlp.up_proj"
    assert torch.equal(policy.state_dict()[f"{layer}.base_layer.weight"], stage.state_dict()[f"{layer}.weight"])


def test_a_stage_is_read_from_its_run_alone(name, tmp_path):
    stage = make_stage(name).eval()
    again = stages.load(save(stage, tmp_path / "run"))
    torch.manual_seed(3)
    before = stage.loss(make_batch(make_spec()))[0]
    torch.manual_seed(3)
    assert torch.equal(again.loss(make_batch(make_spec()))[0], before)
    with pytest.raises(UsageError, match="not a policy"):
        policies.load_run(tmp_path / "run")


def test_padding_of_captions_is_inert():
    stage = make_stage("contrastive").eval()
    short, long = "a red cube .", "a red cube , a green cube and a blue cube . red is left of blue ."
    alone = stage.texts([short])
    ids, spoken = stage.backbone.tokenizer.notes([short])
    torch.testing.assert_close(stage.texts([short, long])[:1], alone)
    hidden = stage.text(input_ids=ids[:, spoken[0]]).last_hidden_state.mean(1)  # no padding at all
    torch.testing.assert_close(normalize(stage.of_text(hidden), dim=-1), alone)

    align = make_stage("align").eval()
    obs = make_batch(make_spec(), b=2).obs.map(lambda x: x[:, 0])
    logits, _, said = align.forced(obs, ["describe the image"] * 2, [short, long])
    one = replace(obs.map(lambda x: x[:1]), task=obs.task[:1])
    alone, _, _ = align.forced(one, ["describe the image"], [short])
    torch.testing.assert_close(logits[:1, :4], alone)
    assert said.sum(1).tolist() == [4, len(long.split())]


def test_a_word_is_foretold_from_those_before_it_alone():
    align = make_stage("align").eval()
    obs = make_batch(make_spec(), b=1).obs.map(lambda x: x[:, 0])
    one, *_ = align.forced(obs, ["describe the image"], ["a red cube ."])
    two, *_ = align.forced(obs, ["describe the image"], ["a red and ."])
    torch.testing.assert_close(one[:, :3], two[:, :3])  # the third word is foretold before it is read
    assert not torch.allclose(one[:, 3], two[:, 3])


def test_both_losses_are_those_of_transformers():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {"vocab_size": 20, "max_position_embeddings": 4, "projection_size": 16}
    model = SiglipModel(
        SiglipConfig(text_config=text, vision_config=sizes | {"image_size": 16, "patch_size": 8})
    ).eval()
    out = model(input_ids=torch.randint(20, (6, 4)), pixel_values=torch.randn(6, 3, 16, 16), return_loss=True)
    logits = out.text_embeds @ out.image_embeds.T * model.logit_scale.exp() + model.logit_bias
    torch.testing.assert_close(sigmoid_loss(logits, torch.eye(6, dtype=torch.bool)), out.loss)
    torch.testing.assert_close(softmax_loss(logits, torch.eye(6, dtype=torch.bool)), clip_loss(logits))


def test_the_sigmoid_loss_is_a_sum_over_blocks_of_pairs_and_the_softmax_loss_is_not():
    """So a process needs no more than its own images and captions, and the negatives of others can be added in turn."""
    logits, match = torch.randn(8, 8), torch.eye(8, dtype=torch.bool)
    blocks = [(slice(i, i + 4), slice(j, j + 4)) for i in (0, 4) for j in (0, 4)]
    parts = [sigmoid_loss(logits[block], match[block]) * 4 / 8 for block in blocks]
    torch.testing.assert_close(torch.stack(parts).sum(), sigmoid_loss(logits, match))
    own = torch.stack([softmax_loss(logits[b], match[b]) for b in blocks if match[b].any()]).mean()
    assert not torch.allclose(own, softmax_loss(logits, match))


def test_equal_captions_belong_to_each_others_images():
    logits = torch.tensor([[5.0, 5.0], [5.0, 5.0]])
    same = torch.ones(2, 2, dtype=torch.bool)
    assert sigmoid_loss(logits, same) < sigmoid_loss(logits, torch.eye(2, dtype=torch.bool))


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "metric", "least"), [("contrastive", "retrieved", 0.5), ("instruct", "tokens", 0)])
def test_it_learns(stage, metric, least):
    model = make_stage(stage)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    batch = make_batch(make_spec(), b=16)
    losses = []
    for i in range(130):
        torch.manual_seed(i % 3)
        loss, metrics = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert float(metrics[metric].detach()) >= least


def test_what_cannot_be_gone_on_with_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="no run at"):
        InitRun(tmp_path / "nothing")
    blind = make_policy(policies.StateOnlyConfig(width=16, chunk=4, execute=2, pace=None))
    with pytest.raises(UsageError, match="no vision-language trunk"):
        InitRun(save(blind, tmp_path / "blind"))
    Run.create(tmp_path / "begun", make_stage("align").describe())
    with pytest.raises(UsageError, match="no weights"):
        InitRun(tmp_path / "begun")
    init_run = InitRun(save(make_stage("align"), tmp_path / "align"))
    with pytest.raises(UsageError, match="does not know the words juggle"):
        policies.create(HEADS["flow"], make_spec(), make_statistics(), ["juggle the red cube"], init_run=init_run)
    lora = replace(HEADS["flow"], backbone=replace(TINY, lora=2))
    adapted = InitRun(save(make_policy(lora), tmp_path / "lora"))
    with pytest.raises(UsageError, match="--lora 2 would work"):
        adapted.applied_to(TINY)


def test_a_checkpoint_that_writes_by_a_layer_of_its_own_is_not_taught_words(tmp_path):
    made = make_stage("align").backbone
    for tied, where in ((False, tmp_path / "untied"), (True, tmp_path / "tied")):
        made.language.config.tie_word_embeddings = tied
        made.language.save_pretrained(where)
        words = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
        PreTrainedTokenizerFast(tokenizer_object=made.tokenizer._tokenizer, **words).save_pretrained(where)
        config = replace(STAGES["align"], backbone=replace(TINY, language=str(where)))
        with nullcontext() if tied else pytest.raises(UsageError, match="another layer than its embeddings"):
            stages.create(config, make_spec(), TASKS)


def test_a_stage_without_labels_or_tower_is_refused_in_one_sentence():
    with pytest.raises(UsageError, match="collect it in simulation"):
        stages.create(STAGES["align"], make_spec(labelled=False), TASKS)
    native = replace(STAGES["contrastive"], backbone=replace(TINY, fusion="native"))
    with pytest.raises(UsageError, match="no vision tower to pretrain"):
        stages.create(native, make_spec(), TASKS)
