"""Where a LeRobot dataset comes from: a folder of format v3.0, one of v2.1, or the Hugging Face hub."""

import json
import shutil
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from worldlab.errors import UsageError

_READS = "v3.0"
_CONVERTS = "v2.1"


def locate(source: str, work: Path) -> Path:
    """The folder of the dataset in format v3.0.

    Args:
        source: a folder, or "owner/name" on the hub, which LeRobot downloads into its own cache.
        work: where LeRobot's converter puts a v2.1 dataset in the new format; `source` itself stays as it is.

    Raises:
        UsageError: there is no dataset, it is of another version, or the hub cannot be reached.
    """
    folder = Path(source)
    if not folder.exists():
        return _download(source)
    version = _version(folder)
    if version == _CONVERTS:
        return _convert(folder, work)
    if version != _READS:
        raise UsageError(f"'{source}' is in LeRobot's format {version}; worldlab reads {_READS} and {_CONVERTS}.")
    for part in ("meta/tasks.parquet", "meta/episodes"):
        if not (folder / part).exists():  # LeRobot would look for it on the hub
            raise UsageError(f"'{source}' is damaged: it has no {part}.")
    return folder


def _version(folder: Path) -> str:
    try:
        version = json.loads((folder / "meta" / "info.json").read_text(encoding="utf-8"))["codebase_version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"'{folder}' is not a LeRobot dataset: it has no meta/info.json that states a version."
        ) from None
    return str(version)


def _convert(folder: Path, work: Path) -> Path:
    """Convert through a link, which the converter moves aside where it would move the dataset."""
    from lerobot.scripts.convert_dataset_v21_to_v30 import convert_dataset

    converted, told = work / "dataset", work / "source.json"
    source = [str(folder.absolute()), (folder / "meta" / "info.json").stat().st_mtime]
    known = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else None
    if converted.is_symlink() or known != source:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        converted.symlink_to(folder.absolute(), target_is_directory=True)
        with redirect_stderr(StringIO()):  # it draws bars of its own
            convert_dataset("worldlab/import", root=converted, push_to_hub=False)
        told.write_text(json.dumps(source), encoding="utf-8")
    return converted


def _download(name: str) -> Path:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.datasets.utils import CompatibilityError

    try:
        return LeRobotDataset(name, video_backend="pyav").root
    except HFValidationError:
        raise UsageError(f"there is no folder '{name}', and the hub has no such names.") from None
    except CompatibilityError as error:  # an older format; LeRobot converts what is on the disk alone
        why = str(error).strip().splitlines()[0]
        raise UsageError(
            f"{why} Download that version (`hf download {name} --repo-type dataset --revision v2.1`), and import "
            "the folder."
        ) from None
    except (OfflineModeIsEnabled, HfHubHTTPError, OSError, RuntimeError, NotImplementedError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"there is no folder '{name}', and LeRobot could not download it: {why}") from error
