import numpy as np
import pytest
import torch
from episodes import SPEC

from worldlab.datasets import EpisodeStore, statistics
from worldlab.errors import UsageError


def test_statistics_are_numpys_over_the_real_rows(store):
    got = statistics(store)
    rows = {
        "state": torch.cat([e.obs.state for e in store]),
        "action": torch.cat([e.action[:-1] for e in store]),
        "privileged": torch.cat([e.privileged for e in store]),
    }
    for name, x in rows.items():
        moments, x = getattr(got, name), x.double().numpy()
        np.testing.assert_allclose(moments.mean, x.mean(0), atol=1e-12)
        np.testing.assert_allclose(moments.std, x.std(0), atol=1e-12)
        np.testing.assert_allclose(moments.q01, np.quantile(x, 0.01, axis=0), atol=1e-12)
        np.testing.assert_allclose(moments.q99, np.quantile(x, 0.99, axis=0), atol=1e-12)


def test_an_empty_store_has_no_statistics(tmp_path):
    with pytest.raises(UsageError, match="holds no actions"):
        statistics(EpisodeStore.create(tmp_path / "x.zarr", SPEC, {}))
