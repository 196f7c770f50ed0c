#!/usr/bin/env bash
# One stage of the proof on a real card; needs an NVIDIA driver and nothing else (`peer`, `primitives`: also a Python with torch).
#
#   OUT=DIR ./run.sh intrinsics|ops|golden|train|bench|peer|primitives|all       DIR/STAGE.json, one file a stage
#
# A stage takes less than 8 minutes and is stopped at that. Exit status: 0 green, 1 something failed, 3 no usable card
# (the JSON says why). DEVICE=cuda:N chooses the card; DEVICE=emulator rehearses on the CPU.
set -uo pipefail
cd "$(dirname "$0")"
OUT=${OUT:-out}
DEVICE=${DEVICE:-cuda:0}
PYTHON=${PYTHON:-python3}
LIMIT=450 # seconds
ENGINE=bin/epi-engine
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
export EPI_ORACLE=$PWD/golden
[ "$DEVICE" = emulator ] || export EPI_TEST_DEVICE=$DEVICE
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
[ -d bin ] || tar -xzf bin.tar.gz || exit 1

# A string as JSON.
quote() { printf '%s' "$1" | tr '\n\t' '  ' | sed 's/\\/\\\\/g; s/"/\\"/g; s/^/"/; s/$/"/'; }
# Lines of standard input as a JSON array of strings.
array() { local first=1; printf '['; while IFS= read -r line; do ((first)) || printf ','; first=0; quote "$line"; done; printf ']'; }
# Its argument if it holds something, else null.
or_null() { if [ -s "$1" ]; then cat "$1"; else printf null; fi; }
left() { local seconds=$((LIMIT - SECONDS + began)); echo $((seconds > 1 ? seconds : 1)); }

# write STAGE STATUS MEMBERS: the stage's document.
write() {
    printf '{"stage":"%s","status":"%s","date":"%s","device":%s,"seconds":%d,"info":%s,%s}\n' "$1" "$2" "$(date -u +%F)" \
        "$(quote "$DEVICE")" $((SECONDS - began)) "$(or_null "$scratch/info.json")" "$3" >"$OUT/$1.json"
    echo "$1: $2 ($((SECONDS - began)) s)"
}

# Runs one module of a test binary on the card and adds what passed, what failed and which kernels were launched.
# Tests run one after the other, in a process of their own per module: a kernel that breaks the context fails only its module.
module() {
    local binary=$1 name=$2 log="$scratch/log" list="$scratch/launched"
    shift 2
    rm -f "$list"
    EPI_LAUNCHED=$list timeout "$(left)" env "CARGO_BIN_EXE_epi-engine=$PWD/$ENGINE" "$binary" "$name" "$@" --test-threads 1 >"$log" 2>&1
    local status=$?
    local passed failed
    passed=$(grep -c '^test .* \.\.\. ok$' "$log")
    failed=$(grep -E '^test .* \.\.\. FAILED$' "$log" | sed 's/^test \(.*\) \.\.\. FAILED$/\1/')
    [ $status -ne 0 ] && [ -z "$failed" ] && failed="$name: exit status $status$( ((status == 124)) && echo ', out of time')"
    [ -z "$failed" ] && [ "$passed" -eq 0 ] && failed="$name: no test ran"
    [ -n "$failed" ] && green=failed && { echo "-- $name"; tail -25 "$log"; }
    [ -n "$modules" ] && modules+=,
    modules+="{\"module\":$(quote "$name"),\"passed\":$passed,\"failed\":$([ -n "$failed" ] && echo "$failed" | array || echo '[]'),"
    modules+="\"kernels\":$([ -s "$list" ] && sort -u "$list" | array || echo '[]'),"
    modules+="\"log\":$([ -n "$failed" ] && grep -aE 'panicked|error|exceeds|instead' "$log" | head -20 | cut -c1-300 | array || echo '[]')}"
}
tests() { write "$1" "$green" "\"modules\":[$modules]"; }

# How many models NAME or NAME:N stands for.
several() { case $1 in *:*) echo "${1#*:}" ;; *) echo 1 ;; esac; }

# measure FILE COMMAND..: its JSON into a file of the scratch folder; a failure becomes a document that says so.
measure() {
    local file="$scratch/$1.json"
    shift
    if ! timeout "$(left)" "$@" >"$file" 2>"$scratch/error"; then
        green=failed
        printf '{"error":%s,"command":%s}' "$(quote "$(tail -3 "$scratch/error")")" "$(quote "$*")" >"$file"
        tail -3 "$scratch/error"
    fi
}

stage() {
    began=$SECONDS green=ok modules=
    case $1 in
    intrinsics) module bin/test-emulator intrinsics:: && tests "$1" ;;
    ops)
        for name in $(bin/test-ops --list | sed -n 's/::.*: test$//p' | sort -u | grep -vE '^(golden|harness)$'); do
            module bin/test-ops "$name::" --skip golden:: --skip harness::
        done
        tests "$1"
        ;;
    golden) module bin/test-ops golden:: && tests "$1" ;;
    train)
        # Follows the CPU step by step, same seed same bits, stops and resumes; then the demonstration at full size.
        module bin/test-system emulated::
        for precision in f32 bf16; do
            measure "train-$precision" $ENGINE train --preset demo --device "$DEVICE" --precision $precision --out "$scratch/run-$precision" --json
        done
        write "$1" "$green" "\"modules\":[$modules],\"f32\":$(or_null "$scratch/train-f32.json"),\"bf16\":$(or_null "$scratch/train-bf16.json")"
        ;;
    bench)
        # Every network; then several of a kind at the same time.
        steps=
        for precision in f32 bf16; do
            for model in epsat eplae speid epsat:3 epsat:6 speid:6; do
                measure step $ENGINE bench step --model "${model%:*}" --models "$(several "$model")" --device "$DEVICE" --precision $precision --steps 30 --json
                steps+=${steps:+,}$(or_null "$scratch/step.json")
            done
            measure "kernels-$precision" $ENGINE bench kernels --device "$DEVICE" --precision $precision --json
        done
        measure data $ENGINE bench data --json
        write "$1" "$green" "\"step\":[$steps],\"kernels\":$(or_null "$scratch/kernels-f32.json"),\"kernels_bf16\":$(or_null "$scratch/kernels-bf16.json"),\"data\":$(or_null "$scratch/data.json")"
        ;;
    peer)
        if [ ! -f peer.py ] || ! "$PYTHON" -c 'import torch' 2>/dev/null; then
            write "$1" skipped '"why":"needs peer.py in the bundle and a Python with torch (PYTHON=..)"'
            return 0
        fi
        # Ours before, between and after, so that a drifting clock is seen.
        for round in 1 2; do
            measure "step-$round" $ENGINE bench step --device "$DEVICE" --steps 30 --json
            measure "step-bf16-$round" $ENGINE bench step --device "$DEVICE" --precision bf16 --steps 30 --json
            [ $round = 1 ] && measure eager "$PYTHON" peer.py --model epsat --device cuda --mode eager --steps 20 --verify
            [ $round = 1 ] && measure tuned "$PYTHON" peer.py --model epsat --device cuda --mode tuned --steps 20 --budget-s 200
        done
        write "$1" "$green" "\"step\":[$(or_null "$scratch/step-1.json"),$(or_null "$scratch/step-bf16-1.json"),$(or_null "$scratch/step-2.json"),$(or_null "$scratch/step-bf16-2.json")],\"peer\":[$(or_null "$scratch/eager.json"),$(or_null "$scratch/tuned.json")]"
        ;;
    primitives)
        # cuDNN, SDPA and cuBLAS, through PyTorch, at the shapes of `bench kernels`.
        if [ ! -f torch_kernels.py ] || ! "$PYTHON" -c 'import torch' 2>/dev/null; then
            write "$1" skipped '"why":"needs a Python with torch (PYTHON=..)"'
            return 0
        fi
        where=cuda
        [ "$DEVICE" = emulator ] && where=cpu
        for precision in f32 bf16; do
            measure "torch-$precision" "$PYTHON" torch_kernels.py --device $where --precision $precision
        done
        write "$1" "$green" "\"torch\":[$(or_null "$scratch/torch-f32.json"),$(or_null "$scratch/torch-bf16.json")]"
        ;;
    *) echo "there is no stage $1: intrinsics, ops, golden, train, bench, peer, primitives, all" && exit 2 ;;
    esac
    [ $green = ok ]
}

case ${1:-} in
all) stages="intrinsics ops golden train bench peer primitives" ;;
intrinsics | ops | golden | train | bench | peer | primitives) stages=$1 ;;
*) sed -n '2,7p' "$0" | cut -c3- && exit 2 ;;
esac
began=$SECONDS
$ENGINE info --json >"$scratch/info.json" 2>"$scratch/error" || { cat "$scratch/error"; exit 1; }
# Opening the card is the one test of the driver, the card and the images together.
if ! $ENGINE bench step --device "$DEVICE" --batch 2 --steps 1 --enhancer-length 120 --promoter-length 120 --json >/dev/null 2>"$scratch/error"; then
    why=$(tail -1 "$scratch/error")
    echo "$why"
    status=no-device code=3
    # A card that opens but fails is a failure, not an absence.
    grep -qE 'cannot be used|no cuda:|no kernels|too old|compute capability|CUDA backend' "$scratch/error" || status=failed code=1
    for name in $stages; do write "$name" $status "\"why\":$(quote "$why")"; done
    exit $code
fi
code=0
for name in $stages; do stage "$name" || code=1; done
exit $code
