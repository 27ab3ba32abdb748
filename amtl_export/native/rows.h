/* Reading rows, for the loops of a processor. */
#ifndef AMTL_ROWS_H
#define AMTL_ROWS_H

#include "spans.h"

#if defined(__x86_64__) && AMTL_WIDE == 16
#include <immintrin.h>
#endif

/* Before a loop of at most `most` steps, as many as is known when compiled: without a jump. */
#if defined(__clang__)
#define AMTL_UNROLLED(most) _Pragma("clang loop unroll(full)")
#else
#define AMTL_PRAGMA(text) _Pragma(#text)
#define AMTL_UNROLLED(most) AMTL_PRAGMA(GCC unroll most)
#endif

/* Bytes of a cache line, and how many lines between a row's first and last are asked for whatever its length. */
enum { AMTL_LINE = 64, AMTL_MIDDLE_LINES = 2 };

enum { AMTL_LANE = 8, AMTL_NARROW_LANES = 8 };
typedef float amtl_lane __attribute__((vector_size(4 * AMTL_LANE), aligned(4), may_alias));
typedef int32_t amtl_lane_bits __attribute__((vector_size(4 * AMTL_LANE)));
typedef uint16_t amtl_lane_halves __attribute__((vector_size(2 * AMTL_LANE), aligned(2), may_alias));
typedef int8_t amtl_lane_bytes __attribute__((vector_size(AMTL_LANE), aligned(1), may_alias));
typedef int16_t amtl_lane_shorts __attribute__((vector_size(2 * AMTL_LANE)));

/* AVX-512 reads a quantized row of so many numbers at most at once, without a branch on its length, which no processor
 * could foretell. Sums of as many are a whole vector meanwhile.
 */
enum { AMTL_SHORT = 16 };

/* Into the first-level cache, or the second: that one waits for more lines at a time. */
enum amtl_cache { AMTL_FIRST_LEVEL, AMTL_SECOND_LEVEL };

AMTL_INLINE void amtl_prefetch(uintptr_t address, enum amtl_cache level) {
  if (level == AMTL_FIRST_LEVEL)
    __builtin_prefetch((const void *)address, 0, 3);
  else
    __builtin_prefetch((const void *)address, 0, 2);
}

AMTL_INLINE void amtl_prefetch_offset(const amtl_table *t, uint64_t row, enum amtl_offset type, enum amtl_cache level) {
  amtl_prefetch((uintptr_t)t->row_offsets + row * (uint64_t)(t->columns * amtl_offset_size(type)), level);
}

/* Of a row's first number, or past its last. */
AMTL_INLINE uintptr_t amtl_address_of(const amtl_table *t, int64_t at, enum amtl_value type) {
  return (uintptr_t)t->values + (uintptr_t)(type == AMTL_INT4 ? (at + 1) / 2 : at * amtl_value_size(type));
}

/* The lines of a row, found in bounds, after its first. Most rows take the first steps alone, without a branch that depends
 * on their length.
 */
AMTL_INLINE void amtl_prefetch_rest(const amtl_table *t, amtl_span s, enum amtl_value type, enum amtl_cache level) {
  const uintptr_t last = amtl_address_of(t, s.first + s.n, type) - 1;
  uintptr_t at = amtl_address_of(t, s.first, type) + AMTL_LINE;
  amtl_prefetch(last, level);
  AMTL_UNROLLED(4)
  for (int i = 0; i < AMTL_MIDDLE_LINES; i++, at += AMTL_LINE) amtl_prefetch(at < last ? at : last, level);
  for (; at < last; at += AMTL_LINE) amtl_prefetch(at, level);
}

/* The lines that a row will be written to; past the end of the output nothing happens. */
AMTL_INLINE void amtl_prefetch_written(const float *out, int64_t ahead, int64_t width) {
  const uintptr_t first = (uintptr_t)out + (uintptr_t)(ahead * width) * sizeof(float);
  for (uintptr_t i = 0; i < (uintptr_t)width * sizeof(float); i += AMTL_LINE)
    __builtin_prefetch((const void *)(first + i), 1);
}

AMTL_INLINE void amtl_load(amtl_lane *out, const amtl_table *t, int64_t at, enum amtl_value type) {
  if (type == AMTL_FLOAT32) {
    *out = *(const amtl_lane *)((const float *)t->values + at);
  } else if (type == AMTL_FLOAT16) {
    amtl_lane_bits bits =
        __builtin_convertvector(*(const amtl_lane_halves *)((const uint16_t *)t->values + at), amtl_lane_bits);
    amtl_lane size = (amtl_lane)((bits & 0x7fff) << 13) * 0x1p112f;
    *out = (amtl_lane)((amtl_lane_bits)size | (bits & 0x8000) << 16);
  } else if (type == AMTL_INT4) {
    const amtl_lane_bits shifts = {0, 4, 8, 12, 16, 20, 24, 28};
    const uint8_t *const from = (const uint8_t *)t->values + at / 2;
    uint32_t eight;
    memcpy(&eight, from, sizeof eight);
    if (at % 2) eight = eight >> 4 | (uint32_t)from[4] << 28; /* the end of a row of odd dim */
    *out = __builtin_convertvector(((((amtl_lane_bits){0} + (int32_t)eight) >> shifts) & 15) - 8, amtl_lane);
  } else {
    /* Step by step: gcc 12 converts a vector to one of four times its width number by number. */
    amtl_lane_shorts shorts =
        __builtin_convertvector(*(const amtl_lane_bytes *)((const int8_t *)t->values + at), amtl_lane_shorts);
    *out = __builtin_convertvector(__builtin_convertvector(shorts, amtl_lane_bits), amtl_lane);
  }
}

#if defined(__x86_64__) && AMTL_WIDE == 16
/* The first of sixteen numbers, of which `left` are there. */
AMTL_INLINE __mmask16 amtl_there(int64_t left) {
  return (__mmask16)((1u << (left < 0 ? 0 : left > 16 ? 16 : left)) - 1);
}

/* Sixteen quantized numbers of a row from number `i` on, a multiple of 16; zeros where it has fewer. Of what is not there
 * nothing is read, but its line may be waited for: with numbers of one byte that is seldom another one than the row's.
 */
AMTL_INLINE __m128i amtl_sixteen_there(const amtl_table *t, amtl_span s, int64_t i, enum amtl_value type) {
  const int64_t at = s.first + (i < s.n ? i : 0);
  const __mmask16 there = amtl_there(s.n - i);
  if (type == AMTL_INT8) return _mm_maskz_loadu_epi8(there, (const int8_t *)t->values + at);
  const __m128i half = _mm_set1_epi8(15),
                pairs = _mm_maskz_loadu_epi8(amtl_there((s.n - i + 1) / 2) & 255, (const uint8_t *)t->values + at / 2),
                numbers = _mm_unpacklo_epi8(_mm_and_si128(pairs, half), _mm_and_si128(_mm_srli_epi16(pairs, 4), half));
  return _mm_maskz_sub_epi8(there, numbers, _mm_set1_epi8(8));
}

/* Times a scale; +0 where the row has fewer. */
AMTL_INLINE __m512 amtl_scaled_there(const amtl_table *t, amtl_span s, int64_t i, float scale, enum amtl_value type) {
  const __m512 numbers = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(amtl_sixteen_there(t, s, i, type)));
  return _mm512_maskz_mul_ps(amtl_there(s.n - i), numbers, _mm512_set1_ps(scale));
}

/* `out` and `squares` have AMTL_SHORT numbers. */
AMTL_INLINE void amtl_add_short(float *restrict out, float *restrict squares, const amtl_table *t, amtl_span s, float scale,
                                enum amtl_value type) {
  const __m512 x = amtl_scaled_there(t, s, 0, scale, type);
  _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), x));
  if (squares != NULL) _mm512_storeu_ps(squares, _mm512_add_ps(_mm512_loadu_ps(squares), _mm512_mul_ps(x, x)));
}
#endif

/* The row's numbers times its scale, then zeros up to `width`. Zeros come first: writing them takes no branch that
 * depends on the row. The last whole lane ends where the row does and overlaps the one before: reading on past the end
 * would wait for lines that nobody asked for. In a narrow table of floats it is written again until there are as many as
 * a full row has: cheaper than a loop whose end no processor could foretell.
 */
AMTL_INLINE void amtl_write_row(float *restrict out, const amtl_table *t, amtl_span s, float scale, int64_t width,
                                enum amtl_value type) {
#if defined(__x86_64__) && AMTL_WIDE == 16
  if ((type == AMTL_INT8 || type == AMTL_INT4) && width <= AMTL_SHORT) {
    _mm512_mask_storeu_ps(out, amtl_there(width), amtl_scaled_there(t, s, 0, scale, type));
    return;
  }
#endif
  const amtl_lane zero = {0};
  amtl_lane x;
  int64_t i = 0;
  for (; i + AMTL_LANE <= width; i += AMTL_LANE) *(amtl_lane *)(out + i) = zero;
  for (; i < width; i++) out[i] = 0.0f;
  if (type == AMTL_FLOAT32 && s.n >= AMTL_LANE && width <= AMTL_NARROW_LANES * AMTL_LANE) {
    for (i = 0; i < width; i += AMTL_LANE) {
      const int64_t at = i < s.n - AMTL_LANE ? i : s.n - AMTL_LANE;
      amtl_load(&x, t, s.first + at, type);
      *(amtl_lane *)(out + at) = x * scale;
    }
  } else if (s.n >= AMTL_LANE) {
    for (i = 0; i + AMTL_LANE < s.n; i += AMTL_LANE) {
      amtl_load(&x, t, s.first + i, type);
      *(amtl_lane *)(out + i) = x * scale;
    }
    amtl_load(&x, t, s.first + s.n - AMTL_LANE, type);
    *(amtl_lane *)(out + s.n - AMTL_LANE) = x * scale;
  } else {
    for (i = 0; i < s.n; i++) out[i] = amtl_number_at(t, s.first + i, type) * scale;
  }
}

/* out += the row's numbers times its scale; and squares, if there are any, += the squares of these. Both have room for
 * AMTL_SHORT numbers where dim is not larger.
 */
AMTL_INLINE void amtl_add_row(float *restrict out, float *restrict squares, const amtl_table *t, amtl_span s, float scale,
                              enum amtl_value type) {
#if defined(__x86_64__) && AMTL_WIDE == 16
  if ((type == AMTL_INT8 || type == AMTL_INT4) && t->dim <= AMTL_SHORT) {
    amtl_add_short(out, squares, t, s, scale, type);
    return;
  }
#endif
  const amtl_lane_bits positions = {0, 1, 2, 3, 4, 5, 6, 7};
  int64_t i = 0;
  amtl_lane x;
  for (; i + AMTL_LANE <= s.n; i += AMTL_LANE) {
    amtl_load(&x, t, s.first + i, type);
    x *= scale;
    *(amtl_lane *)(out + i) += x;
    if (squares != NULL) *(amtl_lane *)(squares + i) += x * x;
  }
  if (i < s.n && s.n >= AMTL_LANE) { /* what is left, at the end of a lane whose first numbers were added already */
    amtl_load(&x, t, s.first + s.n - AMTL_LANE, type);
    x = (amtl_lane)((amtl_lane_bits)(x * scale) & (positions >= (int32_t)(AMTL_LANE - (s.n - i))));
    *(amtl_lane *)(out + s.n - AMTL_LANE) += x;
    if (squares != NULL) *(amtl_lane *)(squares + s.n - AMTL_LANE) += x * x;
  } else {
    for (; i < s.n; i++) {
      const float number = amtl_number_at(t, s.first + i, type) * scale;
      out[i] += number;
      if (squares != NULL) squares[i] += number * number;
    }
  }
}

#endif
