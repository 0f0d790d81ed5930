"""The same code on a GPU: chunks and training steps of flow policies beside transformers' pi0, and world models.

    python -m benchmarks.cuda

Sizes and batches are those of `bench_flow` and `bench_world_models`, and pi0 as published; weights are random. Medians
of the time between two synchronizations, in milliseconds; Python launches every kernel, nothing is compiled.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping

import torch

from benchmarks import bench_world_models as worlds
from benchmarks import pi0_peers
from benchmarks.bench_flow import Call, halved, observation, ours, training_step, window
from benchmarks.pi0_peers import FULL, SIZES, Size
from worldlab.policies.lean import lean

DEVICE = torch.device("cuda")


def milliseconds(call: Call, rounds: int = 7) -> float:
    """The median of several, after two to warm up."""
    times: list[float] = []
    for _ in range(rounds + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def there(batch: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: x.to(DEVICE, dtype if x.is_floating_point() else None) for name, x in batch.items()}


def peer_chunk(size: Size, dtype: torch.dtype) -> Call:
    with DEVICE:
        model = pi0_peers.transformers(size).eval().to(DEVICE, dtype)
    batch = there(pi0_peers.transformers_batch(size, 1), dtype)
    return lambda: model.sample_actions(**batch)


def chunk(size: Size, *, half: bool) -> Call:
    with DEVICE:
        policy = ours(size).eval().to(DEVICE)
    if half:
        policy = lean(policy)
    obs = observation(size, 1)
    policy.reset([0])
    return lambda: policy.plan(obs)


def peer_step(size: Size) -> Call:
    with DEVICE:
        model = pi0_peers.transformers(size).train().to(DEVICE)
    batch = there(pi0_peers.transformers_batch(size, size.batch), torch.float32)
    action = torch.randn(size.batch, size.chunk, 8, device=DEVICE)
    return training_step(model, lambda: model(**batch, actions=action).loss, fused=True)


def step(size: Size) -> Call:
    with DEVICE:
        policy = ours(size).train().to(DEVICE)
    batch = window(size).to(DEVICE)
    return training_step(policy, lambda: policy.loss(batch)[0], fused=True)


def policies() -> None:
    """Who takes how long, one model in memory at a time."""
    every = {**SIZES, "3.2 B": FULL}
    for name, size in every.items():
        makers: dict[str, Callable[[], Call]] = {
            "chunk, transformers, fp32": lambda size=size: peer_chunk(size, torch.float32),
            "chunk, transformers, bf16": lambda size=size: peer_chunk(size, torch.bfloat16),
            "chunk, worldlab, fp32": lambda size=size: chunk(size, half=False),
            "chunk, worldlab, lean": lambda size=size: chunk(size, half=True),
            f"step, batch {size.batch}, transformers, fp32": lambda size=size: peer_step(size),
            f"step, batch {size.batch}, worldlab, fp32": lambda size=size: step(size),
            f"step, batch {size.batch}, worldlab, bf16": lambda size=size: halved(step(size), "cuda"),
        }
        for what, make in makers.items():
            call = make()
            print(f"{name:8s} {what:40s} {milliseconds(call):9.1f} ms", flush=True)
            del call
            gc.collect()
            torch.cuda.empty_cache()


def world_models() -> None:
    """Training steps, and steps that are imagined a second."""
    for size in ("medium", "base"):
        model = worlds.model_of(True, size=size, frames=256).to(DEVICE)
        batch = worlds.windows_of(True, 16, 64).to(DEVICE)
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        what = f"step, RSSM {size}, {millions:.1f} M, 16 x 64 rows of 64 x 64 pixels, bf16"
        print(f"{what} {milliseconds(worlds.step_of(model, batch, half=True)):9.1f} ms", flush=True)
    model = worlds.model_of(False, size="small").to(DEVICE)
    for n in (worlds.IMAGINED[0], 16384):
        took = milliseconds(worlds.imagination_of(model, half=False, n=n))
        steps = worlds.IMAGINED[1] * n / took * 1000
        print(f"imagined steps a second, RSSM small, batch {n}, fp32 {steps:12,.0f}", flush=True)


if __name__ == "__main__":
    print(torch.cuda.get_device_name(), torch.__version__)
    world_models()
    policies()
