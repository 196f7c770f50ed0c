// Sum over positions.
//   forward   out[b,c]    =  sum_l inp[b,l,c]        inp [B,L,C]  out [B,C]
//   backward  dinp[b,l,c] =  dout[b,c]               (activation gradient: '=')
// FLOPs B*L*C; bytes 4*B*C*(L+1). Forward: one block per (b, 32 channels); lanes walk channels, warps walk positions.
// Deterministic: each warp sums a fixed stride of positions, warps are added in order.
#include "common.cuh"
#include "params.cuh"

constexpr int POSITION_SUM_WARPS = 8;

template <class T> EPI_DEVICE void position_sum(PositionSum p, const T* inp, T* out) {
    EPI_SHARED(float, partial, POSITION_SUM_WARPS * WARP);
    const int b = blockIdx.x, c = blockIdx.y * WARP + lane_id();
    float sum = 0.0f;
    if (c < p.channels)
        for (int l = warp_id(); l < p.length; l += POSITION_SUM_WARPS) sum += to_float(inp[(b * p.length + l) * p.channels + c]);
    partial[threadIdx.x] = sum;
    __syncthreads();
    if (warp_id() == 0 && c < p.channels) {
        sum = 0.0f;
        for (int w = 0; w < POSITION_SUM_WARPS; ++w) sum += partial[w * WARP + lane_id()];
        out[b * p.channels + c] = from_float<T>(sum);
    }
}

template <class T> EPI_DEVICE void position_sum_backward(PositionSum p, const T* dout, T* dinp) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.batch * p.length * p.channels) dinp[i] = dout[i / (p.length * p.channels) * p.channels + i % p.channels];
}

EPI_KERNEL(position_sum_forward, 256, 4, (PositionSum p, const float* inp, float* out)) { position_sum(p, inp, out); }
EPI_KERNEL(position_sum_forward_bf16, 256, 4, (PositionSum p, const bf16* inp, bf16* out)) { position_sum(p, inp, out); }
EPI_KERNEL(position_sum_backward_input, 256, 4, (PositionSum p, const float* dout, float* dinp)) { position_sum_backward(p, dout, dinp); }
EPI_KERNEL(position_sum_backward_input_bf16, 256, 4, (PositionSum p, const bf16* dout, bf16* dinp)) { position_sum_backward(p, dout, dinp); }
