"""What the step from the simulator to the arm costs a trained policy: its success as the twin becomes more real.

Each row is the same policy on the same scenes, in the loop of LeRobot's programs: look, then send, ten times a second
on the virtual clock, within the task's own time limit. Needs lerobot_policy_worldlab and a trained run:
`OMP_NUM_THREADS=1 MUJOCO_GL=egl python benchmarks/twin.py RUN Lift-v0 [N]`; the table goes to stderr, JSON to stdout.
"""

import json
import logging
import sys

import numpy as np
import torch
from lerobot_policy_worldlab import WorldlabSO101Config
from lerobot_policy_worldlab.worldlab_so101 import WorldlabSO101

from worldlab import policies, so101
from worldlab.envs.mujoco_env import FPS
from worldlab.eval.rates import wilson
from worldlab.protocols import Policy
from worldlab.trajectory import Observation

SEED = 1000
TWINS: dict[str, dict[str, bool | int | float | None]] = {
    "ideal": {"ideal": True},
    "encoders": {"latency": 0.0, "stiffness": None},
    "encoders, camera latency": {"stiffness": None},
    "encoders, soft servos": {"latency": 0.0},
    "all: 7.4 V, P = 16": {},
    "all: 7.4 V, P = 32": {"position_p_coefficient": 32},
    "all: 12 V, P = 16": {"stiffness": 1.38},
    "all: 12 V, P = 32": {"stiffness": 1.38, "position_p_coefficient": 32},
}


def episode(policy: Policy, robot: WorldlabSO101, seed: int) -> bool:
    """Whether the policy achieves the task in time."""
    policy.reset([seed])
    plan: list[torch.Tensor] = []
    for _ in range(robot.twin.objective.limit):
        seen = robot.get_observation()
        if not plan:
            state = so101.from_lerobot(torch.tensor([[seen[name] for name in so101.NAMES]]))
            images = {name: torch.tensor(seen[name])[None] for name in robot.cameras}
            plan = list(so101.to_lerobot(policy.act(Observation(images, state, robot.twin.task)))[0])
        robot.send_action(dict(zip(so101.NAMES, plan.pop(0).tolist(), strict=True)))
        if robot.twin.succeeded:
            return True
    return False


def successes(policy: Policy, task: str, options: dict[str, bool | int | float | None], n: int) -> int:
    """Of n episodes on one twin."""
    robot = WorldlabSO101(WorldlabSO101Config(task=task, seed=SEED, realtime=False, fps=FPS, **options))
    robot.connect()
    won = 0
    for i in range(n):
        robot.begin(i)
        won += episode(policy, robot, SEED + i)
    robot.disconnect()
    return won


def main(run: str, task: str, n: int) -> None:
    """Measure every twin and print the table."""
    logging.disable(logging.WARNING)
    policy = policies.load_run(run)
    rates = {}
    for name, options in TWINS.items():
        won = successes(policy, task, options, n)
        rates[name] = {"successes": won, "n": n, "interval": wilson(won, n)}
        low, high = np.multiply(100, rates[name]["interval"])
        print(f"{name:26} {won:3}/{n}  {low:3.0f} to {high:3.0f} %", file=sys.stderr, flush=True)
    print(json.dumps({"run": run, "task": task, "seed": SEED, "rates": rates}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 50)
