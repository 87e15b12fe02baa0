"""Timing of functions against each other: in turn, in one process, by CPU time, the best of several rounds."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path


def best(functions, rounds=5):
    """CPU seconds of each function's best round; rounds alternate, so that a slow moment hits all of them."""
    times = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(rounds):
        for function, record in zip(functions, times, strict=True):
            begin = time.process_time()
            function()
            record.append(time.process_time() - begin)
    return [min(record) for record in times]


def per_call(function, calls):
    """CPU seconds of one of many calls, in the best of many short rounds: neighbours of a machine come and go."""

    def repeated():
        for _ in range(calls):
            function()

    return best([repeated], rounds=15)[0] / calls


def peak_bytes(function):
    """Largest amount of memory that a call holds at a time, by Python's and numpy's own accounting."""
    function()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        function()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def process_seconds(*arguments, rounds=5):
    """CPU seconds of a Python process with these arguments beyond those of ``python -c pass``, the best of each.

    Compiled modules are cached, whatever the environment says.
    """
    cached = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    runs = {arguments: [], ("-c", "pass"): []}
    for _ in range(rounds + 1):
        for command, record in runs.items():
            before = os.times()
            subprocess.run([sys.executable, *command], check=True, capture_output=True, env=cached)
            after = os.times()
            record.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(runs[arguments][1:]) - min(runs["-c", "pass"][1:])


def machine():
    """One line about where this runs."""
    import numba
    import numpy
    import simpy

    model = platform.processor() or platform.machine()
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    versions = f"Python {platform.python_version()}, numpy {numpy.__version__}, numba {numba.__version__}"
    return f"{model}, one of {os.cpu_count()} cores; {platform.system()}; {versions}, SimPy {simpy.__version__}"


def _lines(path):
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []
