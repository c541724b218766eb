// Compares products of a few columns in a libggml with what ggml computes without this repository's kernels (its
// "reference" switch), and with float64, over types, sizes, threads and buffers. Only ggml's public interface is used.
//
// Prints one line for each thing that is wrong, then how many products were compared and how many of them had other
// bits than ggml's, the same of products with experts, and how many things were wrong; returns that, at most 99.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <numeric>
#include <random>
#include <vector>

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

namespace {

int failures = 0;
long compared = 0, other_bits = 0, with_experts = 0, other_bits_with_experts = 0;
std::mt19937 generator(21);

int random_int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

using SetReference = void (*)(ggml_backend_t, bool);

struct Machine {
    ggml_backend_t backend;
    SetReference set_reference;
    ggml_backend_set_n_threads_t set_threads;
    ggml_backend_buffer_type_t plain;
    ggml_backend_buffer_type_t repack;  // null where there is none
};

Machine open_machine() {
    Machine machine = {};
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    ggml_backend_reg_t registry = ggml_backend_dev_backend_reg(device);
    auto address = [&](const char * name) { return ggml_backend_reg_get_proc_address(registry, name); };
    machine.backend = ggml_backend_dev_init(device, nullptr);
    machine.set_reference = reinterpret_cast<SetReference>(address("ggml_backend_cpu_set_use_ref"));
    machine.set_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(address("ggml_backend_set_n_threads"));
    machine.plain = ggml_backend_dev_buffer_type(device);
    const auto extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(address("ggml_backend_dev_get_extra_bufts"));
    for (auto * type = extra ? extra(device) : nullptr; type && *type; type++) {
        if (std::strcmp(ggml_backend_buft_name(*type), "CPU_REPACK") == 0) {
            machine.repack = *type;
        }
    }
    return machine;
}

std::vector<float> random_floats(size_t count, float mean) {
    std::normal_distribution<float> normal(mean, 1);
    std::vector<float> values(count);
    for (auto & value : values) {
        value = normal(generator);
    }
    return values;
}

// By how much ggml's result may be off, as a part of what is summed. It rounds columns in its own way before it multiplies
// repacked weights with four of them, and sums halves as halves where a CPU can.
double rounding_of_ggml(ggml_type type, bool repacked) {
    return repacked ? 5e-4 : type == GGML_TYPE_F16 && ggml_cpu_has_fp16_va() ? 2e-3 : 4e-6;
}

void fail(const char * what, ggml_type type, int64_t k, int64_t rows, int64_t n, double got, double wanted) {
    if (failures++ < 20) {
        std::printf("%s: %s, k %ld, rows %ld, columns %ld: %.9g instead of %.9g\n", what, ggml_type_name(type),
                    static_cast<long>(k), static_cast<long>(rows), static_cast<long>(n), got, wanted);
    }
}

std::vector<float> run(const Machine & machine, ggml_context * context, ggml_tensor * product, bool reference, int threads) {
    ggml_cgraph * graph = ggml_new_graph(context);
    ggml_build_forward_expand(graph, product);
    machine.set_threads(machine.backend, threads);
    machine.set_reference(machine.backend, reference);
    std::vector<float> result(static_cast<size_t>(ggml_nelements(product)));
    if (ggml_backend_graph_compute(machine.backend, graph) != GGML_STATUS_SUCCESS) {
        fail("not computed", product->src[0]->type, product->src[0]->ne[0], product->ne[0], product->ne[1], 0, 0);
    }
    ggml_backend_tensor_get(product, result.data(), 0, 4 * result.size());
    return result;
}

// A product of weights (2-D, or a part of a larger tensor whose rows are apart) with columns that may be apart, too.
std::vector<float> compute(const Machine & machine, ggml_type type, const std::vector<char> & weights, int64_t k,
                           int64_t rows, const std::vector<float> & columns, int64_t n, bool repacked, bool apart,
                           bool reference, int threads) {
    ggml_init_params params = {1 << 20, nullptr, true};
    ggml_context * of_weights = ggml_init(params);
    ggml_context * of_rest = ggml_init(params);
    ggml_tensor * a = ggml_new_tensor_2d(of_weights, type, k, rows);
    ggml_tensor * wide = ggml_new_tensor_2d(of_rest, GGML_TYPE_F32, apart ? k + 32 : k, n);
    ggml_tensor * b = ggml_view_2d(of_rest, wide, k, n, wide->nb[1], 0);
    ggml_backend_buffer_t first = ggml_backend_alloc_ctx_tensors_from_buft(of_weights, repacked ? machine.repack : machine.plain);
    ggml_tensor * c = ggml_mul_mat(of_rest, a, b);
    ggml_backend_buffer_t second = ggml_backend_alloc_ctx_tensors_from_buft(of_rest, machine.plain);
    ggml_backend_tensor_set(a, weights.data(), 0, weights.size());
    for (int64_t i = 0; i < n; i++) {
        ggml_backend_tensor_set(wide, columns.data() + i * k, static_cast<size_t>(i) * wide->nb[1], 4 * static_cast<size_t>(k));
    }
    const auto result = run(machine, of_rest, c, reference, threads);
    ggml_backend_buffer_free(first);
    ggml_backend_buffer_free(second);
    ggml_free(of_weights);
    ggml_free(of_rest);
    return result;
}

void check(const Machine & machine, ggml_type type, int64_t k, int64_t rows, int64_t n, bool repacked, bool apart,
           int threads, float mean) {
    const auto floats = random_floats(static_cast<size_t>(k * rows), 0);
    auto columns = random_floats(static_cast<size_t>(k * n), mean);
    std::vector<char> weights(ggml_row_size(type, k) * static_cast<size_t>(rows));
    ggml_quantize_chunk(type, floats.data(), weights.data(), 0, rows, k, nullptr);
    std::vector<float> exact = floats;
    if (type != GGML_TYPE_F32) {
        ggml_get_type_traits(type)->to_float(weights.data(), exact.data(), static_cast<int64_t>(exact.size()));
    }
    // Column 1 has an infinity, and what comes of it must stay there.
    const bool infinite = n > 2 && mean == 0;
    if (infinite) {
        columns[static_cast<size_t>(k)] = INFINITY;
    }
    const auto ours = compute(machine, type, weights, k, rows, columns, n, repacked, apart, false, threads);
    // Columns lie side by side here: ggml quantizes four of them for repacked weights as if they did always.
    const auto theirs = compute(machine, type, weights, k, rows, columns, n, repacked, false, true, threads);
    const bool computed_here = n >= 2 && n <= 16 && type != GGML_TYPE_F32 && type != GGML_TYPE_Q5_0 &&
                               !(type == GGML_TYPE_Q6_K && repacked) &&
                               !(type == GGML_TYPE_F16 && n >= 8 && ggml_cpu_has_fp16_va());
    if (computed_here && !infinite &&
        compute(machine, type, weights, k, rows, columns, n, repacked, false, false, 1) != ours) {
        fail("threads or strides change the result", type, k, rows, n, 0, 0);
    }
    compared++;
    other_bits += std::memcmp(ours.data(), theirs.data(), 4 * ours.size()) != 0;
    for (int64_t c = 0; c < n; c++) {
        for (int64_t r = 0; r < rows; r++) {
            const float got = ours[static_cast<size_t>(c * rows + r)], other = theirs[static_cast<size_t>(c * rows + r)];
            if (infinite && c == 1) {
                if (std::isfinite(got) && !std::isfinite(other)) {
                    fail("infinity was lost", type, k, rows, n, got, other);
                }
                continue;
            }
            double wanted = 0, size = 0, squares = 0;
            for (int64_t i = 0; i < k; i++) {
                const double product = static_cast<double>(exact[static_cast<size_t>(r * k + i)]) * static_cast<double>(columns[static_cast<size_t>(c * k + i)]);
                wanted += product;
                size += std::fabs(product);
                squares += product * product;
            }
            const double rounding = rounding_of_ggml(type, repacked) * size;
            if (!(std::fabs(static_cast<double>(got) - other) <= rounding)) {
                fail("not as ggml", type, k, rows, n, got, other);
            }
            // A column of 8-bit values is off by 1/254 of its largest value, at random.
            if (!(std::fabs(got - wanted) <= 0.01 * std::sqrt(squares) * 4 + 1e-3 * size)) {
                fail("not as float64", type, k, rows, n, got, wanted);
            }
        }
    }
}

// A product whose columns choose among several matrices. Each token chooses `used`, for one column or for one each.
struct Experts {
    ggml_type type;
    int64_t k, rows, experts, used, tokens;
    bool one_column, repacked;
    std::vector<char> weights;
    std::vector<float> columns;
    std::vector<int32_t> ids;
};

std::vector<float> compute(const Machine & machine, const Experts & e, bool reference, int threads) {
    ggml_init_params params = {1 << 20, nullptr, true};
    ggml_context * of_weights = ggml_init(params);
    ggml_context * of_rest = ggml_init(params);
    ggml_tensor * a = ggml_new_tensor_3d(of_weights, e.type, e.k, e.rows, e.experts);
    ggml_tensor * b = ggml_new_tensor_3d(of_rest, GGML_TYPE_F32, e.k, e.one_column ? 1 : e.used, e.tokens);
    ggml_tensor * ids = ggml_new_tensor_2d(of_rest, GGML_TYPE_I32, e.used, e.tokens);
    ggml_tensor * c = ggml_mul_mat_id(of_rest, a, b, ids);
    ggml_backend_buffer_t first = ggml_backend_alloc_ctx_tensors_from_buft(of_weights, e.repacked ? machine.repack : machine.plain);
    ggml_backend_buffer_t second = ggml_backend_alloc_ctx_tensors_from_buft(of_rest, machine.plain);
    ggml_backend_tensor_set(a, e.weights.data(), 0, e.weights.size());
    ggml_backend_tensor_set(b, e.columns.data(), 0, 4 * e.columns.size());
    ggml_backend_tensor_set(ids, e.ids.data(), 0, 4 * e.ids.size());
    const auto result = run(machine, of_rest, c, reference, threads);
    ggml_backend_buffer_free(first);
    ggml_backend_buffer_free(second);
    ggml_free(of_weights);
    ggml_free(of_rest);
    return result;
}

// Each token chooses different experts, as routers do; with few of them, all columns may meet in one.
Experts random_experts(ggml_type type, bool repacked) {
    Experts e = {};
    e.type = type;
    e.repacked = repacked;
    e.k = random_int(1, 3) * (ggml_blck_size(type) == 256 ? 256 : 32);
    e.rows = repacked ? 8 * random_int(1, 3) : random_int(1, 20);
    e.experts = random_int(2, 9);
    e.used = random_int(1, static_cast<int>(e.experts));
    e.tokens = random_int(0, 9) ? random_int(2, 16) : random_int(0, 1) ? 1 : 17;
    e.one_column = random_int(0, 1);
    const auto floats = random_floats(static_cast<size_t>(e.k * e.rows * e.experts), 0);
    e.weights.resize(ggml_row_size(type, e.k) * static_cast<size_t>(e.rows * e.experts));
    ggml_quantize_chunk(type, floats.data(), e.weights.data(), 0, e.rows * e.experts, e.k, nullptr);
    e.columns = random_floats(static_cast<size_t>(e.k * (e.one_column ? 1 : e.used) * e.tokens), 0);
    std::vector<int32_t> order(static_cast<size_t>(e.experts));
    std::iota(order.begin(), order.end(), 0);
    for (int64_t i = 0; i < e.tokens; i++) {
        std::shuffle(order.begin(), order.end(), generator);
        e.ids.insert(e.ids.end(), order.begin(), order.begin() + e.used);
    }
    return e;
}

void check(const Machine & machine, const Experts & e, int threads) {
    const auto ours = compute(machine, e, false, threads);
    const auto theirs = compute(machine, e, true, threads);
    if (e.tokens >= 2 && e.tokens <= 16 && compute(machine, e, false, 1) != ours) {
        fail("threads change the result with experts", e.type, e.k, e.rows, e.tokens, 0, 0);
    }
    with_experts++;
    other_bits_with_experts += std::memcmp(ours.data(), theirs.data(), 4 * ours.size()) != 0;
    std::vector<float> exact(static_cast<size_t>(e.k * e.rows * e.experts));
    ggml_get_type_traits(e.type)->to_float(e.weights.data(), exact.data(), static_cast<int64_t>(exact.size()));
    for (int64_t pair = 0; pair < e.used * e.tokens; pair++) {
        const float * column = e.columns.data() + (e.one_column ? pair / e.used : pair) * e.k;
        const float * matrix = exact.data() + e.ids[static_cast<size_t>(pair)] * e.k * e.rows;
        for (int64_t r = 0; r < e.rows; r++) {
            const double got = ours[static_cast<size_t>(pair * e.rows + r)], other = theirs[static_cast<size_t>(pair * e.rows + r)];
            double wanted = 0, size = 0, squares = 0;
            for (int64_t i = 0; i < e.k; i++) {
                const double product = static_cast<double>(matrix[r * e.k + i]) * static_cast<double>(column[i]);
                wanted += product;
                size += std::fabs(product);
                squares += product * product;
            }
            if (!(std::fabs(got - other) <= rounding_of_ggml(e.type, e.repacked) * size)) {
                fail("not as ggml with experts", e.type, e.k, e.rows, e.tokens, got, other);
            }
            if (!(std::fabs(got - wanted) <= 0.01 * std::sqrt(squares) * 4 + 1e-3 * size)) {
                fail("not as float64 with experts", e.type, e.k, e.rows, e.tokens, got, wanted);
            }
        }
    }
}

}  // namespace

int main(int argc, char ** argv) {
    const int products = argc > 1 ? std::atoi(argv[1]) : 100;
    ggml_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    const Machine machine = open_machine();
    const ggml_type types[] = {GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K,
                               GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_F32, GGML_TYPE_Q5_0};
    for (int i = 0; i < products; i++) {
        const ggml_type type = types[i % std::size(types)];
        const int64_t n = random_int(0, 9) ? random_int(2, 16) : random_int(0, 1) ? 1 : 17;
        const bool on_arm = ggml_cpu_has_dotprod();
        const bool has_layout = type == GGML_TYPE_Q4_0 || type == GGML_TYPE_Q4_K ||
                                (on_arm && (type == GGML_TYPE_Q8_0 || type == GGML_TYPE_Q6_K));
        const bool repacked = has_layout && machine.repack && (ggml_cpu_has_avx2() || on_arm) && random_int(0, 2);
        const int64_t k = random_int(1, 3) * (ggml_blck_size(type) == 256 ? 256 : 32);
        const int64_t rows = repacked ? 8 * random_int(1, 3) : random_int(1, 20);
        const bool left_to_ggml = repacked && (n > 16 || type == GGML_TYPE_Q6_K);  // it takes columns side by side
        const bool apart = random_int(0, 1) && !left_to_ggml;
        check(machine, type, k, rows, n, repacked, apart, random_int(1, 4), random_int(0, 2) ? 0.0f : 2.0f);
        if (i % 2 == 0 && type != GGML_TYPE_F32) {
            check(machine, random_experts(type, repacked), random_int(1, 4));
        }
    }
    std::printf("%ld compared, %ld with other bits\n", compared, other_bits);
    std::printf("%ld compared, %ld with other bits, with experts\n", with_experts, other_bits_with_experts);
    std::printf("%d wrong\n", failures);
    return failures > 99 ? 99 : failures;
}
