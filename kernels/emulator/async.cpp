// cp.async and atomics: the accesses that kernels make through the runtime.
//
// A copy is performed at once or as late as its wait, by seed; either way its bytes count as in flight until the wait, so that
// the check flavour reports whoever touches them earlier. After the wait they count as written by the waiting thread there and
// then: other threads need a barrier.
#include "runtime.h"

namespace emu {
namespace {

void perform(const Copy& c) {
    memcpy(c.to, c.from, c.valid);
    memset(c.to + c.valid, 0, c.bytes - c.valid);
}

bool in_shared(const Worker& w, const void* at) {
    return reinterpret_cast<uintptr_t>(at) - reinterpret_cast<uintptr_t>(w.shared_memory) < SHARED_ROOM;
}

void land(Worker& w, Fiber& f, const Copy& c) {
    if (c.from) perform(c);
    if (!w.check) return;
    const uintptr_t to = reinterpret_cast<uintptr_t>(c.to);
    w.shadow.flight(to, c.bytes, false);
    if (f.state != State::Done) touch(w, f, {to, c.bytes, true, false, intern(c.site)});
}
} // namespace

void cp_async(void* shared, const void* global, unsigned bytes, int valid, Site site) {
    Worker& w = *worker;
    const uintptr_t to = reinterpret_cast<uintptr_t>(shared), from = reinterpret_cast<uintptr_t>(global);
    if (to % bytes || from % bytes) fail(format("misaligned: cp.async of %u bytes between addresses that are not multiples of it, at %s", bytes, show(site).c_str()));
    if (valid < 0 || unsigned(valid) > bytes) fail(format("cp.async of %u bytes reads %d of them, at %s", bytes, valid, show(site).c_str()));
    if (!in_shared(w, shared)) fail(format("cp.async writes outside shared memory, at %s", show(site).c_str()));
    Fiber& f = *w.running;
    Copy copy{static_cast<char*>(shared), static_cast<const char*>(global), bytes, unsigned(valid), f.open_group, site};
    if (w.check) {
        const Where where = intern(site);
        if (valid) touch(w, f, {from, unsigned(valid), false, false, where});
        touch(w, f, {to, bytes, true, false, where});
        w.shadow.flight(to, bytes, true);
    }
    if (!w.shuffled || w.random.next() >> 63) {
        perform(copy);
        copy.from = nullptr;
        if (!w.check) return;
    }
    w.copies[f.id].push_back(copy);
}

void cp_async_commit(Site) { worker->running->open_group++; }

void cp_async_wait(unsigned open, Site) {
    Worker& w = *worker;
    Fiber& f = *w.running;
    std::vector<Copy>& copies = w.copies[f.id];
    size_t landed = 0;
    while (landed < copies.size() && copies[landed].group + open < f.open_group) land(w, f, copies[landed++]);
    copies.erase(copies.begin(), copies.begin() + ptrdiff_t(landed));
}

void copies_at_exit(Worker& w, Fiber& f) {
    std::vector<Copy>& copies = w.copies[f.id];
    if (copies.empty()) return;
    f.state = State::Done;
    for (const Copy& c : copies) land(w, f, c);
    copies.clear();
}

// ---- atomics --------------------------------------------------------------------------------------------------------------
template <class T> static T combine(Atomic kind, T a, T b) {
    switch (kind) {
    case Atomic::Add: return a + b;
    case Atomic::Max: return a < b ? b : a;
    case Atomic::Min: return b < a ? b : a;
    case Atomic::Or:
        if constexpr (std::is_integral_v<T>) return a | b;
        break;
    case Atomic::And:
        if constexpr (std::is_integral_v<T>) return a & b;
        break;
    case Atomic::Exchange: break;
    }
    return b;
}

template <class T> static void check_atomic(T* at, Site site) {
    Worker& w = *worker;
    w.change();
    if (reinterpret_cast<uintptr_t>(at) % sizeof(T)) fail(format("misaligned atomic of %zu bytes at %s", sizeof(T), show(site).c_str()));
    if (w.check) touch(w, *w.running, {reinterpret_cast<uintptr_t>(at), sizeof(T), true, true, intern(site)});
}

template <class T> T compare_exchange(T* at, T expected, T desired, Site site) {
    check_atomic(at, site);
    __atomic_compare_exchange(at, &expected, &desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}

template <class T> T atomic(Atomic kind, T* at, T value, Site site) {
    check_atomic(at, site);
    T old, next;
    __atomic_load(at, &old, __ATOMIC_RELAXED);
    do next = combine(kind, old, value);
    while (!__atomic_compare_exchange(at, &old, &next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}

template int compare_exchange(int*, int, int, Site);
template unsigned compare_exchange(unsigned*, unsigned, unsigned, Site);
template unsigned long long compare_exchange(unsigned long long*, unsigned long long, unsigned long long, Site);
template int atomic(Atomic, int*, int, Site);
template unsigned atomic(Atomic, unsigned*, unsigned, Site);
template unsigned long long atomic(Atomic, unsigned long long*, unsigned long long, Site);
template float atomic(Atomic, float*, float, Site);
template double atomic(Atomic, double*, double, Site);
} // namespace emu
