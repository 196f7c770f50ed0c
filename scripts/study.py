#!/usr/bin/env python3
"""From the folder of a study to the tables of docs/study.md.

    study.py collect runs/study     examples/study: study.json without paths of this machine, metrics.json of every finished run
    study.py tables [--check]       rewrites the tables of docs/study.md from examples/study

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
            metrics = json.loads((study / cell["folder"] / "metrics.json").read_text())
            (target / "metrics.json").write_text(json.dumps(metrics, separators=(",", ":")) + "\n")
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / "study.json").write_text(json.dumps(index, indent=1) + "\n")


def shown(scores, name):
    value, low, high = (scores.get(name + end) for end in ("", "_low", "_high"))
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None else "")


def scores_of(cell):
    return json.loads((KEPT / cell["folder"] / "metrics.json").read_text())


def is_cross(cell):
    return cell["protocol"].startswith("cross-cell")


def markdown(rows):
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def runs(cells):
    """One line for each run: the protocols of a source in the order of the study, the models of a protocol below each other."""
    head = ["protocol", "model", "trained on", "test pairs (positive)", "base rate", "AUPR", "AUROC", "lookup: AUPR", "AUROC",
            "distance: AUPR"]
    rows = [head, ["---"] * 2 + ["--:"] * 8]
    order = list(dict.fromkeys(cell["protocol"] for cell in cells))
    for cell in sorted(cells, key=lambda cell: order.index(cell["protocol"])):
        scores, base = scores_of(cell), scores_of(cell)["baselines"]
        name = cell["model"] + ("" if cell["control"] == "none" else f", {cell['control']}")
        protocol = f"`{cell['protocol']}`" + (" **LEAKY**" if scores["leaky"] else "")
        seen = f"{cell['samples_seen']:,}" if cell["samples_seen"] else f"all, {cell['folds']} folds"
        rows.append([protocol, name, seen, f"{scores['n']:,} ({scores['positives']:,})", f"{scores['base_rate']:.3f}",
                     shown(scores, "aupr"), shown(scores, "auroc"), shown({"aupr": base["lookup"]["aupr"]}, "aupr"),
                     shown({"auroc": base["lookup"]["auroc"]}, "auroc"),
                     shown({"aupr": (base["distance"] or {}).get("aupr")}, "aupr")])
    return markdown(rows)


def matrix(cells):
    """The lines that trained across, the tested line down; AUROC, because base rates differ."""
    lines = list(dict.fromkeys(cell["cell_line"] for cell in cells))
    rows = [["tested"] + lines + ["all others", "base rate", "distance"], ["---"] + ["--:"] * (len(lines) + 3)]
    for line in lines:
        of = {tuple(cell["trained_on"]): scores_of(cell) for cell in cells if cell["cell_line"] == line}
        row = [shown({"auroc": of[(other,)]["auroc"]}, "auroc") if (other,) in of else "" for other in lines]
        others = next((s for key, s in of.items() if len(key) > 1), None)
        some = next(iter(of.values()))
        distance = (some["baselines"]["distance"] or {}).get("auroc")
        rows.append([line] + row + [shown(others or {}, "auroc"), f"{some['base_rate']:.3f}", shown({"auroc": distance}, "auroc")])
    return markdown(rows)


def table():
    index = json.loads((KEPT / "study.json").read_text())
    cells, text = index["cells"], []
    done = [cell for cell in cells if cell["state"] == "done"]
    for source in dict.fromkeys(cell["dataset"] + " " + cell["cell_line"] for cell in done if not is_cross(cell)):
        of = [cell for cell in done if not is_cross(cell) and cell["dataset"] + " " + cell["cell_line"] == source]
        text += [f"### {source.removesuffix(' all')}", runs(of)]
    crossed = [cell for cell in done if is_cross(cell)]
    for model, source in dict.fromkeys((cell["model"], cell["dataset"]) for cell in crossed):
        of = [cell for cell in crossed if (cell["model"], cell["dataset"]) == (model, source)]
        text += [f"### {source}: {model} trained on one cell line (across), tested on another (down), AUROC", matrix(of)]
    count = {state: sum(cell["state"] == state for cell in cells) for state in ("pending", "failed", "no_data")}
    hours = sum(cell["seconds"] for cell in done) / 3600
    text.append(f"{len(cells)} cells: {len(done)} done in {hours:.1f} hours, {count['pending']} not run, {count['failed']} failed, "
                f"{count['no_data']} without data here. epi-engine {index['version']}, {index['device'].split(';')[0]}, begun "
                f"{index['started']}: `{index['command']}`. Intervals are 95 %; `metrics.json` of each run names what they resample.")
    return "\n\n".join(text)


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
