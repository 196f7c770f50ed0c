// Reconstruction of DNA, and the normal latent variables of a variational autoencoder.
//   reconstruction  [3] = Σ (recon - onehot)², bases whose largest channel (the first of equals) is theirs, bases known
//   its backward    drecon = 2 dsquares (recon - onehot)                                         recon [B,L,4], N all zeros
//   sample          out = mean + e^(v/2) noise;  its backward  dv = dout e^(v/2) noise / 2;      mean, v (log variance) [B,D]
//   KL              [1] = Σ (mean² + e^v - 1 - v) / 2B;        dmean = dkl mean / B, dv = dkl (e^v - 1) / 2B
// Bytes: what is named, once. DNA is read from its bit planes, noise is made from its counter (rng::Noise, word for word up to
// the rounding of f32). Grid-stride loops of 256 threads; sums: `chunk` bases a block, partial [chunks,3], added in order in f64
// by one block; KL: one block. Deterministic.
#include "include/dna.cuh"

// Element of the one-hot sequence.
EPI_DEVICE float onehot(const ReconstructionParams& p, const uint64_t* planes, int base, int a) {
    const uint64_t* sample = planes + size_t(base / p.length) * 3 * p.words;
    return dna_code(sample, p.words, base % p.length) == a ? 1.0f : 0.0f;
}

EPI_KERNEL(reconstruction_partial, 256, 2, (ReconstructionParams p, const float* recon, const uint64_t* planes, double* partial)) {
    EPI_SHARED(double, scratch, WARP);
    const int first = int(blockIdx.x) * p.chunk, last = min(p.bases, first + p.chunk);
    double squares = 0.0;
    int right = 0, known = 0;
    for (int base = first + int(threadIdx.x); base < last; base += 256) {
        const uint64_t* sample = planes + size_t(base / p.length) * 3 * p.words;
        const int code = dna_code(sample, p.words, base % p.length);
        int best = 0;
        float top = recon[size_t(base) * 4];
        EPI_UNROLL for (int a = 0; a < 4; ++a) {
            const float value = recon[size_t(base) * 4 + a];
            const float difference = value - (a == code ? 1.0f : 0.0f);
            squares += double(difference) * double(difference);
            if (value > top) {
                top = value;
                best = a;
            }
        }
        known += code < 4;
        right += code < 4 && best == code;
    }
    squares = block_sum(squares, scratch);
    const double all_right = block_sum(double(right), scratch), all_known = block_sum(double(known), scratch);
    if (threadIdx.x == 0) {
        partial[size_t(blockIdx.x) * 3] = squares;
        partial[size_t(blockIdx.x) * 3 + 1] = all_right;
        partial[size_t(blockIdx.x) * 3 + 2] = all_known;
    }
}

EPI_KERNEL(reconstruction_finish, 32, 1, (int chunks, const double* partial, float* out)) {
    const int which = int(threadIdx.x);
    if (which >= 3) return;
    double sum = 0.0;
    for (int chunk = 0; chunk < chunks; ++chunk) sum += partial[size_t(chunk) * 3 + which];
    out[which] = float(sum);
}

EPI_KERNEL(reconstruction_backward, 256, 4,
           (ReconstructionParams p, const float* recon, const uint64_t* planes, const float* dsquares, float* drecon)) {
    const float factor = 2.0f * dsquares[0];
    for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < p.bases * 4; i += int(gridDim.x * blockDim.x))
        drecon[i] = factor * (recon[i] - onehot(p, planes, i / 4, i % 4));
}

EPI_DEVICE float noise(const NoiseParams& p, uint32_t step, int e) {
    const uint4 words = philox_block(p.seed, p.stream, step, uint64_t(e) / 4);
    const uint32_t first = e & 2 ? words.z : words.x, second = e & 2 ? words.w : words.y;
    const float unit = 1.0f / 16777216.0f;
    const float radius = sqrtf(-2.0f * logf(float((first >> 8) + 1u) * unit));
    const float angle = 6.283185307f * (float(second >> 8) * unit);
    return radius * (e & 1 ? sinf(angle) : cosf(angle));
}

EPI_KERNEL(sample_normal_forward, 256, 4,
           (NoiseParams p, const StepState* step, const float* mean, const float* log_variance, float* out)) {
    const uint32_t at = step->philox_step;
    for (int e = int(blockIdx.x * blockDim.x + threadIdx.x); e < p.count; e += int(gridDim.x * blockDim.x))
        out[e] = fmaf(expf(0.5f * log_variance[e]), noise(p, at, e), mean[e]);
}

EPI_KERNEL(sample_normal_backward, 256, 4,
           (NoiseParams p, const StepState* step, const float* log_variance, const float* dout, float* dlog_variance)) {
    const uint32_t at = step->philox_step;
    for (int e = int(blockIdx.x * blockDim.x + threadIdx.x); e < p.count; e += int(gridDim.x * blockDim.x))
        dlog_variance[e] = 0.5f * dout[e] * expf(0.5f * log_variance[e]) * noise(p, at, e);
}

EPI_KERNEL(kl_forward, 256, 1, (LatentParams p, const float* mean, const float* log_variance, float* out)) {
    EPI_SHARED(double, scratch, WARP);
    double sum = 0.0;
    for (int e = int(threadIdx.x); e < p.batch * p.size; e += 256) {
        const float v = log_variance[e];
        sum += double(mean[e]) * double(mean[e]) + double(expm1f(v)) - double(v);
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) out[0] = float(0.5 * sum / double(p.batch));
}

EPI_KERNEL(kl_backward, 256, 4,
           (LatentParams p, const float* mean, const float* log_variance, const float* dkl, float* dmean, float* dlog_variance)) {
    const float share = dkl[0] / float(p.batch);
    for (int e = int(blockIdx.x * blockDim.x + threadIdx.x); e < p.batch * p.size; e += int(gridDim.x * blockDim.x)) {
        dmean[e] = share * mean[e];
        dlog_variance[e] = 0.5f * share * expm1f(log_variance[e]);
    }
}
