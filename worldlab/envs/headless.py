"""Lets MuJoCo draw where there is no screen. To be imported before MuJoCo, which looks at the variable only once."""

import os
import sys

if sys.platform == "linux" and "DISPLAY" not in os.environ:
    os.environ.setdefault("MUJOCO_GL", "egl")
