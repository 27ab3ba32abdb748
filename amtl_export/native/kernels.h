/* The loops, compiled once for each instruction set by the file that includes this. It defines AMTL_NAME(loop), and for
 * the layer's registers WIDE, floats in a vector, and TILE_PANELS, panels of weights that are multiplied at a time.
 */
#include "kernels_for.h"
#include "layer.h"
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
