"""The arm is the SO-101: its gripper is where Menagerie's is, its bodies weigh the same, its servos push alike."""

from importlib.util import find_spec
from pathlib import Path

import mujoco
import numpy as np
import pytest

from worldlab import so101
from worldlab.envs import arm


@pytest.fixture(scope="module")
def ours():
    return arm.load().compile()


@pytest.fixture(scope="module")
def menagerie():
    package = find_spec("so101_nexus")
    if package is None:
        pytest.skip("so101-nexus is not installed")
    return mujoco.MjModel.from_xml_path(str(Path(package.origin).parent / "assets" / "SO101_menagerie" / "so101.xml"))


def gripper(model, joints):
    data = mujoco.MjData(model)
    data.qpos[:] = joints
    mujoco.mj_kinematics(model, data)
    return data.site("gripperframe").xpos.copy(), data.site("gripperframe").xmat.reshape(3, 3).copy()


def test_the_gripper_is_where_menagerie_puts_it(ours, menagerie):
    rng = np.random.default_rng(0)
    for joints in rng.uniform(ours.jnt_range[:, 0], ours.jnt_range[:, 1], (200, 6)):
        (x, r), (x_, r_) = gripper(ours, joints), gripper(menagerie, joints)
        assert np.linalg.norm(x - x_) < 1e-3
        assert np.degrees(np.arccos(np.clip((np.trace(r.T @ r_) - 1) / 2, -1, 1))) < 0.5


DYNAMICS = ("jnt_range", "dof_damping", "dof_frictionloss", "dof_armature", "body_mass", "body_inertia", "body_ipos")
SERVOS = ("actuator_gainprm", "actuator_biasprm", "actuator_forcerange", "actuator_ctrlrange")


@pytest.mark.parametrize("field", [*DYNAMICS, *SERVOS])
def test_dynamics_are_menageries(ours, menagerie, field):
    np.testing.assert_allclose(getattr(ours, field), getattr(menagerie, field), atol=1e-7)


def test_joints_have_lerobots_names_and_order(ours):
    assert tuple(ours.joint(i).name for i in range(ours.njnt)) == so101.JOINTS
    assert tuple(ours.actuator(i).name for i in range(ours.nu)) == so101.JOINTS


def test_inverse_kinematics_undoes_the_forward(ours):
    rng = np.random.default_rng(1)
    radius, azimuth = rng.uniform(0.145, 0.22, 200), rng.uniform(-0.5, 0.5, 200)
    point = arm.PAN + np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), rng.uniform(-0.05, 0, 200)], -1)
    for joints, goal in zip(arm.inverse(point, rng.uniform(-1, 1, 200)), point, strict=True):
        x, r = gripper(ours, np.append(joints, 0.0))
        assert np.linalg.norm(x - goal) < 5e-4
        assert r[2, 2] < -0.999  # pointing down
