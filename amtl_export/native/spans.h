/* Finding rows, for all loops, those of a GPU too. The types of values and places are constants wherever these are called,
 * so that every branch on them is gone when compiled.
 */
#ifndef AMTL_SPANS_H
#define AMTL_SPANS_H

#include <string.h>

#include "table.h"

#if defined(__CUDACC__)
#define INLINE static __device__ __forceinline__
#else
#define INLINE static inline __attribute__((always_inline, unused))
#endif

/* Where a row's numbers are, and how many. */
typedef struct span {
  int64_t first, n;
} span;

/* A place in `ids` and its field, moved on without a division. */
typedef struct cursor {
  int64_t at, field;
} cursor;

INLINE cursor cursor_at(const amtl_table *t, int64_t at) {
  cursor c = {at, at % t->fields};
  return c;
}

INLINE void move_on(const amtl_table *t, cursor *c) {
  c->at++;
  c->field = c->field + 1 == t->fields ? 0 : c->field + 1;
}

/* The table row of a lookup; outside [0, rows) where sizes and shifts do not fit the table. */
INLINE uint64_t row_of(const amtl_table *t, cursor c) {
  uint64_t id = (uint64_t)t->ids[c.at];
  /* One comparison for both ends: a negative id is a huge unsigned one. */
  id = id < (uint64_t)t->sizes[c.field] ? id : 0;
  return id + (uint64_t)t->shifts[c.field];
}

INLINE int64_t place_size(enum amtl_place type) { return type == AMTL_UINT16 ? 2 : type == AMTL_INT32 ? 4 : 8; }
INLINE int64_t value_size(enum amtl_value type) { return type == AMTL_FLOAT32 ? 4 : type == AMTL_FLOAT16 ? 2 : 1; }

INLINE int64_t place_at(const amtl_table *t, int64_t i, enum amtl_place type) {
  if (type == AMTL_UINT16) return ((const uint16_t *)t->places)[i];
  if (type == AMTL_INT32) return ((const int32_t *)t->places)[i];
  return ((const int64_t *)t->places)[i];
}

/* Sums may wrap around in a table that contradicts itself; is_sound refuses what comes of it. */
INLINE int64_t begin_of(const amtl_table *t, uint64_t row, enum amtl_place type) {
  uint64_t start = (uint64_t)t->starts[row >> t->block_bits];
  return (int64_t)(start + (uint64_t)place_at(t, (int64_t)row * t->columns, type));
}

INLINE span span_of(const amtl_table *t, uint64_t row, enum amtl_place type) {
  int64_t first = begin_of(t, row, type);
  span s = {first, (int64_t)((uint64_t)begin_of(t, row + 1, type) - (uint64_t)first)};
  return s;
}

INLINE float scale_of(const amtl_table *t, uint64_t row, enum amtl_place type) {
  return t->scale_base + t->scale_step * (float)place_at(t, ((int64_t)row + 1) * t->columns - 1, type);
}

/* Whether a row lies within the values and within dim. */
INLINE int is_sound(const amtl_table *t, span s) {
  return s.first >= 0 && s.n >= 0 && s.n <= t->dim && s.first <= t->count - s.n;
}

/* float16 to float32 by moving the exponent; no row holds infinities or NaN. */
INLINE float widened(uint16_t half) {
  uint32_t bits = (uint32_t)(half & 0x7fff) << 13;
  float size;
  memcpy(&size, &bits, sizeof size);
  size *= 0x1p112f;
  return half & 0x8000 ? -size : size;
}

/* A number as it is stored. */
typedef struct raw {
  float wide;
  int narrow;
} raw;

INLINE raw raw_at(const amtl_table *t, int64_t at, enum amtl_value type) {
  raw found = {0.0f, 0};
  if (type == AMTL_FLOAT32) found.wide = ((const float *)t->values)[at];
  else if (type == AMTL_FLOAT16) found.narrow = ((const uint16_t *)t->values)[at];
  else found.narrow = ((const int8_t *)t->values)[at];
  return found;
}

INLINE float number_of(raw r, enum amtl_value type) {
  return type == AMTL_FLOAT32 ? r.wide : type == AMTL_FLOAT16 ? widened((uint16_t)r.narrow) : (float)r.narrow;
}

INLINE float number(const amtl_table *t, int64_t at, enum amtl_value type) { return number_of(raw_at(t, at, type), type); }

/* loop(arguments.., value, place) with both types as constants. */
#define WITH_PLACE(t, loop, value, ...)                                          \
  ((t)->place == AMTL_UINT16  ? loop(__VA_ARGS__, value, AMTL_UINT16)            \
   : (t)->place == AMTL_INT32 ? loop(__VA_ARGS__, value, AMTL_INT32)             \
                               : loop(__VA_ARGS__, value, AMTL_INT64))
#define WITH_TYPES(t, loop, ...)                                                  \
  ((t)->value == AMTL_FLOAT32   ? WITH_PLACE(t, loop, AMTL_FLOAT32, __VA_ARGS__) \
   : (t)->value == AMTL_FLOAT16 ? WITH_PLACE(t, loop, AMTL_FLOAT16, __VA_ARGS__) \
                                : WITH_PLACE(t, loop, AMTL_INT8, __VA_ARGS__))

#endif
