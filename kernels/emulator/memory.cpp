// Device memory: one reserved range per flavour, so that an address tells whose it is; host pointer = device pointer.
#include "runtime.h"

#include <sys/mman.h>

namespace emu {
namespace {
constexpr size_t ALIGN = 256;
constexpr size_t GAP = 256; // never handed out, after each buffer
constexpr size_t GIVEN_BACK = size_t(1) << 20; // freed rooms of this size return their pages to the system
constexpr size_t RESERVE = size_t(64) << 30;
constexpr size_t RESERVE_CHECKED = size_t(4) << 30; // its shadow takes 30 times as much address space

void* reserve_pages(size_t bytes) {
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? nullptr : at;
}

/// Rooms come in sizes that waste at most a quarter, so that freed ones fit again.
size_t room_for(size_t bytes) {
    const size_t wanted = (bytes + GAP + ALIGN - 1) & ~(ALIGN - 1);
    size_t step = ALIGN;
    while (step * 8 < wanted) step *= 2;
    return (wanted + step - 1) & ~(step - 1);
}
} // namespace

Arena& arena(bool check) {
    static Arena fast(false), checked(true);
    return check ? checked : fast;
}

bool Arena::reserve(std::string* error) {
    if (size) return true;
    for (size_t bytes = check ? RESERVE_CHECKED : RESERVE; bytes >= size_t(256) << 20; bytes /= 2) {
        void* at = reserve_pages(bytes);
        if (!at) continue;
        if (check && !shadow.open(reinterpret_cast<uintptr_t>(at), bytes)) {
            munmap(at, bytes);
            continue;
        }
        base = reinterpret_cast<uintptr_t>(at);
        size = bytes;
        top = GAP;
        return true;
    }
    *error = "the emulator cannot reserve address space (raise `ulimit -v`)";
    return false;
}

void* Arena::alloc(size_t bytes, std::string* error) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!reserve(error)) return nullptr;
    const size_t room = room_for(bytes);
    uintptr_t at;
    if (auto found = idle.find(room); found != idle.end()) {
        at = found->second;
        idle.erase(found);
    } else {
        if (room > size - top) {
            *error = format("out of memory: %zu bytes wanted, the emulator's device has %zu and %zu are in use", bytes, size, top);
            return nullptr;
        }
        at = base + top;
        top += room;
    }
    live[at] = bytes;
    if (check) {
        shadow.allow(at, bytes);
        memset(reinterpret_cast<void*>(at), 0xFF, bytes);
    }
    return reinterpret_cast<void*>(at);
}

bool Arena::release(void* at, std::string* error) {
    std::lock_guard<std::mutex> lock(mutex);
    const auto found = live.find(reinterpret_cast<uintptr_t>(at));
    if (found == live.end()) {
        *error = "the address to free is not that of a buffer";
        return false;
    }
    if (check) shadow.forbid(found->first, (found->second + 3) & ~size_t(3));
    const size_t room = room_for(found->second);
    if (room >= GIVEN_BACK) madvise(reinterpret_cast<void*>((found->first + 4095) & ~uintptr_t(4095)), (room - 4095) & ~size_t(4095), MADV_DONTNEED);
    idle.emplace(room, found->first);
    live.erase(found);
    return true;
}

void Arena::usage(size_t* free, size_t* total) {
    std::lock_guard<std::mutex> lock(mutex);
    *total = size;
    *free = size - top;
    for (const auto& room : idle) *free += room.first;
}

bool Arena::covers(const void* at, size_t n, const char* what, std::string* error) {
    const uintptr_t from = reinterpret_cast<uintptr_t>(at);
    std::lock_guard<std::mutex> lock(mutex);
    auto found = live.upper_bound(from);
    if (found != live.begin() && (--found, from >= found->first && from + n <= found->first + found->second)) return true;
    *error = format("%s of %zu bytes outside any buffer", what, n);
    return false;
}

bool Arena::describe(uintptr_t at, std::string* text) {
    std::lock_guard<std::mutex> lock(mutex);
    auto after = live.upper_bound(at);
    if (after != live.begin()) {
        const auto& [start, bytes] = *std::prev(after);
        if (at < start + bytes) return *text = format("byte %zu of a buffer of %zu bytes", at - start, bytes), true;
        if (at - (start + bytes) < size_t(1) << 20) return *text = format("%zu bytes past the end of a buffer of %zu bytes", at - (start + bytes), bytes), true;
    }
    if (after != live.end() && after->first - at < size_t(1) << 20)
        return *text = format("%zu bytes before a buffer of %zu bytes", after->first - at, after->second), true;
    *text = "an address in no buffer (freed?)";
    return false;
}

// ---- shadow ---------------------------------------------------------------------------------------------------------------
bool Shadow::open(uintptr_t from, size_t bytes) {
    state = static_cast<uint16_t*>(reserve_pages(bytes / 4 * sizeof(uint16_t)));
    words = static_cast<Cell*>(reserve_pages(bytes / 4 * sizeof(Cell)));
    this->bytes = static_cast<Cell*>(reserve_pages(bytes * sizeof(Cell)));
    if (!state || !words || !this->bytes) {
        close(bytes);
        return false;
    }
    base = from;
    size = bytes;
    return true;
}

void Shadow::close(size_t covered) {
    if (state) munmap(state, covered / 4 * sizeof(uint16_t));
    if (words) munmap(words, covered / 4 * sizeof(Cell));
    if (bytes) munmap(bytes, covered * sizeof(Cell));
    state = nullptr;
    words = bytes = nullptr;
    size = 0;
}

void Shadow::allow(uintptr_t at, size_t n) {
    uint16_t* s = state + (at - base) / 4;
    for (size_t i = 0; i < n / 4; ++i) s[i] = 0x0F;
    if (n % 4) s[n / 4] = uint16_t((1u << n % 4) - 1);
}

void Shadow::forbid(uintptr_t at, size_t n) { memset(state + (at - base) / 4, 0, n / 4 * sizeof(uint16_t)); }

template <class F> static void each_word(uintptr_t offset, size_t n, F f) {
    for (uintptr_t end = offset + n; offset < end;) {
        const unsigned first = offset % 4, last = unsigned(end - offset + first < 4 ? end - offset + first : 4);
        if (!f(offset / 4, ((1u << last) - 1) & ~0u << first, offset)) return;
        offset += last - first;
    }
}

void Shadow::initialise(uintptr_t at, size_t n) {
    each_word(at - base, n, [&](size_t word, unsigned mask, uintptr_t) { return state[word] |= uint16_t(mask << 4), true; });
}

void Shadow::inherit(uintptr_t to, uintptr_t from, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        const uintptr_t a = from + i - base, b = to + i - base;
        const unsigned set = state[a / 4] >> (4 + a % 4) & 1u;
        state[b / 4] = uint16_t((state[b / 4] & ~(0x10u << b % 4)) | set << (4 + b % 4));
    }
}

bool Shadow::initialised(uintptr_t at, size_t n, size_t* first_bad) const {
    bool all = true;
    each_word(at - base, n, [&](size_t word, unsigned mask, uintptr_t offset) {
        all = (state[word] >> 4 & mask) == mask;
        *first_bad = offset + base - at;
        return all;
    });
    return all;
}

void Shadow::flight(uintptr_t at, size_t n, bool on) {
    each_word(at - base, n, [&](size_t word, unsigned, uintptr_t) {
        state[word] = uint16_t(on ? state[word] | IN_FLIGHT : state[word] & ~IN_FLIGHT);
        return true;
    });
}
} // namespace emu
