// Launch parameters: one plain struct per operator, passed by value, 4-byte fields first come first served, 8-byte fields
// first. Mirrored in src/backend/cuda/params.rs. Each is listed below with its size, which both compilers assert and which
// Rust compares by name.
#pragma once
#include "philox.cuh"
#include "step.cuh"

/// Sum over positions: `batch` sequences of `length` positions with `channels` values each.
struct PositionSum {
    int batch, length, channels;
};

/// C[m,n] (+)= Σ_k A[m,k] B[k,n]; `ld*` are row pitches of the stored matrices, in elements. The k range is cut into
/// gridDim.z chunks of `k_chunk`; more than one chunk writes partial sums [chunk,m,n] instead of C. Rows k of A with
/// k % mask_period == mask_period - 1 count as zero (mask_period 0: none). Tensor cores only: the sum goes on over `parts`
/// pairs of operands, the next ones part_a and part_b elements further; columns from `split` on are written `jump` elements
/// further; with `sums`, one more column follows: Σ_k A[m,k].
struct Gemm {
    int m, n, k, lda, ldb, ldc, k_chunk, mask_period, accumulate, relu, parts, part_a, part_b, split, jump, sums;
};

/// A product whose columns of B from `columns` on are those of a second matrix of pitch `pitch`: its row k, zeros where
/// k % period == edge.
struct GemmBeside {
    Gemm gemm;
    int columns, pitch, period, edge;
};

/// Strided correlation of [batch,length,inputs] with [outputs,inputs,kernel] giving [batch,out_length,outputs], then LeakyReLU
/// (slope 1: none); `words` 64-bit words per plane where the input is DNA.
struct Conv {
    int batch, length, inputs, outputs, kernel, stride, padding, out_length, k_chunk, words;
    float slope;
};

/// A product one of whose operands is windows of sequences (kernels/include/gemm_bf16_tile.cuh): `rows` windows a sequence of
/// `sample` elements, the first at `origin`, as far apart as the pitch of that operand. Row r of C goes to position
/// r step + first of `length`, if there is one, through LeakyReLU (slope 1: none).
struct ConvGemm {
    Gemm gemm;
    int rows, origin, sample, step, first, length;
    float slope;
};

/// A weight as `lines` rows of `taps` x `channels` in a matrix of `pitch` columns: element (j,c) of a line is
/// line line_stride + c channel_stride + first + j step of the weight.
struct ConvPack {
    int lines, taps, channels, line_stride, channel_stride, first, step, pitch;
};

/// `rows` x `columns`, cut into gridDim.y chunks of `chunk` rows.
struct Columns {
    int rows, columns, chunk;
};

struct BatchNormParams {
    int rows, columns, chunk, chunks;
    float eps, momentum;
    int train;
};

/// Max pooling of [batch,length,channels] to [batch,pooled,channels].
struct MaxPool {
    int batch, length, channels, size, pooled;
};

/// A block of `rows` x `width` inside matrices of pitch `src_pitch` and `dst_pitch`.
struct CopyRows {
    int rows, width, src_pitch, dst_pitch;
};

/// [a,b,c] -> [b,a,c]
struct Swap {
    int a, b, c;
};

/// The DNA block: `words` 64-bit words per plane and sample, planes [batch,3,words]; `slices` partial results.
struct DnaConvParams {
    DropoutParams dropout;
    int batch, length, words, channels, kernel, pool, conv_length, pooled, slices;
    int mode; // 0 bias, 1 batch norm with running statistics, 2 batch norm with batch statistics
    float eps, momentum;
};

/// One direction pair of an LSTM layer: `batch` sequences of `time` steps, `hidden` units, `hard` = hard sigmoid gates.
struct LstmParams {
    int batch, time, hidden, hard, save;
};

struct AttentionParams {
    DropoutParams dropout;
    int batch, time, heads, head_size, relu, pitch;
    float scale;
    int head_pitch; // of qkv as tensor cores read it
};

/// `bases` = batch times `length`, sums in chunks of `chunk` bases; DNA of `words` 64-bit words per plane and sample.
struct ReconstructionParams {
    int bases, length, words, chunk;
};

/// Normal noise of one layer for `count` elements.
struct NoiseParams {
    uint64_t seed;
    uint32_t stream;
    int count;
};

/// Latent variables [batch,size].
struct LatentParams {
    int batch, size;
};

struct ReadoutParams {
    int batch, channels;
};

struct LossParams {
    int batch, logits, classes, kind; // kind: 0 cross entropy, 1 exchanged, 2 binary (one logit, two classes)
};

/// One range of the flat parameter buffer.
struct ParamRange {
    int offset, len;
    float l2;
    int frozen;
};

struct AdamParams {
    int count, ranges, chunk, chunks;
    float beta1, beta2, eps, clip; // clip <= 0: none
};

/// Batches of a list of `samples`; windows hold `flank` bases more than their length on each side. Keyed: in the order of
/// (seed, epoch), a Feistel network of two halves of `half` bits, with shifts up to `shift` and reverse complements.
struct GatherParams {
    uint64_t seed;
    int samples, keyed, half, shift, reverse_complement, enhancer_length, promoter_length, flank;
};

/// One entry of a training list: the window of each side, the bases by which the split moved it, class and loss weight.
struct OrderEntry {
    uint32_t windows[2];
    int shifts[2];
    float label, weight;
};

#define EPI_PARAMS(X)                                                                                                  \
    X(StepState, 28)                                                                                                   \
    X(DropoutParams, 24)                                                                                               \
    X(PositionSum, 12)                                                                                                 \
    X(Gemm, 64)                                                                                                        \
    X(Conv, 44)                                                                                                        \
    X(GemmBeside, 80)                                                                                                  \
    X(ConvGemm, 92)                                                                                                    \
    X(ConvPack, 32)                                                                                                    \
    X(Columns, 12)                                                                                                     \
    X(BatchNormParams, 28)                                                                                             \
    X(MaxPool, 20)                                                                                                     \
    X(CopyRows, 16)                                                                                                    \
    X(Swap, 12)                                                                                                        \
    X(DnaConvParams, 72)                                                                                               \
    X(LstmParams, 20)                                                                                                  \
    X(AttentionParams, 56)                                                                                             \
    X(ReconstructionParams, 16)                                                                                        \
    X(NoiseParams, 16)                                                                                                 \
    X(LatentParams, 8)                                                                                                 \
    X(ReadoutParams, 8)                                                                                                \
    X(LossParams, 16)                                                                                                  \
    X(GatherParams, 40)                                                                                                \
    X(OrderEntry, 24)                                                                                                  \
    X(ParamRange, 16)                                                                                                  \
    X(AdamParams, 32)

#define EPI_ASSERT_SIZE(T, size) static_assert(sizeof(T) == size, #T " must have " #size " bytes, as in Rust");
EPI_PARAMS(EPI_ASSERT_SIZE)
#undef EPI_ASSERT_SIZE
