"""A store goes to LeRobot and comes back; what others recorded comes too."""

import dataclasses
import json
import shutil
import signal
import time
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from arm import ARM
from episodes import assert_equal, columns

from worldlab import so101
from worldlab.collection import CollectConfig, collect
from worldlab.datasets import EpisodeStore, lerobot_import
from worldlab.datasets.lerobot_export import export_dataset
from worldlab.datasets.lerobot_import import import_dataset
from worldlab.errors import UsageError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(arm_store, tmp_path_factory):
    """The store as a dataset of pictures, with physics."""
    out = tmp_path_factory.mktemp("sets") / "pictures"
    return export_dataset(arm_store, out, video=False, physics=True, part=2, show=False)


@pytest.fixture(scope="module")
def film(arm_store, tmp_path_factory):
    """The store as a dataset of videos."""
    return export_dataset(arm_store, tmp_path_factory.mktemp("sets") / "film", part=2, show=False)


def test_a_store_comes_back_from_pictures_as_it_was(arm_store, pictures, tmp_path):
    done = import_dataset(pictures, tmp_path / "back.zarr", show=False)
    back = EpisodeStore(tmp_path / "back.zarr")
    assert (done.added, done.total, done.skipped) == (3, 3, {})
    assert (back.spec, back.tasks, back.columns) == (arm_store.spec, arm_store.tasks, arm_store.columns)
    assert (back.seeds.tolist(), back.lengths.tolist()) == ([1, 2, 3], [10, 5, 13])
    assert back.provenance["env"] == "arm"
    for ours, theirs in zip(arm_store, back, strict=True):
        assert_equal(ours, theirs)


def test_recorded_demonstrations_come_back_bit_for_bit(tmp_path):
    """Executed and labelled actions alike: the expert's targets are multiples of what LeRobot's units can hold."""
    collect(CollectConfig(env="worldlab/Lift-v0", noise=0.7, keep_failures=True, size=16, n=2), f"{tmp_path}/x.zarr", 2)
    store = EpisodeStore(tmp_path / "x.zarr")
    import_dataset(
        export_dataset(store, tmp_path / "set", video=False, physics=True, show=False), tmp_path / "back.zarr"
    )
    back = EpisodeStore(tmp_path / "back.zarr")
    assert (back.spec, back.seeds.tolist()) == (store.spec, store.seeds.tolist())
    for ours, theirs in zip(store, back, strict=True):
        assert_equal(ours, theirs)


def test_a_store_comes_back_from_video_but_for_the_change_of_colour_space(arm_store, film, tmp_path):
    import_dataset(film, tmp_path / "back.zarr", show=False)
    back = EpisodeStore(tmp_path / "back.zarr")
    assert back.spec == dataclasses.replace(ARM, privileged=())
    for ours, theirs in zip(arm_store, back, strict=True):
        assert theirs.physics is None
        assert theirs.privileged is None
        assert ours.obs.task == theirs.obs.task
        before = columns(ours)
        for name, after in columns(theirs).items():
            if name.startswith("images"):
                error = (after.double() - before[name].double()) ** 2
                assert 10 * np.log10(255**2 / float(error.mean())) > 50
                assert error.max() <= 2**2
            else:
                assert torch.equal(after, before[name]), name


def test_a_killed_import_goes_on(arm_store, pictures, tmp_path, monkeypatch):
    import lerobot.datasets.dataset_metadata  # noqa: F401  # once, for all forks

    monkeypatch.setattr(lerobot_import, "_PORTION_BYTES", 1)
    out = tmp_path / "back.zarr"
    random = np.random.default_rng(0)
    for _ in range(3):
        process = get_context("fork").Process(target=import_dataset, args=(pictures, out), kwargs={"show": False})
        process.start()
        while not (out / "zarr.json").exists():
            time.sleep(0.001)
        time.sleep(0.05 * random.random())
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
    import_dataset(pictures, out, show=False)
    assert import_dataset(pictures, out, show=False).added == 0
    for ours, theirs in zip(arm_store, EpisodeStore(out), strict=True):
        assert_equal(ours, theirs)
    with pytest.raises(UsageError, match="not of this import"):
        import_dataset(pictures, out, size=(8, 8), show=False)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """What another robot's user would have recorded: other names, units and features, no reward."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    kinds = {
        "observation.images.top": {"dtype": "image", "shape": (6, 8, 3), "names": ["height", "width", "channels"]},
        "observation.depth": {"dtype": "image", "shape": (6, 8, 1), "names": ["height", "width", "channels"]},
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "observation.map": {"dtype": "float32", "shape": (2, 2), "names": None},
        "command": {"dtype": "float64", "shape": (1,), "names": None},
    }
    root = tmp_path_factory.mktemp("sets") / "foreign"
    dataset = LeRobotDataset.create("me/foreign", 15, kinds, root=root, robot_type="koch_follower", use_videos=False)
    random = np.random.default_rng(0)
    for n in (3, 2):
        for t in range(n):
            dataset.add_frame(
                {
                    "observation.images.top": random.integers(0, 256, (6, 8, 3), np.uint8),
                    "observation.depth": random.integers(0, 999, (6, 8, 1), np.uint16),
                    "observation.state": np.float32([n, t]),
                    "observation.map": np.zeros((2, 2), np.float32),
                    "command": np.float64([10 * n + t]),
                    "task": f"do {n}",
                }
            )
        dataset.save_episode()
    dataset.finalize()
    return root


def test_another_robots_numbers_stay_as_they_are(foreign, tmp_path):
    rename = {"front": "observation.images.top", "action": "command"}
    done = import_dataset(foreign, tmp_path / "foreign.zarr", rename=rename, show=False)
    assert done.skipped == {"observation.map": "no column of a trajectory", "observation.depth": "a depth map"}
    store = EpisodeStore(tmp_path / "foreign.zarr")
    spec = store.spec
    assert (spec.control, spec.fps, spec.cameras) == ("raw", 15, {"front": (6, 8)})
    assert (spec.state, spec.action, spec.low, spec.high) == (("x", "y"), ("action.0",), (20.0,), (32.0,))
    first = store[0]
    assert first.obs.task == ("do 3",)
    assert first.obs.state.tolist() == [[3, 0], [3, 1], [3, 2], [3, 2]]
    assert first.action.tolist() == [[30], [31], [32], [0]]
    assert torch.equal(first.obs.images["front"][3], first.obs.images["front"][2])
    assert not first.reward.any()
    assert not first.success.any()


def test_cameras_can_be_resized(foreign, tmp_path):
    import_dataset(foreign, tmp_path / "small.zarr", rename={"action": "command"}, size=(3, 4), show=False)
    store = EpisodeStore(tmp_path / "small.zarr")
    assert store.spec.cameras == {"top": (3, 4)}
    assert store[1].obs.images["top"].shape == (3, 3, 4, 3)


def edited(source, folder, change):
    """A copy of a dataset with another info.json."""
    shutil.copytree(source, folder)
    file = folder / "meta" / "info.json"
    info = json.loads(file.read_text())
    change(info)
    file.write_text(json.dumps(info))
    return folder


def test_units_follow_the_robot(pictures, arm_store, tmp_path):
    import_dataset(pictures, tmp_path / "degrees.zarr", units="recorded", show=False)
    store = EpisodeStore(tmp_path / "degrees.zarr")
    assert store.spec.control == "raw"
    assert torch.equal(store[1].obs.state[:-1], so101.to_lerobot(arm_store[1].obs.state[:-1]))
    # LeRobot's edits leave a dataset without worldlab's own part; the arm is known by its names.
    plain = edited(pictures, tmp_path / "plain", lambda info: info.update(robot_type="so101_follower"))
    shutil.rmtree(plain / "meta" / "worldlab.zarr")
    with pytest.raises(UsageError, match="--units recorded or --units degrees"):
        import_dataset(plain, tmp_path / "plain.zarr", show=False)
    import_dataset(plain, tmp_path / "plain.zarr", units="degrees", show=False)
    store = EpisodeStore(tmp_path / "plain.zarr")
    assert store.spec == dataclasses.replace(ARM, privileged=store.spec.privileged)
    assert torch.equal(store[1].obs.state[:-1], arm_store[1].obs.state[:-1])


def test_an_older_dataset_of_the_hub_is_named_with_what_would_work(tmp_path, monkeypatch):
    from lerobot.datasets import lerobot_dataset
    from lerobot.datasets.utils import BackwardCompatibilityError
    from packaging.version import Version

    def refuse(name, **_):
        raise BackwardCompatibilityError(name, Version("2.1"))

    monkeypatch.setattr(lerobot_dataset, "LeRobotDataset", refuse)
    with pytest.raises(UsageError, match=r"hf download someone/older --repo-type dataset --revision v2\.1"):
        import_dataset("someone/older", tmp_path / "x.zarr", show=False)


@pytest.fixture(scope="module")
def older(arm_store, tmp_path_factory):
    """The store in format v2.1: a file for each episode and camera, and JSON lines of metadata."""
    import pandas

    work = tmp_path_factory.mktemp("older")
    root, lines, frames = work / "set", {"tasks": [], "episodes": [], "episodes_stats": []}, 0
    for i, episode in enumerate(arm_store):
        one = export_dataset(arm_store, work / str(i), episodes=[i], show=False)
        data = pandas.read_parquet(one / "data/chunk-000/file-000.parquet")
        data = data.assign(episode_index=i, index=data["index"] + frames, task_index=i)
        frames += len(data)
        (root / "data/chunk-000").mkdir(parents=True, exist_ok=True)
        data.to_parquet(root / f"data/chunk-000/episode_{i:06d}.parquet")
        for camera in ARM.cameras:
            film = root / f"videos/chunk-000/observation.images.{camera}/episode_{i:06d}.mp4"
            film.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(one / f"videos/observation.images.{camera}/chunk-000/file-000.mp4", film)
        task = episode.obs.task[0]
        lines["tasks"].append({"task_index": i, "task": task})
        lines["episodes"].append({"episode_index": i, "tasks": [task], "length": len(data)})
        lines["episodes_stats"].append({"episode_index": i, "stats": json.loads((one / "meta/stats.json").read_text())})
    info = json.loads((one / "meta/info.json").read_text()) | {
        "codebase_version": "v2.1",
        "total_episodes": 3,
        "total_frames": frames,
        "total_tasks": 3,
        "total_chunks": 1,
        "total_videos": 6,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (root / "meta").mkdir()
    (root / "meta/info.json").write_text(json.dumps(info))
    for name, entries in lines.items():
        (root / f"meta/{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return root


def test_what_was_converted_of_another_dataset_is_not_taken(arm_store, older, tmp_path):
    left = tmp_path / "back.zarr.v30"  # by an import that failed after converting
    (left / "dataset").mkdir(parents=True)
    (left / "source.json").write_text(json.dumps(["/some/other", 0.0]))
    import_dataset(older, tmp_path / "back.zarr", show=False)
    assert len(EpisodeStore(tmp_path / "back.zarr")) == len(arm_store)


def test_format_2_1_is_converted_on_the_side(arm_store, older, tmp_path):
    before = sorted(older.rglob("*"))
    import_dataset(older, tmp_path / "back.zarr", show=False)
    assert sorted(older.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.zarr"]
    for ours, theirs in zip(arm_store, EpisodeStore(tmp_path / "back.zarr"), strict=True):
        assert theirs.obs.task == ours.obs.task
        assert torch.equal(theirs.obs.state[:-1], ours.obs.state[:-1])
        assert torch.equal(theirs.action, ours.action)
        for camera in ARM.cameras:
            error = theirs.obs.images[camera][:-1].int() - ours.obs.images[camera][:-1].int()
            assert error.abs().max() <= 2


def test_what_cannot_be_imported_is_refused(foreign, pictures, tmp_path):
    def refuses(source, match, **how):
        with pytest.raises(UsageError, match=match):
            import_dataset(source, tmp_path / "never.zarr", show=False, **how)
        assert not (tmp_path / "never.zarr").exists()

    refuses(tmp_path, "is not a LeRobot dataset")
    newer = edited(pictures, tmp_path / "newer", lambda info: info.update(codebase_version="v4.0"))
    refuses(newer, "format v4.0; worldlab reads v3.0 and v2.1")
    refuses("nobody/nothing", "no folder 'nobody/nothing', and LeRobot could not download it")
    refuses("a/b/c", "no folder 'a/b/c'")
    refuses(foreign, "'action' cannot be the action: the dataset has none. Name another: --rename action=FEATURE")
    refuses(foreign, "unknown feature 'observation.images.front'", rename={"front": "observation.images.front"})
    refuses(foreign, "'command' is not a camera", rename={"front": "command", "action": "observation.state"})
    refuses(foreign, "'timestamp' is not a camera", rename={"front": "timestamp", "action": "command"})
    refuses(foreign, "at least 1 pixel", rename={"action": "command"}, size=(0, 0))
    broken = edited(pictures, tmp_path / "broken", lambda info: None)
    (broken / "meta" / "tasks.parquet").unlink()
    refuses(broken, "is damaged: it has no meta/tasks.parquet")


@pytest.mark.parametrize("dataset", ["pictures", "older"])
def test_a_store_behind_a_url_is_imported_to(arm_store, bucket, dataset, request, tmp_path):
    url = f"{bucket}/{tmp_path.name}.zarr"
    assert import_dataset(request.getfixturevalue(dataset), url, show=False).added == 3
    assert import_dataset(request.getfixturevalue(dataset), url, show=False).added == 0
    for ours, theirs in zip(arm_store, EpisodeStore(url), strict=True):
        assert torch.equal(theirs.action, ours.action)
        assert torch.equal(theirs.obs.state[:-1], ours.obs.state[:-1])
