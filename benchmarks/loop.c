/* What llama-bench times, as functions for a process that times something else in turn with them. */
#include <stdlib.h>
#include <time.h>

#include "llama.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

static int n_vocab(struct llama_context * context) {
    return llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(context)));
}

/* Seconds for n tokens, one after the other, from an empty memory; -1 when llama.cpp fails. */
double loop_tokens(struct llama_context * context, int n) {
    llama_memory_clear(llama_get_memory(context), false);
    const int modulus = n_vocab(context);
    llama_token token = 1;
    const double start = now();
    for (int i = 0; i < n; i++) {
        if (llama_decode(context, llama_batch_get_one(&token, 1))) {
            return -1;
        }
        llama_synchronize(context);
        token = rand() % modulus;
    }
    return now() - start;
}

/* Seconds for a prompt of n tokens in an empty memory; -1 when llama.cpp fails. */
double loop_prompt(struct llama_context * context, int n) {
    llama_memory_clear(llama_get_memory(context), false);
    llama_token * tokens = malloc((size_t) n * sizeof *tokens);
    const int modulus = n_vocab(context);
    for (int i = 0; i < n; i++) {
        tokens[i] = rand() % modulus;
    }
    const double start = now();
    const int status = llama_decode(context, llama_batch_get_one(tokens, n));
    llama_synchronize(context);
    const double seconds = now() - start;
    free(tokens);
    return status ? -1 : seconds;
}
