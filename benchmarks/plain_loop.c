/* The lookup that anyone would write over the ragged layout: guard, shift, copy, zeros. What the operator is held against. */
#include <stdint.h>
#include <string.h>

void plain_loop(const float *values, const int64_t *block_offsets, const uint16_t *row_offsets, int64_t block_bits, const int64_t *ids,
                const int64_t *sizes, const int64_t *shifts, int64_t fields, int64_t dim, int64_t lookups, float *out) {
  for (int64_t i = 0; i < lookups; i++) {
    int64_t field = i % fields, id = ids[i], row = (id < 0 || id >= sizes[field] ? 0 : id) + shifts[field];
    int64_t begin = block_offsets[row >> block_bits] + row_offsets[row], end = block_offsets[(row + 1) >> block_bits] + row_offsets[row + 1];
    size_t kept = (size_t)(end - begin);
    memcpy(out + i * dim, values + begin, kept * sizeof(float));
    memset(out + i * dim + kept, 0, ((size_t)dim - kept) * sizeof(float));
  }
}
