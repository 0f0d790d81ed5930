"""An environment for the peers that cannot be installed beside worldlab: `python -m benchmarks.peers` makes it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "stable-worldmodel[format]==0.1.1",
    "opencv-python-headless",  # stable-worldmodel imports it
    "episodata==0.2.0",
    "zarr==3.4.2",
    "zarrs==0.2.3",
    "sheeprl==0.8.4",
)
HOW = "`python -m benchmarks.peers` installs them, or WORLDLAB_PEERS names the Python of an environment that has them."
_FOLDER = Path(__file__).with_name(".peers")


def python() -> Path | None:
    """The environment's interpreter, if there is one."""
    place = Path(os.environ.get("WORLDLAB_PEERS", _FOLDER / "bin/python"))
    return place if place.exists() else None


def main() -> None:
    uv = shutil.which("uv") or str(Path(__file__).parents[1] / ".tools/bin/uv")
    subprocess.run([uv, "venv", "--allow-existing", "--python", sys.executable, str(_FOLDER)], check=True)
    subprocess.run([uv, "pip", "install", "--python", str(_FOLDER / "bin/python"), *PACKAGES], check=True)


if __name__ == "__main__":
    main()
