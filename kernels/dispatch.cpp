// Where ggml's CPU backend comes in: for each operation it asks ggml_cpu_extra_compute_forward first, and
// ggml_cpu_extra_work_size for the memory that takes. Those of ggml's traits.cpp get other names (kernels.cmake), and
// these answer in their place: products of few columns are computed here, all else goes on to ggml.
//
// A product with experts (MUL_MAT_ID) is one of several matrices, each with the columns that chose it.
#include <algorithm>

#include "few_columns.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "tiled/tiled.h"
#include "traits.h"
#include "weights.h"

extern "C" {
bool few_columns_next_compute_forward(struct ggml_compute_params * params, struct ggml_tensor * op);
bool few_columns_next_work_size(int n_threads, const struct ggml_tensor * op, size_t * size);
}

namespace {

using few_columns::Panel;
using few_columns::Weights;

constexpr int MAX_PAIRS = 512;     // columns and experts that they chose
constexpr int MAX_EXPERTS = 1024;

// A product that is computed here.
struct Product {
    Weights weights;
    Panel panel;
    int64_t k;
    int64_t rows;
    int experts;  // matrices, of which some may have no columns
    int columns;  // of all matrices together
    size_t panel_bytes;  // at most
};

char * at(const struct ggml_tensor * tensor, int64_t i1, int64_t i2) {
    return static_cast<char *>(tensor->data) + static_cast<size_t>(i1) * tensor->nb[1] +
           static_cast<size_t>(i2) * tensor->nb[2];
}

bool few(int64_t columns) { return columns >= few_columns::MIN_COLUMNS && columns <= few_columns::MAX_COLUMNS; }

// Whether the shapes of an operation are those of a product that is computed here, and how many columns it has.
bool count_columns(const struct ggml_tensor * op, Product & product) {
    const struct ggml_tensor * weights = op->src[0];
    const struct ggml_tensor * columns = op->src[1];
    if (op->op == GGML_OP_MUL_MAT) {
        product.experts = 1;
        product.columns = static_cast<int>(std::min<int64_t>(columns->ne[1], few_columns::MAX_COLUMNS + 1));
        return few(columns->ne[1]) && ggml_n_dims(weights) <= 2 && ggml_n_dims(columns) <= 2;
    }
    if (op->op == GGML_OP_MUL_MAT_ID) {
        const struct ggml_tensor * ids = op->src[2];
        if (!few(ids->ne[1]) || ids->ne[0] > MAX_PAIRS / ids->ne[1] || weights->ne[2] > MAX_EXPERTS) {
            return false;
        }
        product.experts = static_cast<int>(weights->ne[2]);
        product.columns = static_cast<int>(ids->ne[0] * ids->ne[1]);
        return ids->type == GGML_TYPE_I32 && weights->ne[3] == 1 && columns->ne[3] == 1;
    }
    return false;
}

// Whether ggml computes as many columns of halves at once, and as halves, which is faster: on ARM it does from 8 on.
bool is_faster_in_ggml(const struct ggml_tensor * op, const Product & product) {
    return op->op == GGML_OP_MUL_MAT && product.weights == Weights::F16 && product.columns >= 8 &&
           ggml_cpu_has_fp16_va();
}

bool plan(const struct ggml_tensor * op, Product & product) {
    if (!count_columns(op, product)) {
        return false;
    }
    const struct ggml_tensor * weights = op->src[0];
    const struct ggml_tensor * columns = op->src[1];
    const bool floats = columns->type == GGML_TYPE_F32 && op->type == GGML_TYPE_F32;
    if (!floats || ggml_get_op_params_i32(op, 1) != GGML_HINT_NONE || ggml_is_numa()) {
        return false;
    }
    if (columns->nb[0] != sizeof(float) || op->nb[0] != sizeof(float) || op->nb[1] % sizeof(float) != 0 ||
        op->nb[2] % sizeof(float) != 0 || weights->nb[0] != ggml_type_size(weights->type)) {
        return false;
    }
    if (!few_columns::find_weights(weights, product.weights) ||
        !few_columns::supported(product.weights, weights->ne[0]) || is_faster_in_ggml(op, product)) {
        return false;
    }
    product.panel = few_columns::format(product.weights).panel;
    product.k = weights->ne[0];
    product.rows = weights->ne[1];
    // Columns that share a panel take less than each of them alone; with experts none may.
    const int alone = product.experts == 1 ? 1 : product.columns;
    product.panel_bytes = few_columns::panel_bytes(product.panel, product.k, product.columns / alone) *
                          static_cast<size_t>(alone);
    return true;
}

// One of the matrices, and its columns.
struct Matrix {
    const char * weights;
    char * panel;
    int first;
    int count;
};

// The matrices that have columns, and all columns in their order: where the values are and where results go.
struct Arrangement {
    int matrices;
    Matrix matrix[MAX_PAIRS];
    int matrix_of[MAX_PAIRS];
    const float * values[MAX_PAIRS];
    float * results[MAX_PAIRS];
};

void arrange(const struct ggml_tensor * op, const Product & product, char * panel, Arrangement & out) {
    const struct ggml_tensor * columns = op->src[1];
    const struct ggml_tensor * ids = op->op == GGML_OP_MUL_MAT_ID ? op->src[2] : nullptr;
    const int used = ids ? static_cast<int>(ids->ne[0]) : 1;
    auto expert_of = [&](int i) {
        const int expert = ids ? *reinterpret_cast<const int32_t *>(at(ids, i / used, 0) + ids->nb[0] * (i % used)) : 0;
        GGML_ASSERT(expert >= 0 && expert < product.experts);
        return expert;
    };
    int next[MAX_EXPERTS];  // first the number of columns of each expert, then where its next one goes
    std::fill(next, next + product.experts, 0);
    for (int i = 0; i < product.columns; i++) {
        next[expert_of(i)]++;
    }
    out.matrices = 0;
    for (int expert = 0, first = 0; expert < product.experts; expert++) {
        const int count = next[expert];
        next[expert] = first;
        if (count > 0) {
            out.matrix[out.matrices] = {at(op->src[0], 0, expert), panel, first, count};
            std::fill(out.matrix_of + first, out.matrix_of + first + count, out.matrices);
            out.matrices++;
            first += count;
            panel += few_columns::panel_bytes(product.panel, product.k, count);
        }
    }
    for (int i = 0; i < product.columns; i++) {
        const int place = next[expert_of(i)]++;
        const int token = i / used, slot = i % used;
        const char * values = ids ? at(columns, slot % columns->ne[1], token) : at(columns, i, 0);
        out.values[place] = reinterpret_cast<const float *>(values);
        out.results[place] = reinterpret_cast<float *>(ids ? at(op, slot, token) : at(op, i, 0));
    }
}

// Quantize `count` blocks of a column as ggml does for the same weights, and put them into the panel of its matrix.
void pack(enum ggml_type type, const Product & product, const Matrix & matrix, int column, const float * values,
          int64_t first, int64_t count) {
    const int block_size = few_columns::format(product.weights).block_size;
    const enum ggml_type stored = ggml_get_type_traits_cpu(type)->vec_dot_type;
    const ggml_from_float_t quantize = ggml_get_type_traits_cpu(stored)->from_float;
    constexpr int AT_ONCE = 256;  // values
    values += first * block_size;
    while (count > 0) {
        const int64_t blocks = std::min<int64_t>(count, AT_ONCE / block_size);
        const int64_t n = blocks * block_size;
        alignas(32) char quantized[2 * AT_ONCE];  // as many halves, the longest form
        quantize(values, quantized, n);
        if (product.panel == Panel::FLOATS) {
            float floats[AT_ONCE];
            ggml_get_type_traits(stored)->to_float(quantized, floats, n);
            few_columns::pack(product.panel, product.k, matrix.count, column, first, blocks, floats, matrix.panel);
        } else {
            few_columns::pack(product.panel, product.k, matrix.count, column, first, blocks, quantized, matrix.panel);
        }
        values += n;
        first += blocks;
        count -= blocks;
    }
}

char * aligned(void * memory) {
    constexpr uintptr_t last = few_columns::PANEL_ALIGNMENT - 1;
    return reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(memory) + last) & ~last);
}

// Whether reading a matrix once for all its columns makes up for what ggml does better with a single one: measured, from
// 5 columns for 4 matrices on. One matrix has at least two.
bool is_worth_it(const Product & product, const Arrangement & all) { return 4 * product.columns >= 5 * all.matrices; }

// False when nothing was done, in all threads alike.
bool compute(const struct ggml_compute_params * params, struct ggml_tensor * op, const Product & product) {
    const struct ggml_tensor * weights = op->src[0];
    const int64_t ith = params->ith, nth = params->nth;
    Arrangement all;
    arrange(op, product, aligned(params->wdata), all);
    if (!is_worth_it(product, all)) {
        return false;
    }

    // Each thread packs an equal share of all blocks, in the order of the columns.
    const int64_t blocks = product.k / few_columns::format(product.weights).block_size;
    const int64_t end = blocks * product.columns * (ith + 1) / nth;
    for (int64_t i = blocks * product.columns * ith / nth; i < end;) {
        const int64_t column = i / blocks, first = i % blocks;
        const int64_t count = std::min(blocks - first, end - i);
        const Matrix & matrix = all.matrix[all.matrix_of[column]];
        pack(weights->type, product, matrix, static_cast<int>(column) - matrix.first, all.values[column], first, count);
        i += count;
    }
    if (ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, static_cast<int>(nth));
    }
    ggml_barrier(params->threadpool);

    // Chunks of rows, taken one by one, so that a thread that gets less of its core does less.
    const int64_t share = (product.rows * all.matrices + 8 * nth - 1) / (8 * nth);
    const int64_t chunk = std::min<int64_t>(std::max<int64_t>((share + 7) / 8 * 8, 8), 256);
    const int64_t chunks = (product.rows + chunk - 1) / chunk;  // of each matrix
    for (int64_t i = ith; i < chunks * all.matrices; i = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        const Matrix & matrix = all.matrix[i / chunks];
        const int64_t row = i % chunks * chunk;
        few_columns::multiply(product.weights, product.k, matrix.count, matrix.weights, weights->nb[1], row,
                              std::min(product.rows, row + chunk), matrix.panel, all.results + matrix.first);
    }
    return true;
}

// What ggml takes for the same operation: with the reference implementation it computes all products, and some with
// experts are left to it.
size_t work_size_of_ggml(int n_threads, const struct ggml_tensor * op, const Product & product) {
    size_t size = 0;
    if (few_columns_next_work_size(n_threads, op, &size)) {
        return size;
    }
    const enum ggml_type stored = ggml_get_type_traits_cpu(op->src[0]->type)->vec_dot_type;
    const size_t columns = ggml_row_size(stored, ggml_nelements(op->src[1]));
    if (op->op == GGML_OP_MUL_MAT) {
        return columns;
    }
    // A count, a cache line and a list of pairs of int32 for each expert, and what lies between for alignment.
    const size_t lists = static_cast<size_t>(product.experts) * (8 + 64 + 8 * static_cast<size_t>(product.columns));
    return columns + lists + 256 + ggml_tiled_wdata_size(n_threads, const_cast<struct ggml_tensor *>(op));
}

}  // namespace

extern "C" {

bool ggml_cpu_extra_compute_forward(struct ggml_compute_params * params, struct ggml_tensor * op) {
    Product product;
    if (params->use_ref || !plan(op, product)) {
        return few_columns_next_compute_forward(params, op);
    }
    GGML_ASSERT(params->wsize >= product.panel_bytes + few_columns::PANEL_ALIGNMENT - 1);
    return compute(params, op, product) || few_columns_next_compute_forward(params, op);
}

bool ggml_cpu_extra_work_size(int n_threads, const struct ggml_tensor * op, size_t * size) {
    Product product;
    if (!plan(op, product)) {
        return few_columns_next_work_size(n_threads, op, size);
    }
    const size_t own = product.panel_bytes + few_columns::PANEL_ALIGNMENT - 1;
    *size = std::max(own, work_size_of_ggml(n_threads, op, product));
    return true;
}

}
