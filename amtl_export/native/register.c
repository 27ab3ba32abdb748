/* ai.amtl::RaggedGather, RaggedSum, RaggedLinear and RaggedLinearInt8 as operators of ONNX Runtime: RegisterCustomOps is all
 * that a session needs. Compiled with AMTL_CUDA it makes a library for sessions on a GPU: RaggedGather and RaggedSum, and
 * the layers are left to their function bodies, a RaggedGather before a Gemm.
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
enum { VALUES, BLOCK_OFFSETS, ROW_OFFSETS, IDS, SIZES, SHIFTS, GATHER_INPUTS, WEIGHTS = GATHER_INPUTS, BIAS, LINEAR_INPUTS };
enum { SCALES = LINEAR_INPUTS, INT8_INPUTS };
/* MOST_INT8_DIM: of a row of int8 or int4; with more, a sum of products of bytes could leave 32 bits. */
enum { MOST_DIMS = 8, MOST_BITS = 62, MOST_INT8_DIM = 1 << 15 };
/* Lookups of one thread. With shares of 4,096 a second thread cost a tenth at 8,192 and gained a twentieth at 32,768
 * (benchmarks/lookup.py).
 */
enum { SHARE = 16384 };

typedef struct operator_ {
  OrtCustomOp interface; /* first: ONNX Runtime hands back a pointer to it */
  enum amtl_value value;
  enum amtl_offset offset;
} operator_;

typedef struct kernel {
  const OrtApi *api;
  const operator_ *op;
  int64_t dim, block_bits;
  float scale_base, scale_unit, least;
  int threads;
} kernel;

typedef struct tensor {
  const void *data;
  int64_t shape[MOST_DIMS];
  size_t rank;
  int64_t count;
} tensor;

static OrtStatus *read_shape(const OrtApi *api, const OrtTensorTypeAndShapeInfo *info, tensor *out) {
  CHECK(amtl_ort_rank(api, info, &out->rank));
  if (out->rank > MOST_DIMS) return amtl_ort_error(api, "amtl: an input has more than 8 dimensions");
  CHECK(amtl_ort_shape(api, info, out->shape, out->rank));
  out->count = 1;
  for (size_t i = 0; i < out->rank; i++) out->count *= out->shape[i];
  return NULL;
}

static OrtStatus *read_input(const OrtApi *api, const OrtKernelContext *context, size_t i, tensor *out) {
  const OrtValue *value = NULL;
  OrtTensorTypeAndShapeInfo *info = NULL;
  CHECK(amtl_ort_input(api, context, i, &value));
  if (value == NULL) return amtl_ort_error(api, "amtl: an input is missing");
  CHECK(amtl_ort_info(api, value, &info));
  OrtStatus *status = read_shape(api, info, out);
  amtl_ort_release_info(api, info);
  if (status != NULL) return status;
  return amtl_ort_data(api, value, (void **)&out->data);
}

static OrtStatus *open_output(const OrtApi *api, OrtKernelContext *context, const int64_t *shape, size_t rank, float **out) {
  OrtValue *result = NULL;
  void *data = NULL;
  CHECK(amtl_ort_output(api, context, 0, shape, rank, &result));
  CHECK(amtl_ort_data(api, result, &data));
  *out = data;
  return NULL;
}

/* The table that the inputs make up, refused where they contradict each other. */
static OrtStatus *open_table(const kernel *k, const tensor *in, amtl_table *out) {
  if (in[ROW_OFFSETS].rank != 2 || in[ROW_OFFSETS].shape[0] < 1 || in[ROW_OFFSETS].shape[1] < 1)
    return amtl_ort_error(k->api, "amtl: row_offsets must be [rows + 1, columns]");
  const int64_t rows = in[ROW_OFFSETS].shape[0] - 1, fields = in[SIZES].count;
  if (in[BLOCK_OFFSETS].count != (rows >> k->block_bits) + 1)
    return amtl_ort_error(k->api, "amtl: block_offsets must be one for each block of rows");
#ifdef AMTL_CUDA
  if (rows < 1 || k->dim > INT32_MAX) return amtl_ort_error(k->api, "amtl: a table has no rows, or dim is above 2^31 - 1");
#endif
  if (fields < 1 || fields != in[SHIFTS].count)
    return amtl_ort_error(k->api, "amtl: sizes and shifts must be as many, and one at least");
  if (fields > 1 && (in[IDS].rank == 0 || in[IDS].shape[in[IDS].rank - 1] != fields))
    return amtl_ort_error(k->api, "amtl: the last dimension of ids is not the number of sizes");
  *out = (amtl_table){
      .values = in[VALUES].data,
      .row_offsets = in[ROW_OFFSETS].data,
      .block_offsets = in[BLOCK_OFFSETS].data,
      .ids = in[IDS].data,
      .sizes = in[SIZES].data,
      .shifts = in[SHIFTS].data,
      .count = in[VALUES].count,
      .rows = rows,
      .columns = in[ROW_OFFSETS].shape[1],
      .lookups = in[IDS].count,
      .fields = fields,
      .dim = k->dim,
      .block_bits = k->block_bits,
      .scale_base = k->scale_base,
      .scale_unit = k->scale_unit,
      .value = k->op->value,
      .offset = k->op->offset,
  };
  return NULL;
}

/* Work that is cut into shares of `share`: of lookups; of examples where there is a layer or rows are summed up. */
typedef struct shares {
  const amtl_table *table;
  const amtl_linear *layer; /* or NULL */
  int64_t summed;           /* ids of an example, or -1 */
  float *out;
  int64_t total, share;
  _Atomic int fault;
} shares;

#ifdef AMTL_CUDA
static OrtStatus *share_out(const kernel *k, const OrtKernelContext *context, shares *all) {
  void *stream = NULL;
  CHECK(amtl_ort_gpu_stream(k->api, context, &stream));
  const char *problem = all->summed >= 0 ? amtl_cuda_sum(all->table, all->summed, all->total, all->out, stream)
                                         : amtl_cuda_gather(all->table, all->out, stream);
  return problem == NULL ? NULL : amtl_ort_error(k->api, problem);
}
#else
static void work(void *data, size_t i) {
  shares *all = data;
  int64_t begin = (int64_t)i * all->share, end = begin + all->share;
  if (end > all->total) end = all->total;
  enum amtl_fault fault = all->layer != NULL   ? amtl_ragged_linear(all->table, all->layer, all->out, begin, end)
                          : all->summed >= 0 ? amtl_ragged_sum(all->table, all->summed, all->out, begin, end)
                                             : amtl_ragged_gather(all->table, all->out, begin, end);
  if (fault != AMTL_FINE) atomic_store(&all->fault, (int)fault);
}

static OrtStatus *share_out(const kernel *k, const OrtKernelContext *context, shares *all) {
  if (k->threads && all->total > all->share) {
    CHECK(amtl_ort_parallel(k->api, context, work, (size_t)((all->total + all->share - 1) / all->share), 0, all));
  } else if (all->total > 0) {
    all->share = all->total;
    work(all, 0);
  }
  switch (atomic_load(&all->fault)) {
    case AMTL_BAD_ROW:
      return amtl_ort_error(k->api, "amtl: sizes and shifts reach rows that the table does not have");
    case AMTL_BAD_OFFSETS:
      return amtl_ort_error(k->api, "amtl: row_offsets fall, leave the values, or make a row longer than dim");
    case AMTL_NO_MEMORY:
      return amtl_ort_error(k->api, "amtl: no memory for a block of examples");
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
  if (in[IDS].rank + 1 > MOST_DIMS) return amtl_ort_error(k->api, "amtl: ids have more than 7 dimensions");
  for (size_t i = 0; i < in[IDS].rank; i++) shape[i] = in[IDS].shape[i];
  shape[in[IDS].rank] = k->dim;
  shares all = {.table = &table, .summed = -1, .total = in[IDS].count, .share = SHARE};
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
    return amtl_ort_error(k->api, "amtl: ids of RaggedSum must be [examples, length], of one field");
  const int64_t examples = in[IDS].shape[0], length = in[IDS].shape[1];
  shares all = {.table = &table, .summed = length, .total = examples, .share = length < SHARE ? SHARE / (length + 1) + 1 : 1};
  CHECK(open_output(k->api, context, (int64_t[]){examples, k->dim}, 2, &all.out));
  return share_out(k, context, &all);
}

#ifndef AMTL_CUDA
static size_t linear_inputs(const OrtCustomOp *op) { return (void)op, (size_t)LINEAR_INPUTS; }
static size_t int8_inputs(const OrtCustomOp *op) { return (void)op, (size_t)INT8_INPUTS; }

/* Whether weights have the shape that table.h says. */
static int weights_fit(const tensor *weights, const amtl_table *t, int64_t outputs, int int8) {
  const int64_t *shape = weights->shape, per_field = int8 ? (t->dim + 3) / 4 : t->dim;
  return weights->rank == (int8 ? 4 : 3) && shape[0] == (outputs + AMTL_PANEL - 1) / AMTL_PANEL &&
         shape[1] == t->fields * per_field && shape[2] == AMTL_PANEL && (!int8 || shape[3] == 4);
}

static OrtStatus *linear(void *self, OrtKernelContext *context) {
  const kernel *k = self;
  const size_t inputs = k->op->interface.GetInputTypeCount(&k->op->interface);
  const int int8 = inputs == INT8_INPUTS;
  tensor in[INT8_INPUTS];
  amtl_table table;
  for (size_t i = 0; i < inputs; i++) CHECK(read_input(k->api, context, i, &in[i]));
  CHECK(open_table(k, in, &table));
  if (in[IDS].rank != 2 || in[IDS].shape[1] != table.fields)
    return amtl_ort_error(k->api, "amtl: ids of a layer must be [examples, fields]");
  const int64_t outputs = in[BIAS].count;
  if (int8 && (table.dim > MOST_INT8_DIM || in[SCALES].count != outputs))
    return amtl_ort_error(k->api, "amtl: scales must be one for each output, and dim at most 32768");
  if (!weights_fit(&in[WEIGHTS], &table, outputs, int8))
    return amtl_ort_error(k->api, int8 ? "amtl: weights must be [ceil(outputs / 16), fields * ceil(dim / 4), 16, 4]"
                                   : "amtl: weights must be [ceil(outputs / 16), fields * dim, 16]");
  const amtl_linear layer = {in[WEIGHTS].data, int8 ? in[SCALES].data : NULL, in[BIAS].data, outputs, k->least};
  shares all = {.table = &table, .layer = &layer, .summed = -1, .total = in[IDS].shape[0], .share = amtl_block_size(&table)};
  CHECK(open_output(k->api, context, (int64_t[]){in[IDS].shape[0], outputs}, 2, &all.out));
  return share_out(k, context, &all);
}
#endif

static atomic_int interface_version;

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
  kernel settings = {.api = api, .op = (const operator_ *)op, .threads = atomic_load(&interface_version) >= 17};
  int64_t bits = 4;
  CHECK(amtl_ort_int_attribute(api, info, "dim", &settings.dim));
  CHECK(amtl_ort_int_attribute(api, info, "block_bits", &settings.block_bits));
  CHECK(amtl_ort_float_attribute(api, info, "scale_base", &settings.scale_base));
  CHECK(amtl_ort_float_attribute(api, info, "scale_unit", &settings.scale_unit));
  if (op->GetInputTypeCount(op) > GATHER_INPUTS) CHECK(amtl_ort_float_attribute(api, info, "least", &settings.least));
  if (settings.op->value == AMTL_INT4) CHECK(amtl_ort_int_attribute(api, info, "bits", &bits));
  if (bits != 4) return amtl_ort_error(api, "amtl: bits of uint8 values must be 4");
  if (settings.dim < 1) return amtl_ort_error(api, "amtl: dim must be at least 1");
  if (settings.block_bits < 0 || settings.block_bits > MOST_BITS)
    return amtl_ort_error(api, "amtl: block_bits must be within 0..62");
  kernel *kept = malloc(sizeof *kept);
  if (kept == NULL) return amtl_ort_error(api, "amtl: no memory");
  *kept = settings;
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
static const char *int8_name(const OrtCustomOp *op) { return (void)op, "RaggedLinearInt8"; }
#endif
static size_t gather_inputs(const OrtCustomOp *op) { return (void)op, (size_t)GATHER_INPUTS; }
static size_t sum_inputs(const OrtCustomOp *op) { return (void)op, (size_t)GATHER_INPUTS; }
static size_t outputs(const OrtCustomOp *op) { return (void)op, (size_t)1; }
static int output_type(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, AMTL_ORT_FLOAT; }
static int input_type(const OrtCustomOp *op, size_t i) {
  static const int values[] = {AMTL_ORT_FLOAT, AMTL_ORT_FLOAT16, AMTL_ORT_INT8, AMTL_ORT_UINT8},
                   row_offsets[] = {AMTL_ORT_UINT16, AMTL_ORT_INT32, AMTL_ORT_INT64};
  switch (i) {
    case VALUES: return values[((const operator_ *)op)->value];
    case ROW_OFFSETS: return row_offsets[((const operator_ *)op)->offset];
    case WEIGHTS: return op->GetInputTypeCount(op) == INT8_INPUTS ? AMTL_ORT_UINT8 : AMTL_ORT_FLOAT;
    case BIAS:
    case SCALES: return AMTL_ORT_FLOAT;
    default: return AMTL_ORT_INT64;
  }
}
static int required(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, AMTL_ORT_REQUIRED; }
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
#define OFFSET_TYPES(kind, compute, value)                                                        \
  {INTERFACE(kind, compute), value, AMTL_UINT16}, {INTERFACE(kind, compute), value, AMTL_INT32}, \
      {INTERFACE(kind, compute), value, AMTL_INT64}
#define QUANTIZED_TYPES(kind, compute) OFFSET_TYPES(kind, compute, AMTL_INT8), OFFSET_TYPES(kind, compute, AMTL_INT4)
#define ALL_TYPES(kind) \
  OFFSET_TYPES(kind, kind, AMTL_FLOAT32), OFFSET_TYPES(kind, kind, AMTL_FLOAT16), QUANTIZED_TYPES(kind, kind)

#ifdef AMTL_CUDA
static operator_ operators[] = {ALL_TYPES(gather), ALL_TYPES(sum)};
#else
static operator_ operators[] = {ALL_TYPES(gather), ALL_TYPES(sum), ALL_TYPES(linear), QUANTIZED_TYPES(int8, linear)};
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
  if (version < AMTL_ORT_API_OLDEST) {
    const OrtApi *old = base->GetApi(1);
    return old == NULL ? NULL : amtl_ort_error(old, "amtl: ONNX Runtime 1.16 or later is needed");
  }
  if (version > AMTL_ORT_API_NEWEST) version = AMTL_ORT_API_NEWEST;
  const OrtApi *api = base->GetApi(version);
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
