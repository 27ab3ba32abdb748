/* Quantizing rows of numbers and multiplying them by weights of int8, compiled with kernels.h for each instruction set.
 *
 * A block of rows is quantized once. Then, for one strip of weight columns after the other, groups of AMTL_TILE_ROWS are
 * multiplied in registers over all inputs, scaled and written. Sums are of whole numbers, and every operation on floats is
 * rounded on its own, in one order: results are the same, bit for bit, for every instruction set and whatever other rows there are.
 */
#ifndef AMTL_DENSE_LOOPS_H
#define AMTL_DENSE_LOOPS_H

#include <math.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "dense.h"
#include "layer.h"

/* AMTL_PER_LINE: vectors of numbers whose bytes are an AMTL_QUANTIZED_LINE. */
enum { AMTL_PER_LINE = AMTL_QUANTIZED_LINE / AMTL_WIDE };

/* At any address. */
typedef float amtl_any_wide __attribute__((vector_size(4 * AMTL_WIDE), aligned(1), may_alias));
typedef uint32_t amtl_wide_sums __attribute__((vector_size(4 * AMTL_WIDE), aligned(4), may_alias)); /* they wrap around */
typedef uint32_t amtl_any_sums __attribute__((vector_size(4 * AMTL_WIDE), aligned(1), may_alias));

/* A product that is rounded before anything is added to it: the compiler cannot see through this. */
#if defined(__x86_64__)
#define AMTL_ROUNDED(product) __asm__("" : "+v"(product))
#elif defined(__aarch64__)
#define AMTL_ROUNDED(product) __asm__("" : "+w"(product))
#else
#define AMTL_ROUNDED(product) __asm__("" : "+m"(product))
#endif

/* What is left of a row from `k` on, in a line of zeros. */
AMTL_INLINE void amtl_copy_rest(float *line, const float *x, int64_t k, int64_t inputs) {
#if defined(__x86_64__) && AMTL_WIDE == 16
  AMTL_UNROLLED(2)
  for (int64_t i = 0; i < AMTL_QUANTIZED_LINE; i += AMTL_WIDE)
    _mm512_storeu_ps(line + i, _mm512_maskz_loadu_ps(amtl_there(inputs - k - i), x + k + i));
#else
  memset(line, 0, AMTL_QUANTIZED_LINE * sizeof *line);
  memcpy(line, x + k, (size_t)(inputs - k) * sizeof *line);
#endif
}

/* most = x > most ? x : most, which leaves `most` where either is NaN. */
AMTL_INLINE void amtl_raise(amtl_wide *most, const amtl_wide *x) {
#if defined(__x86_64__) && AMTL_WIDE == 16
  *most = (amtl_wide)_mm512_max_ps((__m512)*x, (__m512)*most);
#elif defined(__x86_64__) && AMTL_WIDE == 8
  *most = (amtl_wide)_mm256_max_ps((__m256)*x, (__m256)*most);
#elif defined(__x86_64__)
  *most = (amtl_wide)_mm_max_ps((__m128)*x, (__m128)*most);
#else
  const amtl_wide_bits larger = *x > *most;
  *most = (amtl_wide)((larger & (amtl_wide_bits)*x) | (~larger & (amtl_wide_bits)*most));
#endif
}

/* A line of a row: its largest sizes and its sums, number by number. */
AMTL_INLINE void amtl_measure(amtl_wide *most, amtl_wide *sums, const float *line, amtl_wide_bits kept) {
  AMTL_UNROLLED(8)
  for (int v = 0; v < AMTL_PER_LINE; v++) {
    const amtl_wide x = *(const amtl_any_wide *)(line + v * AMTL_WIDE), size = (amtl_wide)((amtl_wide_bits)x & kept);
    amtl_raise(&most[v], &size);
    sums[v] += x;
  }
}

/* The scale of a row: so that its largest number becomes `levels`. NaN where the row's sum is not finite. Lines are as long
 * for every instruction set, so that sums are the same.
 */
AMTL_INLINE float amtl_row_scale(const amtl_dense *layer, const float *x, float *scale) {
  const float levels = layer->zero == 0 ? 255.0f : 127.0f, smallest = 0x1p-100f;
  const amtl_wide_bits kept = (amtl_wide_bits){0} + (layer->zero == 0 ? -1 : INT32_MAX); /* without the sign */
  amtl_wide most[AMTL_PER_LINE] = {0}, sum[AMTL_PER_LINE] = {0};
  float line[AMTL_QUANTIZED_LINE], rest[AMTL_QUANTIZED_LINE];
  int64_t k = 0;
  for (; k + AMTL_QUANTIZED_LINE <= layer->inputs; k += AMTL_QUANTIZED_LINE) amtl_measure(most, sum, x + k, kept);
  if (k < layer->inputs) {
    amtl_copy_rest(rest, x, k, layer->inputs);
    amtl_measure(most, sum, rest, kept);
  }
  AMTL_UNROLLED(4)
  for (int half = AMTL_PER_LINE / 2; half > 0; half /= 2)
    AMTL_UNROLLED(4)
    for (int v = 0; v < half; v++) amtl_raise(&most[v], &most[v + half]), sum[v] += sum[v + half];
  memcpy(line, most, sizeof *most), memcpy(rest, sum, sizeof *sum);
  AMTL_UNROLLED(4)
  for (int half = AMTL_WIDE / 2; half > 0; half /= 2)
    AMTL_UNROLLED(8)
    for (int i = 0; i < half; i++) {
      line[i] = line[i + half] > line[i] ? line[i + half] : line[i];
      rest[i] += rest[i + half];
    }
  const float fitting = line[0] * (1.0f / levels);
  *scale = fitting > smallest ? fitting : smallest;
  return rest[0] - rest[0] == 0.0f ? *scale : NAN;
}

/* x / scale, rounded as a division is, by the correctly rounded 1 / scale (Markstein): the second step begins within a
 * unit of the last place. A division takes several times as long. Where results are below 1/2 they may differ in their last
 * place, where the scale is infinite altogether; neither matters here.
 */
AMTL_INLINE void amtl_divide(amtl_wide *x, float scale, float inverse) {
#if defined(__x86_64__) && AMTL_WIDE == 16
  const __m512 s = _mm512_set1_ps(scale), by = _mm512_set1_ps(inverse), all = (__m512)*x;
  __m512 q = _mm512_mul_ps(all, by);
  q = _mm512_fmadd_ps(_mm512_fnmadd_ps(q, s, all), by, q);
  *x = (amtl_wide)_mm512_fmadd_ps(_mm512_fnmadd_ps(q, s, all), by, q);
#elif defined(__x86_64__) && AMTL_WIDE == 8
  const __m256 s = _mm256_set1_ps(scale), by = _mm256_set1_ps(inverse), all = (__m256)*x;
  __m256 q = _mm256_mul_ps(all, by);
  q = _mm256_fmadd_ps(_mm256_fnmadd_ps(q, s, all), by, q);
  *x = (amtl_wide)_mm256_fmadd_ps(_mm256_fnmadd_ps(q, s, all), by, q);
#else
  *x /= scale, (void)inverse;
#endif
}

/* The low bytes of sixteen numbers. */
AMTL_INLINE void amtl_put_bytes(uint8_t *out, const amtl_wide *numbers) {
#if defined(__x86_64__) && AMTL_WIDE == 16
  _mm_storeu_si128((__m128i_u *)out, _mm512_cvtepi32_epi8((__m512i)numbers[0]));
#elif defined(__x86_64__) && AMTL_WIDE == 8
  const __m256i low = _mm256_set1_epi32(255), first = _mm256_and_si256((__m256i)numbers[0], low),
                last = _mm256_and_si256((__m256i)numbers[1], low);
  const __m256i shorts = _mm256_permute4x64_epi64(_mm256_packus_epi32(first, last), 0xd8);
  _mm_storeu_si128((__m128i_u *)out,
                   _mm_packus_epi16(_mm256_castsi256_si128(shorts), _mm256_extracti128_si256(shorts, 1)));
#elif defined(__x86_64__)
  const __m128i low = _mm_set1_epi32(255);
  const __m128i first = _mm_packs_epi32(_mm_and_si128((__m128i)numbers[0], low), _mm_and_si128((__m128i)numbers[1], low)),
                last = _mm_packs_epi32(_mm_and_si128((__m128i)numbers[2], low), _mm_and_si128((__m128i)numbers[3], low));
  _mm_storeu_si128((__m128i_u *)out, _mm_packus_epi16(first, last));
#else
  uint32_t bits[AMTL_PANEL];
  memcpy(bits, numbers, sizeof bits);
  for (int i = 0; i < AMTL_PANEL; i++) out[i] = (uint8_t)bits[i];
#endif
}

/* Sixteen numbers, quantized. Rounding is what the sum with a number of 24 bits does; its low byte is what is wanted: it lies
 * within 0..255, as no number of the row is larger than `levels` times the scale by more than roundings. (Where the scale
 * is NaN, it is any.)
 */
AMTL_INLINE void amtl_quantize_sixteen(uint8_t *out, const float *x, float least, float scale, float inverse, float rounding) {
  amtl_wide numbers[AMTL_PER_PANEL];
  AMTL_UNROLLED(4)
  for (int v = 0; v < AMTL_PER_PANEL; v++) {
    const amtl_wide all = *(const amtl_any_wide *)(x + v * AMTL_WIDE);
    numbers[v] = least - (amtl_wide){0};
    amtl_raise(&numbers[v], &all);
    amtl_divide(&numbers[v], scale, inverse);
    numbers[v] += rounding;
  }
  amtl_put_bytes(out, numbers);
}

AMTL_INLINE void amtl_quantize_row(const amtl_dense *layer, const float *x, float scale, uint8_t *out) {
  const float rounding = 0x1.8p23f + (float)layer->zero, inverse = 1.0f / scale, least = layer->zero == 0 ? 0.0f : -INFINITY;
  int64_t k = 0;
  for (; k + AMTL_PANEL <= layer->inputs; k += AMTL_PANEL)
    amtl_quantize_sixteen(out + k, x + k, least, scale, inverse, rounding);
  if (k == layer->inputs) return;
  float rest[AMTL_QUANTIZED_LINE];
  amtl_copy_rest(rest, x, k, layer->inputs);
  amtl_quantize_sixteen(out + k, rest, least, scale, inverse, rounding);
}

/* A strip of weight columns. */
typedef struct amtl_columns {
  const char *weights;
  int64_t stride, quads, width; /* stride: bytes of a panel */
  uint32_t offsets[AMTL_STRIP];
  float scales[AMTL_STRIP], bias[AMTL_STRIP], least;
} amtl_columns;

/* Quantized rows, and the strip of their results. */
typedef struct amtl_quantized_rows {
  const uint8_t *numbers;
  const float *scales;
  int64_t stride, outputs;
  float *out;
  const float *x, *x0; /* x0: NULL but in a cross */
} amtl_quantized_rows;

/* sums + four numbers * four weights of each column; unless an instruction does it, `quad` has pairs in 16 bits. */
AMTL_INLINE void amtl_add_quad(amtl_wide_sums *sums, int32_t quad, const amtl_wide_bits *weights) {
#if defined(AMTL_HAS_VNNI)
  *sums = (amtl_wide_sums)_mm512_dpbusd_epi32((__m512i)*sums, _mm512_set1_epi32(quad), (__m512i)*weights);
#elif defined(__x86_64__) && AMTL_WIDE == 16
  const __m512i pairs = _mm512_maddubs_epi16(_mm512_set1_epi32(quad), (__m512i)*weights);
  *sums += (amtl_wide_sums)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif defined(__x86_64__) && AMTL_WIDE == 8
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi32(quad), (__m256i)*weights);
  *sums += (amtl_wide_sums)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(__x86_64__)
  const __m128i even = _mm_set1_epi32(quad & 0xff00ff), odd = _mm_set1_epi32(quad >> 8 & 0xff00ff), w = (__m128i)*weights;
  *sums += (amtl_wide_sums)_mm_madd_epi16(even, _mm_srai_epi16(_mm_slli_epi16(w, 8), 8));
  *sums += (amtl_wide_sums)_mm_madd_epi16(odd, _mm_srai_epi16(w, 8));
#else
  AMTL_UNROLLED(4)
  for (int c = 0; c < 4; c++) {
    const amtl_wide_bits top = (amtl_wide_bits)((amtl_wide_sums)*weights << (24 - 8 * c));
    *sums += (amtl_wide_sums)((top >> 24) * (quad >> 8 * c & 255));
  }
#endif
}

/* Quads [from, from + 1) of all rows and columns of a tile. */
AMTL_INLINE void amtl_add_quads(amtl_wide_sums sums[AMTL_TILE_ROWS][AMTL_TILE_PANELS * AMTL_PER_PANEL], const amtl_columns *c,
                                const amtl_quantized_rows *r, int64_t at, const int members, const int panels) {
  amtl_wide_bits weights[AMTL_TILE_PANELS * AMTL_PER_PANEL];
  const char *const from = c->weights + at * 4 * AMTL_PANEL;
  AMTL_UNROLLED(16)
  for (int v = 0; v < panels * AMTL_PER_PANEL; v++)
    weights[v] = *(const amtl_wide_bytes *)(from + (v / AMTL_PER_PANEL) * c->stride +
                                            (v % AMTL_PER_PANEL) * (int)sizeof(amtl_wide));
  AMTL_UNROLLED(8)
  for (int m = 0; m < members; m++) {
    int32_t quad;
    memcpy(&quad, r->numbers + m * r->stride + at * 4, sizeof quad);
    AMTL_UNROLLED(16)
    for (int v = 0; v < panels * AMTL_PER_PANEL; v++) amtl_add_quad(&sums[m][v], quad, &weights[v]);
  }
}

/* Sums of a vector of columns to results; `x` and `x0` are that vector's, or x0 is NULL. */
AMTL_INLINE void amtl_scale_sums(float *out, const uint32_t *sums, const amtl_columns *c, int64_t at, float scale,
                                 const float *x, const float *x0) {
  const amtl_wide least = c->least - (amtl_wide){0}; /* a sum would lose the sign of -0 */
  amtl_wide y = __builtin_convertvector(*(const amtl_wide_bits *)(sums + at), amtl_wide);
  y = y * scale * *(const amtl_wide *)(c->scales + at);
  AMTL_ROUNDED(y);
  y += *(const amtl_wide *)(c->bias + at);
  amtl_raise(&y, &least); /* NaN stays NaN */
  if (x0 != NULL) {
    y *= *(const amtl_any_wide *)x0;
    AMTL_ROUNDED(y);
    y += *(const amtl_any_wide *)x;
  }
  *(amtl_wide *)out = y;
}

/* A row's results: whole vectors, then the columns that are left. */
AMTL_INLINE void amtl_finish_row(const uint32_t *sums, const amtl_columns *c, const amtl_quantized_rows *r, int64_t m) {
  const float *const x0 = r->x0 == NULL ? NULL : r->x0 + m * r->outputs, *const x = r->x + m * r->outputs;
  float *const out = r->out + m * r->outputs, scale = r->scales[m];
  int64_t at = 0;
  for (; at + AMTL_WIDE <= c->width; at += AMTL_WIDE)
    amtl_scale_sums(out + at, sums, c, at, scale, x + at, x0 == NULL ? NULL : x0 + at);
  const size_t left = (size_t)(c->width - at) * sizeof(float);
  if (left == 0) return;
  float y[AMTL_WIDE], last[AMTL_WIDE] = {0.0f}, last0[AMTL_WIDE] = {0.0f};
  if (x0 != NULL) memcpy(last, x + at, left), memcpy(last0, x0 + at, left);
  amtl_scale_sums(y, sums, c, at, scale, last, x0 == NULL ? NULL : last0);
  memcpy(out + at, y, left);
}

/* By itself: within every tile it would be most of the code. */
AMTL_APART void amtl_finish_rows(const uint32_t *sums, const amtl_columns *c, const amtl_quantized_rows *r, int64_t members) {
  for (int64_t m = 0; m < members; m++) amtl_finish_row(sums + m * AMTL_STRIP, c, r, m);
}

/* `members` rows by `panels` panels. Of a single row every other quad goes to sums of its own: one set would wait for the
 * instruction before.
 */
AMTL_INLINE void amtl_multiply_dense(const amtl_columns *c, const amtl_quantized_rows *r, const int members, const int panels) {
  amtl_wide_sums sums[AMTL_TILE_ROWS][AMTL_TILE_PANELS * AMTL_PER_PANEL], more[AMTL_TILE_ROWS][AMTL_TILE_PANELS * AMTL_PER_PANEL] = {0};
  int64_t at = 0;
  AMTL_UNROLLED(8)
  for (int m = 0; m < members; m++)
    AMTL_UNROLLED(16)
    for (int v = 0; v < panels * AMTL_PER_PANEL; v++) sums[m][v] = *(const amtl_wide_sums *)(c->offsets + v * AMTL_WIDE);
  if (members == 1) {
    for (; at + 2 <= c->quads; at += 2) {
      amtl_add_quads(sums, c, r, at, 1, panels);
      amtl_add_quads(more, c, r, at + 1, 1, panels);
    }
    AMTL_UNROLLED(16)
    for (int v = 0; v < panels * AMTL_PER_PANEL; v++) sums[0][v] += more[0][v];
  }
  for (; at < c->quads; at++) amtl_add_quads(sums, c, r, at, members, panels);
  uint32_t all[AMTL_TILE_ROWS * AMTL_STRIP];
  AMTL_UNROLLED(8)
  for (int m = 0; m < members; m++)
    AMTL_UNROLLED(16)
    for (int v = 0; v < panels * AMTL_PER_PANEL; v++) *(amtl_wide_sums *)(all + m * AMTL_STRIP + v * AMTL_WIDE) = sums[m][v];
  amtl_finish_rows(all, c, r, members);
}

#define AMTL_TAKES_dense const amtl_columns *c, const amtl_quantized_rows *r
#define AMTL_GIVES_dense c, r
typedef void amtl_dense_tile(AMTL_TAKES_dense);
AMTL_ALL_TILES(dense)
static amtl_dense_tile *const amtl_dense_tiles[AMTL_TILE_PANELS][AMTL_TILE_ROWS] = AMTL_ALL_TILE_NAMES(dense);

/* Columns from `first` on. */
AMTL_INLINE void amtl_columns_of(const amtl_dense *layer, int64_t first, amtl_columns *c) {
  const int64_t left = layer->outputs - first;
  *c = (amtl_columns){.quads = (layer->inputs + 3) / 4, .width = left < AMTL_STRIP ? left : AMTL_STRIP, .least = layer->least};
  c->stride = c->quads * 4 * AMTL_PANEL;
  c->weights = (const char *)layer->weights + first / AMTL_PANEL * c->stride;
  memcpy(c->offsets, layer->offsets + first, (size_t)c->width * sizeof *c->offsets);
  memcpy(c->scales, layer->scales + first, (size_t)c->width * sizeof *c->scales);
  memcpy(c->bias, layer->bias + first, (size_t)c->width * sizeof *c->bias);
}

/* Rows [begin, begin + many), quantized. */
AMTL_INLINE void amtl_multiply_rows(const amtl_dense *layer, const uint8_t *numbers, const float *scales, float *out,
                                    int64_t begin, int64_t many) {
  const int64_t stride = amtl_dense_stride(layer), outputs = layer->outputs;
  for (int64_t first = 0; first < outputs; first += AMTL_STRIP) {
    amtl_columns c;
    amtl_columns_of(layer, first, &c);
    const int64_t panels = (c.width + AMTL_PANEL - 1) / AMTL_PANEL;
    for (int64_t i = 0; i < many; i += AMTL_TILE_ROWS) {
      const int64_t members = many - i < AMTL_TILE_ROWS ? many - i : AMTL_TILE_ROWS, at = (begin + i) * outputs + first;
      const amtl_quantized_rows r = {.numbers = numbers + i * stride, .scales = scales + i, .stride = stride,
                                     .outputs = outputs, .out = out + at, .x = layer->x + at,
                                     .x0 = layer->x0 == NULL ? NULL : layer->x0 + at};
      amtl_dense_tiles[panels - 1][members - 1](&c, &r);
    }
  }
}

void AMTL_NAME(dense)(const amtl_dense *layer, float *out, int64_t begin, int64_t end, void *scratch) {
  const int64_t stride = amtl_dense_stride(layer), block = amtl_dense_block(layer),
                most = end - begin < block ? end - begin : block;
  float *const scales = scratch;
  uint8_t *const numbers = (uint8_t *)(scales + most);
  for (int64_t many; begin < end; begin += many) {
    many = end - begin < most ? end - begin : most;
    for (int64_t i = 0; i < many; i++) {
      const float *const x = layer->x + (begin + i) * layer->inputs;
      float scale;
      scales[i] = amtl_row_scale(layer, x, &scale);
      amtl_quantize_row(layer, x, scale, numbers + i * stride);
    }
    amtl_multiply_rows(layer, numbers, scales, out, begin, many);
  }
}

#endif
