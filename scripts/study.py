#!/usr/bin/env python3
"""From the folder of a study to the figures of docs/study.md.

    study.py collect runs/study     examples/study: study.json without paths of this machine, metrics.json of every finished run
    study.py tables [--check]       rewrites the table of docs/study.md from examples/study

Needs nothing but Python 3.8.
"""
import argparse
import json
import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
KEPT = ROOT / "examples" / "study"
PAGE = ROOT / "docs" / "study.md"
BEGIN, END = "<!-- study:begin -->", "<!-- study:end -->"


def collect(study):
    index = json.loads((study / "study.json").read_text())
    # What a reader elsewhere can use: names of files, not where they lay.
    words = index["command"].split()
    index["command"] = " ".join([pathlib.Path(words[0]).name] + [
        "DIR" if before == "--data-dir" else word for before, word in zip(words, words[1:])])
    if KEPT.exists():
        shutil.rmtree(KEPT)
    for cell in index["cells"]:
        if "data" in cell:
            cell["data"] = pathlib.PurePath(cell["data"]).name
        if cell["state"] == "no_data":
            cell["reason"] = "no data here: " + pathlib.PurePath(cell["reason"].split(" is missing")[0]).name + " is missing"
        if cell["state"] == "done":
            target = KEPT / cell["folder"]
            target.mkdir(parents=True)
            shutil.copy(study / cell["folder"] / "metrics.json", target)
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / "study.json").write_text(json.dumps(index, indent=1) + "\n")


def shown(scores, name):
    value, low, high = (scores.get(name + end) for end in ("", "_low", "_high"))
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None else "")


def row(cell):
    name = cell["model"] + ("" if cell["control"] == "none" else f", {cell['control']}")
    source = cell["dataset"] + ("" if cell["cell_line"] == "all" else f" {cell['cell_line']}")
    if cell["protocol"].startswith("cross-cell"):
        source += " from " + "+".join(cell["trained_on"])
    head = [name, source, cell["protocol"]]
    if cell["state"] != "done":
        return head + [cell["state"].replace("_", " ").replace("no data", "no data here")] + [""] * 6
    scores = json.loads((KEPT / cell["folder"] / "metrics.json").read_text())
    base = scores["baselines"]
    distance = base["distance"] or {}
    head[2] += " **LEAKY**" if scores["leaky"] else ""
    seen = f"{cell['samples_seen']:,}" if cell["samples_seen"] else "all"
    return head + [seen, f"{scores['n']:,} ({scores['positives']:,})", f"{scores['base_rate']:.3f}", shown(scores, "aupr"),
                   shown(scores, "auroc"), shown(base["lookup"], "aupr"), shown(distance, "aupr")]


def table():
    index = json.loads((KEPT / "study.json").read_text())
    cells = index["cells"]
    shown_cells = [cell for cell in cells if cell["state"] in ("done", "failed", "interrupted", "running")]
    head = ["model", "pairs", "protocol", "samples trained", "test pairs (positive)", "base rate", "AUPR", "AUROC",
            "element lookup, AUPR", "distance, AUPR"]
    rows = [head, ["---"] * 3 + ["--:"] * 7] + [row(cell) for cell in shown_cells]
    count = {state: sum(cell["state"] == state for cell in cells) for state in ("done", "pending", "no_data")}
    text = "\n".join("| " + " | ".join(r) + " |" for r in rows)
    return (f"{text}\n\n{len(cells)} cells: {count['done']} done, {count['pending']} not run, {count['no_data']} without data "
            f"here. epi-engine {index['version']}, {index['device'].split(';')[0]}, begun {index['started']}: "
            f"`{index['command']}`. Intervals are 95 %; `metrics.json` of each run names their unit.")


def tables(check):
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    new = before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1]
    if check and new != text:
        sys.exit(f"{PAGE}: the table is not that of {KEPT}; run scripts/study.py tables")
    PAGE.write_text(new)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("collect").add_argument("study", type=pathlib.Path)
    commands.add_parser("tables").add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.command == "collect":
        collect(args.study)
    else:
        tables(args.check)


main()
