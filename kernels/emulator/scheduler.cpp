// Fibers, blocks, barriers and schedules.
//
// Seed 0 is the plain order: a fiber runs until it waits, then its warp, then the next warp. Any other seed is a PCT schedule
// (Burckhardt et al., ASPLOS 2010): warps have random priorities, the highest that can run does, and at a few random steps the
// running one drops below all others. Steps are rendezvous and, in the check flavour, memory accesses.
#include "runtime.h"

#include <csignal>
#include <cstdlib>
#include <sys/mman.h>

asm(R"(
    .text
    .globl epi_emulator_switch
    .type epi_emulator_switch, @function
epi_emulator_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rdi
    .globl epi_emulator_resume
    .type epi_emulator_resume, @function
epi_emulator_resume:
    mov %rdi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
    .size epi_emulator_switch, . - epi_emulator_switch
)");

namespace emu {

thread_local Worker* worker = nullptr;

namespace {
constexpr unsigned CHANGES = 3; // PCT's change points per block
constexpr uint64_t MAX_SPINS = 1u << 14;
constexpr size_t PAGE = 4096;
} // namespace

Worker::Worker() {
    // One stack more than needed, to align the first.
    void* at = mmap(nullptr, MAX_THREADS * STACK + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    shared_memory = static_cast<char*>(aligned_alloc(PAGE, SHARED_ROOM));
    if (at == MAP_FAILED || !shared_memory) return;
    mapped = at;
    stacks_bytes = MAX_THREADS * STACK;
    stacks = (reinterpret_cast<uintptr_t>(at) + STACK - 1) & ~(STACK - 1);
    memset(shared_memory, 0xFF, SHARED_ROOM);
}

// Workers belong to OS threads that live as long as the process or a test; the reservation costs address space only.
Worker::~Worker() {
    if (mapped) munmap(mapped, MAX_THREADS * STACK + STACK);
    shadow.close(SHARED_ROOM);
    free(shared_memory);
}

void Launch::report(unsigned block, const std::string& text) {
    std::lock_guard<std::mutex> lock(mutex);
    if (block >= failed_block) return;
    failed_block = block;
    error = text;
}

void fail(const std::string& what) {
    Worker& w = *worker;
    w.error = what;
    void* nowhere;
    epi_emulator_switch(&nowhere, w.home);
    __builtin_unreachable();
}

// ---- the order in which fibers run ----------------------------------------------------------------------------------------
void Worker::wake(Fiber& f) {
    f.state = State::Ready;
    ready[f.warp] |= 1u << f.lane;
    ready_warps |= 1u << f.warp;
}

/// Takes the next fiber to run; in the plain order that is the first at or after (warp, lane), going round.
Fiber* Worker::pick(unsigned warp, unsigned lane) {
    if (!ready_warps) return nullptr;
    if (shuffled) {
        int best = INT32_MIN;
        for (unsigned left = ready_warps; left; left &= left - 1) {
            const unsigned w = __builtin_ctz(left);
            if (priority[w] > best) best = priority[w], warp = w;
        }
        unsigned lanes = ready[warp];
        for (unsigned skip = random.below(__builtin_popcount(lanes)); skip; --skip) lanes &= lanes - 1;
        lane = __builtin_ctz(lanes);
    } else {
        const unsigned later_lanes = lane < LANES ? ready[warp] & ~0u << lane : 0;
        if (later_lanes) {
            lane = __builtin_ctz(later_lanes);
        } else {
            const unsigned later = warp + 1 < MAX_WARPS ? ready_warps & ~0u << (warp + 1) : 0;
            warp = __builtin_ctz(later ? later : ready_warps);
            lane = __builtin_ctz(ready[warp]);
        }
    }
    if (!(ready[warp] &= ~(1u << lane))) ready_warps &= ~(1u << warp);
    return &fiber(warp * LANES + lane);
}

void Worker::pause(bool other_warps_first) {
    Fiber& self = *running;
    Fiber* next = pick(self.warp, other_warps_first ? LANES : self.lane + 1);
    if (next == &self) return;
    running = next;
    epi_emulator_switch(&self.stack_pointer, next ? next->stack_pointer : home);
}

void Worker::demote(unsigned warp) { priority[warp] = --lowest; }

void Worker::change() {
    if (++steps != change_at) return;
    if (changes_left && --changes_left) change_at = steps + 1 + random.below(uint32_t(length));
    demote(running->warp);
    wake(*running);
    pause();
}

// ---- blocks -----------------------------------------------------------------------------------------------------------------
void Worker::fiber_main() {
    Worker& w = *worker;
    w.launch->kernel->call(w.launch->args);
    Fiber& f = *w.running;
    copies_at_exit(w, f);
    f.state = State::Done;
    w.done++;
    w.alive[f.warp] &= ~(1u << f.lane);
    warp_exit(w, f);
    w.settle_barrier();
    w.pause();
    __builtin_unreachable();
}

void Worker::start(unsigned index) {
    const Launch& l = *launch;
    block = index;
    serial = l.first_serial + index;
    threads = l.threads;
    warps = (threads + LANES - 1) / LANES;
    done = arrived = block_epoch = 0;
    ready_warps = 0;
    error.clear();
    crash = 0;
    random.state = l.seed * 0x9E3779B97F4A7C15ull + index;
    steps = 0;
    lowest = 0;
    changes_left = CHANGES;
    change_at = shuffled ? 1 + random.below(uint32_t(length)) : ~0ull;
    for (unsigned w = 0; w < warps; ++w) {
        const unsigned lanes = threads - w * LANES < LANES ? (1u << (threads - w * LANES)) - 1 : ~0u;
        ready[w] = alive[w] = lanes;
        waiting[w] = warp_epoch[w] = 0;
        ready_warps |= 1u << w;
        priority[w] = int(w) + 1;
    }
    if (shuffled)
        for (unsigned w = warps; w > 1; --w) std::swap(priority[w - 1], priority[random.below(w)]);
    const uint3 at = {index % l.grid.x, index / l.grid.x % l.grid.y, index / l.grid.x / l.grid.y};
    for (; guarded < threads; ++guarded) mprotect(reinterpret_cast<void*>(stacks + guarded * STACK), PAGE, PROT_NONE);
    for (unsigned id = 0; id < threads; ++id) {
        Fiber& f = fiber(id);
        memset(static_cast<void*>(&f), 0, sizeof(f));
        f.thread_index = {id % l.block.x, id / l.block.x % l.block.y, id / l.block.x / l.block.y};
        f.block_index = at;
        f.block_dim = l.block;
        f.grid_dim = l.grid;
        f.id = id;
        f.warp = id / LANES;
        f.lane = id % LANES;
        void** stack = reinterpret_cast<void**>(&f);
        stack[-1] = nullptr; // so that fiber_main starts with the alignment of a called function
        stack[-2] = reinterpret_cast<void*>(&Worker::fiber_main);
        f.stack_pointer = stack - 2 - 6;
    }
}

void Worker::run_block(unsigned index) {
    start(index);
    running = pick(0, 0);
    epi_emulator_switch(&home, running->stack_pointer);
    if (crash) {
        if (on_stack(crash_address)) error = "stack overflow: a thread has 60 KB for its local variables";
        else if (crash == SIGFPE) error = "division by zero";
        else error = format("invalid address or instruction (signal %d, 0x%lx)", crash, (unsigned long)crash_address);
        error += check ? " near " + show_where(last_access) : "; the check flavour says where";
    } else if (error.empty() && done < threads) {
        error = deadlock();
    } else if (error.empty() && !check) {
        error = red_zones();
    }
    if (!error.empty()) {
        const Fiber* f = running;
        std::string where = "block " + show(fiber(0).block_index);
        if (f && f->state != State::Done) where += ", thread " + show(f->thread_index);
        for (unsigned id = 0; id < threads; ++id) copies[id].clear();
        launch->report(index, where + ": " + error);
    }
    running = nullptr;
    length = steps > 16 ? steps : 16;
    drop_shared();
}

std::string Worker::deadlock() const {
    std::map<std::string, unsigned> places;
    for (unsigned id = 0; id < threads; ++id) {
        const Fiber& f = fiber(id);
        if (f.state == State::Done) places["have returned"]++;
        if (f.state == State::AtBarrier) places["wait for their block at " + show(f.site)]++;
        if (f.state == State::AtWarp) places[format("wait for lanes 0x%08x of their warp at ", f.mask) + show(f.site)]++;
    }
    std::string text = "deadlock:";
    for (const auto& [place, count] : places) text += format(" %u threads %s;", count, place.c_str());
    text.pop_back();
    return text;
}

// ---- barriers -----------------------------------------------------------------------------------------------------------------
int sync_block(Vote vote, int predicate, Site site) {
    Worker& w = *worker;
    w.change();
    Fiber& f = *w.running;
    if (w.arrived == 0) {
        w.barrier = site;
        w.barrier_vote = vote;
    } else if (!(w.barrier == site) || w.barrier_vote != vote) {
        fail(format("divergent barrier: this thread is at %s while %u threads wait at %s", show(site).c_str(), w.arrived, show(w.barrier).c_str()));
    }
    w.arrived++;
    f.state = State::AtBarrier;
    f.site = site;
    f.value = predicate != 0;
    w.settle_barrier();
    if (f.state != State::Ready) w.pause();
    return int(f.value);
}

void Worker::settle_barrier() {
    if (arrived == 0 || arrived + done < threads) return;
    if (done) fail(format("divergent barrier: %u threads wait at %s, %u have returned", arrived, show(barrier).c_str(), done));
    unsigned yes = 0;
    for (unsigned id = 0; id < threads; ++id) yes += unsigned(fiber(id).value);
    const unsigned result = barrier_vote == Vote::Count ? yes : barrier_vote == Vote::And ? yes == threads : yes != 0;
    arrived = 0;
    block_epoch++;
    memset(warp_epoch, 0, sizeof(warp_epoch));
    for (unsigned id = 0; id < threads; ++id) {
        Fiber& f = fiber(id);
        f.value = result;
        f.block_epoch = block_epoch;
        f.warp_epoch = 0;
        wake(f);
    }
    Fiber& last = *running;
    if (shuffled) return pause();
    if (!(ready[last.warp] &= ~(1u << last.lane))) ready_warps &= ~(1u << last.warp);
}

void spin(Site site) {
    Worker& w = *worker;
    Fiber& f = *w.running;
    if (++f.spins > MAX_SPINS) fail(format("spins without end at %s: nothing it waits for can happen", show(site).c_str()));
    if (w.shuffled) w.demote(f.warp);
    w.wake(f);
    w.pause(true);
}

// ---- shared memory ------------------------------------------------------------------------------------------------------------
static char* place(Worker& w, const char* name, size_t bytes, Site site) {
    const size_t at = (w.shared_top + RED_ZONE + 15) & ~size_t(15), end = at + ((bytes + 15) & ~size_t(15)) + RED_ZONE;
    if (w.static_bytes + w.dynamic_bytes > SHARED_LIMIT || end > SHARED_ROOM)
        fail(format("%zu bytes of shared memory with %s at %s: a block has %zu", w.static_bytes + w.dynamic_bytes, name, show(site).c_str(), SHARED_LIMIT));
    w.shared_top = end;
    if (w.check) w.shadow.allow(reinterpret_cast<uintptr_t>(w.shared_memory + at), bytes);
    return w.shared_memory + at;
}

void* shared(const void* key, const char* name, size_t bytes, Site site) {
    Worker& w = *worker;
    for (const SharedArray& array : w.arrays)
        if (array.key == key) return array.data;
    w.static_bytes += (bytes + 15) & ~size_t(15);
    w.arrays.push_back({key, name, 0, bytes, place(w, name, bytes, site)});
    return w.arrays.back().data;
}

void* dynamic_shared(size_t offset, size_t bytes, Site site) {
    Worker& w = *worker;
    if (offset + bytes > w.launch->dynamic_bytes)
        fail(format("takes bytes %zu to %zu of %zu bytes of dynamic shared memory at %s", offset, offset + bytes, w.launch->dynamic_bytes, show(site).c_str()));
    for (const SharedArray& array : w.arrays) {
        if (array.key) continue;
        if (array.dynamic_offset == offset && array.bytes == bytes) return array.data;
        if (offset < array.dynamic_offset + array.bytes && array.dynamic_offset < offset + bytes)
            fail(format("pieces of the dynamic shared memory overlap at %s: take one piece and cast it", show(site).c_str()));
    }
    w.dynamic_bytes += (bytes + 15) & ~size_t(15);
    w.arrays.push_back({nullptr, "dynamic shared memory", offset, bytes, place(w, "dynamic shared memory", bytes, site)});
    return w.arrays.back().data;
}

std::string Worker::red_zones() const {
    const char* from = shared_memory;
    const char* before = nullptr;
    for (size_t i = 0; i <= arrays.size(); ++i) {
        const char* to = i < arrays.size() ? arrays[i].data : shared_memory + shared_top;
        for (const char* at = from; at < to; ++at)
            if (*at != char(0xFF))
                return format("shared memory was overwritten %td bytes past the end of `%s`; the check flavour says where", at - from, before ? before : "(nothing)");
        if (i < arrays.size()) from = arrays[i].data + arrays[i].bytes, before = arrays[i].name;
    }
    return {};
}

void Worker::drop_shared() {
    memset(shared_memory, 0xFF, shared_top); // NaN for whoever reads before writing
    if (check) shadow.forbid(reinterpret_cast<uintptr_t>(shared_memory), (shared_top + 3) & ~size_t(3));
    shared_top = static_bytes = dynamic_bytes = 0;
    arrays.clear();
}
} // namespace emu
