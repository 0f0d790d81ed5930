"""A flow policy's chunk and training step beside the pi0 of LeRobot and of transformers, of the same sizes.

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.bench_flow [SIZE ...]

All see two cameras and an instruction and integrate 10 Euler steps in one process on one thread, taking turns; all
have random weights, which speed does not depend on. Prints the median CPU time. The peers are as their users get them,
and beside it in bf16. For chunks that is a setting of LeRobot, a cast of transformers' model, and `lean` of ours, once
more `compiled`; training steps are under autocast, and once more compiled (`worldlab train --compile`). Where the
peers differ by their design: LeRobot pads instructions (to 16 and 48 words, of which 12 and 36 are said); both have
output matrices of the language models that nothing uses; states and actions are padded to 32 (LeRobot) or 8 numbers,
ours have 6.
"""

import copy
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch
from transformers import GemmaConfig, GemmaModel, SiglipVisionConfig, SiglipVisionModel

from benchmarks import pi0_peers
from benchmarks.pi0_peers import SIZES, Size
from worldlab import compiling, so101
from worldlab.normalize import Moments, Statistics
from worldlab.policies import VLA, BackboneConfig, FlowConfig, GroundingConfig
from worldlab.policies.backbone import Backbone
from worldlab.policies.compiled import compiled
from worldlab.policies.flow_policy import FlowHead
from worldlab.policies.fusion import CameraSetup
from worldlab.policies.head import Interface
from worldlab.policies.lean import lean
from worldlab.policies.text import TextTokenizer
from worldlab.policies.towers import Tower
from worldlab.trajectory import Observation, Spec, Trajectory

type Call = Callable[[], object]

WORDS = "pick up the red cube and then put it into a box"


def task(size: Size) -> str:
    """An instruction of as many words as the peers are told."""
    words = WORDS.split()
    return " ".join(words[i % len(words)] for i in range(size.said))


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
            patch_size=size.patch,
            vision_use_head=False,
        )
    )
    language = GemmaModel(
        GemmaConfig(
            hidden_size=size.width,
            num_hidden_layers=size.layers,
            intermediate_size=size.mlp,
            num_attention_heads=size.heads,
            num_key_value_heads=1,
            head_dim=size.head,
            vocab_size=size.vocabulary,
        )
    )
    cameras = dict.fromkeys(("front", "wrist"), (size.image, size.image))
    spec = Spec(cameras, so101.NAMES, so101.NAMES, (), "joint_position", so101.LOW, so101.HIGH, 30)
    moments = Moments((0.0,) * 6, (1.0,) * 6, (-1.0,) * 6, (1.0,) * 6)
    config = FlowConfig(
        backbone=BackboneConfig(),
        grounding=GroundingConfig(weight=0.0),
        chunk=size.chunk,
        execute=size.chunk // 2,
        width=size.expert,
        mlp=size.expert_mlp,
        direct=False,
        draws=1,
    )
    text = TextTokenizer.of_words([task(size)])
    normal = [0.5] * 3
    backbone = Backbone(config.backbone, Tower(tower, normal, normal), language, text, CameraSetup(cameras, "front"))
    interface = Interface((6,), False, size.chunk, 6, size.chunk // 2)
    return VLA(config, "flow", spec, Statistics(moments, moments), backbone, FlowHead(config, backbone, interface))


def observation(size: Size, b: int) -> Observation:
    """What both see."""
    image = torch.randint(256, (b, size.image, size.image, 3), dtype=torch.uint8)
    return Observation(dict.fromkeys(("front", "wrist"), image), torch.randn(b, 6), (task(size),) * b)


def window(size: Size) -> Trajectory:
    """A training batch."""
    obs = observation(size, size.batch)
    no = torch.zeros(size.batch, size.chunk, dtype=torch.bool)
    return Trajectory(obs.map(lambda x: x[:, None]), torch.randn(size.batch, size.chunk, 6), no.float(), no, no, ~no)


def milliseconds(calls: Mapping[str, Call], rounds: int) -> dict[str, float]:
    """The median CPU time of each, which take turns, after two rounds to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 2):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(of[2:]) for name, of in times.items()}


def training_step(model: torch.nn.Module, loss: Callable[[], torch.Tensor], fused: bool) -> Call:
    """Forward, backward and AdamW, which `worldlab.training` asks for fused and the peers do not."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=fused)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def halved(call: Call, device: str = "cpu") -> Call:
    """The same under autocast to bf16."""

    def run() -> object:
        with torch.autocast(device, torch.bfloat16):
            return call()

    return run


def chunks(size: Size) -> dict[str, Call]:
    """Everybody's chunk, batch 1."""
    calls: dict[str, Call] = {}
    if size.peer == "LeRobot":
        one = pi0_peers.lerobot_batch(size, 1)
        full, half = pi0_peers.lerobot(size).eval(), pi0_peers.lerobot(size, "bfloat16").eval()
        calls["peer"] = lambda: full.predict_action_chunk(one)
        calls["peer, bf16"] = lambda: half.predict_action_chunk(one)
    else:
        model, some = pi0_peers.transformers(size).eval(), pi0_peers.transformers_batch(size, 1)
        half = copy.deepcopy(model).bfloat16()
        less = {name: x.bfloat16() if x.is_floating_point() else x for name, x in some.items()}
        calls["peer"] = lambda: model.sample_actions(**some)
        calls["peer, bf16"] = lambda: half.sample_actions(**less)
    policy, obs = ours(size).eval(), observation(size, 1)
    policy.reset([0])
    calls["ours"] = lambda: policy.plan(obs)
    fast = lean(policy)
    calls["ours, bf16"] = lambda: fast.plan(obs)
    faster = compiled(policy)
    faster.reset([0])
    calls["ours, bf16 compiled"] = lambda: faster.plan(obs)
    return calls


def steps(size: Size) -> dict[str, Call]:
    """Everybody's training step."""
    if size.peer == "LeRobot":
        theirs, many = pi0_peers.lerobot(size).train(), pi0_peers.lerobot_batch(size, size.batch)
        step = training_step(theirs, lambda: theirs.forward(many)[0], fused=False)
    else:
        model, some = pi0_peers.transformers(size).train(), pi0_peers.transformers_batch(size, size.batch)
        action = torch.randn(size.batch, size.chunk, 8)
        step = training_step(model, lambda: model(**some, actions=action).loss, fused=False)
    policy, batch = ours(size).train(), window(size)
    mine = training_step(policy, lambda: policy.loss(batch)[0], fused=True)
    fused = torch.compile(lambda: policy.loss(batch)[0], dynamic=False, options=compiling.options(torch.device("cpu")))
    calls = {"peer": step, "ours": mine, "ours, bf16": halved(mine)}
    calls["ours, bf16 compiled"] = halved(training_step(policy, fused, fused=True))
    if size.peer == "LeRobot":  # that of transformers cannot be trained under autocast
        calls["peer, bf16"] = halved(step)
    return calls


def main(names: list[str]) -> None:
    """One row a size and kind of work."""
    torch.set_num_threads(1)
    columns = ["size, peer", "work", "peer, ms", "in bf16", "worldlab, ms", "ratio", "in bf16", "ratio"]
    columns += ["compiled", "ratio", "ratio of both in bf16"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name in names or list(SIZES):
        size = SIZES[name]
        large = size.image > 200
        for work, calls, rounds in (
            ("chunk", chunks(size), 9 if large else 25),
            (f"training step, batch {size.batch}", steps(size), 3 if large else 9),
        ):
            took = milliseconds(calls, rounds)
            peer, half = took["peer"], took.get("peer, bf16", math.nan)
            cells = [f"{peer:.1f}", f"{half:.1f}"]
            ways = ("ours", "ours, bf16", "ours, bf16 compiled")
            for mine in (took.get(way, math.nan) for way in ways):
                cells += [f"{mine:.1f}", f"{peer / mine:.2f}"]
            cells.append(f"{half / min(took.get(way, math.inf) for way in ways[1:]):.2f}")
            print(f"| {name}, {size.peer} | {work} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
