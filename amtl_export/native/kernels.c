/* The widest instruction set that this processor has. */
#include "kernels_for.h"

#if defined(__x86_64__)
static int has_avx512(void) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
static int has_vnni(void) { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#define WIDEST(loop)                        \
  (has_vnni()     ? amtl_##loop##_vnni   \
   : has_avx512() ? amtl_##loop##_avx512 \
   : has_avx2()   ? amtl_##loop##_avx2   \
                  : amtl_##loop##_scalar)
#else
#define WIDEST(loop) amtl_##loop##_scalar
#endif

enum amtl_fault amtl_ragged_gather(const amtl_table *table, float *out, int64_t begin, int64_t end) {
  return WIDEST(gather)(table, out, begin, end);
}

enum amtl_fault amtl_ragged_sum(const amtl_table *table, int64_t length, float *out, int64_t begin, int64_t end) {
  return WIDEST(sum)(table, length, out, begin, end);
}

enum amtl_fault amtl_ragged_linear(const amtl_table *table, const amtl_linear *layer, float *out, int64_t begin,
                                   int64_t end) {
  return WIDEST(linear)(table, layer, out, begin, end);
}
