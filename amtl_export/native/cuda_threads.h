/* What one thread of a GPU does; apart from CUDA's own words, so that tests run it thread by thread on a processor.
 *
 * LANES threads share a row: thread `lane` takes every LANES-th of its numbers, so that the threads of a warp read and write
 * neighbouring ones. They go through ROWS rows at a time, step by step: all ids, all places, then numbers. A step's reads
 * have no branches between them and are on their way together. No thread waits for another. A GPU cannot refuse a table that
 * contradicts itself without stopping the stream: NaN says it. Tables have a row at least, and dim is below 2^31.
 */
#ifndef AMTL_CUDA_THREADS_H
#define AMTL_CUDA_THREADS_H

#include "spans.h"

#if defined(__CUDACC__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 4")
#endif

enum { LANES = 16, ROWS = 4 };

/* A row: `n` numbers from `first` on, times `scale`, then `rest`. */
typedef struct gpu_row {
  int64_t first;
  int n;
  float scale, rest;
} gpu_row;

INLINE gpu_row row_at(const amtl_table *t, uint64_t row, enum amtl_place place) {
  const uint32_t not_a_number = 0x7fc00000;
  const int inside = row < (uint64_t)t->rows;
  const uint64_t safe = inside ? row : 0;
  const span s = span_of(t, safe, place);
  const int sound = inside && is_sound(t, s);
  gpu_row found = {s.first, sound ? (int)s.n : 0, scale_of(t, safe, place), 0.0f};
  if (!sound) memcpy(&found.rest, &not_a_number, sizeof found.rest);
  return found;
}

INLINE raw raw_of(const amtl_table *t, gpu_row row, int i, enum amtl_value value) {
  raw found = {0.0f, 0};
  if (i < row.n) found = raw_at(t, row.first + i, value);
  return found;
}

INLINE float answer(gpu_row row, int i, raw r, enum amtl_value value) {
  return i < row.n ? number_of(r, value) * row.scale : row.rest;
}

/* Lookups [begin + group * ROWS, .. + ROWS), as far as they are before `end`. */
INLINE void gather_thread(const amtl_table *t, float *out, int64_t begin, int64_t end, int64_t group, int lane,
                          enum amtl_value value, enum amtl_place place) {
  const int64_t first = begin + group * ROWS;
  const int dim = (int)t->dim;
  uint64_t at[ROWS];
  gpu_row rows[ROWS];
  if (first >= end) return;
  cursor next = cursor_at(t, first);
UNROLL
  for (int r = 0; r < ROWS; r++) { /* past the end, the last lookup again */
    at[r] = row_of(t, next);
    if (first + r + 1 < end) move_on(t, &next);
  }
UNROLL
  for (int r = 0; r < ROWS; r++) rows[r] = row_at(t, at[r], place);
  for (int i = lane; i < dim; i += LANES) {
    raw found[ROWS];
UNROLL
    for (int r = 0; r < ROWS; r++) found[r] = raw_of(t, rows[r], i, value);
UNROLL
    for (int r = 0; r < ROWS; r++)
      if (first + r < end) out[(first + r) * dim + i] = answer(rows[r], i, found[r], value);
  }
}

/* Example begin + group of `length` ids of one field: the sum of their rows. */
INLINE void sum_thread(const amtl_table *t, int64_t length, float *out, int64_t begin, int64_t end, int64_t group, int lane,
                       enum amtl_value value, enum amtl_place place) {
  const int64_t example = begin + group;
  const int dim = (int)t->dim;
  if (example >= end) return;
  for (int from = lane; from < dim; from += ROWS * LANES) {
    float total[ROWS] = {0.0f};
    for (int64_t j = 0; j < length; j++) {
      const cursor at = {example * length + j, 0};
      const gpu_row row = row_at(t, row_of(t, at), place);
      raw found[ROWS];
UNROLL
      for (int k = 0; k < ROWS; k++) found[k] = raw_of(t, row, from + k * LANES, value);
UNROLL
      for (int k = 0; k < ROWS; k++) total[k] += answer(row, from + k * LANES, found[k], value);
    }
UNROLL
    for (int k = 0; k < ROWS; k++)
      if (from + k * LANES < dim) out[example * dim + from + k * LANES] = total[k];
  }
}

#endif
