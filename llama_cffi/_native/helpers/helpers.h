/* What the helper extension offers to Python: read by cffi as its cdef and included by every C++ file
   of this folder. Nothing of llama.cpp is included or linked; its functions arrive as `void *`.
   What is here has a twin of the same name in ../pure, for where no compiler was. */

/* ---- guard.cpp: calls that turn a failed GGML_ASSERT or a C++ exception into LCH_FAILED ---- */

enum lch_result { LCH_VOID, LCH_BOOL, LCH_INT32, LCH_UINT32, LCH_INT64 };

void lch_on_abort(const char *message);                     /* for ggml_set_abort_callback */
void lch_on_fatal(void (*python_stacks)(void));
int lch_unguard(void);                                      /* until lch_reguard(its result), on this thread */
void lch_reguard(int depth);
const char *lch_failure(void);                              /* why this thread's last guarded call failed */

int64_t lch_batch(void *fn, void *ctx, void *batch, size_t size);
int64_t lch_with_params(void *fn, void *first, void *params, size_t size);
int64_t lch_with_list(void *fn, void *list, size_t n, void *params, size_t size);
/* mtmd_helper_bitmap_init_from_buf, whose pair of pointers goes to `out` */
int64_t lch_decode_file(void *fn, void *ctx, const void *data, size_t n, int placeholder, void *options, size_t size,
                        void *out);
int64_t lch_sample(void *fn, void *chain, void *ctx, int32_t idx);
int64_t lch_accept(void *fn, void *sampler, int32_t token);
int64_t lch_call(void *fn, int result, int64_t a0, int64_t a1, int64_t a2, int64_t a3,
                 int64_t a4, int64_t a5, int64_t a6, int64_t a7);

/* ---- deep.cpp: a guarded call with this many bytes of stack, on a thread of its own where this one has fewer ---- */

int64_t lch_call_deep(size_t stack, void *fn, int result, int64_t a0, int64_t a1, int64_t a2, int64_t a3,
                      int64_t a4, int64_t a5, int64_t a6, int64_t a7);

/* ---- log.cpp: a ring of llama.cpp's log lines ---- */

typedef struct {
    uint64_t seq;
    uint64_t thread;
    int level;
    char text[492];
} lch_line;

void lch_log(int level, const char *text, void *user);      /* for llama_log_set */
void lch_log_keep(int min_level);
uint64_t lch_log_end(void);                                 /* sequence number of the next line */
uint64_t lch_log_call(void);                                /* the end when this thread's last guarded call began */
int lch_log_read(uint64_t *seq, int own_thread, lch_line *out);

/* ---- abort.cpp: the flag that a long computation looks at ---- */

typedef struct {
    int flag;
    int interrupted;
    int poll_signals;
    int64_t deadline_ns;
    int64_t next_poll_ns;
    int64_t waited_ns;                                      /* in lines for turns, in all */
} lch_abort;

int64_t lch_abort_now(void);
void lch_abort_set(lch_abort *state, int value);
int lch_abort_isset(lch_abort *state);
void lch_abort_arm(lch_abort *state);                       /* at the beginning of a computation */
void lch_abort_deadline(lch_abort *state, int64_t deadline_ns);
bool lch_abort_check(void *state);                          /* for llama_set_abort_callback */
void lch_abort_signals(int (*poll)(void));

/* ---- select.cpp: token selection over a row of raw logits ---- */

enum lch_select_error { LCH_SELECT_NAN = -1, LCH_SELECT_EMPTY = -2, LCH_SELECT_INF = -3, LCH_SELECT_MEMORY = -4 };

typedef struct lch_selector lch_selector;

lch_selector *lch_selector_new(double temperature, int32_t top_k, double top_p, double min_p, uint64_t seed);
lch_selector *lch_selector_clone(const lch_selector *self);
void lch_selector_free(lch_selector *self);
void lch_selector_reset(lch_selector *self);
int32_t lch_select(lch_selector *self, const float *row, int32_t n);
int32_t lch_logprob(const float *row, int32_t n, int32_t token, double *out);
int32_t lch_top_logprobs(const float *row, int32_t n, int32_t k, int32_t *ids, float *logprobs);
/* Forbid what the bits leave out (bit t % 32 of word t / 32): those logits become -inf. How many are left. */
int32_t lch_mask(float *row, int32_t n, const uint32_t *allowed);
void lch_candidates(const float *row, int32_t n, void *records); /* llama_token_data of the tokens 0 to n - 1 */
int lch_sound(const void *records, int32_t n);              /* whether none of their logits is NaN or +inf */
const char *lch_select_isa(void);
int lch_select_use(const char *isa);                        /* NULL: the best; 0 when this CPU cannot */

/* ---- door.cpp: one thread at a time inside a native object ---- */

/* Below the numbers of lch_select_error, because one function returns both. */
enum lch_door_entry {
    LCH_DOOR_ENTERED = 0,
    LCH_DOOR_NESTED = 1,                                    /* this thread is inside already */
    LCH_DOOR_BUSY = -8,                                     /* another thread is inside */
    LCH_DOOR_COMPUTING = -9,                                /* this thread is inside a computation: a signal handler */
    LCH_DOOR_FORKED = -10                                   /* the object belongs to the parent process */
};

typedef struct {
    uint64_t owner;                                         /* the thread inside, 0 for nobody */
    uint64_t forks;                                         /* of this process when the door was made */
    uint64_t n_computed;                                    /* computations begun */
    int computing;
    int shut;                                               /* nothing may be computed any more */
} lch_door;

void lch_door_init(lch_door *door);
int lch_door_enter(lch_door *door);
void lch_door_leave(lch_door *door);
void lch_main_thread(uint64_t ident);                       /* Python's identifier of its main thread */
int lch_is_main_thread(void);

/* ---- turn.cpp: one computation at a time on CPUs that contexts and encodings share; first come, first served ---- */

enum lch_turn_entry {
    LCH_TURN_TAKEN = 0,
    LCH_TURN_STOPPED = -24,                                 /* the flag said so while this thread was waiting */
    LCH_TURN_NESTED = -25                                   /* this thread has the turn already: a signal handler */
};

typedef struct lch_turn lch_turn;

lch_turn *lch_turn_new(void);
void lch_turn_free(lch_turn *turn);
int lch_turn_take(lch_turn *turn, lch_abort *abort);        /* after lch_abort_arm */
void lch_turn_give(lch_turn *turn);
int lch_turn_waiting(lch_turn *turn);                       /* how many threads wait */
void lch_turn_add(lch_turn *turn, void *pause, void *pool); /* a thread pool that computes in it; `pause` is ggml's */
void lch_turn_remove(lch_turn *turn, void *pool);           /* before it is freed */
void lch_turn_pause(lch_turn *turn);                        /* its pools sleep until they compute; only with the turn */
/* lch_batch in turn, which may be NULL for none; its result, or one of lch_turn_entry */
int64_t lch_compute(lch_turn *turn, lch_abort *abort, void *fn, void *ctx, void *batch, size_t size);

/* ---- encoding.cpp: libmtmd computes in pieces; between two of them it stops, or lets decodes have the CPUs ---- */

typedef struct {
    lch_abort *abort;                                       /* what stops it */
    lch_turn **turns;                                       /* those that it takes for each piece, in the order of all */
    int n_turns;
    int n_taken;
    int entry;                                              /* why lch_encode has not begun: one of lch_turn_entry */
    int n_nodes;                                            /* of a piece */
    int n_asked;
    int64_t began_ns;
} lch_encoding;

bool lch_eval_check(void *tensor, bool ask, void *encoding);        /* for mtmd_context_params.cb_eval */
/* lch_call of a function of libmtmd that computes, in these turns; with `stack` lch_call_deep */
int64_t lch_encode(lch_encoding *encoding, size_t stack, void *fn, int result, int64_t a0, int64_t a1, int64_t a2,
                   int64_t a3, int64_t a4, int64_t a5, int64_t a6, int64_t a7);

/* ---- step.cpp: one token of one sequence decoded, and the next one selected, in one guarded call ---- */

enum lch_step_error { LCH_STEP_STATUS = -16, LCH_STEP_NO_ROW = -17, LCH_STEP_SHUT = -18 };

typedef struct {
    void *decode;                                           /* llama_decode */
    void *logits;                                           /* llama_get_logits_ith */
    void *ctx;
    void *batch;                                            /* of one row, whose columns follow */
    size_t batch_size;
    int32_t *token;
    int32_t *pos;
    int32_t *seq_id;
    lch_abort *abort;
    lch_door *door;
    lch_turn *turn;
    int32_t n_vocab;
    int32_t status;                                         /* of llama_decode, after LCH_STEP_STATUS */
} lch_step;

/* A token, or one of lch_select_error, lch_door_entry, lch_turn_entry, lch_step_error, LCH_FAILED. */
int64_t lch_step_run(lch_step *step, lch_selector *selector, int32_t token, int32_t pos, int32_t seq_id);

/* ---- extras.cpp: what llama.cpp tells in C++ alone; how many there are, of which at most `room` are written ---- */

int64_t lch_buffers(void *fn, void *ctx, uint64_t *out, int64_t room);  /* buffer type, bytes of model, context, compute */
int64_t lch_tensors(void *fn, void *model, uint64_t *out, int64_t room);        /* ggml_tensor pointers */
/* What a projector takes: device, bytes. */
int64_t lch_projector(void *fn, const void *path, void *params, size_t size, uint64_t *out, int64_t room);

/* ---- gguf.cpp: where count strings of a GGUF file end that begin at a place of its bytes; 0: beyond the bytes ---- */

uint64_t lch_skip_strings(const void *data, uint64_t size, uint64_t at, uint64_t count);
