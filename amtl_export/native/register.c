/* ai.amtl::RaggedGather, RaggedSum, RaggedLinear and RaggedLinearInt8 as operators of ONNX Runtime: RegisterCustomOps is all
 * that a session needs. Compiled with AMTL_CUDA it makes a library for sessions on a GPU: RaggedGather and RaggedSum, and
 * the layers are left to their bodies, a RaggedGather before a Gemm.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "ort_abi.h"
#include "table.h"
#ifdef AMTL_CUDA
#include "cuda_launch.h"
#endif

#define CHECK(call)                      \
  do {                                   \
    OrtStatus *status_ = (call);         \
    if (status_ != NULL) return status_; \
  } while (0)

/* Inputs of all operators; WEIGHTS and BIAS are the layers' alone, SCALES RaggedLinearInt8's. */
enum { VALUES, STARTS, PLACES, IDS, SIZES, SHIFTS, GATHER_INPUTS, WEIGHTS = GATHER_INPUTS, BIAS, LINEAR_INPUTS };
enum { SCALES = LINEAR_INPUTS, CODES_INPUTS };
/* MOST_CODES: of a row; with more, a sum of products of bytes could leave 32 bits. */
enum { MOST_DIMS = 8, MOST_BITS = 62, MOST_CODES = 1 << 15 };
/* Lookups of one thread. With shares of 4,096 a second thread cost a tenth at 8,192 and gained a twentieth at 32,768
 * (benchmarks/lookup.py).
 */
enum { SHARE = 16384 };

typedef struct operator_ {
  OrtCustomOp interface; /* first: ONNX Runtime hands back a pointer to it */
  enum amtl_value value;
  enum amtl_place place;
} operator_;

typedef struct kernel {
  const OrtApi *api;
  const operator_ *op;
  int64_t dim, block_bits;
  float scale_base, scale_step, least;
  int threads;
} kernel;

typedef struct tensor {
  const void *data;
  int64_t shape[MOST_DIMS];
  size_t rank;
  int64_t count;
} tensor;

static OrtStatus *read_shape(const OrtApi *api, const OrtTensorTypeAndShapeInfo *info, tensor *out) {
  CHECK(ort_rank(api, info, &out->rank));
  if (out->rank > MOST_DIMS) return ort_error(api, "amtl: an input has more than 8 dimensions");
  CHECK(ort_shape(api, info, out->shape, out->rank));
  out->count = 1;
  for (size_t i = 0; i < out->rank; i++) out->count *= out->shape[i];
  return NULL;
}

static OrtStatus *read_input(const OrtApi *api, const OrtKernelContext *context, size_t i, tensor *out) {
  const OrtValue *value = NULL;
  OrtTensorTypeAndShapeInfo *info = NULL;
  CHECK(ort_input(api, context, i, &value));
  if (value == NULL) return ort_error(api, "amtl: an input is missing");
  CHECK(ort_info(api, value, &info));
  OrtStatus *status = read_shape(api, info, out);
  ort_release_info(api, info);
  if (status != NULL) return status;
  return ort_data(api, value, (void **)&out->data);
}

static OrtStatus *open_output(const OrtApi *api, OrtKernelContext *context, const int64_t *shape, size_t rank, float **out) {
  OrtValue *result = NULL;
  void *data = NULL;
  CHECK(ort_output(api, context, 0, shape, rank, &result));
  CHECK(ort_data(api, result, &data));
  *out = data;
  return NULL;
}

/* The table that the inputs make up, refused where they contradict each other. */
static OrtStatus *open_table(const kernel *k, const tensor *in, amtl_table *out) {
  if (in[PLACES].rank != 2 || in[PLACES].shape[0] < 1 || in[PLACES].shape[1] < 1)
    return ort_error(k->api, "amtl: places must be [rows + 1, columns]");
  const int64_t rows = in[PLACES].shape[0] - 1, fields = in[SIZES].count;
  if (in[STARTS].count != (rows >> k->block_bits) + 1)
    return ort_error(k->api, "amtl: starts must be one for each block of places");
#ifdef AMTL_CUDA
  if (rows < 1 || k->dim > INT32_MAX) return ort_error(k->api, "amtl: a table has no rows, or dim is above 2^31 - 1");
#endif
  if (fields < 1 || fields != in[SHIFTS].count)
    return ort_error(k->api, "amtl: sizes and shifts must be as many, and one at least");
  if (fields > 1 && (in[IDS].rank == 0 || in[IDS].shape[in[IDS].rank - 1] != fields))
    return ort_error(k->api, "amtl: the last dimension of ids is not the number of sizes");
  *out = (amtl_table){
      .values = in[VALUES].data,
      .places = in[PLACES].data,
      .starts = in[STARTS].data,
      .ids = in[IDS].data,
      .sizes = in[SIZES].data,
      .shifts = in[SHIFTS].data,
      .count = in[VALUES].count,
      .rows = rows,
      .columns = in[PLACES].shape[1],
      .lookups = in[IDS].count,
      .fields = fields,
      .dim = k->dim,
      .block_bits = k->block_bits,
      .scale_base = k->scale_base,
      .scale_step = k->scale_step,
      .value = k->op->value,
      .place = k->op->place,
  };
  return NULL;
}

/* Work that is cut into shares of `each`: of lookups; of examples where there is a layer or rows are summed up. */
typedef struct shares {
  const amtl_table *table;
  const amtl_linear *layer; /* or NULL */
  int64_t summed;           /* ids of an example, or -1 */
  float *out;
  int64_t total, each;
  _Atomic int fault;
} shares;

#ifdef AMTL_CUDA
static OrtStatus *share_out(const kernel *k, const OrtKernelContext *context, shares *all) {
  void *stream = NULL;
  CHECK(ort_gpu_stream(k->api, context, &stream));
  const char *problem = all->summed >= 0 ? amtl_cuda_sum(all->table, all->summed, all->total, all->out, stream)
                                         : amtl_cuda_gather(all->table, all->out, stream);
  return problem == NULL ? NULL : ort_error(k->api, problem);
}
#else
static void work(void *data, size_t i) {
  shares *all = data;
  int64_t begin = (int64_t)i * all->each, end = begin + all->each;
  if (end > all->total) end = all->total;
  enum amtl_fault fault = all->layer != NULL   ? amtl_ragged_linear(all->table, all->layer, all->out, begin, end)
                          : all->summed >= 0 ? amtl_ragged_sum(all->table, all->summed, all->out, begin, end)
                                             : amtl_ragged_gather(all->table, all->out, begin, end);
  if (fault != AMTL_FINE) atomic_store(&all->fault, (int)fault);
}

static OrtStatus *share_out(const kernel *k, const OrtKernelContext *context, shares *all) {
  if (k->threads && all->total > all->each) {
    CHECK(ort_parallel(k->api, context, work, (size_t)((all->total + all->each - 1) / all->each), 0, all));
  } else if (all->total > 0) {
    all->each = all->total;
    work(all, 0);
  }
  switch (atomic_load(&all->fault)) {
    case AMTL_BAD_ROW:
      return ort_error(k->api, "amtl: sizes and shifts reach rows that the table does not have");
    case AMTL_BAD_OFFSETS:
      return ort_error(k->api, "amtl: places fall, leave the values, or make a row longer than dim");
    case AMTL_NO_MEMORY:
      return ort_error(k->api, "amtl: no memory for a block of examples");
    default:
      return NULL;
  }
}
#endif

static OrtStatus *gather(void *self, OrtKernelContext *context) {
  const kernel *k = self;
  tensor in[GATHER_INPUTS];
  amtl_table table;
  for (size_t i = 0; i < GATHER_INPUTS; i++) CHECK(read_input(k->api, context, i, &in[i]));
  CHECK(open_table(k, in, &table));
  int64_t shape[MOST_DIMS];
  if (in[IDS].rank + 1 > MOST_DIMS) return ort_error(k->api, "amtl: ids have more than 7 dimensions");
  for (size_t i = 0; i < in[IDS].rank; i++) shape[i] = in[IDS].shape[i];
  shape[in[IDS].rank] = k->dim;
  shares all = {.table = &table, .summed = -1, .total = in[IDS].count, .each = SHARE};
  CHECK(open_output(k->api, context, shape, in[IDS].rank + 1, &all.out));
  return share_out(k, context, &all);
}

static OrtStatus *sum(void *self, OrtKernelContext *context) {
  const kernel *k = self;
  tensor in[GATHER_INPUTS];
  amtl_table table;
  for (size_t i = 0; i < GATHER_INPUTS; i++) CHECK(read_input(k->api, context, i, &in[i]));
  CHECK(open_table(k, in, &table));
  if (in[IDS].rank != 2 || table.fields != 1)
    return ort_error(k->api, "amtl: ids of RaggedSum must be [examples, length], of one field");
  const int64_t examples = in[IDS].shape[0], length = in[IDS].shape[1];
  shares all = {.table = &table, .summed = length, .total = examples, .each = length < SHARE ? SHARE / (length + 1) + 1 : 1};
  CHECK(open_output(k->api, context, (int64_t[]){examples, k->dim}, 2, &all.out));
  return share_out(k, context, &all);
}

#ifndef AMTL_CUDA
static size_t linear_inputs(const OrtCustomOp *op) { return (void)op, (size_t)LINEAR_INPUTS; }
static size_t codes_inputs(const OrtCustomOp *op) { return (void)op, (size_t)CODES_INPUTS; }

/* Whether weights have the shape that table.h says. */
static int weights_fit(const tensor *weights, const amtl_table *t, int64_t outputs, int codes) {
  const int64_t *shape = weights->shape, of_field = codes ? (t->dim + 3) / 4 : t->dim;
  return weights->rank == (codes ? 4 : 3) && shape[0] == (outputs + AMTL_PANEL - 1) / AMTL_PANEL &&
         shape[1] == t->fields * of_field && shape[2] == AMTL_PANEL && (!codes || shape[3] == 4);
}

static OrtStatus *linear(void *self, OrtKernelContext *context) {
  const kernel *k = self;
  const size_t inputs = k->op->interface.GetInputTypeCount(&k->op->interface);
  const int codes = inputs == CODES_INPUTS;
  tensor in[CODES_INPUTS];
  amtl_table table;
  for (size_t i = 0; i < inputs; i++) CHECK(read_input(k->api, context, i, &in[i]));
  CHECK(open_table(k, in, &table));
  if (in[IDS].rank != 2 || in[IDS].shape[1] != table.fields)
    return ort_error(k->api, "amtl: ids of a layer must be [examples, fields]");
  const int64_t outputs = in[BIAS].count;
  if (codes && (table.dim > MOST_CODES || in[SCALES].count != outputs))
    return ort_error(k->api, "amtl: scales must be one for each output, and dim at most 32768");
  if (!weights_fit(&in[WEIGHTS], &table, outputs, codes))
    return ort_error(k->api, codes ? "amtl: weights must be [ceil(outputs / 16), fields * ceil(dim / 4), 16, 4]"
                                   : "amtl: weights must be [ceil(outputs / 16), fields * dim, 16]");
  const amtl_linear layer = {in[WEIGHTS].data, codes ? in[SCALES].data : NULL, in[BIAS].data, outputs, k->least};
  shares all = {.table = &table, .layer = &layer, .summed = -1, .total = in[IDS].shape[0], .each = amtl_block_size(&table)};
  CHECK(open_output(k->api, context, (int64_t[]){in[IDS].shape[0], outputs}, 2, &all.out));
  return share_out(k, context, &all);
}
#endif

static atomic_int interface_version;

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
  kernel made = {.api = api, .op = (const operator_ *)op, .threads = atomic_load(&interface_version) >= 17};
  CHECK(ort_int_attribute(api, info, "dim", &made.dim));
  CHECK(ort_int_attribute(api, info, "block_bits", &made.block_bits));
  CHECK(ort_float_attribute(api, info, "scale_base", &made.scale_base));
  CHECK(ort_float_attribute(api, info, "scale_step", &made.scale_step));
  if (op->GetInputTypeCount(op) > GATHER_INPUTS) CHECK(ort_float_attribute(api, info, "least", &made.least));
  if (made.dim < 1) return ort_error(api, "amtl: dim must be at least 1");
  if (made.block_bits < 0 || made.block_bits > MOST_BITS) return ort_error(api, "amtl: block_bits must be within 0..62");
  kernel *kept = malloc(sizeof *kept);
  if (kept == NULL) return ort_error(api, "amtl: no memory");
  *kept = made;
  *out = kept;
  return NULL;
}

static void destroy(void *self) { free(self); }
static const char *gather_name(const OrtCustomOp *op) { return (void)op, "RaggedGather"; }
static const char *sum_name(const OrtCustomOp *op) { return (void)op, "RaggedSum"; }
#ifdef AMTL_CUDA
static const char *provider(const OrtCustomOp *op) { return (void)op, "CUDAExecutionProvider"; }
#else
static const char *provider(const OrtCustomOp *op) { return (void)op, "CPUExecutionProvider"; }
static const char *linear_name(const OrtCustomOp *op) { return (void)op, "RaggedLinear"; }
static const char *codes_name(const OrtCustomOp *op) { return (void)op, "RaggedLinearInt8"; }
#endif
static size_t gather_inputs(const OrtCustomOp *op) { return (void)op, (size_t)GATHER_INPUTS; }
static size_t sum_inputs(const OrtCustomOp *op) { return (void)op, (size_t)GATHER_INPUTS; }
static size_t outputs(const OrtCustomOp *op) { return (void)op, (size_t)1; }
static int output_type(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ORT_FLOAT; }
static int input_type(const OrtCustomOp *op, size_t i) {
  static const int values[] = {ORT_FLOAT, ORT_FLOAT16, ORT_INT8}, places[] = {ORT_UINT16, ORT_INT32, ORT_INT64};
  switch (i) {
    case VALUES: return values[((const operator_ *)op)->value];
    case PLACES: return places[((const operator_ *)op)->place];
    case WEIGHTS: return op->GetInputTypeCount(op) == CODES_INPUTS ? ORT_UINT8 : ORT_FLOAT;
    case BIAS:
    case SCALES: return ORT_FLOAT;
    default: return ORT_INT64;
  }
}
static int required(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ORT_REQUIRED; }
static int memory(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, 0; }
static int least(const OrtCustomOp *op) { return (void)op, 0; }
static int alike(const OrtCustomOp *op) { return (void)op, 1; }
static int first_version(const OrtCustomOp *op) { return (void)op, 1; }
static int last_version(const OrtCustomOp *op) { return (void)op, 1; }

#define INTERFACE(kind, compute)                                                                               \
  {                                                                                                            \
    .GetName = kind##_name, .GetExecutionProviderType = provider, .GetInputType = input_type,                  \
    .GetInputTypeCount = kind##_inputs, .GetOutputType = output_type, .GetOutputTypeCount = outputs,           \
    .KernelDestroy = destroy, .GetInputCharacteristic = required, .GetOutputCharacteristic = required,         \
    .GetInputMemoryType = memory, .GetVariadicInputMinArity = least, .GetVariadicInputHomogeneity = alike,     \
    .GetVariadicOutputMinArity = least, .GetVariadicOutputHomogeneity = alike, .CreateKernelV2 = create,       \
    .KernelComputeV2 = compute, .InferOutputShapeFn = NULL, .GetStartVersion = first_version,                  \
    .GetEndVersion = last_version                                                                              \
  }
/* An operator for each pair of types: ONNX Runtime matches a kernel by the types that it announces. */
#define PLACE_TYPES(kind, compute, value)                                                        \
  {INTERFACE(kind, compute), value, AMTL_UINT16}, {INTERFACE(kind, compute), value, AMTL_INT32}, \
      {INTERFACE(kind, compute), value, AMTL_INT64}
#define ALL_TYPES(kind) \
  PLACE_TYPES(kind, kind, AMTL_FLOAT32), PLACE_TYPES(kind, kind, AMTL_FLOAT16), PLACE_TYPES(kind, kind, AMTL_INT8)

#ifdef AMTL_CUDA
static operator_ operators[] = {ALL_TYPES(gather), ALL_TYPES(sum)};
#else
static operator_ operators[] = {ALL_TYPES(gather), ALL_TYPES(sum), ALL_TYPES(linear), PLACE_TYPES(codes, linear, AMTL_INT8)};
#endif

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
