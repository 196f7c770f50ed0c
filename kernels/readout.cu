// Readout normalisation of inp [B,C]; the standard deviation is unbiased.
//   sample   out = (x - mean) / (std + 1e-5) per row;         saved [B,2] = mean, std
//   batch    out = (x - mean) / std over the whole tensor;    saved [1,2]
// backward, with n values, s the standard deviation, d = s + 1e-5 (or s) and dout' = dout / d:
//   dinp = dout' - Σ dout' / n - (x - mean) Σ (dout' (x - mean)) / (d s (n - 1)),   x - mean = out d
// FLOPs ~8 B C. sample: one warp a row, 4 rows a block; batch: one block of 256 threads. Deterministic.
#include "include/common.cuh"
#include "include/params.cuh"

EPI_KERNEL(readout_sample_forward, 128, 4, (ReadoutParams p, const float* inp, float* out, float* saved)) {
    const int row = int(blockIdx.x) * 4 + int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    if (row >= p.batch) return; // whole warps only
    const float* x = inp + size_t(row) * p.channels;
    float sum = 0.0f;
    for (int c = lane; c < p.channels; c += 32) sum += x[c];
    const float mean = warp_sum(sum) / float(p.channels);
    float squares = 0.0f;
    for (int c = lane; c < p.channels; c += 32) squares = fmaf(x[c] - mean, x[c] - mean, squares);
    const float std = sqrtf(warp_sum(squares) / float(p.channels - 1));
    for (int c = lane; c < p.channels; c += 32) out[size_t(row) * p.channels + c] = (x[c] - mean) / (std + 1e-5f);
    if (lane == 0) {
        saved[row * 2] = mean;
        saved[row * 2 + 1] = std;
    }
}

EPI_KERNEL(readout_sample_backward, 128, 4,
           (ReadoutParams p, const float* out, const float* saved, const float* dout, float* dinp)) {
    const int row = int(blockIdx.x) * 4 + int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    if (row >= p.batch) return;
    const size_t first = size_t(row) * p.channels;
    float sum = 0.0f, dot = 0.0f;
    for (int c = lane; c < p.channels; c += 32) {
        sum += dout[first + c];
        dot = fmaf(dout[first + c], out[first + c], dot);
    }
    sum = warp_sum(sum);
    dot = warp_sum(dot);
    const float std = saved[row * 2 + 1], divisor = std + 1e-5f;
    const float slope = std > 0.0f ? dot * divisor / (std * float(p.channels - 1)) : 0.0f;
    for (int c = lane; c < p.channels; c += 32)
        dinp[first + c] = (dout[first + c] - sum / float(p.channels) - out[first + c] * slope) / divisor;
}

EPI_KERNEL(readout_batch_forward, 256, 1, (ReadoutParams p, const float* inp, float* out, float* saved)) {
    EPI_SHARED(float, scratch, WARP);
    const int count = p.batch * p.channels;
    float sum = 0.0f;
    for (int i = int(threadIdx.x); i < count; i += 256) sum += inp[i];
    const float mean = block_sum(sum, scratch) / float(count);
    float squares = 0.0f;
    for (int i = int(threadIdx.x); i < count; i += 256) squares = fmaf(inp[i] - mean, inp[i] - mean, squares);
    const float std = sqrtf(block_sum(squares, scratch) / float(count - 1));
    for (int i = int(threadIdx.x); i < count; i += 256) out[i] = (inp[i] - mean) / std;
    if (threadIdx.x == 0) {
        saved[0] = mean;
        saved[1] = std;
    }
}

EPI_KERNEL(readout_batch_backward, 256, 1,
           (ReadoutParams p, const float* out, const float* saved, const float* dout, float* dinp)) {
    EPI_SHARED(float, scratch, WARP);
    const int count = p.batch * p.channels;
    float sum = 0.0f, dot = 0.0f;
    for (int i = int(threadIdx.x); i < count; i += 256) {
        sum += dout[i];
        dot = fmaf(dout[i], out[i], dot);
    }
    sum = block_sum(sum, scratch);
    dot = block_sum(dot, scratch);
    const float std = saved[1], slope = std > 0.0f ? dot / float(count - 1) : 0.0f;
    for (int i = int(threadIdx.x); i < count; i += 256)
        dinp[i] = (dout[i] - sum / float(count) - out[i] * slope) / std;
}
