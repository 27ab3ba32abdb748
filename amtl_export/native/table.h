/* Tables of the ragged layout, apart from ONNX Runtime. */
#ifndef AMTL_TABLE_H
#define AMTL_TABLE_H

#include "sizes.h"

enum amtl_value { AMTL_FLOAT32, AMTL_FLOAT16, AMTL_INT8, AMTL_INT4 };
enum amtl_offset { AMTL_UINT16, AMTL_INT32, AMTL_INT64 };

/* A table of rows back to back, and the ids to look up in it. check.h refuses one that is not as this says; row offsets
 * alone are checked where a row is read.
 *
 * values   [count]             never NULL; numbers, or of int4 bytes of two numbers, 8 more than they are, the first one in the low
 *                              half. Offsets count bytes then, and the last number of a row of odd dim is not read
 * block_offsets [rows >> block_bits, + 1] where the rows of each block of 2^block_bits begin in `values`
 * row_offsets [rows + 1, columns] row r begins at block_offsets[r >> block_bits] + row_offsets[r, 0] and ends where row r + 1
 *                              begins; its numbers are multiplied by scale_base + scale_unit * row_offsets[r, columns - 1]
 * ids      [lookups] int64     any values, at any address; the last axis goes through the fields
 * sizes    [fields]            1 at least; an id outside [0, size) is taken as id 0
 * shifts   [fields]            row = id + shift; shift + size is at most rows
 * dim                          floats of a full row, 1..AMTL_MOST_DIM; past its own end a row is zero
 */
typedef struct amtl_table {
  const void *values, *row_offsets;
  const int64_t *block_offsets, *ids, *sizes, *shifts;
  int64_t count, rows, columns, lookups, fields, dim, block_bits;
  float scale_base, scale_unit;
  enum amtl_value value;
  enum amtl_offset offset;
} amtl_table;

/* What the rows of all fields, side by side, are multiplied by.
 *
 * weights  [ceil(outputs / 16), fields * dim, 16] float32: columns in panels of 16, the last one filled up with zeros;
 *          or of an int8 or int4 table [ceil(outputs / 16), fields * ceil(dim / 4), 16, 4] quantized, 0..255, four rows of a field
 *          together, which mean (quantized - 128) * scale of the column
 * scales   [outputs]       float32, or NULL if weights are float32
 * bias     [outputs]       float32
 * least                    results below it are raised to it: 0 for ReLU, -FLT_MAX for none
 */
typedef struct amtl_linear {
  const void *weights;
  const float *scales, *bias;
  int64_t outputs;
  float least;
} amtl_linear;

/* AMTL_PANEL: columns of weights that lie together. AMTL_BLOCK: the most examples that are multiplied together. AMTL_SINGLE:
 * the most of a call whose rows are asked for into the first-level cache.
 */
enum { AMTL_PANEL = 16, AMTL_BLOCK = 288, AMTL_SINGLE = 128 };

/* Examples that are multiplied together: what is packed of them fits the second-level cache. check.h knows that products of
 * a layer's sizes do not wrap around.
 */
static inline int64_t amtl_block_size(const amtl_table *t) {
  const int64_t packed = 1 << 20, least = 32, fitting = packed / (t->fields * t->dim * (int64_t)sizeof(float));
  return fitting < least ? least : fitting > AMTL_BLOCK ? AMTL_BLOCK : fitting;
}

enum amtl_fault { AMTL_FINE = 0, AMTL_BAD_OFFSETS = 1, AMTL_NO_MEMORY = 2 };

#endif
