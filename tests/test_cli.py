"""Bad input gets one clear sentence and status 2, never a traceback."""

import json
import shutil
import subprocess

import pytest
import torch

from worldlab.cli import main


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A small store and two runs of different kinds, trained for a few steps: the verbs, end to end."""
    root = tmp_path_factory.mktemp("lab")
    main(["collect", "worldlab/Reach-v0", "--episodes", "6", "--n", "4", "--noise", "0.1", "--out", f"{root}/x.zarr"])
    main(["train", "flow-reach", "--data", f"{root}/x.zarr", "--out", f"{root}/flow", "--steps", "2"])
    main(["train", "state-reach", "--data", f"{root}/x.zarr", "--out", f"{root}/world", "--steps", "2", "--batch", "4"])
    return root


def refused(capsys, *arguments: str) -> str:
    """The sentence with which a command is refused."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence.startswith("worldlab: ")
    assert "Traceback" not in sentence
    return sentence


def test_verbs_end_with_a_line_or_with_json(lab, capsys):
    main(["eval", f"{lab}/flow", "--env", "worldlab/Reach-v0", "--episodes", "2", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 2
    assert set(result["controls"]) == {"expert", "random", "blank_image", "wrong_instruction"}
    assert result["controls"]["expert"]["rate"] == 1
    main(["imagine", f"{lab}/world", "--data", f"{lab}/x.zarr", "--horizon", "5", "--branches", "3", "--json"])
    assert {"1", "2", "5"} <= set(json.loads(capsys.readouterr().out)["effect_error"])
    main(["view", f"{lab}/x.zarr", "--json"])
    assert json.loads(capsys.readouterr().out)["episodes"] == 6
    main(["compare", "expert", "random", "--env", "Reach", "--episodes", "20"])
    assert "expert succeeds more often than random" in capsys.readouterr().out
    main(["compare", f"lean:{lab}/flow", f"{lab}/flow", "--env", "Reach", "--episodes", "2"])
    assert "No difference" in capsys.readouterr().out
    main(["list", "presets"])
    assert "flow-lift" in capsys.readouterr().out


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_of_several_processes_one_says_what_came_of_it(capsys, monkeypatch, options):
    for rank, speaks in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        main(["list", "envs", *options])
        assert bool(capsys.readouterr().out) == speaks


def test_a_preset_gives_way_to_what_is_asked_for(lab):
    from worldlab.runs import Run

    ours, theirs = (Run.open(lab / name).config["recipe"] for name in ("world", "flow"))
    assert (ours["fit"]["steps"], ours["windows"]["batch"], theirs["windows"]["batch"]) == (2, 4, 32)


def test_collecting_again_appends_unseen_seeds(lab, tmp_path, capsys):
    store = tmp_path / "x.zarr"
    shutil.copytree(lab / "x.zarr", store)
    main(["collect", "worldlab/Reach-v0", "--episodes", "3", "--n", "2", "--out", str(store), "--json"])
    assert json.loads(capsys.readouterr().out)["total"] == 9
    from worldlab.datasets import EpisodeStore

    seeds = EpisodeStore(store).seeds
    assert len(set(seeds.tolist())) == 9
    assert seeds.min() >= 1_000_000


def test_unknown_names_come_with_a_suggestion(lab, tmp_path, capsys):
    store = f"{lab}/x.zarr"
    assert "Did you mean 'worldlab/Lift-v0'" in refused(
        capsys, "collect", "worldlab/Lfit-v0", "--episodes", "1", "--out", f"{tmp_path}/x"
    )
    assert "Did you mean 'flow-reach'" in refused(
        capsys, "train", "flow-raech", "--data", store, "--out", f"{tmp_path}/y"
    )
    assert "light" in refused(capsys, "eval", "expert", "--env", "Reach", "--variation", "lihgt=1")
    assert "NAME=SEVERITY" in refused(capsys, "eval", "expert", "--env", "Reach", "--variation", "light")


def test_missing_and_foreign_files(lab, tmp_path, capsys):
    assert "does not exist" in refused(
        capsys, "train", "flow-reach", "--data", f"{tmp_path}/no.zarr", "--out", f"{tmp_path}/y"
    )
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "file.txt").write_text("not a store")
    assert "not an episode store" in refused(
        capsys, "train", "flow-reach", "--data", str(foreign), "--out", f"{tmp_path}/y"
    )
    assert "no config.json" in refused(capsys, "eval", str(foreign), "--env", "Reach")
    assert "does not exist" in refused(capsys, "eval", f"{tmp_path}/nothing", "--env", "Reach")
    assert "not empty" in refused(capsys, "train", "flow-reach", "--data", f"{lab}/x.zarr", "--out", str(foreign))


def test_a_run_of_another_kind(lab, capsys):
    assert "not a policy" in refused(capsys, "eval", f"{lab}/world", "--env", "Reach")
    assert "not a world model" in refused(capsys, "imagine", f"{lab}/flow", "--data", f"{lab}/x.zarr")


def test_a_policy_and_an_environment_that_disagree(lab, capsys):
    sentence = refused(capsys, "eval", f"{lab}/flow", "--env", "dm_control/cartpole-swingup-v0", "--episodes", "1")
    assert "disagree on" in sentence


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(lab, tmp_path, capsys):
    data = f"{lab}/x.zarr"
    assert "no CUDA device" in refused(
        capsys, "train", "flow-reach", "--data", data, "--out", f"{tmp_path}/y", "--device", "cuda"
    )
    assert not (tmp_path / "y").exists()


def test_pictures_of_another_size_are_judged_at_that_size(tmp_path, capsys):
    data = str(tmp_path / "wide.zarr")
    main(
        ["collect", "worldlab/Reach-v0", "--episodes", "4", "--n", "4", "--size", "48", "--workers", "1", "--out", data]
    )
    main(["train", "flow-reach", "--data", data, "--steps", "1", "--out", f"{tmp_path}/flow"])
    main(["eval", f"{tmp_path}/flow", "--env", "worldlab/Reach-v0", "--episodes", "2", "--no-controls"])
    assert " on worldlab/Reach-v0" in capsys.readouterr().out


def test_resuming_another_run_is_refused(lab, capsys):
    sentence = refused(
        capsys, "train", "tokens-reach", "--data", f"{lab}/x.zarr", "--out", f"{lab}/flow", "--resume", "--steps", "2"
    )
    assert "was trained as flow-reach" in sentence


def test_a_run_is_resumed_with_the_options_it_was_begun_with(tmp_path, lab, capsys):
    train = ["train", "flow-reach", "--data", f"{lab}/x.zarr", "--out", f"{tmp_path}/run", "--steps", "1"]
    main([*train, "--seed", "1"])
    for options in ((), ("--seed", "1", "--batch", "8")):
        assert "another seed or batch" in refused(capsys, *train, "--resume", *options)
    assert "has finished" in refused(capsys, *train, "--resume", "--seed", "1")


@pytest.mark.parametrize("option", ["--steps", "--minutes", "--batch", "--env-steps", "--ratio"])
def test_nothing_is_trained_on_nothing(lab, tmp_path, capsys, option):
    train = ["train", "flow-reach", "--data", f"{lab}/x.zarr", "--out", f"{tmp_path}/run"]
    if option in ("--env-steps", "--ratio"):
        train = ["train", "dreamer-proprio", "--env", "dm_control/cartpole-swingup-v0", "--out", f"{tmp_path}/run"]
    for value in ("0", "nan", "inf") if option in ("--minutes", "--ratio") else ("0",):
        assert f"{option} must be a finite number above zero; got {value}" in refused(capsys, *train, option, value)
    assert not (tmp_path / "run").exists()


def test_a_refused_training_leaves_no_folder(lab, tmp_path, capsys):
    train = ["train", "dreamer-proprio", "--data", f"{lab}/x.zarr", "--out", f"{tmp_path}/run"]
    assert "needs a budget" in refused(capsys, *train)
    assert "actions last 2 control steps, and those of" in refused(capsys, *train, "--steps", "1")
    assert not (tmp_path / "run").exists()


def test_results_that_cannot_be_written_are_refused_before_the_episodes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("no folder")
    monkeypatch.setattr("worldlab.workbench.judge", lambda *_: 1 / 0)
    assert "could not read or write 'runs" in refused(capsys, "eval", "random", "--env", "Reach", "--episodes", "1")


def test_what_is_wrong_with_either_policy_is_said_before_any_episode(lab, capsys, monkeypatch):
    monkeypatch.setattr("worldlab.workbench.judge", lambda *_: 1 / 0)
    cartpole = ["--env", "dm_control/cartpole-swingup-v0", "--episodes", "1"]
    assert "disagree on" in refused(capsys, "compare", "random", f"{lab}/flow", *cartpole)
    assert "does not exist" in refused(capsys, "compare", "random", f"{lab}/nothing", *cartpole)


def test_what_cannot_be_begins_nothing(lab, tmp_path, capsys):
    out = f"{tmp_path}/out"
    assert "a seed is 0 or more" in refused(capsys, "eval", "random", "--env", "Reach", "--seed", "-1")
    for minutes in ("0", "nan", "inf"):
        assert "--minutes must be a finite number above zero" in refused(
            capsys, "demo", "--minutes", minutes, "--out", out
        )
    assert "--check, --force and --env are of policies" in refused(
        capsys, "export", "dataset", f"{lab}/x.zarr", "--out", out, "--check"
    )
    assert "at least 1 episode" in refused(
        capsys, "export", "dataset", f"{lab}/x.zarr", "--out", out, "--episodes", "0"
    )
    ways = ["imagine", f"{lab}/world", "--data", f"{lab}/x.zarr", "--ways", "zero", "--branches", "3"]
    assert "leave --branches out" in refused(capsys, *ways)
    contest = ["bakeoff", "--data", f"{lab}/x.zarr", "--out", out, "--steps", "1", "--seed", "3"]
    assert "trains by the seeds 0, 1" in refused(capsys, *contest)
    assert not (tmp_path / "out").exists()


def test_a_demo_is_not_resumed(tmp_path, capsys):
    (tmp_path / "anything").touch()
    sentence = refused(capsys, "demo", "--out", str(tmp_path))
    assert sentence.endswith("is not empty; remove it, or give another --out.")


def test_a_run_is_not_resumed_on_data_that_have_grown(tmp_path, capsys):
    data, out = str(tmp_path / "x.zarr"), str(tmp_path / "run")
    collect = f"collect worldlab/Reach-v0 --episodes 2 --n 2 --size 16 --workers 1 --out {data}".split()
    main(collect)
    train = ["train", "flow-reach", "--data", data, "--out", out, "--steps", "1"]
    main(train)
    main(collect)
    assert "has grown" in refused(capsys, *train, "--resume")


def test_another_trunk(lab, tmp_path, capsys):
    main(["list", "backbones"])
    assert {"fusion qformer", "vision dinov2", "language qwen3"} <= set(capsys.readouterr().out.splitlines())
    train = ["train", "flow-reach", "--data", f"{lab}/x.zarr", "--steps", "2", "--out"]
    assert "Did you mean 'qformer'" in refused(capsys, *train, f"{tmp_path}/y", "--fusion", "qfromer")
    assert "Did you mean 'vision'" in refused(capsys, *train, f"{tmp_path}/y", "--frozen", "visoin")
    for option in ("--backbone", "--vision", "--language"):
        for name in ("nobody/no-such-model", str(tmp_path)):
            assert f"'{name}'" in refused(capsys, *train, f"{tmp_path}/y", option, name)
    assert "no vision-language trunk" in refused(
        capsys, "train", "state-reach", "--data", f"{lab}/x.zarr", "--out", f"{tmp_path}/y", "--lora", "2"
    )
    assert "another trunk" in refused(capsys, *train, f"{lab}/flow", "--resume", "--fusion", "native")
    assert "--lora is a rank" in refused(capsys, *train, f"{tmp_path}/y", "--lora", "-1")
    stage = ["train", "align-reach", "--data", f"{lab}/x.zarr", "--steps", "2", "--out", f"{tmp_path}/z"]
    assert "nothing is left to train" in refused(capsys, *stage, "--frozen", "vision", "language", "fusion")
    assert not (tmp_path / "z").exists()
    main([*train, f"{tmp_path}/y", "--fusion", "qformer", "--vision", "dinov2", "--language", "gemma", "--lora", "2"])
    assert "trained for 2 steps" in capsys.readouterr().out


def test_a_full_disk(lab, tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        train = ("train", "flow-reach", "--data", f"{lab}/x.zarr", "--out", f"{disk}/run", "--steps", "2")
        assert "No space left" in refused(capsys, *train)
        assert not (disk / "run" / "model.safetensors").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
