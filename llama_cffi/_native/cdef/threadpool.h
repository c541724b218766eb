// Thread pools. Their functions live in the CPU backend, which may be a plugin: they are fetched with
// ggml_backend_reg_get_proc_address and cast to the llama_cffi_threadpool_*_t types below.

enum ggml_sched_priority {
    GGML_SCHED_PRIO_LOW, GGML_SCHED_PRIO_NORMAL, GGML_SCHED_PRIO_MEDIUM, GGML_SCHED_PRIO_HIGH,
    GGML_SCHED_PRIO_REALTIME, ...
};

enum ggml_numa_strategy {
    GGML_NUMA_STRATEGY_DISABLED, GGML_NUMA_STRATEGY_DISTRIBUTE, GGML_NUMA_STRATEGY_ISOLATE,
    GGML_NUMA_STRATEGY_NUMACTL, GGML_NUMA_STRATEGY_MIRROR, GGML_NUMA_STRATEGY_COUNT, ...
};

struct ggml_threadpool_params {
    bool cpumask[...];
    int n_threads;
    enum ggml_sched_priority prio;
    uint32_t poll;
    bool strict_cpu;
    bool paused;
    ...;
};

struct ggml_threadpool;
typedef struct ggml_threadpool * ggml_threadpool_t;

struct ggml_threadpool_params ggml_threadpool_params_default(int n_threads);
void ggml_threadpool_params_init(struct ggml_threadpool_params * p, int n_threads);
bool ggml_threadpool_params_match(const struct ggml_threadpool_params * p0, const struct ggml_threadpool_params * p1);

typedef struct ggml_threadpool * (*llama_cffi_threadpool_new_t)(struct ggml_threadpool_params * params);
typedef void (*llama_cffi_threadpool_free_t)(struct ggml_threadpool * threadpool);
typedef int (*llama_cffi_threadpool_get_n_threads_t)(struct ggml_threadpool * threadpool);
typedef void (*llama_cffi_threadpool_pause_t)(struct ggml_threadpool * threadpool);
typedef void (*llama_cffi_threadpool_resume_t)(struct ggml_threadpool * threadpool);
typedef void (*llama_cffi_numa_init_t)(enum ggml_numa_strategy numa);
typedef bool (*llama_cffi_is_numa_t)(void);
