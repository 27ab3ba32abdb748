/* What the operators answer, number by number; and what both fuzz programs draw and allocate with. */
#ifndef REFERENCE_H
#define REFERENCE_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"

static uint64_t state = 1;

static inline uint64_t draw(void) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return state;
}
static inline int64_t below(int64_t n) { return (int64_t)(draw() % (uint64_t)n); }
/* Once in n. */
static inline int rarely(int64_t n) { return below(n) == 0; }

/* An id, which may be outside [0, size). */
static inline int64_t out_of_range(int64_t size) {
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

static inline void *allocated(size_t bytes) {
  void *p = malloc(bytes ? bytes : 1);
  if (p == NULL) abort();
  return p;
}

static inline void put_offset(void *to, enum amtl_offset type, int64_t i, int64_t value) {
  if (type == AMTL_UINT16) ((uint16_t *)to)[i] = (uint16_t)value;
  else if (type == AMTL_INT32) ((int32_t *)to)[i] = (int32_t)value;
  else ((int64_t *)to)[i] = value;
}

static inline int64_t get_offset(const void *from, enum amtl_offset type, int64_t i) {
  if (type == AMTL_UINT16) return ((const uint16_t *)from)[i];
  if (type == AMTL_INT32) return ((const int32_t *)from)[i];
  return ((const int64_t *)from)[i];
}

/* A number as it is stored, before its scale. */
static inline float stored_number(const void *values, enum amtl_value type, int64_t i) {
  if (type == AMTL_FLOAT32) return ((const float *)values)[i];
  if (type == AMTL_INT8) return ((const int8_t *)values)[i];
  if (type == AMTL_INT4) return (float)(((const uint8_t *)values)[i / 2] >> (i % 2 ? 4 : 0) & 15) - 8.0f;
  uint16_t half = ((const uint16_t *)values)[i];
  int exponent = half >> 10 & 31, fraction = half & 1023;
  float size = exponent ? ldexpf((float)(1024 + fraction), exponent - 25) : ldexpf((float)fraction, -24);
  return half & 0x8000 ? -size : size;
}

static const int64_t offset_bytes[] = {2, 4, 8}, value_bytes[] = {4, 2, 1, 1};

/* Random numbers of a type, `count` of what offsets count. */
static inline void draw_values(void *values, enum amtl_value type, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    if (type == AMTL_FLOAT32) ((float *)values)[i] = (float)below(1000) - 500.0f;
    else if (type == AMTL_FLOAT16) ((uint16_t *)values)[i] = (uint16_t)(below(0x5000) | (draw() & 0x8000));
    else ((uint8_t *)values)[i] = (uint8_t)draw();
  }
}

#endif
