/* RaggedGather and RaggedSum on a GPU: the launches that register.c asks for, compiled with AMTL_CUDA. */
#include <cuda_runtime.h>

#include "cuda_launch.h"
#include "cuda_threads.h"

enum { THREADS = 256, GROUPS = THREADS / AMTL_LANES };

template <int value, int offset>
__global__ void __launch_bounds__(THREADS) gather_kernel(const amtl_table t, float *__restrict__ out) {
  const int64_t group = (int64_t)blockIdx.x * GROUPS + threadIdx.x / AMTL_LANES;
  amtl_gather_thread(&t, out, 0, t.lookups, group, threadIdx.x % AMTL_LANES, (enum amtl_value)value,
                     (enum amtl_offset)offset);
}

template <int value, int offset>
__global__ void __launch_bounds__(THREADS)
    sum_kernel(const amtl_table t, int64_t length, int64_t examples, float *__restrict__ out) {
  const int64_t group = (int64_t)blockIdx.x * GROUPS + threadIdx.x / AMTL_LANES;
  amtl_sum_thread(&t, length, out, 0, examples, group, threadIdx.x % AMTL_LANES, (enum amtl_value)value,
                  (enum amtl_offset)offset);
}

static const char *launched() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? NULL : cudaGetErrorString(error);
}

/* 0: more than a launch can have. */
static unsigned blocks_for(int64_t groups) {
  const int64_t blocks = (groups - 1) / GROUPS + 1;
  return blocks <= INT32_MAX ? (unsigned)blocks : 0;
}

template <int value, int offset>
static const char *gather(const amtl_table *t, float *out, cudaStream_t stream) {
  const unsigned blocks = blocks_for((t->lookups - 1) / AMTL_ROWS + 1);
  if (blocks == 0) return "amtl: RaggedGather: more lookups than a launch can have";
  gather_kernel<value, offset><<<blocks, THREADS, 0, stream>>>(*t, out);
  return launched();
}

template <int value, int offset>
static const char *sum(const amtl_table *t, int64_t length, int64_t examples, float *out, cudaStream_t stream) {
  const unsigned blocks = blocks_for(examples);
  if (blocks == 0) return "amtl: RaggedSum: more examples than a launch can have";
  sum_kernel<value, offset><<<blocks, THREADS, 0, stream>>>(*t, length, examples, out);
  return launched();
}

#define WITH_OFFSET_OF(t, loop, value, ...)                                      \
  ((t)->offset == AMTL_UINT16  ? loop<value, AMTL_UINT16>(__VA_ARGS__)           \
   : (t)->offset == AMTL_INT32 ? loop<value, AMTL_INT32>(__VA_ARGS__)            \
                              : loop<value, AMTL_INT64>(__VA_ARGS__))
#define WITH_TYPES_OF(t, loop, ...)                                                 \
  ((t)->value == AMTL_FLOAT32   ? WITH_OFFSET_OF(t, loop, AMTL_FLOAT32, __VA_ARGS__) \
   : (t)->value == AMTL_FLOAT16 ? WITH_OFFSET_OF(t, loop, AMTL_FLOAT16, __VA_ARGS__) \
   : (t)->value == AMTL_INT8    ? WITH_OFFSET_OF(t, loop, AMTL_INT8, __VA_ARGS__)    \
                                : WITH_OFFSET_OF(t, loop, AMTL_INT4, __VA_ARGS__))

extern "C" const char *amtl_cuda_gather(const amtl_table *t, float *out, void *stream) {
  if (t->lookups == 0) return NULL;
  return WITH_TYPES_OF(t, gather, t, out, (cudaStream_t)stream);
}

extern "C" const char *amtl_cuda_sum(const amtl_table *t, int64_t length, int64_t examples, float *out, void *stream) {
  if (examples == 0) return NULL;
  return WITH_TYPES_OF(t, sum, t, length, examples, out, (cudaStream_t)stream);
}
