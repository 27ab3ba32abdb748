/* A lookup and the linear layer behind it, compiled with kernels.h for each instruction set. It defines AMTL_WIDE, floats
 * in a vector, AMTL_TILE_PANELS, panels of weights that are multiplied at a time, and AMTL_HAS_VNNI where it has an
 * instruction for products of bytes.
 *
 * The layer works on blocks of examples. Field by field, it finds the distinct rows of a block, sorts them by length and
 * packs them in groups of AMTL_TILE_ROWS, each padded to its longest row only: the multiplication stops where the group's
 * numbers end. Then, for one strip of weight columns after the other, it multiplies every group in registers. The
 * product of a row that one example has is added to that example's sums; that of a row that several have is made once,
 * put down, and added to each of them. An example's sums come out the same, bit for bit, whatever rows the other examples
 * have.
 *
 * Where weights are int8 and the table int8 or int4, rows stay quantized, and a row's product with a quantized column is a sum of whole
 * numbers, exact in either arithmetic; the row's scale is applied to it once, the column's at the very end.
 */
#ifndef AMTL_LAYER_H
#define AMTL_LAYER_H

#ifdef AMTL_HAS_VNNI
#include <immintrin.h>
#endif

#include "rows.h"

enum { AMTL_TILE_ROWS = 6, AMTL_STRIP = AMTL_TILE_PANELS * AMTL_PANEL, AMTL_PER_PANEL = AMTL_PANEL / AMTL_WIDE };

typedef float amtl_wide __attribute__((vector_size(4 * AMTL_WIDE), aligned(4), may_alias));
typedef int32_t amtl_wide_bits __attribute__((vector_size(4 * AMTL_WIDE), aligned(4), may_alias));
typedef int32_t amtl_wide_bytes __attribute__((vector_size(4 * AMTL_WIDE), aligned(1), may_alias)); /* quantized weights */

/* A packed quantized value: a byte for AMTL_HAS_VNNI, else the float that it is multiplied as. */
#ifdef AMTL_HAS_VNNI
typedef int8_t amtl_quantized;
#else
typedef float amtl_quantized;
#endif

/* Where a row's product goes. */
typedef struct amtl_target {
  float scale;    /* of quantized values; 1 for a shared row's */
  int32_t offset; /* of quantized values: what AMTL_HAS_VNNI begins at, since it takes weights as 128 more than they are */
  uint16_t to;    /* whose sums it is added to: an example's, or past the examples a shared row's */
} amtl_target;

typedef struct amtl_group {
  const void *x;              /* [members, k] floats or quantized values */
  const amtl_target *targets; /* [members] */
  int64_t k, members;
} amtl_group;

/* An example and the shared row that it has; the scale of quantized values is applied here, as it is where a row is
 * not shared.
 */
typedef struct amtl_pair {
  float scale;
  uint16_t example, shared;
} amtl_pair;

/* What a field has of a block. */
typedef struct amtl_field_part {
  const amtl_group *groups;
  const amtl_pair *pairs;
  int64_t group_count, pair_count, shared; /* shared: rows that several examples have */
} amtl_field_part;

typedef struct amtl_block {
  int64_t begin, many; /* examples */
  char *x;             /* where the next row is packed; a line more than all rows take */
  float *sums;         /* [many, AMTL_STRIP] of examples, then [many / 2, AMTL_STRIP] of the shared rows of a field */
  amtl_group *groups;
  amtl_field_part *parts; /* [fields] */
  amtl_pair *pairs;       /* [fields, many] */
  int64_t *lengths;
  amtl_target *targets; /* [fields, many] */
  uint16_t *slots;      /* [slot_count] a hash table: positions among the distinct rows, counted from 1 */
  int64_t slot_count;
  int quantized; /* whether rows of int8 and int4 stay quantized */
} amtl_block;

/* The distinct rows of a field. */
typedef struct amtl_distinct {
  uint64_t row[AMTL_BLOCK];
  amtl_span spans[AMTL_BLOCK];
  float scale[AMTL_BLOCK];
  uint16_t first[AMTL_BLOCK], times[AMTL_BLOCK]; /* an example that has it, and how many have */
  uint16_t which[AMTL_BLOCK];                    /* of each example */
  int64_t count;
} amtl_distinct;

AMTL_INLINE void amtl_find_distinct(const amtl_table *t, const amtl_block *b, int64_t field, amtl_distinct *d,
                                    enum amtl_offset offset, enum amtl_cache level) {
  memset(b->slots, 0, (size_t)b->slot_count * sizeof *b->slots);
  d->count = 0;
  for (int64_t i = 0; i < b->many; i++) {
    const uint64_t row = amtl_row_of(t, (amtl_cursor){(b->begin + i) * t->fields + field, field});
    uint64_t at = (row * 0x9e3779b97f4a7c15u) >> 32;
    uint16_t *slot;
    while (slot = &b->slots[at & (uint64_t)(b->slot_count - 1)], *slot != 0 && d->row[*slot - 1] != row) at++;
    if (*slot == 0) {
      amtl_prefetch_offset(t, row, offset, level);
      d->row[d->count] = row, d->first[d->count] = (uint16_t)i, d->times[d->count] = 0;
      *slot = (uint16_t)++d->count;
    }
    d->which[i] = (uint16_t)(*slot - 1);
    d->times[*slot - 1]++;
  }
}

AMTL_INLINE enum amtl_fault amtl_find_spans(const amtl_table *t, amtl_distinct *d, enum amtl_value value,
                                            enum amtl_offset offset, enum amtl_cache level) {
  for (int64_t i = 0; i < d->count; i++) {
    if (!amtl_find_span(t, d->row[i], &d->spans[i], value, offset)) return AMTL_BAD_OFFSETS;
    d->scale[i] = amtl_scale_of(t, d->row[i], offset);
    amtl_prefetch(amtl_address_of(t, d->spans[i].first, value), level);
  }
  for (int64_t i = 0; i < d->count; i++) amtl_prefetch_rest(t, d->spans[i], value, level);
  return AMTL_FINE;
}

/* Distinct rows by falling length, by counting. */
AMTL_INLINE void amtl_sort_by_length(const amtl_table *t, const amtl_block *b, const amtl_distinct *d, uint16_t *order) {
  int64_t *const before = b->lengths; /* how many rows are longer than dim - i */
  memset(before, 0, (size_t)(t->dim + 2) * sizeof *before);
  for (int64_t i = 0; i < d->count; i++) before[t->dim - d->spans[i].n + 1]++;
  for (int64_t i = 1; i <= t->dim + 1; i++) before[i] += before[i - 1];
  for (int64_t i = 0; i < d->count; i++) order[before[t->dim - d->spans[i].n]++] = (uint16_t)i;
}

/* Where each distinct row's product goes; the pairs of those that are shared. */
AMTL_INLINE void amtl_share_rows(const amtl_block *b, amtl_distinct *d, amtl_field_part *p, amtl_pair *pairs, int quantized) {
  for (int64_t i = 0; i < d->count; i++)
    if (d->times[i] > 1) d->first[i] = (uint16_t)(b->many + p->shared++);
  p->pairs = pairs;
  if (p->shared == 0) return;
  for (int64_t i = 0; i < b->many; i++) {
    const uint16_t row = d->which[i];
    pairs[p->pair_count] = (amtl_pair){quantized ? d->scale[row] : 1.0f, (uint16_t)i, d->first[row]};
    p->pair_count += d->times[row] > 1;
  }
}

#ifdef AMTL_HAS_VNNI
/* Quantized values, then zeros up to k; where the dot product of bytes begins. Past k the next row comes over the zeros. */
AMTL_INLINE int32_t amtl_pack_quantized(amtl_quantized *restrict out, const amtl_table *t, amtl_span s, int64_t k,
                                        enum amtl_value value) {
  __m128i sum = _mm_setzero_si128();
  for (int64_t i = 0; i < k; i += AMTL_PANEL) {
    const __m128i numbers = amtl_sixteen_there(t, s, i, value);
    _mm_storeu_si128((__m128i_u *)(out + i), numbers);
    sum = _mm_dpbusd_epi32(sum, _mm_set1_epi8(1), numbers);
  }
  sum = _mm_add_epi32(sum, _mm_unpackhi_epi64(sum, sum));
  return -128 * (_mm_cvtsi128_si32(sum) + _mm_extract_epi32(sum, 1));
}
#else
AMTL_INLINE int32_t amtl_pack_quantized(amtl_quantized *restrict out, const amtl_table *t, amtl_span s, int64_t k,
                                        enum amtl_value value) {
  amtl_write_row(out, t, s, 1.0f, k, value);
  return 0;
}
#endif

AMTL_INLINE enum amtl_fault amtl_pack_field(const amtl_table *t, amtl_block *b, int64_t field, enum amtl_value value,
                                            enum amtl_offset offset) {
  /* A single block is read at once. Of several, one waits in the second level while the weights go through the first. */
  const enum amtl_cache level = t->lookups <= AMTL_SINGLE * t->fields ? AMTL_FIRST_LEVEL : AMTL_SECOND_LEVEL;
  const int quantized = (value == AMTL_INT8 || value == AMTL_INT4) && b->quantized;
  amtl_distinct d;
  uint16_t order[AMTL_BLOCK];
  amtl_target *const targets = b->targets + field * b->many;
  amtl_find_distinct(t, b, field, &d, offset, level);
  const enum amtl_fault fault = amtl_find_spans(t, &d, value, offset, level);
  if (fault != AMTL_FINE) return fault;
  amtl_sort_by_length(t, b, &d, order);
  amtl_field_part *const p = &b->parts[field];
  *p = (amtl_field_part){.groups = b->groups};
  amtl_share_rows(b, &d, p, b->pairs + field * b->many, quantized);
  for (int64_t from = 0; from < d.count; from += AMTL_TILE_ROWS) {
    const int64_t members = d.count - from < AMTL_TILE_ROWS ? d.count - from : AMTL_TILE_ROWS,
                  longest = d.spans[order[from]].n;
    const int64_t k = quantized ? (longest + 3) / 4 * 4 : longest;
    if (k == 0) break;
    *b->groups++ = (amtl_group){b->x, targets + from, k, members}, p->group_count++;
    for (int64_t m = from; m < from + members; m++) {
      const uint16_t i = order[m];
      targets[m] = (amtl_target){d.times[i] > 1 ? 1.0f : d.scale[i], 0, d.first[i]};
      if (quantized) {
        targets[m].offset = amtl_pack_quantized((amtl_quantized *)b->x, t, d.spans[i], k, value);
        b->x += k * (int64_t)sizeof(amtl_quantized);
      } else {
        amtl_write_row((float *)b->x, t, d.spans[i], d.scale[i], k, value);
        b->x += k * (int64_t)sizeof(float);
      }
    }
  }
  return AMTL_FINE;
}

AMTL_INLINE enum amtl_fault amtl_pack(const amtl_table *t, amtl_block *b, enum amtl_value value, enum amtl_offset offset) {
  enum amtl_fault fault = AMTL_FINE;
  for (int64_t field = 0; field < t->fields && fault == AMTL_FINE; field++)
    fault = amtl_pack_field(t, b, field, value, offset);
  return fault;
}

/* sums[to[m]] += x[m] * w: `members` rows by `panels` panels, panels `stride` bytes apart. */
AMTL_INLINE void amtl_multiply_floats(const amtl_group *g, const char *w, int64_t stride, float *sums, const int members,
                                      const int panels) {
  amtl_wide product[AMTL_TILE_ROWS][AMTL_TILE_PANELS * AMTL_PER_PANEL] = {0};
  const float *x = g->x;
  const int64_t k = g->k;
  float *to[AMTL_TILE_ROWS];
  AMTL_UNROLLED(8)
  for (int m = 0; m < members; m++) to[m] = sums + g->targets[m].to * AMTL_STRIP;
  for (int64_t j = 0; j < k; j++, w += sizeof(float[AMTL_PANEL]), x++) {
    amtl_wide row[AMTL_TILE_PANELS * AMTL_PER_PANEL];
    AMTL_UNROLLED(16)
    for (int v = 0; v < panels * AMTL_PER_PANEL; v++)
      row[v] = *(const amtl_wide *)(w + (v / AMTL_PER_PANEL) * stride + (v % AMTL_PER_PANEL) * (int)sizeof(amtl_wide));
    AMTL_UNROLLED(8)
    for (int m = 0; m < members; m++)
      AMTL_UNROLLED(16)
      for (int v = 0; v < panels * AMTL_PER_PANEL; v++) product[m][v] += row[v] * x[m * k];
  }
  AMTL_UNROLLED(8)
  for (int m = 0; m < members; m++)
    AMTL_UNROLLED(16)
    for (int v = 0; v < panels * AMTL_PER_PANEL; v++) *(amtl_wide *)(to[m] + v * AMTL_WIDE) += product[m][v];
}

/* The same of quantized values, four of a column at a time, times the row's scale. */
AMTL_INLINE void amtl_multiply_quantized(const amtl_group *g, const char *w, int64_t stride, float *sums, const int members,
                                         const int panels) {
#ifdef AMTL_HAS_VNNI
  amtl_wide_bits product[AMTL_TILE_ROWS][AMTL_TILE_PANELS * AMTL_PER_PANEL];
  AMTL_UNROLLED(8)
  for (int m = 0; m < members; m++)
    AMTL_UNROLLED(16)
    for (int v = 0; v < panels * AMTL_PER_PANEL; v++) product[m][v] = (amtl_wide_bits){0} + g->targets[m].offset;
#else
  amtl_wide product[AMTL_TILE_ROWS][AMTL_TILE_PANELS * AMTL_PER_PANEL] = {0};
#endif
  const amtl_quantized *x = g->x;
  const int64_t k = g->k;
  for (int64_t j = 0; j < k; j += 4, w += 4 * AMTL_PANEL, x += 4) {
    amtl_wide_bits quads[AMTL_TILE_PANELS * AMTL_PER_PANEL];
    AMTL_UNROLLED(16)
    for (int v = 0; v < panels * AMTL_PER_PANEL; v++)
      quads[v] = *(const amtl_wide_bytes *)(w + (v / AMTL_PER_PANEL) * stride + (v % AMTL_PER_PANEL) * (int)sizeof(amtl_wide));
#ifdef AMTL_HAS_VNNI
    AMTL_UNROLLED(8)
    for (int m = 0; m < members; m++) {
      int32_t quad;
      memcpy(&quad, x + m * k, sizeof quad);
      AMTL_UNROLLED(16)
      for (int v = 0; v < panels * AMTL_PER_PANEL; v++)
        product[m][v] =
            (amtl_wide_bits)_mm512_dpbusd_epi32((__m512i)product[m][v], (__m512i)quads[v], _mm512_set1_epi32(quad));
    }
#else
    AMTL_UNROLLED(4)
    for (int c = 0; c < 4; c++) {
      amtl_wide row[AMTL_TILE_PANELS * AMTL_PER_PANEL];
      AMTL_UNROLLED(16)
      for (int v = 0; v < panels * AMTL_PER_PANEL; v++)
        row[v] = __builtin_convertvector((quads[v] >> 8 * c) & 255, amtl_wide) - 128.0f;
      AMTL_UNROLLED(8)
      for (int m = 0; m < members; m++)
        AMTL_UNROLLED(16)
        for (int v = 0; v < panels * AMTL_PER_PANEL; v++) product[m][v] += row[v] * x[m * k + c];
    }
#endif
  }
  AMTL_UNROLLED(8)
  for (int m = 0; m < members; m++) {
    float *const to = sums + g->targets[m].to * AMTL_STRIP;
    AMTL_UNROLLED(16)
    for (int v = 0; v < panels * AMTL_PER_PANEL; v++)
      *(amtl_wide *)(to + v * AMTL_WIDE) += __builtin_convertvector(product[m][v], amtl_wide) * g->targets[m].scale;
  }
}

/* A function for each shape: inlined together, their loops would run out of registers. */
#define AMTL_APART static __attribute__((noinline))
#define AMTL_TILE(of, members, panels) \
  AMTL_APART void amtl_##of##_##members##_##panels(AMTL_TAKES_##of) { \
    amtl_multiply_##of(AMTL_GIVES_##of, members, panels); \
  }
#define AMTL_TILES(of, panels) \
  AMTL_TILE(of, 1, panels) AMTL_TILE(of, 2, panels) AMTL_TILE(of, 3, panels) \
  AMTL_TILE(of, 4, panels) AMTL_TILE(of, 5, panels) AMTL_TILE(of, 6, panels)
#define AMTL_TILE_NAMES(of, panels)                                        \
  {amtl_##of##_1_##panels, amtl_##of##_2_##panels, amtl_##of##_3_##panels, \
   amtl_##of##_4_##panels, amtl_##of##_5_##panels, amtl_##of##_6_##panels}
#if AMTL_TILE_PANELS == 4
#define AMTL_ALL_TILES(of) AMTL_TILES(of, 1) AMTL_TILES(of, 2) AMTL_TILES(of, 3) AMTL_TILES(of, 4)
#define AMTL_ALL_TILE_NAMES(of) \
  {AMTL_TILE_NAMES(of, 1), AMTL_TILE_NAMES(of, 2), AMTL_TILE_NAMES(of, 3), AMTL_TILE_NAMES(of, 4)}
#else
#define AMTL_ALL_TILES(of) AMTL_TILES(of, 1)
#define AMTL_ALL_TILE_NAMES(of) {AMTL_TILE_NAMES(of, 1)}
#endif
#define AMTL_TAKES_floats const amtl_group *g, const char *w, int64_t stride, float *sums
#define AMTL_GIVES_floats g, w, stride, sums
#define AMTL_TAKES_quantized AMTL_TAKES_floats
#define AMTL_GIVES_quantized AMTL_GIVES_floats
typedef void amtl_tile(AMTL_TAKES_floats);
AMTL_ALL_TILES(floats) AMTL_ALL_TILES(quantized)
static amtl_tile *const amtl_tiles[2][AMTL_TILE_PANELS][AMTL_TILE_ROWS] = {
    AMTL_ALL_TILE_NAMES(floats), AMTL_ALL_TILE_NAMES(quantized)};

/* One field's products of one strip. */
AMTL_INLINE void amtl_multiply_field(const amtl_field_part *p, const amtl_block *b, const char *w, int64_t stride,
                                     int64_t panels) {
  memset(b->sums + b->many * AMTL_STRIP, 0, (size_t)(p->shared * AMTL_STRIP) * sizeof(float));
  for (int64_t i = 0; i < p->group_count; i++) {
    const amtl_group *g = &p->groups[i];
    amtl_tiles[b->quantized][panels - 1][g->members - 1](g, w, stride, b->sums);
  }
  for (int64_t i = 0; i < p->pair_count; i++) {
    const amtl_pair both = p->pairs[i];
    float *const sums = b->sums + both.example * AMTL_STRIP;
    const float *const product = b->sums + both.shared * AMTL_STRIP;
    for (int v = 0; v < AMTL_STRIP; v += AMTL_WIDE)
      *(amtl_wide *)(sums + v) += *(const amtl_wide *)(product + v) * both.scale;
  }
}

/* Sums to results: times the columns' scales, plus bias, raised to what they are at least. */
AMTL_INLINE void amtl_finish(const amtl_linear *layer, const amtl_block *b, int64_t first, int64_t width, float *out) {
  float scales[AMTL_STRIP], bias[AMTL_STRIP];
  for (int64_t c = 0; c < width; c++) scales[c] = layer->scales == NULL ? 1.0f : layer->scales[first + c];
  memcpy(bias, layer->bias + first, (size_t)width * sizeof *bias);
  for (int64_t i = 0; i < b->many; i++)
    for (int64_t c = 0; c < width; c++) {
      const float sum = b->sums[i * AMTL_STRIP + c] * scales[c] + bias[c];
      out[i * layer->outputs + first + c] = sum < layer->least ? layer->least : sum; /* NaN stays NaN */
    }
}

AMTL_INLINE void amtl_multiply_block(const amtl_table *t, const amtl_linear *layer, const amtl_block *b, float *out) {
  const int64_t per_field = AMTL_PANEL * (b->quantized ? (t->dim + 3) / 4 * 4 : t->dim * (int64_t)sizeof(float));
  const int64_t stride = t->fields * per_field; /* bytes of a panel */
  for (int64_t first = 0; first < layer->outputs; first += AMTL_STRIP) {
    const int64_t left = layer->outputs - first, width = left < AMTL_STRIP ? left : AMTL_STRIP;
    const int64_t panels = (width + AMTL_PANEL - 1) / AMTL_PANEL;
    memset(b->sums, 0, (size_t)(b->many * AMTL_STRIP) * sizeof *b->sums);
    const char *w = (const char *)layer->weights + first / AMTL_PANEL * stride;
    for (int64_t field = 0; field < t->fields; field++, w += per_field)
      amtl_multiply_field(&b->parts[field], b, w, stride, panels);
    amtl_finish(layer, b, first, width, out);
  }
}

/* `count` things of `size` bytes from memory that is only counted while there is none. */
AMTL_INLINE void *amtl_take(char *memory, size_t *at, int64_t count, size_t size) {
  void *const start = memory == NULL ? NULL : memory + *at;
  *at += ((size_t)count * size + AMTL_LINE - 1) / AMTL_LINE * AMTL_LINE;
  return start;
}

/* Lays a block of at most `most` examples out in memory; the bytes that it takes. */
AMTL_INLINE size_t amtl_lay_out(const amtl_table *t, int64_t most, char *memory, amtl_block *b) {
  size_t bytes = 0;
  for (b->slot_count = 2; b->slot_count < 4 * most; b->slot_count *= 2) continue;
  b->x = amtl_take(memory, &bytes, t->fields * most * ((t->dim + 3) / 4 * 4) + AMTL_LINE, sizeof(float));
  b->sums = amtl_take(memory, &bytes, (most + most / 2) * AMTL_STRIP, sizeof *b->sums);
  b->groups = amtl_take(memory, &bytes, t->fields * ((most + AMTL_TILE_ROWS - 1) / AMTL_TILE_ROWS), sizeof *b->groups);
  b->parts = amtl_take(memory, &bytes, t->fields, sizeof *b->parts);
  b->pairs = amtl_take(memory, &bytes, t->fields * most, sizeof *b->pairs);
  b->lengths = amtl_take(memory, &bytes, t->dim + 2, sizeof *b->lengths);
  b->targets = amtl_take(memory, &bytes, t->fields * most, sizeof *b->targets);
  b->slots = amtl_take(memory, &bytes, b->slot_count, sizeof *b->slots);
  return bytes;
}

size_t AMTL_NAME(scratch_bytes)(const amtl_table *t, int64_t examples) {
  const int64_t size = amtl_block_size(t);
  amtl_block b;
  return amtl_lay_out(t, examples < size ? examples : size, NULL, &b);
}

enum amtl_fault AMTL_NAME(linear)(const amtl_table *t, const amtl_linear *layer, float *out, int64_t begin, int64_t end,
                                  void *scratch) {
  const int64_t size = amtl_block_size(t), most = end - begin < size ? end - begin : size;
  amtl_block b = {.quantized = layer->scales != NULL};
  enum amtl_fault fault = AMTL_FINE;
  for (b.begin = begin; b.begin < end && fault == AMTL_FINE; b.begin += b.many) {
    (void)amtl_lay_out(t, most, scratch, &b);
    b.many = end - b.begin < most ? end - b.begin : most;
    fault = AMTL_WITH_TYPES(t, amtl_pack, t, &b);
    if (fault == AMTL_FINE) amtl_multiply_block(t, layer, &b, out + b.begin * layer->outputs);
  }
  return fault;
}

#endif
