// The runtime's own records; kernels never see this. One `Launch` per launch, one `Worker` per OS thread, one `Fiber` per
// CUDA thread. The runtime is compiled once, without instrumentation, and serves both flavours.
#pragma once
#include "device.h"

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace emu {

constexpr unsigned MAX_THREADS = 1024, LANES = 32, MAX_WARPS = MAX_THREADS / LANES;
constexpr size_t SHARED_LIMIT = 99 << 10;          // of a block: what sm_86 offers
constexpr size_t SHARED_ROOM = SHARED_LIMIT + (25 << 10); // and the red zones between arrays; whole pages
constexpr size_t RED_ZONE = 64;

[[noreturn]] void fail(const std::string& what);   // ends the running block; only on a fiber
std::string format(const char* text, ...) __attribute__((format(printf, 1, 2)));
std::string show(Site site);
std::string show(const uint3& v);

// ---- randomness -----------------------------------------------------------------------------------------------------------
struct Random { // SplitMix64
    uint64_t state;
    uint64_t next() {
        uint64_t z = (state += 0x9E3779B97F4A7C15ull);
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ z >> 27) * 0x94D049BB133111EBull;
        return z ^ z >> 31;
    }
    uint32_t below(uint32_t n) { return uint32_t((next() >> 32) * n >> 32); }
};

// ---- shadow memory (check flavour) -------------------------------------------------------------------------------------------
/// Where an access came from: an instrumented instruction or, with the top bit set, an interned call site.
using Where = uint32_t;

/// Last writer and last readers of a word (or of a byte, for words that were touched in part).
struct Cell {
    uint64_t write, read;
    Where write_at, read_at;
};

/// State of a 4-byte word: bits 0..3 addressable bytes, 4..7 initialised bytes, then:
enum : uint16_t { IN_FLIGHT = 1 << 8, SPLIT = 1 << 9 };

/// Shadow of a range of memory.
struct Shadow {
    uintptr_t base = 0;
    size_t size = 0;
    uint16_t* state = nullptr; // one per word
    Cell* words = nullptr;     // one per word
    Cell* bytes = nullptr;     // one per byte; used for words marked SPLIT
    bool holds(uintptr_t at) const { return at - base < size; }
    bool open(uintptr_t base, size_t size);
    void close(size_t covered);
    void allow(uintptr_t at, size_t n);  // addressable, uninitialised, untouched
    void forbid(uintptr_t at, size_t n); // and forgets everything
    void initialise(uintptr_t at, size_t n);
    void inherit(uintptr_t to, uintptr_t from, size_t n); // initialised where the source is
    bool initialised(uintptr_t at, size_t n, size_t* first_bad) const;
    void flight(uintptr_t at, size_t n, bool on);
};

struct Access {
    uintptr_t at;
    size_t size;
    bool write, atomic;
    Where where;
};
struct Fiber;
struct Worker;
void touch(Worker& w, const Fiber& as, const Access& access); // fails on any offence
Where intern(Site site);
std::string show_where(Where where);

// ---- device memory -----------------------------------------------------------------------------------------------------------
/// Device memory of one flavour: a reserved range, so that an address tells what it is.
class Arena {
public:
    explicit Arena(bool check) : check(check) {}
    void* alloc(size_t bytes, std::string* error);
    bool release(void* at, std::string* error);
    bool holds(uintptr_t at) const { return at - base < size; }
    bool covers(const void* at, size_t n, const char* what, std::string* error);
    bool describe(uintptr_t at, std::string* text); // "12 bytes past the end of a buffer of 400 bytes"
    void usage(size_t* free, size_t* total);
    Shadow shadow;

private:
    bool reserve(std::string* error);
    const bool check;
    uintptr_t base = 0;
    size_t size = 0, top = 0;
    std::mutex mutex;
    std::map<uintptr_t, size_t> live;      // address to bytes
    std::multimap<size_t, uintptr_t> idle; // rooms that were freed, by their size
};
Arena& arena(bool check);

// ---- threads ------------------------------------------------------------------------------------------------------------------
enum class State : uint8_t { Ready, AtBarrier, AtWarp, Done };
enum class Op : uint8_t { Sync, Shuffle, Ballot, LdMatrix, MmaBf16, MmaTf32 };

struct Copy {
    char* to;
    const char* from;
    unsigned bytes, valid, group;
    Site site;
};

/// A CUDA thread; lies on top of its stack.
struct Fiber : Thread {
    void* stack_pointer;
    unsigned id, warp, lane;
    State state;
    // where it waits, and for what
    Op op;
    uint8_t kind; // of shuffle or vote; matrices of an ldmatrix, plus 8 if transposed
    unsigned mask;
    Site site;
    uint64_t value;
    int operand, width;
    void* out;
    const void *a, *b;
    // position in the order of synchronisation
    unsigned block_epoch, warp_epoch;
    unsigned open_group; // the cp.async group being filled
    uint64_t spins;
};
static_assert(sizeof(Fiber) <= THREAD_ROOM, "the record of a thread has outgrown its room");

struct SharedArray {
    const void* key;  // of a static array; null for a piece of the dynamic arena
    const char* name;
    size_t dynamic_offset, bytes;
    char* data;
};

struct Launch {
    const Kernel* kernel;
    dim3 grid, block;
    size_t dynamic_bytes;
    void** args;
    uint64_t seed;
    unsigned threads, blocks;
    uint32_t first_serial; // of its blocks, unique in the process (modulo 2^25)
    std::atomic<unsigned> next{0};
    unsigned helpers = 0; // OS threads in it besides the caller's; guarded by the pool
    std::mutex mutex;
    unsigned failed_block = ~0u; // the first in the order of execution wins
    std::string error;
    bool failed() const { return __atomic_load_n(&failed_block, __ATOMIC_RELAXED) != ~0u; }
    void report(unsigned block, const std::string& text);
};

/// An OS thread that runs blocks.
struct Worker {
    Launch* launch = nullptr;
    bool check = false, shuffled = false;
    void* home = nullptr; // stack pointer of the scheduler
    Fiber* running = nullptr;
    void* mapped = nullptr;
    uintptr_t stacks = 0;
    size_t stacks_bytes = 0;
    unsigned guarded = 0;
    // the block
    unsigned block = 0, serial = 0, threads = 0, warps = 0, done = 0, arrived = 0, block_epoch = 0;
    Site barrier{};
    Vote barrier_vote = Vote::None;
    std::string error;
    int crash = 0; // signal that a fiber raised
    uintptr_t crash_address = 0;
    Where last_access = 0;
    unsigned ready[MAX_WARPS], waiting[MAX_WARPS], alive[MAX_WARPS], warp_epoch[MAX_WARPS];
    bool mixed[MAX_WARPS]; // its lanes wait at different places
    unsigned ready_warps = 0;
    // PCT: priorities and the accesses at which the running warp is demoted
    int priority[MAX_WARPS], lowest = 0;
    uint64_t steps = 0, change_at = ~0ull, length = 2000;
    unsigned changes_left = 0;
    Random random{0};
    // shared memory
    char* shared_memory = nullptr;
    size_t shared_top = 0, static_bytes = 0, dynamic_bytes = 0;
    std::vector<SharedArray> arrays;
    Shadow shadow;
    std::vector<Copy> copies[MAX_THREADS];

    Worker();
    ~Worker();
    Worker(const Worker&) = delete;
    Fiber& fiber(unsigned id) const { return *reinterpret_cast<Fiber*>(stacks + (id + 1) * STACK - THREAD_ROOM); }
    bool on_stack(uintptr_t at) const { return at - stacks < stacks_bytes; }
    void run_block(unsigned index);
    void wake(Fiber& f);
    void pause(bool other_warps_first = false); // gives way to the next ready fiber
    void change(); // a step of the schedule: demotes the running warp at its change points
    void demote(unsigned warp);
    void settle_barrier();
    std::string deadlock() const;

private:
    void start(unsigned index);
    Fiber* pick(unsigned warp, unsigned lane);
    std::string red_zones() const;
    void drop_shared();
    static void fiber_main();
};
extern thread_local Worker* worker; // set while this OS thread is inside a launch
void copies_at_exit(Worker& w, Fiber& f);
void warp_exit(Worker& w, Fiber& f);
std::string run(Launch& launch, unsigned workers);
void guard_against_crashes();
} // namespace emu

// Saves the callee-saved registers on the stack and its pointer in `save`, and goes on where `load` was saved.
extern "C" void epi_emulator_switch(void** save, void* load);
extern "C" void epi_emulator_resume(void* load);
