"""Laws of the flow head and of the trunk's prefix."""

import torch
from policies.synthetic import TASKS, flow, make_batch, make_spec, make_statistics

from worldlab import policies


def make(**fields):
    torch.manual_seed(0)
    return policies.create(flow(**fields), make_spec(), make_statistics(), TASKS).eval()


def read(policy, b=8, task=None):
    obs = make_batch(make_spec(), b=b).obs.map(lambda x: x[:, 0])
    return policy._read(obs, task or obs.task)


def test_draws_share_a_prefix_and_do_not_see_each_other():
    policy = make()
    prefix, facts, _ = read(policy)
    x, t = torch.randn(8, 3, 4, 6), torch.rand(8, 3)
    together = policy.head.velocity(prefix, facts, x, t)
    alone = torch.cat([policy.head.velocity(prefix, facts, x[:, i : i + 1], t[:, i : i + 1]) for i in range(3)], 1)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_the_prefix_is_untouched_by_the_expert():
    policy = make()
    prefix, facts, _ = read(policy)
    x, t = torch.randn(8, 1, 4, 6), torch.rand(8, 1)
    before = [layer.keys.clone() for layer in prefix.cache.layers]
    policy.head.velocity(prefix, facts, x, t)
    assert all(torch.equal(a, layer.keys) for a, layer in zip(before, prefix.cache.layers, strict=True))


def test_padding_of_an_instruction_changes_nothing():
    policy = make()
    prefix, facts, _ = read(policy)
    x, t = torch.randn(8, 1, 4, 6), torch.rand(8, 1)
    short = policy.head.velocity(prefix, facts, x, t)
    assert not prefix.valid.all()
    policy.backbone.tokenizer.width += 5
    longer, facts, _ = read(policy)
    torch.testing.assert_close(policy.head.velocity(longer, facts, x, t), short, rtol=1e-5, atol=1e-5)


def test_the_flow_loss_reaches_the_whole_trunk():
    policy = make()
    prefix, facts, _ = read(policy)
    real = torch.ones(8, 4, dtype=torch.bool)
    loss, _ = policy.head.loss(policy.backbone, prefix, [facts[0], facts[1].detach()], torch.randn(8, 4, 6), real)
    loss.backward()
    assert policy.backbone.tower.model.get_input_embeddings().weight.grad.abs().sum() > 0
    assert policy.backbone.language.embed_tokens.weight.grad.abs().sum() > 0
