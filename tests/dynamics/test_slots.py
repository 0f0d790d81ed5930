"""Laws of the slots that objects have in a belief."""

from dataclasses import replace

import pytest
import torch
from contracts.test_world_models import TABLE_SPEC, statistics, table_episodes

from worldlab.dynamics.layout import Layout
from worldlab.dynamics.slots import Slots
from worldlab.errors import UsageError
from worldlab.seeding import generator

LOOK = 5
SPEC = replace(TABLE_SPEC, privileged=tuple(n for n in TABLE_SPEC.privileged if not n.startswith("expert.")))


@pytest.fixture
def data():
    return table_episodes(4, 6)


@pytest.fixture
def slots(data):
    torch.manual_seed(0)
    made = Slots(SPEC, statistics(data), LOOK, 16)
    with torch.no_grad():
        made.contact.net[-1].weight.normal_()
    return made


def turned(data, angle: float):
    """The same data with every cube turned about the vertical."""
    half = torch.tensor(angle / 2)
    privileged = data.privileged.clone()
    for i, name in enumerate(TABLE_SPEC.privileged):
        if name.endswith(".qw"):
            privileged[..., i], privileged[..., i + 3] = half.cos(), half.sin()
    return privileged


def believed(slots, data, privileged):
    """w, of what is true."""
    world = Layout.of(SPEC.privileged).split(data.obs.state, data.obs.state, privileged[..., : len(SPEC.privileged)])
    return slots.to_belief(slots._known(world)), world


@pytest.mark.parametrize("angle", [0.0, 0.3, -0.7, 1.2, 3.0])
def test_a_slot_holds_where_an_upright_object_is_up_to_quarter_turns(slots, data, angle):
    w, world = believed(slots, data, turned(data, angle))
    held = slots._world(data.obs.state, w)
    for name in ("place", "marks", "pixels", "constants", "faces"):
        torch.testing.assert_close(getattr(held, name), getattr(world, name), rtol=1e-4, atol=1e-5)


def test_its_columns_are_the_simulators(slots, data):
    w, _ = believed(slots, data, turned(data, 0.3))
    said = slots.privileged(data.obs.state, w)
    arm = len(slots.layout.free)
    truth = turned(data, 0.3)[..., : len(SPEC.privileged)]
    torch.testing.assert_close(said[..., arm:], truth[..., arm:], rtol=1e-4, atol=1e-5)


def test_what_is_not_touched_stays(slots, data):
    w, _ = believed(slots, data, data.privileged)
    state = data.obs.state
    assert not torch.equal(slots.move(w, state, state + 0.1), w)
    torch.testing.assert_close(slots.move(w, state, state), w)
    with torch.no_grad():
        slots.contact.net[-1].bias[0] = -1e4
        slots.contact.net[-1].weight[0] = 0
    torch.testing.assert_close(slots.move(w, state, state + 0.1), w)


def test_the_gain_says_whether_a_frame_or_a_prediction_is_believed(slots, data):
    look = torch.randn(4, 6, LOOK, generator=generator(0))
    predicted, _ = believed(slots, data, data.privileged)
    read = slots.read(look)
    for bias, expected in ((-1e4, predicted), (1e4, slots.to_belief(read))):
        with torch.no_grad():
            slots.gain[-1].weight.zero_()
            slots.gain[-1].bias.fill_(bias)
        torch.testing.assert_close(slots.see(look, predicted, read)[1], expected, rtol=1e-4, atol=1e-5)


def test_following_is_seeing_row_after_row(slots, data):
    look = torch.randn(4, 6, LOOK, generator=generator(0))
    seen = slots.follow(look, data.obs.state)
    _, w = slots.see(look[:, 0], None, slots.read(look[:, 0]))
    for t in range(1, 6):
        predicted = slots.move(w, data.obs.state[:, t - 1], data.obs.state[:, t])
        _, w = slots.see(look[:, t], predicted, slots.read(look[:, t]))
    torch.testing.assert_close(seen.slots[:, -1], w)
    assert not seen.slots.requires_grad


def test_neither_reading_nor_contact_learns_for_the_other(slots, data):
    look = torch.randn(4, 6, LOOK, generator=generator(0)).requires_grad_()
    seen = slots.follow(look, data.obs.state)
    losses = slots.losses(seen, data.obs.state, data.privileged, data.valid, 3)
    losses["contact"].backward(retain_graph=True)
    assert look.grad is None
    assert slots.reader[-1].weight.grad is None
    assert slots.contact.net[-1].weight.grad is not None
    slots.zero_grad()
    (losses["read"] + losses["mixed"]).backward()
    assert slots.contact.net[-1].weight.grad is None
    assert (look.grad != 0).any()


def test_a_dream_does_not_answer_for_where_it_begins(slots, data):
    with torch.no_grad():
        slots.contact.net[-1].weight.zero_()
        slots.contact.net[-1].bias.zero_()
    still = data.privileged[:, :1].expand(-1, 6, -1)
    seen = slots.follow(torch.randn(4, 6, LOOK, generator=generator(0)), data.obs.state)
    truth, _ = believed(slots, data, still)
    elsewhere = truth.clone()
    elsewhere[..., : slots.parts[0]] += 0.5

    def contact(w):
        return slots.losses(replace(seen, slots=w), data.obs.state, still, data.valid, 3)["contact"].item()

    assert contact(truth) == pytest.approx(0, abs=1e-6)
    assert contact(elsewhere) == pytest.approx(0, abs=1e-6)
    moving, _ = believed(slots, data, data.privileged)
    assert slots.losses(replace(seen, slots=moving), data.obs.state, data.privileged, data.valid, 3)["contact"] > 0.1


def test_where_an_absent_object_would_be_does_not_count(slots, data):
    look = torch.randn(4, 6, LOOK, generator=generator(0))
    seen = slots.follow(look, data.obs.state)
    moved = data.privileged.clone()
    moved[::2, :, TABLE_SPEC.privileged.index("blue_cube.x")] += 1
    a, b = (slots.losses(seen, data.obs.state, p, data.valid, 3) for p in (data.privileged, moved))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_data_without_objects_are_refused(data):
    bare = replace(SPEC, privileged=("gripper.x",))
    with pytest.raises(UsageError, match="poses the data hold"):
        Slots(bare, statistics(data), LOOK, 16)
