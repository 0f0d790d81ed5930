"""Verbs about policies and world models."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, override

import tyro
from tyro.conf import Positional

from worldlab.changes import BudgetOptions
from worldlab.conditions import EvalConditions
from worldlab.errors import UsageError
from worldlab.trunk import BackboneOptions
from worldlab.verbs.verb import Verb

if TYPE_CHECKING:
    from worldlab.workbench import Outcome


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
class Train(Verb):
    """Train a model by a preset's recipe. `worldlab list presets` shows them."""

    preset: Positional[str]
    """MODEL-TASK: flow-reach, tokens-lift, state-push, dreamer-proprio."""
    out: Path
    """The run folder to make."""
    data: str | None = None
    """The store to train on."""
    env: str | None = None
    """Or the environment to act in meanwhile, for dreamer presets; what happens there is kept in OUT/replay.zarr."""
    changes: Annotated[BudgetOptions, tyro.conf.arg(name="")] = field(default_factory=BudgetOptions)
    """Another budget than the preset's."""
    resume: bool = False
    """Go on from the checkpoint in --out."""
    trunk: Annotated[BackboneOptions, tyro.conf.arg(name="")] = field(default_factory=BackboneOptions)
    """Another trunk under the preset's head."""

    @override
    def run(self) -> "Outcome":
        return self._online(self.env) if self.env is not None else self._from_a_store()

    @override
    def leave(self) -> None:
        from worldlab.sharding import exit_if_distributed

        exit_if_distributed()

    def _from_a_store(self) -> "Outcome":
        from worldlab.workbench import train

        if self.data is None:
            raise UsageError("give --data STORE to train on, or --env ENV to act in meanwhile (dreamer presets).")
        if self.changes.of_acting:
            raise UsageError("--env-steps and --ratio go with --env.")
        return train(
            self.preset,
            self.data,
            self.out,
            changes=self.changes,
            resume=self.resume,
            trunk=self.trunk,
            seed=self.seed,
            device=self.device,
        )

    def _online(self, env_id: str) -> "Outcome":
        from worldlab.online import train_online

        if self.data is not None or self.changes.of_a_store or self.trunk != BackboneOptions():
            raise UsageError(
                "--env takes --env-steps, --ratio and --batch; not --data, --steps, --minutes or a backbone."
            )
        return train_online(
            self.preset,
            env_id,
            self.out,
            changes=self.changes,
            resume=self.resume,
            seed=self.seed,
            device=self.device,
        )


@dataclass(frozen=True, kw_only=True)
class Eval(Verb):
    """Success rate of a policy on unseen seeds, with its interval and its controls."""

    policy: Positional[str]
    """A run folder, expert, random, lerobot:DIR, recorded:STORE, lean:RUN (bf16), compiled:RUN (that, compiled), or
    plan:RUN to plan with a world model (plan.mppi:, plan.zone:) or with the simulator (plan:simulator)."""
    env: str
    """Environment id."""
    episodes: int = 100
    """Episode i starts from seed + i."""
    n: int = 50
    """Environments in lockstep; the result does not depend on it."""
    controls: bool = True
    """Also evaluate the expert, random actions, blank images and wrong instructions."""
    conditions: Annotated[EvalConditions, tyro.conf.arg(name="")] = field(default_factory=EvalConditions)
    """The world that it is judged in."""
    execute: int | None = None
    """Actions executed before looking again; None leaves it to the policy."""
    ensemble: float | None = None
    """Look at every step and blend all plans, the i-th oldest with weight exp(-ensemble * i); ACT has 0.01."""
    delay: int = 0
    """Control steps that a plan takes to compute, on a virtual clock; the previous plan is executed meanwhile."""
    rtc: bool = True
    """Whether the policy is told what is executed meanwhile (real-time chunking)."""

    @override
    def run(self) -> "Outcome":
        from worldlab.policies import ExecutionConfig
        from worldlab.workbench import evaluate

        execution = ExecutionConfig(execute=self.execute, ensemble=self.ensemble, delay=self.delay, rtc=self.rtc)
        return evaluate(
            self.policy,
            self.env,
            self.episodes,
            n=self.n,
            controls=self.controls,
            conditions=self.conditions,
            execution=execution,
            seed=self.seed,
            device=self.device,
        )


@dataclass(frozen=True, kw_only=True)
class Compare(Verb):
    """Two policies on the same seeds: a paired test and a verdict."""

    a: Positional[str]
    """A run folder, or any other policy that `worldlab eval` takes."""
    b: Positional[str]
    """The other one."""
    env: str
    """Environment id."""
    episodes: int = 100
    """Episode i starts from seed + i, for both."""
    n: int = 50
    """Environments in lockstep."""
    conditions: Annotated[EvalConditions, tyro.conf.arg(name="")] = field(default_factory=EvalConditions)
    """The world that both are judged in."""

    @override
    def run(self) -> "Outcome":
        from worldlab.workbench import compare

        conditions, seed, device = self.conditions, self.seed, self.device
        return compare(
            self.a, self.b, self.env, self.episodes, n=self.n, conditions=conditions, seed=seed, device=device
        )


@dataclass(frozen=True, kw_only=True)
class Bakeoff(Verb):
    """Every action head on one trunk, every fusion under one head: same data and budget, several training seeds."""

    data: str
    """The store that all are trained on."""
    out: Path
    """A folder for the runs and the table; a contest that was interrupted goes on."""
    task: str = "lift"
    """reach, push, lift or stack: which cameras, and how often they are looked through."""
    heads: tuple[str, ...] | None = None
    """Heads, all on the fusion llava; every head, if neither heads nor fusions are named."""
    fusions: tuple[str, ...] | None = None
    """Fusions, all under the head flow; likewise."""
    seeds: int = 3
    """Training seeds."""
    steps: int | None = None
    """Budget of each in steps: equal samples."""
    minutes: float | None = None
    """Budget of each in minutes of one thread: equal time (on a CPU, CPU time)."""
    chunk: int = 8
    """Actions that all predict at once."""
    episodes: int = 100
    """Closed-loop episodes of each policy."""
    workers: int = 2
    """Processes."""

    @override
    def run(self) -> "Outcome":
        from worldlab.bakeoff import Contest, bakeoff
        from worldlab.policies.backbone_config import FUSIONS
        from worldlab.presets import HEADS

        if self.seed:
            raise UsageError("a contest trains by the seeds 0, 1, … (--seeds) and is judged on those from 0 on.")
        everything = self.heads is None and self.fusions is None
        contest = Contest(
            task=self.task,
            data=self.data,
            heads=tuple(HEADS) if everything else self.heads or (),
            fusions=FUSIONS if everything else self.fusions or (),
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
    """Control steps to imagine; what comes of them is told after 1, 2, 5, 10, 20, 50 and 100."""
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

        if self.ways and self.branches != type(self).branches:
            raise UsageError("--ways says what the branches are; leave --branches out.")
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
