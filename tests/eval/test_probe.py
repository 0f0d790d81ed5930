"""A probe reads off a belief what is linear in it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import COUNT_SPEC, CountEnv, PerfectModel
from eval.test_counterfactual import Shaky, Store

from worldlab.errors import UsageError
from worldlab.eval import counterfactual, fit_probe
from worldlab.protocols import WorldModel
from worldlab.rollout import rollout

MIX = torch.tensor([[2.0, -1.0, 0.5, 0.0]])


class Untold(PerfectModel):
    """Imagines no privileged state, but its belief is a mixture of the count."""

    spec = replace(COUNT_SPEC, privileged=())

    def features(self, belief):
        return belief @ MIX + 3

    def imagine(self, belief, action, generator=None):
        dream, end = super().imagine(belief, action, generator)
        return replace(dream, privileged=None), end


@pytest.fixture(scope="module")
def store():
    t = rollout(Shaky(), CountEnv(6), seed=0)
    return Store(t.episode(i) for i in range(6))


def test_a_probed_model_is_a_world_model_that_knows_where_things_are(store):
    probed = fit_probe(Untold(), store, range(6), seed=0)
    assert isinstance(probed, WorldModel)
    assert probed.spec == COUNT_SPEC
    context = rollout(Shaky(), CountEnv(4), seed=9, max_steps=3)
    act = torch.full((4, 5, 1), 0.3)
    dream, end = probed.imagine(probed.observe(context), act)
    told, same_end = PerfectModel().imagine(context.obs.state[:, -1], act)
    torch.testing.assert_close(dream.privileged, told.privileged, rtol=0, atol=0.1)  # ridge regression shrinks a little
    torch.testing.assert_close(dream.reward, told.reward)
    torch.testing.assert_close(end, same_end)


def test_it_can_be_scored(store):
    probed = fit_probe(Untold(), store, range(6), seed=0)
    r = counterfactual(probed, store, CountEnv(5), branches=4, horizon=5, starts=6)
    np.testing.assert_allclose(list(r["effect_error"].value.values()), 0, atol=0.02)


def test_what_shows_no_features_cannot_be_probed(store):
    with pytest.raises(UsageError, match="shows no features"):
        fit_probe(PerfectModel(), store, range(6), seed=0)
    with pytest.raises(UsageError, match="no privileged state"):
        fit_probe(Untold(), Store(replace(e, privileged=None) for e in store), range(6), seed=0)
