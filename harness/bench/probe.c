// What this machine can do at most: how fast N bytes can be read over and over, and multiply-adds done, by T threads.
//
//     probe BYTES THREADS  ->  "READ_BYTES_PER_SECOND PRODUCT_BYTES_PER_SECOND OPERATIONS_PER_SECOND"
//     probe                ->  the seconds that it ran by its own clock, for who wants to know what starting it adds
//
// Reading: each thread adds up its share of the bytes in their order, pass after pass. Product: it takes them for the
// rows of a float matrix and multiplies that with a vector, which is all that decoding must do: row after row, and four
// rows far apart at a time with fetching ahead, of which now the one, now the other is faster. Computing: chains of
// single-precision multiply-adds that do not wait for one another, each counted as two operations. Of several batches
// of some milliseconds the fastest counts: a limit is what the machine reaches when nobody disturbs it.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX__)
#define WIDTH 32
#else
#define WIDTH 16
#endif

typedef float floats __attribute__((vector_size(WIDTH)));
typedef uint64_t words __attribute__((vector_size(WIDTH)));

enum { COLUMNS = 512, CHAINS = 10, STEPS = 1 << 14, BATCHES = 8, MAX_THREADS = 1024 };
enum { ROWS = 4, AHEAD = 2048 }; // of the product in several places: how many, and what is fetched ahead, in bytes
static const double BATCH_S = 0.008, LEAST_S = 0.05;

enum { READ, PRODUCT, PRODUCT_APART, COMPUTE };

typedef struct {
    const words *data; // this thread's share
    size_t n;          // vectors in it
    int what;
    long repeats;
    volatile double sink; // so that nothing is optimised away
} share;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void read_all(share *s) {
    words a = {0}, b = {0}, c = {0}, d = {0}, e = {0}, f = {0}, g = {0}, h = {0};
    for (long pass = 0; pass < s->repeats; pass++) {
        const words *p = s->data;
        size_t i = 0;
        for (; i + 8 <= s->n; i += 8) {
            a += p[i], b += p[i + 1], c += p[i + 2], d += p[i + 3];
            e += p[i + 4], f += p[i + 5], g += p[i + 6], h += p[i + 7];
        }
        for (; i < s->n; i++) a += p[i];
        __asm__ volatile("" ::: "memory"); // each pass reads anew
    }
    a += b + c + d + e + f + g + h;
    s->sink = (double)a[0];
}

static void multiply(share *s) {
    enum { N = COLUMNS * 4 / WIDTH }; // vectors in a row
    static const float one = 1.0f;
    floats x[N], total = {0};
    for (int i = 0; i < N; i++) x[i] = (floats){0} + one;
    for (long pass = 0; pass < s->repeats; pass++) {
        const floats *row = (const floats *)s->data;
        for (size_t left = s->n; left; row += N) {
            size_t n = left < N ? left : N;
            floats a = {0}, b = {0}, c = {0}, d = {0};
            size_t i = 0;
            for (; i + 4 <= n; i += 4) {
                a += row[i] * x[i], b += row[i + 1] * x[i + 1];
                c += row[i + 2] * x[i + 2], d += row[i + 3] * x[i + 3];
            }
            for (; i < n; i++) a += row[i] * x[i];
            total += (a + b) + (c + d);
            left -= n;
        }
        __asm__ volatile("" ::: "memory");
    }
    s->sink = (double)total[0];
}

static void multiply_apart(share *s) {
    enum { N = COLUMNS * 4 / WIDTH };
    static const float one = 1.0f;
    floats x[N], total = {0};
    for (int i = 0; i < N; i++) x[i] = (floats){0} + one;
    size_t n_blocks = s->n / N / ROWS;
    const floats *data = (const floats *)s->data;
    for (long pass = 0; pass < s->repeats; pass++) {
        for (size_t block = 0; block < n_blocks; block++) {
            floats sums[ROWS] = {{0}};
            for (int i = 0; i < N; i++)
#pragma GCC unroll 4
                for (int r = 0; r < ROWS; r++) {
                    const floats *p = data + ((size_t)r * n_blocks + block) * N + (size_t)i;
                    __builtin_prefetch((const char *)p + AHEAD, 0, 2);
                    sums[r] += *p * x[i];
                }
            for (int r = 0; r < ROWS; r++) total += sums[r];
        }
        for (size_t i = n_blocks * ROWS * N; i < s->n; i++) total += data[i] * x[i % N];
        __asm__ volatile("" ::: "memory");
    }
    s->sink = (double)total[0];
}

static void compute(share *s) {
    static volatile float factor = 0.999999f, term = 1e-6f; // unknown to the compiler
    floats x[CHAINS], m = {0}, k = {0};
    m += factor;
    k += term;
    for (int c = 0; c < CHAINS; c++) x[c] = m + (float)c * k;
    for (long r = 0; r < s->repeats; r++)
        for (int step = 0; step < STEPS; step++)
#pragma GCC unroll 10
            for (int c = 0; c < CHAINS; c++) x[c] = x[c] * m + k;
    for (int c = 1; c < CHAINS; c++) x[0] += x[c];
    s->sink = (double)x[0][0];
}

static void *work(void *argument) {
    share *s = argument;
    static void (*const parts[])(share *) = {read_all, multiply, multiply_apart, compute};
    parts[s->what](s);
    return NULL;
}

// Run one batch in all threads and return its seconds.
static double batch(share *shares, int n) {
    pthread_t threads[MAX_THREADS];
    double started = now();
    for (int i = 1; i < n; i++)
        if (pthread_create(&threads[i], NULL, work, &shares[i])) {
            fprintf(stderr, "probe: a thread cannot be started\n");
            exit(1);
        }
    work(&shares[0]);
    for (int i = 1; i < n; i++) pthread_join(threads[i], NULL);
    return now() - started;
}

// Return the best rate per unit of *count over batches; *count grows until a batch takes long enough.
static double best_rate(share *shares, int n, int what) {
    double best = 0, total = 0;
    long count = 1;
    for (int done = 0; done < BATCHES || total < LEAST_S; done++) {
        for (int i = 0; i < n; i++) {
            shares[i].what = what;
            shares[i].repeats = count;
        }
        double seconds = batch(shares, n);
        if (seconds < BATCH_S && count < 1L << 40) { // too short to be timed: not counted
            count *= seconds < BATCH_S / 8 ? 8 : 2;
            done--;
            continue;
        }
        total += seconds;
        if ((double)count / seconds > best) best = (double)count / seconds;
    }
    return best;
}

int main(int argc, char **argv) {
    double started = now();
    if (argc == 1) {
        while (now() - started < LEAST_S) {}
        printf("%.9f\n", now() - started);
        return 0;
    }
    size_t bytes = argc == 3 ? strtoull(argv[1], NULL, 10) : 0;
    int n = argc == 3 ? atoi(argv[2]) : 0;
    if (!bytes || n < 1 || n > MAX_THREADS) {
        fprintf(stderr, "usage: probe [BYTES THREADS]\n");
        return 2;
    }
    size_t each = bytes / WIDTH / (size_t)n;
    if (!each) each = 1;
    size_t all = each * (size_t)n * WIDTH;
    words *data = aligned_alloc(4096, (all + 4095) / 4096 * 4096);
    share *shares = calloc((size_t)n, sizeof *shares);
    if (!data || !shares) {
        fprintf(stderr, "probe: %zu bytes are not to be had\n", all);
        return 1;
    }
#ifdef MADV_HUGEPAGE
    madvise(data, all, MADV_HUGEPAGE); // fewer misses of the address translation: nearer to the limit
#endif
    memset(data, 1, all);
    for (int i = 0; i < n; i++) {
        shares[i].data = data + (size_t)i * each;
        shares[i].n = each;
    }
    double reads_per_s = best_rate(shares, n, READ) * (double)all;
    double in_order = best_rate(shares, n, PRODUCT), apart = best_rate(shares, n, PRODUCT_APART);
    double products_per_s = (in_order > apart ? in_order : apart) * (double)all;
    double repeats_per_s = best_rate(shares, n, COMPUTE);
    printf("%.6g %.6g %.6g\n", reads_per_s, products_per_s, repeats_per_s * n * 2.0 * CHAINS * STEPS * (WIDTH / 4));
    return 0;
}
