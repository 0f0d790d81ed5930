"""worldlab: robot policies and world models in one workbench, with the simulator as the ground truth for the dream.

Importing this package loads nothing heavy; import the subpackage you need.
"""

import os
import sys

__version__ = "0.1.0"

# MuJoCo chooses how to render when it is first imported; without a display only EGL works.
if sys.platform == "linux" and "DISPLAY" not in os.environ:
    os.environ.setdefault("MUJOCO_GL", "egl")
