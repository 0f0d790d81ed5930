"""How many processes share some work, and a head start for them.

This module imports nothing heavy: the command line calls `prepare` before it imports torch, and then the server that
the processes are forked from imports it at the same time, on another core. The server loads nothing that makes threads
or an OpenGL context, neither of which survives a fork.
"""

import math
import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

_WORTH_A_PROCESS = 8
"""Portions of work; a process takes a second to start."""

_METHOD = "spawn" if sys.platform == "win32" else "forkserver"
_PRELOADED = ["torch", "gymnasium", "worldlab.datasets", "worldlab.rollout"]


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def number(portions: float, wanted: int = 0) -> int:
    """Processes for some portions of work: `wanted`, or one per core where there is enough to do."""
    return wanted or max(1, min(cores(), math.ceil(portions / _WORTH_A_PROCESS)))


def context() -> BaseContext:
    """How to start them."""
    found = multiprocessing.get_context(_METHOD)
    found.set_forkserver_preload(_PRELOADED)
    return found


def prepare(processes: int) -> None:
    """Begin to start them, where there is more than one."""
    if processes > 1 and _METHOD == "forkserver":
        context()
        forkserver.ensure_running()
