"""Pictures survive other renderers, wherever Python collects them."""

import threading

import mujoco
import numpy as np

from worldlab.envs import offscreen
from worldlab.envs.offscreen import Renderer, free

BOX = "<mujoco><worldbody><light pos='0 0 3'/><geom type='box' size='.1 .2 .3' rgba='1 0 0 1'/></worldbody></mujoco>"


def test_a_renderer_that_another_thread_collects_is_freed_by_the_next_picture():
    model = mujoco.MjModel.from_xml_string(BOX)
    data, view = mujoco.MjData(model), free(model)
    mujoco.mj_forward(model, data)
    kept, dropped = Renderer(model, (16, 24)), [Renderer(model, (16, 24))]
    before = kept.draw(model, data, view).copy()
    assert before.std() > 0
    thread = threading.Thread(target=dropped.clear)
    thread.start()
    thread.join()
    assert len(offscreen._forgotten) == 1
    np.testing.assert_array_equal(kept.draw(model, data, view), before)
    assert not offscreen._forgotten
