#include "ragged_gather.h"

/* Lookups ahead: first a row's offsets are asked for, then, with them, its values. */
enum { OFFSETS_AHEAD = 16, VALUES_AHEAD = 8, LINE = 64 };

typedef float lane __attribute__((vector_size(32), aligned(4), may_alias));
enum { LANE = 8 };

/* A place in `ids` and its field, moved on without a division. */
typedef struct cursor {
  int64_t at, field;
} cursor;

static inline cursor cursor_at(const amtl_ragged *t, int64_t at) {
  return (cursor){at, at % t->fields};
}

static inline void move_on(const amtl_ragged *t, cursor *c) {
  c->at++;
  c->field = c->field + 1 == t->fields ? 0 : c->field + 1;
}

/* The table row of a lookup; outside [0, rows) where sizes and shifts do not fit the table. */
static inline uint64_t row_of(const amtl_ragged *t, cursor c) {
  uint64_t id = (uint64_t)t->ids[c.at];
  /* One comparison for both ends: a negative id is a huge unsigned one. */
  id = id < (uint64_t)t->sizes[c.field] ? id : 0;
  return id + (uint64_t)t->shifts[c.field];
}

/* `n` numbers, then zeros up to `dim`. Whole lanes; the last one of the numbers overlaps its neighbour. */
static inline void copy_row(float *restrict out, const float *restrict row, int64_t n, int64_t dim) {
  const lane zero = {0};
  int64_t i = 0;
  if (n >= LANE) {
    for (; i + LANE <= n; i += LANE) *(lane *)(out + i) = *(const lane *)(row + i);
    if (i < n) *(lane *)(out + n - LANE) = *(const lane *)(row + n - LANE);
  } else {
    for (; i < n; i++) out[i] = row[i];
  }
  for (i = n; i + LANE <= dim; i += LANE) *(lane *)(out + i) = zero;
  for (; i < dim; i++) out[i] = 0.0f;
}

static inline void prefetch_values(const amtl_ragged *t, int64_t first, int64_t last) {
  if (first < 0 || last > t->count) return;
  for (int64_t i = first; i < last; i += LINE / (int64_t)sizeof(float)) __builtin_prefetch(t->values + i);
}

#define DEFINE_GATHER(NAME, INDEX)                                                                        \
  static enum amtl_fault NAME(const amtl_ragged *t, int64_t begin, int64_t end) {                         \
    const INDEX *offsets = (const INDEX *)t->offsets;                                                     \
    const uint64_t rows = (uint64_t)t->rows;                                                              \
    cursor now = cursor_at(t, begin);                                                                     \
    cursor near = cursor_at(t, begin + VALUES_AHEAD), far = cursor_at(t, begin + OFFSETS_AHEAD);          \
    for (; now.at < end; move_on(t, &now), move_on(t, &near), move_on(t, &far)) {                         \
      if (far.at < end) {                                                                                 \
        uint64_t row = row_of(t, far);                                                                    \
        if (row < rows) __builtin_prefetch(offsets + row);                                                \
      }                                                                                                   \
      if (near.at < end) {                                                                                \
        uint64_t row = row_of(t, near);                                                                   \
        if (row < rows) prefetch_values(t, offsets[row], offsets[row + 1]);                               \
      }                                                                                                   \
      uint64_t row = row_of(t, now);                                                                      \
      if (row >= rows) return AMTL_BAD_ROW;                                                               \
      int64_t first = offsets[row], last = offsets[row + 1];                                              \
      if (first < 0 || last < first || last > t->count || last - first > t->dim) return AMTL_BAD_OFFSETS; \
      copy_row(t->out + now.at * t->dim, t->values + first, last - first, t->dim);                        \
    }                                                                                                     \
    return AMTL_FINE;                                                                                     \
  }

DEFINE_GATHER(gather_narrow, int32_t)
DEFINE_GATHER(gather_wide, int64_t)

enum amtl_fault amtl_ragged_gather(const amtl_ragged *table, int64_t begin, int64_t end) {
  return table->wide ? gather_wide(table, begin, end) : gather_narrow(table, begin, end);
}
