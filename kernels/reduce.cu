// Column sums, the bias gradients:  out[c] += Σ_r inp[r,c]      inp [rows,columns], out [columns]
// FLOPs rows*columns; bytes 4 rows*columns. Grid (ceil(columns/32), chunks of rows), 256 threads: lanes walk columns,
// warps walk rows. Deterministic: warps are added in order, then chunks in order by column_sum_finish.
#include "include/common.cuh"
#include "include/params.cuh"

EPI_KERNEL(column_sum_partial, 256, 4, (Columns p, const float* inp, float* partial)) {
    EPI_SHARED(float, sums, 8 * 32);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    const int column = int(blockIdx.x) * 32 + lane;
    const int first = int(blockIdx.y) * p.chunk, last = min(p.rows, first + p.chunk);
    float sum = 0.0f;
    if (column < p.columns)
        for (int row = first + warp; row < last; row += 8) sum += inp[size_t(row) * p.columns + column];
    sums[warp * 32 + lane] = sum;
    __syncthreads();
    if (warp == 0 && column < p.columns) {
        float total = 0.0f;
        for (int w = 0; w < 8; ++w) total += sums[w * 32 + lane];
        partial[size_t(blockIdx.y) * p.columns + column] = total;
    }
}

// out0[c] += total, and out1[c] += total where there is a second one (the LSTM's two bias vectors).
EPI_KERNEL(column_sum_finish, 256, 4, (Columns p, int chunks, const float* partial, float* out0, float* out1)) {
    const int column = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (column >= p.columns) return;
    float total = 0.0f;
    for (int chunk = 0; chunk < chunks; ++chunk) total += partial[size_t(chunk) * p.columns + column];
    out0[column] += total;
    if (out1 != nullptr) out1[column] += total;
}
