#!/usr/bin/env bash
# CPU timings beside PyTorch's, interleaved, on an otherwise quiet machine: one JSON for benches/results.
#
#   scripts/bench_cpu.sh [PEER.py] [OUT.json]
#
# PEER.py (or EPI_PEER) is the PyTorch peer, PYTHON a Python with torch; without them only epi-engine is timed.
# ROUNDS (2) rounds of: our steps, PyTorch as released, our steps; then PyTorch tuned, our primitives, PyTorch's, and the data path.
# STEPS (5) of each. MODELS (epsat) are timed one after the other.
set -euo pipefail
peer=${1:-${EPI_PEER:-}}
out=${2:+--out "$(realpath -m "$2")"}
[ -n "$peer" ] && peer=$(realpath "$peer")
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} ROUNDS=${ROUNDS:-2} STEPS=${STEPS:-5} MODELS=${MODELS:-epsat}
ENGINE=${ENGINE:-target/release/epi-engine}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [ -n "$peer" ] && ! "$PYTHON" -c 'import torch' 2>/dev/null; then
    echo "$PYTHON has no torch: timing epi-engine alone (PYTHON=.. names another)" >&2
    peer=
fi
ours() { $ENGINE bench step --device cpu --model "$model" --steps "$STEPS" --json >"$scratch/$model-step-$1.json"; }
torch() { "$PYTHON" "$peer" --model "$model" --device cpu --mode "$1" --steps "$2" >"$scratch/$model-$1-$3.json"; }

for model in $MODELS; do
    for round in $(seq "$ROUNDS"); do
        echo "$model, round $round of $ROUNDS" >&2
        ours "$round-a"
        [ -n "$peer" ] && torch eager "$((STEPS < 3 ? STEPS : 3))" "$round"
        ours "$round-b"
    done
    [ -n "$peer" ] && torch tuned "$((STEPS < 3 ? STEPS : 3))" 1
done
$ENGINE bench kernels --device cpu --json >"$scratch/kernels.json"
[ -n "$peer" ] && "$PYTHON" scripts/torch_kernels.py --device cpu >"$scratch/torch.json"
$ENGINE bench data --json >"$scratch/data.json"
# shellcheck disable=SC2086
python3 scripts/benchmarks.py collect "$scratch" $out
