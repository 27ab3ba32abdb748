/* Which instruction set is used. */
#include "kernels_for.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define ISA(set) \
  {#set, has_##set, amtl_gather_##set, amtl_sum_##set, amtl_linear_##set, amtl_scratch_bytes_##set, amtl_dense_##set}

static int has_scalar(void) { return 1; }
#if defined(__x86_64__)
static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static int has_avx512(void) {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
static int has_vnni(void) { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
const amtl_isa amtl_isas[] = {ISA(scalar), ISA(avx2), ISA(avx512), ISA(vnni)};
#else
const amtl_isa amtl_isas[] = {ISA(scalar)};
#endif
const size_t amtl_isa_count = sizeof amtl_isas / sizeof *amtl_isas;

const amtl_isa *amtl_choose_isa(const char *name) {
  for (size_t i = amtl_isa_count; i-- > 0;)
    if ((name == NULL || strcmp(name, amtl_isas[i].name) == 0) && amtl_isas[i].available()) return &amtl_isas[i];
  return NULL;
}

const amtl_isa *amtl_isa_in_use(void) {
  static _Atomic(const amtl_isa *) decided = NULL;
  const amtl_isa *isa = atomic_load(&decided), *none = NULL;
  if (isa != NULL) return isa;
  const char *const forced = getenv("AMTL_FORCE_ISA");
  isa = amtl_choose_isa(forced != NULL && forced[0] != '\0' ? forced : NULL);
  if (isa == NULL) return NULL;
  return atomic_compare_exchange_strong(&decided, &none, isa) ? isa : none; /* or another thread was first */
}
