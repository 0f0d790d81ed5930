"""Laws of the pointing task."""

from dataclasses import replace

import pytest
import torch
from policies.synthetic import COLOURS, make_batch, make_spec

from worldlab.errors import UsageError
from worldlab.policies.fusion import grid
from worldlab.policies.grounding import Grounding, Labels, Pointing, rename

GRID = grid(4, 4)


def test_relabelled_rows_name_another_present_cube_and_its_pixel():
    spec = make_spec()
    batch = make_batch(spec, b=64)
    labels = Labels(spec, "front")
    torch.manual_seed(0)
    drawn = labels.draw(batch.obs.task, batch.privileged[:, 0], 0.5)
    assert 0.25 < drawn.changed.float().mean() < 0.75
    index = {name: i for i, name in enumerate(spec.privileged)}
    for i, (text, original) in enumerate(zip(drawn.task, batch.obs.task, strict=True)):
        colour = next(c for c in COLOURS if c in text)
        row = batch.privileged[i, 0]
        assert row[index[f"{colour}_cube.present"]] == 1
        assert (text != original) == bool(drawn.changed[i]) == (row[index[f"{colour}_cube.target"]] == 0)
        assert drawn.point[i].tolist() == [[row[index[f"{colour}_cube.front.{x}"]].item() for x in "uv"]]
    assert labels.draw(batch.obs.task, batch.privileged[:, 0], 0.0).task == batch.obs.task


def test_the_second_object_is_the_other_that_the_instruction_names_also_where_both_are_exchanged():
    spec = make_spec()
    privileged = make_batch(spec, b=64).privileged[:, 0]
    index = {name: i for i, name in enumerate(spec.privileged)}

    def where(row, colour):
        return [row[index[f"{colour}_cube.front.{x}"]].item() for x in "uv"]

    def is_(row, what):
        return [c for c in COLOURS if row[index[f"{c}_cube.{what}"]] == 1]

    named = [
        (is_(row, "target")[0], next(c for c in is_(row, "present") if c not in is_(row, "target")))
        for row in privileged
    ]
    task = tuple(f"stack the {a} cube on the {b} cube" for a, b in named)
    torch.manual_seed(0)
    drawn = Labels(spec, "front", ("first", "second")).draw(task, privileged, 0.5)
    exchanged = 0
    for i, row in enumerate(privileged):
        first, second = [word for word in drawn.task[i].split() if word in COLOURS]
        assert drawn.point[i].tolist() == [where(row, first), where(row, second)]
        exchanged += (first, second) == named[i][::-1]
    assert drawn.known.all()
    assert 0 < exchanged < drawn.changed.sum()
    alone = Labels(spec, "front", ("first", "second")).draw(("take the cube",) * 64, privileged, 0.0)
    assert alone.known.tolist() == [[True, False]] * 64


def test_the_zone_is_pointed_at_where_the_data_say_where_it_is_seen():
    spec = make_spec()
    batch = make_batch(spec, b=4)
    with pytest.raises(UsageError, match="where camera 'front' sees one"):
        Labels(spec, "front", ("zone",))
    assert Labels(make_spec(labelled=False), "front", ("zone",)).colours == ()  # then nothing is pointed at
    spec = replace(spec, privileged=("zone.front.u", "zone.front.v", *spec.privileged))
    zone = torch.tensor([[0.2, 0.3], [0.4, 0.5], [0.6, 1.2], [0.0, 1.0]])
    privileged = torch.cat([zone, batch.privileged[:, 0]], -1)
    seen = Labels(spec, "front", ("zone",)).draw(batch.obs.task, privileged, 0.0)
    assert torch.equal(seen.point[:, 0], zone)
    assert seen.known[:, 0].tolist() == [True, True, False, True]


def test_a_name_is_exchanged_as_a_word():
    assert rename("put the red cube, redder than rust, down", "red", "blue") == (
        "put the blue cube, redder than rust, down"
    )
    assert rename("stack the red cube on the blue cube", "red", "blue") == "stack the blue cube on the red cube"


def test_the_bilinear_share_of_a_point_has_the_point_as_its_mean():
    grounding = Grounding(8, 12, GRID)
    point = 0.125 + 0.75 * torch.rand(50, 2)
    torch.testing.assert_close(grounding.point(grounding.share(point).log()), point)


def test_the_loss_is_least_at_the_label_and_ignores_rows_without_one():
    grounding = Grounding(8, 12, GRID)
    point = 0.125 + 0.75 * torch.rand(6, 1, 2)
    known = torch.tensor([1, 1, 1, 1, 0, 0], dtype=torch.bool)[:, None]
    labels = Pointing(("",) * 6, point, known, torch.zeros(6, dtype=torch.bool))
    right = (grounding.share(point) + 1e-9).log()
    best, error = grounding.loss(right, labels)
    worse, _ = grounding.loss(right.roll(1, 0), labels)
    assert error < 1e-5 < best < worse
    moved = right.clone()
    moved[4:] = torch.randn(2, 1, 16).log_softmax(-1)
    assert grounding.loss(moved, labels)[0] == best
