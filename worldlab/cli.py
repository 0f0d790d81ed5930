"""The command line: one frozen dataclass per verb, each a thin call of the function of the same name in `workbench`.

Everything heavy is imported inside `run`, so that `worldlab --help` answers at once.
"""

import errno
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, override

import tyro
from tyro.conf import Positional

from worldlab import processes
from worldlab.errors import UsageError
from worldlab.trunk import Trunk

if TYPE_CHECKING:
    from worldlab.workbench import Outcome

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Verb(ABC):
    """What every verb takes."""

    json: bool = False
    """Print the last line as JSON on stdout; everything else goes to stderr."""
    seed: int = 0
    """Everything random is keyed by it."""
    device: Device = "auto"
    """Where networks run."""

    @abstractmethod
    def run(self) -> "Outcome":
        """Do it, and say what came of it."""


@dataclass(frozen=True, kw_only=True)
class Demo(Verb):
    """The main job, end to end: demonstrations, two policies, a world model, counterfactuals, LeRobot, a report."""

    out: Path = Path("runs/demo")
    """Folder for everything it makes; report.html is the one to open."""
    minutes: float = 1.0
    """Scales every training budget."""

    @override
    def run(self) -> "Outcome":
        from worldlab.demo import demo

        return demo(self.out, self.minutes, self.seed, self.device)


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
    """expert, random, a run folder, lerobot:DIR, or plan:RUN to plan with a world model."""
    noise: float = 0.0
    """Disturb the expert in bursts, from 0 to 1; its clean action is stored as the label to imitate."""
    keep_failures: bool = False
    """Keep the expert's failed episodes too."""
    size: int = 64
    """Height and width of the camera images in pixels."""
    n: int = 32
    """Environments in lockstep; the episodes do not depend on it."""
    workers: int = 0
    """Processes; 0 is one per core where that pays. The episodes do not depend on it."""

    @override
    def run(self) -> "Outcome":
        processes.prepare(processes.number(self.episodes / self.n, self.workers))
        from worldlab.collection import Recipe
        from worldlab.workbench import collect

        recipe = Recipe(
            env=self.env,
            policy=self.policy,
            noise=self.noise,
            keep_failures=self.keep_failures,
            size=self.size,
            n=self.n,
        )
        return collect(recipe, self.episodes, self.out, workers=self.workers, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Train(Verb):
    """Train a model by a preset's recipe. `worldlab list presets` shows them."""

    preset: Positional[str]
    """MODEL-TASK: flow-reach, tokens-lift, state-push."""
    data: str
    """The store to train on."""
    out: Path
    """The run folder to make."""
    steps: int | None = None
    """Budget in steps, instead of the preset's."""
    minutes: float | None = None
    """Budget in minutes, instead of the preset's."""
    resume: bool = False
    """Go on from the checkpoint in --out."""
    trunk: Annotated[Trunk, tyro.conf.arg(name="")] = field(default_factory=Trunk)
    """Another trunk under the preset's head."""

    @override
    def run(self) -> "Outcome":
        from worldlab.workbench import train

        return train(
            self.preset,
            self.data,
            self.out,
            steps=self.steps,
            minutes=self.minutes,
            resume=self.resume,
            trunk=self.trunk,
            seed=self.seed,
            device=self.device,
        )


@dataclass(frozen=True, kw_only=True)
class Eval(Verb):
    """Success rate of a policy on unseen seeds, with its interval and its controls."""

    policy: Positional[str]
    """A run folder, expert, random, lerobot:DIR, or plan:RUN to plan with a world model (plan.mppi:, plan.zone:)."""
    env: str
    """Environment id."""
    episodes: int = 100
    """Episode i starts from seed + i."""
    n: int = 50
    """Environments in lockstep; the result does not depend on it."""
    controls: bool = True
    """Also evaluate the expert, random actions, blank images and wrong instructions."""
    variation: tuple[str, ...] = ()
    """Departures from the training world, NAME=SEVERITY. `worldlab list variations` shows them."""
    execute: int | None = None
    """Actions executed before looking again; None leaves it to the policy."""
    ensemble: float | None = None
    """Look at every step and blend all plans, the i-th oldest with weight exp(-ensemble * i); ACT has 0.01."""
    delay: int = 0
    """Control steps that a plan takes to compute, on a virtual clock; the previous plan is executed meanwhile."""
    continuing: bool = True
    """Whether the policy is told what is executed meanwhile (real-time chunking)."""

    @override
    def run(self) -> "Outcome":
        from worldlab.policies import ExecutionConfig
        from worldlab.workbench import evaluate

        execution = ExecutionConfig(
            execute=self.execute, ensemble=self.ensemble, delay=self.delay, continuing=self.continuing
        )
        return evaluate(
            self.policy,
            self.env,
            self.episodes,
            n=self.n,
            controls=self.controls,
            variation=self.variation,
            execution=execution,
            seed=self.seed,
            device=self.device,
        )


@dataclass(frozen=True, kw_only=True)
class Compare(Verb):
    """Two policies on the same seeds: a paired test and a verdict."""

    a: Positional[str]
    """A run folder, expert, random, or lerobot:DIR."""
    b: Positional[str]
    """The other one."""
    env: str
    """Environment id."""
    episodes: int = 100
    """Episode i starts from seed + i, for both."""
    n: int = 50
    """Environments in lockstep."""

    @override
    def run(self) -> "Outcome":
        from worldlab.workbench import compare

        return compare(self.a, self.b, self.env, self.episodes, n=self.n, seed=self.seed, device=self.device)


@dataclass(frozen=True, kw_only=True)
class Bakeoff(Verb):
    """Every action head on one trunk, every fusion under one head: same data and budget, several training seeds."""

    data: str
    """The store that all are trained on."""
    out: Path
    """A folder for the runs and the table; a contest that was interrupted goes on."""
    task: str = "lift"
    """reach, push, lift or stack: which cameras, and how often they are looked through."""
    heads: tuple[str, ...] = (
        "flow",
        "flow-adarms",
        "flow-insulated",
        "diffusion",
        "l1",
        "tokens",
        "tokens-parallel",
        "fast",
        "state-only",
    )
    """Heads, all on the fusion llava."""
    fusions: tuple[str, ...] = ("llava", "anyres", "qformer", "flamingo", "native")
    """Fusions, all under the head flow."""
    seeds: int = 3
    """Training seeds."""
    steps: int | None = None
    """Budget of each in steps: equal samples."""
    minutes: float | None = None
    """Budget of each in minutes of one thread: equal time."""
    chunk: int = 8
    """Actions that all predict at once."""
    episodes: int = 100
    """Closed-loop episodes of each policy."""
    workers: int = 2
    """Processes."""

    @override
    def run(self) -> "Outcome":
        from worldlab.bakeoff import Contest, bakeoff

        contest = Contest(
            task=self.task,
            data=self.data,
            heads=self.heads,
            fusions=self.fusions,
            seeds=self.seeds,
            steps=self.steps,
            minutes=self.minutes,
            chunk=self.chunk,
            episodes=self.episodes,
        )
        return bakeoff(contest, self.out, workers=self.workers, device=self.device)


@dataclass(frozen=True, kw_only=True)
class Imagine(Verb):
    """Counterfactuals of a world model, scored against the simulator's own branches, with a page and a video."""

    model: Positional[Path]
    """A run folder that holds a world model."""
    data: str
    """The store whose held-out episodes are branched."""
    horizon: int = 20
    """Control steps to imagine."""
    branches: int = 8
    """Branches of each start; branch 0 is what was recorded."""
    ways: tuple[str, ...] = ()
    """What the other branches do instead of the usual: hold, zero, shuffled, perturbed, random, any policy that
    `worldlab eval` takes, or actions from a file (left.npy, one row a step)."""
    starts: int = 64
    """Recorded rows to branch from."""
    probe: bool = False
    """Read positions off the model's belief by a linear probe, also where it decodes them itself."""

    @override
    def run(self) -> "Outcome":
        from worldlab.imagining import imagine

        return imagine(
            self.model,
            self.data,
            horizon=self.horizon,
            branches=self.ways or self.branches,
            starts=self.starts,
            probe=self.probe,
            seed=self.seed,
            device=self.device,
        )


@dataclass(frozen=True, kw_only=True)
class Play(Verb):
    """Drive a world model in the browser, with the simulator beside it on the same actions."""

    model: Positional[Path]
    """A run folder that holds a world model."""
    data: str | None = None
    """The store of recorded frames to begin from; the one that the run was trained on if none is given."""
    port: int = 8000
    """Where the page is, on this machine alone; 0 takes a free one."""

    @override
    def run(self) -> "Outcome":
        from worldlab.playing.verb import play

        return play(self.model, data=self.data, port=self.port, seed=self.seed, device=self.device)


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

    @override
    def run(self) -> "Outcome":
        from worldlab.workbench import export_dataset, export_policy

        if self.what == "dataset":
            return export_dataset(
                self.source, self.out, images=self.images, physics=self.physics, episodes=self.episodes
            )
        return export_policy(Path(self.source), self.out, check=self.check, force=self.force, seed=self.seed)


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
    keep_units: bool = False
    """Leave an SO-101's numbers as they are: it was recorded with use_degrees=false."""

    @override
    def run(self) -> "Outcome":
        from worldlab.workbench import import_lerobot

        return import_lerobot(self.source, self.out, rename=self.rename, size=self.size, keep_units=self.keep_units)


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


type Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Collect, tyro.conf.subcommand("collect")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Eval, tyro.conf.subcommand("eval")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Bakeoff, tyro.conf.subcommand("bakeoff")]
    | Annotated[Imagine, tyro.conf.subcommand("imagine")]
    | Annotated[Play, tyro.conf.subcommand("play")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[View, tyro.conf.subcommand("view")]
    | Annotated[List, tyro.conf.subcommand("list")]
)


def parse(argv: Sequence[str] | None = None) -> Verb:
    """The command that the arguments ask for; exits with a message if they ask for none."""
    return tyro.cli(  # pyright: ignore[reportCallIssue, reportReturnType, reportUnknownVariableType]
        Command.__value__,  # pyright: ignore[reportArgumentType]
        prog="worldlab",
        description="Robot policies and world models, with the simulator as the ground truth for the dream.",
        args=argv,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends with one sentence on stderr and exit status 2."""
    command = parse(argv)
    try:
        outcome = command.run()
    except UsageError as error:
        fail(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fail(f"the disk is full: could not write {error.filename or 'a file'}. Free some space and run this again.")
    except KeyboardInterrupt:
        sys.exit(130)
    else:
        print(json.dumps(outcome.values) if command.json else outcome.line)  # noqa: T201


def fail(sentence: str) -> None:
    """End with one sentence and status 2."""
    print(f"worldlab: {sentence}", file=sys.stderr)  # noqa: T201
    sys.exit(2)
