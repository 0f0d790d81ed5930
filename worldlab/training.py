"""The one training loop, for any module with `loss(Trajectory)`.

Everything random in step i is seeded by (seed, i), and batch i is a pure function of i, so with a budget of steps a run
that was killed and resumed ends with the same bits as one that was not: a checkpoint needs weights, optimizer moments
and the step alone. A budget of minutes depends on the clock.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from safetensors import safe_open
from torch import Tensor, nn

from worldlab import compiling
from worldlab.errors import UsageError
from worldlab.protocols import Batches, Compilable, Trainable
from worldlab.runs import Run, write_tensors
from worldlab.seeding import key
from worldlab.sharding import part, shard_as_one, whole
from worldlab.trajectory import Trajectory

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["no", "bf16"]
Clock = Literal["wall", "process"]
CLOCKS: Mapping[Clock, Callable[[], float]] = {"wall": time.monotonic, "process": time.process_time}
"""Each counts seconds."""


def pick_device(name: Device) -> torch.device:
    """The device that `--device` names.

    Raises:
        UsageError: CUDA was asked for and is not there.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UsageError("--device cuda was given, but PyTorch sees no CUDA device here; use --device cpu or auto.")
    return torch.device("cuda" if name != "cpu" and available else "cpu")


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How to train. Give `steps` or `minutes`; the learning rate decays over whichever is given."""

    steps: int | None = None
    """Budget in optimizer steps."""
    minutes: float | None = None
    """Budget in minutes of training on this machine."""
    clock: Clock = "wall"
    """Of `minutes`: wall time, or the CPU time of this process, which other processes do not affect."""
    learning_rate: float = 1e-3
    """Peak of the schedule: linear warm-up, then a cosine to a hundredth of it."""
    warmup: float = 0.02
    """Fraction of the budget spent warming up."""
    weight_decay: float = 1e-4
    """AdamW's, on matrices only."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's."""
    clip: float = 1.0
    """Largest global gradient norm."""
    ema: float | None = None
    """Decay of the averaged weights that are saved instead of the last ones; None saves the last ones."""
    precision: Precision = "no"
    """Autocast precision of the forward and backward pass."""
    compile: bool = False
    """Whether to train through `torch.compile`, which takes minutes to begin with."""
    checkpoint_seconds: float = 60.0
    """Time between checkpoints; 0 checkpoints every step."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl, which has one of the last step too."""
    seed: int = 0
    """Of everything random in training."""

    def check(self) -> None:
        """Raise `UsageError` where there is no budget, or one that is not a finite number above zero."""
        if self.steps is None and self.minutes is None:
            raise UsageError("training needs a budget: give --steps or --minutes.")
        if any(budget is not None and not 0 < budget < math.inf for budget in (self.steps, self.minutes)):  # nor NaN
            raise UsageError(
                f"a budget must be a finite number above zero; got {self.steps} steps and {self.minutes} minutes."
            )

    def progress(self, step: int, seconds: float) -> float:
        """Fraction of the budget that is used up, at most 1."""
        used = [1.0] if self.steps is None and self.minutes is None else []
        if self.steps is not None:
            used.append(step / max(self.steps, 1))
        if self.minutes is not None:
            used.append(seconds / (60 * self.minutes))
        return min(1.0, max(used))

    def rate(self, progress: float) -> float:
        """The learning rate at a fraction of the budget."""
        if progress < self.warmup:
            return self.learning_rate * (0.01 + 0.99 * progress / self.warmup)
        cosine = (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup))) / 2
        return self.learning_rate * (0.01 + 0.99 * cosine)


def create_run(path: str | Path, config: Mapping[str, object], device: Device = "auto") -> Run:
    """`Run.create`, once where several processes train together.

    Raises:
        UsageError: something else is already there.
    """
    from accelerate import PartialState  # a second to import

    processes = PartialState(cpu=pick_device(device).type == "cpu")
    if processes.is_main_process:
        Run.create(path, config)
    processes.wait_for_everyone()
    return Run(path)


class _Loss(nn.Module):
    """Gives `loss` the name `forward`, which is what DistributedDataParallel intercepts.

    Autocast is torch's own: accelerate fixes its precision once a process, and a process may train two models.
    """

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, batch: Trajectory) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(self.model, Trainable)
        with torch.autocast(batch.action.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.model.loss(batch)


class _Average:
    """Exponential moving average of the parameters; young averages forget faster (min(decay, (1+i)/(10+i)))."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.model = decay, model
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        live = dict(self.model.named_parameters())
        for name, average in self.weights.items():
            average.lerp_(live[name], 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """The model's state dict with averaged parameters."""
        return {**self.model.state_dict(), **self.weights}


def _optimizer(model: nn.Module, config: FitConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


class _Speed(ProgressColumn):
    """Training samples per second of wall time."""

    def render(self, task: Task) -> str:  # pyright: ignore[reportIncompatibleMethodOverride] - rich renders strings too
        return f"{task.fields['samples'] / max(task.elapsed or 0.0, 1e-9):,.0f} samples/s"


def _progress_bar(show: bool) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("step {task.fields[step]}  loss {task.fields[loss]:.4f}"),
        _Speed(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=not show, refresh_per_second=2)


class _Fitting:
    """The state of one training: what a checkpoint holds, and the step that changes it."""

    def __init__(self, model: nn.Module, config: FitConfig, run: Run, device: Device) -> None:
        self.model, self.config, self.run = model, config, run
        from accelerate import Accelerator  # imports for a second, which who does not train need not wait for

        wanted = pick_device(device).type
        self.accelerator = Accelerator(cpu=wanted == "cpu")
        if self.accelerator.device.type != wanted:
            raise UsageError(
                f"this process has trained on {self.accelerator.device.type} before, and accelerate keeps to that; "
                f"train on {wanted} in another process."
            )
        if (sharding := getattr(self.accelerator.state, "fsdp_plugin", None)) is not None:
            shard_as_one(sharding)
        if config.compile:
            parts = model.compiles if isinstance(model, Compilable) else ((model, "loss"),)
            compiling.compile_parts(parts, self.accelerator.device)
        loss = _Loss(model, config.precision)
        self.wrapped, self.optimizer = self.accelerator.prepare(loss, _optimizer(model, config))
        self.average = _Average(model, config.ema) if config.ema is not None else None
        self.checkpoint = run.path / "checkpoint" / "state.safetensors"
        self.step, self.samples, self.loss = 0, 0, math.nan
        self._clock = CLOCKS[config.clock]
        self._before, self._start, self._saved = 0.0, self._clock(), 0.0
        self.seconds = 0.0
        """Time trained, before and after resuming, by the clock of the main process."""

    def _look_at_the_clock(self) -> None:
        """All processes must agree on the time, or they would not stop at the same step."""
        now = torch.tensor(self._before + self._clock() - self._start, device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast

            now = broadcast(now)
        assert isinstance(now, Tensor)
        self.seconds = float(now)

    @property
    def progress(self) -> float:
        """Fraction of the budget that is used up."""
        return self.config.progress(self.step, self.seconds)

    def advance(self, batches: Batches) -> None:
        """One optimizer step, with what has to be logged and saved after it."""
        machine, config = self.accelerator, self.config
        torch.manual_seed(key(config.seed, self.step, machine.process_index))
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(self.progress)
        batch = batches[self.step * machine.num_processes + machine.process_index].to(machine.device)
        with compiling.compile_errors_as_usage("train without --compile") if config.compile else nullcontext():
            loss, metrics = self.wrapped(batch)
            machine.backward(loss)
        norm = machine.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.samples += len(batch.valid) * machine.num_processes
        if self.average is not None:
            self.average.update(self.step)
        self._look_at_the_clock()
        if self.step % config.log_every == 0 or self.step == 1 or self.progress >= 1:
            self._log(loss, norm, metrics)
        if self.seconds - self._saved >= config.checkpoint_seconds:
            self.save()

    def _log(self, loss: Tensor, norm: Tensor | float | None, metrics: dict[str, Tensor]) -> None:
        norm = whole(torch.as_tensor(0.0 if norm is None else norm))
        over_all = self.accelerator.reduce(loss.detach(), "mean")
        assert isinstance(over_all, Tensor)
        self.loss = float(over_all)
        if not math.isfinite(self.loss):
            raise self._diverged(f"the loss is {self.loss}")
        if self.accelerator.is_main_process:
            line = {
                "step": self.step,
                "seconds": round(self.seconds, 2),
                "loss": self.loss,
                "grad_norm": float(norm),
            }
            self.run.log(line | {name: float(value.detach()) for name, value in metrics.items()})

    def _diverged(self, how: str) -> UsageError:
        return UsageError(f"training diverged: {how} at step {self.step}; lower the learning rate, or raise --batch.")

    def save(self) -> None:
        """Write a checkpoint: one file, replaced atomically, without pickle.

        Raises:
            UsageError: the weights are not finite, so that going on from them would be in vain.
        """
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in (self.average.weights if self.average else {}).items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{k}": v for k, v in moments.items()}
        tensors = self._gathered(tensors)
        if self.accelerator.is_main_process:
            progress = json.dumps({"step": self.step, "seconds": self.seconds, "loss": self.loss})
            write_tensors(self.checkpoint, tensors, {"progress": progress})
        self._saved = self.seconds

    def _gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors in the memory of the main process, one after another: no GPU need hold all of them."""
        gathered = ((name, whole(x)) for name, x in tensors.items())
        found = {name: x.cpu() for name, x in gathered if self.accelerator.is_main_process}
        if broken := next((name for name, x in found.items() if not x.isfinite().all()), None):
            raise self._diverged(f"'{broken}' is not finite")
        return found

    def load(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "adam": {}}
        with safe_open(self.checkpoint, "pt") as file:
            progress = json.loads(file.metadata()["progress"])
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                group, rest = name.split(".", 1)
                groups[group][rest] = file.get_tensor(name)
        live = self.model.state_dict()
        self.model.load_state_dict({name: part(x, live[name]) for name, x in groups["model"].items()})
        for name, tensor in (self.average.weights if self.average else {}).items():
            tensor.copy_(part(groups["average"][name], tensor))
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups["adam"].items():
            i, moment = name.split(".", 1)
            of = tensor if tensor.ndim == 0 else part(tensor, weights[int(i)])
            moments.setdefault(int(i), {})[moment] = of
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.step, self._before = int(progress["step"]), float(progress["seconds"])
        self.loss = float(progress.get("loss", math.nan))  # of the last look, should no step be left to take
        self._look_at_the_clock()
        self._saved = self.seconds

    def finish(self) -> None:
        """Put the weights to use into the model and the run, and drop the checkpoint.

        Raises:
            UsageError: they are not finite.
        """
        if self.average is not None:
            self.model.load_state_dict(self.average.state())
        self.model.eval()
        weights = self._gathered(self.model.state_dict())
        if self.accelerator.is_main_process:
            self.run.save(weights)
            self.run.log({"step": self.step, "seconds": round(self.seconds, 2), "loss": self.loss, "finished": True})
            shutil.rmtree(self.checkpoint.parent, ignore_errors=True)
        self.accelerator.wait_for_everyone()  # so that each of them finds the run finished


def fit(
    model: nn.Module,
    batches: Batches,
    config: FitConfig,
    run: Run,
    *,
    device: Device = "auto",
    resume: bool = False,
    show: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> None:
    """Train `model` in place and leave its weights in `run`.

    Args:
        model: a module with `loss(Trajectory)`.
        batches: batch i is `batches[i]`; with several processes, process r of n takes batches i * n + r.
        config: the budget and the optimizer.
        run: receives metrics.jsonl, checkpoint/ and model.safetensors.
        device: where to train; see `pick_device`.
        resume: go on from the run's checkpoint, if it has one.
        show: whether to draw a progress bar on stderr.
        on_step: called after each step with its number.

    Raises:
        UsageError: no budget was given, the loss or the weights stopped being finite, the run that is to be resumed
            has finished, the device is not there, or PyTorch cannot compile what it is to compile.
    """
    config.check()
    if resume and run.finished:
        raise UsageError(f"'{run.path}' has finished training; there is nothing to resume.")
    fitting = _Fitting(model, config, run, device)
    if resume:
        fitting.load()
    model.train()
    with _progress_bar(show and fitting.accelerator.is_main_process) as bar:
        task = bar.add_task("training", total=1.0, step=fitting.step, loss=math.nan, samples=0)
        while fitting.progress < 1:
            fitting.advance(batches)
            bar.update(task, completed=fitting.progress, step=fitting.step, loss=fitting.loss, samples=fitting.samples)
            if on_step is not None:
                on_step(fitting.step)
    fitting.finish()
