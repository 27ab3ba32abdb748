/* The loops as compiled for each instruction set. */
#ifndef AMTL_KERNELS_FOR_H
#define AMTL_KERNELS_FOR_H

#include "table.h"

#define AMTL_DECLARE(set)                                                                                         \
  enum amtl_fault amtl_gather_##set(const amtl_table *table, float *out, int64_t begin, int64_t end);             \
  enum amtl_fault amtl_sum_##set(const amtl_table *table, int64_t length, float *out, int64_t begin, int64_t end); \
  enum amtl_fault amtl_linear_##set(const amtl_table *table, const amtl_linear *layer, float *out, int64_t begin, \
                                    int64_t end);
AMTL_DECLARE(scalar)
#if defined(__x86_64__)
AMTL_DECLARE(avx2)
AMTL_DECLARE(avx512)
AMTL_DECLARE(vnni)
#endif

#endif
