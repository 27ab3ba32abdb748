/* What one thread of a GPU does; apart from CUDA's own words, so that tests run it thread by thread on a processor.
 *
 * AMTL_LANES threads share a row: thread `lane` takes every AMTL_LANES-th of its numbers, so that the threads of a warp
 * read and write neighbouring ones. They go through AMTL_ROWS rows at a time, step by step: all ids, all offsets, then
 * numbers. A step's reads have no branches between them and are on their way together. No thread waits for another. A GPU
 * cannot refuse a table that contradicts itself without stopping the stream: NaN says it. Tables have a row at least, and
 * dim is below 2^31.
 */
#ifndef AMTL_CUDA_THREADS_H
#define AMTL_CUDA_THREADS_H

#include "spans.h"

#if defined(__CUDACC__)
#define AMTL_UNROLL _Pragma("unroll")
#else
#define AMTL_UNROLL _Pragma("GCC unroll 4")
#endif

enum { AMTL_LANES = 16, AMTL_ROWS = 4 };

/* A row: `n` numbers from `first` on, times `scale`, then `rest`. */
typedef struct amtl_gpu_row {
  int64_t first;
  int n;
  float scale, rest;
} amtl_gpu_row;

AMTL_INLINE amtl_gpu_row amtl_row_at(const amtl_table *t, uint64_t row, enum amtl_value value, enum amtl_offset offset) {
  const uint32_t not_a_number = 0x7fc00000;
  const int inside = row < (uint64_t)t->rows;
  const uint64_t safe = inside ? row : 0;
  amtl_span s;
  const int in_bounds = amtl_find_span(t, safe, &s, value, offset) && inside;
  amtl_gpu_row result = {s.first, in_bounds ? (int)s.n : 0, amtl_scale_of(t, safe, offset), 0.0f};
  if (!in_bounds) memcpy(&result.rest, &not_a_number, sizeof result.rest);
  return result;
}

AMTL_INLINE amtl_raw amtl_raw_of(const amtl_table *t, amtl_gpu_row row, int i, enum amtl_value value) {
  amtl_raw result = {0.0f, 0};
  if (i < row.n) result = amtl_raw_at(t, row.first + i, value);
  return result;
}

AMTL_INLINE float amtl_gpu_number(amtl_gpu_row row, int i, amtl_raw r, enum amtl_value value) {
  return i < row.n ? amtl_number_of(r, value) * row.scale : row.rest;
}

/* Lookups [begin + group * AMTL_ROWS, .. + AMTL_ROWS), as far as they are before `end`. */
AMTL_INLINE void amtl_gather_thread(const amtl_table *t, float *out, int64_t begin, int64_t end, int64_t group, int lane,
                                    enum amtl_value value, enum amtl_offset offset) {
  const int64_t first = begin + group * AMTL_ROWS;
  const int dim = (int)t->dim;
  uint64_t at[AMTL_ROWS];
  amtl_gpu_row rows[AMTL_ROWS];
  if (first >= end) return;
  amtl_cursor next = amtl_cursor_at(t, first);
AMTL_UNROLL
  for (int r = 0; r < AMTL_ROWS; r++) { /* past the end, the last lookup again */
    at[r] = amtl_row_of(t, next);
    if (first + r + 1 < end) amtl_move_on(t, &next);
  }
AMTL_UNROLL
  for (int r = 0; r < AMTL_ROWS; r++) rows[r] = amtl_row_at(t, at[r], value, offset);
  for (int i = lane; i < dim; i += AMTL_LANES) {
    amtl_raw numbers[AMTL_ROWS];
AMTL_UNROLL
    for (int r = 0; r < AMTL_ROWS; r++) numbers[r] = amtl_raw_of(t, rows[r], i, value);
AMTL_UNROLL
    for (int r = 0; r < AMTL_ROWS; r++)
      if (first + r < end) out[(first + r) * dim + i] = amtl_gpu_number(rows[r], i, numbers[r], value);
  }
}

/* Example begin + group of `length` ids of one field: the sum of their rows. */
AMTL_INLINE void amtl_sum_thread(const amtl_table *t, int64_t length, float *out, int64_t begin, int64_t end, int64_t group,
                                 int lane, enum amtl_value value, enum amtl_offset offset) {
  const int64_t example = begin + group;
  const int dim = (int)t->dim;
  if (example >= end) return;
  for (int from = lane; from < dim; from += AMTL_ROWS * AMTL_LANES) {
    float total[AMTL_ROWS] = {0.0f};
    for (int64_t j = 0; j < length; j++) {
      const amtl_cursor at = {example * length + j, 0};
      const amtl_gpu_row row = amtl_row_at(t, amtl_row_of(t, at), value, offset);
      amtl_raw numbers[AMTL_ROWS];
AMTL_UNROLL
      for (int k = 0; k < AMTL_ROWS; k++) numbers[k] = amtl_raw_of(t, row, from + k * AMTL_LANES, value);
AMTL_UNROLL
      for (int k = 0; k < AMTL_ROWS; k++) total[k] += amtl_gpu_number(row, from + k * AMTL_LANES, numbers[k], value);
    }
AMTL_UNROLL
    for (int k = 0; k < AMTL_ROWS; k++)
      if (from + k * AMTL_LANES < dim) out[example * dim + from + k * AMTL_LANES] = total[k];
  }
}

#endif
