// The check flavour: every memory access of a kernel arrives here and is held against shadow memory.
//
// The kernels are compiled with -fsanitize=thread but not linked with its runtime; build.rs renames the callbacks to
// epi_tsan_* and notes the source line of every call in a table. An access is ordered after another of the same launch if it is
// of the same thread, or of the same block after a later block barrier, or of the same warp after a later __syncwarp. Anything
// else is a race, whatever the schedule happened to be. Launches are ordered by their stream.
#include "runtime.h"

namespace emu {
namespace {

// Who: serial 25 | atomic 1 | crowd 2 | thread 10 | block epoch 14 | warp epoch 12.
enum : uint64_t { ONE, WARP, BLOCK, GRID }; // how many readers a record stands for
constexpr unsigned LAST_EPOCH = 4095;       // warp epochs saturate here and then count as ordered

uint64_t who(const Worker& w, const Fiber& f, bool atomic) {
    const uint64_t epoch = f.warp_epoch < LAST_EPOCH ? f.warp_epoch : LAST_EPOCH;
    return uint64_t(w.serial) << 39 | uint64_t(atomic) << 38 | uint64_t(f.id) << 26 | uint64_t(f.block_epoch & 0x3FFF) << 12 | epoch;
}
uint32_t serial(uint64_t r) { return uint32_t(r >> 39); }
bool atomic(uint64_t r) { return r >> 38 & 1; }
uint64_t crowd(uint64_t r) { return r >> 36 & 3; }
unsigned thread(uint64_t r) { return r >> 26 & 1023; }
unsigned block_epoch(uint64_t r) { return r >> 12 & 0x3FFF; }
unsigned warp_epoch(uint64_t r) { return r & 0xFFF; }

/// Whether a record means nothing any more: unset, of another launch or, in shared memory, of another block.
bool stale(const Worker& w, bool shared, uint64_t r) {
    return shared ? serial(r) != w.serial : serial(r) - w.launch->first_serial >= w.launch->blocks;
}

/// Whether `r` may run at the same time as `me`, neither being ordered after the other.
bool races(uint64_t r, uint64_t me) {
    if (atomic(r) && atomic(me)) return false;
    if (crowd(r) == GRID || serial(r) != serial(me)) return true;
    if (block_epoch(r) != block_epoch(me)) return false;
    if (crowd(r) == BLOCK) return true;
    if (crowd(r) == ONE && thread(r) == thread(me)) return false;
    if (thread(r) / LANES != thread(me) / LANES) return true;
    return warp_epoch(r) >= warp_epoch(me) && warp_epoch(me) < LAST_EPOCH;
}

/// The record of the readers so far together with one more.
uint64_t join(uint64_t r, uint64_t me) {
    if (crowd(r) == GRID || serial(r) != serial(me)) return (r & ~(3ull << 36)) | GRID << 36;
    if (block_epoch(r) != block_epoch(me)) return me;
    if (crowd(r) == ONE && thread(r) == thread(me)) return me;
    if (crowd(r) == BLOCK || thread(r) / LANES != thread(me) / LANES) return (me & ~(3ull << 36)) | BLOCK << 36;
    return (me & ~(3ull << 36)) | WARP << 36;
}

struct Offence {
    Worker& w;
    const Fiber& f;
    const Access& a;
    const Shadow& shadow;

    std::string place(uintptr_t at) const {
        std::string text;
        if (&shadow != &w.shadow) return arena(true).describe(at, &text), text;
        const char* p = reinterpret_cast<const char*>(at);
        const SharedArray* nearest = nullptr;
        for (const SharedArray& array : w.arrays)
            if (array.data - RED_ZONE <= p && (!nearest || array.data <= p)) nearest = &array;
        if (!nearest) return "shared memory that belongs to no array";
        const ptrdiff_t offset = p - nearest->data;
        if (offset < 0) return format("%td bytes before `%s` in shared memory", -offset, nearest->name);
        if (size_t(offset) < nearest->bytes) return format("byte %td of `%s` (%zu bytes, shared)", offset, nearest->name, nearest->bytes);
        return format("%td bytes past the end of `%s` (%zu bytes, shared)", offset - ptrdiff_t(nearest->bytes), nearest->name, nearest->bytes);
    }
    [[noreturn]] void raise(const char* kind, uintptr_t at, const std::string& more = {}) const {
        std::string text = format("%s: %s of %zu bytes at ", kind, a.atomic ? "atomic" : a.write ? "write" : "read", a.size);
        text += show_where(a.where) + ", " + place(at) + more;
        if (&f != w.running) text += ", by thread " + show(f.thread_index);
        fail(text);
    }
    [[noreturn]] void race(uint64_t other, Where other_at, bool wrote, uintptr_t at) const {
        const Launch& l = *w.launch;
        const unsigned index = serial(other) - l.first_serial;
        const uint3 b = {index % l.grid.x, index / l.grid.x % l.grid.y, index / l.grid.x / l.grid.y};
        std::string text = format(", against the %s at ", wrote ? "write" : "read") + show_where(other_at);
        if (index != w.block) text += " by block " + show(b);
        else if (crowd(other) != ONE) text += " by several threads";
        else text += format(" by thread %u", thread(other));
        raise(index != w.block ? "race between blocks" : "race between threads", at, text);
    }
};

inline void visit(const Offence& o, bool shared, Cell& c, uint64_t me, uintptr_t at) {
    if (c.write != me && !stale(o.w, shared, c.write) && races(c.write, me)) o.race(c.write, c.write_at, true, at);
    const bool read_before = c.read != me && !stale(o.w, shared, c.read);
    if (!o.a.write) {
        c.read = read_before ? join(c.read, me) : me;
        c.read_at = o.a.where;
        return;
    }
    if (read_before && races(c.read, me)) o.race(c.read, c.read_at, false, at);
    c = {me, 0, o.a.where, 0};
}
} // namespace

void touch(Worker& w, const Fiber& f, const Access& a) {
    Shadow* shadow = w.shadow.holds(a.at) ? &w.shadow : arena(true).holds(a.at) ? &arena(true).shadow : nullptr;
    w.last_access = a.where;
    if (!shadow) {
        if (!a.write && a.at >= 1 << 20) return; // constants and launch parameters
        const char* kind = a.at < 1 << 20 ? "null pointer" : "out of bounds";
        fail(format("%s: %s of %zu bytes at %s, 0x%lx", kind, a.write ? "write" : "read", a.size, show_where(a.where).c_str(), (unsigned long)a.at));
    }
    const Offence offence{w, f, a, *shadow};
    const bool shared = shadow == &w.shadow;
    const uint64_t me = who(w, f, a.atomic);
    for (uintptr_t at = a.at, end = a.at + a.size; at < end;) {
        const size_t offset = at - shadow->base, word = offset / 4;
        const unsigned first = offset % 4, last = unsigned(end - at + first < 4 ? end - at + first : 4);
        const unsigned mask = ((1u << last) - 1) & ~0u << first;
        uint16_t& state = shadow->state[word];
        if ((state & mask) != mask) offence.raise("out of bounds", at + __builtin_ctz(mask & ~unsigned(state)) - first);
        if (state & IN_FLIGHT) offence.raise("missing cp.async wait", at, ", whose copy is still in flight");
        if ((!a.write || a.atomic) && (state >> 4 & mask) != mask) offence.raise("uninitialised", at);
        if (mask == 0xF && !(state & SPLIT)) {
            visit(offence, shared, shadow->words[word], me, at);
        } else {
            Cell* bytes = shadow->bytes + word * 4;
            if (!(state & SPLIT)) {
                for (unsigned i = 0; i < 4; ++i) bytes[i] = shadow->words[word];
                state |= SPLIT;
            }
            for (unsigned i = first; i < last; ++i) visit(offence, shared, bytes[i], me, at + i - first);
        }
        if (a.write) state |= uint16_t(mask << 4);
        at += last - first;
    }
}

// ---- where an access came from ------------------------------------------------------------------------------------------------
namespace {
std::vector<const Line*>& tables() {
    static std::vector<const Line*> all;
    return all;
}
std::mutex sites_mutex;
std::vector<Site> sites;
constexpr Where INTERNED = 1u << 31;

Where where_of(const void* pc) { // 31 bits, relative to something in this binary
    return Where(reinterpret_cast<uintptr_t>(pc) - reinterpret_cast<uintptr_t>(&enroll_lines) + (1u << 30)) & ~INTERNED;
}
} // namespace

void enroll_lines(const Line* lines) { tables().push_back(lines); }

Where intern(Site site) {
    std::lock_guard<std::mutex> lock(sites_mutex);
    for (size_t i = 0; i < sites.size(); ++i)
        if (sites[i] == site) return INTERNED | Where(i);
    sites.push_back(site);
    return INTERNED | Where(sites.size() - 1);
}

std::string show_where(Where where) {
    if (where & INTERNED) {
        std::lock_guard<std::mutex> lock(sites_mutex);
        return show(sites[where & ~INTERNED]);
    }
    for (const Line* lines : tables())
        for (; lines->pc; ++lines)
            if (where_of(reinterpret_cast<void*>(lines->pc)) == where) return format("%s:%d", lines->file, int(lines->line));
    return "an unknown line";
}

// ---- callbacks of the instrumented kernels -----------------------------------------------------------------------------------
namespace {
__attribute__((noinline)) void accessed(uintptr_t at, size_t size, bool write, bool aligned, const void* pc) {
    Worker& w = *worker;
    w.change();
    const Where where = where_of(pc);
    if (aligned && at % size)
        fail(format("misaligned: %s of %zu bytes at %s", write ? "write" : "read", size, show_where(where).c_str()));
    touch(w, *w.running, {at, size, write, false, where});
}
inline __attribute__((always_inline)) void access(const void* p, size_t size, bool write, bool aligned, const void* pc) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(p);
    if (!worker || worker->on_stack(at)) return; // static initialisers; locals
    accessed(at, size, write, aligned, pc);
}
} // namespace
} // namespace emu

#define EPI_CALLBACKS(size)                                                                                                          \
    void epi_tsan_read##size(void* at) { emu::access(at, size, false, true, __builtin_return_address(0)); }                         \
    void epi_tsan_write##size(void* at) { emu::access(at, size, true, true, __builtin_return_address(0)); }                         \
    void epi_tsan_volatile_read##size(void* at) { emu::access(at, size, false, true, __builtin_return_address(0)); }                \
    void epi_tsan_volatile_write##size(void* at) { emu::access(at, size, true, true, __builtin_return_address(0)); }                \
    void epi_tsan_unaligned_read##size(void* at) { emu::access(at, size, false, false, __builtin_return_address(0)); }              \
    void epi_tsan_unaligned_write##size(void* at) { emu::access(at, size, true, false, __builtin_return_address(0)); }              \
    void epi_tsan_unaligned_volatile_read##size(void* at) { emu::access(at, size, false, false, __builtin_return_address(0)); }     \
    void epi_tsan_unaligned_volatile_write##size(void* at) { emu::access(at, size, true, false, __builtin_return_address(0)); }
extern "C" {
EPI_CALLBACKS(1)
EPI_CALLBACKS(2)
EPI_CALLBACKS(4)
EPI_CALLBACKS(8)
EPI_CALLBACKS(16)
void epi_tsan_read_range(void* at, size_t size) { emu::access(at, size, false, false, __builtin_return_address(0)); }
void epi_tsan_write_range(void* at, size_t size) { emu::access(at, size, true, false, __builtin_return_address(0)); }
void epi_tsan_init() {}
void epi_tsan_func_entry(void*) {}
void epi_tsan_func_exit() {}
}
