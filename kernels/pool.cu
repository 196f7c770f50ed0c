// Max pooling over positions.
//   forward   out[b,p,c]  = max_{j<size} inp[b, p*size+j, c];  winner[b,p,c] = first j that attains it
//   backward  dinp[b,l,c] = dout[b,p,c] where l = p*size + winner, else 0      (activation gradient: '=')
// inp [B,L,C], out and winner [B,P,C] with P = L / size; the remainder of L is dropped (and gets zero gradient).
// Bytes 4 B C (L + 2 P). One thread per output (forward) or input (backward) element, 256 threads. Deterministic.
#include "include/common.cuh"
#include "include/params.cuh"

EPI_KERNEL(max_pool_forward, 256, 4, (MaxPool p, const float* inp, float* out, int* winner)) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= p.batch * p.pooled * p.channels) return;
    const int c = i % p.channels, row = i / p.channels;
    const int b = row / p.pooled, pooled = row % p.pooled;
    const float* at = inp + (size_t(b) * p.length + size_t(pooled) * p.size) * p.channels + c;
    float best = at[0];
    int best_j = 0;
    for (int j = 1; j < p.size; ++j) {
        const float value = at[size_t(j) * p.channels];
        if (value > best || value != value) { // a NaN wins: a broken value must reach the loss
            best = value;
            best_j = j;
        }
    }
    out[i] = best;
    winner[i] = best_j;
}

EPI_KERNEL(max_pool_backward, 256, 4, (MaxPool p, const float* dout, const int* winner, float* dinp)) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= p.batch * p.length * p.channels) return;
    const int c = i % p.channels, row = i / p.channels;
    const int b = row / p.length, l = row % p.length;
    const int pooled = l / p.size;
    float value = 0.0f;
    if (pooled < p.pooled) {
        const size_t at = (size_t(b) * p.pooled + pooled) * p.channels + c;
        if (winner[at] == l % p.size) value = dout[at];
    }
    dinp[i] = value;
}
