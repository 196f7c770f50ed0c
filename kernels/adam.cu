// The optimiser on flat buffers of n elements, with a table of ranges (offset, length, l2, frozen) sorted by offset;
// elements in no range are left alone, those of a frozen one get their l2 gradient and nothing else.
//   finish   grads += 2 l2 params;     norm [1] = sqrt(Σ grads²) over what is not frozen
//   l2       penalty [1] = Σ l2 params² over all ranges
//   adam     g = grads min(1, clip / (norm + 1e-6));   m += (1-beta1)(g - m);   v += (1-beta2)(g² - v)
//            params -= lr / bias1 * m / (sqrt(v) / sqrt(bias2) + eps),   lr and bias corrections from the StepState
//            nothing at all if norm is not finite
// Bytes: finish 12 n, l2 4 n, adam 28 n. Grid: chunks of `chunk` elements, 256 threads. Squares are added in f64: a thread's in
// order of index, lanes by butterfly, warps and blocks in order. Deterministic. Source: Kingma & Ba 2015, as PyTorch.
#include "include/common.cuh"
#include "include/params.cuh"

// The range that holds element i; -1 where there is none.
EPI_DEVICE int range_of(const ParamRange* ranges, int count, int i) {
    int low = 0, high = count; // ranges[low..high) may hold i
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (ranges[middle].offset <= i) low = middle;
        else high = middle;
    }
    return count > 0 && i >= ranges[low].offset && i - ranges[low].offset < ranges[low].len ? low : -1;
}

EPI_KERNEL(finish_gradients, 256, 4,
           (AdamParams p, const ParamRange* ranges, const float* params, float* grads, double* partial)) {
    EPI_SHARED(double, scratch, WARP);
    const int first = int(blockIdx.x) * p.chunk, last = min(p.count, first + p.chunk);
    double sum = 0.0;
    for (int i = first + int(threadIdx.x); i < last; i += 256) {
        const int range = range_of(ranges, p.ranges, i);
        if (range < 0) continue;
        float g = grads[i];
        if (ranges[range].l2 != 0.0f) {
            g = fmaf(2.0f * ranges[range].l2, params[i], g);
            grads[i] = g;
        }
        if (!ranges[range].frozen) sum += double(g) * double(g);
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// Sum of the blocks' partial sums, in thread 0.
EPI_DEVICE double sum_partial(int chunks, const double* partial, double* scratch) {
    double sum = 0.0;
    for (int i = int(threadIdx.x); i < chunks; i += 256) sum += partial[i];
    return block_sum(sum, scratch);
}

EPI_KERNEL(gradient_norm, 256, 1, (AdamParams p, const double* partial, float* norm)) {
    EPI_SHARED(double, scratch, WARP);
    const double sum = sum_partial(p.chunks, partial, scratch);
    if (threadIdx.x == 0) norm[0] = float(sqrt(sum));
}

EPI_KERNEL(l2_partial, 256, 4, (AdamParams p, const ParamRange* ranges, const float* params, double* partial)) {
    EPI_SHARED(double, scratch, WARP);
    const int first = int(blockIdx.x) * p.chunk, last = min(p.count, first + p.chunk);
    double sum = 0.0;
    for (int i = first + int(threadIdx.x); i < last; i += 256) {
        const int range = range_of(ranges, p.ranges, i);
        if (range < 0 || ranges[range].l2 == 0.0f) continue;
        sum += double(ranges[range].l2) * (double(params[i]) * double(params[i]));
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

EPI_KERNEL(l2_finish, 256, 1, (AdamParams p, const double* partial, float* penalty)) {
    EPI_SHARED(double, scratch, WARP);
    const double sum = sum_partial(p.chunks, partial, scratch);
    if (threadIdx.x == 0) penalty[0] = float(sum);
}

EPI_KERNEL(adam_step, 256, 4,
           (AdamParams p, const ParamRange* ranges, const StepState* step, const float* norm, const float* grads,
            float* params, float* m, float* v)) {
    if (!isfinite(norm[0])) return;
    const float factor = p.clip > 0.0f ? fminf(1.0f, p.clip / (norm[0] + 1e-6f)) : 1.0f;
    const float rate = step->lr / step->bias_correction1, root = sqrtf(step->bias_correction2);
    const int first = int(blockIdx.x) * p.chunk, last = min(p.count, first + p.chunk);
    for (int i = first + int(threadIdx.x); i < last; i += 256) {
        const int range = range_of(ranges, p.ranges, i);
        if (range < 0 || ranges[range].frozen) continue;
        const float g = grads[i] * factor;
        m[i] += (1.0f - p.beta1) * (g - m[i]);
        v[i] += (1.0f - p.beta2) * (g * g - v[i]);
        params[i] -= rate * m[i] / (sqrtf(v[i]) / root + p.eps);
    }
}
