// Reading memory once with a number of threads: what a decode takes at least.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

typedef struct {
    const uint64_t *words;
    size_t count;
    uint64_t sum;
} Part;

static void *add_up(void *argument) {
    Part *part = argument;
    uint64_t sums[8] = {0};
    for (size_t i = 0; i + 8 <= part->count; i += 8) {
        for (int j = 0; j < 8; j++) {
            sums[j] += part->words[i + j];
        }
    }
    for (int j = 0; j < 8; j++) {
        part->sum += sums[j];
    }
    return NULL;
}

// Seconds that `n_threads` threads take to read `size` bytes, which begin at a multiple of 8; -1 without memory.
double read_once(const void *data, size_t size, int n_threads) {
    pthread_t *threads = calloc((size_t)n_threads, sizeof *threads);
    Part *parts = calloc((size_t)n_threads, sizeof *parts);
    if (!threads || !parts) {
        return -1;
    }
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    const size_t share = size / 8 / (size_t)n_threads;
    for (int i = 0; i < n_threads; i++) {
        parts[i] = (Part){(const uint64_t *)data + share * (size_t)i, share, 0};
        if (pthread_create(&threads[i], NULL, add_up, &parts[i]) != 0) {
            return -1;
        }
    }
    volatile uint64_t sum = 0;  // so that the reading is not optimized away
    for (int i = 0; i < n_threads; i++) {
        pthread_join(threads[i], NULL);
        sum += parts[i].sum;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    free(threads);
    free(parts);
    return (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
}
