// What binding_build.py adds to llama.h: what this extension was compiled against, and where the loaded libllama
// comes from.

static const char * const LLAMA_CFFI_VERSION;
static const char * const LLAMA_CFFI_COMMIT;
static const char * const LLAMA_CFFI_HEADER_HASH;

const char * llama_cffi_library_path(void);
