"""LeRobot itself opens what was exported."""

import signal
import time
from multiprocessing import get_context
from unittest import mock

import numpy as np
import pytest
import torch
from arm import ARM
from episodes import random_trajectory

from worldlab import so101
from worldlab.datasets import EpisodeStore
from worldlab.datasets.lerobot_export import export_dataset
from worldlab.errors import UsageError


@pytest.mark.slow
@pytest.mark.parametrize("video", [False, True])
def test_lerobot_opens_the_export(arm_store, tmp_path, video):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    out = export_dataset(arm_store, tmp_path / "set", video=video, show=False)
    dataset = LeRobotDataset("me/arm", root=out, video_backend="pyav")
    assert (dataset.fps, dataset.meta.robot_type, dataset.num_episodes, len(dataset)) == (10, "so_follower", 3, 25)
    for key in ("observation.state", "action"):
        assert tuple(dataset.meta.features[key]["names"]) == so101.NAMES
    frames = [(e, t) for e in arm_store for t in range(len(e.valid) - 1)]
    for item, (episode, t) in zip(dataset, frames, strict=True):
        assert item["task"] == episode.obs.task[0]
        assert item["timestamp"] == pytest.approx(t / 10)
        assert torch.equal(item["observation.state"], so101.to_lerobot(episode.obs.state[t]))
        assert torch.equal(item["action"], so101.to_lerobot(episode.action[t]))
        assert item["next.reward"] == episode.reward[t]
        assert item["next.done"] == episode.terminated[t]
        assert item["next.success"] == episode.success[t]
        for camera in ARM.cameras:
            want = episode.obs.images[camera][t].permute(2, 0, 1).float()
            got = item[f"observation.images.{camera}"] * 255
            assert (got.round() - want).abs().max() <= (2 if video else 0)


def test_units_are_the_arms_own():
    degrees = so101.to_lerobot(torch.tensor([[0.0, 0.0, 0.0, 0.0, np.pi / 2, so101.HIGH[5]]]))
    np.testing.assert_allclose(degrees[0, 4:], [90, 100], rtol=1e-6)


def content(folder):
    """Everything that a dataset says, videos as their bytes."""
    from pyarrow import parquet

    files = {file.relative_to(folder): file for file in folder.rglob("*") if file.is_file()}
    for name, file in sorted(files.items()):
        if "worldlab.zarr" in str(name):
            continue
        yield str(name), parquet.read_table(file).to_pydict() if name.suffix == ".parquet" else file.read_bytes()


@pytest.mark.slow
def test_a_killed_export_goes_on_and_ends_equal(arm_store, tmp_path):
    import lerobot.datasets.lerobot_dataset  # noqa: F401  # once, for all forks

    killed, parts = tmp_path / "killed", tmp_path / "killed.partial"
    random = np.random.default_rng(0)
    for finished in (0, 1, 1, 2):
        how = {"part": 1, "show": False}
        process = get_context("fork").Process(target=export_dataset, args=(arm_store, killed), kwargs=how)
        process.start()
        while len(list(parts.glob("part-*"))) < finished:
            time.sleep(0.001)
        time.sleep(0.1 * random.random())
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert not killed.exists()
    with pytest.raises(UsageError, match="an unfinished export of something else"):
        export_dataset(arm_store, killed, video=False, part=1, show=False)
    with mock.patch.object(EpisodeStore, "id", "collected anew"), pytest.raises(UsageError, match="of something else"):
        export_dataset(arm_store, killed, part=1, show=False)
    export_dataset(arm_store, killed, part=1, show=False)
    whole = export_dataset(arm_store, tmp_path / "whole", part=1, show=False)
    assert not parts.exists()
    assert list(content(killed)) == list(content(whole))


@pytest.mark.slow
def test_what_cannot_be_exported_is_refused(arm_store, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        export_dataset(arm_store, tmp_path / "mine")
    with pytest.raises(UsageError, match="no actions to export"):
        export_dataset(EpisodeStore.create(tmp_path / "empty.zarr", ARM, {}), tmp_path / "set")
    with EpisodeStore.create(tmp_path / "real.zarr", ARM, {}) as real:
        real.append(random_trajectory([2], spec=ARM, physics=0), [0])
    with pytest.raises(UsageError, match="no physics to export"):
        export_dataset(real, tmp_path / "set", physics=True)
    assert not (tmp_path / "set").exists()
