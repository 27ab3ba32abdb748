/* A lookup and the linear layer behind it, compiled with kernels.h for each instruction set. It defines WIDE, floats in a
 * vector, TILE_PANELS, panels of weights that are multiplied at a time, and AMTL_DOT where it has an instruction for
 * products of bytes.
 *
 * The layer works on blocks of examples. Field by field, it finds the distinct rows of a block, sorts them by length and
 * packs them in groups of TILE_ROWS, each padded to its longest row only: the multiplication stops where the group's
 * numbers end. Then, for one strip of weight columns after the other, it multiplies every group in registers. The
 * product of a row that one example has is added to that example's sums; that of a row that several have is made once,
 * put down, and added to each of them. An example's sums come out the same, bit for bit, whatever rows the other examples
 * have.
 *
 * Where table and weights are both int8, rows stay codes, and a row's product with a column of codes is a sum of whole
 * numbers, exact in either arithmetic; the row's scale is applied to it once, the column's at the very end.
 */
#ifndef AMTL_LAYER_H
#define AMTL_LAYER_H

#include <stdlib.h>

#ifdef AMTL_DOT
#include <immintrin.h>
#endif

#include "rows.h"

enum { TILE_ROWS = 6, STRIP = TILE_PANELS * AMTL_PANEL, PER_PANEL = AMTL_PANEL / WIDE };

typedef float wide __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));
typedef int32_t wide_bits __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));

/* A packed code: a byte for AMTL_DOT, else the float that it is multiplied as. */
#ifdef AMTL_DOT
typedef int8_t code;
#else
typedef float code;
#endif

/* Where a row's product goes. */
typedef struct target {
  float scale;    /* of codes; 1 for a shared row's */
  int32_t offset; /* of codes: what AMTL_DOT begins at, since it takes weights as 128 more than they are */
  uint16_t to;    /* whose sums it is added to: an example's, or past the examples a shared row's */
} target;

typedef struct group {
  const void *x;         /* [members, k] floats or codes */
  const target *targets; /* [members] */
  int64_t k, members;
} group;

/* An example and the shared row that it has; the scale of codes is applied here, as it is where a row is not shared. */
typedef struct pair {
  float scale;
  uint16_t example, shared;
} pair;

/* What a field has of a block. */
typedef struct part {
  const group *groups;
  const pair *pairs;
  int64_t group_count, pair_count, shared; /* shared: rows that several examples have */
} part;

typedef struct block {
  int64_t begin, many; /* examples */
  char *x;             /* where the next row is packed; a line more than all rows take */
  float *sums;         /* [many, STRIP] of examples, then [many / 2, STRIP] of the shared rows of a field */
  group *groups;
  part *parts; /* [fields] */
  pair *pairs; /* [fields, many] */
  int64_t *lengths;
  target *targets; /* [fields, many] */
  uint16_t *slots; /* [slot_count] a hash table: places among the distinct rows, counted from 1 */
  int64_t slot_count;
  int codes; /* whether rows of int8 stay codes */
} block;

/* The distinct rows of a field. */
typedef struct distinct {
  uint64_t row[AMTL_BLOCK];
  span spans[AMTL_BLOCK];
  float scale[AMTL_BLOCK];
  uint16_t first[AMTL_BLOCK], times[AMTL_BLOCK]; /* an example that has it, and how many have */
  uint16_t which[AMTL_BLOCK];                    /* of each example */
  int64_t count;
} distinct;

INLINE void find_distinct(const amtl_table *t, const block *b, int64_t field, distinct *d, enum amtl_place place,
                          enum cache level) {
  memset(b->slots, 0, (size_t)b->slot_count * sizeof *b->slots);
  d->count = 0;
  for (int64_t i = 0; i < b->many; i++) {
    const uint64_t row = row_of(t, (cursor){(b->begin + i) * t->fields + field, field});
    uint64_t at = (row * 0x9e3779b97f4a7c15u) >> 32;
    uint16_t *slot;
    while (slot = &b->slots[at & (uint64_t)(b->slot_count - 1)], *slot != 0 && d->row[*slot - 1] != row) at++;
    if (*slot == 0) {
      prefetch_place(t, row, place, level);
      d->row[d->count] = row, d->first[d->count] = (uint16_t)i, d->times[d->count] = 0;
      *slot = (uint16_t)++d->count;
    }
    d->which[i] = (uint16_t)(*slot - 1);
    d->times[*slot - 1]++;
  }
}

INLINE enum amtl_fault find_spans(const amtl_table *t, distinct *d, enum amtl_value value, enum amtl_place place,
                                  enum cache level) {
  for (int64_t i = 0; i < d->count; i++) {
    if (d->row[i] >= (uint64_t)t->rows) return AMTL_BAD_ROW;
    d->spans[i] = span_of(t, d->row[i], place);
    d->scale[i] = scale_of(t, d->row[i], place);
    if (!is_sound(t, d->spans[i])) return AMTL_BAD_OFFSETS;
    prefetch(address_of(t, d->spans[i].first, value), level);
  }
  for (int64_t i = 0; i < d->count; i++) prefetch_rest(t, d->spans[i], value, level);
  return AMTL_FINE;
}

/* Distinct rows by falling length, by counting. */
INLINE void sort_by_length(const amtl_table *t, const block *b, const distinct *d, uint16_t *order) {
  int64_t *const before = b->lengths; /* how many rows are longer than dim - i */
  memset(before, 0, (size_t)(t->dim + 2) * sizeof *before);
  for (int64_t i = 0; i < d->count; i++) before[t->dim - d->spans[i].n + 1]++;
  for (int64_t i = 1; i <= t->dim + 1; i++) before[i] += before[i - 1];
  for (int64_t i = 0; i < d->count; i++) order[before[t->dim - d->spans[i].n]++] = (uint16_t)i;
}

/* Where each distinct row's product goes; the pairs of those that are shared. */
INLINE void share_rows(const block *b, distinct *d, part *p, pair *pairs, int codes) {
  for (int64_t i = 0; i < d->count; i++)
    if (d->times[i] > 1) d->first[i] = (uint16_t)(b->many + p->shared++);
  p->pairs = pairs;
  if (p->shared == 0) return;
  for (int64_t i = 0; i < b->many; i++) {
    const uint16_t row = d->which[i];
    pairs[p->pair_count] = (pair){codes ? d->scale[row] : 1.0f, (uint16_t)i, d->first[row]};
    p->pair_count += d->times[row] > 1;
  }
}

#ifdef AMTL_DOT
enum { SUMMED = 16 }; /* codes that are added up at a time: zeros fill a row up to as many */
typedef int8_t sixteen __attribute__((vector_size(SUMMED), aligned(1), may_alias));
typedef int64_t eight __attribute__((aligned(1), may_alias));
typedef int32_t four __attribute__((aligned(1), may_alias));

/* Codes, then zeros up to k; where the dot product of bytes begins. Nothing is read past the row. */
INLINE int32_t pack_codes(code *restrict out, const amtl_table *t, span s, int64_t k) {
  const int8_t *const in = (const int8_t *)t->values + s.first;
  int64_t i = 0;
  for (; i < k; i += SUMMED) *(sixteen *)(out + i) = (sixteen){0};
  if (s.n >= SUMMED) {
    for (i = 0; i + SUMMED < s.n; i += SUMMED) *(sixteen *)(out + i) = *(const sixteen *)(in + i);
    *(sixteen *)(out + s.n - SUMMED) = *(const sixteen *)(in + s.n - SUMMED);
  } else if (s.n >= 8) {
    *(eight *)out = *(const eight *)in, *(eight *)(out + s.n - 8) = *(const eight *)(in + s.n - 8);
  } else if (s.n >= 4) {
    *(four *)out = *(const four *)in, *(four *)(out + s.n - 4) = *(const four *)(in + s.n - 4);
  } else {
    for (i = 0; i < s.n; i++) out[i] = in[i];
  }
  __m128i sum = _mm_setzero_si128();
  for (i = 0; i < k; i += SUMMED) sum = _mm_dpbusd_epi32(sum, _mm_set1_epi8(1), (__m128i)*(const sixteen *)(out + i));
  sum = _mm_add_epi32(sum, _mm_unpackhi_epi64(sum, sum));
  return -128 * (_mm_cvtsi128_si32(sum) + _mm_extract_epi32(sum, 1));
}
#else
INLINE int32_t pack_codes(code *restrict out, const amtl_table *t, span s, int64_t k) {
  write_row(out, t, s, 1.0f, k, AMTL_INT8);
  return 0;
}
#endif

INLINE enum amtl_fault pack_field(const amtl_table *t, block *b, int64_t field, enum amtl_value value,
                                  enum amtl_place place) {
  /* A single block is read at once. Of several, one waits in the second level while the weights go through the first. */
  const enum cache level = t->lookups <= AMTL_SINGLE * t->fields ? FIRST_LEVEL : SECOND_LEVEL;
  const int codes = value == AMTL_INT8 && b->codes;
  distinct d;
  uint16_t order[AMTL_BLOCK];
  target *const targets = b->targets + field * b->many;
  find_distinct(t, b, field, &d, place, level);
  const enum amtl_fault fault = find_spans(t, &d, value, place, level);
  if (fault != AMTL_FINE) return fault;
  sort_by_length(t, b, &d, order);
  part *const p = &b->parts[field];
  *p = (part){.groups = b->groups};
  share_rows(b, &d, p, b->pairs + field * b->many, codes);
  for (int64_t from = 0; from < d.count; from += TILE_ROWS) {
    const int64_t members = d.count - from < TILE_ROWS ? d.count - from : TILE_ROWS, longest = d.spans[order[from]].n;
    const int64_t k = codes ? (longest + 3) / 4 * 4 : longest;
    if (k == 0) break;
    *b->groups++ = (group){b->x, targets + from, k, members}, p->group_count++;
    for (int64_t m = from; m < from + members; m++) {
      const uint16_t i = order[m];
      targets[m] = (target){d.times[i] > 1 ? 1.0f : d.scale[i], 0, d.first[i]};
      if (codes) {
        targets[m].offset = pack_codes((code *)b->x, t, d.spans[i], k);
        b->x += k * (int64_t)sizeof(code);
      } else {
        write_row((float *)b->x, t, d.spans[i], d.scale[i], k, value);
        b->x += k * (int64_t)sizeof(float);
      }
    }
  }
  return AMTL_FINE;
}

INLINE enum amtl_fault pack(const amtl_table *t, block *b, enum amtl_value value, enum amtl_place place) {
  enum amtl_fault fault = AMTL_FINE;
  for (int64_t field = 0; field < t->fields && fault == AMTL_FINE; field++) fault = pack_field(t, b, field, value, place);
  return fault;
}

/* sums[to[m]] += x[m] * w: `members` rows by `panels` panels, panels `stride` bytes apart. */
INLINE void multiply_floats(const group *g, const char *w, int64_t stride, float *sums, const int members,
                            const int panels) {
  wide product[TILE_ROWS][TILE_PANELS * PER_PANEL] = {0};
  const float *x = g->x;
  const int64_t k = g->k;
  float *to[TILE_ROWS];
  UNROLLED(8)
  for (int m = 0; m < members; m++) to[m] = sums + g->targets[m].to * STRIP;
  for (int64_t j = 0; j < k; j++, w += sizeof(float[AMTL_PANEL]), x++) {
    wide row[TILE_PANELS * PER_PANEL];
    UNROLLED(16)
    for (int v = 0; v < panels * PER_PANEL; v++)
      row[v] = *(const wide *)(w + (v / PER_PANEL) * stride + (v % PER_PANEL) * (int)sizeof(wide));
    UNROLLED(8)
    for (int m = 0; m < members; m++)
      UNROLLED(16)
      for (int v = 0; v < panels * PER_PANEL; v++) product[m][v] += row[v] * x[m * k];
  }
  UNROLLED(8)
  for (int m = 0; m < members; m++)
    UNROLLED(16)
    for (int v = 0; v < panels * PER_PANEL; v++) *(wide *)(to[m] + v * WIDE) += product[m][v];
}

/* The same of codes, four of a column at a time, times the row's scale. */
INLINE void multiply_codes(const group *g, const char *w, int64_t stride, float *sums, const int members,
                           const int panels) {
#ifdef AMTL_DOT
  wide_bits product[TILE_ROWS][TILE_PANELS * PER_PANEL];
  UNROLLED(8)
  for (int m = 0; m < members; m++)
    UNROLLED(16)
    for (int v = 0; v < panels * PER_PANEL; v++) product[m][v] = (wide_bits){0} + g->targets[m].offset;
#else
  wide product[TILE_ROWS][TILE_PANELS * PER_PANEL] = {0};
#endif
  const code *x = g->x;
  const int64_t k = g->k;
  for (int64_t j = 0; j < k; j += 4, w += 4 * AMTL_PANEL, x += 4) {
    wide_bits quads[TILE_PANELS * PER_PANEL];
    UNROLLED(16)
    for (int v = 0; v < panels * PER_PANEL; v++)
      quads[v] = *(const wide_bits *)(w + (v / PER_PANEL) * stride + (v % PER_PANEL) * (int)sizeof(wide));
#ifdef AMTL_DOT
    UNROLLED(8)
    for (int m = 0; m < members; m++) {
      int32_t quad;
      memcpy(&quad, x + m * k, sizeof quad);
      UNROLLED(16)
      for (int v = 0; v < panels * PER_PANEL; v++)
        product[m][v] = (wide_bits)_mm512_dpbusd_epi32((__m512i)product[m][v], (__m512i)quads[v], _mm512_set1_epi32(quad));
    }
#else
    UNROLLED(4)
    for (int c = 0; c < 4; c++) {
      wide row[TILE_PANELS * PER_PANEL];
      UNROLLED(16)
      for (int v = 0; v < panels * PER_PANEL; v++)
        row[v] = __builtin_convertvector((quads[v] >> 8 * c) & 255, wide) - 128.0f;
      UNROLLED(8)
      for (int m = 0; m < members; m++)
        UNROLLED(16)
        for (int v = 0; v < panels * PER_PANEL; v++) product[m][v] += row[v] * x[m * k + c];
    }
#endif
  }
  UNROLLED(8)
  for (int m = 0; m < members; m++) {
    float *const to = sums + g->targets[m].to * STRIP;
    UNROLLED(16)
    for (int v = 0; v < panels * PER_PANEL; v++)
      *(wide *)(to + v * WIDE) += __builtin_convertvector(product[m][v], wide) * g->targets[m].scale;
  }
}

/* A function for each shape: inlined together, their loops would run out of registers. */
typedef void tile(const group *g, const char *w, int64_t stride, float *sums);
#define TILE(of, members, panels)                                                                         \
  static __attribute__((noinline)) void of##_##members##_##panels(const group *g, const char *w,          \
                                                                  int64_t stride, float *sums) {          \
    multiply_##of(g, w, stride, sums, members, panels);                                                   \
  }
#define TILES(of, panels)                                                                              \
  TILE(of, 1, panels) TILE(of, 2, panels) TILE(of, 3, panels) TILE(of, 4, panels) TILE(of, 5, panels) \
  TILE(of, 6, panels)
#define TILE_NAMES(of, panels) \
  {of##_1_##panels, of##_2_##panels, of##_3_##panels, of##_4_##panels, of##_5_##panels, of##_6_##panels}
#if TILE_PANELS == 4
#define ALL_TILES(of) TILES(of, 1) TILES(of, 2) TILES(of, 3) TILES(of, 4)
#define ALL_TILE_NAMES(of) {TILE_NAMES(of, 1), TILE_NAMES(of, 2), TILE_NAMES(of, 3), TILE_NAMES(of, 4)}
#else
#define ALL_TILES(of) TILES(of, 1)
#define ALL_TILE_NAMES(of) {TILE_NAMES(of, 1)}
#endif
ALL_TILES(floats) ALL_TILES(codes)
static tile *const tiles[2][TILE_PANELS][TILE_ROWS] = {ALL_TILE_NAMES(floats), ALL_TILE_NAMES(codes)};

/* One field's products of one strip. */
INLINE void multiply_part(const part *p, const block *b, const char *w, int64_t stride, int64_t panels) {
  memset(b->sums + b->many * STRIP, 0, (size_t)(p->shared * STRIP) * sizeof(float));
  for (int64_t i = 0; i < p->group_count; i++) {
    const group *g = &p->groups[i];
    tiles[b->codes][panels - 1][g->members - 1](g, w, stride, b->sums);
  }
  for (int64_t i = 0; i < p->pair_count; i++) {
    const pair both = p->pairs[i];
    float *const sums = b->sums + both.example * STRIP;
    const float *const product = b->sums + both.shared * STRIP;
    for (int v = 0; v < STRIP; v += WIDE) *(wide *)(sums + v) += *(const wide *)(product + v) * both.scale;
  }
}

/* Sums to results: times the columns' scales, plus bias, raised to what they are at least. */
INLINE void finish(const amtl_linear *layer, const block *b, int64_t first, int64_t width, float *out) {
  float scales[STRIP], bias[STRIP];
  for (int64_t c = 0; c < width; c++) scales[c] = layer->scales == NULL ? 1.0f : layer->scales[first + c];
  memcpy(bias, layer->bias + first, (size_t)width * sizeof *bias);
  for (int64_t i = 0; i < b->many; i++)
    for (int64_t c = 0; c < width; c++) {
      const float sum = b->sums[i * STRIP + c] * scales[c] + bias[c];
      out[i * layer->outputs + first + c] = sum < layer->least ? layer->least : sum; /* NaN stays NaN */
    }
}

INLINE void multiply_block(const amtl_table *t, const amtl_linear *layer, const block *b, float *out) {
  const int64_t of_field = AMTL_PANEL * (b->codes ? (t->dim + 3) / 4 * 4 : t->dim * (int64_t)sizeof(float));
  const int64_t stride = t->fields * of_field; /* bytes of a panel */
  for (int64_t first = 0; first < layer->outputs; first += STRIP) {
    const int64_t left = layer->outputs - first, width = left < STRIP ? left : STRIP;
    const int64_t panels = (width + AMTL_PANEL - 1) / AMTL_PANEL;
    memset(b->sums, 0, (size_t)(b->many * STRIP) * sizeof *b->sums);
    const char *w = (const char *)layer->weights + first / AMTL_PANEL * stride;
    for (int64_t field = 0; field < t->fields; field++, w += of_field)
      multiply_part(&b->parts[field], b, w, stride, panels);
    finish(layer, b, first, width, out);
  }
}

/* `count` things of `size` bytes from memory that is only counted while there is none. */
INLINE void *taken(char *memory, size_t *at, int64_t count, size_t size) {
  void *const found = memory == NULL ? NULL : memory + *at;
  *at += ((size_t)count * size + LINE - 1) / LINE * LINE;
  return found;
}

/* Lays a block of at most `most` examples out in memory; the bytes that it takes. */
INLINE size_t lay_out(const amtl_table *t, int64_t most, char *memory, block *b) {
  size_t bytes = 0;
  for (b->slot_count = 2; b->slot_count < 4 * most; b->slot_count *= 2) continue;
  b->x = taken(memory, &bytes, t->fields * most * ((t->dim + 3) / 4 * 4) + LINE, sizeof(float));
  b->sums = taken(memory, &bytes, (most + most / 2) * STRIP, sizeof *b->sums);
  b->groups = taken(memory, &bytes, t->fields * ((most + TILE_ROWS - 1) / TILE_ROWS), sizeof *b->groups);
  b->parts = taken(memory, &bytes, t->fields, sizeof *b->parts);
  b->pairs = taken(memory, &bytes, t->fields * most, sizeof *b->pairs);
  b->lengths = taken(memory, &bytes, t->dim + 2, sizeof *b->lengths);
  b->targets = taken(memory, &bytes, t->fields * most, sizeof *b->targets);
  b->slots = taken(memory, &bytes, b->slot_count, sizeof *b->slots);
  return bytes;
}

enum amtl_fault AMTL_NAME(linear)(const amtl_table *t, const amtl_linear *layer, float *out, int64_t begin,
                                  int64_t end) {
  const int64_t size = amtl_block_size(t), most = end - begin < size ? end - begin : size;
  block b = {.codes = layer->scales != NULL};
  char *const memory = malloc(lay_out(t, most, NULL, &b));
  if (memory == NULL) return AMTL_NO_MEMORY;
  enum amtl_fault fault = AMTL_FINE;
  for (b.begin = begin; b.begin < end && fault == AMTL_FINE; b.begin += b.many) {
    (void)lay_out(t, most, memory, &b);
    b.many = end - b.begin < most ? end - b.begin : most;
    fault = WITH_TYPES(t, pack, t, &b);
    if (fault == AMTL_FINE) multiply_block(t, layer, &b, out + b.begin * layer->outputs);
  }
  free(memory);
  return fault;
}

#endif
