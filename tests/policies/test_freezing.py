"""What is frozen does not change, and adapters change nothing but themselves."""

from dataclasses import replace

import pytest
import torch
from policies.synthetic import HEADS, TINY, make_batch, make_policy, make_spec

from worldlab import policies
from worldlab.policies.backbone_config import PARTS
from worldlab.runs import Run


def make(**fields):
    head = replace(HEADS["flow"], backbone=replace(TINY, **fields))
    return make_policy(head).train()


def step(policy):
    """One of AdamW, large enough to change every weight that has a gradient."""
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    policy.loss(make_batch(make_spec()))[0].backward()
    torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1).step()
    return {name for name, p in policy.named_parameters() if not torch.equal(p, before[name])}


def belongs(name, part):
    between = name.startswith("backbone.fusion.")
    return {
        "vision": name.startswith("backbone.fusion.tower."),
        "fusion": between and not name.startswith("backbone.fusion.tower."),
        "language": name.startswith("backbone.language."),
        "embeddings": name.startswith("backbone.language.embed_tokens."),
    }[part]


@pytest.mark.parametrize("fusion", ["llava", "flamingo"])
@pytest.mark.parametrize("part", PARTS)
def test_a_frozen_part_gets_no_gradient_and_does_not_change(part, fusion):
    policy = make(frozen=(part,), fusion=fusion)
    changed = step(policy)
    frozen = {name for name, _ in policy.named_parameters() if belongs(name, part)}
    assert frozen
    assert not frozen & changed
    assert all(p.grad is None for name, p in policy.named_parameters() if name in frozen)
    assert any(name.startswith("head.") for name in changed)
    for other in set(PARTS) - {part}:
        if not (part == "language" and other == "embeddings"):
            assert any(belongs(name, other) for name in changed)


def test_adapters_start_as_nothing_and_leave_what_they_adapt_alone():
    plain, adapted = make(), make(lora=2, lora_parts=("vision", "language"))
    names = {name: name.replace(".base_layer", "") for name, _ in adapted.named_parameters()}
    own = dict(plain.state_dict())
    adapted.load_state_dict({name: own[names[name]] for name in names if "lora_" not in name}, strict=False)
    batch = make_batch(make_spec())
    losses = []
    for policy in (plain, adapted):
        torch.manual_seed(0)
        losses.append(policy.loss(batch)[0])
    torch.testing.assert_close(losses[1], losses[0])
    changed = step(adapted)
    part = {name for name in names if name.startswith(("backbone.language.", "backbone.fusion.tower."))}
    assert part & changed == {name for name in part if "lora_" in name}
    assert sum("lora_B" in name for name in part) == 7 + 6


def test_adapters_learn_beside_what_is_frozen_by_name():
    changed = step(make(lora=2, lora_parts=("vision", "language"), frozen=("vision", "language")))
    part = {name for name in changed if name.startswith(("backbone.language.", "backbone.fusion.tower."))}
    assert sum("lora_B" in name for name in part) == 7 + 6
    assert all("lora_" in name for name in part)


def test_adapters_live_in_the_runs_one_file(tmp_path):
    policy = make(lora=2)
    step(policy)
    policy.eval()
    run = Run.create(tmp_path / "run", policy.describe())
    run.save(policy.state_dict())
    loaded = policies.load(tmp_path / "run")
    obs = make_batch(make_spec()).obs.map(lambda x: x[:, 0])
    policy.reset(range(8))
    loaded.reset(range(8))
    assert torch.equal(loaded.act(obs), policy.act(obs))
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in policy.parameters()]
