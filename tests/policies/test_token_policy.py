"""Laws of the token head."""

import pytest
import torch
from policies.synthetic import TASKS, TINY, make_batch, make_spec, make_statistics, tokens

from worldlab import policies
from worldlab.errors import UsageError
from worldlab.policies import Backbone
from worldlab.policies.token_policy import TokenHead


def make(**fields):
    torch.manual_seed(0)
    return policies.create(tokens(**fields), make_spec(), make_statistics(), TASKS).eval()


def read(policy):
    obs = make_batch(make_spec()).obs.map(lambda x: x[:, 0])
    return policy._read(obs, obs.task)


@torch.no_grad()
def test_cached_decoding_equals_teacher_forcing():
    policy = make()
    prefix, facts, _ = read(policy)
    ids, logits = policy.head.decode(policy.backbone, prefix, facts)
    forced = policy.head.forced(policy.backbone, prefix, facts, ids)
    torch.testing.assert_close(forced, logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(policy.head.tokenizer.first + forced.argmax(-1), ids)
    assert ids.shape == (8, 24)


@torch.no_grad()
def test_a_token_depends_on_the_tokens_before_it_alone():
    policy = make()
    prefix, facts, _ = read(policy)
    first, last = policy.head.tokenizer.first, policy.head.tokenizer.vocabulary - 1
    ids = torch.randint(first, last, (8, 24))
    other = ids.clone()
    other[:, 10:] = torch.randint(first, last, (8, 14))
    one, two = (policy.head.forced(policy.backbone, prefix, facts, x) for x in (ids, other))
    assert torch.equal(one[:, :11], two[:, :11])
    assert not torch.equal(one[:, 11:], two[:, 11:])


def test_action_ids_lie_behind_the_words():
    policy = make()
    words = policy.backbone.tokenizer.size
    assert policy.head.tokenizer.first == words
    assert policy.backbone.language.config.vocab_size == words + 256


def test_soft_targets_are_distributions_about_the_right_bin():
    right = torch.tensor([0, 7, 255])
    soft = make(softness=2.0).head.target(right)
    torch.testing.assert_close(soft.sum(-1), torch.ones(3))
    assert torch.equal(soft.argmax(-1), right)
    hard = make(softness=0.0).head.target(right)
    assert hard[1, 7] == 1
    assert hard.sum() == 3


def test_a_vocabulary_without_room_is_refused():
    small = Backbone.create(TINY, {"front": (32, 32)}, TASKS)
    with pytest.raises(UsageError, match="no room"):
        TokenHead(tokens(), small, [6, 2], 6)
