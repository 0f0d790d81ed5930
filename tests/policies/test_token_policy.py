"""Laws of the heads that let the trunk write or read tokens."""

import pytest
import torch
from policies.synthetic import HEADS, TASKS, TINY, make_policy, read

from worldlab.errors import UsageError
from worldlab.policies import Backbone
from worldlab.policies.head import Interface, Noise
from worldlab.policies.token_policy import TokenHead, target

NOTHING = torch.zeros(8, 0, dtype=torch.long)


def forced(policy, prefix, facts, classes):
    return policy.head.writer.forced(policy.backbone, prefix, facts, classes)


@torch.no_grad()
def test_cached_decoding_equals_teacher_forcing():
    policy = make_policy(HEADS["tokens"])
    prefix, facts = read(policy)
    classes, logits = policy.head.decode(policy.backbone, prefix, facts, NOTHING)
    again = forced(policy, prefix, facts, classes)
    torch.testing.assert_close(again, logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(again.argmax(-1), classes)
    assert classes.shape == (8, 24)


@torch.no_grad()
def test_a_token_depends_on_the_tokens_before_it_alone():
    policy = make_policy(HEADS["tokens"])
    prefix, facts = read(policy)
    classes = torch.randint(256, (8, 24))
    other = classes.clone()
    other[:, 10:] = torch.randint(256, (8, 14))
    one, two = (forced(policy, prefix, facts, x) for x in (classes, other))
    assert torch.equal(one[:, :11], two[:, :11])
    assert not torch.equal(one[:, 11:], two[:, 11:])


@pytest.mark.parametrize("head", ["tokens-parallel", "l1"])
def test_slots_are_read_in_one_pass_and_see_each_other(head):
    """The first slot's output depends on the last slot's input, which an autoregressive head could not do."""
    policy = make_policy(HEADS[head])
    prefix, facts = read(policy)
    slots = policy.head.reader(policy.backbone, prefix, facts)
    assert slots.shape == (8, 24, 32)
    slots[:, 0].square().sum().backward()
    assert policy.head.reader.slot.grad[-1].abs().sum() > 0


def test_action_ids_lie_behind_the_words():
    policy = make_policy(HEADS["tokens"])
    words = policy.backbone.tokenizer.size
    assert policy.head.tokenizer.first == policy.head.writer.first == words
    assert policy.backbone.language.config.vocab_size == words + 256


def test_soft_targets_are_distributions_about_the_right_bin():
    right = torch.tensor([0, 7, 255])
    soft = target(right, 256, 2.0)
    torch.testing.assert_close(soft.sum(-1), torch.ones(3))
    assert torch.equal(soft.argmax(-1), right)
    hard = target(right, 256, 0.0)
    assert hard[1, 7] == 1
    assert hard.sum() == 3


def test_what_was_written_is_counted():
    policy = make_policy(HEADS["tokens"])
    prefix, facts = read(policy)
    policy.head.sample(policy.backbone, prefix, facts, Noise(range(8), 0), torch.zeros(8, 0, 6))
    assert policy.head.counts == {"chunks": 8, "tokens": 8 * 24, "invalid": 0}


def test_a_vocabulary_without_room_is_refused():
    small = Backbone.create(TINY, {"front": (32, 32)}, TASKS)
    with pytest.raises(UsageError, match="no room"):
        TokenHead(HEADS["tokens"], small, Interface((6, 2), True, 4, 6, 2))


@pytest.mark.parametrize("name", ["tokens", "tokens-parallel"])
def test_no_label_is_a_class_that_is_never_written(name):
    """Whatever is large shares a bin, in the labels as in what is decoded."""
    head = make_policy(HEADS[name]).head
    action = torch.linspace(-1.5, 1.5, 48).view(1, 8, 6)
    classes = head.classes(action)
    assert classes.min() == 1
    assert classes.max() == head.bins - 1
    torch.testing.assert_close(head.chunk(classes), action.clamp(-1, 1), rtol=0, atol=1.01 / (head.bins - 1))
