#!/usr/bin/env python3
"""PyTorch's time for the primitives that `epi-engine bench kernels` times, at the same shapes: cuDNN's LSTM and convolutions, SDPA,
cuBLAS on a card, oneDNN and MKL on the CPU. One JSON document, which `benchmarks.py collect` puts beside ours.

    torch_kernels.py [--device cpu|cuda] [--precision f32|bf16] [--batch 64] [--seconds 0.5] [--filter NAME]

Each execution is timed alone, between two synchronisations, after 128 MiB of other memory were written; the median of at least 5.
With bf16, inputs of products are bf16 tensors, as under autocast, conversions not counted. Needs torch and nothing else.
"""
import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

WINDOWS = (3000, 2000)
KERNEL, POOL, CHANNELS, HIDDEN, HEADS, HEAD = 13, 6, 200, 100, 8, 32  # of EPSAT
SPEID = {"kernel": 40, "pool": 20, "hidden": 50, "dense": 800}
EPLAE = {"filters": 256, "units": 512}


def with_backward(name, forward, inputs, weights=(), what=""):
    """Cases of a differentiable function: forward, and backward to inputs and weights together or each alone."""
    leaves = list(inputs) + list(weights)
    for leaf in leaves:
        leaf.requires_grad_(True)
    out = forward()
    gradient = torch.randn_like(out)
    cases = [(name, forward, what)]
    backward = lambda to: lambda: torch.autograd.grad(out, to, gradient, retain_graph=True)
    if weights and inputs:
        cases.append((name + "_backward_input", backward(list(inputs)), what))
        cases.append((name + "_backward_weight", backward(list(weights)), what))
    else:
        cases.append((name + "_backward", backward(leaves), what))
    return cases


def lstm(name, make, batch, length, width, hidden):
    layer = torch.nn.LSTM(width, hidden, batch_first=True, bidirectional=True).to(make(1))
    x = make(batch, length, width).requires_grad_(True)
    gradient = make(batch, length, 2 * hidden)
    out = layer(x)[0]
    leaves = [x, *layer.parameters()]

    def evaluate():
        with torch.no_grad():
            layer(x)

    return [(name, lambda: layer(x), "nn.LSTM"), (name + "_evaluate", evaluate, "nn.LSTM"),
            (name + "_backward", lambda: torch.autograd.grad(out, leaves, gradient, retain_graph=True), "nn.LSTM")]


def linear(name, make, rows, inputs, outputs):
    x, w = make(rows, inputs), make(outputs, inputs)
    return with_backward(name, lambda: F.linear(x, w), [x], [w], "linear")


def conv(name, make, batch, length, inputs, outputs, kernel, **how):
    x, w = make(batch, inputs, length), make(outputs, inputs, kernel)
    return with_backward(name, lambda: F.conv1d(x, w, **how), [x], [w], "conv1d")


def cases(batch, make, plain):
    """(primitive, function, what of PyTorch does it); made one after the other, so that memory is given back. `make`: inputs of
    products; `plain`: everything else."""
    steps = sum((window - KERNEL + 1) // POOL for window in WINDOWS)
    rows, width = batch * steps, 2 * HIDDEN
    yield lambda: conv("conv1d", make, batch, WINDOWS[0], 4, CHANNELS, KERNEL)
    yield lambda: linear("linear_qkv", make, rows, width, 3 * HEADS * HEAD)
    yield lambda: linear("linear_mix", make, rows, HEADS * HEAD, 100)
    yield lambda: lstm("lstm", make, batch, steps, width, HIDDEN)

    def attention():
        qkv = make(batch, steps, 3 * HEADS * HEAD)

        def forward():
            q, k, v = qkv.view(batch, steps, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
            out = F.scaled_dot_product_attention(q, k, v, dropout_p=0.2)
            return F.relu(out).transpose(1, 2).reshape(batch, steps, HEADS * HEAD)
        return with_backward("attention", forward, [qkv], what="scaled_dot_product_attention, dropout .2, ReLU")
    yield attention

    def normalised():
        x, gamma, beta = plain(batch, CHANNELS, steps), plain(CHANNELS), plain(CHANNELS)
        mean, var = plain(CHANNELS), plain(CHANNELS).abs()
        return with_backward("batch_norm", lambda: F.batch_norm(x, mean, var, gamma, beta, True), [x, gamma, beta], what="batch_norm")
    yield normalised

    def pooled_maxima():
        x = plain(batch, CHANNELS, WINDOWS[0])
        return with_backward("max_pool", lambda: F.max_pool1d(x, POOL), [x], what="max_pool1d")
    yield pooled_maxima

    def element_wise():
        x, y = plain(batch, steps, 100), plain(batch, steps, width)
        return [*with_backward("relu", lambda: F.relu(x), [x], what="relu"), ("dropout", lambda: F.dropout(y, 0.2), "dropout")]
    yield element_wise

    def adam(name, count):
        weight = plain(count).requires_grad_(True)
        weight.grad = plain(count)
        fused = torch.optim.Adam([weight], fused=True)
        return [(name, fused.step, "Adam, fused")]

    yield lambda: adam("adam", 685_070)
    pooled = sum((window - SPEID["kernel"] + 1) // SPEID["pool"] for window in WINDOWS)
    yield lambda: lstm("speid_lstm", make, batch, pooled, CHANNELS, SPEID["hidden"])
    yield lambda: linear("speid_linear_dense", make, batch, pooled * 2 * SPEID["hidden"], SPEID["dense"])
    yield lambda: adam("speid_adam", 19_848_603)
    filters, units = EPLAE["filters"], EPLAE["units"]
    yield lambda: conv("eplae_conv1d", make, batch, WINDOWS[0] // 2, filters, filters, KERNEL, stride=2, padding=KERNEL // 2)
    flat = sum(window // 8 for window in WINDOWS) * filters
    yield lambda: linear("eplae_linear_encode", make, batch, flat, units)
    yield lambda: linear("eplae_linear_decode", make, batch, units, flat)


def timed(function, wait, sweep, seconds):
    """Milliseconds of each execution."""
    function()
    wait()
    times, began = [], time.perf_counter()
    while len(times) < 5 or (len(times) < 100 and time.perf_counter() - began < seconds):
        sweep()
        wait()
        start = time.perf_counter()
        function()
        wait()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    options.add_argument("--precision", default="f32", choices=["f32", "bf16"])
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--seconds", type=float, default=0.5, help="of executions a primitive (at least 5, at most 100)")
    options.add_argument("--filter", default="", help="only primitives whose name contains this")
    chosen = options.parse_args()
    device = torch.device(chosen.device)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    other = torch.empty(128 << 18, device=device)
    torch.manual_seed(1)
    plain = lambda *shape: torch.randn(*shape, device=device)
    product = torch.bfloat16 if chosen.precision == "bf16" else torch.float32
    make = lambda *shape: torch.randn(*shape, device=device, dtype=product)
    rows = []
    for build in cases(chosen.batch, make, plain):
        for name, function, what in build():
            if chosen.filter not in name:
                continue
            try:
                times = timed(function, wait, other.zero_, chosen.seconds)
            except (RuntimeError, NotImplementedError) as error:  # e.g. no bf16 LSTM on this device
                print(f"{name}: {error}", file=sys.stderr)
                continue
            rows.append({"name": name, "what": what, "ms_median": statistics.median(times), "ms_min": min(times), "ms_max": max(times)})
            print(f"{name:44} {rows[-1]['ms_median']:10.3f} ms  {what}", file=sys.stderr)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    json.dump({"torch_kernels": rows, "torch": torch.__version__, "device": where, "precision": chosen.precision, "batch": chosen.batch,
               "cudnn": torch.backends.cudnn.version()}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
