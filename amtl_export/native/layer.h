/* A lookup and the linear layer behind it, compiled with kernels.h for each instruction set.
 *
 * The layer works on blocks of examples. Field by field, it finds the distinct rows of a block, sorts them by length and
 * packs them in groups of TILE_ROWS, each padded to its longest row only: the multiplication stops where the group's
 * numbers end. Then, for one strip of weight columns after the other, it multiplies every group in registers. The
 * product of a row that one example has is added to that example's sums; that of a row that several have is made once,
 * put down, and added to each of them. An example's sums come out the same, bit for bit, whatever rows the other examples
 * have.
 */
#ifndef AMTL_LAYER_H
#define AMTL_LAYER_H

#include <stdlib.h>

#include "rows.h"

enum { TILE_ROWS = 6, STRIP = TILE_PANELS * AMTL_PANEL, PER_PANEL = AMTL_PANEL / WIDE };

typedef float wide __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));

typedef struct group {
  const float *x;     /* [members, k] */
  const uint16_t *to; /* [members] whose sums a product is added to: an example's, or past the examples a shared row's */
  int64_t k, members;
} group;

/* An example and the shared row that it has. */
typedef struct pair {
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
  float *x;            /* where the next group is packed */
  float *sums;         /* [many, STRIP] of examples, then [many / 2, STRIP] of the shared rows of a field */
  group *groups;
  part *parts; /* [fields] */
  pair *pairs; /* [fields, many] */
  int64_t *lengths;
  uint16_t *to;    /* [fields, many] */
  uint16_t *slots; /* [slot_count] a hash table: places among the distinct rows, counted from 1 */
  int64_t slot_count;
} block;

/* The distinct rows of a field. */
typedef struct distinct {
  uint64_t row[AMTL_BLOCK];
  span spans[AMTL_BLOCK];
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
INLINE void share_rows(const block *b, distinct *d, part *p, pair *pairs) {
  for (int64_t i = 0; i < d->count; i++)
    if (d->times[i] > 1) d->first[i] = (uint16_t)(b->many + p->shared++);
  p->pairs = pairs;
  if (p->shared == 0) return;
  for (int64_t i = 0; i < b->many; i++) {
    pairs[p->pair_count] = (pair){(uint16_t)i, d->first[d->which[i]]};
    p->pair_count += d->times[d->which[i]] > 1;
  }
}

INLINE enum amtl_fault pack_field(const amtl_table *t, block *b, int64_t field, enum amtl_value value,
                                  enum amtl_place place) {
  /* A single block is read at once. Of several, one waits in the second level while the weights go through the first. */
  const enum cache level = t->lookups <= AMTL_SINGLE * t->fields ? FIRST_LEVEL : SECOND_LEVEL;
  distinct d;
  uint16_t order[AMTL_BLOCK], *const to = b->to + field * b->many;
  find_distinct(t, b, field, &d, place, level);
  const enum amtl_fault fault = find_spans(t, &d, value, place, level);
  if (fault != AMTL_FINE) return fault;
  sort_by_length(t, b, &d, order);
  part *const p = &b->parts[field];
  *p = (part){.groups = b->groups};
  share_rows(b, &d, p, b->pairs + field * b->many);
  for (int64_t from = 0; from < d.count; from += TILE_ROWS) {
    const int64_t members = d.count - from < TILE_ROWS ? d.count - from : TILE_ROWS, k = d.spans[order[from]].n;
    if (k == 0) break;
    *b->groups++ = (group){b->x, to + from, k, members}, p->group_count++;
    for (int64_t m = from; m < from + members; m++, b->x += k) {
      const uint16_t i = order[m];
      to[m] = d.first[i];
      write_row(b->x, t, d.spans[i], scale_of(t, d.row[i], place), k, value);
    }
  }
  return AMTL_FINE;
}

INLINE enum amtl_fault pack(const amtl_table *t, block *b, enum amtl_value value, enum amtl_place place) {
  enum amtl_fault fault = AMTL_FINE;
  for (int64_t field = 0; field < t->fields && fault == AMTL_FINE; field++) fault = pack_field(t, b, field, value, place);
  return fault;
}

/* sums[to[m]] += x[m] * w: `members` rows by `panels` panels, panels `stride` floats apart. */
INLINE void multiply(const group *g, const float *w, int64_t stride, float *sums, const int members, const int panels) {
  wide product[TILE_ROWS][TILE_PANELS * PER_PANEL] = {0};
  const float *x = g->x;
  const int64_t k = g->k;
  float *to[TILE_ROWS];
#pragma GCC unroll 8
  for (int m = 0; m < members; m++) to[m] = sums + g->to[m] * STRIP;
  for (int64_t j = 0; j < k; j++, w += AMTL_PANEL, x++) {
    wide row[TILE_PANELS * PER_PANEL];
#pragma GCC unroll 16
    for (int v = 0; v < panels * PER_PANEL; v++)
      row[v] = *(const wide *)(w + (v / PER_PANEL) * stride + (v % PER_PANEL) * WIDE);
#pragma GCC unroll 8
    for (int m = 0; m < members; m++)
#pragma GCC unroll 16
      for (int v = 0; v < panels * PER_PANEL; v++) product[m][v] += row[v] * x[m * k];
  }
#pragma GCC unroll 8
  for (int m = 0; m < members; m++)
#pragma GCC unroll 16
    for (int v = 0; v < panels * PER_PANEL; v++) *(wide *)(to[m] + v * WIDE) += product[m][v];
}

/* A function for each shape: inlined together, their loops would run out of registers. */
typedef void tile(const group *g, const float *w, int64_t stride, float *sums);
#define TILE(members, panels)                                                                         \
  static __attribute__((noinline)) void tile_##members##_##panels(const group *g, const float *w,     \
                                                                  int64_t stride, float *sums) {      \
    multiply(g, w, stride, sums, members, panels);                                                    \
  }
#define TILES(panels) TILE(1, panels) TILE(2, panels) TILE(3, panels) TILE(4, panels) TILE(5, panels) TILE(6, panels)
#define TILE_NAMES(panels) \
  {tile_1_##panels, tile_2_##panels, tile_3_##panels, tile_4_##panels, tile_5_##panels, tile_6_##panels}
#if TILE_PANELS == 4
TILES(1) TILES(2) TILES(3) TILES(4)
static tile *const tiles[TILE_PANELS][TILE_ROWS] = {TILE_NAMES(1), TILE_NAMES(2), TILE_NAMES(3), TILE_NAMES(4)};
#else
TILES(1)
static tile *const tiles[TILE_PANELS][TILE_ROWS] = {TILE_NAMES(1)};
#endif

/* One field's products of one strip. */
INLINE void multiply_part(const part *p, const block *b, const float *w, int64_t stride, int64_t panels) {
  memset(b->sums + b->many * STRIP, 0, (size_t)(p->shared * STRIP) * sizeof(float));
  for (int64_t i = 0; i < p->group_count; i++) {
    const group *g = &p->groups[i];
    tiles[panels - 1][g->members - 1](g, w, stride, b->sums);
  }
  for (int64_t i = 0; i < p->pair_count; i++) {
    float *const sums = b->sums + p->pairs[i].example * STRIP;
    const float *const product = b->sums + p->pairs[i].shared * STRIP;
    for (int v = 0; v < STRIP; v += WIDE) *(wide *)(sums + v) += *(const wide *)(product + v);
  }
}

INLINE void multiply_block(const amtl_table *t, const amtl_linear *layer, const block *b, float *out) {
  const int64_t stride = t->fields * t->dim * AMTL_PANEL;
  for (int64_t first = 0; first < layer->outputs; first += STRIP) {
    const int64_t left = layer->outputs - first, width = left < STRIP ? left : STRIP;
    const int64_t panels = (width + AMTL_PANEL - 1) / AMTL_PANEL;
    float bias[STRIP] = {0};
    memcpy(bias, layer->bias + first, (size_t)width * sizeof *bias);
    for (int64_t i = 0; i < b->many; i++) memcpy(b->sums + i * STRIP, bias, sizeof bias);
    const float *w = layer->weights + first / AMTL_PANEL * stride;
    for (int64_t field = 0; field < t->fields; field++, w += t->dim * AMTL_PANEL)
      multiply_part(&b->parts[field], b, w, stride, panels);
    for (int64_t i = 0; i < b->many; i++)
      for (int64_t c = 0; c < width; c++) {
        const float sum = b->sums[i * STRIP + c];
        out[i * layer->outputs + first + c] = sum < layer->least ? layer->least : sum; /* NaN stays NaN */
      }
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
  b->x = taken(memory, &bytes, t->fields * most * t->dim, sizeof *b->x);
  b->sums = taken(memory, &bytes, (most + most / 2) * STRIP, sizeof *b->sums);
  b->groups = taken(memory, &bytes, t->fields * ((most + TILE_ROWS - 1) / TILE_ROWS), sizeof *b->groups);
  b->parts = taken(memory, &bytes, t->fields, sizeof *b->parts);
  b->pairs = taken(memory, &bytes, t->fields * most, sizeof *b->pairs);
  b->lengths = taken(memory, &bytes, t->dim + 2, sizeof *b->lengths);
  b->to = taken(memory, &bytes, t->fields * most, sizeof *b->to);
  b->slots = taken(memory, &bytes, b->slot_count, sizeof *b->slots);
  return bytes;
}

enum amtl_fault AMTL_NAME(linear)(const amtl_table *t, const amtl_linear *layer, float *out, int64_t begin,
                                  int64_t end) {
  const int64_t size = amtl_block_size(t), most = end - begin < size ? end - begin : size;
  block b = {0};
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
