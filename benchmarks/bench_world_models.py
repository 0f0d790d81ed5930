"""World-model step, behaviour step and latent imagination: CPU seconds of one thread, beside the machine's own peak.

The sizes and batches are those at which dreamerv3-torch was measured on another machine: 8 windows of 32 rows of
64 x 64 pixels at 3 M parameters, and 16 of 64 rows of proprioception. A step is forward, backward, clipping
and AdamW, in bf16 once more as `worldlab train --compile` has it; every row's frame is drawn, as the peers do. A
behaviour step dreams 15 steps, from every row as the peers do and from 256 of them as our presets do, and then trains
actor and critic (0.2 and 0.3 M). Run it with `OMP_NUM_THREADS=1 python -m benchmarks.bench_world_models`; the table
goes to stderr, JSON to stdout. sheeprl's DreamerV3 follows at the same sizes, if `python -m benchmarks.peers` has
installed it.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import peers
from worldlab import compiling, dynamics
from worldlab.normalize import Moments, Statistics
from worldlab.trajectory import Observation, Spec, Trajectory

ROUNDS = 5
ACTIONS, STATES = 6, 6
IMAGINED = 512, 15
"""Beliefs, and steps of each."""


def cpu_seconds(f: Callable[[], object]) -> float:
    """The best of several rounds: what else runs on the machine only adds."""
    f()
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        f()
        times.append(time.process_time() - begin)
    return min(times)


def peak(dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    a, b = torch.randn(2, 1024, 1024).to(dtype)
    return 2 * 1024**3 / cpu_seconds(lambda: a @ b)


def model_of(images: bool, **options: object) -> dynamics.RSSM:
    sees = "images" if images else "state"
    return dynamics.create(dynamics.RSSMConfig(sees=sees, **options), *data_of(images))


def data_of(images: bool) -> tuple[Spec, Statistics]:
    """What is acted and seen, and its scales."""
    names = tuple(f"joint{i}" for i in range(STATES))
    bounds = tuple([1.0] * ACTIONS)
    spec = Spec(
        cameras={"front": (64, 64)} if images else {},
        state=names,
        action=names,
        privileged=(),
        control="raw",
        low=tuple(-b for b in bounds),
        high=bounds,
        fps=10,
    )
    unit = Moments((0.0,) * 6, (1.0,) * 6, (-2.0,) * 6, (2.0,) * 6)
    torch.manual_seed(0)
    return spec, Statistics(unit, unit)


def windows_of(images: bool, batch: int, length: int) -> Trajectory:
    frames = torch.randint(0, 256, (batch, length, 64, 64, 3), dtype=torch.uint8)
    nothing = torch.zeros(batch, length, dtype=torch.bool)
    return Trajectory(
        obs=Observation({"front": frames} if images else {}, torch.randn(batch, length, STATES), ("",) * batch),
        action=torch.randn(batch, length, ACTIONS),
        reward=torch.randn(batch, length),
        terminated=nothing,
        success=nothing,
        valid=~nothing,
    )


def step_of(model: dynamics.RSSM, batch: Trajectory, half: bool) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(batch.action.device.type, torch.bfloat16, enabled=half):
            loss, _ = model.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def behaviour_of(starts: int, half: bool) -> Callable[[], None]:
    """An actor and a critic of the peer's size, in the dreams of the model of proprioception."""
    config = dynamics.DreamerConfig(
        world=dynamics.RSSMConfig(size="small", sees="state"), behaviour=dynamics.ActorCriticConfig(units=192)
    )
    model = dynamics.create(config, *data_of(images=False))
    belief = torch.zeros(starts, sum(model.world.parts))
    parameters = [p for p in model.behaviour.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            with torch.no_grad():
                dream = model.behaviour.dream(model.world, belief, model.action)
            losses = model.behaviour.losses(dream)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 100.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def imagination_of(model: dynamics.RSSM, half: bool, n: int = IMAGINED[0]) -> Callable[[], None]:
    steps, device = IMAGINED[1], model.two_hot.bins.device
    belief, action = torch.zeros(n, sum(model.parts), device=device), torch.randn(n, ACTIONS, device=device)

    @torch.no_grad()
    def imagine() -> None:
        now = belief
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            for _ in range(steps):
                now = model.advance(now, action, model.noise(n))

    return imagine


def say(name: str, seconds: float, work: float, rate: float, unit: str, tops: dict[str, float]) -> dict[str, object]:
    share = work / seconds / tops["bf16" if name.endswith("bf16") else "fp32"]
    print(
        f"{name:52s} {1000 * seconds:8.1f} ms  {rate / seconds:10,.0f} {unit:9s} {share:6.1%} of peak", file=sys.stderr
    )
    return {"seconds": round(seconds, 4), f"{unit}_per_second": round(rate / seconds), "of_peak": round(share, 4)}


def peer() -> dict[str, dict[str, float]]:
    """What `sheeprl_peer` measures, in the Python that has it; nothing where there is none."""
    python = peers.python()
    if python is None:
        print(f"sheeprl is not measured; {peers.HOW}", file=sys.stderr)
        return {}
    script = str(Path(__file__).with_name("sheeprl_peer.py"))
    said = subprocess.run([str(python), script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
    found: dict[str, dict[str, float]] = json.loads(said)
    for case, times in found.items():
        steps = ", ".join(f"{name} {1000 * x:.1f} ms" for name, x in times.items() if name.endswith("step"))
        print(f"sheeprl, {case}, {times['world_model_millions']} M: {steps}", file=sys.stderr)
    return found


def flops_of(f: Callable[[], None]) -> float:
    with FlopCounterMode(display=False) as counter:
        f()
    return float(counter.get_total_flops())


def main() -> None:
    torch.set_num_threads(1)
    tops = {"fp32": peak(torch.float32), "bf16": peak(torch.bfloat16)}
    print(" ".join(f"{k} {v / 1e9:.0f} GF/s" for k, v in tops.items()), file=sys.stderr)
    results: dict[str, object] = {f"peak_{k}_gflops": round(v / 1e9) for k, v in tops.items()}
    cases = (
        ("vision, medium, 8 x 32", True, 8, 32, {"size": "medium", "frames": 256}),
        ("proprioception, small, 16 x 64", False, 16, 64, {"size": "small"}),
    )
    for label, images, batch, length, options in cases:
        model, data = model_of(images, **options), windows_of(images, batch, length)
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        for half in (False, True):
            name = f"step, {label}, {millions:.1f} M, {'bf16' if half else 'fp32'}"
            step = step_of(model, data, half)
            work = flops_of(step)
            results[name] = say(name, cpu_seconds(step), work, batch * length, "rows", tops)
        compiling.compile_parts(model.compiles, torch.device("cpu"))
        name = f"step, {label}, {millions:.1f} M, compiled, bf16"
        results[name] = say(name, cpu_seconds(step_of(model, data, half=True)), work, batch * length, "rows", tops)
    for starts in (1024, 256):
        for half in (False, True):
            name = f"behaviour, small, from {starts}, {'bf16' if half else 'fp32'}"
            step = behaviour_of(starts, half)
            results[name] = say(name, cpu_seconds(step), flops_of(step), starts * IMAGINED[1], "steps", tops)
    for size in ("tiny", "small", "medium"):
        model = model_of(False, size=size)
        for half in (False, True):
            name = f"imagination, {size}, batch {IMAGINED[0]}, {'bf16' if half else 'fp32'}"
            run = imagination_of(model, half)
            results[name] = say(name, cpu_seconds(run), flops_of(run), IMAGINED[0] * IMAGINED[1], "steps", tops)
    results["sheeprl"] = peer()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
