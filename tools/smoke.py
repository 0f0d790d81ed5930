"""What must work where only the wheels are installed: a command, an environment, a rollout, LeRobot's discovery."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import worldlab

assert "site-packages" in worldlab.__file__, worldlab.__file__
command = Path(sys.executable).with_name("worldlab")
subprocess.run([command, "--help"], check=True, capture_output=True)
listed = subprocess.run([command, "list", "envs"], check=True, capture_output=True, text=True).stdout
assert "worldlab/Reach-v0" in listed, listed

from worldlab import envs  # noqa: E402
from worldlab.rollout import rollout  # noqa: E402

env = envs.make("worldlab/Reach-v0", n=2)
episode = rollout(env.expert(), env, seed=0)
assert episode.succeeded.all(), "the expert failed"
assert episode.obs.images["front"].float().std() > 1, "blank frames"
assert "lerobot_policy_worldlab" in {d.metadata["Name"] for d in metadata.distributions()}
print("smoke test passed")
