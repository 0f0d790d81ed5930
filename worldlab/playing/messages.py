"""What the page and the server say to each other, as JSON."""

import base64
import io
import struct
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from worldlab.errors import UsageError, unknown
from worldlab.playing.session import Frames, Session, SessionState
from worldlab.runs import Json

NUDGE = 0.06
"""How far a held key moves a joint target in a step, radians."""


def about[S](session: Session[S], title: str, notes: tuple[str, ...]) -> dict[str, Json]:
    """What the page needs to know once: controls, cameras, episodes."""
    spec = session.spec
    targets = spec.joint_targets
    return {
        "title": title,
        "fps": spec.fps,
        "cameras": list(spec.cameras),
        "state": list(spec.state),
        "controls": [
            {"name": name, "low": low, "high": high}
            for name, low, high in zip(spec.action, spec.low, spec.high, strict=True)
        ],
        "follows": targets,
        "nudge": NUDGE if targets else 0.0,
        "episodes": list(session.episodes),
        "simulator": session.env is not None,
        "notes": list(notes),
    }


def present[S](session: Session[S]) -> dict[str, Json]:
    """What the page shows now."""
    now: SessionState[S] | None = session.now
    if now is None:
        return {"begun": False}
    return {
        "begun": True,
        "steps": now.steps,
        "task": session.task,
        "source": session.source,
        "branched": None if session.saved is None else session.saved.steps,
        "joints": list(now.joints),
        "dream": _pictures(now.dream),
        "truth": None if now.truth is None else _pictures(now.truth),
        "difference": None if now.truth is None else _pictures(_difference(now.truth, now.dream)),
        "imagined": dict(now.imagined),
        "happened": None if now.happened is None else dict(now.happened),
    }


def obey[S](session: Session[S], order: str, told: Mapping[str, object]) -> dict[str, Json]:
    """Do what the page asks for, and say what came of it.

    Raises:
        UsageError: it makes no sense; the session is as it was.
    """
    orders: dict[str, Callable[[], None]] = {
        "step": lambda: session.step(_numbers(told, "action")),
        "reset": lambda: session.reset(_whole(told, "episode"), _whole(told, "row")),
        "restart": session.restart,
        "branch": session.branch,
        "back": session.back,
        "show": lambda: session.show(_picture(told)),
    }
    if order not in orders:
        raise unknown("order", order, orders)
    orders[order]()
    return present(session)


def _whole(told: Mapping[str, object], name: str) -> int:
    value = told.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"'{name}' must be a whole number; got {value!r}.")
    return value


def _numbers(told: Mapping[str, object], name: str) -> list[float]:
    value = told.get(name)
    if not isinstance(value, list):
        raise UsageError(f"'{name}' must be a list of numbers; got {value!r}.")
    try:
        numbers = [float(x) for x in value if isinstance(x, int | float) and not isinstance(x, bool)]
    except OverflowError:
        numbers = []
    if len(numbers) != len(value):
        raise UsageError(f"'{name}' must be a list of numbers; got {value!r}.")
    return numbers


_UNREADABLE = (ValueError, SyntaxError, OSError, EOFError, LookupError, TypeError, struct.error, zlib.error)
"""What PIL raises of broken files: it leaves that to whatever reads a chunk."""


def _picture(told: Mapping[str, object]) -> Tensor:
    """The picture (h, w, 3) of a data URL or of bare base64."""
    from PIL import Image

    text = told.get("picture")
    if not isinstance(text, str):
        raise UsageError("'picture' must be an image file in base64.")
    try:
        raw = base64.b64decode(text.rpartition(",")[2], validate=True)
        return torch.from_numpy(np.array(Image.open(io.BytesIO(raw), formats=("PNG", "JPEG")).convert("RGB")))
    except (*_UNREADABLE, Image.DecompressionBombError):
        raise UsageError("that is not a picture that can be read; PNG and JPEG work.") from None


def _difference(truth: Frames, dream: Frames) -> Frames:
    """How far they are apart: black where the dream is right."""
    return {
        name: (image.int() - dream[name].int()).abs().to(torch.uint8) for name, image in truth.items() if name in dream
    }


def _pictures(frames: Frames) -> dict[str, Json]:
    return {name: "data:image/png;base64," + base64.b64encode(_png(image)).decode() for name, image in frames.items()}


def _png(image: Tensor) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, "png", compress_level=1)
    return buffer.getvalue()
