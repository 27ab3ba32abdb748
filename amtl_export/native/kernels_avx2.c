#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define AMTL_NAME(loop) amtl_##loop##_avx2
#define AMTL_WIDE 8
#define AMTL_TILE_PANELS 1
#include "kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
