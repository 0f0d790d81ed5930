"""What is shown of a store is what it holds: the recording is read back, the sizes are those of the files."""

import json

import numpy as np
import pytest
import torch
from episodes import SPEC, random_trajectory
from rerun.experimental import RrdReader

from worldlab import summaries, viewing
from worldlab.cli import main
from worldlab.datasets import EpisodeStore
from worldlab.errors import UsageError
from worldlab.runs import Run

LENGTHS = (5, 3, 7, 1)


@pytest.fixture
def store(tmp_path):
    store = EpisodeStore.create(tmp_path / "x.zarr", SPEC, {"env": "some/env", "command": "worldlab collect some/env"})
    store.append(random_trajectory(LENGTHS), seeds=[1, 2, 3, 4])
    store.close()
    return store


def read(path):
    """Entity -> its rows on the timelines, and its values, in order."""
    rows = {}
    for chunk in RrdReader(path).stream():
        if not chunk.is_static:
            columns = chunk.to_record_batch().to_pydict()
            values = next((v for name, v in columns.items() if name.endswith((":scalars", ":blob", ":text"))), None)
            rows.setdefault(chunk.entity_path, []).extend(zip(columns["step"], columns["seconds"], values, strict=True))
    return {entity: sorted(found, key=lambda row: row[0]) for entity, found in rows.items()}


def test_a_recording_holds_the_episodes_one_after_the_other_on_both_timelines(store, tmp_path):
    out = tmp_path / "looks" / "x.rrd"
    viewing.show_store(store, [2, 0], out)
    seen = read(out)
    assert {name: len(rows) for name, rows in seen.items()} == {
        "/cameras/front": 8 + 6,
        "/cameras/wrist": 8 + 6,
        "/state": 8 + 6,
        "/action": 7 + 5,
        "/reward": 7 + 5,
        "/success": 7 + 5,
        "/instruction": 2,
    }
    steps, seconds, state = zip(*seen["/state"], strict=True)
    assert list(steps) == list(range(14))
    assert [s.total_seconds() for s in seconds] == pytest.approx([t / SPEC.fps for t in steps])
    shown = torch.cat([store[2].obs.state, store[0].obs.state])
    assert np.array(state) == pytest.approx(shown.numpy())
    actions = [step for step, *_ in seen["/action"]]
    assert actions == [*range(7), *range(8, 13)]
    assert [value[0] for *_, value in seen["/reward"]][:7] == pytest.approx(store[2].reward[:-1].tolist())


def test_without_episodes_the_first_three_are_shown(store, tmp_path):
    assert "episodes 0, 1, 2 written" in viewing.show_store(store, [], tmp_path / "x.rrd")
    with pytest.raises(UsageError, match="has no episode 4; it has 4, counted from 0"):
        viewing.show_store(store, [1, 4], tmp_path / "x.rrd")


def test_the_summary_counts_what_is_stored(store, tmp_path):
    summary = summaries.summarize_store(store)
    rows = sum(LENGTHS) + len(LENGTHS)
    assert summary.values["rows"] == rows
    assert summary.values["successes"] == sum(bool(store[i].succeeded) for i in range(4))
    sizes = summary.values["sizes"]
    assert sizes["images/front"]["raw"] == rows * 8 * 6 * 3
    assert (sizes["physics"]["dtype"], sizes["physics"]["shape"]) == ("float64", [5])
    assert sizes["physics"]["raw"] == rows * 5 * 8
    files = [file for file in (tmp_path / "x.zarr" / "images" / "front").rglob("*") if file.is_file()]
    assert sizes["images/front"]["stored"] == sum(file.stat().st_size for file in files)
    for word in ("some/env", "do thing 1", "images/wrist", "4 × 4 × 3", "worldlab collect some/env", "1 to 4"):
        assert word in summary.text


def test_an_empty_store_can_be_looked_at(tmp_path):
    empty = EpisodeStore.create(tmp_path / "e.zarr", SPEC, {})
    assert summaries.summarize_store(empty).values["episodes"] == 0
    viewing.show_store(empty, [], tmp_path / "e.rrd")
    assert read(tmp_path / "e.rrd") == {}


def test_without_a_display_the_recording_is_beside_the_store(store, tmp_path, capsys, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    main(["view", str(store.path), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["episodes"] == 4
    assert said["recording"] == str(tmp_path / "x.rrd")
    assert read(said["recording"])


def test_a_run_shows_its_training_and_its_evaluations(tmp_path):
    run = Run.create(tmp_path / "run", {"kind": "flow", "preset": "flow-reach"})
    for step in range(3):
        run.log({"step": step, "loss": 1 / (step + 1), "note": "words are no curve"})
    result = {"env": "worldlab/Reach-v0", "successes": 7, "n": 10, "interval": [0.4, 0.9], "seed": 5}
    (run.path / "eval" / "reach").mkdir(parents=True)
    (run.path / "eval" / "reach" / "result.json").write_text(json.dumps(result))
    (run.path / "eval" / "swing").mkdir()
    otherwise = {"mean_return": 812.26, "hold": 3, "variation": ["light=1"], "execution": ["execute1"]}
    otherwise["run"] = f"lean:{run.path}"
    (run.path / "eval" / "swing" / "result.json").write_text(json.dumps(result | otherwise))
    for earned in (0.0, 10.0):
        run.log({"episode": 0, "return": earned}, "episodes.jsonl")
    summary = summaries.summarize_run(run)
    assert summary.values["step"] == 2
    assert summary.values["evaluations"][0]["successes"] == 7
    assert "7/10" in summary.text
    assert "40% to 90%" in summary.text
    assert "812.3" in summary.text
    assert "lean, light=1, execute1, hold 3" in summary.text
    assert summary.values["evaluations"][1]["hold"] == 3
    assert "the last 2 episodes earned 5.0" in summary.text
    viewing.show_run(run, tmp_path / "run.rrd")
    batches = [chunk for chunk in RrdReader(tmp_path / "run.rrd").stream() if chunk.entity_path == "/training/loss"]
    assert sum(chunk.num_rows for chunk in batches) == 3


def test_a_file_that_cannot_be_written_is_named(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="could not write"):
        viewing.show_store(store, [0], tmp_path / "file" / "x.rrd")
