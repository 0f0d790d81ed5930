"""A lean policy says what the policy says."""

from dataclasses import replace

import pytest
import torch
from policies.synthetic import FUSED, HEADS, TINY, make_batch, make_policy, make_spec
from torch.nn.functional import gelu
from transformers.activations import ACT2FN

from worldlab.policies import GroundingConfig
from worldlab.policies.lean import LeanDecoderLayer, LeanEncoderLayer, LeanExpertLayer, Product, lean
from worldlab.policies.lean import gelu as lean_gelu

FAMILIES = ("llama", "gemma", "gemma2", "qwen2", "qwen3", "mistral")
TOWERS = ("siglip", "siglip2", "clip", "vit", "dinov2")


def awake(policy):
    """With norms, biases and modulations that do something; most start at 1 or 0."""
    for name, weight in policy.named_parameters():
        if weight.ndim == 1 or "modulation" in name:
            torch.nn.init.normal_(weight, mean=weight.mean().item(), std=0.2)
    return policy


def plan(policy, rows=3):
    obs = make_batch(make_spec(), b=3).obs.map(lambda x: x[:rows, 0])
    policy.reset(range(rows))
    return policy.plan(replace(obs, task=obs.task[:rows]))


def check(policy, monkeypatch):
    """In fp32 equal to 1e-5; in bf16, forced on matrices of every size, near."""
    before = plan(policy)
    torch.testing.assert_close(plan(lean(policy, torch.float32)), before, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr("worldlab.policies.lean._LARGE", 0)
    monkeypatch.setattr("worldlab.policies.lean._MANY", 0)
    near = plan(lean(policy))
    assert not torch.equal(near, before)
    assert (near - before).abs().amax() < 0.03 * before.std()
    assert torch.equal(plan(policy), before)


@pytest.mark.parametrize("head", [*(h for h in HEADS if "flow" in h), "diffusion", "l1"])
def test_every_expert(head, monkeypatch):
    check(awake(make_policy(HEADS[head])), monkeypatch)


@pytest.mark.parametrize("name", [n for n in FUSED if n.startswith("flow")])
def test_every_fusion(name, monkeypatch):
    check(awake(make_policy(FUSED[name])), monkeypatch)


@pytest.mark.parametrize(("part", "family"), [*(("language", f) for f in FAMILIES), *(("vision", t) for t in TOWERS)])
def test_every_family(part, family, monkeypatch):
    config = replace(HEADS["flow"], backbone=replace(TINY, layers=2, **{part: family}))
    check(awake(make_policy(config)), monkeypatch)


def test_what_no_whole_patch_holds_is_left_out(monkeypatch):
    config = replace(FUSED["flow-anyres"], backbone=replace(FUSED["flow-anyres"].backbone, image=20))
    assert 20 % config.backbone.patch
    check(awake(make_policy(config)), monkeypatch)


def test_adapters_stay(monkeypatch):
    config = replace(HEADS["flow"], backbone=replace(TINY, lora=2))
    policy = make_policy(config)
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    check(policy, monkeypatch)


def test_without_a_grounding_nobody_reads_the_last_layer(monkeypatch):
    policy = awake(make_policy(replace(HEADS["flow"], grounding=GroundingConfig(weight=0.0))))
    check(policy, monkeypatch)
    assert not lean(policy).backbone.language.layers[-1].read
    assert lean(make_policy(HEADS["flow"])).backbone.language.layers[-1].read


@pytest.mark.parametrize("head", ["tokens", "fast"])
def test_heads_that_write_say_the_same_in_fp32(head):
    policy = awake(make_policy(HEADS[head]))
    torch.testing.assert_close(plan(lean(policy, torch.float32)), plan(policy), rtol=1e-5, atol=1e-5)


def test_a_row_does_not_depend_on_its_company():
    policy = lean(awake(make_policy(HEADS["flow"])))
    assert torch.equal(plan(policy, 3)[:1], plan(policy, 1))


def test_what_is_rebuilt():
    policy = make_policy(replace(HEADS["flow"], backbone=replace(TINY, layers=2)))
    kinds = [type(m) for m in lean(policy).modules()]
    assert [kinds.count(k) for k in (LeanDecoderLayer, LeanEncoderLayer, LeanExpertLayer)] == [2, 2, 2]
    assert not any(isinstance(m, Product) for m in policy.modules())
    assert not any(p.requires_grad for p in lean(policy).parameters())


def test_gelu_is_that_of_gemma():
    x = torch.linspace(-12, 12, 4001)
    torch.testing.assert_close(lean_gelu(x), gelu(x, approximate="tanh"), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lean_gelu(x), ACT2FN["gelu_pytorch_tanh"](x), rtol=1e-5, atol=1e-6)
