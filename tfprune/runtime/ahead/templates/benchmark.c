/* Times ${name}: benchmark [ROUNDS [THREADS]]. Made by tfprune $version.

   Prints the milliseconds of the first image, then the least and the median of the rounds. Threads wait awake:
   waking one takes as long as a small network. */

#define _DEFAULT_SOURCE
#define _POSIX_C_SOURCE 200809L
#include "${name}.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#if ${NAME}_THREADS
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#endif

$arena
#define NUMBERS ($all_inputs)
static float given[NUMBERS];
static float results[$all_outputs];

#if ${NAME}_THREADS
static int threads = 1;
/* The rounds that have begun, and the other threads that are done with the last. (macOS has no barriers.) */
static atomic_uint begun, done;

static void wait_for_others(void) { sched_yield(); }

static void *work(void *number) {
    for (unsigned round = 1;; round++) {
        while (atomic_load(&begun) != round) sched_yield();
        ${name}_work(arena, (int32_t)(intptr_t)number, threads);
        atomic_fetch_add(&done, 1);
    }
    return NULL;
}
#endif

static void run(void) {
#if ${NAME}_THREADS
    if (threads > 1) {
        ${name}_begin(arena, $floats_given, wait_for_others);
        atomic_store(&done, 0);
        atomic_fetch_add(&begun, 1);
        ${name}_work(arena, 0, threads);
        while (atomic_load(&done) != (unsigned)threads - 1) sched_yield();
        ${name}_end(arena, $results_taken);
        return;
    }
#endif
    ${name}_run(arena, $floats_given, $results_taken);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return 1e3 * (double)time.tv_sec + 1e-6 * (double)time.tv_nsec;
}

static int compare(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 100;
    if (rounds < 1) return fprintf(stderr, "ROUNDS must be at least 1\n"), 1;
#if ${NAME}_THREADS
    threads = argc > 2 ? atoi(argv[2]) : 1;
    if (threads < 1 || threads > ${NAME}_THREADS)
        return fprintf(stderr, "THREADS must be from 1 to %d\n", ${NAME}_THREADS), 1;
    for (int i = 1; i < threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)(intptr_t)i)) return perror("pthread_create"), 1;
    }
#endif
    ask_for_large_pages();
    for (int i = 0; i < NUMBERS; i++) given[i] = (float)(i % 256 * 7919 % 256);
    double before = now();
    run();
    double first = now() - before;
    double *times = malloc((size_t)rounds * sizeof *times);
    if (!times) return perror("malloc"), 1;
    for (int i = 0; i < rounds; i++) {
        before = now();
        run();
        times[i] = now() - before;
    }
    qsort(times, (size_t)rounds, sizeof *times, compare);
    printf("first %.4f ms, least %.4f ms, median %.4f ms\n", first, times[0], times[rounds / 2]);
    free(times);
    return 0;
}
