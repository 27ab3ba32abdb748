/* The loops, compiled once for each instruction set by the file that includes this. It defines AMTL_NAME(loop), and for
 * the layer's registers AMTL_WIDE, floats in a vector, and AMTL_TILE_PANELS, panels of weights that are multiplied at a time.
 */
#include "kernels_for.h"
#include "dense_loops.h"
#include "layer.h"
#include "rows.h"

/* A lookup whose row was found. */
typedef struct amtl_found_row {
  amtl_span s;
  float scale;
} amtl_found_row;

/* Lookups in steps: while the rows of one step are read, those of the next are on their way, and the offsets of the
 * rows after those.
 */
enum { AMTL_STEP = 24, AMTL_WRITTEN_AHEAD = 8 };

typedef struct amtl_lookups {
  amtl_cursor next;
  int64_t end;
  uint64_t rows[2][AMTL_STEP];        /* whose offsets were asked for: of the next step and of the one after it */
  amtl_found_row ready[2][AMTL_STEP]; /* whose values were asked for: of this step and of the next one */
  int64_t many, many_ready;
  int turn;
} amtl_lookups;

AMTL_INLINE void amtl_find_rows(const amtl_table *t, amtl_lookups *all, uint64_t *rows, enum amtl_offset offset) {
  const int64_t left = all->end - all->next.at;
  all->many = left < AMTL_STEP ? left : AMTL_STEP;
  for (int64_t i = 0; i < all->many; i++) {
    rows[i] = amtl_row_of(t, all->next);
    amtl_prefetch_offset(t, rows[i], offset, AMTL_SECOND_LEVEL);
    amtl_move_on(t, &all->next);
  }
}

/* Makes the next step ready. */
AMTL_INLINE enum amtl_fault amtl_find_next(const amtl_table *t, amtl_lookups *all, enum amtl_value value,
                                           enum amtl_offset offset) {
  const uint64_t *const rows = all->rows[all->turn];
  all->many_ready = all->many;
  all->turn = !all->turn;
  amtl_find_rows(t, all, all->rows[all->turn], offset);
  amtl_found_row *const ready = all->ready[all->turn];
  for (int64_t i = 0; i < all->many_ready; i++) {
    amtl_span s;
    if (!amtl_find_span(t, rows[i], &s, value, offset)) return AMTL_BAD_OFFSETS;
    amtl_prefetch(amtl_address_of(t, s.first, value), AMTL_SECOND_LEVEL);
    ready[i] = (amtl_found_row){s, amtl_scale_of(t, rows[i], offset)};
  }
  for (int64_t i = 0; i < all->many_ready; i++) amtl_prefetch_rest(t, ready[i].s, value, AMTL_SECOND_LEVEL);
  return AMTL_FINE;
}

AMTL_INLINE enum amtl_fault amtl_find_first(const amtl_table *t, amtl_lookups *all, int64_t begin, int64_t end,
                                            enum amtl_value value, enum amtl_offset offset) {
  all->next = amtl_cursor_at(t, begin), all->end = end, all->turn = 0;
  amtl_find_rows(t, all, all->rows[0], offset);
  return amtl_find_next(t, all, value, offset);
}

AMTL_INLINE enum amtl_fault amtl_gather_rows(const amtl_table *shared, float *out, int64_t begin, int64_t end,
                                             enum amtl_value value, enum amtl_offset offset) {
  const amtl_table table = *shared, *const t = &table; /* a copy: what is written to `out` cannot change it */
  amtl_lookups all;
  enum amtl_fault fault = amtl_find_first(t, &all, begin, end, value, offset);
  for (float *to = out + begin * t->dim; all.many_ready > 0 && fault == AMTL_FINE;) {
    const amtl_found_row *const now = all.ready[all.turn];
    const int64_t many = all.many_ready;
    fault = amtl_find_next(t, &all, value, offset);
    for (int64_t i = 0; i < many; i++, to += t->dim) {
      amtl_prefetch_written(to, AMTL_WRITTEN_AHEAD, t->dim);
      amtl_write_row(to, t, now[i].s, now[i].scale, t->dim, value);
    }
  }
  return fault;
}

enum amtl_fault AMTL_NAME(gather)(const amtl_table *t, float *out, int64_t begin, int64_t end) {
  return AMTL_WITH_TYPES(t, amtl_gather_rows, t, out, begin, end);
}

/* (sum of an example's rows)² - sum of their squares, from both sums; the squares begin anew. */
AMTL_INLINE void amtl_finish_pairs(float *restrict total, float *restrict squares, int64_t dim) {
  for (int64_t i = 0; i < dim; i++) {
    total[i] = total[i] * total[i] - squares[i];
    squares[i] = 0.0f;
  }
}

/* Sums of rows; with `squares`, [dim], what pairs of rows come to. */
AMTL_INLINE enum amtl_fault amtl_sum_rows(const amtl_table *shared, int64_t length, float *out, int64_t begin, int64_t end,
                                          float *squares, enum amtl_value value, enum amtl_offset offset) {
  const amtl_table table = *shared, *const t = &table;
  const size_t bytes = (size_t)t->dim * sizeof(float);
  float sums[AMTL_SHORT] = {0.0f}, of_squares[AMTL_SHORT] = {0.0f};
  const int is_short = t->dim <= AMTL_SHORT; /* summed here, then written */
  if (!is_short || length == 0) memset(out + begin * t->dim, 0, (size_t)(end - begin) * bytes);
  if (squares != NULL && is_short) squares = of_squares;
  if (squares != NULL && !is_short) memset(squares, 0, bytes);
  amtl_lookups all;
  enum amtl_fault fault = amtl_find_first(t, &all, begin * length, end * length, value, offset);
  float *to = out + begin * t->dim;
  for (int64_t left = length; all.many_ready > 0 && fault == AMTL_FINE;) {
    const amtl_found_row *const now = all.ready[all.turn];
    const int64_t many = all.many_ready;
    fault = amtl_find_next(t, &all, value, offset);
    for (int64_t i = 0; i < many; i++) {
      float *const total = is_short ? sums : to;
      amtl_add_row(total, squares, t, now[i].s, now[i].scale, value);
      if (--left > 0) continue;
      if (squares != NULL) amtl_finish_pairs(total, squares, t->dim);
      if (is_short) memcpy(to, sums, bytes), memset(sums, 0, sizeof sums);
      left = length, to += t->dim;
    }
  }
  return fault;
}

enum amtl_fault AMTL_NAME(sum)(const amtl_table *t, int64_t length, float *out, int64_t begin, int64_t end) {
  return AMTL_WITH_TYPES(t, amtl_sum_rows, t, length, out, begin, end, NULL);
}

enum amtl_fault AMTL_NAME(pairs)(const amtl_table *t, int64_t length, float *out, int64_t begin, int64_t end, void *scratch) {
  return AMTL_WITH_TYPES(t, amtl_sum_rows, t, length, out, begin, end, (float *)scratch);
}
