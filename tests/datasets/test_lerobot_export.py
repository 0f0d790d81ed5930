"""LeRobot itself opens what was exported."""

import dataclasses

import numpy as np
import pytest
import torch
from episodes import SPEC, random_trajectory

from worldlab import so101
from worldlab.datasets import EpisodeStore
from worldlab.datasets.lerobot_export import export_dataset
from worldlab.errors import UsageError

ARM = dataclasses.replace(
    SPEC,
    cameras={"front": (64, 64), "wrist": (48, 64)},
    state=so101.NAMES,
    action=so101.NAMES,
    low=so101.LOW,
    high=so101.HIGH,
)


def smooth(t):
    """Rendered-looking pictures: a video codec is not made for noise."""
    for image in t.obs.images.values():
        n, h, w = image.shape[1:4]
        y, x = torch.meshgrid(torch.linspace(0, 3, h), torch.linspace(0, 3, w), indexing="ij")
        phase = torch.arange(n)[:, None, None] / 5
        image[:] = (128 + 100 * torch.sin(y + x + phase))[None, ..., None].to(torch.uint8)
    return t


@pytest.fixture(scope="module")
def arm_store(tmp_path_factory):
    with EpisodeStore.create(tmp_path_factory.mktemp("arm") / "arm.zarr", ARM, {}) as store:
        store.append(smooth(random_trajectory([9, 4, 12], seed=5, spec=ARM)), [1, 2, 3])
    return store


@pytest.mark.slow
@pytest.mark.parametrize("video", [False, True])
def test_lerobot_opens_the_export(arm_store, tmp_path, video, monkeypatch):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = export_dataset(arm_store, tmp_path / "set", repo_id="me/arm", video=video, show=False)
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
            if video:
                assert 10 * np.log10(255**2 / float(((got - want) ** 2).mean())) > 35
            else:
                assert torch.equal(got.round(), want)


def test_units_are_the_arms_own():
    degrees = so101.to_lerobot(torch.tensor([[0.0, 0.0, 0.0, 0.0, np.pi / 2, so101.HIGH[5]]]))
    np.testing.assert_allclose(degrees[0, 4:], [90, 100], rtol=1e-6)


@pytest.mark.slow
def test_what_cannot_be_exported_is_refused(arm_store, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        export_dataset(arm_store, tmp_path / "mine")
    with pytest.raises(UsageError, match="no actions to export"):
        export_dataset(EpisodeStore.create(tmp_path / "empty.zarr", ARM, {}), tmp_path / "set")
    odd = dataclasses.replace(ARM, cameras={"front": (63, 64)})
    with EpisodeStore.create(tmp_path / "odd.zarr", odd, {}) as store:
        store.append(random_trajectory([2], spec=odd), [0])
    with pytest.raises(UsageError, match="63 x 64; export images instead"):
        export_dataset(store, tmp_path / "set")
    assert not (tmp_path / "set").exists()
