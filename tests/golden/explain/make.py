"""Writes epsat_tiny.safetensors: attributions and mutagenesis of a tiny EPSAT, computed in f64 with PyTorch alone; and
eplae_tiny.safetensors: the code of a tiny EPLAE, what drives it along the direction of interaction, and what it decodes to.

What captum would compute, written out: gradient x input, integrated gradients by the midpoint rule from two baselines, and
the log odds of every single-base change. Run with PyTorch and safetensors: python tests/golden/explain/make.py
"""
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
torch.manual_seed(20240229)
SIZES = dict(kernels=5, kernel_size=4, pool=3, hidden=4, layers=2, heads=2, head_size=3, readout=6)
LENGTHS = (37, 29)
STEPS = 24
C, K, H, D, M = (SIZES[k] for k in ("kernels", "kernel_size", "hidden", "head_size", "readout"))

weights = {}


def tensor(name, *shape, low=-0.6, high=0.6):
    # Values that f32 holds exactly, so that both programs compute with the same network.
    weights[name] = (low + (high - low) * torch.rand(*shape)).float().double()
    return weights[name]


for side in ("enhancer", "promoter"):
    tensor(f"{side}_conv_layer.0.weight", C, 4, K)
    tensor(f"{side}_conv_layer.1.weight", C, low=0.5, high=1.5)
    tensor(f"{side}_conv_layer.1.bias", C, low=-0.2, high=0.4)
    tensor(f"{side}_conv_layer.1.running_mean", C, low=-0.2, high=0.2)
    tensor(f"{side}_conv_layer.1.running_var", C, low=0.3, high=1.2)
lstm = torch.nn.LSTM(C, H, SIZES["layers"], batch_first=True, bidirectional=True)
for name, value in lstm.named_parameters():
    value.data = tensor(f"lstm_layer.0.{name}", *value.shape)
    value.requires_grad_(False)
for which in "QKV":
    for head in range(SIZES["heads"]):
        tensor(f"{which}.{head}.weight", D, 2 * H)
        tensor(f"{which}.{head}.bias", D)
tensor("MultiHeadLinear.weight", M, SIZES["heads"] * D)
tensor("MultiHeadLinear.bias", M)
tensor("fc3.weight", 2, M)
tensor("fc3.bias", 2)


def log_odds(enhancer, promoter):
    """[B,4,L] one-hot or soft windows -> [B]."""
    branches = []
    for side, x in (("enhancer", enhancer), ("promoter", promoter)):
        w = [weights[f"{side}_conv_layer.{n}"] for n in ("0.weight", "1.running_mean", "1.running_var", "1.weight", "1.bias")]
        y = F.batch_norm(F.conv1d(x, w[0]), w[1], w[2], w[3], w[4], training=False, eps=1e-5)
        branches.append(F.max_pool1d(F.relu(y), SIZES["pool"]))
    hidden, _ = lstm(torch.cat(branches, 2).transpose(1, 2))
    heads = []
    for head in range(SIZES["heads"]):
        q, k, v = (F.linear(hidden, weights[f"{p}.{head}.weight"], weights[f"{p}.{head}.bias"]) for p in "QKV")
        heads.append(F.relu(torch.softmax(q @ k.transpose(1, 2) / D**0.5, 2) @ v))
    mixed = F.relu(F.linear(torch.cat(heads, 2), weights["MultiHeadLinear.weight"], weights["MultiHeadLinear.bias"])).sum(1)
    normal = (mixed - mixed.mean(1, keepdim=True)) / (mixed.std(1, keepdim=True) + 1e-5)
    logits = F.linear(normal, weights["fc3.weight"], weights["fc3.bias"])
    return logits[:, 1] - logits[:, 0]


def gradients(points):
    """Log odds at points ([B,4,L], [B,4,L]) and their derivatives."""
    points = [p.clone().requires_grad_(True) for p in points]
    out = log_odds(*points)
    return out.detach(), torch.autograd.grad(out.sum(), points)


codes = [torch.randint(0, 4, (length,)) for length in LENGTHS]
codes[0][11] = 4  # an N
inputs = [F.one_hot(c, 5)[:, :4].double().T[None] for c in codes]
out = {f"in.{s}": c.to(torch.uint8) for s, c in zip(("enhancer", "promoter"), codes)}
value, grads = gradients(inputs)
out["log_odds"] = value
for side, x, g in zip(("enhancer", "promoter"), inputs, grads):
    out[f"gradient_input.{side}"] = (x * g)[0].T
for name, at in (("zeros", 0.0), ("uniform", 0.25)):
    baseline = [torch.full_like(x, at) for x in inputs]
    alphas = (torch.arange(STEPS) + 0.5) / STEPS
    path = [b + alphas[:, None, None] * (x - b) for b, x in zip(baseline, inputs)]
    _, grads = gradients(path)
    out[f"baseline.{name}"] = gradients(baseline)[0]
    for side, x, b, g in zip(("enhancer", "promoter"), inputs, baseline, grads):
        out[f"integrated_{name}.{side}"] = ((x - b)[0] * g.mean(0)).T
for s, side in enumerate(("enhancer", "promoter")):
    changes = torch.zeros(LENGTHS[s], 4)
    for i in range(LENGTHS[s]):
        for a in range(4):
            if codes[s][i] < 4 and a != codes[s][i]:
                edited = [x.clone() for x in inputs]
                edited[s][0, :, i] = F.one_hot(torch.tensor(a), 4).double()
                changes[i, a] = log_odds(*edited)[0] - value[0]
    out[f"change.{side}"] = changes
out |= {f"w.{name}": value for name, value in weights.items()}
out = {name: value.detach().contiguous() for name, value in out.items()}
meta = {"sizes": json.dumps(SIZES), "steps": json.dumps(STEPS), "torch": json.dumps(torch.__version__)}
save_file(out, Path(__file__).with_name("epsat_tiny.safetensors"), meta)
print({k: tuple(v.shape) for k, v in out.items() if not k.startswith("w.")}, float(value[0]))

# EPLAE: lengths that are odd somewhere on the way, so that the decoder has to go back to them.
weights = {}
E = dict(filters=3, kernel_size=5, units=6, latent=4)
FI, KE, U, Z = E.values()
STAGES = [[n, -(-n // 2), -(-n // 4), -(-n // 8)] for n in LENGTHS]
FLAT = FI * (STAGES[0][3] + STAGES[1][3])
for side in ("enhancer", "promoter"):
    for stage, size in zip((0, 2, 4), (4, FI, FI)):
        tensor(f"encoder_conv_{side}.{stage}.weight", FI, size, KE)
        tensor(f"encoder_conv_{side}.{stage}.bias", FI)
    for stage, outputs in zip((0, 2, 4), (FI, FI, 4)):
        tensor(f"decoder_conv_{side}.{stage}.weight", FI, outputs, KE)
        tensor(f"decoder_conv_{side}.{stage}.bias", outputs)
for name, rows, size in (("encoder_linear.0", U, FLAT), ("encoder_linear.2", Z, U), ("decoder_linear.0", U, Z),
                              ("decoder_linear.2", FLAT, U), ("head", 2, Z)):
    tensor(f"{name}.weight", rows, size)
    tensor(f"{name}.bias", rows)


def linear(name, x):
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def encode(enhancer, promoter):
    parts = []
    for side, x in (("enhancer", enhancer), ("promoter", promoter)):
        for stage in (0, 2, 4):
            w, b = (weights[f"encoder_conv_{side}.{stage}.{p}"] for p in ("weight", "bias"))
            x = F.leaky_relu(F.conv1d(x, w, b, stride=2, padding=KE // 2))
        parts.append(x)
    return linear("encoder_linear.2", F.leaky_relu(linear("encoder_linear.0", torch.cat(parts, 2).flatten(1))))


def decode(z):
    grid = linear("decoder_linear.2", F.leaky_relu(linear("decoder_linear.0", z))).reshape(len(z), FI, -1)
    windows = []
    for s, (side, x) in enumerate(zip(("enhancer", "promoter"), grid.split([STAGES[0][3], STAGES[1][3]], 2))):
        for i, stage in enumerate((0, 2, 4)):
            w, b = (weights[f"decoder_conv_{side}.{stage}.{p}"] for p in ("weight", "bias"))
            to = STAGES[s][2 - i]
            x = F.conv_transpose1d(x, w, b, stride=2, padding=KE // 2, output_padding=(to + 1) % 2)
            x = F.leaky_relu(x) if i < 2 else x
            assert x.shape[2] == to
        windows.append(x)
    return windows


head = weights["head.weight"]
axis = head[1] - head[0]
axis = axis / axis.norm()
points = [x.clone().requires_grad_(True) for x in inputs]
z = encode(*points)
drivers = torch.autograd.grad((z @ axis).sum(), points)
SPREAD = 0.7
moved = torch.stack([z[0].detach() + s * SPREAD * axis for s in range(-3, 4)])
logits = linear("head", moved)
out = {f"in.{s}": c.to(torch.uint8) for s, c in zip(("enhancer", "promoter"), codes)}
out |= {"z": z, "axis": axis, "walk.log_odds": logits[:, 1] - logits[:, 0]}
for side, d, w in zip(("enhancer", "promoter"), drivers, decode(moved)):
    out[f"drivers.{side}"] = d[0].T
    out[f"reconstruction.{side}"] = (w[4] - w[2]).T
out |= {f"w.{name}": value for name, value in weights.items()}
out = {name: value.detach().contiguous() for name, value in out.items()}
meta = {"sizes": json.dumps(E), "spread": json.dumps(SPREAD), "torch": json.dumps(torch.__version__)}
save_file(out, Path(__file__).with_name("eplae_tiny.safetensors"), meta)
print({k: tuple(v.shape) for k, v in out.items() if not k.startswith("w.")})
