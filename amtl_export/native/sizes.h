/* Limits of what the operators take, each stated here alone, and products that cannot wrap around. */
#ifndef AMTL_SIZES_H
#define AMTL_SIZES_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/* AMTL_MOST_DIM: floats of a full row. With more, a sum of products of bytes could leave 32 bits; amtl_export/native says it to
 * Python. AMTL_MOST_INPUTS: of a layer of numbers, for the same reason. AMTL_MOST_RANK: dimensions of an input or an output.
 */
enum { AMTL_MOST_DIM = 1 << 15, AMTL_MOST_INPUTS = 1 << 15, AMTL_MOST_BLOCK_BITS = 62, AMTL_MOST_RANK = 8 };

static_assert(sizeof(size_t) == sizeof(int64_t), "sizes are checked as int64_t and used as size_t");

/* Whether the product of two sizes is one: neither is negative, and it fits. */
static inline int amtl_multiply(int64_t a, int64_t b, int64_t *out) {
  return a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, out);
}

#endif
