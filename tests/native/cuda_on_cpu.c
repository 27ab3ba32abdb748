/* The threads of a GPU one after the other, as kernels that fuzz.c drives like the others, and launches that register.c asks for. */
#include "cuda_launch.h"
#include "cuda_threads.h"

AMTL_INLINE enum amtl_fault gather(const amtl_table *t, float *out, int64_t begin, int64_t end, enum amtl_value value,
                                   enum amtl_offset offset) {
  for (int64_t group = (end - begin + AMTL_ROWS) / AMTL_ROWS; group >= 0;
       group--) /* in no order that they rely on; one too many */
    for (int lane = AMTL_LANES - 1; lane >= 0; lane--) amtl_gather_thread(t, out, begin, end, group, lane, value, offset);
  return AMTL_FINE;
}

AMTL_INLINE enum amtl_fault sum(const amtl_table *t, int64_t length, float *out, int64_t begin, int64_t end,
                                enum amtl_value value, enum amtl_offset offset) {
  for (int64_t group = end - begin; group >= 0; group--)
    for (int lane = AMTL_LANES - 1; lane >= 0; lane--)
      amtl_sum_thread(t, length, out, begin, end, group, lane, value, offset);
  return AMTL_FINE;
}

enum amtl_fault amtl_gather_cuda(const amtl_table *t, float *out, int64_t begin, int64_t end);
enum amtl_fault amtl_sum_cuda(const amtl_table *t, int64_t length, float *out, int64_t begin, int64_t end);

enum amtl_fault amtl_gather_cuda(const amtl_table *t, float *out, int64_t begin, int64_t end) {
  return AMTL_WITH_TYPES(t, gather, t, out, begin, end);
}

enum amtl_fault amtl_sum_cuda(const amtl_table *t, int64_t length, float *out, int64_t begin, int64_t end) {
  return AMTL_WITH_TYPES(t, sum, t, length, out, begin, end);
}

const char *amtl_cuda_gather(const amtl_table *t, float *out, void *stream) {
  (void)stream, (void)amtl_gather_cuda(t, out, 0, t->lookups);
  return NULL;
}

const char *amtl_cuda_sum(const amtl_table *t, int64_t length, int64_t examples, float *out, void *stream) {
  (void)stream, (void)amtl_sum_cuda(t, length, out, 0, examples);
  return NULL;
}
