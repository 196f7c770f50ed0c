// DNA block: one-hot convolution, batch norm (or a bias), ReLU, max pool and dropout in one pass over bit planes.
//   y[b,i,c] = Σ_{k<K} weight[c, base(b,i+k), k]                         N contributes nothing
//   out[b,p,c] = dropout( max_{j<pool} relu( y[b, p pool + j, c] scale[c] + shift[c] ) )
//   winner[b,p,c] = first j that attains the maximum; 255 where ReLU cut it
// planes [B,3,words] of 64 bits: low and high bit of the code, known; weight [C,4,K]; out, winner [B,P,C]; K <= 64.
//
// Batch statistics in closed form. A window is a one-hot vector x of 4K entries, y = w·x, so over all N = B (L-K+1) windows
//   mean = w·s1 / N,   var = wᵀ S2 w / N - mean²,   s1 = Σ x,   S2 = Σ x xᵀ
// and S2 is made of integers: counts[d,k,a,a'] = windows with base a at tap k and a' at tap k+d, by popcount over the bit
// planes (a lag has the count of tap 0, and each next tap loses one pair at the front and gains one at the back).
// So scale and shift are known before the convolution runs, and the C x L output never exists.
// Backward, with g = dout (dropout undone) at the winners and G = Σ g x over them, a = gamma invstd:
//   dbeta = Σ g;   dgamma = invstd (w·G - mean dbeta)
//   dw = a [G - dbeta/N s1 - dgamma invstd/N (S2 w - mean s1)]           running statistics: dw = a G; bias: dw = G
//
// FLOPs 2 B L' C K as a dense convolution; done here as B L' C ceil(K/2) table look-ups. Bytes B (3 L/8 + 5 P C).
// Geometry and determinism: every kernel below says its own; integers or fixed orders throughout, no atomics.
// Source: the closed form is this project's (shared statistics of one-hot windows); look-up convolution after Alipanahi
// et al. 2015's motif scan.
#include "include/common.cuh"
#include "include/dna.cuh"

constexpr int MODE_BIAS = 0, MODE_RUNNING = 1, MODE_BATCH = 2;
constexpr int COUNT_SAMPLES = 8; // samples per block of dna_count

// counts [slices,K,K,16] of slice blockIdx.y at lag d = blockIdx.x; taps k with k + d < K. 256 threads.
EPI_KERNEL(dna_count, 256, 2, (DnaConvParams p, const uint64_t* planes, int* counts)) {
    EPI_SHARED(int, shared, 64 * 16);
    const int d = int(blockIdx.x), taps = p.kernel - d;
    const int first = int(blockIdx.y) * COUNT_SAMPLES, samples = min(COUNT_SAMPLES, p.batch - first);
    int pairs[16] = {};
    for (int i = int(threadIdx.x); i < samples * p.words; i += 256) {
        const int word = i % p.words, start = word * 64;
        if (start >= p.conv_length) continue;
        const uint64_t* sample = planes + size_t(first + i / p.words) * 3 * p.words;
        const Window left = dna_window(sample, p.words, start), right = dna_window(sample, p.words, start + d);
        const int inside = p.conv_length - start;
        const uint64_t mask = inside >= 64 ? ~uint64_t(0) : (uint64_t(1) << inside) - 1;
        EPI_UNROLL for (int a = 0; a < 4; ++a) {
            const uint64_t here = left.is(a) & mask;
            EPI_UNROLL for (int b = 0; b < 4; ++b) pairs[a * 4 + b] += __popcll(here & right.is(b));
        }
    }
    EPI_UNROLL for (int i = 0; i < 16; ++i) {
        const int sum = warp_sum(pairs[i]);
        if (lane_id() == 0) shared[warp_id() * 16 + i] = sum;
    }
    __syncthreads();
    int total = 0;
    if (threadIdx.x < 16)
        for (int w = 0; w < 8; ++w) total += shared[w * 16 + threadIdx.x];
    __syncthreads();
    for (int i = int(threadIdx.x); i < (taps - 1) * 16; i += 256) { // change from tap k to k + 1
        const int k = i / 16, a = i % 16 / 4, b = i % 4;
        int change = 0;
        for (int s = 0; s < samples; ++s) {
            const uint64_t* sample = planes + size_t(first + s) * 3 * p.words;
            const int back = k + p.conv_length;
            change += int(dna_code(sample, p.words, back) == a && dna_code(sample, p.words, back + d) == b);
            change -= int(dna_code(sample, p.words, k) == a && dna_code(sample, p.words, k + d) == b);
        }
        shared[i] = change;
    }
    __syncthreads();
    if (threadIdx.x < 16) {
        int* to = counts + ((size_t(blockIdx.y) * p.kernel + d) * p.kernel) * 16 + threadIdx.x;
        for (int k = 0; k < taps; ++k) {
            to[k * 16] = total;
            if (k + 1 < taps) total += shared[k * 16 + threadIdx.x];
        }
    }
}

// Adds the slices: counts [K,K,16]. One thread an entry.
EPI_KERNEL(dna_count_merge, 256, 4, (DnaConvParams p, const int* slices, int* counts)) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x), size = p.kernel * p.kernel * 16;
    const int d = i / (p.kernel * 16), k = i / 16 % p.kernel;
    if (i >= size || k + d >= p.kernel) return;
    int sum = 0;
    for (int s = 0; s < p.slices; ++s) sum += slices[size_t(s) * size + i];
    counts[i] = sum;
}

// moments [2,C] f64: mean and invstd; affine [3,C]: centre, scale and shift of (y - centre) scale + shift, which does not
// cancel where the variance is tiny. One block of 128 threads a channel.
EPI_KERNEL(dna_conv_fold, 128, 4,
           (DnaConvParams p, const int* counts, const float* weight, const float* gamma, const float* beta, float* running_mean,
            float* running_var, double* moments, float* affine)) {
    EPI_SHARED(double, scratch, WARP);
    const int c = int(blockIdx.x), K = p.kernel;
    const float* w = weight + size_t(c) * 4 * K;
    double mean = 0.0, var = 0.0;
    if (p.mode == MODE_BATCH) {
        double sum = 0.0, squares = 0.0;
        for (int i = int(threadIdx.x); i < K * K * 16; i += 128) {
            const int d = i / (K * 16), k = i / 16 % K, a = i % 16 / 4, b = i % 4;
            if (k + d >= K || (d == 0 && a != b)) continue;
            const double count = counts[i], left = w[a * K + k];
            if (d == 0) sum += left * count;
            squares += (d == 0 ? 1.0 : 2.0) * left * double(w[b * K + k + d]) * count;
        }
        const double windows = double(p.batch) * p.conv_length;
        mean = block_sum(sum, scratch) / windows;
        var = fmax(block_sum(squares, scratch) / windows - mean * mean, 0.0);
    }
    if (threadIdx.x != 0) return;
    double scale = 1.0, invstd = 1.0;
    if (p.mode != MODE_BIAS) {
        if (p.mode == MODE_RUNNING) {
            mean = running_mean[c];
            var = running_var[c];
        } else {
            const double windows = double(p.batch) * p.conv_length, keep = 1.0 - double(p.momentum);
            running_mean[c] = float(keep * running_mean[c] + p.momentum * mean);
            running_var[c] = float(keep * running_var[c] + p.momentum * var * windows / (windows - 1.0));
        }
        invstd = 1.0 / sqrt(var + double(p.eps));
        scale = double(gamma[c]) * invstd;
    }
    moments[c] = mean;
    moments[p.channels + c] = invstd;
    affine[c] = float(mean);
    affine[p.channels + c] = float(scale);
    affine[2 * p.channels + c] = beta[c];
}

// Forward. Grid (chunks of pooled positions, ceil(C/32), B), 256 threads: lanes walk channels, warps walk pooled positions.
// GROUP taps share a table of 5^GROUP sums per channel in shared memory (fifth base: N). With TAPS and POOL known, the rows of
// the table are fetched once for a pooled position, and a look-up is a load and an addition; 0: any. Same bits.
template <int GROUP, int TAPS = 0, int POOL = 0>
EPI_DEVICE void dna_conv_forward(const DnaConvParams& p, int chunk, const StepState* step, const uint64_t* planes,
                                 const float* weight, const float* affine, float* out, uint8_t* winner) {
    constexpr int ROWS = GROUP == 1 ? 5 : 25;
    const int K = TAPS != 0 ? TAPS : p.kernel, groups = ceil_div(K, GROUP), pool = POOL != 0 ? POOL : p.pool;
    const int first = int(blockIdx.x) * chunk, last = min(p.pooled, first + chunk);
    const int start = first * pool, bases = (last - first) * pool + K;
    SharedArena arena;
    float* table = arena.take<float>(groups * ROWS * WARP);
    uint8_t* index = arena.take<uint8_t>(chunk * pool + K);
    const int c = int(blockIdx.y) * WARP + lane_id();
    const bool inside = c < p.channels;
    const float centre = inside ? affine[c] : 0.0f, scale = inside ? affine[p.channels + c] : 0.0f;
    const float shift = inside ? affine[2 * p.channels + c] : 0.0f;
    const uint64_t* sample = planes + size_t(blockIdx.z) * 3 * p.words;

    for (int i = int(threadIdx.x); i < bases; i += 256) {
        int row = dna_code(sample, p.words, start + i);
        if (GROUP == 2) row = row * 5 + dna_code(sample, p.words, start + i + 1);
        index[i] = uint8_t(row);
    }
    for (int row = warp_id(); row < groups * ROWS; row += 8) {
        const int k = row / ROWS * GROUP, code = row % ROWS;
        float sum = 0.0f;
        if (inside) {
            const float* w = weight + size_t(c) * 4 * K + k;
            const int one = GROUP == 1 ? code : code / 5, two = GROUP == 1 ? 4 : code % 5;
            if (one < 4) sum = w[one * K];
            if (two < 4 && k + 1 < K) sum += w[two * K + 1];
        }
        table[row * WARP + lane_id()] = sum;
    }
    __syncthreads();

    const uint32_t philox_step = p.dropout.threshold != 0 ? step->philox_step : 0;
    for (int pooled = first + warp_id(); pooled < last; pooled += 8) {
        float best = -INFINITY;
        int best_j = 0;
        const uint8_t* window = index + (pooled - first) * pool;
        constexpr int KNOWN = TAPS != 0 ? POOL + (TAPS - 1) / GROUP * GROUP : 1;
        const float* row[KNOWN];
        if constexpr (TAPS != 0)
            EPI_UNROLL for (int i = 0; i < KNOWN; ++i) row[i] = table + window[i] * WARP + lane_id();
        EPI_UNROLL_BY(POOL != 0 ? POOL : 1) for (int j = 0; j < pool; ++j) {
            float sum = 0.0f;
            if constexpr (TAPS != 0) {
                EPI_UNROLL for (int g = 0; g < ceil_div(TAPS, GROUP); ++g) sum += row[j + g * GROUP][g * ROWS * WARP];
            } else {
                for (int g = 0; g < groups; ++g) sum += table[(g * ROWS + window[j + g * GROUP]) * WARP + lane_id()];
            }
            const float value = fmaf(sum - centre, scale, shift);
            if (value > best || value != value) { // NaN must not vanish
                best = value;
                best_j = j;
            }
        }
        if (!inside) continue;
        const uint64_t at = (uint64_t(blockIdx.z) * p.pooled + pooled) * p.channels + c;
        winner[at] = best <= 0.0f ? uint8_t(255) : uint8_t(best_j);
        float value = best <= 0.0f ? 0.0f : best;
        if (p.dropout.threshold != 0) value *= dropout_factor(p.dropout, philox_step, at);
        out[at] = value;
    }
}

EPI_KERNEL(dna_conv_forward_1, 256, 2,
           (DnaConvParams p, int chunk, const StepState* step, const uint64_t* planes, const float* weight, const float* affine,
            float* out, uint8_t* winner)) {
    dna_conv_forward<1>(p, chunk, step, planes, weight, affine, out, winner);
}
// 13 taps pooled by 6: EPSAT's.
EPI_KERNEL(dna_conv_forward_2_13_6, 256, 2,
           (DnaConvParams p, int chunk, const StepState* step, const uint64_t* planes, const float* weight, const float* affine,
            float* out, uint8_t* winner)) {
    dna_conv_forward<2, 13, 6>(p, chunk, step, planes, weight, affine, out, winner);
}
EPI_KERNEL(dna_conv_forward_2, 256, 2,
           (DnaConvParams p, int chunk, const StepState* step, const uint64_t* planes, const float* weight, const float* affine,
            float* out, uint8_t* winner)) {
    dna_conv_forward<2>(p, chunk, step, planes, weight, affine, out, winner);
}

// partial [slices, 4K+1, C]: G (row k*4+a) and, last, Σ g of a slice of `rows` pooled rows (b,p).
// Grid (slices, ceil(C/32)), up to 8 warps: lanes walk channels, each with its own column of sums in shared memory; warps
// walk rows and are added in order.
EPI_KERNEL(dna_conv_backward_partial, 256, 2,
           (DnaConvParams p, int rows, const StepState* step, const uint64_t* planes, const uint8_t* winner, const float* dout,
            float* partial)) {
    SharedArena arena;
    const int entries = 4 * p.kernel + 1, warps = warp_count(), lane = lane_id();
    float* sums = arena.take<float>(warps * entries * WARP);
    float* mine = sums + warp_id() * entries * WARP + lane;
    for (int i = 0; i < entries; ++i) mine[i * WARP] = 0.0f;
    const int c = int(blockIdx.y) * WARP + lane;
    const int first = int(blockIdx.x) * rows, last = min(p.batch * p.pooled, first + rows);
    const uint32_t philox_step = p.dropout.threshold != 0 ? step->philox_step : 0;
    float total = 0.0f;
    for (int row = first + warp_id(); row < last; row += warps) {
        if (c >= p.channels) continue;
        const uint64_t at = uint64_t(row) * p.channels + c;
        const int j = winner[at];
        if (j == 255) continue;
        float g = dout[at];
        if (p.dropout.threshold != 0) g *= dropout_factor(p.dropout, philox_step, at);
        total += g;
        const uint64_t* sample = planes + size_t(row / p.pooled) * 3 * p.words;
        Window x = dna_window(sample, p.words, row % p.pooled * p.pool + j);
        for (int k = 0; k < p.kernel; ++k) {
            if (x.known & 1) mine[(k * 4 + int(x.low & 1) + 2 * int(x.high & 1)) * WARP] += g;
            x.low >>= 1;
            x.high >>= 1;
            x.known >>= 1;
        }
    }
    mine[(entries - 1) * WARP] = total;
    __syncthreads();
    for (int i = warp_id(); i < entries; i += warps) {
        float sum = 0.0f;
        for (int w = 0; w < warps; ++w) sum += sums[(w * entries + i) * WARP + lane];
        if (c < p.channels) partial[(size_t(blockIdx.x) * entries + i) * p.channels + c] = sum;
    }
}

// Gradients from the slices, the counts and the moments; null slots are skipped. One block of 128 threads a channel.
EPI_KERNEL(dna_conv_backward_finish, 128, 4,
           (DnaConvParams p, const float* partial, const int* counts, const double* moments, const float* weight,
            const float* gamma, float* dweight, float* dgamma, float* dbeta)) {
    EPI_SHARED(double, scratch, WARP);
    EPI_SHARED(double, selected, 4 * 64 + 1);
    const int c = int(blockIdx.x), K = p.kernel, entries = 4 * K + 1;
    for (int i = int(threadIdx.x); i < entries; i += 128) {
        double sum = 0.0;
        for (int s = 0; s < p.slices; ++s) sum += partial[(size_t(s) * entries + i) * p.channels + c];
        selected[i] = sum;
    }
    __syncthreads();
    const float* w = weight + size_t(c) * 4 * K; // [4,K]
    double product = 0.0;
    for (int i = int(threadIdx.x); i < 4 * K; i += 128) product += double(w[i % 4 * K + i / 4]) * selected[i];
    const double mean = moments[c], invstd = moments[p.channels + c], sum = selected[4 * K];
    const double dg = invstd * (block_sum(product, scratch) - mean * sum);
    if (threadIdx.x == 0) {
        if (dbeta != nullptr) dbeta[c] += float(sum);
        if (dgamma != nullptr && p.mode != MODE_BIAS) dgamma[c] += float(dg);
    }
    if (dweight == nullptr) return;
    const double scale = p.mode == MODE_BIAS ? 1.0 : double(gamma[c]) * invstd;
    const double inverse = 1.0 / (double(p.batch) * p.conv_length);
    for (int i = int(threadIdx.x); i < 4 * K; i += 128) {
        const int k = i / 4, a = i % 4;
        double value = selected[i];
        if (p.mode == MODE_BATCH) {
            double covariance = 0.0; // (S2 w)[k,a]
            for (int other = 0; other < K; ++other) {
                const int d = other < k ? k - other : other - k, from = other < k ? other : k;
                const int* pair = counts + (d * K + from) * 16;
                for (int b = 0; b < 4; ++b) covariance += double(w[b * K + other]) * pair[other < k ? b * 4 + a : a * 4 + b];
            }
            const double single = counts[k * 16 + a * 5];
            value -= inverse * (sum * single + dg * invstd * (covariance - mean * single));
        }
        dweight[(size_t(c) * 4 + a) * K + k] += float(scale * value);
    }
}
