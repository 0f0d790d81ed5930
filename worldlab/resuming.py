"""A training that is resumed must be the one that was begun."""

import json
from collections.abc import Mapping
from pathlib import Path

from worldlab.errors import UsageError
from worldlab.runs import Json, Run, to_json


def open_for_resume(out: Path, about: Mapping[str, object]) -> Run:
    """The run to go on with.

    Raises:
        UsageError: it was begun otherwise; its budget alone may be another.
    """
    run = Run.open(out)
    before = run.config

    def other(*parts: str) -> bool:
        return any(before.get(part) != json.loads(json.dumps(to_json(about.get(part)))) for part in parts)

    if other("preset", "data"):
        raise UsageError(f"'{out}' was trained as {before.get('preset')} on {before.get('data')}; resume it as that.")
    if other("data_id", "episodes"):
        raise UsageError(
            f"'{about['data']}' is another store by now, or has grown, since '{out}' was begun; train it anew."
        )
    if other("model", "backbone"):
        raise UsageError(f"'{out}' was trained with another trunk; resume it with the options it was started with.")
    if other("init"):
        raise UsageError(f"'{out}' was begun from another run (--init); resume it with the --init of then.")
    if other("head") or _lasting(before) != _lasting(about):
        raise UsageError(f"'{out}' was begun with another seed or batch; resume it with the options of then.")
    return run


def _lasting(about: Mapping[str, object]) -> dict[str, Json]:
    """Of a recipe, what must not change when a run is resumed."""
    recipe = about.get("recipe")
    fit = recipe.get("fit") if isinstance(recipe, dict) else None
    if not isinstance(recipe, dict) or not isinstance(fit, dict):
        return {}
    free = ("steps", "minutes", "compile", "checkpoint_seconds", "log_every")
    return {**recipe, "fit": {name: value for name, value in fit.items() if name not in free}}
