#!/usr/bin/env python3
"""What a chain costs, in process and over sockets beside others; what it holds in memory; what neighbours and swaps do to it.

Over sockets, one core serves; the other one asks and holds the upstream. Writes out/bench.json; report.py makes the tables of
docs/benchmarks.md from it."""

import argparse
import json
import os
import pathlib
import random
import statistics
import sys

import in_process
import load
import node
import peers

SERVER, LOAD = "0", "1"
STEPS = [1, 3, 5, 10]
ROOT = pathlib.Path(__file__).resolve().parent.parent

CHAINS = {
    "Sluice, filter, fresh": lambda n: peers.sluice(SERVER, n, "filter", False),
    "Sluice, filter, reused": lambda n: peers.sluice(SERVER, n, "filter", True),
    "Sluice, wasi:http 0.2, fresh": lambda n: peers.sluice(SERVER, n, "wasi:http 0.2", False),
    "Sluice, wasi:http 0.2, reused": lambda n: peers.sluice(SERVER, n, "wasi:http 0.2", True),
    "Sluice, wasi:http 0.3, fresh": lambda n: peers.sluice(SERVER, n, "wasi:http 0.3", False),
    "Sluice, wasi:http 0.3, reused": lambda n: peers.sluice(SERVER, n, "wasi:http 0.3", True),
    "nginx, a hop a step": lambda n: peers.nginx(SERVER, n),
    "Envoy, its own filter": lambda n: peers.envoy(SERVER, n, "native"),
    "Envoy, proxy-wasm": lambda n: peers.envoy(SERVER, n, "wasm"),
    "workerd, service bindings": lambda n: peers.workerd(SERVER, n),
    "wasmtime serve, a process a step": lambda n: peers.wasmtime(SERVER, n),
}


class Figures:
    """Rows of the shape that every benchmark here writes, each with the part that it belongs to."""

    def __init__(self):
        self.part, self.rows = None, []

    def add(self, name, value, unit, goal=None, at_least=None):
        ok = (goal is None or value <= goal) and (at_least is None or value >= at_least)
        sign, goal = ("≤", goal) if at_least is None else ("≥", at_least)
        self.rows.append({"part": self.part, "name": name, "value": round(value, 3), "unit": unit, "goal": goal and round(goal, 3), "ok": ok})
        words = "" if goal is None else f"goal {sign} {goal:.4g} {unit}: {'met' if ok else 'MISSED'}"
        print(f"  {name:66} {value:12.2f} {unit:9} {words}".rstrip(), flush=True)

    def write(self):
        """Other parts stay as they were measured last."""
        out = pathlib.Path("out/bench.json")
        out.parent.mkdir(exist_ok=True)
        measured = {row["part"] for row in self.rows}
        before = json.loads(out.read_text())["rows"] if out.exists() else []
        rows = self.rows + [row for row in before if row.get("part") in PARTS.keys() - measured]
        rows.sort(key=lambda row: list(PARTS).index(row["part"]))
        figures = {"machine": f"{os.cpu_count()} cores, Linux {os.uname().release}", "rows": rows}
        out.write_text(json.dumps(figures, indent=2) + "\n")


def line(points):
    """Intercept and slope of the straight line nearest to these points (least squares)."""
    x, y = zip(*points)
    mean_x, mean_y = statistics.mean(x), statistics.mean(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in points) / sum((a - mean_x) ** 2 for a in x)
    return mean_y - slope * mean_x, slope


def sockets(figures, rounds):
    """Microseconds a request: one over the requests a second that one core serves to 16 connections. Medians of rounds; within a
    round, in random order."""
    micros = {}
    with peers.upstream(LOAD):
        cases = [(name, steps) for name in CHAINS for steps in STEPS]
        for _ in range(rounds):
            random.shuffle(cases)
            for name, steps in cases:
                with CHAINS[name](steps) as server:
                    load.closed(server.port, LOAD, seconds=1)
                    micros.setdefault((name, steps), []).append(1e6 / load.closed(server.port, LOAD))
        medians = {case: statistics.median(values) for case, values in micros.items()}
        lines = {name: line([(steps, medians[name, steps]) for steps in STEPS]) for name in CHAINS}
        hop = lines["nginx, a hop a step"][1]
        parts = {"Sluice, filter, fresh": 4, "Sluice, filter, reused": 12, "Sluice, wasi:http 0.2, fresh": 1}
        for name in CHAINS:
            for steps in STEPS:
                figures.add(f"{name}: a request through {steps}", medians[name, steps], "µs")
            figures.add(f"{name}: before the first step", lines[name][0], "µs")
            figures.add(f"{name}: a step more", lines[name][1], "µs", hop / parts[name] if name in parts else None)
        open_loop(figures)


def open_loop(figures):
    """The 99th percentile at 60% of what each one can do, at most at what the generator can. What it can do is measured just
    before: the machine's speed changes within minutes, and 60% of a fast one may be more than all of a slow one."""
    for name in CHAINS:
        for steps in (1, 5):
            with CHAINS[name](steps) as server:
                load.closed(server.port, LOAD, seconds=1)
                rate = int(min(0.6 * load.closed(server.port, LOAD), 2_000))
                met = load.Open(server.port, LOAD, rate, 8).met()
            figures.add(f"{name}: {steps} steps, p99 at {rate}/s", met["p99"], "ms")
            if met["ok"] != met["sent"]:
                figures.add(f"{name}: {steps} steps, requests that failed", met["sent"] - met["ok"], "requests", 0)


def memory(figures):
    """What is resident with so many workers, each an artifact of its own."""
    with peers.upstream(LOAD):
        for count in (0, 10, 100, 1000):
            with node.Node(18480, SERVER) as there:
                units = [node.worker(f"w-{n}", node.guest("step-filter", str(n)), path=f"/w-{n}", order=n) for n in range(count)]
                units.append(node.worker("shop", node.guest("step-filter", "shop"), path="/shop"))
                there.assign([*units, node.routes(f"127.0.0.1:{peers.UPSTREAM}")])
                there.start()
                figures.add(f"{count} workers: resident, idle", there.resident_mib(), "MiB", 60 if count == 100 else None)
                load.closed(there.port, LOAD, connections=64)
                figures.add(f"{count} workers: resident, under load", there.resident_mib(), "MiB")


def neighbours(figures):
    """A good worker beside three bad ones, each asked 20 times a second, on one thread."""
    bad = {"loops": "spin", "allocates": "alloc", "traps": "trap"}
    limits = {"cpuMs": 5, "wallMs": 100, "memoryBytes": 16 << 20}
    units = [node.worker("good", node.guest("step-filter"), path="/shop")]
    units += [node.worker(name, node.guest("filter-faults", name), path=f"/{name}", limits=limits) for name in bad]
    with peers.upstream(LOAD), node.Node(18480, SERVER) as there:
        there.assign([*units, node.routes(f"127.0.0.1:{peers.UPSTREAM}")])
        there.start()
        load.closed(there.port, LOAD, seconds=1)
        alone = load.Open(there.port, LOAD, 2000, 20).met()
        others = [load.Open(there.port, LOAD, 20, 22, f"/{name}", {"x-do": verb}) for name, verb in bad.items()]
        beside = load.Open(there.port, LOAD, 2000, 20).met()
        for name, other in zip(bad, others):
            met = other.met()
            if met["ok"]:
                raise RuntimeError(f"the worker that {name} did not: {met}")
        figures.add("a good worker alone, at 2000/s: p99", alone["p99"], "ms")
        figures.add("beside one that loops, one that allocates, one that traps: p99", beside["p99"], "ms", alone["p99"] + 2)
        figures.add("beside them: requests of the good one that failed", beside["sent"] - beside["ok"], "requests", 0)


def swaps(figures, count):
    """So many swaps under load, one as soon as the other is in force: two revisions of a worker take turns."""
    def units(turn):
        revisions = node.worker("shop", node.guest("step-filter", str(turn % 2)), path="/shop", order=turn % 2)
        return [revisions, node.routes(f"127.0.0.1:{peers.UPSTREAM}")]

    with peers.upstream(LOAD), node.Node(18480, SERVER, threads=1) as there:
        there.assign(units(0))
        there.start()
        load.closed(there.port, LOAD, seconds=1)
        before = load.Open(there.port, LOAD, 2000, 20).met()
        turn, totals, p99 = 0, {"sent": 0, "ok": 0}, []
        resident = []
        while turn < count:
            under = load.Open(there.port, LOAD, 2000, 20)
            while under.process.poll() is None and turn < count:
                turn += 1
                there.assign(units(turn))
                there.applied()
                if turn % max(count // 10, 1) == 0:
                    resident.append(there.resident_mib())
            met = under.met()
            p99.append(met["p99"])
            totals = {key: totals[key] + met[key] for key in totals}
        figures.add("no swaps, at 2000/s: p99", before["p99"], "ms")
        figures.add(f"{turn} swaps: p99, median of runs of 20 s", statistics.median(p99), "ms", before["p99"] * 1.5)
        figures.add(f"{turn} swaps: requests sent", totals["sent"], "requests")
        figures.add(f"{turn} swaps: requests that failed", totals["sent"] - totals["ok"], "requests", 0)
        figures.add("resident after a tenth of them", resident[0], "MiB")
        figures.add("resident after all of them", resident[-1], "MiB", resident[0] * 1.1)


PARTS = {
    "in-process": lambda figures, arguments: in_process.run(figures),
    "sockets": lambda figures, arguments: sockets(figures, arguments.rounds),
    "memory": lambda figures, arguments: memory(figures),
    "neighbours": lambda figures, arguments: neighbours(figures),
    "swaps": lambda figures, arguments: swaps(figures, arguments.swaps),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of the sockets; medians of these")
    parser.add_argument("--swaps", type=int, default=10_000)
    parser.add_argument("--only", choices=list(PARTS), action="append")
    arguments = parser.parse_args()
    figures = Figures()
    for name, measure in PARTS.items():
        if not arguments.only or name in arguments.only:
            figures.part = name
            print(f"--- {name}", flush=True)
            # What this script does itself takes nothing from the core that serves.
            os.sched_setaffinity(0, range(os.cpu_count()) if name == "in-process" else {int(LOAD)})
            measure(figures, arguments)
            figures.write()
    return 0 if all(row["ok"] for row in figures.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
