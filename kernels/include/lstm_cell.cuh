// One LSTM cell, and where its numbers live: gates [2,B,T,4H], cells [2,B,T,H], out [B,T,2H].
#pragma once
#include "params.cuh"

struct Cell {
    float4 gate; // activated i, f, g, o
    float c, h;
};

struct CellGradient {
    float4 da; // of the four pre-activations
    float dc;  // of the previous cell state
};

// Powers of two and quotients may be off by 2 units in the last place, and tanh by as much as 1 has at its last place: exact
// ones cost more than the rest of a cell, in every step of a chain that nothing else can hide.
EPI_DEVICE float gate_of(float a, int hard) {
    if (!hard) return __fdividef(1.0f, 1.0f + exp2_approx(a * -1.4426950408889634f));
    const float y = fmaf(0.2f, a, 0.5f);
    return y < 0.0f ? 0.0f : y > 1.0f ? 1.0f : y; // NaN stays NaN
}

EPI_DEVICE float tanh_of(float x) { return 1.0f - __fdividef(2.0f, 1.0f + exp2_approx(x * 2.8853900817779268f)); }

// Derivative of the gate by its own value.
EPI_DEVICE float gate_slope(float y, int hard) { return hard ? (y > 0.0f && y < 1.0f ? 0.2f : 0.0f) : y * (1.0f - y); }

EPI_DEVICE void add_scaled(float4& a, const float4& w, float x) {
    a.x = fmaf(w.x, x, a.x);
    a.y = fmaf(w.y, x, a.y);
    a.z = fmaf(w.z, x, a.z);
    a.w = fmaf(w.w, x, a.w);
}

EPI_DEVICE Cell lstm_cell(const float4& a, float c, int hard) {
    Cell now;
    now.gate = make_float4(gate_of(a.x, hard), gate_of(a.y, hard), tanh_of(a.z), gate_of(a.w, hard));
    now.c = fmaf(now.gate.y, c, now.gate.x * now.gate.z);
    now.h = now.gate.w * tanh_of(now.c);
    return now;
}

EPI_DEVICE size_t row_at(const LstmParams& p, int direction, int b, int t) {
    return (size_t(direction) * p.batch + b) * p.time + t;
}
EPI_DEVICE size_t output_at(const LstmParams& p, int direction, int b, int t) {
    return ((size_t(b) * p.time + t) * 2 + direction) * p.hidden;
}

// The four gates of one unit, `pitch` apart.
EPI_DEVICE float4 gates_from(const float* at, int pitch) {
    return make_float4(at[0], at[pitch], at[2 * pitch], at[3 * pitch]);
}
template <class T> EPI_DEVICE void gates_to(const float4& value, T* at, int pitch) {
    at[0] = from_float<T>(value.x);
    at[pitch] = from_float<T>(value.y);
    at[2 * pitch] = from_float<T>(value.z);
    at[3 * pitch] = from_float<T>(value.w);
}

EPI_DEVICE float4 load_gates(const float* gates, const LstmParams& p, int direction, int b, int t, int u) {
    return gates_from(gates + row_at(p, direction, b, t) * 4 * p.hidden + u, p.hidden);
}
EPI_DEVICE void store_gates(const float4& value, float* gates, const LstmParams& p, int direction, int b, int t, int u) {
    gates_to(value, gates + row_at(p, direction, b, t) * 4 * p.hidden + u, p.hidden);
}

EPI_DEVICE void store_state(const Cell& now, const LstmParams& p, int direction, int b, int t, int u, float* gates, float* cells,
                            float* out) {
    out[output_at(p, direction, b, t) + u] = now.h;
    if (!p.save) return;
    store_gates(now.gate, gates, p, direction, b, t, u);
    cells[row_at(p, direction, b, t) * p.hidden + u] = now.c;
}

// Gradients of one cell with state `c` (before: `previous`) from those of h and c that reach it.
EPI_DEVICE CellGradient cell_gradient(const float4& gate, float c, float previous, float dh, float dc, int hard) {
    const float squashed = tanh_of(c);
    dc = fmaf(dh * gate.w, 1.0f - squashed * squashed, dc);
    CellGradient g;
    g.da.x = dc * gate.z * gate_slope(gate.x, hard);
    g.da.y = dc * previous * gate_slope(gate.y, hard);
    g.da.z = dc * gate.x * (1.0f - gate.z * gate.z);
    g.da.w = dh * squashed * gate_slope(gate.w, hard);
    g.dc = dc * gate.y;
    return g;
}

// What the backward step of one unit reads, fetched one step early.
struct Saved {
    float4 gate;
    float dout, previous; // previous: the cell before this step
};

// `previous` is the cell one step earlier, `none` at the first; `hidden` units.
EPI_DEVICE Saved saved_from(const float* gates, const float* dout, const float* previous, bool none, int hidden) {
    return {gates_from(gates, hidden), dout[0], none ? 0.0f : previous[0]};
}
