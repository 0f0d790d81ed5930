"""What is imported when, and what must not be shadowed."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MuJoCo's own choice is the one that works")
@pytest.mark.parametrize("chosen", [None, "osmesa"])
def test_pictures_are_drawn_without_the_display_unless_the_user_says_how(chosen):
    environment = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"} | {"DISPLAY": ":987"}
    environment |= {} if chosen is None else {"MUJOCO_GL": chosen}
    code = "import os, worldlab; print(os.environ['MUJOCO_GL'])"
    if chosen is None:
        code += "; import mujoco; mujoco.GLContext(8, 8).make_current()"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert said.stdout.strip() == (chosen or "egl")


@pytest.mark.parametrize("file", ["Makefile", "tests/conftest.py"])
def test_nothing_else_chooses_how_to_draw(file):
    """It would be chosen on macOS too, where there is no EGL."""
    assert "MUJOCO_GL" not in (Path(worldlab.__file__).parent.parent / file).read_text()
