/* A few threads that share out the items of one section at a time.
 *
 *     start_threads(n)                                    once; the caller counts as one of the n
 *     share_out(work, context, n_items, multiplications)  work(context, begin, end) for ranges that together are 0..n_items
 *
 * Which thread takes an item never shows in the result: an item is computed by one thread, by the same code.
 *
 * A forward pass is some hundred short sections, microseconds apart, so a thread without work spins for a moment before
 * it sleeps: waking it would take longer than most sections. It sleeps soon, though, and where there are more threads
 * than processors at once: other programs want the processor too. With -fopenmp OpenMP's threads take the place of
 * these; they spin for long unless OMP_WAIT_POLICY is passive. */
#ifndef THREADS_H
#define THREADS_H

#include <stdbool.h>
#include <stddef.h>

typedef void Work(const void *context, int begin, int end);

/* Waking and gathering threads costs microseconds: a section of fewer multiplications is faster alone. */
#ifndef PARALLEL_FROM
#define PARALLEL_FROM 65536
#endif

enum {
    MAX_THREADS = 256,
    SHARES_PER_THREAD = 4 /* more than one, so that a thread that is held up does not hold up the others */
};

static inline int share_size(int n_items, int n_threads) {
    const int n_shares = n_threads * SHARES_PER_THREAD;
    return n_items < n_shares ? 1 : (n_items + n_shares - 1) / n_shares;
}

#ifdef _OPENMP

static int n_threads = 1;

static bool start_threads(int n) {
    n_threads = n;
    return true;
}

static void share_out(Work *work, const void *context, int n_items, size_t multiplications) {
    const int share = share_size(n_items, n_threads);
#pragma omp parallel for num_threads(n_threads) schedule(dynamic) if (multiplications >= PARALLEL_FROM)
    for (int begin = 0; begin < n_items; begin += share)
        work(context, begin, begin + share < n_items ? begin + share : n_items);
}

#else

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>

/* The gate is how threads come into a section and how the caller knows that all have left: the number of threads inside,
 * a bit that says whether more may come in, and above it the number of sections so far. The caller does not wait for
 * threads that never came: one that was asleep, or whose processor is taken, finds the gate closed. */
#define GATE_OPEN ((uint64_t)1 << 16)
#define GATE_INSIDE (GATE_OPEN - 1)
#define GATE_SECTION (GATE_OPEN << 1)

enum { SPINS = 2000 }; /* some 50 microseconds: longer than what lies between two sections of one pass */

static struct {
    int n_threads;
    int spins;
    _Atomic uint64_t gate;
    _Atomic int next;     /* items below were handed out */
    _Atomic int n_asleep; /* workers waiting for `came` */
    _Atomic bool is_caller_asleep;
    pthread_mutex_t mutex; /* guards falling asleep and waking, nothing else */
    pthread_cond_t came, left;
    /* The section; written while nobody is inside. */
    Work *work;
    const void *context;
    int n_items, share;
} pool = {.n_threads = 1, .mutex = PTHREAD_MUTEX_INITIALIZER, .came = PTHREAD_COND_INITIALIZER,
          .left = PTHREAD_COND_INITIALIZER};

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

static void take_shares(void) {
    for (;;) {
        const int begin = atomic_fetch_add(&pool.next, pool.share);
        if (begin >= pool.n_items) return;
        pool.work(pool.context, begin, begin + pool.share < pool.n_items ? begin + pool.share : pool.n_items);
    }
}

/* Wait until the gate is open for a section after the one whose gate was seen. */
static uint64_t await_section(uint64_t seen) {
    uint64_t gate;
    for (int i = 0; i < pool.spins; i++) {
        gate = atomic_load(&pool.gate);
        if (gate & GATE_OPEN && gate / GATE_SECTION != seen / GATE_SECTION) return gate;
        pause_briefly();
    }
    pthread_mutex_lock(&pool.mutex);
    atomic_fetch_add(&pool.n_asleep, 1); /* before the gate is read: share_out opens it before it reads this */
    for (;;) {
        gate = atomic_load(&pool.gate);
        if (gate & GATE_OPEN && gate / GATE_SECTION != seen / GATE_SECTION) break;
        pthread_cond_wait(&pool.came, &pool.mutex);
    }
    atomic_fetch_sub(&pool.n_asleep, 1);
    pthread_mutex_unlock(&pool.mutex);
    return gate;
}

static void *serve(void *unused) {
    (void)unused;
    uint64_t seen = 0;
    for (;;) {
        uint64_t gate = await_section(seen);
        seen = gate;
        /* Another section may have been opened meanwhile: then that one is entered. */
        while (gate & GATE_OPEN && !atomic_compare_exchange_weak(&pool.gate, &gate, gate + 1)) continue;
        if (!(gate & GATE_OPEN)) continue;
        seen = gate;
        take_shares();
        gate = atomic_fetch_sub(&pool.gate, 1);
        if (!(gate & GATE_OPEN) && (gate & GATE_INSIDE) == 1 && atomic_load(&pool.is_caller_asleep)) {
            pthread_mutex_lock(&pool.mutex);
            pthread_cond_signal(&pool.left);
            pthread_mutex_unlock(&pool.mutex);
        }
    }
    return NULL;
}

static void await_all_left(void) {
    for (int i = 0; i < pool.spins; i++) {
        if ((atomic_load(&pool.gate) & GATE_INSIDE) == 0) return;
        pause_briefly();
    }
    pthread_mutex_lock(&pool.mutex);
    atomic_store(&pool.is_caller_asleep, true);
    while ((atomic_load(&pool.gate) & GATE_INSIDE) != 0) pthread_cond_wait(&pool.left, &pool.mutex);
    atomic_store(&pool.is_caller_asleep, false);
    pthread_mutex_unlock(&pool.mutex);
}

/* False: the system gives no more threads. They end with the program. */
static bool start_threads(int n) {
    pool.n_threads = n;
    pool.spins = n <= sysconf(_SC_NPROCESSORS_ONLN) ? SPINS : 0;
    for (int i = 1; i < n; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, NULL) != 0) return false;
        pthread_detach(thread);
    }
    return true;
}

static void share_out(Work *work, const void *context, int n_items, size_t multiplications) {
    if (pool.n_threads == 1 || multiplications < PARALLEL_FROM) {
        work(context, 0, n_items);
        return;
    }
    pool.work = work;
    pool.context = context;
    pool.n_items = n_items;
    pool.share = share_size(n_items, pool.n_threads);
    atomic_store(&pool.next, 0);
    atomic_fetch_add(&pool.gate, GATE_SECTION + GATE_OPEN);
    if (atomic_load(&pool.n_asleep) > 0) {
        pthread_mutex_lock(&pool.mutex);
        pthread_cond_broadcast(&pool.came);
        pthread_mutex_unlock(&pool.mutex);
    }
    take_shares();
    atomic_fetch_and(&pool.gate, ~GATE_OPEN);
    await_all_left();
}

#endif
#endif
