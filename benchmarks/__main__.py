"""`make bench`: every benchmark beside its peers, one after another; each prints a table and a line of JSON."""

import runpy
from pathlib import Path

for path in sorted(Path(__file__).parent.glob("bench_*.py")):
    print(f"== {path.stem}")
    runpy.run_module(f"benchmarks.{path.stem}", run_name="__main__")
