/* ai.amtl::RaggedGather, RaggedSum, RaggedLinear, RaggedLinearInt8, LinearInt8 and CrossInt8 as operators of ONNX Runtime:
 * RegisterCustomOps is all that a session needs. Compiled with AMTL_CUDA it makes a library for sessions on a GPU:
 * RaggedGather and RaggedSum, and the layers are left to their function bodies, as a RaggedGather before a Gemm.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "check.h"
#include "ort_abi.h"
#ifdef AMTL_CUDA
#include "cuda_launch.h"
enum { ON_GPU = 1 };
#else
#include "kernels_for.h"
#include "scratch.h"
enum { ON_GPU = 0 };
#endif

#define CHECK(call)                      \
  do {                                   \
    OrtStatus *status_ = (call);         \
    if (status_ != NULL) return status_; \
  } while (0)

/* Lookups of one thread. With shares of 4,096 a second thread cost a tenth at 8,192 and gained a twentieth at 32,768
 * (benchmarks/lookup.py).
 */
enum { SHARE = 16384 };

typedef struct operator_ {
  OrtCustomOp interface; /* first: ONNX Runtime hands back a pointer to it */
  amtl_operator op;
} operator_;

typedef struct kernel {
  const OrtApi *api;
  const OrtCustomOp *interface;
  const amtl_operator *op;
  amtl_attributes attributes;
  int threads;
#ifndef AMTL_CUDA
  const amtl_isa *isa;
  amtl_pool pool;
#endif
} kernel;

static OrtStatus *refused(const OrtApi *api, const amtl_problem *problem) { return amtl_ort_error(api, problem->text); }

/* In the words of ONNX Runtime. */
static int input_type(const OrtCustomOp *self, size_t i) {
  switch (amtl_input_element(&((const operator_ *)self)->op, i)) {
    case AMTL_ELEMENT_FLOAT16: return AMTL_ORT_FLOAT16;
    case AMTL_ELEMENT_UINT8: return AMTL_ORT_UINT8;
    case AMTL_ELEMENT_INT8: return AMTL_ORT_INT8;
    case AMTL_ELEMENT_UINT16: return AMTL_ORT_UINT16;
    case AMTL_ELEMENT_INT32: return AMTL_ORT_INT32;
    case AMTL_ELEMENT_INT64: return AMTL_ORT_INT64;
    default: return AMTL_ORT_FLOAT;
  }
}

static OrtStatus *read_shape(const kernel *k, const OrtTensorTypeAndShapeInfo *info, size_t i, amtl_tensor *out) {
  amtl_problem problem;
  CHECK(amtl_ort_rank(k->api, info, &out->rank));
  if (out->rank <= AMTL_MOST_RANK) return amtl_ort_shape(k->api, info, out->shape, out->rank);
  (void)amtl_refuse(k->op, &problem, "input %s has %zu dimensions, allowed at most %d", amtl_input_name(k->op, i), out->rank,
                    AMTL_MOST_RANK);
  return refused(k->api, &problem);
}

static OrtStatus *read_input(const kernel *k, const OrtKernelContext *context, size_t i, amtl_tensor *out) {
  const OrtValue *value = NULL;
  OrtTensorTypeAndShapeInfo *info = NULL;
  amtl_problem problem;
  CHECK(amtl_ort_input(k->api, context, i, &value));
  if (value == NULL) {
    (void)amtl_refuse(k->op, &problem, "input %s is missing", amtl_input_name(k->op, i));
    return refused(k->api, &problem);
  }
  CHECK(amtl_ort_info(k->api, value, &info));
  OrtStatus *status = read_shape(k, info, i, out);
  amtl_ort_release_info(k->api, info);
  if (status != NULL) return status;
  CHECK(amtl_ort_data(k->api, value, (void **)&out->data));
  return amtl_check_tensor(k->op, i, out, &problem) ? NULL : refused(k->api, &problem);
}

static OrtStatus *open_output(const kernel *k, OrtKernelContext *context, const amtl_call *call, float **out) {
  OrtValue *result = NULL;
  void *data = NULL;
  CHECK(amtl_ort_output(k->api, context, 0, call->shape, call->rank, &result));
  CHECK(amtl_ort_data(k->api, result, &data));
  *out = data;
  return NULL;
}

#ifdef AMTL_CUDA
static OrtStatus *run(kernel *k, const OrtKernelContext *context, const amtl_call *call, float *out) {
  void *stream = NULL;
  CHECK(amtl_ort_gpu_stream(k->api, context, &stream));
  const char *problem = k->op->kind == AMTL_SUM ? amtl_cuda_sum(&call->table, call->length, call->examples, out, stream)
                                                : amtl_cuda_gather(&call->table, out, stream);
  return problem == NULL ? NULL : amtl_ort_error(k->api, problem);
}
#else
/* Work that is cut into shares: of lookups, or of rows of numbers; of examples where rows of a table are multiplied or summed up. */
typedef struct shares {
  kernel *k;
  const amtl_call *call;
  float *out;
  int64_t total, share;
  size_t scratch_bytes;
  _Atomic int fault;
} shares;

static enum amtl_fault multiply(const shares *all, int64_t begin, int64_t end) {
  amtl_scratch *const scratch = amtl_pool_take(&all->k->pool, all->scratch_bytes);
  if (scratch == NULL) return AMTL_NO_MEMORY;
  enum amtl_fault fault = AMTL_FINE;
  if (amtl_is_on_table(all->k->op))
    fault = all->k->isa->linear(&all->call->table, &all->call->layer, all->out, begin, end, scratch->memory);
  else
    all->k->isa->dense(&all->call->dense, all->out, begin, end, scratch->memory);
  amtl_pool_give(&all->k->pool, scratch);
  return fault;
}

static void work(void *data, size_t i) {
  shares *const all = data;
  const amtl_call *const call = all->call;
  const int64_t begin = (int64_t)i * all->share, left = all->total - begin,
                end = begin + (left < all->share ? left : all->share);
  const enum amtl_kind kind = all->k->op->kind;
  const enum amtl_fault fault = kind == AMTL_GATHER ? all->k->isa->gather(&call->table, all->out, begin, end)
                                : kind == AMTL_SUM  ? all->k->isa->sum(&call->table, call->length, all->out, begin, end)
                                                    : multiply(all, begin, end);
  if (fault != AMTL_FINE) atomic_store(&all->fault, (int)fault);
}

/* All that there is to do, its shares, and the scratch memory of one. */
static void cut(shares *all) {
  const amtl_call *const call = all->call;
  switch (all->k->op->kind) {
    case AMTL_GATHER: all->total = call->table.lookups, all->share = SHARE; break;
    case AMTL_SUM:
      all->total = call->examples, all->share = call->length < SHARE ? SHARE / (call->length + 1) + 1 : 1;
      break;
    case AMTL_LINEAR:
      all->total = call->examples, all->share = amtl_block_size(&call->table);
      all->scratch_bytes = all->k->isa->scratch_bytes(&call->table, all->total);
      break;
    default:
      all->total = call->dense.rows, all->share = amtl_dense_share(&call->dense);
      all->scratch_bytes = amtl_dense_bytes(&call->dense, all->total);
  }
}

static OrtStatus *run(kernel *k, const OrtKernelContext *context, const amtl_call *call, float *out) {
  shares all = {.k = k, .call = call, .out = out};
  cut(&all);
  if (all.total == 0) return NULL;
  const int alone = !k->threads || all.total <= all.share;
  if (alone) {
    all.share = all.total;
    work(&all, 0);
  } else {
    CHECK(amtl_ort_parallel(k->api, context, work, (size_t)((all.total - 1) / all.share + 1), 0, &all));
  }
  const enum amtl_fault fault = (enum amtl_fault)atomic_load(&all.fault);
  if (fault == AMTL_FINE) return NULL;
  amtl_problem problem;
  amtl_explain(k->op, &call->table, fault, &problem);
  return refused(k->api, &problem);
}
#endif

static OrtStatus *compute(void *self, OrtKernelContext *context) {
  kernel *const k = self;
  amtl_tensor in[AMTL_MOST_INPUT_COUNT];
  amtl_call call;
  amtl_problem problem;
  float *out = NULL;
  for (size_t i = 0; i < k->op->inputs; i++) {
    in[i].size = amtl_element_size(amtl_input_element(k->op, i));
    CHECK(read_input(k, context, i, &in[i]));
  }
  if (!amtl_check_call(k->op, &k->attributes, in, &call, &problem)) return refused(k->api, &problem);
  CHECK(open_output(k, context, &call, &out));
  return run(k, context, &call, out);
}

static atomic_int interface_version;

static OrtStatus *read_attributes(const amtl_operator *op, const OrtApi *api, const OrtKernelInfo *info,
                                  amtl_attributes *out) {
  *out = (amtl_attributes){.bits = 4};
  if (op->kind != AMTL_GATHER && op->kind != AMTL_SUM) CHECK(amtl_ort_float_attribute(api, info, "least", &out->least));
  if (!amtl_is_on_table(op)) return amtl_ort_int_attribute(api, info, "zero", &out->zero);
  CHECK(amtl_ort_int_attribute(api, info, "dim", &out->dim));
  CHECK(amtl_ort_int_attribute(api, info, "block_bits", &out->block_bits));
  CHECK(amtl_ort_float_attribute(api, info, "scale_base", &out->scale_base));
  CHECK(amtl_ort_float_attribute(api, info, "scale_unit", &out->scale_unit));
  return op->value == AMTL_INT4 ? amtl_ort_int_attribute(api, info, "bits", &out->bits) : NULL;
}

static OrtStatus *create(const OrtCustomOp *self, const OrtApi *api, const OrtKernelInfo *info, void **out) {
  const amtl_operator *const op = &((const operator_ *)self)->op;
  amtl_attributes a;
  amtl_problem problem;
  CHECK(read_attributes(op, api, info, &a));
  if (!amtl_check_attributes(op, &a, &problem)) return refused(api, &problem);
  kernel *const kept = calloc(1, sizeof *kept);
  if (kept == NULL) return amtl_ort_error(api, "amtl: no memory");
  kept->api = api, kept->interface = self, kept->op = op, kept->attributes = a;
  kept->threads = atomic_load(&interface_version) >= 17;
#ifndef AMTL_CUDA
  kept->isa = amtl_isa_in_use();
#endif
  *out = kept;
  return NULL;
}

static void destroy(void *self) {
#ifndef AMTL_CUDA
  amtl_pool_empty(&((kernel *)self)->pool);
#endif
  free(self);
}

static const char *name(const OrtCustomOp *self) { return ((const operator_ *)self)->op.name; }
static const char *provider(const OrtCustomOp *self) {
  return ((const operator_ *)self)->op.on_gpu ? "CUDAExecutionProvider" : "CPUExecutionProvider";
}
static size_t inputs(const OrtCustomOp *self) { return ((const operator_ *)self)->op.inputs; }
static size_t outputs(const OrtCustomOp *self) { return (void)self, (size_t)1; }
static int output_type(const OrtCustomOp *self, size_t i) { return (void)self, (void)i, AMTL_ORT_FLOAT; }
static int required(const OrtCustomOp *self, size_t i) { return (void)self, (void)i, AMTL_ORT_REQUIRED; }
static int memory(const OrtCustomOp *self, size_t i) { return (void)self, (void)i, 0; }
static int least(const OrtCustomOp *self) { return (void)self, 0; }
static int alike(const OrtCustomOp *self) { return (void)self, 1; }
static int version_one(const OrtCustomOp *self) { return (void)self, 1; }

#define INTERFACE                                                                                           \
  {                                                                                                         \
    .GetName = name, .GetExecutionProviderType = provider, .GetInputType = input_type,                      \
    .GetInputTypeCount = inputs, .GetOutputType = output_type, .GetOutputTypeCount = outputs,               \
    .KernelDestroy = destroy, .GetInputCharacteristic = required, .GetOutputCharacteristic = required,      \
    .GetInputMemoryType = memory, .GetVariadicInputMinArity = least, .GetVariadicInputHomogeneity = alike,  \
    .GetVariadicOutputMinArity = least, .GetVariadicOutputHomogeneity = alike, .CreateKernelV2 = create,    \
    .KernelComputeV2 = compute, .InferOutputShapeFn = NULL, .GetStartVersion = version_one,                 \
    .GetEndVersion = version_one                                                                            \
  }
/* An operator for each pair of types: ONNX Runtime matches a kernel by the types that it announces. Those on numbers have no
 * table, and one entry.
 */
#define OPERATOR(name, kind, inputs, value, offset) \
  { INTERFACE, { name, kind, inputs, value, offset, ON_GPU } }
#define OFFSET_TYPES(name, kind, inputs, value)                                                               \
  OPERATOR(name, kind, inputs, value, AMTL_UINT16), OPERATOR(name, kind, inputs, value, AMTL_INT32), \
      OPERATOR(name, kind, inputs, value, AMTL_INT64)
#define QUANTIZED_TYPES(name, kind, inputs) \
  OFFSET_TYPES(name, kind, inputs, AMTL_INT8), OFFSET_TYPES(name, kind, inputs, AMTL_INT4)
#define ALL_TYPES(name, kind, inputs)                                                                \
  OFFSET_TYPES(name, kind, inputs, AMTL_FLOAT32), OFFSET_TYPES(name, kind, inputs, AMTL_FLOAT16), \
      QUANTIZED_TYPES(name, kind, inputs)

static operator_ operators[] = {
    ALL_TYPES("RaggedGather", AMTL_GATHER, AMTL_TABLE_INPUTS),
    ALL_TYPES("RaggedSum", AMTL_SUM, AMTL_TABLE_INPUTS),
#ifndef AMTL_CUDA
    ALL_TYPES("RaggedLinear", AMTL_LINEAR, AMTL_LINEAR_INPUTS),
    QUANTIZED_TYPES("RaggedLinearInt8", AMTL_LINEAR, AMTL_INT8_INPUTS),
    OPERATOR("LinearInt8", AMTL_DENSE, AMTL_DENSE_INPUTS, AMTL_FLOAT32, AMTL_INT64),
    OPERATOR("CrossInt8", AMTL_CROSS, AMTL_CROSS_INPUTS, AMTL_FLOAT32, AMTL_INT64),
#endif
};

/* "1.32.0" to 32; 0 for anything else. */
static uint32_t minor_version(const char *text) {
  if (text == NULL || text[0] != '1' || text[1] != '.') return 0;
  return (uint32_t)strtoul(text + 2, NULL, 10);
}

#define EXPORTED __attribute__((visibility("default")))

EXPORTED OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base);

OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
  static _Atomic(OrtCustomOpDomain *) known = NULL; /* one for all sessions, for as long as the process lives */
  uint32_t version = minor_version(base->GetVersionString());
  if (version < AMTL_ORT_API_OLDEST) {
    const OrtApi *old = base->GetApi(1);
    return old == NULL ? NULL : amtl_ort_error(old, "amtl: ONNX Runtime 1.16 or later is needed");
  }
  if (version > AMTL_ORT_API_NEWEST) version = AMTL_ORT_API_NEWEST;
  const OrtApi *api = base->GetApi(version);
#ifndef AMTL_CUDA
  if (amtl_isa_in_use() == NULL)
    return amtl_ort_error(api, "amtl: AMTL_FORCE_ISA names no instruction set that this processor has; "
                               "there are scalar, avx2, avx512 and vnni");
#endif
  OrtCustomOpDomain *domain = atomic_load(&known);
  if (domain == NULL) {
    OrtCustomOpDomain *none = NULL;
    atomic_store(&interface_version, (int)version);
    CHECK(amtl_ort_create_domain(api, "ai.amtl", &domain));
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++) {
      operators[i].interface.version = version;
      CHECK(amtl_ort_add_op(api, domain, &operators[i].interface));
    }
    if (!atomic_compare_exchange_strong(&known, &none, domain)) domain = none; /* another thread was first */
  }
  return amtl_ort_add_domain(api, options, domain);
}

#ifndef AMTL_CUDA
/* For Python: the name of the instruction set in use, NULL where AMTL_FORCE_ISA names none that is there; the i-th that this
 * library knows, and whether this processor has it.
 */
EXPORTED const char *amtl_isa_name(void);
EXPORTED const char *amtl_known_isa(size_t i);
EXPORTED int amtl_has_isa(size_t i);

const char *amtl_isa_name(void) {
  const amtl_isa *isa = amtl_isa_in_use();
  return isa == NULL ? NULL : isa->name;
}
const char *amtl_known_isa(size_t i) { return i < amtl_isa_count ? amtl_isas[i].name : NULL; }
int amtl_has_isa(size_t i) { return i < amtl_isa_count && amtl_isas[i].available(); }
#endif
