// Batch norm over all but the last dimension (inp [N,C]).
//   forward   out = (inp - mean) * invstd * gamma + beta,   invstd = 1 / sqrt(var + eps)
//             train: mean, biased var of the batch; running = (1-momentum) running + momentum {mean, var N/(N-1)}
//             else:  the running statistics.      saved [2,C] = mean, invstd as used
//   backward  x̂ = (inp - mean) invstd;   dbeta += Σ dout,   dgamma += Σ dout x̂
//             train: dinp = gamma invstd (dout - Σ dout / N - x̂ Σ dout x̂ / N);   else dinp = gamma invstd dout
// FLOPs ~10 N C; bytes 4 N C x 3 (forward, train), x 5 (backward). Statistics: grid (ceil(C/32), chunks of rows), 256
// threads, lanes walk channels; a chunk yields (mean, M2) about its own mean, so nothing cancels; *_finish merges the
// chunks in order (Chan et al. 1979). Element passes: grid-stride. Deterministic.
#include "include/common.cuh"
#include "include/params.cuh"

// Adds the eight warps' values of one column in order; the result is known to every thread of the column.
EPI_DEVICE float across_warps(float value, float* scratch) {
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    __syncthreads();
    scratch[warp * 32 + lane] = value;
    __syncthreads();
    float sum = 0.0f;
    for (int w = 0; w < 8; ++w) sum += scratch[w * 32 + lane];
    return sum;
}

// partial [chunks,2,C]: mean and sum of squared deviations of a chunk of rows.
EPI_KERNEL(batch_norm_partial, 256, 4, (BatchNormParams p, const float* inp, float* partial)) {
    EPI_SHARED(float, scratch, 8 * 32);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    const int column = int(blockIdx.x) * 32 + lane;
    const bool inside = column < p.columns;
    const int first = int(blockIdx.y) * p.chunk, last = min(p.rows, first + p.chunk);
    float sum = 0.0f;
    if (inside)
        for (int row = first + warp; row < last; row += 8) sum += inp[size_t(row) * p.columns + column];
    const float mean = across_warps(sum, scratch) / float(last - first);
    float squares = 0.0f;
    if (inside)
        for (int row = first + warp; row < last; row += 8) {
            const float deviation = inp[size_t(row) * p.columns + column] - mean;
            squares = fmaf(deviation, deviation, squares);
        }
    squares = across_warps(squares, scratch);
    if (warp == 0 && inside) {
        partial[size_t(blockIdx.y) * 2 * p.columns + column] = mean;
        partial[(size_t(blockIdx.y) * 2 + 1) * p.columns + column] = squares;
    }
}

// saved [2,C] from the chunks (train) or the running statistics; updates the running statistics in training.
EPI_KERNEL(batch_norm_finish, 256, 4,
           (BatchNormParams p, const float* partial, float* running_mean, float* running_var, float* saved)) {
    const int column = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (column >= p.columns) return;
    double mean = running_mean[column], var = running_var[column];
    if (p.train) {
        double count = 0.0, squares = 0.0;
        mean = 0.0;
        for (int chunk = 0; chunk < p.chunks; ++chunk) {
            const double n = min(p.rows - chunk * p.chunk, p.chunk);
            const double delta = partial[size_t(chunk) * 2 * p.columns + column] - mean;
            mean += delta * n / (count + n);
            squares += partial[(size_t(chunk) * 2 + 1) * p.columns + column] + delta * delta * count * n / (count + n);
            count += n;
        }
        var = squares / count;
        const double keep = 1.0 - double(p.momentum);
        running_mean[column] = float(keep * running_mean[column] + p.momentum * mean);
        running_var[column] = float(keep * running_var[column] + p.momentum * squares / (count - 1.0));
    }
    saved[column] = float(mean);
    saved[p.columns + column] = float(1.0 / sqrt(var + double(p.eps)));
}

EPI_KERNEL(batch_norm_forward, 256, 4,
           (BatchNormParams p, const float* inp, const float* gamma, const float* beta, const float* saved, float* out)) {
    const int count = p.rows * p.columns;
    for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < count; i += int(gridDim.x * blockDim.x)) {
        const int c = i % p.columns;
        out[i] = fmaf((inp[i] - saved[c]) * saved[p.columns + c], gamma[c], beta[c]);
    }
}

// partial [chunks,2,C]: Σ dout and Σ dout x̂ of a chunk of rows.
EPI_KERNEL(batch_norm_backward_partial, 256, 4,
           (BatchNormParams p, const float* inp, const float* saved, const float* dout, float* partial)) {
    EPI_SHARED(float, scratch, 8 * 32);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    const int column = int(blockIdx.x) * 32 + lane;
    const bool inside = column < p.columns;
    const int first = int(blockIdx.y) * p.chunk, last = min(p.rows, first + p.chunk);
    const float mean = inside ? saved[column] : 0.0f, invstd = inside ? saved[p.columns + column] : 0.0f;
    float sum = 0.0f, sum_hat = 0.0f;
    if (inside)
        for (int row = first + warp; row < last; row += 8) {
            const size_t i = size_t(row) * p.columns + column;
            sum += dout[i];
            sum_hat = fmaf(dout[i], (inp[i] - mean) * invstd, sum_hat);
        }
    sum = across_warps(sum, scratch);
    sum_hat = across_warps(sum_hat, scratch);
    if (warp == 0 && inside) {
        partial[size_t(blockIdx.y) * 2 * p.columns + column] = sum;
        partial[(size_t(blockIdx.y) * 2 + 1) * p.columns + column] = sum_hat;
    }
}

// sums [2,C] = Σ dout, Σ dout x̂; dgamma and dbeta may be null.
EPI_KERNEL(batch_norm_backward_finish, 256, 4,
           (BatchNormParams p, const float* partial, float* sums, float* dgamma, float* dbeta)) {
    const int column = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (column >= p.columns) return;
    float sum = 0.0f, sum_hat = 0.0f;
    for (int chunk = 0; chunk < p.chunks; ++chunk) {
        sum += partial[size_t(chunk) * 2 * p.columns + column];
        sum_hat += partial[(size_t(chunk) * 2 + 1) * p.columns + column];
    }
    sums[column] = sum;
    sums[p.columns + column] = sum_hat;
    if (dbeta != nullptr) dbeta[column] += sum;
    if (dgamma != nullptr) dgamma[column] += sum_hat;
}

EPI_KERNEL(batch_norm_backward_input, 256, 4,
           (BatchNormParams p, const float* inp, const float* gamma, const float* saved, const float* sums,
            const float* dout, float* dinp)) {
    const int count = p.rows * p.columns;
    const float inverse_rows = 1.0f / float(p.rows);
    for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < count; i += int(gridDim.x * blockDim.x)) {
        const int c = i % p.columns;
        const float invstd = saved[p.columns + c];
        float value = dout[i];
        if (p.train) {
            const float hat = (inp[i] - saved[c]) * invstd;
            value -= (sums[c] + hat * sums[p.columns + c]) * inverse_rows;
        }
        dinp[i] = gamma[c] * invstd * value;
    }
}
