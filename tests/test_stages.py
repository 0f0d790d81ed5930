"""From captions to actions on the command line, each stage going on from the run before it."""

import json

import pytest

from worldlab import policies
from worldlab.cli import main
from worldlab.runs import Run


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    root = tmp_path_factory.mktemp("stages")
    store = f"{root}/x.zarr"
    main(["collect", "worldlab/Reach-v0", "--episodes", "11", "--n", "11", "--workers", "1", "--out", store])
    before: list[str] = []
    for preset in ("contrastive-reach", "align-reach", "instruct-reach", "flow-reach"):
        main(["train", preset, "--data", store, "--out", f"{root}/{preset}", "--steps", "1", *before])
        before = ["--init", f"{root}/{preset}"]
    return root


def stage(lab, preset):
    return json.loads((lab / preset / "stage.json").read_text())


def test_every_run_says_what_it_began_with(lab):
    assert Run.open(lab / "contrastive-reach").config["init"] is None
    for preset, before in (("align-reach", "contrastive-reach"), ("instruct-reach", "align-reach")):
        init = Run.open(lab / preset).config["init"]
        assert init["run"] == str(lab / before)
        assert init["loaded"] > 0
        assert init["fresh"] == []
    assert not any(name.startswith("backbone.") for name in Run.open(lab / "flow-reach").config["init"]["fresh"])
    assert policies.load(lab / "flow-reach").kind == "flow"


def test_every_stage_is_measured_on_held_out_episodes_beside_its_baselines(lab):
    seen = stage(lab, "contrastive-reach")
    assert 0 < seen["chance"] < 1
    assert seen["interval"][0] <= seen["retrieved"] <= seen["interval"][1]
    assert {"nats", "blind_nats", "n"} <= stage(lab, "align-reach").keys()
    told = stage(lab, "instruct-reach")
    assert told["n"] == sum(kind["n"] for kind in told["kinds"].values())
    for kind in told["kinds"].values():
        assert sum(kind["answers"].values()) == kind["n"]
    assert told["kinds"]["held"]["majority"] == 1  # nothing is held in Reach
    assert told["majority"] > told["accuracy"]  # after a single step
    assert Run.open(lab / "instruct-reach").config["held_out"] == [0, 10]


def refused(capsys, *args):
    with pytest.raises(SystemExit) as error:
        main([*args])
    assert error.value.code == 2
    return capsys.readouterr().err


def test_a_run_is_resumed_with_the_init_that_it_was_begun_from(lab, capsys):
    again = ["train", "align-reach", "--data", f"{lab}/x.zarr", "--out", f"{lab}/align-reach", "--steps", "2"]
    assert "from another run (--init)" in refused(capsys, *again, "--resume")
    assert "has finished" in refused(capsys, *again, "--resume", "--init", f"{lab}/contrastive-reach")


def test_what_does_not_go_together_is_refused_in_one_sentence(lab, capsys, tmp_path):
    train = ("--data", f"{lab}/x.zarr", "--out", f"{tmp_path}/y", "--steps", "1", "--init", f"{lab}/align-reach")
    assert "takes the trunk of" in refused(capsys, "train", "flow-reach", *train, "--fusion", "qformer")
    assert "has no vision-language trunk" in refused(capsys, "train", "state-reach", *train)
    assert "no run at" in refused(capsys, "train", "flow-reach", *train[:-1], f"{tmp_path}/none")
