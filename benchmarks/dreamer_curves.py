"""Learning curves of runs of `worldlab train dreamer-…` beside DreamerV3's published ones, as docs/dreamer_curves.svg.

`python benchmarks/dreamer_curves.py CURVES.json RUN...`, where CURVES.json holds the published means of
danijar/dreamerv3, scores/: {"curves": {NAME: {"steps": [...], "scores": {TASK: [...]}}}}. A line is a run, as a mean
over five episodes with the noise of exploration; dots are evaluations without it that `worldlab eval` left in the run.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from worldlab.runs import Run
from worldlab.summaries import evaluations

WINDOW = 5
OUT = Path(__file__).parent.parent / "docs" / "dreamer_curves.svg"


def main(published: str, *runs: str) -> None:
    by_env: dict[str, list[Run]] = defaultdict(list)
    for path in runs:
        run = Run.open(path)
        by_env[str(run.config["env"])].append(run)
    figure = Figure((3.2 * len(by_env), 2.8), layout="constrained")
    axes = figure.subplots(1, len(by_env), squeeze=False)[0]
    curves = json.loads(Path(published).read_text())["curves"]
    for ax, (env, group) in zip(axes, sorted(by_env.items()), strict=True):
        task = env.removeprefix("dm_control/").removesuffix("-v0").replace("-", "_")
        kind = "vision" if group[0].config["preset"] == "dreamer-vision" else "proprio"
        official = curves[f"dmc_{kind}-dreamerv3"]
        ax.plot(official["steps"], official["scores"][f"dmc_{task}"], "k--", label="DreamerV3, published mean")
        for i, run in enumerate(group):
            lived = run.read_log("episodes.jsonl")
            at = np.array([float(str(e["env_steps"])) for e in lived])
            earned = np.array([float(str(e["return"])) for e in lived])
            smooth = np.convolve(earned, np.ones(WINDOW) / WINDOW, "valid")
            ax.plot(at[WINDOW - 1 :], smooth, f"C{i}", lw=1, label=f"worldlab, seed {run.config['provenance']['seed']}")
            for result in evaluations(run):
                ax.plot([at[-1]], [float(str(result["mean_return"]))], f"C{i}o")
        ax.set(title=f"{task} ({kind})", xlabel="environment steps", xlim=(0, 60_000), ylim=(0, 1000))
    axes[0].set_ylabel("return")
    most = max(axes, key=lambda ax: len(ax.lines))
    figure.legend(*most.get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=4)
    figure.savefig(OUT, metadata={"Date": None})
    print(OUT)


if __name__ == "__main__":
    main(*sys.argv[1:])
