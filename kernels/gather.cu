// Batches drawn on the device from a data set that lies there: the keyed order, shifts and strands of data::EpochPlan.
//   position = step.batch_cursor + b;   entry = samples[order(seed, step.epoch, position)]   (keyed; else samples[position])
//   side s: start = flank + entry.shifts[s] + draw(-shift..shift), bases start .. start + length of window entry.windows[s],
//   reverse-complemented as the draw says; bases outside of the stored window and those without a `known` bit are N
//   planes [W,2,words], masks [M,words] as an .epi file has them, mask_of [W]; out: planes [B,3,words], labels [B], weights [B]
// A position past the list gives a sample of N with a NaN label, whose loss stops training.
// Bytes ~2 B (3 + 3) L / 8. Grid (B, 2): a block per sample and side; every thread repeats the few Philox blocks of the order,
// then walks 64-base words. Deterministic: bit for bit what the host cuts.
// Source of the order: Black & Rogaway, "Ciphers with arbitrary finite domains" (CT-RSA 2002): Feistel network, cycle walking.
#include "include/common.cuh"
#include "include/params.cuh"

constexpr uint32_t STREAM_ORDER = 0x20000000u;   // rng::stream::ORDER
constexpr uint32_t STREAM_AUGMENT = 0x20000001u; // rng::stream::AUGMENT

// Where `position` of the epoch's order points to: rng::Permutation::at.
EPI_DEVICE uint32_t order_at(const GatherParams& p, uint32_t epoch, uint32_t position) {
    const uint32_t mask = (1u << p.half) - 1u;
    uint32_t x = position;
    do {
        uint32_t left = x >> p.half, right = x & mask;
        for (uint32_t round = 0; round < 6; ++round) {
            const uint32_t f = philox_block(p.seed, STREAM_ORDER, epoch, uint64_t(right) << 3 | round).x;
            const uint32_t next = left ^ (f & mask);
            left = right;
            right = next;
        }
        x = left << p.half | right;
    } while (x >= uint32_t(p.samples));
    return x;
}

// A whole number in -shift..=shift.
EPI_DEVICE int draw_shift(const GatherParams& p, uint32_t word) {
    return int(__umulhi(word, 2u * uint32_t(p.shift) + 1u)) - p.shift;
}

// 64 bits of a plane of `words` words from bit `at` on, which may be negative; bits outside are 0.
EPI_DEVICE uint64_t plane_bits(const uint64_t* plane, int words, int at) {
    const int word = at >> 6, bit = at & 63;
    const uint64_t low = word >= 0 && word < words ? plane[word] >> bit : 0;
    if (bit == 0 || word + 1 < 0 || word + 1 >= words) return low;
    return low | plane[word + 1] << (64 - bit);
}

// 64 bits of a plane that is 1 at `0 .. width` and 0 elsewhere.
EPI_DEVICE uint64_t inside_bits(int width, int at) {
    const int from = min(max(-at, 0), 64), to = min(max(width - at, 0), 64);
    return to <= from ? 0 : ~uint64_t(0) >> (64 - (to - from)) << from;
}

EPI_KERNEL(gather_batch, 64, 8,
           (GatherParams p, const OrderEntry* samples, const StepState* step, const uint64_t* enhancer_planes,
            const uint64_t* enhancer_masks, const uint32_t* enhancer_mask_of, const uint64_t* promoter_planes,
            const uint64_t* promoter_masks, const uint32_t* promoter_mask_of, uint64_t* enhancer_out, uint64_t* promoter_out,
            float* labels, float* weights)) {
    const int b = int(blockIdx.x), side = int(blockIdx.y);
    const uint32_t epoch = step->epoch, position = step->batch_cursor + uint32_t(b);
    const bool listed = position < uint32_t(p.samples);
    const bool keyed = listed && p.keyed != 0;
    const uint32_t place = keyed ? order_at(p, epoch, position) : listed ? position : 0u;
    const OrderEntry* entry = samples + place;
    const uint4 words = keyed ? philox_block(p.seed, STREAM_AUGMENT, epoch, position) : make_uint4(0, 0, 0, 0);
    const int moved = keyed ? draw_shift(p, side == 0 ? words.x : words.y) : 0;
    const bool reversed = keyed && p.reverse_complement != 0 && words.z >> 31 == 1u;
    if (side == 0 && threadIdx.x == 0) {
        labels[b] = listed ? entry->label : nanf("");
        weights[b] = entry->weight;
    }

    const uint32_t window = side == 0 ? entry->windows[0] : entry->windows[1];
    const int start = p.flank + (side == 0 ? entry->shifts[0] : entry->shifts[1]) + moved;
    const int length = side == 0 ? p.enhancer_length : p.promoter_length, width = length + 2 * p.flank;
    const int stored = ceil_div(width, 64), cut = ceil_div(length, 64);
    const uint64_t* low = (side == 0 ? enhancer_planes : promoter_planes) + size_t(window) * 2 * stored;
    const uint32_t mask = (side == 0 ? enhancer_mask_of : promoter_mask_of)[window];
    const uint64_t* known = (side == 0 ? enhancer_masks : promoter_masks) + (mask == 0xFFFFFFFFu ? 0 : size_t(mask) * stored);
    uint64_t* out = (side == 0 ? enhancer_out : promoter_out) + size_t(b) * 3 * cut;
    for (int j = int(threadIdx.x); j < cut; j += 64) {
        // Bit i of the reverse strand is base length-1-i: the 64 bits that end before length - 64 j, mirrored.
        const int at = reversed ? start + length - 64 * (j + 1) : start + 64 * j;
        uint64_t seen = listed ? inside_bits(width, at) : 0;
        if (mask != 0xFFFFFFFFu) seen &= plane_bits(known, stored, at);
        uint64_t l = plane_bits(low, stored, at), h = plane_bits(low + stored, stored, at);
        if (reversed) {
            l = ~__brevll(l);
            h = ~__brevll(h);
            seen = __brevll(seen);
        }
        if (j >= length / 64) seen &= (uint64_t(1) << (length % 64)) - 1;
        out[j] = l & seen;
        out[cut + j] = h & seen;
        out[2 * cut + j] = seen;
    }
}
