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
// FLOPs 2 B L' C K as a dense convolution; done here as B L' C K/2 table look-ups, K/3.3 where the shape is known; those are bound
// by shared memory (40 taps) or instructions (13). Bytes B (3 L/8 + 5 P C).
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

// Forward, any taps and pooling. Grid (chunks of pooled positions, ceil(C/32), B), 256 threads: lanes walk channels, warps walk
// pooled positions. GROUP taps share a table of 5^GROUP sums per channel in shared memory (fifth base: N).
template <int GROUP>
EPI_DEVICE void dna_conv_forward(const DnaConvParams& p, int chunk, const StepState* step, const uint64_t* planes,
                                 const float* weight, const float* affine, float* out, uint8_t* winner) {
    constexpr int ROWS = GROUP == 1 ? 5 : 25;
    const int K = p.kernel, groups = ceil_div(K, GROUP);
    const int first = int(blockIdx.x) * chunk, last = min(p.pooled, first + chunk);
    const int start = first * p.pool, bases = (last - first) * p.pool + K;
    SharedArena arena;
    float* table = arena.take<float>(groups * ROWS * WARP);
    uint8_t* index = arena.take<uint8_t>(chunk * p.pool + K);
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
        const uint8_t* window = index + (pooled - first) * p.pool;
        for (int j = 0; j < p.pool; ++j) {
            float sum = 0.0f;
            for (int g = 0; g < groups; ++g) sum += table[(g * ROWS + window[j + g * GROUP]) * WARP + lane_id()];
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
EPI_KERNEL(dna_conv_forward_2, 256, 2,
           (DnaConvParams p, int chunk, const StepState* step, const uint64_t* planes, const float* weight, const float* affine,
            float* out, uint8_t* winner)) {
    dna_conv_forward<2>(p, chunk, step, planes, weight, affine, out, winner);
}

// Forward of a known shape: few, wide look-ups. TAPS are cut into sets of four groups of three or four, so that a group's row is
// six or eight bits of the sequence. A line of the table has a row of all four groups, eight channels each: 128 bytes. A lane has
// four channels and a pooled position of its own; the four positions that meet in a quarter of a warp begin with different
// groups, so that every look-up of 16 bytes is free of bank conflicts. Sums are trees, ((a+b)+(c+d)) over taps and groups alike,
// whose bits do not depend on where one begins. Positions whose windows have an N follow at the end, straight from the weights.
template <int TAPS> struct Sets {
    static constexpr int COUNT = (TAPS + 15) / 16, FOURS = TAPS - 12 * COUNT; // groups of four taps: the first ones
    static constexpr int WIDE = (FOURS + 3) / 4;                              // sets that have some
    static_assert(FOURS >= 0, "groups have three or four taps");
    EPI_CONSTEXPR int fours(int set) { return FOURS < 4 * set ? 0 : FOURS < 4 * set + 4 ? FOURS - 4 * set : 4; }
    // First tap of a group, counted from the set's first or from the filter's; its taps.
    EPI_CONSTEXPR int within(int set, int group) { return 3 * group + (group < fours(set) ? group : fours(set)); }
    EPI_CONSTEXPR int tap(int set, int group) { return 12 * set + (4 * set < FOURS ? 4 * set : FOURS) + within(set, group); }
    EPI_CONSTEXPR int taps(int set, int group) { return group < fours(set) ? 4 : 3; }
    // Sixteen lines share the third and fourth base. First such block of a set; of set COUNT: all of them.
    EPI_CONSTEXPR int block(int set) { return set < WIDE ? 16 * set : 16 * WIDE + 4 * (set - WIDE); }
    EPI_CONSTEXPR int set_of(int block) { return block < 16 * WIDE ? block / 16 : WIDE + (block - 16 * WIDE) / 4; }
};
constexpr int TILE = 8, POSITIONS = 16, LINE = 4 * TILE; // channels of a block, pooled positions of a warp, floats of a line

// Codes of 16 bases, two bits each, from their low and high bits.
EPI_DEVICE uint32_t interleave(uint32_t low, uint32_t high) {
    uint32_t x = (low & 0xFFu) | (high & 0xFFu) << 8 | (low & 0xFF00u) << 8 | (high & 0xFF00u) << 16, swap;
    swap = (x ^ x >> 4) & 0x00F000F0u, x ^= swap ^ swap << 4;
    swap = (x ^ x >> 2) & 0x0C0C0C0Cu, x ^= swap ^ swap << 2;
    swap = (x ^ x >> 1) & 0x22222222u, x ^= swap ^ swap << 1;
    return x;
}

// The maximum so far and the place of the first value that attained it.
struct Best {
    float value[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    int j[4] = {};
    EPI_DEVICE_MEMBER void meet(int channel, float candidate, int at) {
        if (candidate > value[channel] || candidate != candidate) { // NaN must not vanish
            value[channel] = candidate;
            j[channel] = at;
        }
    }
    // Writes the channels from c on of pooled row `row`.
    EPI_DEVICE_MEMBER void store(const DnaConvParams& p, uint32_t philox_step, int row, int c, float* out, uint8_t* winner) const {
        const uint64_t at = uint64_t(row) * p.channels + c;
        const float keep_scale = p.dropout.threshold != 0 ? p.dropout.scale : 1.0f;
        uint32_t kept = ~0u, places = 0;
        if (p.dropout.threshold != 0) {
            kept = dropout_keep8(p.dropout, philox_step, at / 8);
            if (at % 8 > 4) kept |= dropout_keep8(p.dropout, philox_step, at / 8 + 1) << 8;
            kept >>= at % 8;
        }
        float result[4];
        EPI_UNROLL for (int i = 0; i < 4; ++i) {
            places |= (value[i] <= 0.0f ? 255u : uint32_t(j[i])) << (8 * i);
            result[i] = (value[i] <= 0.0f ? 0.0f : value[i]) * (kept >> i & 1 ? keep_scale : 0.0f);
        }
        if (p.channels % 4 == 0) {
            *reinterpret_cast<float4*>(out + at) = make_float4(result[0], result[1], result[2], result[3]);
            *reinterpret_cast<uint32_t*>(winner + at) = places;
            return;
        }
        EPI_UNROLL for (int i = 0; i < 4; ++i) {
            if (c + i >= p.channels) continue;
            out[at + i] = result[i];
            winner[at + i] = uint8_t(places >> (8 * i));
        }
    }
};

// The table of this block's eight channels. A warp makes whole blocks of sixteen lines; its lanes are groups and channels.
template <int TAPS> EPI_DEVICE void fill_table(const DnaConvParams& p, const float* weight, float* table) {
    using Cut = Sets<TAPS>;
    constexpr int PITCH = 4 * TAPS + 1, BLOCKS = Cut::block(Cut::COUNT), TURNS = BLOCKS / 8;
    static_assert(BLOCKS % 8 == 0 && TILE * PITCH <= BLOCKS * 16 * LINE, "whole turns; weights pass through the table's place");
    const int first = int(blockIdx.y) * TILE, present = min(TILE, p.channels - first) * 4 * TAPS;
    for (int i = int(threadIdx.x); i < TILE * 4 * TAPS; i += 256)
        table[i / (4 * TAPS) * PITCH + i % (4 * TAPS)] = i < present ? weight[size_t(first) * 4 * TAPS + i] : 0.0f;
    __syncthreads();
    const int group = lane_id() / TILE;
    float pair[TURNS][16], further[TURNS]; // sums of taps 0 and 1; the one sum of taps 2 and 3
    EPI_UNROLL for (int turn = 0; turn < TURNS; ++turn) {
        const int block = turn * 8 + warp_id(), set = Cut::set_of(block), codes = block - Cut::block(set);
        const float* w = table + lane_id() % TILE * PITCH + Cut::tap(set, group);
        EPI_UNROLL for (int a = 0; a < 16; ++a) pair[turn][a] = w[a % 4 * TAPS] + w[a / 4 * TAPS + 1];
        further[turn] = w[codes % 4 * TAPS + 2] + (Cut::taps(set, group) == 4 ? w[codes / 4 * TAPS + 3] : 0.0f);
    }
    __syncthreads();
    EPI_UNROLL for (int turn = 0; turn < TURNS; ++turn)
        EPI_UNROLL for (int a = 0; a < 16; ++a)
            table[((turn * 8 + warp_id()) * 16 + a) * LINE + lane_id()] = pair[turn][a] + further[turn];
    __syncthreads();
}

EPI_DEVICE float4 sum_of_four(const float4 (&v)[4]) {
    return make_float4((v[0].x + v[1].x) + (v[2].x + v[3].x), (v[0].y + v[1].y) + (v[2].y + v[3].y),
                       (v[0].z + v[1].z) + (v[2].z + v[3].z), (v[0].w + v[1].w) + (v[2].w + v[3].w));
}

// Grid (slices of `chunk` tasks, ceil(C/8)), 256 threads; a task is 16 pooled rows (b,p), a warp takes one after the other.
template <int TAPS, int POOL>
EPI_DEVICE void dna_conv_forward_wide(const DnaConvParams& p, int chunk, const StepState* step, const uint64_t* planes,
                                      const float* weight, const float* affine, float* out, uint8_t* winner) {
    using Cut = Sets<TAPS>;
    constexpr int WORDS = (2 * (POOL + TAPS - 1) + 31) / 32;
    constexpr uint64_t WINDOW = (uint64_t(1) << (POOL + TAPS - 1)) - 1;
    SharedArena arena;
    float* table = arena.take<float>(Cut::block(Cut::COUNT) * 16 * LINE);
    fill_table<TAPS>(p, weight, table);

    const int rows = p.batch * p.pooled, tasks = ceil_div(rows, POSITIONS);
    const int last = min(tasks, (int(blockIdx.x) + 1) * chunk), slot = lane_id() / 2, own = slot % 4;
    const int c = int(blockIdx.y) * TILE + lane_id() % 2 * 4;
    const uint32_t philox_step = p.dropout.threshold != 0 ? step->philox_step : 0;
    float centre[4], scale[4], shift[4];
    EPI_UNROLL for (int i = 0; i < 4; ++i) {
        const bool inside = c + i < p.channels;
        centre[i] = inside ? affine[c + i] : 0.0f;
        scale[i] = inside ? affine[p.channels + c + i] : 0.0f;
        shift[i] = inside ? affine[2 * p.channels + c + i] : 0.0f;
    }
    uint32_t turn[Cut::COUNT][4], column[4]; // how far a group's code is from bit 7; its bytes of a line
    EPI_UNROLL for (int i = 0; i < 4; ++i) {
        column[i] = uint32_t(i ^ own) * (TILE * 4) + lane_id() % 2 * 16;
        EPI_UNROLL for (int set = 0; set < Cut::COUNT; ++set) turn[set][i] = uint32_t(2 * Cut::within(set, i ^ own) - 7) % 32;
    }
    for (int task = int(blockIdx.x) * chunk + warp_id(); task < last; task += 8) {
        const int row = task * POSITIONS + slot;
        if (row >= rows || c >= p.channels) continue;
        const Window x = dna_window(planes + size_t(row / p.pooled) * 3 * p.words, p.words, row % p.pooled * POOL);
        uint32_t bits[WORDS + 1];
        EPI_UNROLL for (int i = 0; i < WORDS; ++i) bits[i] = interleave(uint32_t(x.low >> (16 * i)), uint32_t(x.high >> (16 * i)));
        bits[WORDS] = 0;
        Best best;
        EPI_UNROLL_BY(POOL <= 8 ? POOL : 2) for (int j = 0; j < POOL; ++j) {
            float4 sum;
            EPI_UNROLL for (int set = 0; set < Cut::COUNT; ++set) {
                const int at = 2 * Cut::tap(set, 0);
                const uint32_t codes = __funnelshift_r(bits[at / 32], bits[at / 32 + 1], uint32_t(at % 32));
                const char* lines = reinterpret_cast<const char*>(table + Cut::block(set) * 16 * LINE);
                const uint32_t mask = Cut::fours(set) > 0 ? 255u << 7 : 63u << 7;
                float4 v[4];
                EPI_UNROLL for (int i = 0; i < 4; ++i)
                    v[i] = *reinterpret_cast<const float4*>(lines + ((__funnelshift_r(codes, codes, turn[set][i]) & mask) | column[i]));
                const float4 part = sum_of_four(v);
                sum = set == 0 ? part : make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
            }
            const float sums[4] = {sum.x, sum.y, sum.z, sum.w};
            EPI_UNROLL for (int i = 0; i < 4; ++i) best.meet(i, fmaf(sums[i] - centre[i], scale[i], shift[i]), j);
            EPI_UNROLL for (int i = 0; i < WORDS; ++i) bits[i] = __funnelshift_r(bits[i], bits[i + 1], 2);
        }
        if ((~x.known & WINDOW) == 0) best.store(p, philox_step, row, c, out, winner);
    }
    for (int task = int(blockIdx.x) * chunk + warp_id(); task < last; task += 8) { // what has an N
        const int row = task * POSITIONS + slot;
        if (row >= rows || c >= p.channels) continue;
        Window x = dna_window(planes + size_t(row / p.pooled) * 3 * p.words, p.words, row % p.pooled * POOL);
        if ((~x.known & WINDOW) == 0) continue;
        Best best;
        EPI_UNROLL_BY(1) for (int j = 0; j < POOL; ++j) {
            EPI_UNROLL for (int i = 0; i < 4; ++i) {
                if (c + i >= p.channels) continue;
                const float* w = weight + size_t(c + i) * 4 * TAPS;
                const auto term = [&](int k) {
                    const int code = int(x.low >> k & 1) + 2 * int(x.high >> k & 1);
                    return x.known >> k & 1 ? w[code * TAPS + k] : 0.0f;
                };
                float sum = 0.0f;
                EPI_UNROLL_BY(1) for (int set = 0; set < Cut::COUNT; ++set) {
                    float group[4];
                    EPI_UNROLL for (int g = 0; g < 4; ++g) {
                        const int k = Cut::tap(set, g);
                        group[g] = (term(k) + term(k + 1)) + (term(k + 2) + (Cut::taps(set, g) == 4 ? term(k + 3) : 0.0f));
                    }
                    sum += (group[0] + group[1]) + (group[2] + group[3]);
                }
                best.meet(i, fmaf(sum - centre[i], scale[i], shift[i]), j);
            }
            x = {x.low >> 1, x.high >> 1, x.known >> 1};
        }
        best.store(p, philox_step, row, c, out, winner);
    }
}

// EPSAT's block.
EPI_KERNEL(dna_conv_forward_13_6, 256, 2,
           (DnaConvParams p, int chunk, const StepState* step, const uint64_t* planes, const float* weight, const float* affine,
            float* out, uint8_t* winner)) {
    dna_conv_forward_wide<13, 6>(p, chunk, step, planes, weight, affine, out, winner);
}
// SPEID's block.
EPI_KERNEL(dna_conv_forward_40_20, 256, 2,
           (DnaConvParams p, int chunk, const StepState* step, const uint64_t* planes, const float* weight, const float* affine,
            float* out, uint8_t* winner)) {
    dna_conv_forward_wide<40, 20>(p, chunk, step, planes, weight, affine, out, winner);
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
