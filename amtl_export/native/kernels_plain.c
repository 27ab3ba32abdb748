/* For any processor: 128-bit vectors. */
#define AMTL_NAME(loop) amtl_##loop##_plain
#define WIDE 4
#define TILE_PANELS 1
#include "kernels.h"
