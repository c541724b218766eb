// Speaks a text with llama.h and mtmd-helper.h alone, in the steps of llama.cpp's own llama-tts.
// usage: MODEL PROJECTOR TEXT FRAMES SEED TEMPERATURE LANGUAGE VOICE OUT
// A VOICE of "-" is none; OUT gets the samples as floats of 32 bits, and standard output "FRAMES REASON".

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "llama.h"
#include "mtmd-helper.h"
#include "mtmd.h"

static void quiet(enum ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

static int fail(const char * what) {
    fprintf(stderr, "%s\n", what);
    return 1;
}

int main(int argc, char ** argv) {
    if (argc != 10) {
        return fail("nine arguments are needed");
    }
    const std::string text = argv[3], language = argv[7], voice = argv[8];
    const int         n_frames = atoi(argv[4]);
    const uint32_t    seed     = (uint32_t) strtoul(argv[5], nullptr, 10);
    const float       temp     = strtof(argv[6], nullptr);

    llama_log_set(quiet, nullptr);
    mtmd_helper_log_set(quiet, nullptr);
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) {
        return fail("no model");
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = 1024;
    params.n_ubatch               = 128;
    params.n_threads = params.n_threads_batch = 1;
    params.embeddings = params.kv_unified     = true;
    params.pooling_type                       = LLAMA_POOLING_TYPE_NONE;
    llama_context *     context = llama_init_from_model(model, params);
    mtmd_context_params options = mtmd_context_params_default();
    options.n_threads           = 1;
    options.print_timings       = false;
    mtmd_context * projector    = mtmd_init_from_file(argv[2], model, options);
    if (!context || !projector) {
        return fail("no context or projector");
    }

    const llama_vocab *          vocab = llama_model_get_vocab(model);
    std::vector<llama_logit_bias> never;
    int32_t                       n_never = 0;
    const llama_token *           tokens  = llama_vocab_get_suppress_tokens(vocab, &n_never);
    for (int32_t i = 0; i < n_never; i++) {
        never.push_back({ tokens[i], -INFINITY });
    }
    llama_sampler * chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    if (n_never) {
        llama_sampler_chain_add(
            chain, llama_sampler_init_logit_bias(llama_vocab_n_tokens(vocab), n_never, never.data()));
    }
    if (temp > 0) {
        llama_sampler_chain_add(chain, llama_sampler_init_top_k(40));
        llama_sampler_chain_add(chain, llama_sampler_init_top_p(0.95f, 1));
        llama_sampler_chain_add(chain, llama_sampler_init_min_p(0.05f, 1));
        llama_sampler_chain_add(chain, llama_sampler_init_temp(temp));
        llama_sampler_chain_add(chain, llama_sampler_init_dist(seed));
    } else {
        llama_sampler_chain_add(chain, llama_sampler_init_greedy());
    }

    mtmd_bitmap * sound = nullptr;
    if (voice != "-") {
        sound = mtmd_helper_bitmap_init_from_file(projector, voice.c_str(), false, mtmd_helper_init_opt_default()).bitmap;
        if (!sound) {
            return fail("no voice");
        }
    }
    mtmd_helper::gen_audio    generator(context, projector);
    mtmd_helper_gen_audio_inp input{};
    input.prompt      = text.c_str();
    input.prompt_len  = text.size();
    input.speaker_ref = sound;
    input.lang        = language.c_str();
    input.top_k       = temp > 0 ? 40 : 1;
    input.top_p       = 0.95f;
    input.seed        = seed;
    input.out_type    = MTMD_HELPER_GEN_AUDIO_OUTTYPE_PCM;
    if (generator.set_input(&input) != 0) {
        return fail("the input was refused");
    }
    int32_t left = 1;
    while (left > 0) {
        left = generator.step_prompt(64);
    }
    if (left < 0) {
        return fail("the prompt failed");
    }
    const float * state  = llama_get_embeddings_ith(context, -1);
    bool          stop   = false;
    int           frames = 0;
    while (!stop && frames < n_frames) {
        const float * next = nullptr;
        if (generator.step_gen(llama_sampler_sample(chain, context, -1), state, &next, &stop) != 0) {
            return fail("a frame failed");
        }
        if (!next) {
            break;
        }
        frames++;
        state = next;
    }

    int32_t      rate = 0;
    const char * data = nullptr;
    size_t       size = 0;
    if (generator.get_output(&rate, &data, &size, nullptr) != 0) {
        return fail("no output");
    }
    FILE * file = fopen(argv[9], "wb");
    if (!file || fwrite(data, 1, size, file) != size) {
        return fail("cannot write");
    }
    fclose(file);
    printf("%d %s %d\n", frames, stop ? "stop" : "length", rate);
    fflush(stdout);
    _Exit(0);
}
