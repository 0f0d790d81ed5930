import shutil

import fsspec
import pytest
from arm import ARM, arm_trajectory
from episodes import SPEC, random_trajectory

from worldlab.datasets import EpisodeStore


@pytest.fixture(scope="session")
def six_episodes(tmp_path_factory):
    """The folder of a store of six episodes of different lengths, from two appends."""
    with EpisodeStore.create(tmp_path_factory.mktemp("stores") / "six.zarr", SPEC, {"command": "test"}) as store:
        store.append(random_trajectory([3, 1, 7], seed=1), [10, 11, 12])
        store.append(random_trajectory([5, 20, 2], seed=2), [13, 14, 15])
    return store.path


@pytest.fixture
def store(six_episodes, tmp_path):
    """A copy of that store, to do with as a test likes."""
    return EpisodeStore(shutil.copytree(six_episodes, tmp_path / "six.zarr"))


@pytest.fixture(scope="session")
def arm_store(tmp_path_factory):
    """Three episodes of an SO-101, with physics and privileged state."""
    with EpisodeStore.create(tmp_path_factory.mktemp("arm") / "arm.zarr", ARM, {"env": "arm"}) as store:
        store.append(arm_trajectory([9, 4, 12], seed=5), [1, 2, 3])
    return store


@pytest.fixture(scope="session")
def bucket(tmp_path_factory):
    """The URL of an empty bucket on a server of this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = dict(fsspec.config.conf)
    credentials = {"key": "a", "secret": "b", "endpoint_url": f"http://{host}:{port}"}
    fsspec.config.conf["s3"] = credentials
    fsspec.filesystem("s3").mkdir("episodes")
    yield "s3://episodes"
    fsspec.config.conf.clear()
    fsspec.config.conf.update(before)
    server.stop()
