"""Verbs about episodes, and about what goes to LeRobot and comes from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, override

from tyro.conf import Positional

from worldlab import processes
from worldlab.errors import UsageError
from worldlab.verbs.verb import Verb

if TYPE_CHECKING:
    from worldlab.workbench import Outcome


@dataclass(frozen=True, kw_only=True)
class Collect(Verb):
    """Record episodes into a store; an existing store of the same kind is appended to."""

    env: Positional[str]
    """Environment id: worldlab/Reach-v0, dm_control/cartpole-swingup-v0, or any of Gymnasium's."""
    episodes: int
    """Episodes to keep."""
    out: str
    """The store, for example data/reach.zarr or s3://bucket/reach.zarr."""
    policy: str = "expert"
    """expert, random, a run folder, or any other policy that `worldlab eval` takes."""
    noise: float = 0.0
    """Disturb the expert in bursts, 0 and up (1 is rough); its clean action is stored as the label to imitate."""
    keep_failures: bool = False
    """Keep the expert's failed episodes too."""
    hold: int = 0
    """Control steps for which the task must stay achieved: policies learn to leave alone what is done."""
    size: int = 64
    """Height and width of the camera images in pixels."""
    n: int = 32
    """Environments in lockstep; the episodes do not depend on it."""
    workers: int = 0
    """Processes; 0 is one per core where that pays. The episodes do not depend on it."""

    @override
    def run(self) -> "Outcome":
        processes.prepare(processes.number(self.episodes / max(self.n, 1), max(self.workers, 0)))
        from worldlab.collection import CollectConfig
        from worldlab.workbench import collect

        recipe = CollectConfig(
            env=self.env,
            policy=self.policy,
            noise=self.noise,
            keep_failures=self.keep_failures,
            hold=self.hold,
            size=self.size,
            n=self.n,
            device=self.device,
        )
        return collect(recipe, self.out, self.episodes, workers=self.workers, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Export(Verb):
    """Write a store as a LeRobot dataset, or a run as a LeRobot policy, checked before it may move an arm."""

    what: Positional[Literal["dataset", "policy"]]
    """What to export."""
    source: Positional[str]
    """The store or the run."""
    out: Path
    """The folder to make; an export of a dataset that was interrupted goes on."""
    images: bool = False
    """Of a dataset: write pictures (exact, larger) instead of video (exact to 2 of 255 levels)."""
    physics: bool = False
    """Of a dataset: also write physics and privileged state, which LeRobot's policies ignore."""
    episodes: int | None = None
    """Of a dataset: write only the first so many."""
    check: bool = False
    """Of a policy: drive the simulated arm with it first, and refuse one that the real arm should not run."""
    force: bool = False
    """With --check: export what was refused all the same; the report says why it should not run."""
    env: str | None = None
    """With --check: whose scenes to check in; of a policy that was trained in simulation, those by default."""

    @override
    def run(self) -> "Outcome":
        from worldlab.interchange import export_dataset, export_policy

        of_policies = self.check or self.force or self.env is not None
        of_datasets = self.images or self.physics or self.episodes is not None
        if self.what == "dataset" and of_policies:
            raise UsageError("--check, --force and --env are of policies.")
        if self.what == "policy" and of_datasets:
            raise UsageError("--images, --physics and --episodes are of datasets.")
        if self.what == "dataset":
            return export_dataset(
                self.source, self.out, images=self.images, physics=self.physics, episodes=self.episodes
            )
        return export_policy(
            Path(self.source), self.out, check=self.check, env=self.env, force=self.force, seed=self.seed
        )


@dataclass(frozen=True, kw_only=True)
class Import(Verb):
    """Read a LeRobot dataset into a store; an import that was interrupted goes on."""

    source: Positional[str]
    """A folder in LeRobot's format v3.0 or v2.1, or OWNER/NAME on the Hugging Face hub."""
    out: str
    """The store, for example data/pick.zarr or s3://bucket/pick.zarr."""
    rename: tuple[str, ...] = ()
    """NAME=FEATURE for cameras and columns, for example front=observation.images.top reward=score."""
    size: tuple[int, int] | None = None
    """Height and width to resize every camera to."""
    units: Literal["degrees", "recorded"] | None = None
    """Of an SO-101's joints: degrees become radians (what LeRobot records today); recorded leaves the numbers as they
    are (use_degrees=false). Must be said of recordings by an older LeRobot."""

    @override
    def run(self) -> "Outcome":
        from worldlab.interchange import import_lerobot

        return import_lerobot(self.source, self.out, rename=self.rename, size=self.size, units=self.units)


@dataclass(frozen=True, kw_only=True)
class View(Verb):
    """What a store or a run holds: a table, and its episodes or its training in the Rerun viewer."""

    path: Positional[str]
    """A store, also one behind a URL, or a run folder."""
    episodes: tuple[int, ...] = ()
    """Which episodes of a store to look at, counted from 0; the first three if none are given."""
    out: Path | None = None
    """Write this .rrd file instead of opening the viewer. Without a display, one is written beside what is viewed."""

    @override
    def run(self) -> "Outcome":
        from worldlab.workbench import view

        return view(self.path, self.episodes, self.out)


@dataclass(frozen=True, kw_only=True)
class List(Verb):
    """The names that other verbs take."""

    what: Positional[Literal["envs", "presets", "backbones", "variations"]]
    """Which names."""

    @override
    def run(self) -> "Outcome":
        from worldlab.workbench import names

        return names(self.what)
