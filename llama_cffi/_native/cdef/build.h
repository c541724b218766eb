// What binding_build.py adds to llama.h: what this extension was compiled against, where the loaded libllama
// comes from, and gguf_init_from_file without a struct among its arguments.

static const char * const LLAMA_CFFI_VERSION;
static const char * const LLAMA_CFFI_COMMIT;
static const char * const LLAMA_CFFI_HEADER_HASH;

const char * llama_cffi_library_path(void);
struct gguf_context * llama_cffi_gguf_open(const char * path);
