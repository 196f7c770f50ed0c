// Element-wise operators and moves. Bytes: 4 per element read and written; grid-stride loops, 256 threads, any grid.
// Deterministic.
#include "include/common.cuh"
#include "include/params.cuh"

#define FOR_EACH(i, count)                                                                                             \
    for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < (count); i += int(gridDim.x * blockDim.x))

// out = max(inp, 0); NaN stays NaN
EPI_KERNEL(relu_forward, 256, 4, (int count, const float* inp, float* out)) {
    FOR_EACH(i, count) out[i] = relu(inp[i]);
}

// dinp = dout where out > 0
EPI_KERNEL(relu_backward, 256, 4, (int count, const float* out, const float* dout, float* dinp)) {
    FOR_EACH(i, count) dinp[i] = out[i] > 0.0f ? dout[i] : 0.0f;
}

// out = inp where it is positive, else slope inp
EPI_KERNEL(leaky_relu_forward, 256, 4, (int count, float slope, const float* inp, float* out)) {
    FOR_EACH(i, count) out[i] = inp[i] > 0.0f ? inp[i] : slope * inp[i];
}

// dinp = dout where out > 0, else slope dout
EPI_KERNEL(leaky_relu_backward, 256, 4, (int count, float slope, const float* out, const float* dout, float* dinp)) {
    FOR_EACH(i, count) dinp[i] = out[i] > 0.0f ? dout[i] : slope * dout[i];
}

// dst += src
EPI_KERNEL(add_assign, 256, 4, (int count, const float* src, float* dst)) {
    FOR_EACH(i, count) dst[i] += src[i];
}

// dst = src
EPI_KERNEL(copy_elements, 256, 4, (int count, const float* src, float* dst)) {
    FOR_EACH(i, count) dst[i] = src[i];
}

// dst += factor * src; with `first`, dst = factor * src
EPI_KERNEL(add_scaled, 256, 4, (int count, float factor, int first, const float* src, float* dst)) {
    FOR_EACH(i, count) dst[i] = first ? factor * src[i] : fmaf(factor, src[i], dst[i]);
}

// dst = a + b; `b` may be null (the LSTM's folded bias)
EPI_KERNEL(add_vectors, 256, 4, (int count, const float* a, const float* b, float* dst)) {
    FOR_EACH(i, count) dst[i] = b != nullptr ? a[i] + b[i] : a[i];
}

// dst = 0
EPI_KERNEL(fill_zero, 256, 4, (int count, float* dst)) {
    FOR_EACH(i, count) dst[i] = 0.0f;
}

// out = inp * mask; a thread handles the eight elements of one Philox block. Its own backward pass.
EPI_KERNEL(dropout_apply, 256, 4, (int count, DropoutParams p, const StepState* step, const float* inp, float* out)) {
    const uint32_t at = step->philox_step;
    FOR_EACH(block, ceil_div(count, 8)) {
        const uint32_t keep = dropout_keep8(p, at, uint64_t(block));
        EPI_UNROLL for (int j = 0; j < 8; ++j) {
            const int i = block * 8 + j;
            if (i < count) out[i] = keep >> j & 1 ? inp[i] * p.scale : 0.0f;
        }
    }
}

// A block of rows between matrices of different pitch: concatenation and slices along positions.
EPI_KERNEL(copy_rows, 256, 4, (CopyRows p, const float* src, float* dst)) {
    FOR_EACH(i, p.rows * p.width) {
        const int row = i / p.width, column = i % p.width;
        dst[size_t(row) * p.dst_pitch + column] = src[size_t(row) * p.src_pitch + column];
    }
}

// [a,b,c] -> [b,a,c]
EPI_KERNEL(swap_leading, 256, 4, (Swap p, const float* inp, float* out)) {
    FOR_EACH(i, p.a * p.b * p.c) {
        const int c = i % p.c, row = i / p.c;
        const int a = row / p.b, b = row % p.b;
        out[(size_t(b) * p.a + a) * p.c + c] = inp[i];
    }
}

// [rows,columns] -> [columns,rows] of each of gridDim.z matrices, through a tile so that both sides are coalesced.
EPI_KERNEL(transpose, 256, 4, (int rows, int columns, const float* inp, float* out)) {
    EPI_SHARED(float, tile, 32 * 33);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    const int row0 = int(blockIdx.y) * 32, column0 = int(blockIdx.x) * 32;
    inp += size_t(blockIdx.z) * rows * columns;
    out += size_t(blockIdx.z) * rows * columns;
    for (int r = warp; r < 32; r += 8)
        if (row0 + r < rows && column0 + lane < columns)
            tile[r * 33 + lane] = inp[size_t(row0 + r) * columns + column0 + lane];
    __syncthreads();
    for (int c = warp; c < 32; c += 8)
        if (row0 + lane < rows && column0 + c < columns)
            out[size_t(column0 + c) * rows + row0 + lane] = tile[lane * 33 + c];
}
