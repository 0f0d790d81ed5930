"""The page that the demo ends with."""

from dataclasses import dataclass, field
from pathlib import Path

from worldlab import eval as evaluation
from worldlab.eval.branch_report import branch_sections, effect_fact
from worldlab.eval.counterfactual import CounterfactualResult
from worldlab.eval.rates import share
from worldlab.eval.report import Bar, Fact, Note, Section, SuccessBars, Table, Title, Video, VideoStrip
from worldlab.eval.video import encode, side_by_side
from worldlab.lerobot_programs import LeRobotCheck
from worldlab.runs import Json
from worldlab.trajectory import Trajectory

type Shot = tuple[evaluation.Episode, Trajectory]
"""An episode and what it looked like."""


@dataclass
class Findings:
    """What the demo found out, for the report."""

    provenance: dict[str, Json]
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each stage took."""
    demonstrations: dict[str, Json] = field(default_factory=dict)
    policies: dict[str, evaluation.SuccessResult] = field(default_factory=dict)
    """Flow and tokens, and the flow policy's controls, on the same seeds."""
    footage: dict[str, list[Shot]] = field(default_factory=dict)
    """Episodes to show."""
    comparison: evaluation.Comparison | None = None
    training: dict[str, dict[str, Json]] = field(default_factory=dict)
    counterfactual: CounterfactualResult | None = None
    lerobot: LeRobotCheck | None = None

    def to_json(self) -> dict[str, Json]:
        """All numbers."""
        return {
            "seconds": self.seconds,
            "demonstrations": self.demonstrations,
            "training": self.training,
            "policies": {name: result.to_json() for name, result in self.policies.items()},
            "comparison": self.comparison and self.comparison.to_json(),
            "counterfactual": self.counterfactual and self.counterfactual.to_json(),
            "lerobot": self.lerobot and self.lerobot.to_json(),
            "provenance": self.provenance,
        }


HORIZON = 10
"""Steps at which the world model's headline number is taken."""

_LEAD = """\
A simulated SO-101 arm showed how it is done. Two policies with one backbone and one budget learnt it from pixels
and words. A world model dreamt what other actions would have led to, and the simulator said what they really did.
LeRobot's own programs ran the result."""

HOLD = 10
"""Control steps for which success must hold, in demonstrations as in evaluations: a second."""

_BARS = """\
Closed loop, on seeds that training never saw; every bar on the same seeds, with Wilson's 95 % interval. Whoever stays
where it was told to go for a second succeeds; passing through does not count. With blank images the policy cannot see;
with the wrong instruction it is told another cube's colour and judged by the right one. Both must fall far if it looks
and listens."""

_BUDGET = """\
Both policies had the same data, backbone and minutes. Seconds: median time until success had held. Roughness: mean
absolute second difference of the joint targets, rad. Ms: wall time of a chunk for all episodes at once, divided by
their number; one robot waits longer (worldlab bakeoff measures that). Steps: of training, 32 observations each.
Training used a grounding loss whose labels (the pixel of the named cube) only a simulator has; acting uses images,
joint positions and words alone."""

_DREAMS = "The model predicts the simulator's state, labels that only a simulator has, and draws the picture from it."

_PROGRAMS = """\
The flow policy was exported to a LeRobot directory. lerobot-eval ran it on the simulated task, where success counts at
once, and lerobot-rollout ran it for {seconds:g} s on the simulated SO-101 behind LeRobot's Robot class, in
LeRobot's own control loop. {episodes} demonstrations ({frames} frames) were exported as a LeRobot dataset."""

_LABELS = {
    "flow": "flow matching",
    "tokens": "action tokens",
    "expert": "scripted expert",
    "random": "random actions",
    "blank_image": "flow, blank images",
    "wrong_instruction": "flow, wrong instruction",
}


def write(found: Findings, path: Path) -> Path:
    """Write report.html."""
    sections: list[Section] = [_title(found), *_policies(found), *_world_model(found), *_lerobot(found), _stages(found)]
    return evaluation.write_report(sections, path)


def _rate(result: evaluation.SuccessResult) -> str:
    low, high = (share(x, result.n) for x in result.interval)
    return f"n = {result.n}, 95 % interval {low} to {high}"


def _title(found: Findings) -> Title:
    flow, tokens = found.policies["flow"], found.policies["tokens"]
    facts = [
        Fact(f"{flow.rate:.0%}", "Reach, flow-matching policy", _rate(flow)),
        Fact(f"{tokens.rate:.0%}", "Reach, action-token policy", _rate(tokens)),
    ]
    if found.counterfactual is not None:
        facts.append(effect_fact(found.counterfactual, HORIZON))
    if found.lerobot is not None:
        n = len(found.lerobot.lerobot_successes)
        facts.append(Fact(f"{found.lerobot.agreeing}/{n}", "seeds on which lerobot-eval agrees", "exported policy"))
    return Title("What worldlab did just now", _LEAD, tuple(facts), found.provenance)


def _seed(found: Findings) -> str:
    """What a command needs beside, if it was not the usual one."""
    seed = found.provenance["seed"]
    return f" --seed {seed}" if seed else ""


def _policies(found: Findings) -> list[Section]:
    roles = {"flow": "policy", "tokens": "policy", "expert": "baseline", "random": "baseline"}
    bars = tuple(
        Bar(_LABELS[name], result.successes, result.n, roles.get(name, "control"))  # pyright: ignore[reportArgumentType]
        for name, result in found.policies.items()
    )
    command = f"worldlab eval RUN/flow --env worldlab/Reach-v0 --episodes 100 --hold {HOLD}{_seed(found)}"
    sections: list[Section] = [
        SuccessBars(
            "Does it reach the cube it is told to reach?",
            bars,
            command,
            _BARS,
        )
    ]
    if found.comparison is not None:
        sections.append(Note("Flow against tokens", found.comparison.verdict))
    videos = tuple(
        Video(
            f"{_LABELS[name]}: “{episode.task}”, seed {episode.seed}",
            encode(
                side_by_side({camera: image.numpy() for camera, image in t.obs.images.items()}, 192),
                10,
                last_frame_seconds=1.0,
            ),
            "success" if episode.success else "failure",
        )
        for name, shots in found.footage.items()
        for episode, t in shots
    )
    note = "The two cameras of the arm, in real time, as the policy saw them (64 × 64 pixels, enlarged)."
    sections.append(VideoStrip("Successes and failures", videos, command, width=300, note=note))
    sections.append(_details(found))
    return sections


def _details(found: Findings) -> Table:
    rows = tuple(
        (
            _LABELS[name],
            f"{result.successes}/{result.n}",
            f"{result.interval[0]:.2f}–{result.interval[1]:.2f}",
            result.median_time_to_success,
            result.roughness,
            result.latency_ms / result.num_envs if name in ("flow", "tokens") else None,
            str(found.training[name]["step"]) if name in found.training else None,
        )
        for name, result in found.policies.items()
    )
    columns = (
        "policy",
        "successes",
        "95 % interval",
        "seconds",
        "roughness",
        "ms",
        "steps",
    )
    return Table(
        "The same in numbers",
        columns,
        rows,
        "worldlab demo",
        _BUDGET,
    )


def _world_model(found: Findings) -> list[Section]:
    if found.counterfactual is None:
        return []
    command = f"worldlab imagine RUN/world-model --data RUN/push.zarr{_seed(found)}"
    return branch_sections(found.counterfactual, command, _DREAMS)


def _lerobot(found: Findings) -> list[Section]:
    check = found.lerobot
    if check is None:
        return []
    rows = tuple(
        (check.seed + i, "success" if ours else "failure", "success" if theirs else "failure")
        for i, (ours, theirs) in enumerate(zip(check.worldlab_successes, check.lerobot_successes, strict=True))
    )
    text = _PROGRAMS.format(seconds=check.rollout_seconds, episodes=check.episodes, frames=check.frames)
    text = "\n\n".join([text, *check.commands])
    table = Table(
        "The same policy, the same seeds, two programs", ("seed", "worldlab", "lerobot-eval"), rows, check.commands[0]
    )
    return [Note("In LeRobot's own programs", text), table]


def _stages(found: Findings) -> Table:
    rows = [*found.seconds.items(), ("together", sum(found.seconds.values()))]
    whole = tuple((stage, round(seconds)) for stage, seconds in rows)
    return Table("Where the time went", ("stage", "seconds"), whole, "worldlab demo")
