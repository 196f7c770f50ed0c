// What the lanes of a warp do together: they meet, and the last to arrive computes for all.
#include "runtime.h"

namespace emu {
namespace {

const char* name(Op op) {
    switch (op) {
    case Op::Sync: return "__syncwarp";
    case Op::Shuffle: return "a shuffle";
    case Op::Ballot: return "a vote";
    case Op::LdMatrix: return "ldmatrix";
    case Op::MmaBf16: return "mma_bf16";
    default: return "mma_tf32";
    }
}

Fiber& lane_of(Worker& w, const Fiber& f, unsigned lane) { return w.fiber(f.warp * LANES + lane); }

void shuffle_lanes(Worker& w, Fiber& leader, unsigned group) {
    uint64_t out[LANES];
    for (unsigned left = group; left; left &= left - 1) {
        const int lane = __builtin_ctz(left);
        const Fiber& f = lane_of(w, leader, lane);
        const int start = lane & ~(f.width - 1), end = start + f.width;
        int from = lane;
        switch (Shuffle(f.kind)) {
        case Shuffle::Index: from = start | (f.operand & (f.width - 1)); break;
        case Shuffle::Up: from = lane - f.operand < start ? lane : lane - f.operand; break;
        case Shuffle::Down: from = lane + f.operand >= end ? lane : lane + f.operand; break;
        case Shuffle::Xor: from = (lane ^ f.operand) >= end ? lane : lane ^ f.operand; break;
        }
        if (!(group >> from & 1)) fail(format("lane %d reads lane %d, which takes no part, at %s", lane, from, show(f.site).c_str()));
        out[lane] = lane_of(w, leader, from).value;
    }
    for (unsigned left = group; left; left &= left - 1) lane_of(w, leader, __builtin_ctz(left)).value = out[__builtin_ctz(left)];
}

void load_matrices(Worker& w, Fiber& leader) {
    const unsigned count = leader.kind & 7;
    const bool transposed = leader.kind & 8;
    uint16_t rows[32][8] = {};
    for (unsigned lane = 0; lane < LANES; ++lane) {
        const Fiber& f = lane_of(w, leader, lane);
        const uintptr_t at = reinterpret_cast<uintptr_t>(f.a);
        if (at % 16) fail(format("misaligned: lane %u gives ldmatrix a row that is not 16-byte aligned, at %s", lane, show(f.site).c_str()));
        if (at - reinterpret_cast<uintptr_t>(w.shared_memory) >= SHARED_ROOM)
            fail(format("lane %u gives ldmatrix an address outside shared memory, at %s", lane, show(f.site).c_str()));
        if (lane >= 8 * count) continue;
        if (w.check) touch(w, f, {at, 16, false, false, intern(f.site)});
        memcpy(rows[lane], f.a, 16);
    }
    for (unsigned lane = 0; lane < LANES; ++lane) {
        const unsigned g = lane / 4, t = lane % 4;
        uint32_t* r = static_cast<uint32_t*>(lane_of(w, leader, lane).out);
        for (unsigned i = 0; i < count; ++i) {
            const uint16_t(*m)[8] = rows + 8 * i;
            r[i] = transposed ? m[2 * t][g] | uint32_t(m[2 * t + 1][g]) << 16 : m[g][2 * t] | uint32_t(m[g][2 * t + 1]) << 16;
        }
    }
}

/// D [16,8] += A [16,depth] B [depth,8], summed in the order of k.
void multiply(Worker& w, Fiber& leader, bool bf16) {
    float a[16][16], b[8][16];
    const unsigned depth = bf16 ? 16 : 8;
    auto low = [](uint32_t pair) { return __uint_as_float(pair << 16); };
    auto high = [](uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); };
    auto tf32 = [](uint32_t bits) { return __uint_as_float(bits & 0xFFFFE000u); };
    for (unsigned lane = 0; lane < LANES; ++lane) {
        const Fiber& f = lane_of(w, leader, lane);
        const uint32_t *fa = static_cast<const uint32_t*>(f.a), *fb = static_cast<const uint32_t*>(f.b);
        const unsigned g = lane / 4, t = lane % 4;
        for (unsigned i = 0; i < 4; ++i) {
            const unsigned row = g + i % 2 * 8;
            if (bf16) a[row][2 * t + i / 2 * 8] = low(fa[i]), a[row][2 * t + i / 2 * 8 + 1] = high(fa[i]);
            else a[row][t + i / 2 * 4] = tf32(fa[i]);
        }
        for (unsigned i = 0; i < 2; ++i) {
            if (bf16) b[g][2 * t + i * 8] = low(fb[i]), b[g][2 * t + i * 8 + 1] = high(fb[i]);
            else b[g][t + i * 4] = tf32(fb[i]);
        }
    }
    for (unsigned lane = 0; lane < LANES; ++lane) {
        float* d = static_cast<float*>(lane_of(w, leader, lane).out);
        for (unsigned i = 0; i < 4; ++i) {
            const float *x = a[lane / 4 + i / 2 * 8], *y = b[lane % 4 * 2 + i % 2];
            float sum = 0.0f;
            for (unsigned k = 0; k < depth; ++k) sum += x[k] * y[k];
            d[i] += sum;
        }
    }
}

void complete(Worker& w, Fiber& leader, unsigned group) {
    switch (leader.op) {
    case Op::Sync:
        w.warp_epoch[leader.warp]++;
        for (unsigned left = group; left; left &= left - 1) lane_of(w, leader, __builtin_ctz(left)).warp_epoch = w.warp_epoch[leader.warp];
        break;
    case Op::Shuffle: shuffle_lanes(w, leader, group); break;
    case Op::Ballot: {
        uint64_t votes = 0;
        for (unsigned left = group; left; left &= left - 1) votes |= lane_of(w, leader, __builtin_ctz(left)).value << __builtin_ctz(left);
        for (unsigned left = group; left; left &= left - 1) lane_of(w, leader, __builtin_ctz(left)).value = votes | uint64_t(group) << 32;
        break;
    }
    case Op::LdMatrix: load_matrices(w, leader); break;
    case Op::MmaBf16: multiply(w, leader, true); break;
    case Op::MmaTf32: multiply(w, leader, false); break;
    }
    w.waiting[leader.warp] &= ~group;
}

bool same(const Fiber& f, const Fiber& g) {
    return f.op == g.op && f.kind == g.kind && f.mask == g.mask && f.width == g.width && f.site == g.site;
}

/// Lanes that wait for the same as `f`; it is an error to wait for each other with different calls.
unsigned agreeing(Worker& w, const Fiber& f) {
    unsigned lanes = 0;
    for (unsigned left = w.waiting[f.warp]; left; left &= left - 1) {
        const Fiber& g = lane_of(w, f, __builtin_ctz(left));
        if (same(f, g)) lanes |= 1u << g.lane;
        else if (f.mask >> g.lane & g.mask >> f.lane & 1)
            fail(format("divergent warp: lane %u is at %s (mask 0x%08x, %s) while lane %u waits at %s (mask 0x%08x, %s)", f.lane, name(f.op), f.mask,
                        show(f.site).c_str(), g.lane, name(g.op), g.mask, show(g.site).c_str()));
    }
    return lanes;
}

/// The running lane arrives, with its operands already in its record.
void meet(Worker& w, Fiber& f, Op op, uint8_t kind, unsigned mask, int width, Site site) {
    f.op = op;
    f.kind = kind;
    f.mask = mask;
    f.width = width;
    f.site = site;
    if (!(mask >> f.lane & 1)) fail(format("lane %u calls %s with mask 0x%08x, which does not name it, at %s", f.lane, name(op), mask, show(site).c_str()));
    const unsigned waiting = w.waiting[f.warp], group = mask & w.alive[f.warp];
    if (!waiting) w.mixed[f.warp] = false;
    else if (!same(f, lane_of(w, f, __builtin_ctz(waiting)))) w.mixed[f.warp] = true;
    // Lanes of one warp may be at different places as long as no two wait for each other there.
    unsigned joined = waiting;
    if (w.mixed[f.warp]) joined = agreeing(w, f);
    w.waiting[f.warp] |= 1u << f.lane;
    f.state = State::AtWarp;
    if (group & ~(joined | 1u << f.lane)) return w.pause();
    if (op >= Op::LdMatrix && group != ~0u) fail(format("%s needs all 32 lanes, at %s", name(op), show(site).c_str()));
    complete(w, f, group);
    for (unsigned left = group & ~(1u << f.lane); left; left &= left - 1) w.wake(lane_of(w, f, __builtin_ctz(left)));
    if (w.shuffled) {
        w.wake(f);
        w.pause();
    } else {
        f.state = State::Ready;
    }
}

Fiber& arrive(Worker& w) {
    w.change();
    return *w.running;
}
} // namespace

/// A lane has returned: whoever waits for it and the others need wait no longer.
void warp_exit(Worker& w, Fiber& f) {
    for (unsigned left = w.waiting[f.warp]; left; left &= left - 1) {
        Fiber& g = lane_of(w, f, __builtin_ctz(left));
        if (!(w.waiting[f.warp] >> g.lane & 1)) continue; // released with an earlier lane
        const unsigned group = g.mask & w.alive[f.warp];
        if (group & ~agreeing(w, g)) continue;
        if (g.op >= Op::LdMatrix) fail(format("%s needs all 32 lanes, at %s", name(g.op), show(g.site).c_str()));
        complete(w, g, group);
        for (unsigned lanes = group; lanes; lanes &= lanes - 1) w.wake(lane_of(w, f, __builtin_ctz(lanes)));
    }
}

void sync_warp(unsigned mask, Site site) {
    Worker& w = *worker;
    meet(w, arrive(w), Op::Sync, 0, mask, 0, site);
}

uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t value, int operand, int width, Site site) {
    Worker& w = *worker;
    Fiber& f = arrive(w);
    if (width < 1 || width > 32 || width & (width - 1)) fail(format("a shuffle's width must be a power of two up to 32, not %d, at %s", width, show(site).c_str()));
    f.value = value;
    f.operand = operand;
    meet(w, f, Op::Shuffle, uint8_t(kind), mask, width, site);
    return f.value;
}

unsigned ballot(unsigned mask, bool predicate, unsigned* alive, Site site) {
    Worker& w = *worker;
    Fiber& f = arrive(w);
    f.value = predicate;
    meet(w, f, Op::Ballot, alive != nullptr, mask, 0, site);
    if (alive) *alive = unsigned(f.value >> 32);
    return unsigned(f.value);
}

void ldmatrix(uint32_t* r, int count, bool transposed, const void* row, Site site) {
    Worker& w = *worker;
    Fiber& f = arrive(w);
    f.out = r;
    f.a = row;
    meet(w, f, Op::LdMatrix, uint8_t(count | transposed << 3), ~0u, 0, site);
}

static void mma(Op op, float* d, const uint32_t* a, const uint32_t* b, Site site) {
    Worker& w = *worker;
    Fiber& f = arrive(w);
    f.out = d;
    f.a = a;
    f.b = b;
    meet(w, f, op, 0, ~0u, 0, site);
}
void mma_bf16(float* d, const uint32_t* a, const uint32_t* b, Site site) { mma(Op::MmaBf16, d, a, b, site); }
void mma_tf32(float* d, const uint32_t* a, const uint32_t* b, Site site) { mma(Op::MmaTf32, d, a, b, site); }
} // namespace emu
