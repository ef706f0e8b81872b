"""A dataplane that serves hand-written files, for measurements."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import urllib.request

HOST = "bench.example"
LIMITS = {"cpuMs": 50, "wallMs": 1000, "memoryBytes": 32 << 20}


def cache():
    return pathlib.Path(os.environ.get("SLUICE_CACHE", pathlib.Path.home() / ".cache/sluice"))


def guest(name, salt=None):
    """The bytes of a guest of `examples/`; another salt makes another artifact of the same code."""
    wasm = (cache() / "guests" / f"{name}.wasm").read_bytes()
    if salt is not None:
        custom = bytes([4]) + b"salt" + salt.encode()
        wasm += bytes([0, len(custom)]) + custom
    return wasm


def worker(name, wasm, *, path="/*", order=0, reuse=None, on_failure="closed", limits=LIMITS):
    content = {
        "chain": {"stage": "transform", "order": order},
        "match": [{"paths": [path]}],
        "limits": limits,
        "onFailure": on_failure,
    }
    if reuse:
        content["instances"] = {"reuse": reuse, "maxAgeMs": 3_600_000}
    artifact = {"digest": hashlib.sha256(wasm).hexdigest(), "size": len(wasm)}
    return {"format": 1, "kind": "Worker", "name": name, "artifact": artifact,
            "staging": {"worker": content}, "production": {"worker": content}}, wasm


def routes(upstream):
    target = {"url": f"http://{upstream}", "connectTimeoutMs": 1000, "responseTimeoutMs": 30000}
    content = {"routes": {"hosts": [HOST], "rules": [{"paths": ["/*"], "upstream": target}]}}
    return {"format": 1, "kind": "Routes", "name": "bench", "staging": content, "production": content}, None


def digest(revision):
    canonical = json.dumps(revision, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Node:
    """A dataplane process on one core, with what it is given."""

    def __init__(self, port, core, threads=1):
        self.port, self.admin = port, port + 1
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="sluice-bench-"))
        (self.dir / "revisions").mkdir()
        self.core, self.threads, self.generation, self.process = core, threads, 0, None

    def assign(self, units):
        """Writes what is to run, as one change."""
        self.generation += 1
        entries = []
        for revision, wasm in units:
            name = digest(revision)
            (self.dir / "revisions" / f"{name[:16]}.json").write_text(json.dumps(revision))
            if wasm is not None:
                (self.dir / "revisions" / f"{revision['artifact']['digest'][:16]}.wasm").write_bytes(wasm)
            unit = f"{revision['kind']}/team/{revision['name']}"
            entries.append(f"{unit} since={self.generation} revision={name} stable=same")
        assignment = {"format": 1, "environment": "production", "generation": self.generation,
                      "stages": ["edge", "security", "transform", "route"], "entries": "\n".join(sorted(entries))}
        aside = self.dir / "assignment.aside"
        aside.write_text(json.dumps(assignment))
        aside.rename(self.dir / "assignment.json")

    def start(self):
        binary = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", cache() / "target")) / "dist/sluice-dataplane"
        flags = ["--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin}", "--threads", str(self.threads),
                 "--allow-loopback", "--log", "warn", "--state-dir", self.dir / "state",
                 "--assignment-file", self.dir / "assignment.json", "--revisions-dir", self.dir / "revisions"]
        log = open(self.dir / "log", "w")
        self.process = subprocess.Popen(["taskset", "-c", self.core, binary, *flags], stdout=log, stderr=log)
        self.applied()
        return self

    def applied(self, seconds=600):
        """Waits until all that is assigned is in force."""
        wait(lambda: self.report().get("appliedGeneration") == self.generation, seconds, "the assignment is applied")
        exceptions = self.report().get("exceptions")
        if exceptions:
            raise RuntimeError(f"the node refuses something: {exceptions}")

    def report(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/report", timeout=10) as response:
            return json.load(response)

    def resident_mib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        return kib / 1024

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
        shutil.rmtree(self.dir)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def wait(condition, seconds, what):
    """Until it is so. What cannot be asked yet is not so yet."""
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        if time.monotonic() > end:
            raise RuntimeError(f"not in {seconds} s: {what}")
        time.sleep(0.02)
