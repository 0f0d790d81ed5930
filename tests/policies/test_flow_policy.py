"""Laws of the action expert, and of the heads that denoise with it."""

import pytest
import torch
from policies.synthetic import HEADS, make_policy, read

from worldlab.policies.head import Noise

EXPERTS = ("flow", "flow-adarms", "diffusion")


def awake(policy):
    """The policy with modulations that do something; they start at zero."""
    for name, weight in policy.head.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return policy


def velocity(policy, prefix, facts, x, t):
    context = policy.head.expert.read(prefix, facts, 4)
    return policy.head.expert(context, x, t[..., None].expand(*t.shape, 4))


@pytest.mark.parametrize("head", EXPERTS)
def test_draws_share_a_prefix_and_do_not_see_each_other(head):
    policy = awake(make_policy(HEADS[head]))
    prefix, facts = read(policy)
    x, t = torch.randn(8, 3, 4, 6), torch.rand(8, 3)
    together = velocity(policy, prefix, facts, x, t)
    alone = torch.cat([velocity(policy, prefix, facts, x[:, i : i + 1], t[:, i : i + 1]) for i in range(3)], 1)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_the_prefix_is_untouched_by_the_head(head):
    policy = make_policy(HEADS[head])
    prefix, facts = read(policy)
    before = [layer.keys.clone() for layer in prefix.cache.layers]
    policy.head.loss(policy.backbone, prefix, facts, torch.rand(8, 4, 6), torch.ones(8, 4, dtype=torch.bool))
    policy.head.sample(policy.backbone, prefix, facts, Noise(range(8), 0), torch.zeros(8, 0, 6))
    assert all(torch.equal(a, layer.keys) for a, layer in zip(before, prefix.cache.layers, strict=True))


@pytest.mark.parametrize("head", EXPERTS)
def test_padding_of_an_instruction_changes_nothing(head):
    policy = awake(make_policy(HEADS[head]))
    prefix, facts = read(policy)
    x, t = torch.randn(8, 1, 4, 6), torch.rand(8, 1)
    short = velocity(policy, prefix, facts, x, t)
    assert not prefix.valid.all()
    policy.backbone.tokenizer.width += 5
    longer, facts = read(policy)
    torch.testing.assert_close(velocity(policy, longer, facts, x, t), short, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", ["flow", "diffusion"])
def test_the_loss_reaches_the_whole_trunk(head):
    policy = make_policy(HEADS[head])
    prefix, facts = read(policy)
    real = torch.ones(8, 4, dtype=torch.bool)
    loss, _ = policy.head.loss(policy.backbone, prefix, [facts[0], facts[1].detach()], torch.randn(8, 4, 6), real)
    loss.backward()
    assert policy.backbone.tower.model.get_input_embeddings().weight.grad.abs().sum() > 0
    assert policy.backbone.language.embed_tokens.weight.grad.abs().sum() > 0


def test_the_gates_of_adarms_start_closed():
    """A fresh layer passes its input on, whatever time and prefix say (adaLN-Zero)."""
    policy = make_policy(HEADS["flow-adarms"])
    prefix, facts = read(policy)
    expert = policy.head.expert
    context = expert.read(prefix, facts, 4)
    x = torch.randn(8, 1, 4, 6)
    tokens, _, _ = expert.layers[0](
        expert.action_in(x),
        context.keys[0],
        context.values[0],
        context.unseen,
        context.rotation,
        expert.level(context, torch.rand(8, 1, 4)).modulations[:2],
    )
    assert torch.equal(tokens, expert.action_in(x))
    assert torch.equal(expert(context, x, torch.zeros(8, 1, 4)), expert(context, x, torch.ones(8, 1, 4)))


def test_pi05_has_no_token_for_the_state_but_reads_it_in_the_prompt():
    policy = awake(make_policy(HEADS["flow-adarms"]))
    prefix, facts = read(policy)
    context = policy.head.expert.read(prefix, facts, 4)
    assert context.keys[0].shape[2] == prefix.valid.shape[1]
    notes = policy.state_notes(torch.tensor([[-0.1, 0.1, 0.0, 0.0, 0.0, 9.9]]))
    assert notes[0].startswith("state: 0 2")
    assert notes[0].endswith(" 255")
    ids, there = policy.backbone.tokenizer.notes(notes)
    assert there.all()
    assert (ids != 1).all()  # 1 is the unknown word


class TestInsulation:
    """The words teach the trunk, the flow does not."""

    def parts(self, which):
        policy = make_policy(HEADS["flow-insulated"])
        prefix, facts = read(policy)
        action, real = torch.rand(8, 4, 6), torch.ones(8, 4, dtype=torch.bool)
        loss, metrics = policy.head.loss(policy.backbone, prefix, facts, action, real)
        torch.testing.assert_close(metrics["fast"] + metrics["flow"], loss)
        metrics[which].backward()
        trunk = [*policy.backbone.parameters(), *policy.grounding.parameters()]
        return policy, sum(0.0 if p.grad is None else float(p.grad.abs().sum()) for p in trunk)

    def test_the_flow_loss_has_no_gradient_in_the_trunk(self):
        policy, trunk = self.parts("flow")
        assert trunk == 0
        assert policy.head.flow.expert.action_out.weight.grad.abs().sum() > 0

    def test_the_loss_of_the_words_has(self):
        policy, trunk = self.parts("fast")
        assert trunk > 0
        assert all(p.grad is None for p in policy.head.flow.parameters())

    def test_the_two_do_not_see_each_other(self):
        """Neither loss changes with the other's weights."""
        policy = make_policy(HEADS["flow-insulated"])
        prefix, facts = read(policy)
        action, real = torch.rand(8, 4, 6), torch.ones(8, 4, dtype=torch.bool)

        def losses():
            torch.manual_seed(3)
            return policy.head.loss(policy.backbone, prefix, facts, action, real)[1]

        before = losses()
        for part, other in (("flow", "fast"), ("fast", "flow")):
            for p in getattr(policy.head, part).parameters():
                torch.nn.init.normal_(p, std=0.1)
            after = losses()
            assert after[other] == before[other]
            assert after[part] != before[part]
            before = after


class TestRealTimeChunking:
    """Training-time: what is committed is given without noise."""

    def test_given_steps_are_not_learnt(self):
        policy = make_policy(HEADS["flow-delay"])
        prefix, facts = read(policy)
        context = policy.head.expert.read(prefix, facts, 4)
        action, noise = torch.rand(8, 4, 6), torch.randn(8, 1, 4, 6)
        given = torch.tensor([True, True, False, False]).expand(8, 1, 4)
        t = torch.where(given, 0.0, 0.7)
        error = policy.head.error(context, action, noise, t, ~given)
        noise[:, :, :2] = 99.0  # at time 0 an action has no noise, and its velocity is not asked for
        assert policy.head.error(context, action, noise, t, ~given) == error

    def test_a_commitment_within_the_delay_is_seen_clean_at_every_step(self):
        policy = make_policy(HEADS["flow-delay"])
        prefix, facts = read(policy)
        seen, levels = [], []
        expert = policy.head.expert
        predict, level = expert.predict, expert.level
        expert.predict = lambda context, x, told: seen.append(x) or predict(context, x, told)
        expert.level = lambda context, t: levels.append(t) or level(context, t)
        committed = torch.rand(8, 2, 6)
        chunk = policy.head.sample(policy.backbone, prefix, facts, Noise(range(8), 0), committed)
        assert torch.equal(chunk[:, :2], committed)
        assert len(seen) == 4
        assert all(torch.equal(x[:, 0, :2], committed) for x in seen)
        assert levels[0].shape == (8, 4, 4)
        assert (levels[0][..., :2] == 0).all()
        assert (levels[0][..., 2:] > 0).all()
