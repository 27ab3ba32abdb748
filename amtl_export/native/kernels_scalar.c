/* For any processor: 128-bit vectors. */
#define AMTL_NAME(loop) amtl_##loop##_scalar
#define AMTL_WIDE 4
#define AMTL_TILE_PANELS 1
#include "kernels.h"
