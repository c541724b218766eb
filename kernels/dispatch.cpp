// Where ggml's CPU backend comes in: for each operation it asks ggml_cpu_extra_compute_forward first, and
// ggml_cpu_extra_work_size for the memory that takes. Those of ggml's traits.cpp get other names (kernels.cmake), and
// these answer in their place: products of few columns are computed here, all else goes on to ggml.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <typeinfo>

#include "blocks.h"
#include "few_columns.h"
#include "ggml-backend-impl.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "repack.h"
#include "traits.h"

extern "C" {
bool few_columns_next_compute_forward(struct ggml_compute_params * params, struct ggml_tensor * op);
bool few_columns_next_work_size(int n_threads, const struct ggml_tensor * op, size_t * size);
}

namespace {

using few_columns::Panel;
using few_columns::Weights;

static_assert(sizeof(few_columns::BlockQ8_0) == sizeof(block_q8_0), "ggml's Q8_0 has changed");
static_assert(sizeof(few_columns::BlockQ4_0) == sizeof(block_q4_0), "ggml's Q4_0 has changed");
static_assert(sizeof(few_columns::BlockQ4_K) == sizeof(block_q4_K), "ggml's Q4_K has changed");
static_assert(sizeof(few_columns::BlockQ5_K) == sizeof(block_q5_K), "ggml's Q5_K has changed");
static_assert(sizeof(few_columns::BlockQ6_K) == sizeof(block_q6_K), "ggml's Q6_K has changed");
static_assert(sizeof(few_columns::BlockQ8_K) == sizeof(block_q8_K), "ggml's Q8_K has changed");
static_assert(sizeof(few_columns::BlockQ4_0x8) == sizeof(block_q4_0x8), "ggml's repacked Q4_0 has changed");
static_assert(sizeof(few_columns::BlockQ4_Kx8) == sizeof(block_q4_Kx8), "ggml's repacked Q4_K has changed");

// A product that is computed here.
struct Product {
    Weights weights;
    Panel panel;
    int64_t k;
    int64_t rows;
    int columns;
    size_t panel_bytes;
};

bool plain_weights(enum ggml_type type, Weights & weights) {
    switch (type) {
        case GGML_TYPE_Q8_0: weights = Weights::Q8_0; return true;
        case GGML_TYPE_Q4_0: weights = Weights::Q4_0; return true;
        case GGML_TYPE_Q4_K: weights = Weights::Q4_K; return true;
        case GGML_TYPE_Q5_K: weights = Weights::Q5_K; return true;
        case GGML_TYPE_Q6_K: weights = Weights::Q6_K; return true;
        case GGML_TYPE_F16: weights = Weights::F16; return true;
        case GGML_TYPE_BF16: weights = Weights::BF16; return true;
        default: return false;
    }
}

#ifdef GGML_USE_CPU_REPACK

// Whether traits are those of a block type with 8 rows interleaved by 8 bytes. Their class is private to repack.cpp,
// so it goes by the name of the type: g++ and clang write template arguments as l or x, MSVC in words.
bool interleaved_by_8(const ggml::cpu::tensor_traits * traits, const char * mangled, const char * plain) {
    const char * name = typeid(*traits).name();
    if (const char * found = std::strstr(name, mangled)) {
        const char * arguments = found + std::strlen(mangled);
        return std::strncmp(arguments, "Ll8ELl8E", 8) == 0 || std::strncmp(arguments, "Lx8ELx8E", 8) == 0;
    }
    return std::strstr(name, plain) != nullptr;
}

bool repacked_weights(const struct ggml_tensor * tensor, Weights & weights) {
    const auto * traits = static_cast<const ggml::cpu::tensor_traits *>(tensor->extra);
    if (traits == nullptr || tensor->ne[1] % 8 != 0) {
        return false;
    }
    // The traits are single objects: once recognized, a comparison of addresses is enough.
    static std::atomic<const void *> known_q4_0, known_q4_K;
    auto is = [&](std::atomic<const void *> & known, const char * mangled, const char * plain) {
        if (known.load(std::memory_order_relaxed) == traits) {
            return true;
        }
        if (!interleaved_by_8(traits, mangled, plain)) {
            return false;
        }
        known.store(traits, std::memory_order_relaxed);
        return true;
    };
    if (tensor->type == GGML_TYPE_Q4_0 && is(known_q4_0, "10block_q4_0", "block_q4_0,8,8")) {
        weights = Weights::Q4_0x8;
        return true;
    }
    if (tensor->type == GGML_TYPE_Q4_K && is(known_q4_K, "10block_q4_K", "block_q4_K,8,8")) {
        weights = Weights::Q4_Kx8;
        return true;
    }
    return false;
}

#endif

bool find_weights(const struct ggml_tensor * tensor, Weights & weights) {
    const ggml_backend_buffer_t buffer = tensor->view_src != nullptr ? tensor->view_src->buffer : tensor->buffer;
#ifdef GGML_USE_CPU_REPACK
    if (buffer != nullptr && buffer->buft == ggml_backend_cpu_repack_buffer_type()) {
        return tensor->view_src == nullptr && repacked_weights(tensor, weights);
    }
#endif
    if (tensor->extra != nullptr) {
        return false;
    }
    return (buffer == nullptr || ggml_backend_buffer_is_host(buffer)) && plain_weights(tensor->type, weights);
}

bool plan(const struct ggml_tensor * op, Product & product) {
    if (op->op != GGML_OP_MUL_MAT) {
        return false;
    }
    const struct ggml_tensor * weights = op->src[0];
    const struct ggml_tensor * columns = op->src[1];
    if (columns->ne[1] < few_columns::MIN_COLUMNS || columns->ne[1] > few_columns::MAX_COLUMNS) {
        return false;
    }
    const bool two_dimensions = ggml_n_dims(weights) <= 2 && ggml_n_dims(columns) <= 2;
    const bool floats = columns->type == GGML_TYPE_F32 && op->type == GGML_TYPE_F32;
    if (!two_dimensions || !floats || ggml_get_op_params_i32(op, 1) != GGML_HINT_NONE) {
        return false;
    }
    if (columns->nb[0] != sizeof(float) || op->nb[0] != sizeof(float) || op->nb[1] % sizeof(float) != 0 ||
        weights->nb[0] != ggml_type_size(weights->type) || ggml_is_numa()) {
        return false;
    }
    if (!find_weights(weights, product.weights) || !few_columns::supported(product.weights, weights->ne[0])) {
        return false;
    }
    product.panel = few_columns::format(product.weights).panel;
    product.k = weights->ne[0];
    product.rows = weights->ne[1];
    product.columns = static_cast<int>(columns->ne[1]);
    product.panel_bytes = few_columns::panel_bytes(product.panel, product.k, product.columns);
    return true;
}

// Quantize `count` blocks of a column as ggml does for the same weights, and put them into the panel.
void pack(const struct ggml_tensor * op, const Product & product, int column, int64_t first, int64_t count,
          char * panel) {
    const int block_size = few_columns::format(product.weights).block_size;
    const struct ggml_tensor * columns = op->src[1];
    const float * values = reinterpret_cast<const float *>(static_cast<const char *>(columns->data) +
                                                           static_cast<size_t>(column) * columns->nb[1]) +
                           first * block_size;
    const enum ggml_type stored = ggml_get_type_traits_cpu(op->src[0]->type)->vec_dot_type;
    const ggml_from_float_t quantize = ggml_get_type_traits_cpu(stored)->from_float;
    constexpr int AT_ONCE = 256;  // values
    while (count > 0) {
        const int64_t blocks = std::min<int64_t>(count, AT_ONCE / block_size);
        const int64_t n = blocks * block_size;
        alignas(32) char quantized[2 * AT_ONCE];  // as many halves, the longest form
        quantize(values, quantized, n);
        if (product.panel == Panel::FLOATS) {
            float floats[AT_ONCE];
            ggml_get_type_traits(stored)->to_float(quantized, floats, n);
            few_columns::pack(product.panel, product.k, product.columns, column, first, blocks, floats, panel);
        } else {
            few_columns::pack(product.panel, product.k, product.columns, column, first, blocks, quantized, panel);
        }
        values += n;
        first += blocks;
        count -= blocks;
    }
}

void compute(const struct ggml_compute_params * params, struct ggml_tensor * op, const Product & product) {
    const few_columns::Format & form = few_columns::format(product.weights);
    char * panel = reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(params->wdata) + 31) / 32 * 32);
    const int64_t ith = params->ith, nth = params->nth;

    // Each thread packs an equal share of all blocks, in the order of the columns.
    const int64_t blocks = product.k / form.block_size;
    const int64_t end = blocks * product.columns * (ith + 1) / nth;
    for (int64_t i = blocks * product.columns * ith / nth; i < end;) {
        const int64_t first = i % blocks;
        const int64_t count = std::min(blocks - first, end - i);
        pack(op, product, static_cast<int>(i / blocks), first, count, panel);
        i += count;
    }
    if (ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, static_cast<int>(nth));
    }
    ggml_barrier(params->threadpool);

    // Chunks of rows, taken one by one, so that a thread that gets less of its core does less.
    const int64_t share = (product.rows + 8 * nth - 1) / (8 * nth);
    const int64_t chunk = std::min<int64_t>(std::max<int64_t>((share + 7) / 8 * 8, 8), 256);
    const int64_t chunks = (product.rows + chunk - 1) / chunk;
    const struct ggml_tensor * weights = op->src[0];
    for (int64_t i = ith; i < chunks; i = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        few_columns::multiply(product.weights, product.k, product.columns, static_cast<const char *>(weights->data),
                              weights->nb[1], i * chunk, std::min(product.rows, (i + 1) * chunk), panel,
                              static_cast<float *>(op->data), static_cast<int64_t>(op->nb[1] / sizeof(float)));
    }
}

}  // namespace

extern "C" {

bool ggml_cpu_extra_compute_forward(struct ggml_compute_params * params, struct ggml_tensor * op) {
    Product product;
    if (params->use_ref || !plan(op, product)) {
        return few_columns_next_compute_forward(params, op);
    }
    GGML_ASSERT(params->wsize >= product.panel_bytes + 31);
    compute(params, op, product);
    return true;
}

bool ggml_cpu_extra_work_size(int n_threads, const struct ggml_tensor * op, size_t * size) {
    Product product;
    if (!plan(op, product)) {
        return few_columns_next_work_size(n_threads, op, size);
    }
    // With the reference implementation ggml computes this product, and quantizes its columns in the same memory.
    const enum ggml_type stored = ggml_get_type_traits_cpu(op->src[0]->type)->vec_dot_type;
    const size_t reference = ggml_row_size(stored, ggml_nelements(op->src[1]));
    *size = std::max(product.panel_bytes + 31, reference);
    return true;
}

}
