// Fused multi-head attention on tensor cores: formulas, shapes and masks of attention.cu, products in bf16 with f32
// accumulation (mma.sync m16n8k16), softmax in f32.
// Inputs are packed first, head by head: packed [3,B,heads,T,DP] and packed_dout [B,heads,T,DP] bf16, zero beyond the head size
// (DP = 32 or 64); packed_dout is zero where the ReLU cut.
// FLOPs 4 B heads T² D forward, 14 backward; bytes 2 B heads T DP x 4, x 12. Grid (ceil(T/64), heads, B), 128 threads: a warp
// owns 16 rows of a 64 x 64 tile; the other side streams through two cp.async stages, swizzled. Score fragments turn into
// operands in registers. backward_key_value works on the transposed tile (rows are keys), so that nothing is exchanged.
// Dropout: one Philox block is 8 keys of a query; a warp computes each block of its tile once and shares it by shuffles.
// Deterministic: dQ, and dK with dV, have a kernel each. Source: Dao, FlashAttention-2 (2023).
#include "include/async_copy.cuh"
#include "include/common.cuh"
#include "include/mma.cuh"
#include "include/params.cuh"

constexpr int TILE = 64, THREADS = 128, NT = TILE / 8;
constexpr float LOG2E = 1.4426950408889634f;

// Place of element (row, d) in a swizzled [64, DP] tile; d is a multiple of 8 for ldmatrix and cp.async.
template <int DP> EPI_DEVICE int place(int row, int d) {
    const int swizzle = DP == 32 ? row / 2 % 4 : row % 8;
    return row * DP + ((d / 8) ^ swizzle) * 8;
}

// Rows first.. of a packed head [T, DP] into a tile; rows beyond T become zero.
template <int DP> EPI_DEVICE void load_tile(bf16* tile, const bf16* head, int first, int time) {
    EPI_UNROLL for (int i = 0; i < TILE * DP / 8 / THREADS; ++i) {
        const int piece = int(threadIdx.x) + i * THREADS, row = piece / (DP / 8), d = piece % (DP / 8) * 8;
        const bool inside = first + row < time;
        cp_async<16>(tile + place<DP>(row, d), inside ? head + size_t(first + row) * DP + d : head, inside ? 16 : 0);
    }
}

// A operand: this warp's 16 rows of a tile.
template <int DP> EPI_DEVICE void load_rows(uint32_t (&a)[DP / 16][4], const bf16* tile) {
    const int matrix = lane_id() / 8, row = warp_id() * 16 + matrix % 2 * 8 + lane_id() % 8;
    EPI_UNROLL for (int k = 0; k < DP / 16; ++k) ldmatrix<4>(a[k], tile + place<DP>(row, k * 16 + matrix / 2 * 8));
}

// acc [16,64] = a [16,DP] tileᵀ
template <int DP> EPI_DEVICE void times_transposed(float (&acc)[NT][4], const uint32_t (&a)[DP / 16][4], const bf16* tile) {
    const int matrix = lane_id() / 8, row = lane_id() % 8;
    EPI_UNROLL for (int n = 0; n < NT; ++n)
        EPI_UNROLL for (int r = 0; r < 4; ++r) acc[n][r] = 0.0f;
    EPI_UNROLL for (int k = 0; k < DP / 16; ++k) {
        EPI_UNROLL for (int n = 0; n < NT; n += 2) {
            uint32_t pair[4];
            ldmatrix<4>(pair, tile + place<DP>(n * 8 + matrix / 2 * 8 + row, k * 16 + matrix % 2 * 8));
            const uint32_t left[2] = {pair[0], pair[1]}, right[2] = {pair[2], pair[3]};
            mma_bf16(acc[n], a[k], left);
            mma_bf16(acc[n + 1], a[k], right);
        }
    }
}

// acc [16,DP] += s [16,64] tile, s rounded to bf16
template <int DP> EPI_DEVICE void add_product(float (&acc)[DP / 8][4], const float (&s)[NT][4], const bf16* tile) {
    const int matrix = lane_id() / 8, row = lane_id() % 8;
    EPI_UNROLL for (int k = 0; k < NT / 2; ++k) {
        const uint32_t a[4] = {to_bf16x2(s[2 * k][0], s[2 * k][1]).bits, to_bf16x2(s[2 * k][2], s[2 * k][3]).bits,
                               to_bf16x2(s[2 * k + 1][0], s[2 * k + 1][1]).bits, to_bf16x2(s[2 * k + 1][2], s[2 * k + 1][3]).bits};
        EPI_UNROLL for (int n = 0; n < DP / 8; n += 2) {
            uint32_t pair[4];
            ldmatrix<4, true>(pair, tile + place<DP>(k * 16 + matrix % 2 * 8 + row, n * 8 + matrix / 2 * 8));
            const uint32_t left[2] = {pair[0], pair[1]}, right[2] = {pair[2], pair[3]};
            mma_bf16(acc[n], a, left);
            mma_bf16(acc[n + 1], a, right);
        }
    }
}

// Bits of the eight kept keys from `key` on (a multiple of 8) of query `query`.
EPI_DEVICE uint32_t kept_keys(const AttentionParams& p, uint32_t step, int query, int key) {
    const uint64_t row = (uint64_t(blockIdx.z) * p.heads + blockIdx.y) * p.time + query;
    return dropout_keep8(p.dropout, step, (row * p.pitch + key) / 8);
}

// Which of this lane's 32 elements are kept: bit n*4+r of element acc[n][r].
// Rows are queries: lane t of a quad computes column blocks t and t+4 of rows g and g+8.
EPI_DEVICE uint32_t kept_by_query(const AttentionParams& p, uint32_t step, int first_query, int first_key) {
    const int g = lane_id() / 4, t = lane_id() % 4, query = first_query + warp_id() * 16 + g;
    uint32_t mine = 0, kept = 0;
    EPI_UNROLL for (int i = 0; i < 4; ++i)
        mine |= kept_keys(p, step, query + i / 2 * 8, first_key + (t + i % 2 * 4) * 8) << (8 * i);
    EPI_UNROLL for (int source = 0; source < 4; ++source) {
        const uint32_t theirs = __shfl_sync(FULL_MASK, mine, lane_id() - t + source);
        EPI_UNROLL for (int half = 0; half < 2; ++half) { // column block n = source + 4 half
            const uint32_t top = theirs >> (8 * half + 2 * t) & 3u, bottom = theirs >> (16 + 8 * half + 2 * t) & 3u;
            kept |= (top | bottom << 2) << (4 * (source + 4 * half));
        }
    }
    return kept;
}

// Rows are keys: lane (g, t) computes both row octets of columns 2t and 2t+1 of column block g.
EPI_DEVICE uint32_t kept_by_key(const AttentionParams& p, uint32_t step, int first_query, int first_key) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    uint32_t mine = 0, kept = 0;
    EPI_UNROLL for (int i = 0; i < 4; ++i)
        mine |= kept_keys(p, step, first_query + g * 8 + 2 * t + i % 2, first_key + warp_id() * 16 + i / 2 * 8) << (8 * i);
    EPI_UNROLL for (int n = 0; n < NT; ++n) {
        const uint32_t theirs = __shfl_sync(FULL_MASK, mine, n * 4 + t) >> g;
        const uint32_t four = (theirs & 1u) | (theirs >> 8 & 1u) << 1 | (theirs >> 16 & 1u) << 2 | (theirs >> 24 & 1u) << 3;
        kept |= four << (4 * n);
    }
    return kept;
}

EPI_DEVICE float sum4(float x) {
    x += __shfl_xor_sync(FULL_MASK, x, 1);
    return x + __shfl_xor_sync(FULL_MASK, x, 2);
}
EPI_DEVICE float max4(float x) {
    x = fmaxf(x, __shfl_xor_sync(FULL_MASK, x, 1));
    return fmaxf(x, __shfl_xor_sync(FULL_MASK, x, 2));
}

// Head blockIdx.y of sample blockIdx.z inside the packed tensors and the row vectors.
EPI_DEVICE size_t head_rows(const AttentionParams& p) { return (size_t(blockIdx.z) * p.heads + blockIdx.y) * p.time; }
template <int DP> EPI_DEVICE const bf16* head_of(const AttentionParams& p, const bf16* packed, int part) {
    return packed + (size_t(part) * p.batch * p.heads * p.time + head_rows(p)) * DP;
}

// Writes this warp's 16 x DP result, scaled, to rows of pitch `stride` of a head.
template <int DP>
EPI_DEVICE void store_rows(const AttentionParams& p, float* out, int stride, int first, const float (&acc)[DP / 8][4], float scale) {
    EPI_UNROLL for (int n = 0; n < DP / 8; ++n) {
        EPI_UNROLL for (int r = 0; r < 4; ++r) {
            const int row = first + warp_id() * 16 + lane_id() / 4 + r / 2 * 8, d = n * 8 + lane_id() % 4 * 2 + r % 2;
            if (row < p.time && d < p.head_size) out[size_t(row) * stride + d] = acc[n][r] * scale;
        }
    }
}

template <int DP>
EPI_DEVICE void attention_forward(const AttentionParams& p, const StepState* step, const bf16* packed, float* out, float* lse) {
    SharedArena arena;
    bf16* query = arena.take<bf16>(TILE * DP);
    bf16* keys = arena.take<bf16>(2 * TILE * DP);
    bf16* values = arena.take<bf16>(2 * TILE * DP);
    const bf16 *k = head_of<DP>(p, packed, 1), *v = head_of<DP>(p, packed, 2);
    const int first = int(blockIdx.x) * TILE, tiles = ceil_div(p.time, TILE), t2 = lane_id() % 4 * 2;
    const bool drops = p.dropout.threshold != 0;
    const uint32_t philox_step = drops ? step->philox_step : 0;
    const float factor = p.scale * LOG2E; // scores in units of log2
    load_tile<DP>(query, head_of<DP>(p, packed, 0), first, p.time);
    load_tile<DP>(keys, k, 0, p.time);
    load_tile<DP>(values, v, 0, p.time);
    cp_async_commit();

    uint32_t q[DP / 16][4];
    float acc[DP / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    for (int tile = 0; tile < tiles; ++tile) {
        if (tile + 1 < tiles) {
            load_tile<DP>(keys + (tile + 1) % 2 * TILE * DP, k, (tile + 1) * TILE, p.time);
            load_tile<DP>(values + (tile + 1) % 2 * TILE * DP, v, (tile + 1) * TILE, p.time);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        if (tile == 0) load_rows<DP>(q, query);
        float s[NT][4];
        times_transposed<DP>(s, q, keys + tile % 2 * TILE * DP);
        const int start = tile * TILE;
        const uint32_t kept = drops ? kept_by_query(p, philox_step, first, start) : ~0u;
        EPI_UNROLL for (int half = 0; half < 2; ++half) { // rows g and g + 8
            float best = top[half];
            EPI_UNROLL for (int n = 0; n < NT; ++n) {
                EPI_UNROLL for (int r = 2 * half; r < 2 * half + 2; ++r) {
                    s[n][r] = start + n * 8 + t2 + r % 2 < p.time ? s[n][r] * factor : -INFINITY;
                    best = fmaxf(best, s[n][r]);
                }
            }
            best = max4(best);
            const float shrink = exp2f(top[half] - best);
            float part = 0.0f;
            EPI_UNROLL for (int n = 0; n < NT; ++n) {
                EPI_UNROLL for (int r = 2 * half; r < 2 * half + 2; ++r) {
                    const float weight = exp2f(s[n][r] - best);
                    part += weight;
                    s[n][r] = kept >> (n * 4 + r) & 1 ? weight : 0.0f;
                }
            }
            top[half] = best;
            sum[half] = sum[half] * shrink + part;
            EPI_UNROLL for (int n = 0; n < DP / 8; ++n) {
                acc[n][2 * half] *= shrink;
                acc[n][2 * half + 1] *= shrink;
            }
        }
        add_product<DP>(acc, s, values + tile % 2 * TILE * DP);
        __syncthreads();
    }
    cp_async_wait<0>();

    const float keep_scale = drops ? p.dropout.scale : 1.0f;
    EPI_UNROLL for (int half = 0; half < 2; ++half) {
        const float total = sum4(sum[half]);
        const int row = first + warp_id() * 16 + lane_id() / 4 + half * 8;
        EPI_UNROLL for (int n = 0; n < DP / 8; ++n) {
            EPI_UNROLL for (int r = 2 * half; r < 2 * half + 2; ++r) {
                const float value = acc[n][r] / total * keep_scale;
                acc[n][r] = p.relu ? relu(value) : value;
            }
        }
        if (row < p.time && t2 == 0) lse[head_rows(p) + row] = (top[half] + log2f(total)) / LOG2E;
    }
    const int width = p.heads * p.head_size;
    store_rows<DP>(p, out + size_t(blockIdx.z) * p.time * width + blockIdx.y * p.head_size, width, first, acc, 1.0f);
}

template <int DP>
EPI_DEVICE void attention_backward_query(const AttentionParams& p, const StepState* step, const bf16* packed,
                                         const bf16* packed_dout, const float* lse, const float* delta, float* dqkv) {
    SharedArena arena;
    bf16* query = arena.take<bf16>(2 * TILE * DP); // and dout
    bf16* keys = arena.take<bf16>(2 * TILE * DP);
    bf16* values = arena.take<bf16>(2 * TILE * DP);
    const bf16 *k = head_of<DP>(p, packed, 1), *v = head_of<DP>(p, packed, 2);
    const int first = int(blockIdx.x) * TILE, tiles = ceil_div(p.time, TILE), t2 = lane_id() % 4 * 2;
    const bool drops = p.dropout.threshold != 0;
    const uint32_t philox_step = drops ? step->philox_step : 0;
    const float keep_scale = drops ? p.dropout.scale : 1.0f;
    load_tile<DP>(query, head_of<DP>(p, packed, 0), first, p.time);
    load_tile<DP>(query + TILE * DP, head_of<DP>(p, packed_dout, 0), first, p.time);
    load_tile<DP>(keys, k, 0, p.time);
    load_tile<DP>(values, v, 0, p.time);
    cp_async_commit();
    float log_sum[2], shift[2];
    EPI_UNROLL for (int half = 0; half < 2; ++half) {
        const int row = first + warp_id() * 16 + lane_id() / 4 + half * 8;
        log_sum[half] = row < p.time ? lse[head_rows(p) + row] : INFINITY;
        shift[half] = row < p.time ? delta[head_rows(p) + row] : 0.0f;
    }

    uint32_t q[DP / 16][4], d[DP / 16][4];
    float acc[DP / 8][4] = {};
    for (int tile = 0; tile < tiles; ++tile) {
        if (tile + 1 < tiles) {
            load_tile<DP>(keys + (tile + 1) % 2 * TILE * DP, k, (tile + 1) * TILE, p.time);
            load_tile<DP>(values + (tile + 1) % 2 * TILE * DP, v, (tile + 1) * TILE, p.time);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        if (tile == 0) {
            load_rows<DP>(q, query);
            load_rows<DP>(d, query + TILE * DP);
        }
        float s[NT][4], ds[NT][4];
        times_transposed<DP>(s, q, keys + tile % 2 * TILE * DP);
        times_transposed<DP>(ds, d, values + tile % 2 * TILE * DP);
        const int start = tile * TILE;
        const uint32_t kept = drops ? kept_by_query(p, philox_step, first, start) : ~0u;
        EPI_UNROLL for (int n = 0; n < NT; ++n) {
            EPI_UNROLL for (int r = 0; r < 4; ++r) {
                const bool inside = start + n * 8 + t2 + r % 2 < p.time;
                const float probability = inside ? exp2f((s[n][r] * p.scale - log_sum[r / 2]) * LOG2E) : 0.0f;
                const float mask = kept >> (n * 4 + r) & 1 ? keep_scale : 0.0f;
                ds[n][r] = probability * (ds[n][r] * mask - shift[r / 2]);
            }
        }
        add_product<DP>(acc, ds, keys + tile % 2 * TILE * DP);
        __syncthreads();
    }
    cp_async_wait<0>();
    const int width = p.heads * p.head_size;
    store_rows<DP>(p, dqkv + size_t(blockIdx.z) * p.time * 3 * width + blockIdx.y * p.head_size, 3 * width, first, acc, p.scale);
}

template <int DP>
EPI_DEVICE void attention_backward_key_value(const AttentionParams& p, const StepState* step, const bf16* packed,
                                             const bf16* packed_dout, const float* lse, const float* delta, float* dqkv) {
    SharedArena arena;
    bf16* own = arena.take<bf16>(2 * TILE * DP); // keys and values
    bf16* queries = arena.take<bf16>(2 * TILE * DP);
    bf16* douts = arena.take<bf16>(2 * TILE * DP);
    float* vectors = arena.take<float>(2 * 2 * TILE); // lse and delta of a tile of queries
    const bf16 *q = head_of<DP>(p, packed, 0), *d = head_of<DP>(p, packed_dout, 0);
    const int first = int(blockIdx.x) * TILE, tiles = ceil_div(p.time, TILE), t2 = lane_id() % 4 * 2;
    const bool drops = p.dropout.threshold != 0;
    const uint32_t philox_step = drops ? step->philox_step : 0;
    const float keep_scale = drops ? p.dropout.scale : 1.0f;
    // Thread i fetches lse (i < 64) or delta of query i % 64; beyond T a query has no weight.
    auto load_vectors = [&](int tile) {
        const int i = int(threadIdx.x), row = tile * TILE + i % TILE;
        const float* from = (i < TILE ? lse : delta) + head_rows(p);
        vectors[tile % 2 * 2 * TILE + i] = row < p.time ? from[row] : i < TILE ? INFINITY : 0.0f;
    };
    load_tile<DP>(own, head_of<DP>(p, packed, 1), first, p.time);
    load_tile<DP>(own + TILE * DP, head_of<DP>(p, packed, 2), first, p.time);
    load_tile<DP>(queries, q, 0, p.time);
    load_tile<DP>(douts, d, 0, p.time);
    cp_async_commit();
    load_vectors(0);

    float dkey[DP / 8][4] = {}, dvalue[DP / 8][4] = {};
    for (int tile = 0; tile < tiles; ++tile) {
        if (tile + 1 < tiles) {
            load_tile<DP>(queries + (tile + 1) % 2 * TILE * DP, q, (tile + 1) * TILE, p.time);
            load_tile<DP>(douts + (tile + 1) % 2 * TILE * DP, d, (tile + 1) * TILE, p.time);
            load_vectors(tile + 1);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        float s[NT][4], ds[NT][4];
        uint32_t rows[DP / 16][4]; // loaded again each time: held, they would not fit into registers at DP = 64
        load_rows<DP>(rows, own);
        times_transposed<DP>(s, rows, queries + tile % 2 * TILE * DP);
        load_rows<DP>(rows, own + TILE * DP);
        times_transposed<DP>(ds, rows, douts + tile % 2 * TILE * DP);
        const uint32_t kept = drops ? kept_by_key(p, philox_step, tile * TILE, first) : ~0u;
        const float* log_sums = vectors + tile % 2 * 2 * TILE;
        EPI_UNROLL for (int n = 0; n < NT; ++n) {
            EPI_UNROLL for (int r = 0; r < 4; ++r) {
                const int column = n * 8 + t2 + r % 2;
                const float probability = exp2f((s[n][r] * p.scale - log_sums[column]) * LOG2E);
                const float mask = kept >> (n * 4 + r) & 1 ? keep_scale : 0.0f;
                s[n][r] = probability * mask;
                ds[n][r] = probability * (ds[n][r] * mask - log_sums[TILE + column]);
            }
        }
        add_product<DP>(dvalue, s, douts + tile % 2 * TILE * DP);
        add_product<DP>(dkey, ds, queries + tile % 2 * TILE * DP);
        __syncthreads();
    }
    cp_async_wait<0>();
    const int width = p.heads * p.head_size;
    float* to = dqkv + size_t(blockIdx.z) * p.time * 3 * width + blockIdx.y * p.head_size;
    store_rows<DP>(p, to + width, 3 * width, first, dkey, p.scale);
    store_rows<DP>(p, to + 2 * width, 3 * width, first, dvalue, 1.0f);
}

// inp [B,T,parts*heads*D] f32 -> out [parts,B,heads,T,DP] bf16; where `mask` is given, zero unless mask (of inp's shape) > 0.
EPI_KERNEL(attention_pack, 256, 4, (AttentionParams p, int parts, int padded, const float* inp, const float* mask, bf16* out)) {
    const size_t count = size_t(parts) * p.batch * p.heads * p.time * (padded / 2);
    for (size_t i = size_t(blockIdx.x) * 256 + threadIdx.x; i < count; i += size_t(gridDim.x) * 256) {
        const int d = int(i % (padded / 2)) * 2;
        size_t rest = i / (padded / 2);
        const int t = int(rest % p.time);
        rest /= p.time;
        const int h = int(rest % p.heads);
        rest /= p.heads;
        const int b = int(rest % p.batch), part = int(rest / p.batch);
        const size_t at = ((size_t(b) * p.time + t) * parts + part) * p.heads * p.head_size + h * p.head_size + d;
        float pair[2] = {};
        EPI_UNROLL for (int j = 0; j < 2; ++j)
            if (d + j < p.head_size && (mask == nullptr || mask[at + j] > 0.0f)) pair[j] = inp[at + j];
        reinterpret_cast<bf16x2*>(out)[i] = to_bf16x2(pair[0], pair[1]);
    }
}

EPI_KERNEL(attention_bf16_forward_32, THREADS, 3,
           (AttentionParams p, const StepState* step, const bf16* packed, float* out, float* lse)) {
    attention_forward<32>(p, step, packed, out, lse);
}
EPI_KERNEL(attention_bf16_backward_query_32, THREADS, 2,
           (AttentionParams p, const StepState* step, const bf16* packed, const bf16* packed_dout, const float* lse,
            const float* delta, float* dqkv)) {
    attention_backward_query<32>(p, step, packed, packed_dout, lse, delta, dqkv);
}
EPI_KERNEL(attention_bf16_backward_key_value_32, THREADS, 2,
           (AttentionParams p, const StepState* step, const bf16* packed, const bf16* packed_dout, const float* lse,
            const float* delta, float* dqkv)) {
    attention_backward_key_value<32>(p, step, packed, packed_dout, lse, delta, dqkv);
}
EPI_KERNEL(attention_bf16_forward_64, THREADS, 2,
           (AttentionParams p, const StepState* step, const bf16* packed, float* out, float* lse)) {
    attention_forward<64>(p, step, packed, out, lse);
}
EPI_KERNEL(attention_bf16_backward_query_64, THREADS, 2,
           (AttentionParams p, const StepState* step, const bf16* packed, const bf16* packed_dout, const float* lse,
            const float* delta, float* dqkv)) {
    attention_backward_query<64>(p, step, packed, packed_dout, lse, delta, dqkv);
}
EPI_KERNEL(attention_bf16_backward_key_value_64, THREADS, 2,
           (AttentionParams p, const StepState* step, const bf16* packed, const bf16* packed_dout, const float* lse,
            const float* delta, float* dqkv)) {
    attention_backward_key_value<64>(p, step, packed, packed_dout, lse, delta, dqkv);
}
