// Fused multi-head attention on tensor cores: formulas, shapes and masks of attention.cu, products in bf16 with f32
// accumulation (mma.sync m16n8k16), softmax in f32.
// qkv is f32, its heads `head_pitch` apart (a multiple of 4: the head size, or DP in attention_pad's copy), and is rounded on
// its way into shared memory. packed [B,heads,T,DP] bf16 is dout times dropout's scale, zero beyond the head size (DP = 32 or
// 64) and where the ReLU cut (attention_prepare, which makes delta too).
// FLOPs 4 B heads T² D forward, 14 backward; bytes 4 B heads T D (4 forward, 9.5 backward). Grid (ceil(T/128), heads, B), 256
// threads: a warp owns 16 rows, the other side streams by 64 through two stages of swizzled shared memory, the next tile on
// its way meanwhile. Score fragments turn into operands in registers. backward_key_value works on the transposed tile (rows are
// keys), so that nothing is exchanged. Only the last tile tests for keys beyond T.
// Dropout: one Philox block is 8 keys of a query; a warp computes each block of its tile once and shares it by shuffles.
// backward_query leaves the bits for backward_key_value, keep [B,heads,ceil(T/16),ceil(T/64),32] (44 MB of EPSAT's step of 64).
// Deterministic: dQ, and dK with dV, have a kernel each. Source: Dao, FlashAttention-2 (2023).
#include "include/async_copy.cuh"
#include "include/common.cuh"
#include "include/mma.cuh"
#include "include/params.cuh"

constexpr int TILE = 64, ROWS = 128, THREADS = 256, NT = TILE / 8, HALF = NT / 2;
constexpr float LOG2E = 1.4426950408889634f;

template <bool VALUE> struct Flag {
    static constexpr bool value = VALUE;
};

// Place of element (row, d) in a swizzled [rows, DP] tile; d is a multiple of 8 for ldmatrix and cp.async.
template <int DP> EPI_DEVICE int place(int row, int d) {
    const int swizzle = DP == 32 ? row / 2 % 4 : row % 8;
    return row * DP + ((d / 8) ^ swizzle) * 8;
}

// f32 rows of a head on their way into a tile.
template <int DP> struct Incoming {
    static constexpr int SHARE = TILE * DP / 8 / THREADS;
    float4 held[SHARE][2];
    // Starts to fetch TILE rows, of which `left` exist.
    EPI_DEVICE_MEMBER void fetch(const float* rows, int pitch, int head_size, int left) {
        EPI_UNROLL for (int i = 0; i < SHARE; ++i) {
            const int piece = int(threadIdx.x) + i * THREADS, row = piece / (DP / 8), d = piece % (DP / 8) * 8;
            const float* from = rows + row * pitch + d;
            EPI_UNROLL for (int half = 0; half < 2; ++half) {
                held[i][half] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (row < left && d + 4 * half < head_size) held[i][half] = *reinterpret_cast<const float4*>(from + 4 * half);
            }
        }
    }
    EPI_DEVICE_MEMBER void put(bf16* tile) const {
        EPI_UNROLL for (int i = 0; i < SHARE; ++i) {
            const int piece = int(threadIdx.x) + i * THREADS;
            const float4 low = held[i][0], high = held[i][1];
            *reinterpret_cast<uint4*>(tile + place<DP>(piece / (DP / 8), piece % (DP / 8) * 8)) =
                make_uint4(to_bf16x2(low.x, low.y).bits, to_bf16x2(low.z, low.w).bits, to_bf16x2(high.x, high.y).bits,
                           to_bf16x2(high.z, high.w).bits);
        }
    }
};

// A head of queries, keys or values (part 0, 1, 2), and the f32 elements from row to row.
struct Head {
    const float* rows;
    int pitch, size;
    EPI_DEVICE_MEMBER Head(const AttentionParams& p, const float* qkv, int part) {
        pitch = 3 * p.heads * p.head_pitch;
        size = p.head_size;
        rows = qkv + size_t(blockIdx.z) * p.time * pitch + (part * p.heads + int(blockIdx.y)) * p.head_pitch;
    }
    // From `row` on, of the part `further` parts after this one.
    EPI_DEVICE_MEMBER const float* at(int row, int further = 0) const { return rows + row * pitch + further * (pitch / 3); }
};

// The block's own ROWS rows of a head.
template <int DP> EPI_DEVICE void load_own(bf16* own, const Head& head, int first, int time) {
    EPI_UNROLL for (int part = 0; part < ROWS; part += TILE) {
        Incoming<DP> rows;
        rows.fetch(head.at(first + part), head.pitch, head.size, time - first - part);
        rows.put(own + part * DP);
    }
}

// Rows first.. of a packed head [T, DP] into a tile; rows beyond T become zero.
template <int DP> EPI_DEVICE void load_packed(bf16* tile, const bf16* head, int first, int time) {
    EPI_UNROLL for (int i = 0; i < TILE * DP / 8 / THREADS; ++i) {
        const int piece = int(threadIdx.x) + i * THREADS, row = piece / (DP / 8), d = piece % (DP / 8) * 8;
        const bool inside = first + row < time;
        cp_async<16>(tile + place<DP>(row, d), inside ? head + size_t(first + row) * DP + d : head, inside ? 16 : 0);
    }
}

// A operand: this warp's 16 of the block's own rows.
template <int DP> EPI_DEVICE void load_rows(uint32_t (&a)[DP / 16][4], const bf16* own) {
    const int matrix = lane_id() / 8, row = warp_id() * 16 + matrix % 2 * 8 + lane_id() % 8;
    EPI_UNROLL for (int k = 0; k < DP / 16; ++k) ldmatrix<4>(a[k], own + place<DP>(row, k * 16 + matrix / 2 * 8));
}

// acc [16,8N] = a [16,DP] times the transpose of N octets of rows of a tile, from row `first` on
template <int DP, int N>
EPI_DEVICE void times_transposed(float (&acc)[N][4], const uint32_t (&a)[DP / 16][4], const bf16* tile, int first) {
    const int matrix = lane_id() / 8, row = first + lane_id() % 8;
    EPI_UNROLL for (int n = 0; n < N; ++n)
        EPI_UNROLL for (int r = 0; r < 4; ++r) acc[n][r] = 0.0f;
    EPI_UNROLL for (int k = 0; k < DP / 16; ++k) {
        EPI_UNROLL for (int n = 0; n < N; n += 2) {
            uint32_t pair[4];
            ldmatrix<4>(pair, tile + place<DP>(n * 8 + matrix / 2 * 8 + row, k * 16 + matrix % 2 * 8));
            const uint32_t left[2] = {pair[0], pair[1]}, right[2] = {pair[2], pair[3]};
            mma_bf16(acc[n], a[k], left);
            mma_bf16(acc[n + 1], a[k], right);
        }
    }
}

// acc [16,DP] += s [16,8N], rounded to bf16, times N octets of rows of a tile, from row `first` on
template <int DP, int N>
EPI_DEVICE void add_product(float (&acc)[DP / 8][4], const float (&s)[N][4], const bf16* tile, int first) {
    const int matrix = lane_id() / 8, row = first + lane_id() % 8;
    EPI_UNROLL for (int k = 0; k < N / 2; ++k) {
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

// Head blockIdx.y of sample blockIdx.z inside the row vectors and the packed tensor.
EPI_DEVICE size_t head_rows(const AttentionParams& p) { return (size_t(blockIdx.z) * p.heads + blockIdx.y) * p.time; }

// Which of the 8 halves of each of four Philox blocks are not below the threshold. Bit 4 i + j: half 2 j of block i; 16 more:
// half 2 j + 1. Two halves at a time: one is kept when its top bit, whether its other bits suffice, and the inverted top bit of
// the threshold have a majority.
EPI_DEVICE uint32_t kept_of_blocks(const DropoutParams& p, uint32_t step, const uint64_t (&blocks)[4]) {
    const uint32_t low = (p.threshold & 0x7FFFu) * 0x10001u, easy = p.threshold & 0x8000u ? 0u : ~0u;
    uint4 w[4];
    EPI_UNROLL for (int i = 0; i < 4; ++i) w[i] = make_uint4(uint32_t(blocks[i]), uint32_t(blocks[i] >> 32), p.stream, step);
    philox(w, make_uint2(uint32_t(p.seed), uint32_t(p.seed >> 32)));
    uint32_t kept = 0;
    EPI_UNROLL for (int i = 0; i < 4; ++i) {
        const uint32_t words[4] = {w[i].x, w[i].y, w[i].z, w[i].w};
        EPI_UNROLL for (int j = 0; j < 4; ++j) {
            const uint32_t enough = (words[j] | 0x80008000u) - low;
            const uint32_t majority = (words[j] & enough) | ((words[j] | enough) & easy);
            kept |= majority >> (15 - 4 * i - j) & 0x00010001u << (4 * i + j);
        }
    }
    return kept;
}

// The kept elements of this warp's 16 x 64 scores, 32 a lane. Four Philox blocks a lane, nibble i of both halves of `mine`.
// Rows are queries: lane t of a quad computes column blocks t and t+4 of rows g and g+8. Lane t needs word t of each.
struct KeptByQuery {
    uint64_t block;
    EPI_DEVICE_MEMBER KeptByQuery(const AttentionParams& p, int first_query) {
        const uint64_t row = head_rows(p) + first_query + warp_id() * 16 + lane_id() / 4;
        block = row * uint64_t(p.pitch / 8) + lane_id() % 4;
    }
    EPI_DEVICE_MEMBER uint32_t of(const AttentionParams& p, uint32_t step, int tile) const {
        const int t = lane_id() % 4;
        uint64_t blocks[4];
        EPI_UNROLL for (int i = 0; i < 4; ++i) blocks[i] = block + uint32_t(i / 2 * p.pitch + tile * NT + i % 2 * 4);
        const uint32_t mine = kept_of_blocks(p.dropout, step, blocks);
        uint32_t kept = 0;
        EPI_UNROLL for (int source = 0; source < 4; ++source)
            kept |= (__shfl_sync(FULL_MASK, mine, lane_id() - t + source) >> t & 0x11111111u) << source;
        return kept;
    }
    static EPI_DEVICE_MEMBER int bit(int n, int r) { return 16 * (r % 2) + 8 * (r / 2) + n; }
};

// Where these words are kept: 32 for 16 queries and a tile of keys, lane (g, t) has number 8 t + g.
EPI_DEVICE size_t kept_words(const AttentionParams& p, int query, int tile) {
    const int tiles = ceil_div(p.time, TILE);
    return ((size_t(blockIdx.z) * p.heads + blockIdx.y) * ceil_div(p.time, 16) + query / 16) * tiles * 32 + tile * 32;
}

// The same where rows are keys, from what is kept: a warp's 16 keys are a quarter of a tile. Lane (g, t) needs of both octets the
// bits of key g, which are in the words of queries 2 t and 2 t + 1 of each octet of queries.
struct KeptByKey {
    uint2 words[TILE / 16];
    // Those of a tile of queries; beyond T there are none.
    EPI_DEVICE_MEMBER void fetch(const AttentionParams& p, const uint32_t* kept, int first_key, int tile, bool last) {
        const int key = first_key + warp_id() * 16;
        EPI_UNROLL for (int i = 0; i < TILE / 16; ++i) {
            const int query = tile * TILE + i * 16;
            words[i] = make_uint2(0, 0);
            if (last && query >= p.time) continue;
            words[i] = *reinterpret_cast<const uint2*>(kept + kept_words(p, query, key / TILE) + lane_id() / 8 * 8 + lane_id() % 4 * 2);
        }
    }
    EPI_DEVICE_MEMBER uint32_t bits() const {
        const int shift = lane_id() / 4 % 2 * 16 + warp_id() % 4 * 2;
        uint32_t kept = 0;
        EPI_UNROLL for (int i = 0; i < TILE / 16; ++i)
            kept |= (words[i].x >> shift & 0x0303u) << (2 * i) | (words[i].y >> shift & 0x0303u) << (16 + 2 * i);
        return kept;
    }
    static EPI_DEVICE_MEMBER int bit(int n, int r) { return 16 * (r % 2) + 8 * (n % 2) + n / 2 * 2 + r / 2; }
};

EPI_DEVICE float sum4(float x) {
    x += __shfl_xor_sync(FULL_MASK, x, 1);
    return x + __shfl_xor_sync(FULL_MASK, x, 2);
}
EPI_DEVICE float max4(float x) {
    x = fmaxf(x, __shfl_xor_sync(FULL_MASK, x, 1));
    return fmaxf(x, __shfl_xor_sync(FULL_MASK, x, 2));
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

// step(tile, whether it is the last one) for every tile of T.
template <class STEP> EPI_DEVICE void each_tile(const AttentionParams& p, const STEP& step) {
    const int last = ceil_div(p.time, TILE) - 1;
    EPI_UNROLL_BY(1) for (int tile = 0; tile < last; ++tile) step(tile, Flag<false>());
    step(last, Flag<true>());
}

template <int DP>
EPI_DEVICE void attention_forward(const AttentionParams& p, const StepState* step, const float* qkv, float* out, float* lse) {
    SharedArena arena;
    bf16* query = arena.take<bf16>(ROWS * DP);
    bf16* keys = arena.take<bf16>(2 * TILE * DP);
    bf16* values = arena.take<bf16>(2 * TILE * DP);
    const Head k(p, qkv, 1);
    const int first = int(blockIdx.x) * ROWS, t2 = lane_id() % 4 * 2;
    const bool drops = p.dropout.threshold != 0, active = first + warp_id() * 16 < p.time;
    const uint32_t philox_step = drops ? step->philox_step : 0;
    const float factor = p.scale * LOG2E; // scores in units of log2
    const KeptByQuery kept_keys(p, first);
    Incoming<DP> next_keys, next_values;
    next_keys.fetch(k.rows, k.pitch, k.size, p.time);
    next_values.fetch(k.at(0, 1), k.pitch, k.size, p.time);
    load_own<DP>(query, Head(p, qkv, 0), first, p.time);
    next_keys.put(keys);
    next_values.put(values);
    __syncthreads();

    uint32_t q[DP / 16][4];
    load_rows<DP>(q, query);
    float acc[DP / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    each_tile(p, [&](int tile, auto last) {
        const int start = tile * TILE, stage = tile % 2 * TILE * DP, other = TILE * DP - stage;
        __syncthreads(); // this tile has arrived for all, and nobody reads the stage that is filled next
        if (!last.value) {
            next_keys.fetch(k.at(start + TILE), k.pitch, k.size, p.time - start - TILE);
            next_values.fetch(k.at(start + TILE, 1), k.pitch, k.size, p.time - start - TILE);
        }
        if (active) {
            const uint32_t kept = drops ? kept_keys.of(p, philox_step, tile) : ~0u;
            float s[NT][4];
            times_transposed<DP, NT>(s, q, keys + stage, 0);
            EPI_UNROLL for (int half = 0; half < 2; ++half) { // rows g and g + 8
                float best = top[half];
                EPI_UNROLL for (int n = 0; n < NT; ++n) {
                    EPI_UNROLL for (int r = 2 * half; r < 2 * half + 2; ++r) {
                        if (last.value && start + n * 8 + t2 + r % 2 >= p.time) s[n][r] = -INFINITY;
                        best = fmaxf(best, s[n][r]);
                    }
                }
                best = max4(best);
                const float shift = best * factor, shrink = exp2_approx(fmaf(top[half], factor, -shift));
                float part = 0.0f;
                EPI_UNROLL for (int n = 0; n < NT; ++n) {
                    EPI_UNROLL for (int r = 2 * half; r < 2 * half + 2; ++r) {
                        const float weight = exp2_approx(fmaf(s[n][r], factor, -shift));
                        part += weight;
                        s[n][r] = kept >> KeptByQuery::bit(n, r) & 1 ? weight : 0.0f;
                    }
                }
                top[half] = best;
                sum[half] = fmaf(sum[half], shrink, part);
                EPI_UNROLL for (int n = 0; n < DP / 8; ++n) {
                    acc[n][2 * half] *= shrink;
                    acc[n][2 * half + 1] *= shrink;
                }
            }
            add_product<DP, NT>(acc, s, values + stage, 0);
        }
        if (!last.value) {
            next_keys.put(keys + other);
            next_values.put(values + other);
        }
    });
    if (!active) return; // whole warps

    EPI_UNROLL for (int half = 0; half < 2; ++half) {
        const float total = sum4(sum[half]), factor_out = (drops ? p.dropout.scale : 1.0f) / total;
        const int row = first + warp_id() * 16 + lane_id() / 4 + half * 8;
        EPI_UNROLL for (int n = 0; n < DP / 8; ++n) {
            EPI_UNROLL for (int r = 2 * half; r < 2 * half + 2; ++r) {
                const float value = acc[n][r] * factor_out;
                acc[n][r] = p.relu ? relu(value) : value;
            }
        }
        if (row < p.time && t2 == 0) lse[head_rows(p) + row] = top[half] * p.scale + log2f(total) / LOG2E;
    }
    const int width = p.heads * p.head_size;
    store_rows<DP>(p, out + size_t(blockIdx.z) * p.time * width + blockIdx.y * p.head_size, width, first, acc, 1.0f);
}

template <int DP>
EPI_DEVICE void attention_backward_query(const AttentionParams& p, const StepState* step, const float* qkv, const bf16* packed,
                                         const float* lse, const float* delta, float* dqkv, uint32_t* keep) {
    SharedArena arena;
    bf16* query = arena.take<bf16>(ROWS * DP);
    bf16* dout = arena.take<bf16>(ROWS * DP);
    bf16* keys = arena.take<bf16>(2 * TILE * DP);
    bf16* values = arena.take<bf16>(2 * TILE * DP);
    const Head k(p, qkv, 1);
    const int first = int(blockIdx.x) * ROWS, t2 = lane_id() % 4 * 2;
    const bool drops = p.dropout.threshold != 0, active = first + warp_id() * 16 < p.time;
    const uint32_t philox_step = drops ? step->philox_step : 0;
    const float factor = p.scale * LOG2E;
    const KeptByQuery kept_keys(p, first);
    EPI_UNROLL for (int part = 0; part < ROWS; part += TILE)
        load_packed<DP>(dout + part * DP, packed + head_rows(p) * DP, first + part, p.time);
    cp_async_commit();
    Incoming<DP> next_keys, next_values;
    next_keys.fetch(k.rows, k.pitch, k.size, p.time);
    next_values.fetch(k.at(0, 1), k.pitch, k.size, p.time);
    load_own<DP>(query, Head(p, qkv, 0), first, p.time);
    next_keys.put(keys);
    next_values.put(values);
    float log_sum[2], shift[2]; // beyond T a query has no weight
    EPI_UNROLL for (int half = 0; half < 2; ++half) {
        const int row = first + warp_id() * 16 + lane_id() / 4 + half * 8;
        log_sum[half] = row < p.time ? lse[head_rows(p) + row] * LOG2E : INFINITY;
        shift[half] = row < p.time ? delta[head_rows(p) + row] : 0.0f;
    }
    cp_async_wait<0>();
    __syncthreads();

    uint32_t q[DP / 16][4];
    load_rows<DP>(q, query);
    float acc[DP / 8][4] = {};
    each_tile(p, [&](int tile, auto last) {
        const int start = tile * TILE, stage = tile % 2 * TILE * DP, other = TILE * DP - stage;
        __syncthreads();
        if (!last.value) {
            next_keys.fetch(k.at(start + TILE), k.pitch, k.size, p.time - start - TILE);
            next_values.fetch(k.at(start + TILE, 1), k.pitch, k.size, p.time - start - TILE);
        }
        if (active) {
            uint32_t kept = ~0u;
            if (drops) {
                kept = kept_keys.of(p, philox_step, tile);
                keep[kept_words(p, first + warp_id() * 16, tile) + lane_id() % 4 * 8 + lane_id() / 4] = kept;
            }
            EPI_UNROLL for (int block = 0; block < NT; block += HALF) {
                float s[HALF][4], ds[HALF][4];
                times_transposed<DP, HALF>(s, q, keys + stage, block * 8);
                uint32_t d[DP / 16][4]; // loaded again each time: held, they would not fit into registers
                load_rows<DP>(d, dout);
                times_transposed<DP, HALF>(ds, d, values + stage, block * 8);
                EPI_UNROLL for (int n = 0; n < HALF; ++n) {
                    EPI_UNROLL for (int r = 0; r < 4; ++r) {
                        float probability = exp2_approx(fmaf(s[n][r], factor, -log_sum[r / 2]));
                        if (last.value && start + (block + n) * 8 + t2 + r % 2 >= p.time) probability = 0.0f;
                        const float dweight = kept >> KeptByQuery::bit(block + n, r) & 1 ? ds[n][r] : 0.0f;
                        ds[n][r] = probability * (dweight - shift[r / 2]);
                    }
                }
                add_product<DP, HALF>(acc, ds, keys + stage, block * 8);
            }
        }
        if (!last.value) {
            next_keys.put(keys + other);
            next_values.put(values + other);
        }
    });
    if (!active) return; // whole warps
    const int width = p.heads * p.head_size;
    store_rows<DP>(p, dqkv + size_t(blockIdx.z) * p.time * 3 * width + blockIdx.y * p.head_size, 3 * width, first, acc, p.scale);
}

template <int DP>
EPI_DEVICE void attention_backward_key_value(const AttentionParams& p, const float* qkv, const bf16* packed, const float* lse,
                                             const float* delta, float* dqkv, const uint32_t* keep) {
    SharedArena arena;
    bf16* key = arena.take<bf16>(ROWS * DP);
    bf16* value = arena.take<bf16>(ROWS * DP);
    bf16* queries = arena.take<bf16>(2 * TILE * DP);
    bf16* douts = arena.take<bf16>(2 * TILE * DP);
    float* vectors = arena.take<float>(2 * 2 * TILE); // lse, in units of log2, and delta of a tile of queries
    const Head q(p, qkv, 0);
    const bf16* d = packed + head_rows(p) * DP;
    const int first = int(blockIdx.x) * ROWS, t2 = lane_id() % 4 * 2;
    const bool drops = p.dropout.threshold != 0, active = first + warp_id() * 16 < p.time;
    const float factor = p.scale * LOG2E;
    KeptByKey kept_queries;
    // Thread i < 128 fetches lse (i < 64) or delta of query i % 64; beyond T a query has no weight.
    const auto load_vectors = [&](int start, int stage) {
        const int i = int(threadIdx.x), row = start + i % TILE;
        if (i >= 2 * TILE) return;
        const float* from = (i < TILE ? lse : delta) + head_rows(p);
        vectors[stage * 2 * TILE + i] = row >= p.time ? (i < TILE ? INFINITY : 0.0f) : i < TILE ? from[row] * LOG2E : from[row];
    };
    load_packed<DP>(douts, d, 0, p.time);
    cp_async_commit();
    Incoming<DP> next_queries;
    next_queries.fetch(q.rows, q.pitch, q.size, p.time);
    load_own<DP>(key, Head(p, qkv, 1), first, p.time);
    load_own<DP>(value, Head(p, qkv, 2), first, p.time);
    next_queries.put(queries);
    load_vectors(0, 0);

    float dkey[DP / 8][4] = {}, dvalue[DP / 8][4] = {};
    each_tile(p, [&](int tile, auto last) {
        const int start = tile * TILE, stage = tile % 2 * TILE * DP, other = TILE * DP - stage;
        if (drops && active) kept_queries.fetch(p, keep, first, tile, last.value);
        cp_async_wait<0>();
        __syncthreads();
        if (!last.value) {
            next_queries.fetch(q.at(start + TILE), q.pitch, q.size, p.time - start - TILE);
            load_packed<DP>(douts + other, d, start + TILE, p.time);
            load_vectors(start + TILE, (tile + 1) % 2);
        }
        cp_async_commit();
        if (active) {
            const uint32_t kept = drops ? kept_queries.bits() : ~0u;
            const float* log_sums = vectors + tile % 2 * 2 * TILE + t2;
            EPI_UNROLL for (int block = 0; block < NT; block += HALF) {
                float s[HALF][4], ds[HALF][4];
                uint32_t rows[DP / 16][4]; // loaded again each time: held, they would not fit into registers
                load_rows<DP>(rows, key);
                times_transposed<DP, HALF>(s, rows, queries + stage, block * 8);
                load_rows<DP>(rows, value);
                times_transposed<DP, HALF>(ds, rows, douts + stage, block * 8);
                EPI_UNROLL for (int n = 0; n < HALF; ++n) {
                    const float2 log_sum = *reinterpret_cast<const float2*>(log_sums + (block + n) * 8);
                    const float2 shift = *reinterpret_cast<const float2*>(log_sums + TILE + (block + n) * 8);
                    EPI_UNROLL for (int r = 0; r < 4; ++r) {
                        const float probability = exp2_approx(fmaf(s[n][r], factor, r % 2 ? -log_sum.y : -log_sum.x));
                        const bool keep = kept >> KeptByKey::bit(block + n, r) & 1;
                        s[n][r] = keep ? probability : 0.0f;
                        ds[n][r] = probability * ((keep ? ds[n][r] : 0.0f) - (r % 2 ? shift.y : shift.x));
                    }
                }
                add_product<DP, HALF>(dvalue, s, douts + stage, block * 8);
                add_product<DP, HALF>(dkey, ds, queries + stage, block * 8);
            }
        }
        if (!last.value) next_queries.put(queries + other);
    });
    if (!active) return; // whole warps
    const int width = p.heads * p.head_size;
    float* to = dqkv + size_t(blockIdx.z) * p.time * 3 * width + blockIdx.y * p.head_size;
    store_rows<DP>(p, to + width, 3 * width, first, dkey, p.scale);
    store_rows<DP>(p, to + 2 * width, 3 * width, first, dvalue, 1.0f);
}

// qkv [rows,heads,D] -> out [rows,heads,padded], zeros beyond D: what the kernels read where D is no multiple of 4.
EPI_KERNEL(attention_pad, 256, 4, (int rows, int head_size, int padded, const float* inp, float* out)) {
    const size_t count = size_t(rows) * padded;
    for (size_t i = size_t(blockIdx.x) * 256 + threadIdx.x; i < count; i += size_t(gridDim.x) * 256) {
        const int d = int(i % padded);
        out[i] = d < head_size ? inp[i / padded * head_size + d] : 0.0f;
    }
}

// delta[b,h,t] = Σ_d dout out, and packed [B,heads,T,padded]: dout, zero where the ReLU cut, times dropout's scale.
// A thread has two numbers of a head, padded / 2 neighbouring lanes a row.
EPI_KERNEL(attention_prepare, 256, 4,
           (AttentionParams p, int padded, const float* out, const float* dout, float* delta, bf16* packed)) {
    const int lanes = padded / 2, row = int(blockIdx.x) * (256 / lanes) + int(threadIdx.x) / lanes, d = int(threadIdx.x) % lanes * 2;
    const bool exists = row < p.batch * p.heads * p.time; // (b * heads + h) * T + t
    const int t = row % p.time, h = row / p.time % p.heads, b = row / p.time / p.heads;
    const size_t at = ((size_t(b) * p.time + t) * p.heads + h) * p.head_size + d;
    const float keep_scale = p.dropout.threshold != 0 ? p.dropout.scale : 1.0f;
    float sum = 0.0f, pair[2] = {};
    EPI_UNROLL for (int j = 0; j < 2; ++j) {
        if (!exists || d + j >= p.head_size) continue;
        const float gradient = dout[at + j], value = out[at + j];
        sum = fmaf(gradient, value, sum);
        if (!p.relu || value > 0.0f) pair[j] = gradient * keep_scale;
    }
    for (int offset = lanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(FULL_MASK, sum, offset);
    if (!exists) return;
    reinterpret_cast<bf16x2*>(packed)[size_t(row) * lanes + d / 2] = to_bf16x2(pair[0], pair[1]);
    if (d == 0) delta[row] = sum;
}

#define ATTENTION(DP, forward_blocks)                                                                                     \
    EPI_KERNEL(attention_bf16_forward_##DP, THREADS, forward_blocks,                                                   \
               (AttentionParams p, const StepState* step, const float* qkv, float* out, float* lse)) {                 \
        attention_forward<DP>(p, step, qkv, out, lse);                                                                 \
    }                                                                                                                  \
    EPI_KERNEL(attention_bf16_backward_query_##DP, THREADS, 1,                                                         \
               (AttentionParams p, const StepState* step, const float* qkv, const bf16* packed, const float* lse,      \
                const float* delta, float* dqkv, uint32_t* keep)) {                                                    \
        attention_backward_query<DP>(p, step, qkv, packed, lse, delta, dqkv, keep);                                    \
    }                                                                                                                  \
    EPI_KERNEL(attention_bf16_backward_key_value_##DP, THREADS, 1,                                                     \
               (AttentionParams p, const float* qkv, const bf16* packed, const float* lse, const float* delta,         \
                float* dqkv, const uint32_t* keep)) {                                                                  \
        attention_backward_key_value<DP>(p, qkv, packed, lse, delta, dqkv, keep);                                      \
    }

ATTENTION(32, 2)
ATTENTION(64, 1)
