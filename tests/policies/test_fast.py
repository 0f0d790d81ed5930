"""FAST against SciPy's transform, and the laws of its vocabulary and its decoder."""

import numpy as np
import pytest
import torch
from policies.synthetic import HEADS, make_policy, read
from scipy.fft import dctn

from worldlab.errors import UsageError
from worldlab.policies.fast_tokens import FastTokenizer, _transform
from worldlab.policies.head import Noise


def chunks(n, k=8, a=6, seed=0):
    """Smooth movements, as arms make them."""
    g = torch.Generator().manual_seed(seed)
    start, speed = torch.rand(n, 1, a, generator=g) - 0.5, 0.1 * torch.randn(n, 1, a, generator=g)
    return start + speed * torch.arange(k)[:, None] / k


@pytest.fixture(scope="module")
def tokenizer():
    return FastTokenizer.learn(chunks(2000), 32.0, 300)


def test_coefficients_are_those_of_an_orthonormal_cosine_transform():
    chunk = chunks(1)[0].numpy()
    ours = _transform(chunk[None], 32.0)[0].reshape(8, 6)
    theirs = np.stack([dctn(chunk[:, i].astype(float), norm="ortho") for i in range(6)], -1)
    assert np.array_equal(ours, np.rint(32 * theirs))
    n, i = np.meshgrid(np.arange(8), np.arange(8))
    matrix = np.where(i == 0, np.sqrt(1 / 8), np.sqrt(2 / 8)) * np.cos(np.pi * (n + 0.5) * i / 8)  # the definition
    np.testing.assert_allclose(theirs, matrix @ chunk, atol=1e-6)


def test_words_give_back_the_chunk_up_to_rounding(tokenizer):
    chunk = chunks(200, seed=1)
    back = tokenizer.decode([row.tolist() for row in tokenizer.encode(chunk)])
    # Rounding moves each of an orthonormal transform's coefficients by at most 1/2, so a column of 8 by sqrt(8)/2.
    assert (back - chunk).norm(dim=1).amax() <= 8**0.5 / 2 / 32 + 1e-6
    assert (back - chunk).square().mean().sqrt() < 0.35 / 32


def test_smooth_chunks_take_few_words(tokenizer):
    """Fewer than half as many as bins would; noise does not compress."""
    assert np.mean([len(row) for row in tokenizer.encode(chunks(200, seed=1))]) < 24
    assert tokenizer.sizes.max() > 1


def test_a_finer_scale_is_more_exact_and_longer():
    chunk = chunks(500, seed=2)
    error, length = [], []
    for scale in (8.0, 32.0):
        words = FastTokenizer.learn(chunk, scale, 400)
        rows = words.encode(chunk)
        error.append(float((words.decode([r.tolist() for r in rows]) - chunk).abs().mean()))
        length.append(np.mean([len(row) for row in rows]))
    assert error[1] < error[0] / 2
    assert length[1] > length[0]


def test_coefficients_never_seen_go_to_the_nearest(tokenizer):
    back = tokenizer.decode([row.tolist() for row in tokenizer.encode(chunks(1) + 9)])
    assert torch.isfinite(back).all()
    assert back.amax() < 1.5


def test_the_vocabulary_survives_its_description(tokenizer):
    again = FastTokenizer.of_description(tokenizer.describe())
    chunk = chunks(5, seed=3)
    assert [r.tolist() for r in again.encode(chunk)] == [r.tolist() for r in tokenizer.encode(chunk)]
    assert torch.equal(again.sizes, tokenizer.sizes)


def test_a_sequence_of_another_length_is_refused(tokenizer):
    words = tokenizer.encode(chunks(1))[0].tolist()
    with pytest.raises(ValueError, match="do not make a chunk of 8 x 6"):
        tokenizer.decode([words[:-1]])


def test_a_vocabulary_smaller_than_the_alphabet_is_refused():
    with pytest.raises(UsageError, match="range too widely"):
        FastTokenizer.learn(chunks(100), 100.0, 64)


class TestDecoding:
    """Whatever an untrained head wants, it writes whole chunks."""

    @torch.no_grad()
    def test_every_sequence_makes_exactly_one_chunk(self):
        policy = make_policy(HEADS["fast"])
        prefix, facts = read(policy)
        rows, logits = policy.head.decode(policy.backbone, prefix, facts)
        sizes = policy.head.tokenizer.sizes
        assert [int(sizes[row].sum()) for row in rows] == [24] * 8
        assert logits.shape[1] == max(map(len, rows))

    @torch.no_grad()
    def test_refused_words_are_counted_once_a_sequence(self):
        policy = make_policy(HEADS["fast"])
        prefix, facts = read(policy)
        sizes = policy.head.tokenizer.sizes
        longest = int(torch.where(24 % sizes > 0, sizes, 0).argmax())
        policy.head.writer.logits.bias[longest] += 1e4  # a head that wants one long word for ever
        policy.head.sample(policy.backbone, prefix, facts, Noise(range(8), 0), torch.zeros(8, 0, 6))
        assert policy.head.counts["invalid"] == 8
        assert policy.head.counts["tokens"] >= 8 * (24 // int(sizes[longest]) + 1)

    @torch.no_grad()
    def test_cached_decoding_equals_teacher_forcing(self):
        policy = make_policy(HEADS["fast"])
        prefix, facts = read(policy, b=1)
        rows, logits = policy.head.decode(policy.backbone, prefix, facts)
        forced = policy.head.writer.forced(policy.backbone, prefix, facts, torch.tensor(rows))
        torch.testing.assert_close(forced, logits, rtol=1e-5, atol=1e-5)


def test_whoever_asks_for_a_word_is_told_which_coefficient_it_begins_with():
    policy = make_policy(HEADS["fast"])
    prefix, facts = read(policy, b=1)
    sizes = policy.head.tokenizer.sizes
    words = [int(torch.nonzero(sizes == size)[0]) for size in (2, 1, 2, 1)]
    policy.head.writer.forced(policy.backbone, prefix, facts, torch.tensor([words])).square().sum().backward()
    asked = torch.nonzero(policy.head.writer.slot.grad.abs().sum(-1))[:, 0].tolist()
    assert asked == [0, 2, 3, 5]


def test_a_head_without_words_says_so():
    policy = make_policy(HEADS["fast"])
    policy.head.tokenizer = None
    prefix, facts = read(policy)
    with pytest.raises(UsageError, match="no words yet"):
        policy.head.decode(policy.backbone, prefix, facts)


def test_no_chunks_are_no_words():
    with pytest.raises(UsageError, match="collect the expert's"):
        FastTokenizer.learn(torch.zeros(0, 8, 6), 10.0, 1024)
