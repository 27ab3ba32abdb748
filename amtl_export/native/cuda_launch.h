/* Launches on a GPU's stream. All pointers of a table, and `out`, are the device's. */
#ifndef AMTL_CUDA_LAUNCH_H
#define AMTL_CUDA_LAUNCH_H

#include "table.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All lookups to out [lookups, dim]; NULL, or what CUDA says went wrong. */
const char *amtl_cuda_gather(const amtl_table *table, float *out, void *stream);

/* Examples of `length` ids of one field each, to out [examples, dim]: the sum of their rows. */
const char *amtl_cuda_sum(const amtl_table *table, int64_t length, int64_t examples, float *out, void *stream);

#ifdef __cplusplus
}
#endif

#endif
