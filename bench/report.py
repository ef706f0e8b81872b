#!/usr/bin/env python3
"""Writes what out/bench.json holds into docs/benchmarks.md, between the two lines that say so."""

import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- made by `make bench` -->\n", "<!-- end of what `make bench` made -->\n"


def text(figures):
    lines = ["```text", figures["machine"]]
    for row in figures["rows"]:
        goal = "" if row["goal"] is None else f"goal {row['goal']:g}: {'met' if row['ok'] else 'MISSED'}"
        lines.append(f"  {row['name']:70} {row['value']:10.2f} {row['unit']:8} {goal}".rstrip())
    return "\n".join([*lines, "```", ""])


def main():
    document = ROOT / "docs/benchmarks.md"
    figures = json.loads(pathlib.Path("out/bench.json").read_text())
    before, rest = document.read_text().split(BEGIN)
    document.write_text(before + BEGIN + text(figures) + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
