"""What an environment shows at present, as policies take it."""

from worldlab.rollout import observation


def seen(env):
    raw, info = env.observe()
    return observation(raw, info["task"])
