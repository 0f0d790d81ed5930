"""A contest is fair, can be interrupted, and its table says what was measured."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest
from policies.synthetic import make_spec

from worldlab import bakeoff, datasets
from worldlab.bakeoff import Contest, Entry, table
from worldlab.cli import main
from worldlab.errors import UsageError
from worldlab.presets import HEADS

CONTEST = Contest(
    task="reach",
    data="",
    heads=tuple(HEADS),
    fusions=bakeoff.FUSIONS,
    seeds=3,
    steps=1,
    minutes=None,
    chunk=8,
    episodes=2,
)


def test_only_the_head_or_the_fusion_differs():
    recipes = dict(CONTEST.recipes())
    assert set(recipes) == {*HEADS, *(f"flow@{fusion}" for fusion in bakeoff.FUSIONS[1:])}
    flow = recipes["flow"]
    for name, recipe in recipes.items():
        rate = 1e-3 if name in ("act", "diffusion-policy") else 2e-3
        fit = replace(flow.fit, learning_rate=rate)
        assert (recipe.windows, recipe.fit, recipe.hold_out) == (flow.windows, fit, flow.hold_out)
        assert (recipe.model.chunk, recipe.model.execute) == (8, 4)
        if name not in ("state-only", "act", "diffusion-policy"):
            assert (recipe.model.cameras, recipe.model.grounding) == (flow.model.cameras, flow.model.grounding)
            assert (recipe.model.backbone == flow.model.backbone) == ("@" not in name)
            assert recipe.model.direct
        if "@" in name:
            assert recipe.model.kind == "flow"
            assert recipe.model.backbone.fusion == name.removeprefix("flow@")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"heads": ("flwo",)}, "unknown head 'flwo'. Did you mean 'flow'"),
        ({"fusions": ("lava",)}, "unknown fusion 'lava'. Did you mean 'llava'"),
        ({"task": "pull"}, "unknown task 'pull'"),
    ],
)
def test_what_is_unknown_is_named(change, sentence):
    with pytest.raises(UsageError, match=sentence):
        dict(Contest(**{**vars(CONTEST), **change}).recipes())


def test_what_cannot_be_held_begins_no_folder(tmp_path):
    others, own = tmp_path / "others.zarr", tmp_path / "own.zarr"
    for path, env in ((others, "lerobot/so101"), (own, "worldlab/Reach-v0")):
        datasets.EpisodeStore.create(str(path), make_spec(), {"env": env}).close()
    for change, sentence in (
        ({"seeds": 0}, "--seeds must be at least 1"),
        ({"episodes": 0}, "--episodes must be at least 1"),
        ({"steps": 0}, "above zero"),
        ({"steps": None, "minutes": math.nan}, "above zero"),
        ({"heads": (), "fusions": ()}, "needs contenders"),
        ({"data": str(tmp_path / "none.zarr")}, "no episode store"),
        ({"data": str(others)}, "unknown environment 'lerobot/so101'"),
        ({"data": str(own), "chunk": 1}, r"execute must be 1 to chunk \(1\)"),
    ):
        with pytest.raises(UsageError, match=sentence):
            bakeoff.bakeoff(Contest(**{**vars(CONTEST), **change}), tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="--workers"):
        bakeoff.bakeoff(CONTEST, tmp_path / "out", workers=0)


def entry(name, seed, successes):
    return Entry(name, seed, 640, 1.0, 1000, 0.01 * (seed + 1), 0.001, 512, successes, 100, 0.002, 9.5, None, None)


RATES = {"steady": (50, 50, 50), "moody": (0, 50, 100)}


def test_the_table_has_the_spread_over_training_seeds():
    """A recipe whose seeds disagree has a wider interval than one whose seeds agree at the same mean."""
    text = table(
        [entry("steady", s, 50) for s in range(3)] + [entry("moody", s, k) for s, k in enumerate((0, 50, 100))]
    )
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()[2:]}
    assert "| 50% [" in rows["steady"]
    assert "0 50 100 of 100" in rows["moody"]
    assert "20.0 [10.0, 30.0]" in rows["moody"]

    def width(row):
        low, high = row.split("[")[1].split("]")[0].replace("%", "").split(", ")
        return int(high) - int(low)

    assert width(rows["moody"]) > 2 * width(rows["steady"])


def judged(contest, config, name, seed, out, device):
    """In the place of training; `state-only` diverges, `act` takes its process with it."""
    if name == "state-only":
        raise UsageError("training diverged.")
    if name == "act":
        raise BrokenProcessPool
    made = entry(name, seed, 50)
    (out / f"{name}-{seed}").mkdir(exist_ok=True)
    (out / f"{name}-{seed}" / "entry.json").write_text(json.dumps(vars(made)))
    return made


def test_the_table_holds_all_that_finished_here_and_says_who_did_not(tmp_path, monkeypatch):
    data, out = str(tmp_path / "reach.zarr"), tmp_path / "out"
    datasets.EpisodeStore.create(data, make_spec(), {"env": "worldlab/Reach-v0"}).close()
    monkeypatch.setattr(bakeoff, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    monkeypatch.setattr(bakeoff, "_enter", judged)

    def names():
        rows = (out / "table.md").read_text().splitlines()[2:]
        entries = json.loads((out / "results.json").read_text())["entries"]
        assert {row.split(" | ")[0].strip("| ") for row in rows if row.startswith("|")} == {e["name"] for e in entries}
        return [e["name"] for e in entries]

    def hold(*heads):
        return bakeoff.bakeoff(replace(CONTEST, data=data, heads=heads, fusions=(), seeds=1), out)

    with pytest.raises(UsageError, match=r"no contender could be judged; state-only, seed 0: training diverged\."):
        hold("state-only")
    outcome = hold("state-only", "flow")
    assert names() == ["flow"]
    assert "Not in the table: state-only, seed 0: training diverged." in outcome.line
    assert outcome.values["failed"] == {"state-only, seed 0": "training diverged."}
    with pytest.raises(UsageError, match="a process of the contest died"):
        hold("l1", "act")
    assert names() == ["flow", "l1"]
    hold("fast")
    assert names() == ["fast", "flow", "l1"]


@pytest.mark.slow
def test_a_contest_is_held_and_goes_on(tmp_path, capsys):
    out, data = tmp_path / "contest", str(tmp_path / "reach.zarr")
    main(["collect", "worldlab/Reach-v0", "--episodes", "8", "--out", data, "--workers", "1"])
    command = ["bakeoff", "--data", data, "--out", str(out), "--task", "reach", "--steps", "1", "--episodes", "2"]
    command += ["--seeds", "1", "--workers", "1", "--json"]
    main([*command, "--heads", "fast", "state-only"])
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [e["name"] for e in first["entries"]] == ["fast", "state-only"]
    fast, blind = first["entries"]
    assert fast["samples"] == blind["samples"] == 32
    assert fast["windows"] == blind["windows"] > 0
    assert fast["tokens"] >= 1
    assert blind["tokens"] is None
    written = (out / "fast-0" / "entry.json").stat().st_mtime_ns
    main([*command, "--heads", "fast", "state-only"])
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["entries"] == first["entries"]
    assert (out / "fast-0" / "entry.json").stat().st_mtime_ns == written
    with pytest.raises(SystemExit):
        main([*command, "--heads", "fast", "--chunk", "4"])
    assert "holds a contest with chunk 8, not 4" in capsys.readouterr().err
    for other, said in ((out / "table.md", "is a file"), (out / "fast-0", "run of kind 'fast'")):
        with pytest.raises(SystemExit):
            main([*command, "--heads", "fast", "--out", str(other)])
        assert said in capsys.readouterr().err
    main(["collect", "worldlab/Reach-v0", "--episodes", "2", "--out", data, "--workers", "1", "--seed", "100"])
    with pytest.raises(SystemExit):
        main([*command, "--heads", "fast"])
    assert "has grown" in capsys.readouterr().err
