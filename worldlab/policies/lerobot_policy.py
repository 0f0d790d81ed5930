"""LeRobot's edge for policies: worldlab's written as LeRobot's, and any of LeRobot's used as worldlab's.

A LeRobot batch holds "observation.images.<camera>", float (b, 3, h, w) in [0, 1]; "observation.state", (b, 6) in
degrees with the gripper 0 to 100; "task", b strings. Inside worldlab it is an `Observation` in uint8 and radians.
Pixels and joint positions survive the way there and back bit for bit (`so101.snap`).

LeRobot takes 10 s to import; nothing here does so before it is called.
"""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from pydantic import TypeAdapter
from torch import Tensor

from worldlab import so101
from worldlab.errors import UsageError
from worldlab.policies.vla import VLA
from worldlab.runs import restored
from worldlab.seeding import key
from worldlab.trajectory import Observation, Spec, Trajectory

type Batch = Mapping[str, object]
"""LeRobot's: tensors, the instructions, and whatever else its programs carry along."""

SEED = "observation.seed"
"""Where a simulator tells a policy the episode's seed; an arm has none."""

_IMAGE = "observation.images."
_STATE = "observation.state"
_HALF = 1 << 16


def seeds_to_batch(seeds: Sequence[int]) -> Float[Tensor, "b 2"]:
    """Seeds below 2⁴⁰ as two halves: LeRobot makes every observation float32, exact for integers below 2²⁴ only."""
    return torch.tensor([divmod(seed, _HALF) for seed in seeds], dtype=torch.float32)


def seeds_from_batch(halves: Float[Tensor, "b 2"]) -> list[int]:
    """The inverse of `seeds_to_batch`."""
    return [int(high) * _HALF + int(low) for high, low in halves.tolist()]


def observation_to_batch(obs: Observation) -> dict[str, object]:
    """What LeRobot's programs would have made of this observation, leading axis b."""
    images = {f"{_IMAGE}{name}": image.movedim(-1, 1).float() / 255 for name, image in obs.images.items()}
    return {**images, _STATE: so101.to_lerobot(obs.state), "task": list(obs.task)}


def observation_from_batch(batch: Batch, cameras: Mapping[str, tuple[int, int]]) -> Observation:
    """The inverse of `observation_to_batch`, of the cameras that the policy looks through.

    Raises:
        UsageError: a camera is missing or of another size.
    """
    seen = {k.removeprefix(_IMAGE): x for k, x in batch.items() if k.startswith(_IMAGE) and isinstance(x, Tensor)}
    check_cameras(cameras, {name: image.shape[-2:] for name, image in seen.items()})
    state, task = batch[_STATE], batch["task"]
    assert isinstance(state, Tensor)
    assert isinstance(task, Sequence)
    images = {name: _pixels(seen[name]) for name in cameras}
    return Observation(images, so101.from_lerobot(state.float()), tuple(str(t) for t in task))


def _pixels(image: Tensor) -> UInt8[Tensor, "b h w 3"]:
    """Channels first, uint8 or float in [0, 1] -> channels last, uint8."""
    levels = image if image.dtype == torch.uint8 else (image * 255).round().clamp(0, 255).to(torch.uint8)
    return levels.movedim(1, -1).contiguous()


def check_cameras(needed: Mapping[str, Sequence[int]], given: Mapping[str, Sequence[int]]) -> None:
    """Raise `UsageError` naming the first camera, with its height and width, that is needed and not given."""
    for name, size in needed.items():
        if name not in given:
            raise UsageError(f"the policy needs a camera '{name}'; given: {', '.join(given) or 'none'}.")
        if tuple(given[name]) != tuple(size):
            raise UsageError(f"the policy needs camera '{name}' at {tuple(size)} pixels, not {tuple(given[name])}.")


def window_from_batch(batch: Batch, cameras: Mapping[str, tuple[int, int]]) -> Trajectory:
    """A batch of `lerobot-train` as a training window: one observation and a chunk of actions."""
    obs = observation_from_batch(batch, cameras).map(lambda x: x[:, None])
    action, padding = batch["action"], batch["action_is_pad"]
    assert isinstance(action, Tensor)
    assert isinstance(padding, Tensor)
    never = torch.zeros_like(padding)
    return Trajectory(
        obs=obs,
        action=so101.from_lerobot(action),
        reward=never.float(),
        terminated=never,
        success=never,
        valid=~padding,
    )


def export_policy(policy: VLA, out: str | Path) -> Path:
    """Write a directory that LeRobot, with the distribution `lerobot_policy_worldlab`, loads without a network.

    Args:
        policy: any that worldlab trains for the SO-101.
        out: a new or empty directory; gets config.json, model.safetensors and the two processors.

    Raises:
        UsageError: the policy is not for the SO-101, `out` is taken, or the plugin is not installed.
    """
    spec, out = policy.spec, Path(out)
    check_out(out)
    if not (spec.joint_targets and spec.state == so101.NAMES):
        acts = ", ".join(spec.action)
        raise UsageError(f"only policies for the SO-101's joint positions go to LeRobot; this one sets {acts}.")
    _discover_plugins()
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

    joints = (len(so101.NAMES),)
    images = {_IMAGE + name: PolicyFeature(FeatureType.VISUAL, (3, *size)) for name, size in spec.cameras.items()}
    config = make_policy_config(
        "worldlab",
        description=policy.describe(),
        chunk_size=policy.config.chunk,
        n_action_steps=policy.config.execute,
        input_features={_STATE: PolicyFeature(FeatureType.STATE, joints), **images},
        output_features={"action": PolicyFeature(FeatureType.ACTION, joints)},
        action_feature_names=list(so101.NAMES),
        device="cpu",
        push_to_hub=False,
        license="apache-2.0",
    )
    exported = get_policy_class("worldlab")(config)
    exported.load_state_dict({f"model.{name}": weight for name, weight in policy.state_dict().items()})
    for part in (exported, *make_pre_post_processors(config)):
        part.save_pretrained(out)
    return out


def check_out(out: Path) -> None:
    """Raise `UsageError` where `out` is neither a new directory nor an empty one."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} already exists and is not empty; choose another --out.")


def _discover_plugins() -> None:
    """Let LeRobot find its plugins, as its own programs do.

    Raises:
        UsageError: worldlab's is not among them.
    """
    from lerobot.configs import PreTrainedConfig
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    if "worldlab" not in PreTrainedConfig.get_known_choices():
        raise UsageError("LeRobot does not find worldlab: install the distribution lerobot_policy_worldlab beside it.")


class LeRobotPolicy:
    """Any LeRobot policy for the SO-101 as a worldlab `Policy`: asked every step, as LeRobot's programs do.

    A worldlab policy gets the seeds of its episodes. Others draw from torch's global generator, which is seeded from
    the episodes' seeds and the step, so that the same seeds in the same batch give the same actions.
    """

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        """Load the directory; see `load`."""
        _expect_policy(Path(path))
        _discover_plugins()
        from lerobot.configs import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors

        with contextlib.redirect_stdout(sys.stderr):  # LeRobot prints, and the standard output may be a program's
            config = PreTrainedConfig.from_pretrained(path, cli_overrides=[f"--device={device}"])
            if "pretrained_backbone_weights" in vars(config):  # ACT would fetch ImageNet's, and then load its own
                setattr(config, "pretrained_backbone_weights", None)  # noqa: B010
            try:
                self._policy = get_policy_class(config.type).from_pretrained(path, config=config, strict=True)
                self._before, self._after = make_pre_post_processors(
                    config, str(path), preprocessor_overrides={"device_processor": {"device": str(device)}}
                )
            except OSError as error:  # a policy such as SmolVLA names its language model's tokenizer by a hub's name
                reason = str(error).splitlines()[0]
                raise UsageError(f"the policy in '{path}' needs files that are not on this machine: {reason}") from None
        joints = {
            feature.shape for feature in (config.robot_state_feature, config.action_feature) if feature is not None
        }
        if joints != {(len(so101.NAMES),)}:
            raise UsageError(
                f"'{path}' is a policy for another robot than the SO-101: its joints are {sorted(joints)}."
            )
        self.cameras = {k.removeprefix(_IMAGE): tuple(f.shape[-2:]) for k, f in config.image_features.items()}
        """Name -> (h, w) of the pictures that it looks at."""
        if config.type == "worldlab":
            described = vars(config)["description"]
            self.spec = restored(TypeAdapter(Spec).validate_python, described["spec"])
            """The contract, against which it is checked where it acts; other policies say nothing of their rate."""
        self.n_action_steps = int(vars(config).get("n_action_steps", 1))
        """Every so many calls of `act` it plans anew."""
        self._seeds: tuple[int, ...] = ()
        self._step = 0

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin one episode per seed."""
        self._seeds, self._step = tuple(seeds), 0
        for part in (self._policy, self._before, self._after):
            part.reset()

    @torch.no_grad()
    def act(self, obs: Observation) -> Float[Tensor, "b 1 a"]:
        """The next action of each episode, radians.

        Raises:
            UsageError: a camera is missing or of another size.
        """
        check_cameras(self.cameras, {name: image.shape[-3:-1] for name, image in obs.images.items()})
        batch = {**observation_to_batch(obs), SEED: seeds_to_batch(self._seeds)}
        with torch.random.fork_rng():
            torch.manual_seed(key(self._step, *self._seeds))
            action = self._after(self._policy.select_action(self._before(batch)))
        self._step += 1
        return so101.from_lerobot(action.float())[:, None]


def load(path: str | Path, device: torch.device | str = "cpu") -> LeRobotPolicy:
    """Any LeRobot policy for the SO-101, from a local directory, as a worldlab policy.

    Raises:
        UsageError: there is no LeRobot policy at `path`, or one for another robot.
    """
    return LeRobotPolicy(path, device)


def _expect_policy(path: Path) -> None:
    """Raise `UsageError` where `path` is not the directory of a LeRobot policy for six joints."""
    missing = [
        name for name in ("config.json", "model.safetensors", "policy_preprocessor.json") if not (path / name).is_file()
    ]
    if missing:
        raise UsageError(f"'{path}' is not a directory of a LeRobot policy: it has no {missing[0]}.")
