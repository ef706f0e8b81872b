"""What a step costs in process: runs criterion's benchmarks of the chain and reads what they found."""

import json
import os
import pathlib
import subprocess

import node

HEADERS = [8, 20, 50]
# Microseconds a step with 8 headers, at most.
GOALS = {"filter fresh": 6.0, "filter reused": 1.2}


def run(figures):
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", node.cache() / "target"))
    subprocess.run(["cargo", "bench", "--profile", "dist", "--workspace", "--bench", "steps"], check=True)

    def median(*names):
        """Of criterion's samples, in microseconds."""
        estimates = json.loads(target.joinpath("criterion", *names, "new", "estimates.json").read_text())
        return estimates["median"]["point_estimate"] / 1000

    for kind in (f"{kind} {life}" for kind in ("filter", "wasi-http", "wasi-http-3") for life in ("fresh", "reused")):
        for headers in HEADERS:
            nothing, one, ten = (median(kind, f"{steps} steps", f"{headers} headers") for steps in (0, 1, 10))
            figures.add(f"in process, {kind}, {headers} headers: the first step", one - nothing, "µs")
            goal = GOALS.get(kind) if headers == 8 else None
            figures.add(f"in process, {kind}, {headers} headers: a step of ten", (ten - nothing) / 10, "µs", goal)
    for headers in HEADERS:
        figures.add(f"in process, {headers} headers: all but the steps", median("filter fresh", "0 steps", f"{headers} headers"), "µs")
    for life in ("fresh", "reused"):
        # Two threads do twice as much.
        ratio = 2 * median(f"threads {life}", "1") / median(f"threads {life}", "2")
        figures.add(f"in process, filter {life}: two threads do this many times what one does", ratio, "times", at_least=1.8)
    none, thousand = (median("not matching", f"{workers} workers", "8 headers") for workers in (0, 1000))
    figures.add("in process: a worker that does not match, of 1000", (thousand - none), "ns", 20)
