import pytest
from episodes import SPEC, random_trajectory

from worldlab.datasets import EpisodeStore


@pytest.fixture
def store(tmp_path):
    """Six episodes of different lengths, from two appends."""
    with EpisodeStore.create(tmp_path / "six.zarr", SPEC, {"command": "test"}) as s:
        s.append(random_trajectory([3, 1, 7], seed=1), [10, 11, 12])
        s.append(random_trajectory([5, 20, 2], seed=2), [13, 14, 15])
    return s
