/* The kernels as compiled for each instruction set, and which one a process uses. */
#ifndef AMTL_KERNELS_FOR_H
#define AMTL_KERNELS_FOR_H

#include "dense.h"
#include "table.h"

/* Kernels follow what table.h says of a table and check nothing but row offsets. */
typedef struct amtl_isa {
  const char *name;
  int (*available)(void); /* whether this processor has it */
  /* Lookups [begin, end) to out [lookups, dim]. After a fault `out` is partly written. */
  enum amtl_fault (*gather)(const amtl_table *table, float *out, int64_t begin, int64_t end);
  /* Examples [begin, end) of `length` ids of one field each, to out [examples, dim]: the sum of their rows. */
  enum amtl_fault (*sum)(const amtl_table *table, int64_t length, float *out, int64_t begin, int64_t end);
  /* Examples [begin, end) to out [examples, outputs]: max(rows side by side * weights + bias, least). `scratch` has
   * scratch_bytes(table, end - begin) or more.
   */
  enum amtl_fault (*linear)(const amtl_table *table, const amtl_linear *layer, float *out, int64_t begin, int64_t end,
                            void *scratch);
  size_t (*scratch_bytes)(const amtl_table *table, int64_t examples);
  /* Rows [begin, end) to out [rows, outputs]; `scratch` has amtl_dense_bytes(layer, end - begin) or more. */
  void (*dense)(const amtl_dense *layer, float *out, int64_t begin, int64_t end, void *scratch);
} amtl_isa;

/* From the narrowest to the widest; `scalar` is for any processor. */
extern const amtl_isa amtl_isas[];
extern const size_t amtl_isa_count;

/* The one of this name, or without a name the widest that this processor has; NULL: unknown, or not available. */
const amtl_isa *amtl_choose_isa(const char *name);

/* What the environment's AMTL_FORCE_ISA names, or the widest. Decided once in a process; NULL: see amtl_choose_isa. */
const amtl_isa *amtl_isa_in_use(void);

#define AMTL_DECLARE(set)                                                                                          \
  enum amtl_fault amtl_gather_##set(const amtl_table *table, float *out, int64_t begin, int64_t end);              \
  enum amtl_fault amtl_sum_##set(const amtl_table *table, int64_t length, float *out, int64_t begin, int64_t end); \
  enum amtl_fault amtl_linear_##set(const amtl_table *table, const amtl_linear *layer, float *out, int64_t begin,  \
                                    int64_t end, void *scratch);                                                   \
  size_t amtl_scratch_bytes_##set(const amtl_table *table, int64_t examples);                                      \
  void amtl_dense_##set(const amtl_dense *layer, float *out, int64_t begin, int64_t end, void *scratch);
AMTL_DECLARE(scalar)
#if defined(__x86_64__)
AMTL_DECLARE(avx2)
AMTL_DECLARE(avx512)
AMTL_DECLARE(vnni)
#endif

#endif
