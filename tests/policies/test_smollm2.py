"""A real pretrained language model, without a hub: converted, read, kept frozen, trained beside, acted with."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from policies.synthetic import HEADS, TASKS, TINY, make_batch, make_policy, make_spec
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TOOL = Path(__file__).parents[2] / "tools" / "smollm2.py"


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    return runpy.run_path(str(TOOL))["convert"](tmp_path_factory.mktemp("smollm2"))


def test_its_words_are_the_models_own(smollm2):
    """The ids are those that the model was trained on: with them it finds English likely, and with others not."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    text = "The robot picked up the red cube and put it on the table next to the green cube."
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == text
    assert tokenizer.convert_ids_to_tokens(tokenizer("lift 12").input_ids) == ["lift", "Ġ", "1", "2"]
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    assert len(tokenizer) == model.config.vocab_size == 49152
    with torch.no_grad():
        right = model(input_ids=ids, labels=ids).loss
        wrong = model(input_ids=ids + 1, labels=ids + 1).loss
    assert right < 3.5 < 7 < wrong


def test_a_flow_policy_trains_on_it_frozen_and_acts(smollm2):
    trunk = replace(TINY, fusion="qformer", queries=2, language=str(smollm2), frozen=("language",))
    policy = make_policy(replace(HEADS["flow"], backbone=trunk, draws=2)).train()
    before = {name: w.clone() for name, w in policy.backbone.language.state_dict().items()}
    batch = make_batch(make_spec(), b=2)
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=2e-3)
    losses: list[float] = []
    for _ in range(6):
        torch.manual_seed(0)
        loss, _ = policy.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(w, before[name]) for name, w in policy.backbone.language.state_dict().items())
    assert sum(p.numel() for p in policy.backbone.language.parameters()) == 134_515_008
    policy.eval().reset([0])
    obs = batch.obs.map(lambda x: x[:1, 0])
    act = policy.act(replace(obs, task=TASKS[:1]))
    assert act.shape == (1, 2, 6)
    assert act.isfinite().all()
