#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
#endif
#define AMTL_NAME(loop) amtl_##loop##_avx512
#define AMTL_WIDE 16
#define AMTL_TILE_PANELS 4
#include "kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
