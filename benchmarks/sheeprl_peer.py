"""sheeprl's DreamerV3 at the sizes of `bench_world_models`: run by the Python of `benchmarks.peers`, JSON to stdout.

What is timed is what its training loop calls, `world_model_learning` and `behaviour_learning`, in fp32 and with its own
"bf16-mixed" precision, without its metrics. Widths are chosen so that the parameters come near to ours.
"""

import json
import sys
import time

import gymnasium
import hydra
import numpy as np
import torch
from lightning.fabric import Fabric
from omegaconf import OmegaConf
from sheeprl.algos.dreamer_v3.agent import build_agent
from sheeprl.algos.dreamer_v3.dreamer_v3 import behaviour_learning, world_model_learning
from sheeprl.algos.dreamer_v3.utils import Moments
from sheeprl.utils.metric import MetricAggregator
from sheeprl.utils.utils import dotdict

ROUNDS, ACTIONS, STATES = 5, 6, 6
CASES = {
    "vision": (8, 32, {"dense": 224, "deter": 448, "stoch": 24, "classes": 16, "channels": 12}),
    "proprioception": (16, 64, {"dense": 160, "deter": 320, "stoch": 16, "classes": 16, "channels": 12}),
}
"""Windows, their rows, and widths."""


def config_of(case: str, dense: int, deter: int, stoch: int, classes: int, channels: int) -> object:
    """What sheeprl would be started with."""
    keys = {"cnn": "[rgb]", "mlp": "[]"} if case == "vision" else {"cnn": "[]", "mlp": "[state]"}
    with hydra.initialize_config_module("sheeprl.configs", version_base="1.3"):
        config = hydra.compose(
            "config",
            [
                "exp=dreamer_v3",
                "env=dummy",
                "algo=dreamer_v3_XS",
                *(f"algo.{kind}_keys.{part}={key}" for kind, key in keys.items() for part in ("encoder", "decoder")),
                f"algo.dense_units={dense}",
                "algo.mlp_layers=1",
                f"algo.world_model.encoder.cnn_channels_multiplier={channels}",
                f"algo.world_model.recurrent_model.recurrent_state_size={deter}",
                f"algo.world_model.transition_model.hidden_size={dense}",
                f"algo.world_model.representation_model.hidden_size={dense}",
                f"algo.world_model.stochastic_size={stoch}",
                f"algo.world_model.discrete_size={classes}",
            ],
        )
    return dotdict(OmegaConf.to_container(config, resolve=True))


def measure(case: str, precision: str) -> dict[str, float]:
    batch, rows, widths = CASES[case]
    config = config_of(case, **widths)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    seen = {
        "rgb": gymnasium.spaces.Box(0, 255, (3, 64, 64), np.uint8),
        "state": gymnasium.spaces.Box(-np.inf, np.inf, (STATES,), np.float32),
    }
    world, actor, critic, slow, _ = build_agent(fabric, [ACTIONS], True, config, gymnasium.spaces.Dict(seen))
    parts = {"world_model": world, "actor": actor, "critic": critic}
    optimizers = {
        name: fabric.setup_optimizers(
            hydra.utils.instantiate(config.algo[name].optimizer, params=part.parameters(), _convert_="all")
        )
        for name, part in parts.items()
    }
    told = config.algo.actor.moments
    moments = Moments(told.decay, told.max, told.percentile.low, told.percentile.high)
    data = {
        "rgb": torch.randint(0, 256, (rows, batch, 3, 64, 64)).float(),
        "state": torch.randn(rows, batch, STATES),
        "actions": torch.randn(rows, batch, ACTIONS).clamp(-1, 1),
        "rewards": torch.randn(rows, batch, 1),
        "terminated": torch.zeros(rows, batch, 1),
        "is_first": torch.zeros(rows, batch, 1),
    }
    times: dict[str, list[float]] = {"world_model_step": [], "behaviour_step": []}
    for _ in range(ROUNDS + 1):
        begin = time.process_time()
        posteriors, deter, _ = world_model_learning(fabric, config, world, optimizers["world_model"], data)
        between = time.process_time()
        behaviour_learning(
            fabric, config, world, actor, critic, slow, optimizers["actor"], optimizers["critic"], moments,
            posteriors, deter, data["terminated"], True, [ACTIONS],
        )  # fmt: skip
        times["world_model_step"].append(between - begin)
        times["behaviour_step"].append(time.process_time() - between)
    sizes = {f"{name}_millions": sum(p.numel() for p in part.parameters()) / 1e6 for name, part in parts.items()}
    return {name: round(min(seconds[1:]), 4) for name, seconds in times.items()} | {
        name: round(size, 2) for name, size in sizes.items()
    }


def main() -> None:
    torch.set_num_threads(1)
    MetricAggregator.disabled = True
    results = {
        f"{case}, {'bf16' if 'bf16' in precision else 'fp32'}": measure(case, precision)
        for case in CASES
        for precision in ("32-true", "bf16-mixed")
    }
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
