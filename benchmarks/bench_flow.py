"""A flow policy's chunk and training step against LeRobot's pi0 of the same size, in one process, in CPU time.

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.bench_flow [SIZE ...]

Both see two cameras and an instruction and integrate 10 Euler steps; both have random weights, which speed does not
depend on. Prints the minimum of several calls: the machine may be busy.
"""

import sys
import time
from collections.abc import Callable

import torch
from transformers import GemmaConfig, GemmaModel, SiglipVisionConfig, SiglipVisionModel

from benchmarks import lerobot_pi0
from benchmarks.lerobot_pi0 import PATCH, SIZES, Size
from worldlab import so101
from worldlab.normalize import Moments, Statistics
from worldlab.policies import VLA, BackboneConfig, FlowConfig, GroundingConfig
from worldlab.policies.backbone import Backbone
from worldlab.policies.flow_policy import FlowHead
from worldlab.policies.fusion import Scene
from worldlab.policies.head import Interface
from worldlab.policies.text import TextTokenizer
from worldlab.policies.towers import Tower
from worldlab.trajectory import Observation, Spec, Trajectory

TASK = "pick up the red cube and then put it into the box on the left"


def ours(size: Size) -> VLA:
    """A pi0 of worldlab: no grounding, no facts but the state, which attention alone carries."""
    torch.manual_seed(0)
    width, layers, heads, mlp = size.vision
    tower = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=mlp,
            image_size=size.image,
            patch_size=PATCH,
            vision_use_head=False,
        )
    )
    language = GemmaModel(
        GemmaConfig(
            hidden_size=size.width,
            num_hidden_layers=size.layers,
            intermediate_size=size.mlp,
            num_attention_heads=8,
            num_key_value_heads=1,
            head_dim=size.head,
            vocab_size=size.vocabulary,
        )
    )
    cameras = dict.fromkeys(("front", "wrist"), (size.image, size.image))
    spec = Spec(cameras, so101.NAMES, so101.NAMES, (), "joint_position", so101.LOW, so101.HIGH, 30)
    moments = Moments((0.0,) * 6, (1.0,) * 6, (-1.0,) * 6, (1.0,) * 6)
    config = FlowConfig(
        backbone=BackboneConfig(attention="sdpa"),
        grounding=GroundingConfig(weight=0.0),
        chunk=size.chunk,
        execute=size.chunk // 2,
        width=size.expert,
        mlp=size.expert_mlp,
        direct=False,
        draws=1,
    )
    text = TextTokenizer.of_words([TASK])
    normal = [0.5] * 3
    backbone = Backbone(config.backbone, Tower(tower, normal, normal), language, text, Scene(cameras, "front"))
    interface = Interface((6,), False, size.chunk, 6, size.chunk // 2)
    return VLA(config, "flow", spec, Statistics(moments, moments), backbone, FlowHead(config, backbone, interface))


def observation(size: Size, b: int) -> Observation:
    """What both see."""
    image = torch.randint(256, (b, size.image, size.image, 3), dtype=torch.uint8)
    return Observation(dict.fromkeys(("front", "wrist"), image), torch.randn(b, 6), (TASK,) * b)


def window(size: Size) -> Trajectory:
    """A training batch."""
    obs = observation(size, size.batch)
    no = torch.zeros(size.batch, size.chunk, dtype=torch.bool)
    return Trajectory(obs.map(lambda x: x[:, None]), torch.randn(size.batch, size.chunk, 6), no.float(), no, no, ~no)


def milliseconds(call: Callable[[], object], calls: int) -> float:
    """The least CPU time of several calls, after two to warm up."""
    times: list[float] = []
    for _ in range(calls + 2):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1000 * min(times[2:])


def training_step(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Forward, backward and AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def halved(call: Callable[[], object]) -> Callable[[], object]:
    """The same under autocast to bf16."""

    def run() -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return call()

    return run


def compare(size: Size) -> None:
    """Two rows of the table."""
    theirs, mine = lerobot_pi0.build(size).eval(), ours(size).eval()
    weights = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (theirs, mine)]
    one, obs = lerobot_pi0.batch(size, 1), observation(size, 1)
    mine.reset([0])
    chunk = [
        milliseconds(lambda: theirs.predict_action_chunk(one), 15),
        milliseconds(lambda: mine.plan(obs), 15),
        milliseconds(halved(lambda: mine.plan(obs)), 15),
    ]
    many, batch = lerobot_pi0.batch(size, size.batch), window(size)
    theirs.train()
    mine.train()
    step = [
        milliseconds(training_step(theirs, lambda: theirs.forward(many)[0]), 5),
        milliseconds(training_step(mine, lambda: mine.loss(batch)[0]), 5),
        milliseconds(halved(training_step(mine, lambda: mine.loss(batch)[0])), 5),
    ]
    label = f"{weights[0]:.1f} / {weights[1]:.1f} M"
    for work, (a, b, c) in (("chunk", chunk), (f"training step, batch {size.batch}", step)):
        print(f"| {label} | {work} | {a:.1f} | {b:.1f} | {a / b:.1f} | {c:.1f} | {a / c:.1f} |", flush=True)


def main(names: list[str]) -> None:
    """One row a size and kind of work."""
    torch.set_num_threads(1)
    print("| size | work | LeRobot pi0, ms | worldlab, ms | ratio | worldlab bf16, ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in names or list(SIZES):
        compare(SIZES[name])


if __name__ == "__main__":
    main(sys.argv[1:])
