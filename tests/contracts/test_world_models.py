"""Laws of every world model."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import COUNT_SPEC, CountEnv, Ones, PerfectModel

from worldlab import dynamics
from worldlab.errors import UsageError
from worldlab.normalize import Moments, Statistics
from worldlab.protocols import Sketching, Trainable, WorldModel
from worldlab.rollout import rollout
from worldlab.runs import Run
from worldlab.seeding import generator
from worldlab.training import FitConfig, fit
from worldlab.trajectory import Observation, Spec, Trajectory

POSE = ("x", "y", "z", "qw", "qx", "qy", "qz", "present", "target", "front.u", "front.v")
TABLE_SPEC = Spec(
    cameras={"front": (16, 12)},
    state=("pan", "lift"),
    action=("pan", "lift"),
    privileged=(
        *(f"gripper.{axis}" for axis in "xyz"),
        *(f"{colour}_cube.{name}" for colour in ("red", "blue") for name in POSE),
        *(f"zone.{axis}" for axis in "xyz"),
        *(f"expert.{joint}" for joint in ("pan", "lift")),
    ),
    control="joint_position",
    low=(-2.0, -2.0),
    high=(2.0, 2.0),
    fps=10,
)


def table_episodes(n: int, length: int, seed: int = 0) -> Trajectory:
    """Random data of an arm and two cubes, well formed but lawless."""
    g = generator(seed)
    spec = TABLE_SPEC

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(n, length, *shape, generator=g) * 0.1

    privileged = noise(len(spec.privileged))
    for i, name in enumerate(spec.privileged):
        if name.endswith((".present", ".qw")):
            privileged[..., i] = 1
        if name.endswith((".qx", ".qy", ".qz", ".target")):
            privileged[..., i] = 0
        if name.endswith("blue_cube.present"):
            privileged[::2, :, i] = 0
    frames = torch.randint(0, 256, (n, length, 16, 12, 3), generator=g, dtype=torch.uint8)
    nothing = torch.zeros(n, length, dtype=torch.bool)
    ended = nothing.clone()
    ended[:, -2] = True
    return Trajectory(
        obs=Observation({"front": frames}, noise(2).cumsum(1), ("push",) * n),
        action=noise(2),
        reward=noise(),
        terminated=ended,
        success=ended,
        valid=~nothing,
        privileged=privileged,
    )


def statistics(data: Trajectory) -> Statistics:
    """Of every row."""
    assert data.privileged is not None
    return Statistics(*(Moments.of(x.flatten(0, 1)) for x in (data.obs.state, data.action, data.privileged)))


def _scramble(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights everywhere, also where training starts from zero."""
    with torch.no_grad():
        for i, weight in enumerate(model.parameters()):
            weight.copy_(0.1 * torch.randn(weight.shape, generator=generator(i)))
    return model.eval()


def _perfect():
    return PerfectModel(), rollout(Ones(), CountEnv(), seed=0, max_steps=3)


def _counting_state():
    data = rollout(Ones(), CountEnv(), seed=0, max_steps=3)
    return _scramble(dynamics.create(dynamics.StateModelConfig(width=32), COUNT_SPEC, statistics(data))), data


def _table_state():
    data = table_episodes(4, 6)
    return _scramble(dynamics.create(dynamics.StateModelConfig(width=32), TABLE_SPEC, statistics(data))), data


def _table_rssm(**options):
    data = table_episodes(4, 6)
    config = dynamics.RSSMConfig(**{"size": "tiny", **options})
    model = _scramble(dynamics.create(config, TABLE_SPEC, statistics(data)))
    with torch.no_grad():
        # No trained head gives weight to rewards of 5e8, beside which float32 cannot hold a small one.
        model.reward_head[-1].bias.copy_(-2 * model.two_hot.bins.abs().log1p())
    return model, data


EVERY = {
    "perfect": _perfect,
    "state": _counting_state,
    "state-objects": _table_state,
    "rssm": _table_rssm,
    "rssm-carry": partial(_table_rssm, carry_state=True, correct=True, overshooting=2, privileged=1.0),
    "rssm-slots": partial(_table_rssm, carry_state=True, correct=True, overshooting=2, privileged=1.0, slots=True),
    "rssm-images": partial(_table_rssm, sees="images", overshooting=2),
    "rssm-state": partial(_table_rssm, sees="state"),
}
TRAINED = {name: make for name, make in EVERY.items() if name != "perfect"}


@pytest.fixture(params=EVERY)
def case(request):
    return EVERY[request.param]()


@pytest.fixture(params=TRAINED)
def trained(request):
    return TRAINED[request.param]()


def same(a: Trajectory, b: Trajectory, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """Equal up to the rounding of batched arithmetic; a pixel may round the other way."""
    assert a.obs.images.keys() == b.obs.images.keys()
    for name, image in a.obs.images.items():
        torch.testing.assert_close(image.int(), b.obs.images[name].int(), rtol=0, atol=1)
    for x, y in ((a.obs.state, b.obs.state), (a.reward, b.reward), (a.privileged, b.privileged)):
        torch.testing.assert_close(x, y, rtol=rtol, atol=atol)
    assert torch.equal(a.success, b.success)
    assert torch.equal(a.terminated, b.terminated)
    assert torch.equal(a.valid, b.valid)


def actions(model: WorldModel, n: int, steps: int) -> torch.Tensor:
    return 0.3 * torch.randn(n, steps, len(model.spec.action), generator=generator(7))


def test_a_world_model_has_the_role(case):
    assert isinstance(case[0], WorldModel)


def test_a_dream_has_the_shape_of_its_spec(case):
    model, context = case
    dream, _ = model.imagine(model.observe(context), actions(model, 4, 5))
    assert dream.reward.shape == dream.valid.shape == (4, 5)
    assert dream.obs.state.shape == (4, 5, len(model.spec.state))
    assert dream.privileged.shape == (4, 5, len(model.spec.privileged))
    assert {k: tuple(v.shape[2:4]) for k, v in dream.obs.images.items()} == model.spec.cameras


def test_imagining_on_equals_imagining_at_once(case):
    model, context = case
    act = actions(model, 4, 6)
    whole, end = model.imagine(model.observe(context), act, generator(1))
    g = generator(1)
    first, middle = model.imagine(model.observe(context), act[:, :2], g)
    second, late = model.imagine(middle, act[:, 2:], g)
    same(whole.rows(0, 2), first)
    same(whole.rows(2, 6), second)
    torch.testing.assert_close(end, late)


def test_a_sketch_is_the_dream_without_pictures(trained):
    model, context = trained
    assert isinstance(model, Sketching)
    belief, act = model.observe(context), actions(model, 4, 5)
    dream, end = model.imagine(belief, act, generator(1))
    sketch, same_end = model.sketch(belief, act, generator(1))
    assert sketch.obs.images == {}
    same(replace(dream, obs=replace(dream.obs, images={})), sketch, 0, 0)
    torch.testing.assert_close(end, same_end, rtol=0, atol=0)


def test_a_plan_does_not_depend_on_its_company(trained):
    model, context = trained
    planner = dynamics.Planner(model, dynamics.CEM(horizon=3, candidates=32, iterations=2, elites=4))
    together = planner.plan(context, range(4))
    alone = planner.plan(context.pick([2]), [2])
    torch.testing.assert_close(alone.action[0], together.action[2])


def test_a_belief_can_be_used_again(case):
    model, context = case
    belief = model.observe(context)
    first, _ = model.imagine(belief, actions(model, 4, 4), generator(1))
    again, _ = model.imagine(belief, actions(model, 4, 4), generator(1))
    same(first, again, 0, 0)


def test_batch_rows_are_independent(case):
    model, context = case
    act = actions(model, 4, 3)
    together, _ = model.imagine(model.observe(context), act)
    for i in range(4):
        alone, _ = model.imagine(model.observe(context.pick([i])), act[i : i + 1])
        same(together.pick([i]), alone)


def test_observe_sees_nothing_after_the_last_valid_row(case):
    model, context = case
    keep = 2
    cut = context.rows(0, keep)
    valid = context.valid.clone()
    valid[:, keep:] = False
    act = actions(model, 4, 3)
    longer = replace(context, valid=valid)
    same(model.imagine(model.observe(cut), act)[0], model.imagine(model.observe(longer), act)[0], 0, 0)


def test_a_dream_is_not_an_illusion_of_its_first_row(case):
    model, context = case
    act = actions(model, 4, 4)
    assert not torch.equal(
        model.imagine(model.observe(context), act)[0].obs.state,
        model.imagine(model.observe(context), -act)[0].obs.state,
    )


def test_padding_is_inert_in_the_loss(trained):
    model, data = trained
    assert isinstance(model, Trainable)

    def padded(value: int) -> torch.Tensor:
        longer = data.map(lambda x: torch.cat([x, torch.full_like(x[:, :2], value)], 1))
        torch.manual_seed(0)
        return model.loss(replace(longer, valid=torch.cat([data.valid, torch.zeros(4, 2, dtype=torch.bool)], 1)))[0]

    assert padded(0) == padded(99)


def test_a_saved_model_dreams_the_same(trained, tmp_path):
    model, context = trained
    run = Run.create(tmp_path / "run", model.describe())
    run.save(model.state_dict())
    act = actions(model, 4, 4)
    loaded = dynamics.load(tmp_path / "run")
    assert loaded.spec == model.spec
    same(model.imagine(model.observe(context), act)[0], loaded.imagine(loaded.observe(context), act)[0], 0, 0)


def test_a_field_that_this_version_does_not_have_is_named(tmp_path):
    _, data = TRAINED["state"]()
    known = dynamics.create(dynamics.StateModelConfig(width=8), COUNT_SPEC, statistics(data)).describe()
    Run.create(tmp_path / "run", known | {"model": {**known["model"], "focus": 4.0}})
    with pytest.raises(UsageError, match=r"'state\.focus' in config\.json is not what this version"):
        dynamics.load(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_one_batch_can_be_learnt_by_heart(name, tmp_path):
    scrambled, data = TRAINED[name]()
    torch.manual_seed(0)
    spec = COUNT_SPEC if name == "state" else TABLE_SPEC
    model = dynamics.create(scrambled.config, spec, statistics(data))
    batch = data.rows(0, 3)
    for frames in batch.obs.images.values():  # noise is not what a decoder is for
        frames[:] = frames[:, :, :1, :1]
    _, before = model.loss(batch)

    class Same:
        def __getitem__(self, step):
            return batch

    config = FitConfig(steps=250, learning_rate=3e-3, clip=100.0)
    fit(model, Same(), config, Run.create(tmp_path / "run", model.describe()), device="cpu", show=False)
    _, after = model.loss(batch)
    # A two-hot number keeps its entropy, and divergences their free bits; a probe does not shape what it reads.
    floored = ("dynamics", "representation", "reward") + (() if name == "rssm-carry" else ("privileged",))
    learnt = [term for term in before if not (name.startswith("rssm") and term.endswith(floored))]
    assert sum(after[term] for term in learnt) < 0.3 * sum(before[term] for term in learnt)
