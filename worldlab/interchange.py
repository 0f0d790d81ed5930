"""What goes to LeRobot and comes from it, for the verbs of the command line."""

from pathlib import Path
from typing import TYPE_CHECKING

from worldlab import datasets, envs
from worldlab.errors import UsageError
from worldlab.runs import to_json
from worldlab.workbench import Outcome

if TYPE_CHECKING:
    from worldlab.datasets.lerobot_format import Units


def export_dataset(
    source: str | Path, out: Path, *, images: bool = False, physics: bool = False, episodes: int | None = None
) -> Outcome:
    """A store to LeRobot; see `worldlab export --help`."""
    from worldlab.datasets import lerobot_export

    if episodes is not None and episodes < 1:
        raise UsageError(f"an export holds at least 1 episode; --episodes was {episodes}.")
    store = datasets.EpisodeStore(source)
    n = len(store) if episodes is None else min(episodes, len(store))
    lerobot_export.export_dataset(store, out, video=not images, physics=physics, episodes=range(n))
    return Outcome(f"{n} episodes exported: {out}", {"out": str(out), "episodes": n})


def export_policy(
    source: Path, out: Path, *, check: bool = False, env: str | None = None, force: bool = False, seed: int = 0
) -> Outcome:
    """A run to LeRobot; see `worldlab export --help`."""
    if (force or env is not None) and not check:
        raise UsageError("--force and --env go with --check.")
    if check:
        from worldlab.hardware_check import export_checked

        result, page = export_checked(
            source, out, env=None if env is None else envs.full_id(env), force=force, seed=seed
        )
        line = f"policy exported, {result.verdict}: {out}, {page}"
        return Outcome(line, {"out": str(out), "report": str(page), **result.to_json()})
    from worldlab import policies
    from worldlab.policies import lerobot_policy

    lerobot_policy.export_policy(policies.load_vla(source), out)
    return Outcome(f"policy exported: {out}", {"out": str(out)})


def import_lerobot(
    source: str,
    out: str | Path,
    *,
    rename: tuple[str, ...] = (),
    size: tuple[int, int] | None = None,
    units: "Units | None" = None,
) -> Outcome:
    """From LeRobot; see `worldlab import --help`."""
    from worldlab.datasets.lerobot_import import import_dataset

    names: dict[str, str] = {}
    for pair in rename:
        name, _, feature = pair.partition("=")
        if not name or not feature:
            raise UsageError(f"--rename takes NAME=FEATURE, for example front=observation.images.top; got '{pair}'.")
        names[name] = feature
    done = import_dataset(source, out, rename=names, size=size, units=units)
    left_out = "".join(f"; without '{feature}' ({why})" for feature, why in done.skipped.items())
    line = f"{done.added} episodes imported, {done.total} in all{left_out}: {out}"
    return Outcome(
        line, {"episodes": done.added, "total": done.total, "skipped": to_json(done.skipped), "store": str(out)}
    )
