#!/usr/bin/env python3
"""Benchmark results: from single JSON documents to one file per device and day, and from those files to tables.

    benchmarks.py collect FILE|DIR ..           writes benches/results/<date>-<device>.json and prints its name
    benchmarks.py tables [--check]              rewrites the tables in README.md and docs/benchmarks.md

`collect` takes what `epi-engine bench step|kernels|data --json`, the stages of gpu_run.sh, torch_kernels.py and the PyTorch peer print.
Needs nothing but Python 3.8.
"""
import argparse
import datetime
import json
import pathlib
import re
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benches" / "results"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


# ---------------------------------------------------------------- collecting ---
def kind_of(doc):
    """What a document is, told from its members."""
    if isinstance(doc, list):
        return "kernels" if doc and "gbytes_s" in doc[0] else None
    for kind, mark in [("stage", "stage"), ("torch", "torch_kernels"), ("peer", "mode"), ("data", "fill"), ("step", "evaluate")]:
        if mark in doc:
            return kind
    return None


def collect(paths):
    """One result document from many single ones."""
    files = []
    for path in map(pathlib.Path, paths):
        files += sorted(path.glob("*.json")) if path.is_dir() else [path]
    result = {"date": datetime.date.today().isoformat(), "device": None, "commit": None, "step": [], "kernels": [],
              "kernels_bf16": [], "data": None, "peer": [], "torch": [],
              "stages": []}
    for file in files:
        take(result, json.loads(file.read_text()), file)
    measured = result["step"] + result["kernels"] + result["kernels_bf16"]
    stages = result["stages"]
    result["commit"] = next((d["commit"] for d in measured), None) or next((s["commit"] for s in stages), None)
    result["device"] = card(stages) or next((d["device"] for d in measured), None)
    if not result["device"]:
        sys.exit("nothing was measured or tested in: " + ", ".join(map(str, files)))
    return {key: value for key, value in result.items() if value}


def take(result, doc, file):
    kind = kind_of(doc)
    if kind is None or "error" in doc:
        print(f"left out {file}: {doc.get('error', 'not a result') if isinstance(doc, dict) else 'not a result'}",
              file=sys.stderr)
    elif kind == "stage":
        info = doc.get("info") or {}
        tests = {key: doc.get(key) for key in ("stage", "status", "date", "seconds", "why", "modules") if key in doc}
        number = int((doc["device"].split(":") + ["0"])[1])
        cards = (info.get("cuda") or {}).get("devices") or []
        on_card = doc["device"].startswith("cuda") and number < len(cards)
        tests["card"] = cards[number]["name"] if on_card else None
        tests["driver"] = (info.get("cuda") or {}).get("driver")
        tests["commit"] = info.get("commit")
        result["date"] = doc["date"]
        result["stages"].append(tests)
        for part in doc.get("step", []) + doc.get("peer", []) + doc.get("torch", []) + [doc.get("kernels"), doc.get("data")]:
            if part:
                take(result, part, file)
        result["kernels_bf16"] += rows_of(doc.get("kernels_bf16"))
    elif kind == "kernels":
        result["kernels"] += rows_of(doc)
    elif kind == "data":
        result["data"] = doc
    else:
        result[kind].append(doc)


def rows_of(doc):
    return doc if isinstance(doc, list) else []


def card(stages):
    return next((s["card"] for s in stages if s.get("card")), None)


def slug(text):
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


# -------------------------------------------------------------------- tables ---
def results():
    """All result documents, oldest first."""
    docs = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
    return sorted(docs, key=lambda doc: doc["date"])


def latest(docs, part):
    """The newest document of each device that has `part`."""
    return {doc["device"]: doc for doc in docs if doc.get(part)}


def table(head, rows, left=2):
    """Markdown; the first `left` columns hold words."""
    align = ["---"] * left + ["--:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, align] + rows)


def number(x, digits=3):
    """`x` with about three digits."""
    if x is None:
        return "–"
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.{digits}g}"


def peer_figures(doc):
    """Training and evaluation of a peer document: the fastest of its settings."""
    runs = [r for r in doc.values() if isinstance(r, dict) and isinstance(r.get("train"), dict)]
    if not runs:
        return None
    best = max(runs, key=lambda r: r["train"]["samples_per_s"])
    train, evaluate = best["train"], best.get("eval") or {}
    memory = train.get("peak_mem_mib") or train.get("peak_rss_mib")
    return train["samples_per_s"], evaluate.get("samples_per_s"), memory


def throughput(docs):
    rows, origins = [], []
    for device, doc in latest(docs, "step").items():
        groups = {}
        origins.append(f"{device}: commit {commits(doc['step'])}, {doc['date']}")
        for step in doc["step"]:
            key = (step["model"], step["batch"], f"epi-engine, {step['precision']}")
            figures = step["train"]["samples_per_s"], step["evaluate"]["samples_per_s"], step.get("peak_memory_mib")
            if "together" in step:
                key = (*key[:2], f"{key[2]}, {step['models']} models at once, together")
                figures = step["together"]["train"], step["together"]["evaluate"], figures[2]
            groups.setdefault(key, []).append(figures)
        for peer in doc.get("peer", []):
            figures = peer_figures(peer)
            if figures:
                key = (peer["model"], peer["batch"], f"PyTorch {peer['torch'].split('+')[0]}, {peer['mode']}")
                groups.setdefault(key, []).append(figures)
        for (model, batch, program), figures in sorted(groups.items()):
            columns = [[f for f in column if f is not None] for column in zip(*figures)]
            medians = [number(statistics.median(c)) if c else "–" for c in columns]
            rows.append([f"{device}, {model.upper()}, batch {batch}", program] + medians)
    if not rows:
        return "Not measured yet."
    head = ["", "program", "training, samples/s", "evaluation, samples/s", "peak memory, MiB"]
    made = f"Medians of interleaved rounds of `scripts/bench_cpu.sh PEER.py` (a card: `run.sh bench peer`). {'; '.join(origins)}."
    return table(head, rows) + "\n\n" + made


def commits(rows):
    """The commits that measured rows carry; + marks a tree that differed from it."""
    return ", ".join(sorted({row["commit"] for row in rows}))


def beside(ours, theirs):
    """PyTorch's time of a primitive, and how many times ours it is."""
    return "–" if theirs is None else f"{number(theirs['ms_median'])} ({number(theirs['ms_median'] / ours['ms_median'], 2)}×)"


def operators(docs):
    parts = []
    for part, precision in [("kernels", "f32"), ("kernels_bf16", "bf16")]:
        for device, doc in latest(docs, part).items():
            torch = {r["name"]: r for run in doc.get("torch", []) if run["precision"] == precision for r in run["torch_kernels"]}
            rows = [[f"`{r['name']}`", r["shape"], number(r["ms_median"]), f"{number(r['ms_min'])} – {number(r['ms_max'])}",
                     number(r["gflops"]), number(r["gbytes_s"]),
                     "–" if r.get("roofline") is None else f"{100 * r['roofline']:.0f} % ({r['bound']})"] for r in doc[part]]
            head = ["primitive", "shape", "ms", "min – max", "GFLOP/s", "GB/s", "of the roofline"]
            if torch:
                head.append("PyTorch, ms")
                for row, r in zip(rows, doc[part]):
                    row.append(beside(r, torch.get(r["name"])))
            parts.append(f"### {device}, {precision}, commit {commits(doc[part])}\n\n" + table(head, rows))
    return "\n\n".join(parts) or "Not measured yet."


def kernels():
    """(file, kernel) of every entry point, as the build finds them."""
    found = []
    for file in sorted((ROOT / "kernels").glob("*.cu")):
        text = file.read_text()
        found += [(file.name, name) for name in re.findall(r"^\s*EPI_KERNEL\((\w+),", text, re.M)]
        for macro, names, body in re.findall(r"^#define (\w+)\((.*?)\)((?:.*\\\n)+.*)$", text, re.M):
            for values in re.findall(rf"^{macro}\((.*)\)$", text, re.M):
                value = dict(zip(names.split(", "), values.split(", ")))
                for pasted in re.findall(r"EPI_KERNEL\((\w+##[\w#]+),", body):
                    found.append((file.name, "".join(value.get(piece, piece) for piece in pasted.split("##"))))
    return found


def passes(docs):
    """kernel -> {card: (commit, date)}: where every test that launched it was last green."""
    passed = {}
    for doc in docs:
        verdicts = {}
        for stage in doc.get("stages", []):
            for module in stage.get("modules", []):
                for kernel in module["kernels"]:
                    where = (stage["card"], stage["commit"], stage["date"])
                    verdicts.setdefault(kernel, {}).setdefault(where, []).append(not module["failed"])
        for kernel, places in verdicts.items():
            for (card_name, commit, date), green in places.items():
                if card_name and all(green):
                    passed.setdefault(kernel, {})[card_name] = (commit, date)
    return passed


def hardware(docs):
    passed, groups = passes(docs), {}
    for file, kernel in kernels():
        places = passed.get(kernel, {})
        verdict = "; ".join(f"{c} → {commit} ({date})" for c, (commit, date) in sorted(places.items()))
        groups.setdefault((file, verdict or "never run on hardware"), []).append(f"`{kernel}`")
    rows = [[f"`{file}`", ", ".join(names), verdict] for (file, verdict), names in groups.items()]
    return table(["file", "kernels", "device → commit last passed"], rows, left=3)


def rewrite(path, body, check):
    """Puts `body` between the markers of `path`; with `check`, only says whether it is there already."""
    text = path.read_text()
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin:
        sys.exit(f"{path.relative_to(ROOT)} has no {BEGIN} .. {END}")
    new = text[: begin + len(BEGIN)] + "\n" + body + "\n" + text[end:]
    if check and new != text:
        sys.exit(f"{path.relative_to(ROOT)} is out of date: make bench-tables")
    if not check:
        path.write_text(new)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect")
    collecting.add_argument("paths", nargs="+")
    collecting.add_argument("--out", help="the file to write")
    commands.add_parser("tables").add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.command == "collect":
        result = collect(args.paths)
        out = pathlib.Path(args.out) if args.out else RESULTS / f"{result['date']}-{slug(result['device'])}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(out)
        return
    docs = results()
    rewrite(ROOT / "README.md", throughput(docs), args.check)
    body = "\n\n".join(["## Whole steps", throughput(docs), "## Primitives", operators(docs), "## Kernels on hardware", hardware(docs)])
    rewrite(ROOT / "docs" / "benchmarks.md", body, args.check)


if __name__ == "__main__":
    main()
