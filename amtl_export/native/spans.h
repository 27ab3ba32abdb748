/* Finding rows, for all loops, those of a GPU too. The types of values and row offsets are constants wherever these are
 * called, so that every branch on them is gone when compiled.
 */
#ifndef AMTL_SPANS_H
#define AMTL_SPANS_H

#include <string.h>

#include "table.h"

#if defined(__CUDACC__)
#define AMTL_INLINE static __device__ __forceinline__
#else
#define AMTL_INLINE static inline __attribute__((always_inline, unused))
#endif

/* Which number of a table is a row's first, and how many it has. */
typedef struct amtl_span {
  int64_t first, n;
} amtl_span;

/* A position in `ids` and its field, moved on without a division. */
typedef struct amtl_cursor {
  int64_t at, field;
} amtl_cursor;

AMTL_INLINE amtl_cursor amtl_cursor_at(const amtl_table *t, int64_t at) {
  amtl_cursor c = {at, at % t->fields};
  return c;
}

AMTL_INLINE void amtl_move_on(const amtl_table *t, amtl_cursor *c) {
  c->at++;
  c->field = c->field + 1 == t->fields ? 0 : c->field + 1;
}

/* An id. A server may hand over the body of a request as it came: ids need not lie on multiples of their size. */
AMTL_INLINE uint64_t amtl_id_at(const amtl_table *t, int64_t at) {
#if defined(__CUDACC__)
  return (uint64_t)t->ids[at];
#else
  uint64_t id;
  memcpy(&id, (const char *)t->ids + (size_t)at * sizeof id, sizeof id);
  return id;
#endif
}

/* The table row of a lookup; on a GPU, where nobody checked sizes and shifts, it may be outside [0, rows). */
AMTL_INLINE uint64_t amtl_row_of(const amtl_table *t, amtl_cursor c) {
  uint64_t id = amtl_id_at(t, c.at);
  /* One comparison for both ends: a negative id is a huge unsigned one. */
  id = id < (uint64_t)t->sizes[c.field] ? id : 0;
  return id + (uint64_t)t->shifts[c.field];
}

AMTL_INLINE int64_t amtl_offset_size(enum amtl_offset type) { return type == AMTL_UINT16 ? 2 : type == AMTL_INT32 ? 4 : 8; }
/* Bytes of what `count` counts. */
AMTL_INLINE int64_t amtl_value_size(enum amtl_value type) { return type == AMTL_FLOAT32 ? 4 : type == AMTL_FLOAT16 ? 2 : 1; }

AMTL_INLINE int64_t amtl_offset_at(const amtl_table *t, int64_t i, enum amtl_offset type) {
  if (type == AMTL_UINT16) return ((const uint16_t *)t->row_offsets)[i];
  if (type == AMTL_INT32) return ((const int32_t *)t->row_offsets)[i];
  return ((const int64_t *)t->row_offsets)[i];
}

/* Sums may wrap around where row offsets are wrong; amtl_find_span refuses what comes of it. */
AMTL_INLINE int64_t amtl_begin_of(const amtl_table *t, uint64_t row, enum amtl_offset type) {
  uint64_t start = (uint64_t)t->block_offsets[row >> t->block_bits];
  return (int64_t)(start + (uint64_t)amtl_offset_at(t, (int64_t)row * t->columns, type));
}

/* In what `count` counts. */
AMTL_INLINE amtl_span amtl_span_of(const amtl_table *t, uint64_t row, enum amtl_offset type) {
  int64_t first = amtl_begin_of(t, row, type);
  amtl_span s = {first, (int64_t)((uint64_t)amtl_begin_of(t, row + 1, type) - (uint64_t)first)};
  return s;
}

AMTL_INLINE float amtl_scale_of(const amtl_table *t, uint64_t row, enum amtl_offset type) {
  return t->scale_base + t->scale_unit * (float)amtl_offset_at(t, ((int64_t)row + 1) * t->columns - 1, type);
}

/* Whether a row lies within the values and within `most`. */
AMTL_INLINE int amtl_in_bounds(const amtl_table *t, amtl_span s, int64_t most) {
  return s.first >= 0 && s.n >= 0 && s.n <= most && s.first <= t->count - s.n;
}

/* Finds a row; whether it lies within the values and within dim. Only then the span may be read. */
AMTL_INLINE int amtl_find_span(const amtl_table *t, uint64_t row, amtl_span *s, enum amtl_value value,
                               enum amtl_offset offset) {
  *s = amtl_span_of(t, row, offset);
  const int in_bounds = amtl_in_bounds(t, *s, value == AMTL_INT4 ? t->dim - t->dim / 2 : t->dim);
  if (value == AMTL_INT4 && in_bounds) s->first *= 2, s->n = 2 * s->n < t->dim ? 2 * s->n : t->dim;
  return in_bounds;
}

/* float16 to float32 by moving the exponent; no row holds infinities or NaN. */
AMTL_INLINE float amtl_half_to_float(uint16_t half) {
  uint32_t bits = (uint32_t)(half & 0x7fff) << 13;
  float size;
  memcpy(&size, &bits, sizeof size);
  size *= 0x1p112f;
  return half & 0x8000 ? -size : size;
}

/* A number as it is stored. */
typedef struct amtl_raw {
  float wide;
  int narrow;
} amtl_raw;

AMTL_INLINE amtl_raw amtl_raw_at(const amtl_table *t, int64_t at, enum amtl_value type) {
  amtl_raw number = {0.0f, 0};
  if (type == AMTL_FLOAT32) number.wide = ((const float *)t->values)[at];
  else if (type == AMTL_FLOAT16) number.narrow = ((const uint16_t *)t->values)[at];
  else if (type == AMTL_INT8) number.narrow = ((const int8_t *)t->values)[at];
  else number.narrow = (((const uint8_t *)t->values)[at / 2] >> at % 2 * 4 & 15) - 8;
  return number;
}

AMTL_INLINE float amtl_number_of(amtl_raw r, enum amtl_value type) {
  return type == AMTL_FLOAT32 ? r.wide : type == AMTL_FLOAT16 ? amtl_half_to_float((uint16_t)r.narrow) : (float)r.narrow;
}

AMTL_INLINE float amtl_number_at(const amtl_table *t, int64_t at, enum amtl_value type) {
  return amtl_number_of(amtl_raw_at(t, at, type), type);
}

/* loop(arguments.., value, offset) with both types as constants. */
#define AMTL_WITH_OFFSET(t, loop, value, ...)                                          \
  ((t)->offset == AMTL_UINT16  ? loop(__VA_ARGS__, value, AMTL_UINT16)            \
   : (t)->offset == AMTL_INT32 ? loop(__VA_ARGS__, value, AMTL_INT32)             \
                               : loop(__VA_ARGS__, value, AMTL_INT64))
#define AMTL_WITH_TYPES(t, loop, ...)                                                  \
  ((t)->value == AMTL_FLOAT32   ? AMTL_WITH_OFFSET(t, loop, AMTL_FLOAT32, __VA_ARGS__) \
   : (t)->value == AMTL_FLOAT16 ? AMTL_WITH_OFFSET(t, loop, AMTL_FLOAT16, __VA_ARGS__) \
   : (t)->value == AMTL_INT8    ? AMTL_WITH_OFFSET(t, loop, AMTL_INT8, __VA_ARGS__)    \
                                : AMTL_WITH_OFFSET(t, loop, AMTL_INT4, __VA_ARGS__))

#endif
