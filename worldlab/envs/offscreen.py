"""Pictures of any number of MuJoCo models in one process.

`mujoco.Renderer` and Gymnasium's viewer open a GL context each, and free buffers in whichever context happens to be
current: closing or collecting one renderer ruins the pictures of another (with mujoco 3.17, 12,287 of the 12,288 values
of the next frame). Here all renderers live in one context.
"""

# mujoco's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false

import ctypes
import functools
import weakref
from collections import deque

import mujoco
import numpy as np
from numpy.typing import NDArray


@functools.cache
def _gl() -> mujoco.GLContext:  # pyright: ignore[reportInvalidTypeForm] (which class is decided by MUJOCO_GL)
    # The size is a window's; what is drawn offscreen does not depend on it.
    context = mujoco.GLContext(64, 64)
    # Never collected: when Python ends, MuJoCo and dm_control have shut EGL down, and the context's own end would fail.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))
    return context


_forgotten: deque[mujoco.MjrContext] = deque()
"""Of renderers that are gone. Python may collect them in a thread in which the GL context is not current."""


def _enter() -> None:
    """Make the GL context current, and free in it what was forgotten."""
    _gl().make_current()
    while _forgotten:
        _forgotten.pop().free()


class Renderer:
    """Draws one model without what software rendering spends its time on: shadows, reflections and multisampling.

    On a CPU dm_control's cheetah with 64 x 64 pictures runs 19 times faster than drawn by dm_control
    (`benchmarks/bench_envs.py`).
    """

    def __init__(self, model: mujoco.MjModel, size: tuple[int, int]) -> None:
        """`size` is (height, width) in pixels; the visual settings of `model` are changed, its physics is not."""
        height, width = size
        model.vis.quality.shadowsize = 0
        model.vis.quality.offsamples = 0
        model.vis.global_.offheight, model.vis.global_.offwidth = height, width
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._option = mujoco.MjvOption()
        self._scene = mujoco.MjvScene(model, maxgeom=10_000)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = False
        _enter()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        weakref.finalize(self, _forgotten.append, self._context).atexit = False

    def draw(self, model: mujoco.MjModel, data: mujoco.MjData, camera: mujoco.MjvCamera) -> NDArray[np.uint8]:
        """What `camera` sees: RGB, (h, w, 3).

        `model` may be another instance than the renderer's with the same meshes, textures and terrain.
        """
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(model, data, self._option, None, camera, everything, self._scene)
        pixels = np.empty((self._rect.height, self._rect.width, 3), np.uint8)
        _enter()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        mujoco.mjr_render(self._rect, self._scene, self._context)
        mujoco.mjr_readPixels(pixels, None, self._rect, self._context)
        return pixels[::-1]


def free(model: mujoco.MjModel) -> mujoco.MjvCamera:
    """The view of the whole scene that every model has."""
    view = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, view)
    return view


def fixed(camera: int) -> mujoco.MjvCamera:
    """A camera of the model by its index."""
    view = mujoco.MjvCamera()
    view.type = mujoco.mjtCamera.mjCAMERA_FIXED
    view.fixedcamid = camera
    return view
