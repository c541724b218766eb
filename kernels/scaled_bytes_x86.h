// Weights of at most 6 bits with a scale for each 16, in whatever vectors x86 has: includes neither kind itself.
#pragma once

namespace few_columns {

class ScaledBytes {
public:
    ScaledBytes(const uint8_t * values, const Scale * scales) : values(load_ints(values)), scales(load_ints(scales)) {}

    Ints add_dots_to(Ints sum, const char * column) const {
        return add_products(sum, multiply_bytes(values, load_ints(column)), scales);
    }

private:
    Ints values, scales;
};

}  // namespace few_columns
