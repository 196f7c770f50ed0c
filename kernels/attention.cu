// Fused multi-head attention in f32; T x T is never stored.
//   S = Q Kᵀ scale;   P = softmax(S);   out = relu?( (P ∘ M) V )       M: dropout mask, 0 or 1/keep, regenerated
//   lse[b,h,q] = log Σ_k exp S;         delta[b,h,q] = Σ_d dout out     (dout is zero where relu cut)
//   dP = M ∘ (dout Vᵀ);   dS = P ∘ (dP - delta);   dQ = scale dS K;   dK = scale dSᵀ Q;   dV = (P ∘ M)ᵀ dout
// qkv, dqkv [B,T,3*heads*D] (all heads of Q, of K, of V); out, dout [B,T,heads*D]; lse, delta [B,heads,T]; D <= 64.
// FLOPs 4 B heads T² D forward, 14 backward (S and dP are computed twice); bytes 4 B T heads D x 4 and x 12.
// Grid (ceil(T/64), heads, B), 256 threads, tiles 64 x 64: eight lanes share two queries, each with eight neighbouring
// keys, which is one Philox block a query. Variants: D rounded up to 32 or 64; bf16 in attention_bf16.cu.
// Deterministic: dQ, and dK with dV, have a kernel each, so nobody adds to another block's result.
// Source: Dao et al., FlashAttention (2022) and FlashAttention-2 (2023).
#include "include/common.cuh"
#include "include/params.cuh"

constexpr int TILE = 64;
constexpr int TP = TILE + 4;  // pitch of transposed tiles: rows stay 16-byte aligned
constexpr int SP = TILE + 1;  // pitch of score tiles

// What one thread works on: rows row, row + 1 of the tile, eight columns from `column` on.
struct Spot {
    int lane8, row, column;
    EPI_DEVICE_MEMBER Spot() : lane8(lane_id() % 8), row(warp_id() * 8 + lane_id() / 8 * 2), column(lane8 * 8) {}
};

// Rows first.. of a [T,D] matrix with `stride` between rows, zero outside: tile[r * (DP+1) + d].
template <int DP> EPI_DEVICE void load_rows(float* tile, const float* src, int stride, int first, int time, int size) {
    for (int i = int(threadIdx.x); i < TILE * DP; i += 256) {
        const int r = i / DP, d = i % DP;
        const bool inside = first + r < time && d < size;
        tile[r * (DP + 1) + d] = inside ? src[size_t(first + r) * stride + d] : 0.0f;
    }
}

// The same, transposed: tile[d * TP + r].
template <int DP> EPI_DEVICE void load_columns(float* tile, const float* src, int stride, int first, int time, int size) {
    for (int i = int(threadIdx.x); i < TILE * DP; i += 256) {
        const int r = i / DP, d = i % DP;
        const bool inside = first + r < time && d < size;
        tile[d * TP + r] = inside ? src[size_t(first + r) * stride + d] : 0.0f;
    }
}

// dout as attention's backward sees it: zero where the ReLU cut (out <= 0).
template <int DP>
EPI_DEVICE void load_dout(const AttentionParams& p, float* tile, const float* dout, const float* out, int stride, int first) {
    for (int i = int(threadIdx.x); i < TILE * DP; i += 256) {
        const int r = i / DP, d = i % DP;
        float value = 0.0f;
        if (first + r < p.time && d < p.head_size) {
            const size_t at = size_t(first + r) * stride + d;
            if (!p.relu || out[at] > 0.0f) value = dout[at];
        }
        tile[r * (DP + 1) + d] = value;
    }
}

// acc[i][j] = Σ_d rows[row+i, d] columns[d, column+j]
template <int DP> EPI_DEVICE void tile_product(const float* rows, const float* columns, const Spot& at, float (&acc)[2][8]) {
    EPI_UNROLL for (int i = 0; i < 2; ++i)
        EPI_UNROLL for (int j = 0; j < 8; ++j) acc[i][j] = 0.0f;
    EPI_UNROLL_BY(4) for (int d = 0; d < DP; ++d) {
        const float4 left = *reinterpret_cast<const float4*>(columns + d * TP + at.column);
        const float4 right = *reinterpret_cast<const float4*>(columns + d * TP + at.column + 4);
        EPI_UNROLL for (int i = 0; i < 2; ++i) {
            const float q = rows[(at.row + i) * (DP + 1) + d];
            acc[i][0] = fmaf(q, left.x, acc[i][0]);
            acc[i][1] = fmaf(q, left.y, acc[i][1]);
            acc[i][2] = fmaf(q, left.z, acc[i][2]);
            acc[i][3] = fmaf(q, left.w, acc[i][3]);
            acc[i][4] = fmaf(q, right.x, acc[i][4]);
            acc[i][5] = fmaf(q, right.y, acc[i][5]);
            acc[i][6] = fmaf(q, right.z, acc[i][6]);
            acc[i][7] = fmaf(q, right.w, acc[i][7]);
        }
    }
}

// Sum and maximum over the eight lanes that share a row.
EPI_DEVICE float sum8(float x) {
    EPI_UNROLL for (int offset = 4; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL_MASK, x, offset);
    return x;
}
EPI_DEVICE float max8(float x) {
    EPI_UNROLL for (int offset = 4; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(FULL_MASK, x, offset));
    return x;
}

// Bits of the eight kept keys from `key` on (a multiple of 8) of query `query`.
EPI_DEVICE uint32_t kept_keys(const AttentionParams& p, uint32_t step, int query, int key) {
    if (p.dropout.threshold == 0) return 0xFFu;
    const uint64_t row = (uint64_t(blockIdx.z) * p.heads + blockIdx.y) * p.time + query;
    return dropout_keep8(p.dropout, step, (row * p.pitch + key) / 8);
}

// Where head blockIdx.y of sample blockIdx.z starts in q, k, v and out.
struct Head {
    const float *q, *k, *v;
    int stride, out_stride;
    size_t qkv_at, out_at, row_at;
    EPI_DEVICE_MEMBER Head(const AttentionParams& p, const float* qkv) {
        const int width = p.heads * p.head_size;
        stride = 3 * width;
        out_stride = width;
        qkv_at = size_t(blockIdx.z) * p.time * stride + blockIdx.y * p.head_size;
        out_at = size_t(blockIdx.z) * p.time * width + blockIdx.y * p.head_size;
        row_at = (size_t(blockIdx.z) * p.heads + blockIdx.y) * p.time;
        q = qkv + qkv_at;
        k = q + width;
        v = k + width;
    }
};

template <int DP>
EPI_DEVICE void attention_forward(const AttentionParams& p, const StepState* step, const float* qkv, float* out, float* lse) {
    SharedArena arena;
    float* query = arena.take<float>(TILE * (DP + 1));
    float* value = arena.take<float>(TILE * (DP + 1));
    float* key = arena.take<float>(DP * TP);
    float* score = arena.take<float>(TILE * SP);
    const Head head(p, qkv);
    const Spot at;
    const int first = int(blockIdx.x) * TILE;
    const uint32_t philox_step = step->philox_step;
    load_rows<DP>(query, head.q, head.stride, first, p.time, p.head_size);

    float acc[2][DP / 8] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    for (int start = 0; start < p.time; start += TILE) {
        __syncthreads();
        load_columns<DP>(key, head.k, head.stride, start, p.time, p.head_size);
        load_rows<DP>(value, head.v, head.stride, start, p.time, p.head_size);
        __syncthreads();
        float s[2][8];
        tile_product<DP>(query, key, at, s);
        EPI_UNROLL for (int i = 0; i < 2; ++i) {
            float best = top[i];
            EPI_UNROLL for (int j = 0; j < 8; ++j) {
                s[i][j] = start + at.column + j < p.time ? s[i][j] * p.scale : -INFINITY;
                best = fmaxf(best, s[i][j]);
            }
            best = max8(best); // the first tile has a key, so best is finite
            const float shrink = expf(top[i] - best);
            const uint32_t keep = kept_keys(p, philox_step, first + at.row + i, start + at.column);
            float part = 0.0f;
            EPI_UNROLL for (int j = 0; j < 8; ++j) {
                const float weight = expf(s[i][j] - best);
                part += weight;
                score[(at.row + i) * SP + at.column + j] = keep >> j & 1 ? weight : 0.0f;
            }
            sum[i] = sum[i] * shrink + sum8(part);
            top[i] = best;
            EPI_UNROLL for (int d = 0; d < DP / 8; ++d) acc[i][d] *= shrink;
        }
        __syncwarp(); // a warp reads only the rows of scores that it wrote
        EPI_UNROLL_BY(4) for (int k = 0; k < TILE; ++k) {
            EPI_UNROLL for (int i = 0; i < 2; ++i) {
                const float weight = score[(at.row + i) * SP + k];
                EPI_UNROLL for (int d = 0; d < DP / 8; ++d)
                    acc[i][d] = fmaf(weight, value[k * (DP + 1) + at.lane8 + d * 8], acc[i][d]);
            }
        }
    }
    const float keep_scale = p.dropout.threshold != 0 ? p.dropout.scale : 1.0f;
    EPI_UNROLL for (int i = 0; i < 2; ++i) {
        const int q = first + at.row + i;
        if (q >= p.time) continue;
        EPI_UNROLL for (int d = 0; d < DP / 8; ++d) {
            const int column = at.lane8 + d * 8;
            const float result = acc[i][d] / sum[i] * keep_scale;
            if (column < p.head_size)
                out[head.out_at + size_t(q) * head.out_stride + column] = p.relu ? relu(result) : result;
        }
        if (at.lane8 == 0) lse[head.row_at + q] = top[i] + logf(sum[i]);
    }
}

// From the tiles: weights P ∘ M and dS of this thread's spot; zero outside T x T.
template <int DP>
EPI_DEVICE void score_gradients(const AttentionParams& p, uint32_t philox_step, const Spot& at, const float* query,
                                const float* key, const float* value, const float* dout, const float* lse, const float* delta,
                                int first_query, int first_key, float (&weight)[2][8], float (&dscore)[2][8]) {
    tile_product<DP>(query, key, at, weight);
    tile_product<DP>(dout, value, at, dscore);
    const float keep_scale = p.dropout.threshold != 0 ? p.dropout.scale : 1.0f;
    EPI_UNROLL for (int i = 0; i < 2; ++i) {
        const int q = first_query + at.row + i;
        const float log_sum = q < p.time ? lse[q] : 0.0f, shift = q < p.time ? delta[q] : 0.0f;
        const uint32_t keep = kept_keys(p, philox_step, q, first_key + at.column);
        EPI_UNROLL for (int j = 0; j < 8; ++j) {
            const bool inside = q < p.time && first_key + at.column + j < p.time;
            const float probability = inside ? expf(weight[i][j] * p.scale - log_sum) : 0.0f;
            const float mask = keep >> j & 1 ? keep_scale : 0.0f;
            weight[i][j] = probability * mask;
            dscore[i][j] = probability * (dscore[i][j] * mask - shift);
        }
    }
}

EPI_DEVICE void store_scores(float* tile, const Spot& at, const float (&s)[2][8]) {
    EPI_UNROLL for (int i = 0; i < 2; ++i)
        EPI_UNROLL for (int j = 0; j < 8; ++j) tile[(at.row + i) * SP + at.column + j] = s[i][j];
}

// delta[b,h,q] = Σ_d dout out; one warp a row, 8 rows a block.
EPI_KERNEL(attention_delta, 256, 4, (AttentionParams p, const float* out, const float* dout, float* delta)) {
    const int row = int(blockIdx.x) * 8 + warp_id(); // (b * heads + h) * T + q
    if (row >= p.batch * p.heads * p.time) return;   // whole warps
    const int q = row % p.time, h = row / p.time % p.heads, b = row / p.time / p.heads;
    const size_t at = (size_t(b) * p.time + q) * p.heads * p.head_size + h * p.head_size;
    float sum = 0.0f;
    for (int d = lane_id(); d < p.head_size; d += WARP) sum = fmaf(dout[at + d], out[at + d], sum);
    sum = warp_sum(sum);
    if (lane_id() == 0) delta[row] = sum;
}

template <int DP>
EPI_DEVICE void attention_backward_query(const AttentionParams& p, const StepState* step, const float* qkv, const float* out,
                                         const float* lse, const float* delta, const float* dout, float* dqkv) {
    SharedArena arena;
    float* query = arena.take<float>(TILE * (DP + 1));
    float* doutput = arena.take<float>(TILE * (DP + 1));
    float* key = arena.take<float>(DP * TP);
    float* value = arena.take<float>(DP * TP);
    float* score = arena.take<float>(TILE * SP);
    const Head head(p, qkv);
    const Spot at;
    const int first = int(blockIdx.x) * TILE;
    const uint32_t philox_step = step->philox_step;
    load_rows<DP>(query, head.q, head.stride, first, p.time, p.head_size);
    load_dout<DP>(p, doutput, dout + head.out_at, out + head.out_at, head.out_stride, first);

    float acc[2][DP / 8] = {};
    for (int start = 0; start < p.time; start += TILE) {
        __syncthreads();
        load_columns<DP>(key, head.k, head.stride, start, p.time, p.head_size);
        load_columns<DP>(value, head.v, head.stride, start, p.time, p.head_size);
        __syncthreads();
        float weight[2][8], dscore[2][8];
        score_gradients<DP>(p, philox_step, at, query, key, value, doutput, lse + head.row_at, delta + head.row_at, first,
                            start, weight, dscore);
        store_scores(score, at, dscore);
        __syncwarp();
        EPI_UNROLL_BY(4) for (int k = 0; k < TILE; ++k) {
            EPI_UNROLL for (int i = 0; i < 2; ++i) {
                const float ds = score[(at.row + i) * SP + k];
                EPI_UNROLL for (int d = 0; d < DP / 8; ++d)
                    acc[i][d] = fmaf(ds, key[(at.lane8 + d * 8) * TP + k], acc[i][d]);
            }
        }
    }
    EPI_UNROLL for (int i = 0; i < 2; ++i) {
        const int q = first + at.row + i;
        EPI_UNROLL for (int d = 0; d < DP / 8; ++d) {
            const int column = at.lane8 + d * 8;
            if (q < p.time && column < p.head_size)
                dqkv[head.qkv_at + size_t(q) * head.stride + column] = acc[i][d] * p.scale;
        }
    }
}

// acc[i][d] += Σ_q score[q, row+i] rows[q, lane8 + 8d]
template <int DP> EPI_DEVICE void add_transposed(const float* score, const float* rows, const Spot& at, float (&acc)[2][DP / 8]) {
    EPI_UNROLL_BY(4) for (int q = 0; q < TILE; ++q) {
        EPI_UNROLL for (int i = 0; i < 2; ++i) {
            const float weight = score[q * SP + at.row + i];
            EPI_UNROLL for (int d = 0; d < DP / 8; ++d)
                acc[i][d] = fmaf(weight, rows[q * (DP + 1) + at.lane8 + d * 8], acc[i][d]);
        }
    }
}

template <int DP>
EPI_DEVICE void attention_backward_key_value(const AttentionParams& p, const StepState* step, const float* qkv,
                                             const float* out, const float* lse, const float* delta, const float* dout,
                                             float* dqkv) {
    SharedArena arena;
    float* query = arena.take<float>(TILE * (DP + 1));
    float* doutput = arena.take<float>(TILE * (DP + 1));
    float* key = arena.take<float>(DP * TP);
    float* value = arena.take<float>(DP * TP);
    float* score = arena.take<float>(TILE * SP);
    const Head head(p, qkv);
    const Spot at;
    const int first = int(blockIdx.x) * TILE;
    const uint32_t philox_step = step->philox_step;
    load_columns<DP>(key, head.k, head.stride, first, p.time, p.head_size);
    load_columns<DP>(value, head.v, head.stride, first, p.time, p.head_size);

    float dkey[2][DP / 8] = {}, dvalue[2][DP / 8] = {};
    for (int start = 0; start < p.time; start += TILE) {
        __syncthreads();
        load_rows<DP>(query, head.q, head.stride, start, p.time, p.head_size);
        load_dout<DP>(p, doutput, dout + head.out_at, out + head.out_at, head.out_stride, start);
        __syncthreads();
        float weight[2][8], dscore[2][8];
        score_gradients<DP>(p, philox_step, at, query, key, value, doutput, lse + head.row_at, delta + head.row_at, start,
                            first, weight, dscore);
        store_scores(score, at, weight);
        __syncthreads();
        add_transposed<DP>(score, doutput, at, dvalue);
        __syncthreads();
        store_scores(score, at, dscore);
        __syncthreads();
        add_transposed<DP>(score, query, at, dkey);
    }
    const int width = p.heads * p.head_size;
    EPI_UNROLL for (int i = 0; i < 2; ++i) {
        const int k = first + at.row + i;
        EPI_UNROLL for (int d = 0; d < DP / 8; ++d) {
            const int column = at.lane8 + d * 8;
            if (k < p.time && column < p.head_size) {
                const size_t to = head.qkv_at + size_t(k) * head.stride + column;
                dqkv[to + width] = dkey[i][d] * p.scale;
                dqkv[to + 2 * width] = dvalue[i][d];
            }
        }
    }
}

EPI_KERNEL(attention_forward_32, 256, 2, (AttentionParams p, const StepState* step, const float* qkv, float* out, float* lse)) {
    attention_forward<32>(p, step, qkv, out, lse);
}
EPI_KERNEL(attention_backward_query_32, 256, 2,
           (AttentionParams p, const StepState* step, const float* qkv, const float* out, const float* lse, const float* delta,
            const float* dout, float* dqkv)) {
    attention_backward_query<32>(p, step, qkv, out, lse, delta, dout, dqkv);
}
EPI_KERNEL(attention_backward_key_value_32, 256, 2,
           (AttentionParams p, const StepState* step, const float* qkv, const float* out, const float* lse, const float* delta,
            const float* dout, float* dqkv)) {
    attention_backward_key_value<32>(p, step, qkv, out, lse, delta, dout, dqkv);
}
EPI_KERNEL(attention_forward_64, 256, 2, (AttentionParams p, const StepState* step, const float* qkv, float* out, float* lse)) {
    attention_forward<64>(p, step, qkv, out, lse);
}
EPI_KERNEL(attention_backward_query_64, 256, 2,
           (AttentionParams p, const StepState* step, const float* qkv, const float* out, const float* lse, const float* delta,
            const float* dout, float* dqkv)) {
    attention_backward_query<64>(p, step, qkv, out, lse, delta, dout, dqkv);
}
EPI_KERNEL(attention_backward_key_value_64, 256, 2,
           (AttentionParams p, const StepState* step, const float* qkv, const float* out, const float* lse, const float* delta,
            const float* dout, float* dqkv)) {
    attention_backward_key_value<64>(p, step, qkv, out, lse, delta, dout, dqkv);
}
