"""Load: as fast as it goes (wrk), or at a rate that does not wait for answers (vegeta)."""

import json
import os
import re
import subprocess

import node

HEADERS = {
    # As wrk spells it: it would add its own otherwise, and two hosts are refused.
    "Host": node.HOST,
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "accept": "text/html,application/xhtml+xml,*/*;q=0.8",
    "accept-encoding": "gzip, deflate, br",
    "accept-language": "en-GB,en;q=0.5",
    "cookie": "session=0123456789abcdef0123456789abcdef; theme=dark",
    "x-real-ip": "203.0.113.7",
    "x-trace": "7f9c24e5-1b1b-4c6a-9a59-5b3d0a8c1f00",
}


def closed(port, core, connections=16, seconds=3):
    """Requests a second with so many connections, each of which asks as soon as it is answered."""
    headers = [part for name, value in HEADERS.items() for part in ("-H", f"{name}: {value}")]
    command = ["taskset", "-c", core, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", *headers, f"http://127.0.0.1:{port}/shop"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise RuntimeError(f"not all was answered:\n{out}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])


class Open:
    """Load at a rate, begun at once; what it met, when asked."""

    def __init__(self, port, core, rate, seconds, path="/shop", headers=None):
        lines = [f"GET http://127.0.0.1:{port}{path}", *(f"{name}: {value}" for name, value in (HEADERS | (headers or {})).items())]
        vegeta = node.cache() / "bench/bin/vegeta"
        attack = f"{vegeta} attack -rate={rate}/s -duration={seconds}s -workers=64 -max-workers=512 -timeout=5s | {vegeta} report -type=json"
        self.process = subprocess.Popen(["taskset", "-c", core, "bash", "-c", attack], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env=os.environ | {"GOMAXPROCS": "1"})
        self.process.stdin.write(("\n".join(lines) + "\n").encode())
        self.process.stdin.close()

    def met(self):
        report = json.loads(self.process.stdout.read())
        self.process.wait()
        codes = report["status_codes"]
        return {"sent": report["requests"], "ok": codes.get("200", 0), "codes": codes, "rate": report["rate"],
                "p50": report["latencies"]["50th"] / 1e6, "p99": report["latencies"]["99th"] / 1e6}
