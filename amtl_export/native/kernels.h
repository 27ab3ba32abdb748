/* The loops, compiled once for each instruction set by the file that includes this. It defines AMTL_NAME(loop), and for
 * the last loop's registers WIDE, floats in a vector, and TILE_PANELS, panels of weights that are multiplied at a time.
 */
#include <stdlib.h>

#include "kernels_for.h"
#include "rows.h"

/* A lookup whose row was found. */
typedef struct found {
  span s;
  float scale;
} found;

/* Lookups in steps: while the rows of one step are read, those of the next are on their way, and the places of the rows
 * after those.
 */
enum { STEP = 24, WRITTEN_AHEAD = 8 };

typedef struct lookups {
  cursor next;
  int64_t end;
  uint64_t rows[2][STEP]; /* whose places were asked for: of the next step and of the one after it */
  found ready[2][STEP];   /* whose values were asked for: of this step and of the next one */
  int64_t many, many_ready;
  int turn;
} lookups;

INLINE void find_rows(const amtl_table *t, lookups *all, uint64_t *rows, enum amtl_place place) {
  const int64_t left = all->end - all->next.at;
  all->many = left < STEP ? left : STEP;
  for (int64_t i = 0; i < all->many; i++) {
    rows[i] = row_of(t, all->next);
    prefetch_place(t, rows[i], place, SECOND_LEVEL);
    move_on(t, &all->next);
  }
}

/* Makes the next step ready. */
INLINE enum amtl_fault find_next(const amtl_table *t, lookups *all, enum amtl_value value, enum amtl_place place) {
  const uint64_t *const rows = all->rows[all->turn];
  all->many_ready = all->many;
  all->turn = !all->turn;
  find_rows(t, all, all->rows[all->turn], place);
  found *const ready = all->ready[all->turn];
  for (int64_t i = 0; i < all->many_ready; i++) {
    if (rows[i] >= (uint64_t)t->rows) return AMTL_BAD_ROW;
    const span s = span_of(t, rows[i], place);
    if (!is_sound(t, s)) return AMTL_BAD_OFFSETS;
    prefetch(address_of(t, s.first, value), SECOND_LEVEL);
    ready[i] = (found){s, scale_of(t, rows[i], place)};
  }
  for (int64_t i = 0; i < all->many_ready; i++) prefetch_rest(t, ready[i].s, value, SECOND_LEVEL);
  return AMTL_FINE;
}

INLINE enum amtl_fault find_first(const amtl_table *t, lookups *all, int64_t begin, int64_t end, enum amtl_value value,
                                  enum amtl_place place) {
  all->next = cursor_at(t, begin), all->end = end, all->turn = 0;
  find_rows(t, all, all->rows[0], place);
  return find_next(t, all, value, place);
}

INLINE enum amtl_fault gather(const amtl_table *shared, float *out, int64_t begin, int64_t end, enum amtl_value value,
                              enum amtl_place place) {
  const amtl_table table = *shared, *const t = &table; /* a copy: what is written to `out` cannot change it */
  lookups all;
  enum amtl_fault fault = find_first(t, &all, begin, end, value, place);
  for (float *to = out + begin * t->dim; all.many_ready > 0 && fault == AMTL_FINE;) {
    const found *const now = all.ready[all.turn];
    const int64_t many = all.many_ready;
    fault = find_next(t, &all, value, place);
    for (int64_t i = 0; i < many; i++, to += t->dim) {
      prefetch_written(to, WRITTEN_AHEAD, t->dim);
      write_row(to, t, now[i].s, now[i].scale, t->dim, value);
    }
  }
  return fault;
}

enum amtl_fault AMTL_NAME(gather)(const amtl_table *t, float *out, int64_t begin, int64_t end) {
  return WITH_TYPES(t, gather, t, out, begin, end);
}

INLINE enum amtl_fault sum(const amtl_table *shared, int64_t length, float *out, int64_t begin, int64_t end,
                           enum amtl_value value, enum amtl_place place) {
  const amtl_table table = *shared, *const t = &table;
  memset(out + begin * t->dim, 0, (size_t)((end - begin) * t->dim) * sizeof(float));
  lookups all;
  enum amtl_fault fault = find_first(t, &all, begin * length, end * length, value, place);
  float *total = out + begin * t->dim;
  for (int64_t left = length; all.many_ready > 0 && fault == AMTL_FINE;) {
    const found *const now = all.ready[all.turn];
    const int64_t many = all.many_ready;
    fault = find_next(t, &all, value, place);
    for (int64_t i = 0; i < many; i++) {
      add_row(total, t, now[i].s, now[i].scale, value);
      if (--left == 0) left = length, total += t->dim;
    }
  }
  return fault;
}

enum amtl_fault AMTL_NAME(sum)(const amtl_table *t, int64_t length, float *out, int64_t begin, int64_t end) {
  return WITH_TYPES(t, sum, t, length, out, begin, end);
}

/* The layer works on blocks of examples. Field by field, it sorts a block's rows by length and packs them in
 * groups of TILE_ROWS, each padded to its longest row only: the multiplication stops where the group's numbers end.
 * Then, for one strip of weight columns after the other, it adds up every group's product in registers.
 */
enum { TILE_ROWS = 6, STRIP = TILE_PANELS * AMTL_PANEL, PER_PANEL = AMTL_PANEL / WIDE };

typedef float wide __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));

typedef struct group {
  const float *x;        /* [members, k] */
  const uint16_t *order; /* [members] examples of the block */
  int64_t k, members, field;
} group;

typedef struct block {
  int64_t begin, many; /* examples */
  group *groups;
  int64_t count; /* of groups */
  float *x;      /* where the next group is packed */
  float *sums;   /* [AMTL_BLOCK, STRIP] */
  int64_t *lengths;
  uint16_t *order; /* [fields, AMTL_BLOCK] */
} block;

INLINE enum amtl_fault pack_field(const amtl_table *t, block *b, int64_t field, enum amtl_value value,
                                  enum amtl_place place) {
  /* A single block is read at once. Of several, one waits in the second level while the weights go through the first. */
  const enum cache level = t->lookups <= AMTL_BLOCK * t->fields ? FIRST_LEVEL : SECOND_LEVEL;
  span spans[AMTL_BLOCK];
  uint64_t rows[AMTL_BLOCK];
  for (int64_t i = 0; i < b->many; i++) {
    rows[i] = row_of(t, (cursor){(b->begin + i) * t->fields + field, field});
    prefetch_place(t, rows[i], place, level);
  }
  int64_t *const before = b->lengths; /* how many rows are longer than dim - i */
  memset(before, 0, (size_t)(t->dim + 2) * sizeof *before);
  for (int64_t i = 0; i < b->many; i++) {
    if (rows[i] >= (uint64_t)t->rows) return AMTL_BAD_ROW;
    spans[i] = span_of(t, rows[i], place);
    if (!is_sound(t, spans[i])) return AMTL_BAD_OFFSETS;
    prefetch(address_of(t, spans[i].first, value), level);
    before[t->dim - spans[i].n + 1]++;
  }
  for (int64_t i = 0; i < b->many; i++) prefetch_rest(t, spans[i], value, level);
  for (int64_t i = 1; i <= t->dim + 1; i++) before[i] += before[i - 1];
  uint16_t *const order = b->order + field * AMTL_BLOCK;
  for (int64_t i = 0; i < b->many; i++) order[before[t->dim - spans[i].n]++] = (uint16_t)i;
  for (int64_t from = 0; from < b->many; from += TILE_ROWS) {
    const int64_t members = b->many - from < TILE_ROWS ? b->many - from : TILE_ROWS, k = spans[order[from]].n;
    if (k == 0) break;
    b->groups[b->count++] = (group){b->x, order + from, k, members, field};
    for (int64_t m = 0; m < members; m++, b->x += k) {
      const int64_t i = order[from + m];
      write_row(b->x, t, spans[i], scale_of(t, rows[i], place), k, value);
    }
  }
  return AMTL_FINE;
}

INLINE enum amtl_fault pack(const amtl_table *t, block *b, enum amtl_value value, enum amtl_place place) {
  enum amtl_fault fault = AMTL_FINE;
  for (int64_t field = 0; field < t->fields && fault == AMTL_FINE; field++) fault = pack_field(t, b, field, value, place);
  return fault;
}

/* sums[order[m]] += x[m] * w: `members` examples by `panels` panels, panels `stride` floats apart. */
INLINE void multiply(const group *g, const float *w, int64_t stride, float *sums, const int members, const int panels) {
  wide sum[TILE_ROWS][TILE_PANELS * PER_PANEL];
#pragma GCC unroll 8
  for (int m = 0; m < members; m++)
#pragma GCC unroll 16
    for (int v = 0; v < panels * PER_PANEL; v++) sum[m][v] = *(const wide *)(sums + g->order[m] * STRIP + v * WIDE);
  const float *x = g->x;
  const int64_t k = g->k;
  for (int64_t j = 0; j < k; j++, w += AMTL_PANEL, x++) {
    wide row[TILE_PANELS * PER_PANEL];
#pragma GCC unroll 16
    for (int v = 0; v < panels * PER_PANEL; v++)
      row[v] = *(const wide *)(w + (v / PER_PANEL) * stride + (v % PER_PANEL) * WIDE);
#pragma GCC unroll 8
    for (int m = 0; m < members; m++)
#pragma GCC unroll 16
      for (int v = 0; v < panels * PER_PANEL; v++) sum[m][v] += row[v] * x[m * k];
  }
#pragma GCC unroll 8
  for (int m = 0; m < members; m++)
#pragma GCC unroll 16
    for (int v = 0; v < panels * PER_PANEL; v++) *(wide *)(sums + g->order[m] * STRIP + v * WIDE) = sum[m][v];
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

INLINE void multiply_block(const amtl_table *t, const amtl_linear *layer, const block *b, float *out) {
  const int64_t stride = t->fields * t->dim * AMTL_PANEL;
  for (int64_t first = 0; first < layer->outputs; first += STRIP) {
    const int64_t left = layer->outputs - first, width = left < STRIP ? left : STRIP;
    const int64_t panels = (width + AMTL_PANEL - 1) / AMTL_PANEL;
    for (int64_t i = 0; i < b->many; i++)
      for (int64_t c = 0; c < panels * AMTL_PANEL; c++) b->sums[i * STRIP + c] = c < width ? layer->bias[first + c] : 0.0f;
    const float *weights = layer->weights + first / AMTL_PANEL * stride;
    for (int64_t i = 0; i < b->count; i++) {
      const group *g = &b->groups[i];
      tiles[panels - 1][g->members - 1](g, weights + g->field * t->dim * AMTL_PANEL, stride, b->sums);
    }
    for (int64_t i = 0; i < b->many; i++)
      for (int64_t c = 0; c < width; c++) {
        const float sum = b->sums[i * STRIP + c];
        out[i * layer->outputs + first + c] = sum < layer->least ? layer->least : sum; /* NaN stays NaN */
      }
  }
}

enum amtl_fault AMTL_NAME(linear)(const amtl_table *t, const amtl_linear *layer, float *out, int64_t begin,
                                  int64_t end) {
  const int64_t most = end - begin < AMTL_BLOCK ? end - begin : AMTL_BLOCK;
  const size_t groups = (size_t)(t->fields * ((most + TILE_ROWS - 1) / TILE_ROWS)) * sizeof(group);
  const size_t lengths = (size_t)(t->dim + 2) * sizeof(int64_t);
  const size_t sums = (size_t)(most * STRIP) * sizeof(float);
  const size_t x = (size_t)(t->fields * most * t->dim) * sizeof(float);
  const size_t order = (size_t)(t->fields * AMTL_BLOCK) * sizeof(uint16_t);
  char *const memory = malloc(groups + lengths + sums + x + order), *at = memory;
  if (memory == NULL) return AMTL_NO_MEMORY;
  block b = {0};
  b.groups = (group *)at, at += groups;
  b.lengths = (int64_t *)at, at += lengths;
  b.sums = (float *)at, at += sums;
  float *const packed = (float *)at;
  b.order = (uint16_t *)(at + x);
  enum amtl_fault fault = AMTL_FINE;
  for (b.begin = begin; b.begin < end && fault == AMTL_FINE; b.begin += b.many) {
    b.many = end - b.begin < AMTL_BLOCK ? end - b.begin : AMTL_BLOCK;
    b.count = 0, b.x = packed;
    fault = WITH_TYPES(t, pack, t, &b);
    if (fault == AMTL_FINE) multiply_block(t, layer, &b, out + b.begin * layer->outputs);
  }
  free(memory);
  return fault;
}
