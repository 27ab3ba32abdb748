/* Drives the lookup loop with tables and ids drawn from a seed; built with the address and undefined-behaviour
 * sanitizers, every buffer exactly as large as it may be. Prints how many lookups were checked.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ragged_gather.h"

static uint64_t state;

static uint64_t draw(void) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return state;
}
static int64_t below(int64_t n) { return (int64_t)(draw() % (uint64_t)n); }

static int64_t hostile(int64_t size) {
  switch (below(8)) {
    case 0: return INT64_MIN;
    case 1: return INT64_MAX;
    case 2: return -1;
    case 3: return size;
    case 4: return -size;
    case 5: return (int64_t)draw();
    default: return below(size);
  }
}

static void *taken(size_t bytes) {
  void *p = malloc(bytes ? bytes : 1);
  if (p == NULL) abort();
  return p;
}

/* The same, the plain way. */
static void reference(const amtl_ragged *t, float *out) {
  for (int64_t i = 0; i < t->lookups; i++) {
    int64_t field = i % t->fields, id = t->ids[i];
    int64_t row = (id < 0 || id >= t->sizes[field] ? 0 : id) + t->shifts[field];
    int64_t first = t->wide ? ((const int64_t *)t->offsets)[row] : ((const int32_t *)t->offsets)[row];
    int64_t last = t->wide ? ((const int64_t *)t->offsets)[row + 1] : ((const int32_t *)t->offsets)[row + 1];
    for (int64_t j = 0; j < t->dim; j++) out[i * t->dim + j] = first + j < last ? t->values[first + j] : 0.0f;
  }
}

static int64_t once(void) {
  int64_t fields = 1 + below(4), dim = 1 + below(below(20) == 0 ? 3000 : 70), rows = 0, count = 0;
  int64_t *sizes = taken((size_t)fields * 8), *shifts = taken((size_t)fields * 8);
  for (int64_t f = 0; f < fields; f++) sizes[f] = 1 + below(30), shifts[f] = rows, rows += sizes[f];
  int wide = (int)below(2);
  int64_t *dims = taken((size_t)rows * 8);
  for (int64_t r = 0; r < rows; r++) count += dims[r] = below(4) == 0 ? 0 : below(dim + 1);
  void *offsets = taken((size_t)(rows + 1) * (wide ? 8 : 4));
  for (int64_t r = 0, at = 0; r <= rows; at += r < rows ? dims[r] : 0, r++)
    if (wide) ((int64_t *)offsets)[r] = at;
    else ((int32_t *)offsets)[r] = (int32_t)at;
  float *values = taken((size_t)count * 4);
  for (int64_t i = 0; i < count; i++) values[i] = (float)below(1000) - 500.0f;
  int64_t lookups = fields * below(40);
  int64_t *ids = taken((size_t)lookups * 8);
  for (int64_t i = 0; i < lookups; i++) ids[i] = hostile(sizes[i % fields]);
  size_t bytes = (size_t)(lookups * dim) * 4;
  float *out = taken(bytes), *expected = taken(bytes);
  memset(out, 0xff, bytes);
  amtl_ragged t = {values, offsets, ids, sizes, shifts, out, count, rows, lookups, fields, dim, wide};
  reference(&t, expected);
  int64_t middle = lookups ? below(lookups + 1) : 0; /* as two threads would */
  if (amtl_ragged_gather(&t, 0, middle) != AMTL_FINE || amtl_ragged_gather(&t, middle, lookups) != AMTL_FINE ||
      memcmp(out, expected, bytes) != 0) {
    fprintf(stderr, "a lookup differs\n");
    exit(1);
  }
  /* A table that contradicts itself must be refused, not followed. */
  int64_t spoilt = below(rows + 1), to = below(2) ? (int64_t)(int32_t)draw() : below(count + dim + 2) - 1;
  if (wide) ((int64_t *)offsets)[spoilt] = below(2) ? (int64_t)draw() : to;
  else ((int32_t *)offsets)[spoilt] = (int32_t)to;
  (void)amtl_ragged_gather(&t, 0, lookups);
  sizes[below(fields)] = hostile(30), shifts[below(fields)] = hostile(30);
  (void)amtl_ragged_gather(&t, 0, lookups);
  free(sizes), free(shifts), free(dims), free(offsets), free(values), free(ids), free(out), free(expected);
  return lookups;
}

int main(int argc, char **argv) {
  int64_t tables = argc > 1 ? atoll(argv[1]) : 1000, checked = 0;
  state = argc > 2 ? (uint64_t)atoll(argv[2]) : 1;
  while (tables-- > 0) checked += once();
  printf("%lld\n", (long long)checked);
  return 0;
}
