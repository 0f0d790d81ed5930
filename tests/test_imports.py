"""What is imported when, and what must not be shadowed."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import worldlab

HEAVY = ("torch", "lerobot", "transformers", "diffusers", "mujoco", "zarr", "matplotlib")


def test_help_loads_nothing_heavy():
    code = f"import sys, worldlab, worldlab.cli; print([m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_the_package_holds_no_module_named_like_a_dependency_at_top_level():
    names = {p.stem for p in Path(worldlab.__file__).parent.parent.glob("*") if (p / "__init__.py").exists()}
    installed = {name.split(".")[0] for name in metadata.packages_distributions()}
    assert names & installed <= {"worldlab", "plugins", "tests"}
