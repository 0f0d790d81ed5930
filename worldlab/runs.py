"""A run: the folder that every command writes and every command reads.

config.json         what was asked: kind, model config, Spec, provenance (versions, command, seed, data)
metrics.jsonl       one line per logged training step
model.safetensors   the weights to use (the averaged ones where an EMA is kept)
checkpoint/         what `fit` needs to go on; deleted when training is complete
eval/…              what `worldlab eval` found: result.json, and episodes.jsonl beside it
imagine.json, …     what other commands did
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from importlib import metadata
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldlab.errors import UsageError

type Json = str | int | float | bool | list[Json] | Mapping[str, Json] | None

_VERSIONED = ("worldlab", "torch", "mujoco", "gymnasium", "lerobot", "transformers", "diffusers", "zarr", "numpy")


def provenance(seed: int) -> dict[str, Json]:
    """Who made this: command line, versions, commit, machine and time."""

    def version(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "not installed"

    return {
        "command": " ".join(sys.argv),
        "seed": seed,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in _VERSIONED},
    }


def _commit() -> str | None:
    """Of this file's repository; None where it was installed without one, or git is not there."""

    def git(*arguments: str) -> str:
        said = subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True, check=True)  # noqa: S603, S607
        return said.stdout.strip()

    here = str(Path(__file__).parent)
    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # a virtual environment may lie in someone else's
        return git("describe", "--always", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return None


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, sees either the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file so that a reader, or a crash, sees either the old content or the new.

    Raises:
        UsageError: it cannot be written, for example because the disk is full; the old content is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, dict(metadata or {}))
    except SafetensorError as error:  # this is how safetensors reports a full disk
        temporary.unlink(missing_ok=True)
        raise UsageError(f"could not write '{path}': {error}. Free some space and run this again.") from None
    temporary.replace(path)


def described(kind: str, **parts: object) -> dict[str, Json]:
    """What config.json needs to build a model again: its kind, and what its constructor took."""
    return {"kind": kind, **{name: to_json(part) for name, part in parts.items()}}


def to_json(value: object) -> Json:
    """Dataclasses, tuples and paths as plain JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_json(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form here")


def restored[T](validate: Callable[..., T], value: object) -> T:
    """What `to_json` wrote, as what it was.

    Args:
        validate: `pydantic.TypeAdapter(kind).validate_python`.
        value: what was written.

    Raises:
        UsageError: it has a field that is unknown or not valid: another version of worldlab wrote it.
    """
    try:
        return validate(value, extra="forbid")
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UsageError(
            f"'{where}' in config.json is not what this version of worldlab writes; train that run again."
        ) from None


class Run:
    """One run folder."""

    def __init__(self, path: str | Path) -> None:
        """Name the folder; nothing is read or written yet."""
        self.path = Path(path)

    @staticmethod
    def check_vacant(path: str | Path, beside: tuple[str, ...] = ()) -> None:
        """Make sure that a run can start in a folder, `beside` what may be in it already.

        Raises:
            UsageError: something else is already there.
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(entry.name not in beside for entry in path.iterdir())):
            raise UsageError(f"{path} already exists and is not empty; choose another --out, or --resume that run.")

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, object], beside: tuple[str, ...] = ()) -> "Run":
        """Start a run in an empty or new folder, or one that holds nothing but what it may stand `beside`.

        Args:
            path: of the folder.
            config: becomes config.json; holds at least a "kind". A model's `describe()` is where to begin.
            beside: names of what may be in the folder already.

        Raises:
            UsageError: something else is already there.
        """
        run = cls(path)
        cls.check_vacant(path, beside)
        run.path.mkdir(parents=True, exist_ok=True)
        write_atomically(run.path / "config.json", json.dumps(to_json(config), indent=1))
        return run

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open an existing run.

        Raises:
            UsageError: there is no run at `path`.
        """
        run = cls(path)
        if not run.path.exists():
            raise UsageError(f"no run at '{run.path}': the folder does not exist.")
        if not (run.path / "config.json").is_file():
            raise UsageError(f"'{run.path}' is not a run: it has no config.json.")
        return run

    @property
    def config(self) -> dict[str, Json]:
        """What config.json says.

        Raises:
            UsageError: the file is not readable as a run's config.
        """
        try:
            config = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise UsageError(f"'{self.path}/config.json' is not valid JSON: {error}.") from None
        if not isinstance(config, dict) or "kind" not in config:
            raise UsageError(f"'{self.path}' is not a worldlab run: its config.json names no kind.")
        return config

    def log(self, values: Mapping[str, Json], file: str = "metrics.jsonl") -> None:
        """Append one line; one that a crash cut off stays by itself."""
        with (self.path / file).open("ab+") as out:
            cut = out.tell() > 0
            if cut:
                out.seek(-1, os.SEEK_END)
                cut = out.read(1) != b"\n"
            out.write(("\n" if cut else "").encode() + (json.dumps(values) + "\n").encode())

    def read_log(self, file: str = "metrics.jsonl") -> list[dict[str, Json]]:
        """All complete lines of a log; a line cut off by a crash is left out."""
        path = self.path / file
        if not path.exists():
            return []
        found: list[dict[str, Json]] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    @property
    def finished(self) -> bool:
        """Whether its training has come to its end."""
        return any(line.get("finished") for line in self.read_log()[-1:])

    def save(self, weights: Mapping[str, Tensor], file: str = "model.safetensors") -> None:
        """Write weights atomically; see `write_tensors`."""
        write_tensors(self.path / file, weights)

    def load_into(self, model: nn.Module, file: str = "model.safetensors") -> None:
        """Load weights into a module; every name must match.

        Raises:
            UsageError: there are no weights yet, or they belong to another model.
        """
        path = self.path / file
        if not path.is_file():
            raise UsageError(f"'{self.path}' has no weights ({file}); did its training finish?")
        try:
            model.load_state_dict(load_file(path))
        except SafetensorError as error:
            raise UsageError(f"the weights in '{path}' cannot be read ({error}); restore them from a copy.") from None
        except RuntimeError as error:
            raise UsageError(
                f"the weights in '{path}' do not fit the model that config.json describes: either file was changed, or "
                "another version of worldlab trained it; train it again."
            ) from error
