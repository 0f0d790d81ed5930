"""What a store's own zarr.json says; replacing that file is what commits an append."""

import json
from dataclasses import asdict, dataclass

import google_crc32c
from pydantic import TypeAdapter, ValidationError

from worldlab.datasets.files import Files
from worldlab.datasets.shards import ArrayLayout
from worldlab.errors import UsageError
from worldlab.runs import to_json
from worldlab.trajectory import Spec

FORMAT = 2
"""Version of the layout; a reader refuses stores of a later version."""

FILE = "zarr.json"


@dataclass(frozen=True)
class Header:
    """The committed state of a store."""

    worldlab_store: int
    """The version of its format."""
    id: str
    """Random; merging the same part twice is noticed by it."""
    spec: Spec
    """The contract of the environment that the episodes come from."""
    provenance: dict[str, object]
    """Where they come from."""
    columns: tuple[ArrayLayout, ...] = ()
    """What is stored of every row."""
    episodes: int = 0
    """Committed rows of the episode table."""
    rows: int = 0
    """Where on the time axis the next append begins."""
    tasks: tuple[str, ...] = ()
    """The different instructions."""
    merged: tuple[str, ...] = ()
    """Ids of the stores whose episodes were moved into this one."""


def write(files: Files, header: Header) -> None:
    """Commit: from here on readers see this state."""
    attributes = to_json(asdict(header))
    assert isinstance(attributes, dict)
    group = {"attributes": attributes | {"checksum": _checksum(attributes)}, "zarr_format": 3, "node_type": "group"}
    files.write({FILE: [json.dumps(group, indent=2).encode()]})


def read(files: Files) -> Header:
    """The committed state.

    Raises:
        UsageError: there is no store, it is something else, it is damaged, or another version wrote it.
    """
    path = files.root
    if not files.exists():
        raise UsageError(f"no episode store at '{path}': the path does not exist.")
    foreign = UsageError(f"'{path}' is not an episode store; `worldlab collect` or `worldlab import` makes one.")
    try:
        attributes = json.loads(files.read(FILE)).get("attributes", {})
    except (FileNotFoundError, NotADirectoryError):
        raise foreign from None
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        raise UsageError(f"'{path}' is damaged: its zarr.json is not readable; restore it from a copy.") from None
    version = attributes.get("worldlab_store")
    if not isinstance(version, int):
        raise foreign
    if version > FORMAT:
        raise UsageError(f"'{path}' has store format {version}, and this worldlab reads up to {FORMAT}: upgrade it.")
    if version < FORMAT:
        raise UsageError(f"'{path}' has store format {version}, from before the first release: collect it again.")
    if attributes.pop("checksum", None) != _checksum(attributes):
        raise UsageError(f"'{path}' is damaged: its zarr.json does not match its checksum; restore it from a copy.")
    try:
        return TypeAdapter(Header).validate_python(attributes)
    except ValidationError as error:
        what = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UsageError(f"'{path}' is damaged: '{what}' in its zarr.json is not valid; restore it.") from None


def _checksum(attributes: object) -> int:
    return int(google_crc32c.value(json.dumps(attributes, sort_keys=True).encode()))
