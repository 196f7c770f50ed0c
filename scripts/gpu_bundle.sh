#!/usr/bin/env bash
# Makes build/gpu-bundle: what a machine with an NVIDIA driver, and nothing else, needs to run the kernels on its card.
#
#   scripts/gpu_bundle.sh            EPI_PEER=FILE.py: the PyTorch peer to take along (default: ../shared/peer, if it is there)
#
# There: OUT=DIR build/gpu-bundle/run.sh STAGE; see run.sh. Limit of the folder: 40 MB.
set -euo pipefail
cd "$(dirname "$0")/.."
CARGO=${CARGO:-cargo}
BUNDLE=build/gpu-bundle
LIMIT_KB=40000

# The path of a test executable, from cargo's own messages.
built() {
    $CARGO test --release --no-run --test "$1" --message-format=json 2>/dev/null |
        grep '"executable":"[^"]*' | grep "\"name\":\"$1\"" | sed 's/.*"executable":"\([^"]*\)".*/\1/' | tail -1
}

$CARGO build --release
rm -rf $BUNDLE
mkdir -p $BUNDLE/bin $BUNDLE/golden
cp target/release/epi-engine $BUNDLE/bin/
for name in ops system emulator; do
    cp "$(built $name)" $BUNDLE/bin/test-$name
done
strip $BUNDLE/bin/*
if ! $BUNDLE/bin/epi-engine info --json | tr -d ' \n' | grep -q '"compiled":true'; then
    echo "warning: this build has no CUDA kernels (epi-engine info says why); its stages can only say so"
fi
tar -C $BUNDLE -czf $BUNDLE/bin.tar.gz bin # run.sh unpacks it
rm -r $BUNDLE/bin
cp tests/golden/*.safetensors tests/golden/*.json $BUNDLE/golden/
cp scripts/gpu_run.sh $BUNDLE/run.sh
cp scripts/torch_kernels.py $BUNDLE/
peer=${EPI_PEER:-../shared/peer/bench_torch.py}
if [ -f "$peer" ]; then
    cp "$peer" $BUNDLE/peer.py
else
    echo "no PyTorch peer taken along (EPI_PEER=FILE.py names one)"
fi
chmod -R u+w $BUNDLE

size=$(du -sk $BUNDLE | cut -f1)
echo "$BUNDLE: $((size / 1000)) MB"
if [ "$size" -gt $LIMIT_KB ]; then
    echo "that is more than $((LIMIT_KB / 1000)) MB:" && du -k $BUNDLE/* | sort -rn && exit 1
fi
