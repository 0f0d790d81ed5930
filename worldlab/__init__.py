"""worldlab: robot policies and world models in one workbench, with the simulator as the ground truth for the dream.

Importing this package loads nothing heavy; import the subpackage you need.
"""

import os
import sys

__version__ = "0.1.0"

# MuJoCo chooses how to render when it is first imported. Pictures are drawn offscreen only, which EGL does with and
# without a display; GLFW, MuJoCo's choice where DISPLAY is set, fails where nothing answers there any more.
if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")
