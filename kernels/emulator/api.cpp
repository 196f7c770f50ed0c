// What Rust sees: kernels by name, launches, device memory. Plain C; errors are texts written into the caller's buffer.
#include "runtime.h"
#include "params.cuh"

#include <condition_variable>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <numeric>
#include <thread>
#include <ucontext.h>

namespace emu {

std::string format(const char* text, ...) {
    char out[1024];
    va_list list;
    va_start(list, text);
    vsnprintf(out, sizeof(out), text, list);
    va_end(list);
    return out;
}
std::string show(Site site) { return format("%s:%d", site.file, site.line); }
std::string show(const uint3& v) { return format("(%u,%u,%u)", v.x, v.y, v.z); }

// ---- kernels -----------------------------------------------------------------------------------------------------------------
static std::vector<Kernel>& kernels() {
    static std::vector<Kernel> all;
    return all;
}
void enroll(const Kernel& kernel) { kernels().push_back(kernel); }

// ---- OS threads that run blocks --------------------------------------------------------------------------------------------------
namespace {
void run_blocks(Launch& launch) {
    thread_local Worker self;
    guard_against_crashes();
    if (!self.stacks) return launch.report(0, "no address space for the stacks of 1024 threads");
    Worker* outer = worker;
    worker = &self;
    self.launch = &launch;
    self.check = launch.kernel->check;
    self.shuffled = launch.seed != 0;
    self.length = 2000;
    if (self.check && !self.shadow.size) self.shadow.open(reinterpret_cast<uintptr_t>(self.shared_memory), SHARED_ROOM);
    // A shuffled launch takes its blocks in another order: from a random one on, in steps of a number that reaches all.
    Random random{launch.seed};
    const unsigned n = launch.blocks, start = self.shuffled ? random.below(n) : 0;
    unsigned step = self.shuffled ? 1 + random.below(n) : 1;
    while (std::gcd(step, n) != 1) ++step;
    for (unsigned i; !launch.failed() && (i = launch.next.fetch_add(1)) < n;) self.run_block(unsigned((start + uint64_t(i) * step) % n));
    worker = outer;
}

/// Helpers for launches of many blocks; they live as long as the process.
struct Pool {
    std::mutex mutex;
    std::condition_variable wake, idle;
    std::vector<Launch*> jobs;
    unsigned spawned = 0;

    static Pool& get() {
        static Pool* pool = new Pool; // never destroyed: helpers may still wait on it at exit
        return *pool;
    }
    void help() {
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            wake.wait(lock, [&] { return !jobs.empty(); });
            Launch* launch = jobs.back();
            jobs.pop_back();
            launch->helpers++;
            lock.unlock();
            run_blocks(*launch);
            lock.lock();
            if (--launch->helpers == 0) idle.notify_all();
        }
    }
    void run(Launch& launch, unsigned helpers) {
        {
            std::lock_guard<std::mutex> lock(mutex);
            for (; spawned < helpers; ++spawned) std::thread([this] { help(); }).detach();
            jobs.insert(jobs.begin(), helpers, &launch);
        }
        wake.notify_all();
        run_blocks(launch);
        std::unique_lock<std::mutex> lock(mutex);
        std::erase(jobs, &launch);
        idle.wait(lock, [&] { return launch.helpers == 0; });
    }
};

uint32_t serials(unsigned blocks) {
    static std::mutex mutex;
    static uint32_t next = 1;
    std::lock_guard<std::mutex> lock(mutex);
    if (next + uint64_t(blocks) >= 1u << 25) next = 1;
    return std::exchange(next, next + blocks);
}
} // namespace

std::string run(Launch& launch, unsigned workers) {
    // One OS thread where the order of blocks must be repeatable; results do not depend on it unless the kernel is wrong.
    const bool alone = launch.kernel->check || launch.seed != 0 || launch.blocks < 4;
    const unsigned cores = workers ? workers : std::thread::hardware_concurrency();
    unsigned helpers = alone || cores < 2 ? 0 : (cores < 16 ? cores : 16) - 1;
    if (helpers >= launch.blocks) helpers = launch.blocks - 1;
    if (launch.kernel->check) launch.first_serial = serials(launch.blocks);
    if (helpers) Pool::get().run(launch, helpers);
    else run_blocks(launch);
    return launch.error;
}

// ---- crashes of a fiber become errors ------------------------------------------------------------------------------------------------
namespace {
constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
struct sigaction previous[NSIG];

void on_crash(int signal, siginfo_t* info, void* context) {
    Worker* w = worker;
    auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    if (w && w->running && (w->on_stack(uintptr_t(registers[REG_RSP])) || w->on_stack(reinterpret_cast<uintptr_t>(info->si_addr)))) {
        w->crash = signal;
        w->crash_address = reinterpret_cast<uintptr_t>(info->si_addr);
        registers[REG_RIP] = greg_t(&epi_emulator_resume);
        registers[REG_RDI] = greg_t(w->home);
        return;
    }
    const struct sigaction& old = previous[signal];
    if (old.sa_flags & SA_SIGINFO) return old.sa_sigaction(signal, info, context);
    if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) return old.sa_handler(signal);
    sigaction(signal, &old, nullptr);
}
} // namespace

void guard_against_crashes() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = on_crash;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        for (int signal : SIGNALS) sigaction(signal, &action, &previous[signal]);
    });
    thread_local bool has_stack = false;
    if (std::exchange(has_stack, true)) return;
    stack_t stack = {};
    sigaltstack(nullptr, &stack);
    if (!(stack.ss_flags & SS_DISABLE)) return;
    stack.ss_size = 64 << 10;
    stack.ss_sp = malloc(stack.ss_size); // as long-lived as the thread
    stack.ss_flags = 0;
    sigaltstack(&stack, nullptr);
}

static int answer(const std::string& error, char* out, size_t room) {
    if (error.empty()) return 0;
    snprintf(out, room, "%s", error.c_str());
    return 1;
}
} // namespace emu

// ---- the C interface -------------------------------------------------------------------------------------------------------------
using namespace emu;
extern "C" {

const Kernel* epi_emulator_kernel(int check, const char* name) {
    for (const Kernel& k : kernels())
        if (k.check == bool(check) && strcmp(k.name, name) == 0) return &k;
    return nullptr;
}
size_t epi_emulator_kernel_args(const Kernel* kernel, const uint32_t** sizes) {
    *sizes = kernel->sizes;
    return kernel->count;
}

int epi_emulator_launch(const Kernel* kernel, const uint32_t* grid, const uint32_t* block, size_t dynamic_bytes, void** args,
                        uint64_t seed, uint32_t workers, char* error, size_t room) {
    Launch launch;
    launch.kernel = kernel;
    launch.grid = {grid[0], grid[1], grid[2]};
    launch.block = {block[0], block[1], block[2]};
    launch.dynamic_bytes = dynamic_bytes;
    launch.args = args;
    launch.seed = seed;
    const uint64_t threads = uint64_t(block[0]) * block[1] * block[2], blocks = uint64_t(grid[0]) * grid[1] * grid[2];
    if (threads == 0 || threads > kernel->max_threads || threads > MAX_THREADS)
        return answer(format("%lu threads a block: this kernel takes 1 to %u", (unsigned long)threads, kernel->max_threads), error, room);
    if (blocks == 0 || grid[0] > 0x7FFFFFFFu || grid[1] > 65535 || grid[2] > 65535 || (kernel->check ? blocks >= 1u << 24 : blocks > 0x7FFFFFFFu))
        return answer("the grid is empty or too large", error, room);
    if (dynamic_bytes > SHARED_LIMIT)
        return answer(format("%zu bytes of dynamic shared memory: a block has %zu", dynamic_bytes, SHARED_LIMIT), error, room);
    launch.threads = unsigned(threads);
    launch.blocks = unsigned(blocks);
    return answer(run(launch, workers), error, room);
}

void* epi_emulator_alloc(int check, size_t bytes, char* error, size_t room) {
    std::string text;
    void* at = arena(check).alloc(bytes, &text);
    answer(text, error, room);
    return at;
}
int epi_emulator_free(int check, void* at, char* error, size_t room) {
    std::string text;
    arena(check).release(at, &text);
    return answer(text, error, room);
}
int epi_emulator_write(int check, void* to, const void* from, size_t n, char* error, size_t room) {
    std::string text;
    Arena& a = arena(check);
    if (!a.covers(to, n, "copy to the device", &text)) return answer(text, error, room);
    memcpy(to, from, n);
    if (check) a.shadow.initialise(reinterpret_cast<uintptr_t>(to), n);
    return 0;
}
int epi_emulator_read(int check, void* to, const void* from, size_t n, char* error, size_t room) {
    std::string text;
    Arena& a = arena(check);
    if (!a.covers(from, n, "copy from the device", &text)) return answer(text, error, room);
    size_t bad = 0;
    if (check && !a.shadow.initialised(reinterpret_cast<uintptr_t>(from), n, &bad))
        return answer(format("uninitialised: the host reads %zu bytes of which byte %zu was never written", n, bad), error, room);
    memcpy(to, from, n);
    return 0;
}
int epi_emulator_fill(int check, void* to, int byte, size_t n, char* error, size_t room) {
    std::string text;
    Arena& a = arena(check);
    if (!a.covers(to, n, "fill", &text)) return answer(text, error, room);
    memset(to, byte, n);
    if (check) a.shadow.initialise(reinterpret_cast<uintptr_t>(to), n);
    return 0;
}
int epi_emulator_copy(int check, void* to, const void* from, size_t n, char* error, size_t room) {
    std::string text;
    Arena& a = arena(check);
    if (!a.covers(to, n, "copy", &text) || !a.covers(from, n, "copy", &text)) return answer(text, error, room);
    if (check) a.shadow.inherit(reinterpret_cast<uintptr_t>(to), reinterpret_cast<uintptr_t>(from), n);
    memmove(to, from, n);
    return 0;
}

void epi_emulator_memory(int check, size_t* free, size_t* total) { arena(check).usage(free, total); }
size_t epi_emulator_shared_limit() { return SHARED_LIMIT; }

/// Name and size of the index-th structure of params.cuh; null after the last.
const char* epi_emulator_params(size_t index, size_t* size) {
#define EPI_ROW(T, bytes) {#T, sizeof(T)},
    static const struct { const char* name; size_t size; } rows[] = {EPI_PARAMS(EPI_ROW)};
    if (index >= sizeof(rows) / sizeof(rows[0])) return nullptr;
    *size = rows[index].size;
    return rows[index].name;
}
}
