"""Every policy by name, those that plan with a world model among them."""

from pathlib import Path

from worldlab import dynamics
from worldlab.errors import unknown
from worldlab.protocols import Environment, Observable, Policy
from worldlab.runs import Run

PLAN = "plan"
OPTIONS = ("cem", "mppi", "zone")
"""What may follow `plan`: how to search (cem by default), and for what (the model's imagined reward by default)."""


def load(name: str, env: Environment, device: str = "cpu") -> Policy:
    """A policy for an environment.

    Args:
        name: what `worldlab.policies.load` takes, or "plan:RUN" for a planner with the world model of a run, which
            searches by the cross-entropy method for the most imagined reward; "plan.mppi:RUN" searches by path
            integrals, and "plan.zone:RUN" for the hand-written cost of pushing the target object into the zone.
        env: whose expert, whose action range or whose privileged state is needed.
        device: where networks compute.

    Raises:
        UsageError: there is no such policy, or it cannot act in this environment.
    """
    kind, _, run = name.partition(":")
    first, *options = kind.split(".")
    if first != PLAN or not run:
        if (Path(name) / "config.json").is_file() and Run.open(name).config["kind"] == "dreamer":
            return dynamics.load_dreamer(name, device)
        from worldlab import policies  # a second to import

        return policies.load(name, device=device, env=env)
    for option in options:
        if option not in OPTIONS:
            raise unknown("way to plan", option, OPTIONS)
    model = dynamics.load(run, device)
    return dynamics.Planner(
        model,
        dynamics.MPPI() if "mppi" in options else dynamics.CEM(),
        dynamics.ToZone(model.spec) if "zone" in options else dynamics.mean_reward,
        env if isinstance(env, Observable) else None,
    )


def run_of(name: str) -> tuple[Path, str]:
    """The folder that a policy is loaded from, and how it is used: ("runs/x", "plan.mppi") of "plan.mppi:runs/x"."""
    kind, _, run = name.partition(":")
    planned = kind.split(".")[0] == PLAN and run
    return (Path(run), kind) if planned else (Path(name.removeprefix("lerobot:")), "")
