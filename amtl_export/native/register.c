/* ai.amtl::RaggedGather as an operator of ONNX Runtime: RegisterCustomOps is all that a session needs. */
#include <stdatomic.h>
#include <stdlib.h>

#include "ort_abi.h"
#include "ragged_gather.h"

#define CHECK(call)                      \
  do {                                   \
    OrtStatus *status_ = (call);         \
    if (status_ != NULL) return status_; \
  } while (0)

enum { VALUES, OFFSETS, IDS, SIZES, SHIFTS, INPUTS };
enum { MOST_DIMS = 8 };
/* Below so many lookups starting threads costs more than it saves. */
enum { SHARE = 4096 };

typedef struct kernel {
  const OrtApi *api;
  int64_t dim;
  int wide, threads;
} kernel;

typedef struct operator_ {
  OrtCustomOp interface; /* first: ONNX Runtime hands back a pointer to it */
  int wide;
} operator_;

typedef struct tensor {
  const void *data;
  int64_t shape[MOST_DIMS];
  size_t rank;
  int64_t count;
} tensor;

static OrtStatus *read_shape(const OrtApi *api, const OrtTensorTypeAndShapeInfo *info, tensor *out) {
  CHECK(ort_rank(api, info, &out->rank));
  if (out->rank > MOST_DIMS) return ort_error(api, "RaggedGather: an input has more than 8 dimensions");
  CHECK(ort_shape(api, info, out->shape, out->rank));
  out->count = 1;
  for (size_t i = 0; i < out->rank; i++) out->count *= out->shape[i];
  return NULL;
}

static OrtStatus *read_input(const OrtApi *api, const OrtKernelContext *context, size_t i, tensor *out) {
  const OrtValue *value = NULL;
  OrtTensorTypeAndShapeInfo *info = NULL;
  CHECK(ort_input(api, context, i, &value));
  if (value == NULL) return ort_error(api, "RaggedGather: an input is missing");
  CHECK(ort_info(api, value, &info));
  OrtStatus *status = read_shape(api, info, out);
  ort_release_info(api, info);
  if (status != NULL) return status;
  return ort_data(api, value, (void **)&out->data);
}

typedef struct shares {
  const amtl_ragged *table;
  _Atomic int fault;
} shares;

static void work(void *data, size_t i) {
  shares *all = data;
  int64_t begin = (int64_t)i * SHARE, end = begin + SHARE;
  if (end > all->table->lookups) end = all->table->lookups;
  enum amtl_fault fault = amtl_ragged_gather(all->table, begin, end);
  if (fault != AMTL_FINE) atomic_store(&all->fault, (int)fault);
}

static OrtStatus *compute(void *self, OrtKernelContext *context) {
  const kernel *k = self;
  const OrtApi *api = k->api;
  tensor in[INPUTS];
  for (size_t i = 0; i < INPUTS; i++) CHECK(read_input(api, context, i, &in[i]));
  if (in[OFFSETS].count < 1) return ort_error(api, "RaggedGather: offsets are empty");
  if (in[SIZES].count < 1 || in[SIZES].count != in[SHIFTS].count)
    return ort_error(api, "RaggedGather: sizes and shifts must be as many, and one at least");
  if (in[SIZES].count > 1 && (in[IDS].rank == 0 || in[IDS].shape[in[IDS].rank - 1] != in[SIZES].count))
    return ort_error(api, "RaggedGather: the last dimension of ids is not the number of sizes");
  if (in[IDS].rank + 1 > MOST_DIMS) return ort_error(api, "RaggedGather: ids have more than 7 dimensions");

  int64_t shape[MOST_DIMS];
  for (size_t i = 0; i < in[IDS].rank; i++) shape[i] = in[IDS].shape[i];
  shape[in[IDS].rank] = k->dim;
  OrtValue *result = NULL;
  void *out = NULL;
  CHECK(ort_output(api, context, 0, shape, in[IDS].rank + 1, &result));
  CHECK(ort_data(api, result, &out));

  const amtl_ragged table = {
      .values = in[VALUES].data,
      .offsets = in[OFFSETS].data,
      .ids = in[IDS].data,
      .sizes = in[SIZES].data,
      .shifts = in[SHIFTS].data,
      .out = out,
      .count = in[VALUES].count,
      .rows = in[OFFSETS].count - 1,
      .lookups = in[IDS].count,
      .fields = in[SIZES].count,
      .dim = k->dim,
      .wide = k->wide,
  };
  shares all = {.table = &table, .fault = AMTL_FINE};
  if (k->threads && table.lookups > SHARE) {
    size_t parts = (size_t)((table.lookups + SHARE - 1) / SHARE);
    CHECK(ort_parallel(api, context, work, parts, 0, &all));
  } else if (table.lookups > 0) {
    all.fault = (int)amtl_ragged_gather(&table, 0, table.lookups);
  }
  switch (atomic_load(&all.fault)) {
    case AMTL_BAD_ROW:
      return ort_error(api, "RaggedGather: sizes and shifts reach rows that the table does not have");
    case AMTL_BAD_OFFSETS:
      return ort_error(api, "RaggedGather: offsets fall, leave the values, or make a row longer than dim");
    default:
      return NULL;
  }
}

static atomic_int interface_version;

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
  int64_t dim = 0;
  CHECK(ort_int_attribute(api, info, "dim", &dim));
  if (dim < 1) return ort_error(api, "RaggedGather: dim must be at least 1");
  kernel *made = malloc(sizeof *made);
  if (made == NULL) return ort_error(api, "RaggedGather: no memory");
  *made = (kernel){api, dim, ((const operator_ *)op)->wide, atomic_load(&interface_version) >= 17};
  *out = made;
  return NULL;
}

static void destroy(void *self) { free(self); }
static const char *name(const OrtCustomOp *op) { return (void)op, "RaggedGather"; }
static const char *provider(const OrtCustomOp *op) { return (void)op, "CPUExecutionProvider"; }
static size_t inputs(const OrtCustomOp *op) { return (void)op, (size_t)INPUTS; }
static size_t outputs(const OrtCustomOp *op) { return (void)op, (size_t)1; }
static int output_type(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ORT_FLOAT; }
static int input_type(const OrtCustomOp *op, size_t i) {
  if (i == VALUES) return ORT_FLOAT;
  if (i == OFFSETS) return ((const operator_ *)op)->wide ? ORT_INT64 : ORT_INT32;
  return ORT_INT64;
}
static int required(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ORT_REQUIRED; }
static int memory(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, 0; }
static int least(const OrtCustomOp *op) { return (void)op, 0; }
static int alike(const OrtCustomOp *op) { return (void)op, 1; }
static int first_version(const OrtCustomOp *op) { return (void)op, 1; }
static int last_version(const OrtCustomOp *op) { return (void)op, 1; }

#define INTERFACE                                                                                              \
  {                                                                                                            \
    .GetName = name, .GetExecutionProviderType = provider, .GetInputType = input_type,                         \
    .GetInputTypeCount = inputs, .GetOutputType = output_type, .GetOutputTypeCount = outputs,                  \
    .KernelDestroy = destroy, .GetInputCharacteristic = required, .GetOutputCharacteristic = required,         \
    .GetInputMemoryType = memory, .GetVariadicInputMinArity = least, .GetVariadicInputHomogeneity = alike,     \
    .GetVariadicOutputMinArity = least, .GetVariadicOutputHomogeneity = alike, .CreateKernelV2 = create,       \
    .KernelComputeV2 = compute, .InferOutputShapeFn = NULL, .GetStartVersion = first_version,                  \
    .GetEndVersion = last_version                                                                              \
  }

static operator_ operators[] = {{INTERFACE, 0}, {INTERFACE, 1}};

/* "1.32.0" to 32; 0 for anything else. */
static uint32_t minor_version(const char *text) {
  if (text == NULL || text[0] != '1' || text[1] != '.') return 0;
  return (uint32_t)strtoul(text + 2, NULL, 10);
}

__attribute__((visibility("default"))) OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base);

OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
  static _Atomic(OrtCustomOpDomain *) known = NULL; /* one for all sessions, for as long as the process lives */
  uint32_t version = minor_version(base->GetVersionString());
  if (version < ORT_API_OLDEST) {
    const OrtApi *old = base->GetApi(1);
    return old == NULL ? NULL : ort_error(old, "amtl: ONNX Runtime 1.16 or later is needed");
  }
  if (version > ORT_API_NEWEST) version = ORT_API_NEWEST;
  const OrtApi *api = base->GetApi(version);
  OrtCustomOpDomain *domain = atomic_load(&known);
  if (domain == NULL) {
    OrtCustomOpDomain *none = NULL;
    atomic_store(&interface_version, (int)version);
    CHECK(ort_create_domain(api, "ai.amtl", &domain));
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++) {
      operators[i].interface.version = version;
      CHECK(ort_add_op(api, domain, &operators[i].interface));
    }
    if (!atomic_compare_exchange_strong(&known, &none, domain)) domain = none; /* another thread was first */
  }
  return ort_add_domain(api, options, domain);
}
