// The list of tensors in a GGUF file stands behind the vocabulary: half a million strings to step over.

#include "helpers.hpp"

uint64_t lch_skip_strings(const void * data, uint64_t size, uint64_t at, uint64_t count) {
    const char * bytes = static_cast<const char *>(data);
    for (; count; count--) {
        uint64_t length;
        if (at > size || size - at < sizeof length) {
            return 0;
        }
        memcpy(&length, bytes + at, sizeof length);
        at += sizeof length;
        if (size - at < length) {
            return 0;
        }
        at += length;
    }
    return at;
}
