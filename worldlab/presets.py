"""Complete recipes: a preset is a function that returns everything `worldlab train` needs to know."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from worldlab.dynamics import ActorCriticConfig, DreamerConfig, ModelConfig, RSSMConfig, StateModelConfig
from worldlab.errors import unknown
from worldlab.policies import (
    BackboneConfig,
    Config,
    DiffusionConfig,
    FastConfig,
    FlowConfig,
    InsulatedConfig,
    LeRobotConfig,
    ParallelTokenConfig,
    Referent,
    RegressionConfig,
    StateOnlyConfig,
    TokenConfig,
)
from worldlab.policies.captioning import CaptioningConfig
from worldlab.policies.contrastive import ContrastiveConfig
from worldlab.policies.stages import StageConfigs
from worldlab.training import FitConfig


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How a store is cut into training batches."""

    length: int
    """Rows of a window."""
    batch: int
    """Windows of a batch."""
    observed: int | None = None
    """Rows whose images are loaded; None loads all."""
    pad: bool = True
    """Whether a window may run past its episode's end (the rows beyond are not valid)."""
    stride: int = 1
    """Control steps from one row of a window to the next, where actions are repeated for so long."""


@dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """How a model acts while it learns."""

    env_steps: int = 50_000
    """Control steps of the environment, action repeats and the random beginning included."""
    ratio: float = 128.0
    """Rows trained on for every row that is collected (DreamerV3's train ratio)."""
    random: int = 4
    """Episodes of random actions to begin with; the scales of states are taken from them."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole recipe."""

    model: Config | StageConfigs | ModelConfig
    """What to train."""
    windows: WindowConfig
    """On what."""
    fit: FitConfig
    """How, and for how long."""
    online: OnlineConfig | None = None
    """How it acts while it learns, where it makes its own data; `fit` then needs no budget."""
    hold_out: int = 0
    """One episode in so many is kept from training, to imagine from; 0 trains on all."""

    def split(self, episodes: int) -> tuple[list[int], list[int]]:
        """Which of the first episodes of a store are trained on, and which are held out."""
        held = [i for i in range(episodes) if self.hold_out and i % self.hold_out == 0]
        return sorted(set(range(episodes)) - set(held)), held


HEADS: dict[str, Config] = {
    "flow": FlowConfig(),
    "flow-adarms": FlowConfig(conditioning="adarms", state_in_prompt=True),
    "flow-insulated": InsulatedConfig(),
    "diffusion": DiffusionConfig(),
    "l1": RegressionConfig(),
    "tokens": TokenConfig(),
    "tokens-parallel": ParallelTokenConfig(),
    "fast": FastConfig(),
    "state-only": StateOnlyConfig(),
    "act": LeRobotConfig(),
    "diffusion-policy": LeRobotConfig(family="diffusion"),
}
"""Name -> action head on the small trunk; a policy that sees nothing; LeRobot's ACT and Diffusion Policy."""


def policy_recipe(model: Config, minutes: float) -> TrainConfig:
    """The recipe that all heads share: only the head differs."""
    rate = 1e-3 if isinstance(model, LeRobotConfig) else 2e-3  # ACT learns worse at 2e-3 (docs/bakeoff.md)
    return TrainConfig(
        model=model,
        windows=WindowConfig(length=model.chunk, batch=32, observed=1),
        fit=FitConfig(minutes=minutes, learning_rate=rate, ema=0.99, precision="bf16"),
    )


def _state() -> TrainConfig:
    return TrainConfig(
        model=StateModelConfig(),
        windows=WindowConfig(length=12, batch=32, pad=False),
        fit=FitConfig(minutes=1.5, learning_rate=2e-3),
        hold_out=6,
    )


def _rssm(*, labels: bool = True) -> TrainConfig:
    """`labels`: taught where objects are, which only a simulator knows."""
    return TrainConfig(
        model=RSSMConfig(
            cameras=("front",),
            carry_state=True,
            correct=True,
            overshooting=8,
            image_weight=0.1,
            foreground_weight=20.0,
            privileged=float(labels),
            slots=labels,
        ),
        windows=WindowConfig(length=10, batch=48, pad=False),
        fit=FitConfig(minutes=20.0, learning_rate=2e-3, clip=100.0, precision="bf16"),
        hold_out=10,
    )


def _dreamer(world: RSSMConfig) -> TrainConfig:
    """For environments that others made. There an action is repeated for two control steps, as is usual."""
    return TrainConfig(
        model=DreamerConfig(world=world, repeat=2),
        windows=WindowConfig(length=16, batch=32, stride=2),
        fit=FitConfig(learning_rate=1e-3, clip=100.0, precision="bf16", log_every=100),
        online=OnlineConfig(),
    )


def _dreamer_of_an_arm() -> TrainConfig:
    """The world model of `rssm-TASK`, with an actor."""
    rssm = _rssm()
    assert isinstance(rssm.model, RSSMConfig)
    config = DreamerConfig(world=rssm.model, behaviour=ActorCriticConfig(absorbing_success=True))
    return replace(rssm, model=config, online=OnlineConfig(random=20, ratio=64.0))


@dataclass(frozen=True, kw_only=True)
class TaskView:
    """How a task is looked at."""

    cameras: tuple[str, ...] | None
    """None: all."""
    execute: int
    """Actions executed before looking again."""
    minutes: float
    """Of training, on 2 cores."""
    at: tuple[Referent, ...] = ("first",)
    """What a grounding points at."""

    def on(self, model: Config) -> Config:
        """The policy, looking so."""
        if isinstance(model, StateOnlyConfig):
            return replace(model, execute=self.execute)
        looking = replace(model, cameras=self.cameras, execute=self.execute)
        if isinstance(looking, LeRobotConfig):
            return looking
        return replace(looking, grounding=replace(looking.grounding, at=self.at))


# Reach needs no second look; to grasp, the gripper must be seen from near by, and looked at more often.
TASK_VIEWS: dict[str, TaskView] = {
    "reach": TaskView(cameras=("front",), execute=4, minutes=4.0),
    "push": TaskView(cameras=("front",), execute=4, minutes=10.0, at=("first", "zone")),
    "lift": TaskView(cameras=None, execute=2, minutes=10.0),
    "stack": TaskView(cameras=None, execute=2, minutes=20.0, at=("first", "second")),
}
"""Task -> how it is looked at."""


_TOWER = BackboneConfig(frozen=("language", "fusion"))
_BETWEEN = BackboneConfig(frozen=("vision", "language"))

STAGES: dict[str, StageConfigs] = {
    "contrastive": ContrastiveConfig(backbone=_TOWER),
    "contrastive-plain": ContrastiveConfig(backbone=_TOWER, richness="plain"),
    "contrastive-dense": ContrastiveConfig(backbone=_TOWER, richness="dense"),
    "contrastive-clip": ContrastiveConfig(backbone=_TOWER, objective="softmax"),
    "align": CaptioningConfig(backbone=_BETWEEN),
    "align-plain": CaptioningConfig(backbone=_BETWEEN, richness="plain"),
    "align-dense": CaptioningConfig(backbone=_BETWEEN, richness="dense"),
    "instruct": CaptioningConfig(kind="instruct", backbone=BackboneConfig(frozen=("vision",))),
}
"""Name -> what comes before the actions, and what each leaves as it is."""


def stage_recipe(model: StageConfigs, view: TaskView) -> TrainConfig:
    """A stage on the frames of a task."""
    return TrainConfig(
        model=replace(model, cameras=view.cameras),
        windows=WindowConfig(length=1, batch=64),
        fit=FitConfig(minutes=2.0, learning_rate=1e-3, ema=0.99, precision="bf16"),
        hold_out=10,
    )


def _presets() -> Iterator[tuple[str, Callable[[], TrainConfig]]]:
    for task, view in TASK_VIEWS.items():
        for name, head in HEADS.items():
            yield f"{name}-{task}", partial(policy_recipe, view.on(head), view.minutes)
        for name, stage in STAGES.items():
            yield f"{name}-{task}", partial(stage_recipe, stage, view)
        yield f"state-{task}", _state
        yield f"rssm-{task}", _rssm
        yield f"rssm-unlabelled-{task}", partial(_rssm, labels=False)
        yield f"dreamer-{task}", _dreamer_of_an_arm
    yield "dreamer-proprio", partial(_dreamer, RSSMConfig(size="small", sees="state", carry_state=True))
    yield (
        "dreamer-vision",
        partial(_dreamer, RSSMConfig(size="small", sees="images", image_weight=0.1, foreground_weight=20.0)),
    )


PRESETS: dict[str, Callable[[], TrainConfig]] = dict(_presets())
"""MODEL-TASK -> recipe."""


def preset(name: str) -> TrainConfig:
    """The recipe of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]()
