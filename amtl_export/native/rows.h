/* Reading rows, for the loops of a processor. */
#ifndef AMTL_ROWS_H
#define AMTL_ROWS_H

#include "spans.h"

/* Before a loop of at most `most` steps, as many as is known when compiled: without a jump. */
#if defined(__clang__)
#define UNROLLED(most) _Pragma("clang loop unroll(full)")
#else
#define PRAGMA(text) _Pragma(#text)
#define UNROLLED(most) PRAGMA(GCC unroll most)
#endif

/* Bytes of a cache line, and how many lines between a row's first and last are asked for whatever its length. */
enum { LINE = 64, MIDDLE_LINES = 2 };

enum { LANE = 8, NARROW_LANES = 8 };
typedef float lane __attribute__((vector_size(4 * LANE), aligned(4), may_alias));
typedef int32_t lane_bits __attribute__((vector_size(4 * LANE)));
typedef uint16_t lane_halves __attribute__((vector_size(2 * LANE), aligned(2), may_alias));
typedef int8_t lane_bytes __attribute__((vector_size(LANE), aligned(1), may_alias));
typedef int16_t lane_shorts __attribute__((vector_size(2 * LANE)));

/* Into the first-level cache, or the second: that one waits for more lines at a time. */
enum cache { FIRST_LEVEL, SECOND_LEVEL };

INLINE void prefetch(uintptr_t address, enum cache level) {
  if (level == FIRST_LEVEL)
    __builtin_prefetch((const void *)address, 0, 3);
  else
    __builtin_prefetch((const void *)address, 0, 2);
}

INLINE void prefetch_place(const amtl_table *t, uint64_t row, enum amtl_place type, enum cache level) {
  prefetch((uintptr_t)t->places + row * (uint64_t)(t->columns * place_size(type)), level);
}

INLINE uintptr_t address_of(const amtl_table *t, int64_t at, enum amtl_value type) {
  return (uintptr_t)t->values + (uintptr_t)(at * value_size(type));
}

/* The lines of a sound row after its first. Most rows take the first steps alone, without a branch that depends on their
 * length.
 */
INLINE void prefetch_rest(const amtl_table *t, span s, enum amtl_value type, enum cache level) {
  const uintptr_t last = address_of(t, s.first + s.n, type) - 1;
  uintptr_t at = address_of(t, s.first, type) + LINE;
  prefetch(last, level);
  UNROLLED(4)
  for (int i = 0; i < MIDDLE_LINES; i++, at += LINE) prefetch(at < last ? at : last, level);
  for (; at < last; at += LINE) prefetch(at, level);
}

/* The lines that a row will be written to; past the end of the output nothing happens. */
INLINE void prefetch_written(const float *out, int64_t ahead, int64_t width) {
  const uintptr_t first = (uintptr_t)out + (uintptr_t)(ahead * width) * sizeof(float);
  for (uintptr_t i = 0; i < (uintptr_t)width * sizeof(float); i += LINE) __builtin_prefetch((const void *)(first + i), 1);
}

INLINE void load(lane *out, const amtl_table *t, int64_t at, enum amtl_value type) {
  if (type == AMTL_FLOAT32) {
    *out = *(const lane *)((const float *)t->values + at);
  } else if (type == AMTL_FLOAT16) {
    lane_bits bits = __builtin_convertvector(*(const lane_halves *)((const uint16_t *)t->values + at), lane_bits);
    lane size = (lane)((bits & 0x7fff) << 13) * 0x1p112f;
    *out = (lane)((lane_bits)size | (bits & 0x8000) << 16);
  } else {
    /* Step by step: gcc 12 converts a vector to one of four times its width number by number. */
    lane_shorts shorts = __builtin_convertvector(*(const lane_bytes *)((const int8_t *)t->values + at), lane_shorts);
    *out = __builtin_convertvector(__builtin_convertvector(shorts, lane_bits), lane);
  }
}

/* The row's numbers times its scale, then zeros up to `width`. Zeros come first: writing them takes no branch that
 * depends on the row. The last whole lane ends where the row does and overlaps the one before: reading on past the end
 * would wait for lines that nobody asked for. In a narrow table of floats it is written again until there are as many as
 * a full row has: cheaper than a loop whose end no processor could foretell.
 */
INLINE void write_row(float *restrict out, const amtl_table *t, span s, float scale, int64_t width,
                      enum amtl_value type) {
  const lane zero = {0};
  lane x;
  int64_t i = 0;
  for (; i + LANE <= width; i += LANE) *(lane *)(out + i) = zero;
  for (; i < width; i++) out[i] = 0.0f;
  if (type == AMTL_FLOAT32 && s.n >= LANE && width <= NARROW_LANES * LANE) {
    for (i = 0; i < width; i += LANE) {
      const int64_t at = i < s.n - LANE ? i : s.n - LANE;
      load(&x, t, s.first + at, type);
      *(lane *)(out + at) = x * scale;
    }
  } else if (s.n >= LANE) {
    for (i = 0; i + LANE < s.n; i += LANE) {
      load(&x, t, s.first + i, type);
      *(lane *)(out + i) = x * scale;
    }
    load(&x, t, s.first + s.n - LANE, type);
    *(lane *)(out + s.n - LANE) = x * scale;
  } else {
    for (i = 0; i < s.n; i++) out[i] = number(t, s.first + i, type) * scale;
  }
}

/* out += the row's numbers times its scale. */
INLINE void add_row(float *restrict out, const amtl_table *t, span s, float scale, enum amtl_value type) {
  const lane_bits places = {0, 1, 2, 3, 4, 5, 6, 7};
  int64_t i = 0;
  lane x;
  for (; i + LANE <= s.n; i += LANE) {
    load(&x, t, s.first + i, type);
    *(lane *)(out + i) += x * scale;
  }
  if (i < s.n && s.n >= LANE) { /* what is left, at the end of a lane whose first numbers were added already */
    load(&x, t, s.first + s.n - LANE, type);
    *(lane *)(out + s.n - LANE) += (lane)((lane_bits)(x * scale) & (places >= (int32_t)(LANE - (s.n - i))));
  } else {
    for (; i < s.n; i++) out[i] += number(t, s.first + i, type) * scale;
  }
}

#endif
