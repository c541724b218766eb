/* What libllama itself needs: the same model, context and work as the Python peers, in a process with nothing else.
 *
 *     baseline MODEL N_CTX N_BATCH N_UBATCH N_SEQ_MAX THREADS N_PROMPT
 *
 * Prints "ready" and waits for a line of standard input while the caller reads its memory.
 */
#include <stdio.h>
#include <stdlib.h>

#include "llama.h"

static void silent(enum ggml_log_level level, const char * text, void * data) {
    (void) level, (void) text, (void) data;
}

int main(int argc, char ** argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: %s MODEL N_CTX N_BATCH N_UBATCH N_SEQ_MAX THREADS N_PROMPT\n", argv[0]);
        return 2;
    }
    const int n_prompt = atoi(argv[7]);

    llama_log_set(silent, NULL);
    ggml_backend_load_all();
    llama_backend_init();
    struct llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) {
        return 1;
    }
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = atoi(argv[2]);
    params.n_batch = atoi(argv[3]);
    params.n_ubatch = atoi(argv[4]);
    params.n_seq_max = atoi(argv[5]);
    params.n_threads = params.n_threads_batch = atoi(argv[6]);
    params.kv_unified = true;
    struct llama_context * context = llama_init_from_model(model, params);
    if (!context) {
        return 1;
    }

    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    llama_token * tokens = malloc(n_prompt * sizeof *tokens);
    for (int i = 0; i < n_prompt; i++) {
        tokens[i] = rand() % n_vocab;
    }
    if (llama_decode(context, llama_batch_get_one(tokens, n_prompt))) {
        return 1;
    }
    for (int i = 0; i < 16; i++) {
        if (llama_decode(context, llama_batch_get_one(tokens, 1))) {
            return 1;
        }
    }
    puts("ready");
    fflush(stdout);
    getchar();
    return 0;
}
