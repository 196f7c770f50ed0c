#!/usr/bin/env python3
"""Predicted times of the kernels on cards that nobody has measured yet, from the kernels' own machine code.

    predict.py [--check]          rewrites the predictions in docs/benchmarks.md

Needs the program (ENGINE, default target/release/epi-engine) built with nvcc, the images of that build (IMAGES, default: the
newest target/*/build/epi-engine-*/out/cuda) and cuobjdump with nvdisasm (`make predictions` fetches them).

`bench kernels --plan` lists the launches of every primitive of an EPSAT step of 64. Of each kernel the loop with the most
arithmetic is counted, instruction by instruction. A launch takes no less than the longest of
  issue    its instructions, one a cycle in each of the four quarters of a multiprocessor,
  tensor   its mma instructions, at the data sheet's rate (H100: at 62 % of it, which is what mma.sync reaches),
  memory   the bytes that it must move, at 85 % of the data sheet's rate,
  shared   the look-ups of the DNA block, 128 bytes a cycle of a multiprocessor,
all but memory on the multiprocessor that gets most of its blocks; recurrences take their instructions plus a fixed latency a
step. Not in the model: shared memory of other kernels, bank conflicts, stalls that other warps do not hide, caches. Expect a card
to need 1.1 to 1.5 times as much.
"""
import argparse
import collections
import json
import math
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- predicted:begin -->", "<!-- predicted:end -->"
LAUNCH = 1.5e-6  # seconds between two kernels of a graph
STEP_LATENCY = 190  # cycles of a recurrence step that nothing hides: barrier, shared memory, shuffles, activations

# sms, Hz, bytes/s, tensor cycles of an m16n8k16 in a quarter, warps and blocks a multiprocessor, its shared memory
Card = collections.namedtuple("Card", "name arch sms clock memory mma warps blocks shared")
CARDS = [Card("RTX 3090", "sm_86", 82, 1.695e9, 936e9, 32.0, 48, 16, 100 << 10),
         Card("H100", "sm_90", 132, 1.83e9, 3350e9, 4.0 / 0.62, 64, 32, 228 << 10)]

# An EPSAT training step in primitives; convolutions at 3000 bases, both windows are 5000.
STEP = {"dna_conv": 5 / 3, "dna_conv_backward": 5 / 3, "concat_length": 1, "slice_length": 2, "lstm": 2, "lstm_backward": 2,
        "dropout": 2, "linear_qkv": 1, "linear_qkv_backward_input": 1, "linear_qkv_backward_weight": 1, "attention": 1,
        "attention_backward": 1, "linear_mix": 1, "linear_mix_backward_input": 1, "linear_mix_backward_weight": 1,
        "relu_backward": 1, "position_sum": 1, "position_sum_backward": 1, "readout_norm": 1, "readout_norm_backward": 1,
        "class_loss": 1, "class_loss_backward": 1, "finish_gradients": 1, "adam": 1}

# The other networks' steps, from the primitives that bound them. EPLAE: three stages a window and their mirror; the case of a
# convolution is the second stage of the longer window, its times here count positions. Its optimiser is SPEID's by parameters.
PAIR, STAGES = 5 / 3, 5 / 3 * (1 + 1 / 2)
OTHERS = {
    "SPEID": {"speid_dna_conv": PAIR, "speid_dna_conv_backward": PAIR, "speid_batch_norm": 1, "speid_batch_norm_backward": 1,
              "speid_dropout": 2, "speid_lstm": 1, "speid_lstm_backward": 1, "speid_linear_dense": 1,
              "speid_linear_dense_backward_input": 1, "speid_linear_dense_backward_weight": 1, "speid_l2_penalty": 1,
              "speid_finish_gradients": 1, "speid_adam": 1},
    "EPLAE": {"eplae_dna_conv1d": PAIR, "eplae_dna_conv1d_backward_weight": PAIR, "eplae_conv1d": 2 * STAGES,
              "eplae_conv1d_backward_input": 2 * STAGES, "eplae_conv1d_backward_weight": 2 * STAGES,
              "eplae_conv_transpose1d_last": PAIR, "eplae_conv_transpose1d_last_backward_input": PAIR,
              "eplae_conv_transpose1d_last_backward_weight": PAIR, "eplae_linear_encode": 1, "eplae_linear_encode_backward_input": 1,
              "eplae_linear_encode_backward_weight": 1, "eplae_linear_decode": 1, "eplae_linear_decode_backward_input": 1,
              "eplae_linear_decode_backward_weight": 1, "eplae_leaky_relu_backward": PAIR / 4,
              "eplae_swap_trailing": 4 * PAIR, "eplae_reconstruction": PAIR, "eplae_reconstruction_backward": PAIR,
              "speid_finish_gradients": 171_398_410 / 19_848_603, "speid_adam": 171_398_410 / 19_848_603},
}


# ------------------------------------------------------------ machine code ---
class Kernel:
    """Instructions, and the loop that does the work."""

    def __init__(self, name, code, registers, shared):
        self.name, self.registers, self.shared = name, registers, shared
        # What a branch back across the end of the program leads from is code set aside for the rare case, no loop.
        ends = [at for at, op, _ in code if op == "EXIT"]
        loops = [(int(m.group(1), 16), at) for at, op, args in code
                 for m in [re.search(r"0x([0-9a-f]+)", args)] if op.startswith("BRA") and m and int(m.group(1), 16) < at]
        loops = [(lo, hi) for lo, hi in loops if not any(lo <= at <= hi for at in ends)]
        inside = lambda lo, hi: [op for at, op, _ in code if lo <= at <= hi]
        work = lambda ops: sum(op.startswith(("FFMA", "HMMA")) for op in ops)
        outer = max(loops, key=lambda l: (work(inside(*l)), l[1] - l[0]), default=(0, code[-1][0]))
        inner = [l for l in loops if outer[0] <= l[0] and l[1] <= outer[1] and l != outer and work(inside(*l))]
        nested = [op for l in inner for op in inside(*l)]
        ops = inside(*outer)
        self.issue, self.mma = len(ops) - len(nested), sum(op.startswith("HMMA") for op in ops)
        self.ffma = work(ops) - self.mma - work(nested)
        self.inner_issue, self.inner_ffma = len(nested), work(nested)
        wide = lambda ops: sum(op.startswith("LDS.128") for op in ops)
        self.wide, self.inner_wide = wide(ops) - wide(nested), wide(nested)

    def share(self):
        """Multiply-adds among the instructions of the working loop."""
        return (self.ffma + self.inner_ffma) / max(1, self.issue + self.inner_issue)


def kernels(images, arch):
    found = {}
    for image in sorted(images.glob("*.fatbin")):
        dump = lambda what: subprocess.run(["cuobjdump", "-arch", arch, what, str(image)], check=True, capture_output=True,
                                           text=True).stdout
        usage = dict(re.findall(r"Function (\S+):\s*\n\s*(REG:.*)", dump("-res-usage")))
        name, code = None, {}
        for line in dump("-sass").splitlines():
            start = re.match(r"\s*Function : (\S+)", line)
            op = re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?(\S+)\s*(.*?);", line)
            if start:
                name = start.group(1)
                code[name] = []
            elif op and name and not op.group(3).startswith("NOP"):
                what = op.group(3) + "?" * (op.group(3) == "EXIT" and op.group(2) is not None) # an EXIT that not all threads take
                code[name].append((int(op.group(1), 16), what, op.group(4)))
        for name, ops in code.items():
            number = lambda what: int(re.search(what + r":(\d+)", usage.get(name, "")).group(1))
            found[name] = Kernel(name, ops, number("REG"), number("SHARED"))
    return found


# ----------------------------------------------------------------- a launch ---
def resident(card, kernel, launch):
    """Blocks that fit a multiprocessor."""
    warps = -(-launch["threads"] // 32)
    registers = 65536 // (warps * (-(-kernel.registers * 32 // 256) * 256))
    room = kernel.shared + launch["shared"] + 1024
    return max(1, min(card.blocks, card.warps // warps, registers, card.shared // room))


def stretch(card, launch):
    """Blocks of the busiest multiprocessor over those of an average one."""
    blocks = math.prod(launch["blocks"])
    return -(-blocks // card.sms) * card.sms / blocks


def operands(kernel):
    """Bytes of an element of A and of B as a product reads them."""
    if not kernel.startswith("gemm_bf16"):
        return 4, 4
    if kernel.endswith("_packed"):
        return 2, 2
    return 2 if kernel.endswith(("_mixed", "_beside")) else 4, 4 if "_tn_" in kernel else 2


def moved(launch):
    """Bytes of a launch whose parameters tell them; None otherwise."""
    p, kernel = launch["params"], launch["kernel"]
    if kernel == "gemm_reduce":
        m, n, k = p[:3]
        return 4 * m * (n + p[15]) * -(-k // p[6]) + 4 * m * n * (1 + p[8])
    if kernel.startswith("gemm_"):
        (m, n, k), (a, b) = p[:3], operands(kernel)
        added = p[8] if launch["blocks"][2] == 1 else 0  # C is read as well
        return p[10] * (a * m * k + b * k * n) + 4 * m * (n + p[15]) * (launch["blocks"][2] + added)
    if kernel.startswith(("conv1d_bf16_rows", "conv1d_bf16_weight")):
        (m, n, k), rows, sample = p[:3], p[16], p[18]
        windows = m if "rows" in kernel else k  # of which those of a sequence share its elements
        result = 4 * m * n * launch["blocks"][2]
        return 4 * windows // rows * sample + (2 * n * k if "rows" in kernel else 4 * m * k) + result * (2 if launch["signs"] else 1)
    if kernel == "conv1d_pack_bf16":
        return p[0] * (4 * p[1] * p[2] + 2 * p[7])
    if kernel == "conv1d_weight_reduce":
        return 4 * p[2] * p[3] * p[4] * (-(-p[0] * p[7] // p[8]) + 2)
    if kernel == "conv1d_fold":
        return 4 * p[0] * p[2] * (p[7] * p[4] + p[1])
    if kernel == "dna_one_hot":
        return 16 * p[0] * p[1]
    if kernel == "to_bf16_rows":
        return p[0] * (4 * p[1] + 2 * p[3])
    if kernel == "column_sum_partial":
        return 4 * p[0] * p[1]
    if kernel.startswith("attention_"):
        values = p[6] * p[7] * p[8] * p[9]  # of an output
        each = {"forward": 16, "backward_query": 18, "backward_key_value": 22, "prepare": 10, "delta": 8}
        kept = p[6] * p[8] * p[7] ** 2 // 8 if "bf16_backward" in kernel and p[3] else 0  # dropout bits, written and read once
        return next((count * values + kept for what, count in each.items() if what in kernel), None)
    if kernel.startswith("dna_conv_forward"):
        return 5 * p[6] * p[13] * p[9]
    if kernel in ("fill", "copy"):
        return p[0] * (1 if kernel == "fill" else 2)
    return None


def halves(p):
    """Steps of 16 that the chunks of a tensor-core product take, those of all its chunks together."""
    k, chunk = p[2], p[6]
    return p[10] * (k // chunk * -(-chunk // 16) + -(-(k % chunk) // 16))


def seconds(card, kernel, launch):
    """Lower bound of one launch, and what sets it; None where only the primitive's own cost can tell."""
    p, name = launch["params"], launch["kernel"]
    if name in ("fill", "copy"):
        return moved(launch) / (0.85 * card.memory), "memory"
    warps, blocks = -(-launch["threads"] // 32), math.prod(launch["blocks"])
    quarters = 4 * card.sms
    if name.startswith("lstm_resident"):
        cycles = p[1] * (kernel.issue * -(-warps // 4) + STEP_LATENCY)
        waves = math.ceil(blocks / (card.sms * resident(card, kernel, launch)))
        return waves * cycles / card.clock, "recurrence"
    memory = moved(launch)
    times = {"memory": memory / (0.85 * card.memory)} if memory else {}
    if re.match("gemm_bf16|conv1d_bf16_(rows|weight)", name):
        turns = halves(p) / 2 * blocks / launch["blocks"][2] * warps
        times["issue"], times["tensor"] = turns * kernel.issue, turns * kernel.mma * card.mma
    elif name.startswith("gemm_") and name != "gemm_reduce":
        times["issue"] = p[0] * p[1] * p[2] / 32 / kernel.share()
    elif re.match(r"dna_conv_forward_\d+_\d+", name):  # a task is 16 pooled positions of 8 channels, 4 multiply-adds a position
        tasks = -(-p[6] * p[13] // 16) * -(-p[9] // 8)
        turns = (4 * p[11] - kernel.ffma) / max(1, kernel.inner_ffma)
        times["issue"] = tasks * (kernel.issue + turns * kernel.inner_issue)
        times["shared"] = 4 * tasks * 4 * (kernel.wide + turns * kernel.inner_wide)  # of a quarter, which has one in four cycles
    elif re.match(r"attention_bf16_(forward|backward)", name):
        turns = -(-p[7] // 64) * -(-p[7] // 16) * p[6] * p[8]  # a warp has 16 rows; those without any do nothing
        times["issue"], times["tensor"] = turns * kernel.issue, turns * kernel.mma * card.mma
    elif re.match(r"attention_(forward|backward)", name):
        turns = -(-p[7] // 64) * blocks * warps
        size = 32 if name.endswith("32") else 64
        products = 2 if "forward" in name else 3 if "query" in name else 4
        inner = products * 64 * 64 * size / warps / 32 / max(1, kernel.inner_ffma) * kernel.inner_issue
        times["issue"] = turns * (kernel.issue + inner)
    if not times:
        return None
    for what in ("issue", "tensor", "shared"):
        if what in times:
            times[what] *= stretch(card, launch) / quarters / card.clock
    what = max(times, key=times.get)
    return times[what], what


def predict(card, code, case):
    """Seconds of a primitive, and what sets most of them."""
    total, by, rest = 0.0, collections.Counter(), False
    for launch in case["launches"]:
        # Input gradients of convolutions go on through LeakyReLU and read what it gave.
        launch["signs"] = launch["kernel"].startswith("conv1d_bf16_rows") and case["name"].endswith("backward_input")
        total += LAUNCH
        by["launches"] += LAUNCH
        found = seconds(card, code.get(launch["kernel"]), launch)
        if found is None:
            rest = True
            continue
        total += found[0]
        by[found[1]] += found[0]
    own = r"gemm_(?!reduce)|conv1d_bf16_(rows|weight)|attention_.*ward|lstm_resident|dna_conv_forward_\d+_\d+"
    if rest and not any(re.match(own, launch["kernel"]) for launch in case["launches"]):
        # No launch with a formula of its own: what the contract asks for, every multiply-add an instruction.
        main = max((code[l["kernel"]] for l in case["launches"] if l["kernel"] in code), key=lambda k: k.ffma, default=None)
        share = max(0.1, main.share()) if main else 0.1
        arithmetic = case["flops"] / 2 / 32 / share / (4 * card.sms) / card.clock
        memory = case["bytes"] / (0.85 * card.memory)
        total += max(arithmetic, memory)
        by["memory" if memory > arithmetic else "issue"] += max(arithmetic, memory)
    return total, by.most_common(1)[0][0]


# ------------------------------------------------------------------- tables ---
def plan(engine, card, precision):
    out = subprocess.run([engine, "bench", "kernels", "--plan", str(card.sms), "--precision", precision, "--json"], check=True, capture_output=True, text=True).stdout
    return {case["name"]: case for case in json.loads(out)}


def table(engine, images):
    code = {card.name: kernels(images, card.arch) for card in CARDS}
    times = {}
    for card in CARDS:
        for precision in ("f32", "bf16"):
            for name, case in plan(engine, card, precision).items():
                times[name, card.name, precision] = predict(card, code[card.name], case)
    columns = [(card.name, precision) for card in CARDS for precision in ("f32", "bf16")]
    lines = ["| primitive, times a step | " + " | ".join(f"{c}, {p}, ms" for c, p in columns) + " |",
             "| --- |" + " --: |" * len(columns)]
    total = collections.Counter()
    for name, count in STEP.items():
        cells = []
        for column in columns:
            ms, why = times[(name, *column)]
            total[column] += 1e3 * ms * count
            cells.append(f"{1e3 * ms:.3g} ({why})")
        often = f", {count:.3g} x" if count != 1 else ""
        lines.append(f"| `{name}`{often} | " + " | ".join(cells) + " |")
    lines.append("| **whole step of 64** | " + " | ".join(f"**{total[c]:.2f}**" for c in columns) + " |")
    lines += ["", "| the other networks, a step of 64 | " + " | ".join(f"{c}, {p}, ms" for c, p in columns) + " | what takes most of it |",
              "| --- |" + " --: |" * len(columns) + " --- |"]
    for network, parts in OTHERS.items():
        cost = lambda name, column: 1e3 * times[(name, *column)][0] * parts[name]
        cells = [f"**{sum(cost(name, column) for name in parts):.2f}**" for column in columns]
        most = sorted(parts, key=lambda name: -cost(name, columns[1]))[:3]
        lines.append(f"| {network} | " + " | ".join(cells) + " | " + ", ".join(
            f"`{name}` {cost(name, columns[1]):.3g}" for name in most) + " |")
    lines += ["", "| recurrence, a step of time | " + " | ".join(f"{card.name}, µs" for card in CARDS) + " | registers |",
              "| --- | --: | --: | --: |"]
    for name in sorted(n for n in code[CARDS[0].name] if n.startswith(("lstm_resident", "lstm_mma"))):
        warps = 4 if "_mma_" in name else 2 if "_100_" in name else 1  # of the quarter that has most
        cycles = lambda card, kernel: max(kernel.issue, kernel.mma * card.mma) * warps + STEP_LATENCY
        per = [cycles(card, code[card.name][name]) / card.clock * 1e6 for card in CARDS]
        registers = "/".join(str(code[card.name][name].registers) for card in CARDS)
        lines.append(f"| `{name}` | " + " | ".join(f"{us:.2f}" for us in per) + f" | {registers} |")
    return "\n".join(lines)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true", help="only say whether the table is up to date")
    check = options.parse_args().check
    engine = os.environ.get("ENGINE", str(ROOT / "target/release/epi-engine"))
    found = sorted(ROOT.glob("target/*/build/epi-engine-*/out/cuda/gemm.fatbin"), key=lambda p: p.stat().st_mtime)
    images = pathlib.Path(os.environ["IMAGES"]) if "IMAGES" in os.environ else found[-1].parent if found else None
    if images is None:
        sys.exit("no images: build with nvcc first (make cuda-toolchain build)")
    path = ROOT / "docs/benchmarks.md"
    old = path.read_text()
    if BEGIN not in old:
        sys.exit(f"{path} has no line {BEGIN}")
    head, rest = old.split(BEGIN)
    new = head + BEGIN + "\n" + table(engine, images) + "\n" + END + rest.split(END)[1]
    if check:
        sys.exit(0 if new == old else f"{path}: predictions are out of date; run `make predictions`")
    path.write_text(new)


if __name__ == "__main__":
    main()
