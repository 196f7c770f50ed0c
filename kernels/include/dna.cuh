// Reading packed DNA: a sample is three bit planes of `words` 64-bit words each (backend::DnaBatch): low and high bit of
// the code A=0 C=1 G=2 T=3, and known. Bits past the sequence are 0, so whatever lies there reads as N.
#pragma once
#include "params.cuh"

// 64 bases from some position on; base i is bit i.
struct Window {
    uint64_t low, high, known;
    // Bases equal to code `a`.
    EPI_DEVICE_MEMBER uint64_t is(int a) const { return known & (a & 1 ? low : ~low) & (a & 2 ? high : ~high); }
};

EPI_DEVICE uint64_t plane_window(const uint64_t* plane, int words, int start) {
    const int word = start / 64, shift = start % 64;
    const uint64_t here = word < words ? plane[word] >> shift : 0;
    return shift == 0 || word + 1 >= words ? here : here | plane[word + 1] << (64 - shift);
}

EPI_DEVICE Window dna_window(const uint64_t* sample, int words, int start) {
    return {plane_window(sample, words, start), plane_window(sample + words, words, start),
            plane_window(sample + 2 * words, words, start)};
}

// Code of one base; 4 = N, also past the end.
EPI_DEVICE int dna_code(const uint64_t* sample, int words, int i) {
    const int word = i / 64, bit = i % 64;
    if (word >= words || !(sample[2 * words + word] >> bit & 1)) return 4;
    return int(sample[word] >> bit & 1) | int(sample[words + word] >> bit & 1) << 1;
}
