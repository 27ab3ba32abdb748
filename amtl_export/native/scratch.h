/* Scratch memory of a kernel: kept between its calls, and given back with the kernel. Any number of threads may take and give
 * at the same time; each piece has one owner.
 */
#ifndef AMTL_SCRATCH_H
#define AMTL_SCRATCH_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

/* AMTL_KEPT: pieces that are kept at most, one a thread. AMTL_SCRATCH_ALIGNMENT: bytes, a cache line. */
enum { AMTL_KEPT = 64, AMTL_SCRATCH_ALIGNMENT = 64 };

typedef struct amtl_scratch {
  _Alignas(AMTL_SCRATCH_ALIGNMENT) size_t bytes;
  _Alignas(AMTL_SCRATCH_ALIGNMENT) char memory[];
} amtl_scratch;

typedef struct amtl_pool {
  _Atomic(amtl_scratch *) kept[AMTL_KEPT];
} amtl_pool;

/* A piece of at least `bytes`; NULL: there is no memory. */
static inline amtl_scratch *amtl_pool_take(amtl_pool *pool, size_t bytes) {
  for (size_t i = 0; i < AMTL_KEPT; i++) {
    if (atomic_load_explicit(&pool->kept[i], memory_order_relaxed) == NULL) continue;
    amtl_scratch *const found = atomic_exchange(&pool->kept[i], NULL);
    if (found != NULL && found->bytes >= bytes) return found;
    if (found == NULL) continue;
    free(found); /* too small; the larger one takes its place */
    break;
  }
  const size_t most = SIZE_MAX - sizeof(amtl_scratch) - AMTL_SCRATCH_ALIGNMENT;
  if (bytes > most) return NULL;
  const size_t lines = (sizeof(amtl_scratch) + bytes + AMTL_SCRATCH_ALIGNMENT - 1) / AMTL_SCRATCH_ALIGNMENT;
  amtl_scratch *const made = aligned_alloc(AMTL_SCRATCH_ALIGNMENT, lines * AMTL_SCRATCH_ALIGNMENT);
  if (made != NULL) made->bytes = bytes;
  return made;
}

static inline void amtl_pool_give(amtl_pool *pool, amtl_scratch *piece) {
  for (size_t i = 0; i < AMTL_KEPT; i++) {
    amtl_scratch *none = NULL;
    if (atomic_compare_exchange_strong(&pool->kept[i], &none, piece)) return;
  }
  free(piece);
}

/* All pieces back; nobody may use the pool at the same time. */
static inline void amtl_pool_empty(amtl_pool *pool) {
  for (size_t i = 0; i < AMTL_KEPT; i++) free(atomic_exchange(&pool->kept[i], NULL));
}

#endif
