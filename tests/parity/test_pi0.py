"""Our flow head against transformers' pi0 on the same weights: the loss and the sampled chunk.

The prefix (images and text) is embedded by transformers' model; the trunk is read with our masks and positions, and
everything after it is ours.
"""

import pytest
import torch
from transformers import DynamicCache, PI0Config, PI0ForConditionalGeneration

from worldlab.policies.action_expert import ActionExpert
from worldlab.policies.attention import additive, positions
from worldlab.policies.backbone import Prefix
from worldlab.policies.flow_policy import FlowHead, FlowSettings
from worldlab.policies.head import Interface

WIDTH, STEPS, ACTIONS, STATE, IMAGE = 48, 10, 8, 8, 1000
HEADS = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32}


@pytest.fixture(scope="module")
def pi0():
    torch.manual_seed(0)
    vision = {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, "hidden_size": 32}
    vision |= {"intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 64}
    text = {"model_type": "gemma", "hidden_size": 64, "intermediate_size": 128, "vocab_size": 1024, **HEADS}
    vlm = {"model_type": "paligemma", "vision_config": vision, "text_config": text, "image_token_id": IMAGE}
    dit = {"model_type": "gemma", "hidden_size": WIDTH, "intermediate_size": 8 * WIDTH // 3, "vocab_size": 16, **HEADS}
    sizes = {"chunk_size": STEPS, "max_state_dim": STATE, "max_action_dim": ACTIONS}
    model = PI0ForConditionalGeneration(PI0Config(vlm_config=vlm | {"projection_dim": 64}, dit_config=dit, **sizes))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.08)  # also of norms and biases, which would start at zero
    model.set_attn_implementation("eager")
    return model.eval()


def transfer(pi0) -> FlowHead:
    """Our head with transformers' weights; Gemma's norms store the deviation from 1."""
    head = FlowHead.__new__(FlowHead)
    torch.nn.Module.__init__(head)
    head.config = FlowSettings(width=WIDTH)
    head.chunk = (STEPS, ACTIONS)
    interface = Interface((STATE,), False, STEPS, ACTIONS, STEPS)
    head.expert = ActionExpert(pi0.config.vlm_config.text_config, WIDTH, interface)
    theirs, embed = pi0.model.dit, pi0.embed_action_time
    ours: dict[str, torch.Tensor] = {"norm.weight": 1 + theirs.norm.weight}
    for name, linear in (
        ("facts.0", embed.state_proj),
        ("action_in", embed.action_in_proj),
        ("time_in", embed.action_time_mlp_in),
        ("time_out", embed.action_time_mlp_out),
        ("action_out", pi0.action_out_proj),
    ):
        ours |= {f"{name}.weight": linear.weight, f"{name}.bias": linear.bias}
    for i, layer in enumerate(theirs.layers):
        attention, mlp = layer.self_attn, layer.mlp
        linears = {"query": attention.q_proj, "key": attention.k_proj, "value": attention.v_proj}
        linears |= {"out": attention.o_proj, "gate": mlp.gate_proj, "up": mlp.up_proj, "down": mlp.down_proj}
        ours |= {f"layers.{i}.{name}.weight": linear.weight for name, linear in linears.items()}
        ours[f"layers.{i}.before_attention.weight"] = 1 + layer.input_layernorm.weight
        ours[f"layers.{i}.before_mlp.weight"] = 1 + layer.post_attention_layernorm.weight
    head.expert.load_state_dict(ours)
    return head.eval()


@pytest.fixture(scope="module")
def inputs():
    """Two cameras, and an instruction that is shorter in the second row."""
    g = torch.Generator().manual_seed(1)
    ids = torch.cat([torch.full((2, 32), IMAGE), torch.randint(1, 900, (2, 6), generator=g)], 1)
    valid = torch.ones(2, 38, dtype=torch.long)
    valid[1, 35:] = 0
    return {
        "input_ids": ids,
        "attention_mask": valid,
        "pixel_values": torch.rand(2, 2, 3, 32, 32, generator=g),
        "pixel_attention_mask": torch.ones(2, 2, dtype=torch.bool),
        "state": torch.randn(2, STATE, generator=g),
    }


def read(pi0, inputs) -> Prefix:
    """The trunk's prefix, by our rules."""
    valid = inputs["attention_mask"].bool()
    tokens = pi0.model.embed_prefix(inputs["input_ids"], inputs["pixel_values"], inputs["pixel_attention_mask"])
    mask = additive(valid[:, None].expand(-1, valid.shape[1], -1))
    cache = DynamicCache()
    hidden = pi0.model.vlm.language_model(
        inputs_embeds=tokens, attention_mask=mask, position_ids=positions(valid), past_key_values=cache
    ).last_hidden_state
    return Prefix(cache, valid, hidden[:, 32:], valid[:, 32:], hidden[:, :16])


@torch.no_grad()
def test_the_loss_is_pi0s(pi0, inputs):
    head, g = transfer(pi0), torch.Generator().manual_seed(2)
    action, noise = torch.randn(2, STEPS, ACTIONS, generator=g), torch.randn(2, STEPS, ACTIONS, generator=g)
    t = torch.rand(2, generator=g)
    theirs = pi0(**inputs, actions=action, noise=noise, timestep=t).loss
    context = head.expert.read(read(pi0, inputs), [inputs["state"]], STEPS)
    everything = torch.ones(2, 1, STEPS, dtype=torch.bool)
    ours = head.error(context, action, noise[:, None], t[:, None, None].expand(2, 1, STEPS), everything)
    torch.testing.assert_close(ours, theirs.mean(), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_sampled_chunk_is_pi0s(pi0, inputs):
    head, noise = transfer(pi0), torch.randn(2, STEPS, ACTIONS, generator=torch.Generator().manual_seed(3))
    theirs = pi0.sample_actions(**inputs, noise=noise, num_steps=10)
    context = head.expert.read(read(pi0, inputs), [inputs["state"]], STEPS)
    ours = head.integrate(context, noise, torch.zeros(2, 0, ACTIONS))
    assert (theirs - noise).abs().amax() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
