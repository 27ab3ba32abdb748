/* A linear layer of numbers with its weights in int8, apart from ONNX Runtime. */
#ifndef AMTL_DENSE_H
#define AMTL_DENSE_H

#include "table.h"

/* Rows of numbers, each quantized by its own largest one, times a matrix of int8. check.h refuses a layer that is not as this
 * says. None of the inputs needs to lie on a multiple of anything.
 *
 * x        [rows, inputs]  float32
 * weights  [ceil(outputs / 16), ceil(inputs / 4), 16, 4] int8: columns in panels of 16, four rows together; zeros fill up
 *                          both. Only where none is beyond AMTL_MOST_WEIGHT do AVX2 and AVX-512 without VNNI multiply exactly:
 *                          they add two products in 16 bits
 * scales   [outputs]       float32, of the columns
 * offsets  [outputs]       int32, added to the sums of a column
 * bias     [outputs]       float32
 * x0       [rows, inputs]  float32, or NULL; with it inputs are outputs, and the results x0 * layer + x
 * zero                     0 or 128, added to quantized numbers. With 0 negative ones become 0, as a ReLU does to them
 * least                    results of the layer below it are raised to it: 0 for ReLU, -FLT_MAX for none
 */
typedef struct amtl_dense {
  const float *x, *scales, *bias, *x0;
  const int32_t *offsets;
  const int8_t *weights;
  int64_t rows, inputs, outputs, zero;
  float least;
} amtl_dense;

/* AMTL_MOST_WEIGHT: 2 * 255 * 64 is within 16 bits. AMTL_QUANTIZED_LINE: a quantized row takes a multiple of as many bytes.
 * AMTL_DENSE_PACKED: bytes of quantized rows that stay in the second-level cache while all weights are read.
 * AMTL_DENSE_SHARE: products of one thread, some tens of microseconds.
 */
enum { AMTL_MOST_WEIGHT = 64, AMTL_QUANTIZED_LINE = 16, AMTL_DENSE_PACKED = 1 << 18, AMTL_DENSE_SHARE = 1 << 24 };

/* Bytes of a quantized row. */
static inline int64_t amtl_dense_stride(const amtl_dense *layer) {
  return (layer->inputs + AMTL_QUANTIZED_LINE - 1) / AMTL_QUANTIZED_LINE * AMTL_QUANTIZED_LINE;
}

/* Rows that are quantized and multiplied together. */
static inline int64_t amtl_dense_block(const amtl_dense *layer) {
  const int64_t least = 24, fitting = AMTL_DENSE_PACKED / amtl_dense_stride(layer);
  return fitting < least ? least : fitting > AMTL_BLOCK ? AMTL_BLOCK : fitting / least * least;
}

/* Rows of one thread. */
static inline int64_t amtl_dense_share(const amtl_dense *layer) {
  const int64_t step = 24, rows = AMTL_DENSE_SHARE / layer->inputs / layer->outputs;
  return (rows / step + 1) * step;
}

/* Scratch memory for as many rows. */
static inline size_t amtl_dense_bytes(const amtl_dense *layer, int64_t rows) {
  const int64_t block = amtl_dense_block(layer), most = rows < block ? rows : block;
  return (size_t)most * ((size_t)amtl_dense_stride(layer) + sizeof(float));
}

#endif
