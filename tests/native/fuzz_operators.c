/* Drives the operators themselves, all that RegisterCustomOps registers, through a stand-in for ONNX Runtime: sound nodes,
 * and nodes whose attributes, inputs, shapes or contents are wrong in one or two ways. Each answer is held against `expected`,
 * which says by itself, in 128-bit arithmetic, whether the node must be refused, and against a reference where it must not.
 * Every buffer is exactly as large as ONNX Runtime would make it.
 *
 * fuzz_operators CASES SEED [FIRST [THREADS]]: cases FIRST.. of a seed; THREADS run the same kernel at the same time. Prints JSON:
 * how many nodes were answered, how many refused, and with what words. AMTL_FORCE_ISA names the instruction set.
 */
#define _POSIX_C_SOURCE 200809L
#include <ctype.h>
#include <float.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "check.h"
#include "ort_abi.h"
#include "reference.h"

#ifdef AMTL_CUDA
enum { ON_GPU = 1 };
#else
enum { ON_GPU = 0 };
#endif

typedef __int128 wide;

enum { RANK = 10, MOST_OPERATORS = 64, MOST_WORDS = 256, MOST_THREADS = 4, OUTPUT_BYTES = 1 << 26, SECONDS = 60 };

/* The stand-in: what ONNX Runtime's opaque types are here. */
struct OrtStatus { char text[400]; };
struct OrtValue {
  void *memory, *data;
  int64_t shape[RANK];
  size_t rank;
};
struct OrtTensorTypeAndShapeInfo { const OrtValue *value; };
struct OrtKernelInfo {
  amtl_attributes given;
  unsigned missing; /* a bit for each attribute */
};
struct OrtKernelContext {
  OrtValue *in[AMTL_INT8_INPUTS];
  OrtValue out;
  int threads;
};
struct OrtCustomOpDomain { int unused; };
struct OrtSessionOptions { int unused; };

static const OrtCustomOp *operators[MOST_OPERATORS];
static size_t operator_count;
static _Atomic int64_t the_case, alive; /* alive: statuses and infos that were not released */
static int64_t the_seed;
static const char *the_version = "1.32.0";

static void fail(const char *what) {
  fprintf(stderr, "case %lld of seed %lld: %s\n", (long long)the_case, (long long)the_seed, what);
  exit(1);
}

static void ended(int signal) {
  (void)signal;
  static const char text[] = "no answer in time, or the process was ended\n";
  (void)!write(2, text, sizeof text - 1);
  _exit(1);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
void __sanitizer_set_death_callback(void (*callback)(void));
static void died(void) { fprintf(stderr, "in case %lld of seed %lld\n", (long long)the_case, (long long)the_seed); }
#endif

static OrtStatus *create_status(int code, const char *text) {
  if (code != AMTL_ORT_INVALID_ARGUMENT) fail("another code than INVALID_ARGUMENT");
  OrtStatus *status = allocated(sizeof *status);
  (void)snprintf(status->text, sizeof status->text, "%s", text);
  alive++;
  return status;
}
static OrtStatus *own_error(const char *text) { return create_status(AMTL_ORT_INVALID_ARGUMENT, text); }
static void release_status(OrtStatus *status) {
  alive--;
  free(status);
}
static OrtStatus *create_domain(const char *name, OrtCustomOpDomain **out) {
  static OrtCustomOpDomain domain;
  if (strcmp(name, "ai.amtl") != 0) fail("another domain");
  *out = &domain;
  return NULL;
}
static OrtStatus *add_op(OrtCustomOpDomain *domain, const OrtCustomOp *op) {
  if (domain == NULL || operator_count == MOST_OPERATORS) fail("more operators than there are");
  if (strcmp(op->GetName(op), "LinearInt8") == 0 || strcmp(op->GetName(op), "CrossInt8") == 0) return NULL;
  operators[operator_count++] = op;
  return NULL;
}
static OrtStatus *add_domain(OrtSessionOptions *options, OrtCustomOpDomain *domain) {
  if (options == NULL || domain == NULL) fail("no domain");
  return NULL;
}
static OrtStatus *get_data(const OrtValue *value, void **out) { return *out = value->data, NULL; }
static OrtStatus *get_rank(const OrtTensorTypeAndShapeInfo *info, size_t *out) { return *out = info->value->rank, NULL; }
static OrtStatus *get_shape(const OrtTensorTypeAndShapeInfo *info, int64_t *out, size_t n) {
  memcpy(out, info->value->shape, n * sizeof *out);
  return NULL;
}
static OrtStatus *get_info(const OrtValue *value, OrtTensorTypeAndShapeInfo **out) {
  *out = allocated(sizeof **out);
  (*out)->value = value, alive++;
  return NULL;
}
static void release_info(OrtTensorTypeAndShapeInfo *info) {
  alive--;
  free(info);
}

enum { DIM, BLOCK_BITS, BITS, SCALE_BASE, SCALE_UNIT, LEAST, ATTRIBUTES };
static const char *const attribute_names[] = {"dim", "block_bits", "bits", "scale_base", "scale_unit", "least"};

static int attribute(const OrtKernelInfo *info, const char *name) {
  for (int i = 0; i < ATTRIBUTES; i++)
    if (strcmp(name, attribute_names[i]) == 0) return info->missing >> i & 1 ? -1 : i;
  fail("an attribute that no operator has");
  return -1;
}
static OrtStatus *get_int(const OrtKernelInfo *info, const char *name, int64_t *out) {
  const int64_t *const all[] = {&info->given.dim, &info->given.block_bits, &info->given.bits};
  const int i = attribute(info, name);
  if (i < 0) return own_error("runtime: no such attribute");
  return *out = *all[i], NULL;
}
static OrtStatus *get_float(const OrtKernelInfo *info, const char *name, float *out) {
  const float *const all[] = {&info->given.scale_base, &info->given.scale_unit, &info->given.least};
  const int i = attribute(info, name);
  if (i < 0) return own_error("runtime: no such attribute");
  return *out = *all[i - SCALE_BASE], NULL;
}
static OrtStatus *get_input(const OrtKernelContext *context, size_t i, const OrtValue **out) {
  if (i >= AMTL_INT8_INPUTS) fail("an input that no operator has");
  return *out = context->in[i], NULL;
}
static OrtStatus *get_output(OrtKernelContext *context, size_t i, const int64_t *shape, size_t rank, OrtValue **out) {
  if (i != 0 || rank > AMTL_MOST_RANK || context->out.memory != NULL) fail("an output that no operator has");
  wide bytes = sizeof(float);
  for (size_t d = 0; d < rank; d++) {
    if (shape[d] < 0) fail("a negative dimension of the output");
    bytes *= shape[d];
    if (bytes > OUTPUT_BYTES) bytes = (wide)OUTPUT_BYTES + 1; /* and 0 stays 0 */
  }
  if (bytes > OUTPUT_BYTES) return own_error("runtime: no memory for the output");
  context->out = (OrtValue){.rank = rank};
  memcpy(context->out.shape, shape, rank * sizeof *shape);
  context->out.memory = allocated((size_t)bytes), context->out.data = bytes ? context->out.memory : NULL;
  memset(context->out.memory, 0xff, (size_t)bytes);
  *out = &context->out;
  return NULL;
}
static OrtStatus *get_stream(const OrtKernelContext *context, void **out) { return *out = NULL, (void)context, NULL; }

typedef struct part {
  void (*work)(void *, size_t);
  void *data;
  size_t total, turn, step;
} part;
static void *run_part(void *of) {
  const part *const p = of;
  for (size_t i = p->turn; i < p->total; i += p->step) p->work(p->data, p->total - 1 - i);
  return NULL;
}
static OrtStatus *parallel(const OrtKernelContext *context, void (*work)(void *, size_t), size_t total, size_t batches,
                           void *data) {
  if (batches != 0 || total == 0) fail("shares of nothing");
  pthread_t threads[2];
  part parts[2];
  const size_t step = context->threads > 1 ? 2 : 1;
  for (size_t i = 0; i < step; i++) parts[i] = (part){work, data, total, i, step};
  if (step == 1) return run_part(parts), NULL;
  for (size_t i = 0; i < step; i++)
    if (pthread_create(&threads[i], NULL, run_part, &parts[i]) != 0) fail("no thread");
  for (size_t i = 0; i < step; i++) pthread_join(threads[i], NULL);
  return NULL;
}
static void unexpected(void) { fail("a function of ONNX Runtime that the library does not name"); }

static OrtApi api;
static const OrtApi *get_api(uint32_t version) {
  if (version < AMTL_ORT_API_OLDEST || version > AMTL_ORT_API_NEWEST) fail("another version of the interface");
  return &api;
}
static const char *get_version(void) { return the_version; }

static void set_up(void) {
  for (size_t i = 0; i < AMTL_ORT_SLOTS; i++) api.entry[i] = unexpected;
#define SLOT(name, function) api.entry[AMTL_ORT_SLOT_##name] = (void (*)(void))function
  SLOT(CreateStatus, create_status), SLOT(CreateCustomOpDomain, create_domain), SLOT(CustomOpDomain_Add, add_op);
  SLOT(AddCustomOpDomain, add_domain), SLOT(GetTensorMutableData, get_data), SLOT(GetDimensionsCount, get_rank);
  SLOT(GetDimensions, get_shape), SLOT(GetTensorTypeAndShape, get_info);
  SLOT(ReleaseTensorTypeAndShapeInfo, release_info), SLOT(KernelInfoGetAttribute_int64, get_int);
  SLOT(KernelInfoGetAttribute_float, get_float), SLOT(KernelContext_GetInput, get_input);
  SLOT(KernelContext_GetOutput, get_output), SLOT(KernelContext_GetGPUComputeStream, get_stream);
  if (strcmp(the_version, "1.16.3") != 0) SLOT(KernelContext_ParallelFor, parallel);
}

/* A node, as its model file has it. */
typedef struct node {
  const OrtCustomOp *op;
  enum amtl_kind kind;
  enum amtl_value value;
  enum amtl_offset offset;
  size_t inputs;
  OrtKernelInfo info;
  OrtValue in[AMTL_INT8_INPUTS];
  int missing; /* the input that is not given, or -1 */
} node;

static size_t element(const node *n, size_t i) {
  const int type = n->op->GetInputType(n->op, i);
  return type == AMTL_ORT_INT64 ? 8 : type == AMTL_ORT_FLOAT || type == AMTL_ORT_INT32 ? 4
         : type == AMTL_ORT_FLOAT16 || type == AMTL_ORT_UINT16 ? 2 : 1;
}

static int64_t count_of(const OrtValue *v) { /* of possible shapes */
  int64_t count = 1;
  for (size_t d = 0; d < v->rank; d++)
    if (v->shape[d] == 0) return 0;
  for (size_t d = 0; d < v->rank; d++) count *= v->shape[d];
  return count;
}

/* Memory for an input of a shape that is sound. */
static void *give(node *n, size_t i, size_t rank, const int64_t *shape) {
  OrtValue *const v = &n->in[i];
  v->rank = rank;
  memcpy(v->shape, shape, rank * sizeof *shape);
  v->data = v->memory = allocated((size_t)count_of(v) * element(n, i));
  return v->data;
}
static void *give1(node *n, size_t i, int64_t count) { return give(n, i, 1, &count); }

static node sound_node(void) {
  node n = {.op = operators[below((int64_t)operator_count)], .missing = -1};
  const char *const name = n.op->GetName(n.op);
  n.kind = strcmp(name, "RaggedGather") == 0 ? AMTL_GATHER : strcmp(name, "RaggedSum") == 0 ? AMTL_SUM : AMTL_LINEAR;
  n.inputs = n.op->GetInputTypeCount(n.op);
  const int value = n.op->GetInputType(n.op, AMTL_VALUES), offset = n.op->GetInputType(n.op, AMTL_ROW_OFFSETS);
  n.value = value == AMTL_ORT_FLOAT ? AMTL_FLOAT32 : value == AMTL_ORT_FLOAT16 ? AMTL_FLOAT16 : value == AMTL_ORT_INT8 ? AMTL_INT8 : AMTL_INT4;
  n.offset = offset == AMTL_ORT_UINT16 ? AMTL_UINT16 : offset == AMTL_ORT_INT32 ? AMTL_INT32 : AMTL_INT64;
  const int64_t fields = n.kind == AMTL_SUM ? 1 : 1 + below(4), columns = 1 + below(2), bits = below(5);
  const int64_t dim = rarely(2000) ? AMTL_MOST_DIM - below(2) : rarely(40) ? 1 + below(1500) : 1 + below(40);
  int64_t rows = 0, count = 0;
  int64_t *sizes = give1(&n, AMTL_SIZES, fields), *shifts = give1(&n, AMTL_SHIFTS, fields);
  for (int64_t f = 0; f < fields; f++) sizes[f] = 1 + below(12), shifts[f] = rows, rows += sizes[f];
  int64_t *blocks = give1(&n, AMTL_BLOCK_OFFSETS, (rows >> bits) + 1);
  void *offsets = give(&n, AMTL_ROW_OFFSETS, 2, (int64_t[]){rows + 1, columns});
  const int64_t most = (n.value == AMTL_INT4 ? (dim + 1) / 2 : dim) + 1;
  const int empty = rarely(20); /* a table without a number */
  for (int64_t r = 0; r <= rows; r++) {
    if ((r & ((1 << bits) - 1)) == 0) blocks[r >> bits] = count;
    put_offset(offsets, n.offset, r * columns, count - blocks[r >> bits]);
    if (columns == 2) put_offset(offsets, n.offset, 2 * r + 1, below(1000));
    const int64_t past = count - blocks[r >> bits] + most; /* what uint16 cannot say */
    if (r < rows && !empty && !rarely(4) && (n.offset != AMTL_UINT16 || past <= UINT16_MAX)) count += below(most);
  }
  draw_values(give1(&n, AMTL_VALUES, count), n.value, count);
  int64_t examples = rarely(30) ? below(700) : below(24);
  if (n.kind == AMTL_GATHER && dim < 8 && rarely(300)) examples = 5000; /* shares of several threads */
  int64_t shape[RANK] = {examples, n.kind == AMTL_SUM ? below(9) : fields};
  size_t rank = 2;
  if (n.kind == AMTL_GATHER && rarely(4)) shape[1] = 1 + below(3), shape[2] = fields, rank = 3;
  if (n.kind == AMTL_GATHER && fields == 1 && rarely(4)) rank = (size_t)below(2); /* one id, or some, of one field */
  int64_t *ids = give(&n, AMTL_IDS, rank, shape);
  for (int64_t i = 0; i < count_of(&n.in[AMTL_IDS]); i++) ids[i] = rarely(3) ? out_of_range(12) : below(12);
  n.info.given = (amtl_attributes){dim, bits, 4, 128, columns == 2 ? 0.0f : 1.0f, columns == 2 ? 0.125f : 0.0f,
                                   rarely(2) ? 0.0f : -FLT_MAX};
  if (n.kind != AMTL_LINEAR) return n;
  const int64_t outputs = 1 + below(rarely(10) ? 140 : 20), panels = (outputs + 15) / 16, quads = (dim + 3) / 4;
  float *bias = rarely(2) ? give1(&n, AMTL_BIAS, outputs) : give(&n, AMTL_BIAS, 2, (int64_t[]){1, outputs});
  for (int64_t o = 0; o < outputs; o++) bias[o] = (float)below(9);
  if (n.inputs > AMTL_LINEAR_INPUTS) {
    uint8_t *weights = give(&n, AMTL_WEIGHTS, 4, (int64_t[]){panels, fields * quads, 16, 4});
    for (int64_t i = 0; i < panels * fields * quads * 64; i++) weights[i] = (uint8_t)(i * 37 + (int64_t)(state >> 40));
    float *scales = give1(&n, AMTL_SCALES, outputs);
    for (int64_t o = 0; o < outputs; o++) scales[o] = (float)(1 + below(3)) / 4;
  } else {
    float *weights = give(&n, AMTL_WEIGHTS, 3, (int64_t[]){panels, fields * dim, 16});
    for (int64_t i = 0; i < panels * fields * dim * 16; i++) weights[i] = (float)((i * 7 + (int64_t)(state >> 40)) % 9) - 4.0f;
  }
  return n;
}

/* Sizes that have broken things before. */
static int64_t hostile(int64_t near) {
  static const int64_t all[] = {0, 1, 2, 3, -1, INT64_MIN, INT64_MAX, 1LL << 15, (1LL << 15) + 1, 1LL << 16, INT32_MAX,
                                1LL << 31, (1LL << 31) + 1, 1LL << 32, 1LL << 59, 1LL << 60, 1LL << 61, 1LL << 62,
                                (1LL << 62) + 16, -(1LL << 62), -(1LL << 31), 62, 63, 64};
  switch (below(4)) {
    case 0: return (int64_t)((uint64_t)near + (uint64_t)(below(5) - 2));
    case 1: return (int64_t)draw();
    default: return all[below((int64_t)(sizeof all / sizeof *all))];
  }
}
static float hostile_float(void) {
  static const float all[] = {NAN, INFINITY, -INFINITY, 1e38f, -1e38f, -0.0f, 1e-45f, -1.0f, 1e19f, 1e10f};
  return all[below(10)];
}

static void spoil_attribute(node *n) {
  amtl_attributes *const a = &n->info.given;
  switch (below(9)) {
    case 0:
    case 1:
    case 2: a->dim = hostile(a->dim); break;
    case 3: a->block_bits = hostile(a->block_bits); break;
    case 4: a->scale_base = hostile_float(); break;
    case 5: a->scale_unit = hostile_float(); break;
    case 6: a->least = hostile_float(); break;
    case 7: a->bits = hostile(4); break;
    default: n->info.missing |= 1u << below(ATTRIBUTES);
  }
}

/* Another shape: with a zero, and whatever else, of no memory; or sound, of memory that is exactly as large; or one that no
 * memory can have.
 */
static void spoil_shape(node *n, size_t i) {
  OrtValue *const v = &n->in[i];
  int64_t shape[RANK] = {0};
  size_t rank = v->rank;
  memcpy(shape, v->shape, sizeof shape);
  switch (below(6)) {
    case 0: /* no element */
    case 1:
      rank = rarely(3) ? 1 + (size_t)below(RANK) : rank ? rank : 1;
      for (size_t d = 0; d < rank; d++)
        if (rarely(2)) shape[d] = hostile(shape[d]);
      for (size_t d = 0; d < rank; d++)
        if (shape[d] < 0 && !rarely(8)) shape[d] = INT64_MAX;
      shape[below((int64_t)rank)] = 0;
      break;
    case 2: /* impossible */
      rank = 2 + (size_t)below(RANK - 1);
      for (size_t d = 0; d < rank; d++) shape[d] = INT64_MAX >> below(8);
      if (rarely(2)) shape[below((int64_t)rank)] = -1 - below(3);
      break;
    case 3: /* one axis more, or one less */
      if (rank == 0 || rarely(2)) {
        shape[rank++] = 1 + below(2);
      } else {
        rank--;
      }
      break;
    case 4: /* a little longer or shorter */
      if (rank > 0) {
        int64_t *const axis = &shape[below((int64_t)rank)];
        *axis = (int64_t)((uint64_t)*axis + (uint64_t)(below(5) - 2));
        if (*axis < 0) *axis = 0;
      }
      break;
    default: /* turned around */
      for (size_t d = 0; d + 1 < rank; d++) {
        const int64_t was = shape[d];
        shape[d] = shape[rank - 1], shape[rank - 1] = was;
      }
  }
  wide count = 1;
  int sound = 1;
  for (size_t d = 0; d < rank; d++) {
    sound = sound && shape[d] >= 0;
    count = shape[d] == 0 ? 0 : count > OUTPUT_BYTES ? count : count * (shape[d] < 0 ? OUTPUT_BYTES : shape[d]);
  }
  if (sound && count * (wide)element(n, i) > OUTPUT_BYTES && count <= OUTPUT_BYTES) return; /* too large for here */
  const size_t bytes = sound && count <= OUTPUT_BYTES ? (size_t)count * element(n, i) : 0;
  const size_t before = (size_t)count_of(v) * element(n, i);
  char *memory = allocated(bytes);
  for (size_t at = 0; at < bytes; at++) memory[at] = before ? ((char *)v->memory)[at % before] : (char)below(3);
  free(v->memory);
  v->memory = memory, v->rank = rank;
  v->data = bytes == 0 && rarely(2) ? NULL : memory;
  memcpy(v->shape, shape, sizeof shape);
}

static void spoil_contents(node *n, size_t i) {
  const int64_t count = count_of(&n->in[i]);
  if (count == 0) return;
  const int64_t at = below(count);
  if (i == AMTL_ROW_OFFSETS) {
    put_offset(n->in[i].data, n->offset, at, rarely(2) ? hostile(0) : (int64_t)((uint64_t)get_offset(n->in[i].data, n->offset, at) + (uint64_t)(below(9) - 4)));
  } else if (i == AMTL_SCALES) {
    ((float *)n->in[i].data)[at] = hostile_float();
  } else if (element(n, i) == 8) {
    int64_t *const number = (int64_t *)n->in[i].data + at;
    *number = rarely(2) ? hostile(*number) : (int64_t)((uint64_t)*number + (uint64_t)(below(9) - 4));
  }
}

/* To where no multiple of its size is; still exactly as large. */
static void spoil_address(node *n, size_t i) {
  OrtValue *const v = &n->in[i];
  const size_t bytes = (size_t)count_of(v) * element(n, i), off = 1 + (size_t)below(7);
  char *const memory = allocated(bytes + off);
  if (bytes > 0) memcpy(memory + off, v->data, bytes);
  free(v->memory);
  v->memory = memory, v->data = memory + off;
}

static void give_again(node *n, size_t i, size_t rank, const int64_t *shape) {
  free(n->in[i].memory);
  void *const data = give(n, i, rank, shape);
  memset(data, 0, (size_t)count_of(&n->in[i]) * element(n, i));
}

/* Several things that lie alike: what products that wrap around, or of zero, would take for a layer or a table. */
static void spoil_together(node *n) {
  const int64_t fields = n->in[AMTL_SIZES].shape[0], none[4] = {0};
  const int quantized = n->inputs > AMTL_LINEAR_INPUTS;
  switch (below(4)) {
    case 0: /* no outputs; and most often a dim that no table has */
    case 1: /* outputs, and weights as many as are left of a product that wraps around */
      if (n->kind != AMTL_LINEAR) break;
      if (!rarely(4)) n->info.given.dim = rarely(2) ? hostile(1LL << (58 + below(5))) : (1LL << (60 + below(3))) + below(40);
      const uint64_t dim = (uint64_t)n->info.given.dim, inner = (uint64_t)fields * (quantized ? (dim + 3) / 4 : dim);
      const int few = inner < 4096 && rarely(2);
      if (!few && (inner == 0 || inner > INT64_MAX)) break;
      const int64_t outputs = few ? 1 + below(20) : 0, shape[] = {(outputs + 15) / 16, (int64_t)inner, 16, 4};
      give_again(n, AMTL_WEIGHTS, quantized ? 4 : 3, shape);
      give_again(n, AMTL_BIAS, 1, &outputs);
      if (quantized) give_again(n, AMTL_SCALES, 1, &outputs);
      break;
    case 2: /* no fields */
      give_again(n, AMTL_SIZES, 1, none), give_again(n, AMTL_SHIFTS, 1, none);
      give_again(n, AMTL_IDS, 2, (int64_t[]){hostile(3) & INT64_MAX, 0});
      break;
    default: /* no rows, or none but what nothing says */
      give_again(n, AMTL_ROW_OFFSETS, 2, (int64_t[]){below(2), 1 + below(2)});
      give_again(n, AMTL_BLOCK_OFFSETS, 1, (int64_t[]){1});
      memset(n->in[AMTL_SHIFTS].data, 0, (size_t)fields * 8);
      if (rarely(2)) memset(n->in[AMTL_SIZES].data, 0, (size_t)fields * 8);
  }
}

static void spoil(node *n) {
  const size_t i = (size_t)below((int64_t)n->inputs);
  switch (below(14)) {
    case 12:
    case 13: spoil_together(n); break;
    case 0:
    case 1:
    case 2: spoil_attribute(n); break;
    case 3: n->missing = (int)i; break;
    case 4:
      if (ON_GPU || i == AMTL_IDS) spoil_address(n, i); /* the sanitizer sees reads of others there, which are made */
      break;
    case 5:
    case 6:
    case 7: spoil_contents(n, i); break;
    case 8: spoil_contents(n, AMTL_ROW_OFFSETS); break;
    default: spoil_shape(n, i);
  }
}

/* Shapes are spoilt last: what comes after reads by them. */
static node drawn_node(void) {
  node n = sound_node();
  const int64_t wrongs = below(5);
  if (wrongs >= 2) {
    const size_t i = (size_t)below((int64_t)n.inputs);
    if (wrongs == 4) spoil_attribute(&n);
    if (wrongs == 3 && rarely(2)) spoil_contents(&n, i);
    spoil(&n);
  }
  return n;
}

/* A row of the reference: its numbers are `begin`..; whether it may be read. */
typedef struct reference_row {
  int64_t begin, numbers, row;
  float scale;
} reference_row;

static int row_of(const node *n, int64_t field, int64_t id, reference_row *out) {
  const amtl_attributes *const a = &n->info.given;
  const int64_t *const sizes = n->in[AMTL_SIZES].data, *const shifts = n->in[AMTL_SHIFTS].data,
                *const blocks = n->in[AMTL_BLOCK_OFFSETS].data;
  const int64_t rows = n->in[AMTL_ROW_OFFSETS].shape[0] - 1, columns = n->in[AMTL_ROW_OFFSETS].shape[1];
  const int known = (uint64_t)id < (uint64_t)sizes[field]; /* a negative size, which only a GPU sees, has all ids */
  const wide row = (int64_t)((uint64_t)(known ? id : 0) + (uint64_t)shifts[field]);
  if (row < 0 || row >= rows) return 0;
  const void *const offsets = n->in[AMTL_ROW_OFFSETS].data;
  const int64_t r = (int64_t)row, per = n->value == AMTL_INT4 ? 2 : 1;
  /* In 64 bits offsets wrap around: what adds up to a sound row is one. */
  const int64_t begin = (int64_t)((uint64_t)blocks[r >> a->block_bits] + (uint64_t)get_offset(offsets, n->offset, r * columns));
  const int64_t end = (int64_t)((uint64_t)blocks[(r + 1) >> a->block_bits] +
                                (uint64_t)get_offset(offsets, n->offset, (r + 1) * columns));
  if (begin < 0 || end < begin || end > n->in[AMTL_VALUES].shape[0] || end - begin > (a->dim + per - 1) / per) return 0;
  const int64_t numbers = per * (end - begin);
  *out = (reference_row){per * begin, numbers < a->dim ? numbers : a->dim, r,
                         a->scale_base + a->scale_unit * (float)get_offset(offsets, n->offset, (r + 1) * columns - 1)};
  return 1;
}

static int64_t id_at(const node *n, int64_t i) {
  int64_t id;
  memcpy(&id, (const char *)n->in[AMTL_IDS].data + i * 8, sizeof id);
  return id;
}

/* Whether an input can be what it says; its elements. */
static int possible(const node *n, size_t i, wide *count) {
  const OrtValue *const v = &n->in[i];
  if ((int)i == n->missing || v->rank > AMTL_MOST_RANK) return 0;
  *count = 1;
  for (size_t d = 0; d < v->rank; d++) {
    if (v->shape[d] < 0) return 0;
    if (v->shape[d] == 0) *count = 0;
    *count *= v->shape[d];
    if (*count > (wide)1 << 63) *count = (wide)1 << 63; /* more than there can be */
  }
  for (size_t d = 0; d < v->rank; d++)
    if (v->shape[d] == 0) *count = 0;
  if (*count * (wide)element(n, i) > INT64_MAX) return 0;
  return !ON_GPU || (uintptr_t)v->data % element(n, i) == 0;
}

static int finite(float x) { return isfinite(x) != 0; }

/* Whether a node must be answered. */
static int expected(const node *n, wide *output_bytes) {
  const amtl_attributes *const a = &n->info.given;
  unsigned needed = 1u << DIM | 1u << BLOCK_BITS | 1u << SCALE_BASE | 1u << SCALE_UNIT;
  needed |= n->kind == AMTL_LINEAR ? 1u << LEAST : 0;
  needed |= n->value == AMTL_INT4 ? 1u << BITS : 0;
  if (n->info.missing & needed) return 0;
  if (a->dim < 1 || a->dim > 32768 || a->block_bits < 0 || a->block_bits > 62) return 0;
  if (!finite(a->scale_base) || !finite(a->scale_unit)) return 0;
  const double largest = n->offset == AMTL_UINT16 ? 65535.0 : n->offset == AMTL_INT32 ? 2147483648.0 : 9223372036854775808.0;
  if (fabs((double)a->scale_base) + fabs((double)a->scale_unit) * largest > FLT_MAX) return 0;
  if (n->kind == AMTL_LINEAR && isnan(a->least)) return 0;
  if (n->value == AMTL_INT4 && a->bits != 4) return 0;
  wide counts[AMTL_INT8_INPUTS];
  for (size_t i = 0; i < n->inputs; i++)
    if (!possible(n, i, &counts[i])) return 0;
  const OrtValue *const offsets = &n->in[AMTL_ROW_OFFSETS], *const ids = &n->in[AMTL_IDS];
  if (n->in[AMTL_VALUES].rank != 1 || n->in[AMTL_BLOCK_OFFSETS].rank != 1 || offsets->rank != 2) return 0;
  if (n->in[AMTL_SIZES].rank > 1 || n->in[AMTL_SHIFTS].rank > 1) return 0;
  const wide rows = (wide)offsets->shape[0] - 1, fields = counts[AMTL_SIZES];
  if (rows < 1 || offsets->shape[1] < 1 || fields < 1 || counts[AMTL_SHIFTS] != fields) return 0;
  if (counts[AMTL_BLOCK_OFFSETS] != (rows >> a->block_bits) + 1) return 0;
  if (fields > 1 && (ids->rank == 0 || ids->shape[ids->rank - 1] != fields)) return 0;
  for (int64_t f = 0; f < fields && !ON_GPU; f++) {
    const wide size = ((const int64_t *)n->in[AMTL_SIZES].data)[f], shift = ((const int64_t *)n->in[AMTL_SHIFTS].data)[f];
    if (size < 1 || shift < 0 || size + shift > rows) return 0;
  }
  wide numbers = counts[AMTL_IDS] * a->dim;
  if (n->kind != AMTL_GATHER && ids->rank != 2) return 0;
  if (n->kind == AMTL_SUM && fields != 1) return 0;
  if (n->kind == AMTL_SUM) numbers = (wide)ids->shape[0] * a->dim;
  if (n->kind == AMTL_GATHER && ids->rank >= AMTL_MOST_RANK) return 0;
  if (n->kind == AMTL_LINEAR) {
    const OrtValue *const w = &n->in[AMTL_WEIGHTS], *const bias = &n->in[AMTL_BIAS];
    const wide outputs = counts[AMTL_BIAS];
    const int quantized = n->inputs > AMTL_LINEAR_INPUTS;
    if (outputs < 1 || !(bias->rank == 1 || (bias->rank == 2 && bias->shape[0] == 1)) || ids->shape[1] != fields) return 0;
    const wide inner = quantized ? (a->dim + 3) / 4 : a->dim;
    if (w->rank != (quantized ? 4u : 3u) || w->shape[0] != (outputs + 15) / 16 || w->shape[1] != fields * inner ||
        w->shape[2] != 16 || (quantized && w->shape[3] != 4))
      return 0;
    if (quantized && (n->in[AMTL_SCALES].rank != 1 || counts[AMTL_SCALES] != outputs)) return 0;
    for (int64_t o = 0; o < outputs && quantized; o++)
      if (!finite(((const float *)n->in[AMTL_SCALES].data)[o])) return 0;
    numbers = (wide)ids->shape[0] * outputs;
  }
  *output_bytes = numbers * 4;
  if (numbers * 4 > OUTPUT_BYTES) return 0;
  reference_row row;
  for (int64_t i = 0; i < counts[AMTL_IDS] && !ON_GPU; i++)
    if (!row_of(n, i % (int64_t)fields, id_at(n, i), &row)) return 0;
  return 1;
}

/* Number j of a lookup; NaN where a GPU must say so. */
static float number_at(const node *n, int64_t lookup, int64_t fields, int64_t j) {
  reference_row row;
  if (!row_of(n, lookup % fields, id_at(n, lookup), &row)) return NAN;
  if (j >= row.numbers) return 0.0f;
  return stored_number(n->in[AMTL_VALUES].data, n->value, row.begin + j) * row.scale;
}

/* Sums in another order, and scales by one rounding or two; numbers that are past float32 somewhere are left alone. */
static void compare(float found, double wanted, double size) {
  if (!(size < 1e30)) return;
  if (fabs(found - wanted) <= 1e-5 * size) return;
  fprintf(stderr, "found %g, wanted %g, of terms that come to %g\n", (double)found, wanted, size);
  fail("an answer differs");
}

static double weight_at(const node *n, int64_t fields, int64_t field, int64_t j, int64_t output) {
  const int64_t dim = n->info.given.dim, panel = output / 16, quads = (dim + 3) / 4;
  if (n->inputs <= AMTL_LINEAR_INPUTS)
    return ((const float *)n->in[AMTL_WEIGHTS].data)[(panel * fields * dim + field * dim + j) * 16 + output % 16];
  const uint8_t q =
      ((const uint8_t *)n->in[AMTL_WEIGHTS].data)[((panel * fields * quads + field * quads + j / 4) * 16 + output % 16) * 4 + j % 4];
  return ((double)q - 128) * ((const float *)n->in[AMTL_SCALES].data)[output];
}

static void check_answer(const node *n, const OrtValue *out) {
  const amtl_attributes *const a = &n->info.given;
  const OrtValue *const ids = &n->in[AMTL_IDS];
  const int64_t fields = count_of(&n->in[AMTL_SIZES]), lookups = count_of(ids);
  const int64_t last = n->kind == AMTL_LINEAR ? count_of(&n->in[AMTL_BIAS]) : a->dim;
  const size_t axes = n->kind == AMTL_GATHER ? ids->rank : 1;
  if (out->rank != axes + 1 || out->shape[axes] != last || memcmp(out->shape, ids->shape, axes * 8) != 0) fail("another shape");
  const float *const found = out->data;
  const int64_t examples = n->kind == AMTL_GATHER ? lookups : ids->shape[0];
  const int64_t step = examples > 900 ? 7 : 1; /* of many, some, and the last */
  for (int64_t b = 0; b < examples; b = b + step < examples || b == examples - 1 ? b + step : examples - 1) {
    const int64_t first = n->kind == AMTL_GATHER ? b : b * ids->shape[1], many = n->kind == AMTL_GATHER ? 1 : ids->shape[1];
    for (int64_t c = 0; c < last; c = c + 1 < 200 || c >= last - 9 ? c + 1 : c + 97) {
      double sum = 0, size = 1;
      if (n->kind == AMTL_LINEAR) {
        sum = ((const float *)n->in[AMTL_BIAS].data)[c], size += fabs(sum);
        if (c > 4 && c < last - 2 && b % 16) continue; /* dear */
        for (int64_t f = 0; f < fields; f++) {
          reference_row row;
          if (!row_of(n, f, id_at(n, first + f), &row)) fail("a bad row was answered");
          for (int64_t j = 0; j < row.numbers; j++) {
            const double x = stored_number(n->in[AMTL_VALUES].data, n->value, row.begin + j) * (double)row.scale;
            const double term = x * weight_at(n, fields, f, j, c);
            sum += term, size += fabs(x) > 1e30 ? INFINITY : fabs(term); /* a sum may leave float32 before it is scaled */
          }
        }
        if (size < 1e30 && sum < a->least) sum = a->least;
        if (isinf(sum)) size = INFINITY;
      } else {
        for (int64_t i = first; i < first + many; i++) {
          const float x = number_at(n, i, fields, c);
          sum += x, size += fabs(x);
        }
        if (isnan(sum) && ON_GPU && !isnan(found[b * last + c])) fail("a bad row was answered");
      }
      compare(found[b * last + c], sum, size);
    }
  }
}

static struct { char text[160]; int64_t times; } words[MOST_WORDS];
static int64_t answered, refused;

/* Words without their numbers, counted; an operator's begin with its name. */
static void note(const node *n, const char *text) {
  char key[160];
  size_t at = 0;
  if (strncmp(text, "amtl: ", 6) == 0 && strncmp(text + 6, n->op->GetName(n->op), strlen(n->op->GetName(n->op))) != 0)
    fail("words that do not name the operator");
  if (strncmp(text, "amtl: ", 6) == 0) text += 6 + strlen(n->op->GetName(n->op)) + 2;
  while (*text != '\0' && at + 1 < sizeof key) {
    const size_t long_number = strspn(text, "-+.e0123456789"), word = strspn(text, "-infa");
    const int number = isdigit((unsigned char)*text) || (*text == '-' && isdigit((unsigned char)text[1]));
    const int no_number = (word == 3 || (word == 4 && *text == '-')) && (strstr(text, "inf") == text + (word - 3) || strstr(text, "nan") == text + (word - 3));
    if (number || no_number) {
      key[at++] = '#', text += number ? long_number : word;
      while (strncmp(text, ", ", 2) == 0 && (isdigit((unsigned char)text[2]) || text[2] == '-')) /* "[3, 4]" to "[#]" */
        text += 2 + strspn(text + 2, "-0123456789");
    } else {
      key[at++] = *text++;
    }
  }
  key[at] = '\0';
  for (size_t i = 0; i < MOST_WORDS; i++) {
    if (words[i].times == 0) memcpy(words[i].text, key, sizeof key);
    if (strcmp(words[i].text, key) != 0) continue;
    words[i].times++;
    return;
  }
  fail("more words than there is room for");
}

typedef struct one_call {
  const node *n;
  void *kernel;
  int threads;
  OrtKernelContext context;
  OrtStatus *status;
} one_call;

static void *call(void *of) {
  one_call *const c = of;
  for (size_t i = 0; i < c->n->inputs; i++) c->context.in[i] = (int)i == c->n->missing ? NULL : (OrtValue *)&c->n->in[i];
  c->context.threads = c->threads;
  c->status = c->n->op->KernelComputeV2(c->kernel, &c->context);
  return NULL;
}

static void check_call(one_call *c) {
  wide output_bytes = 0;
  const int want = expected(c->n, &output_bytes);
  if (c->status != NULL && want) fprintf(stderr, "%s\n", c->status->text), fail("a sound node was refused");
  if (c->status == NULL && !want) fail("a node was answered that contradicts itself");
  if (c->status == NULL) {
    answered++;
    check_answer(c->n, &c->context.out);
  } else {
    refused++;
    note(c->n, c->status->text);
    release_status(c->status);
  }
  free(c->context.out.memory);
}

static void run_case(int threads) {
  node n = drawn_node();
  void *kernel = NULL;
  OrtStatus *status = n.op->CreateKernelV2(n.op, &api, &n.info, &kernel);
  wide unused = 0;
  if (status != NULL) {
    if (kernel != NULL) fail("a kernel and an error");
    if (expected(&n, &unused)) fprintf(stderr, "%s\n", status->text), fail("a sound node was refused");
    refused++, note(&n, status->text), release_status(status);
  } else {
    const int64_t examples = n.in[AMTL_IDS].shape[0];
    const int shorter = n.missing < 0 && n.in[AMTL_IDS].rank > 0 && examples > 1 && rarely(2) && expected(&n, &unused);
    for (int turn = 0; turn <= shorter; turn++) { /* and again with fewer examples, by the same kernel */
      one_call calls[MOST_THREADS];
      pthread_t running[MOST_THREADS];
      for (int t = 0; t < threads; t++) calls[t] = (one_call){.n = &n, .kernel = kernel, .threads = threads};
      for (int t = 1; t < threads; t++)
        if (pthread_create(&running[t], NULL, call, &calls[t]) != 0) fail("no thread");
      call(&calls[0]);
      for (int t = 1; t < threads; t++) pthread_join(running[t], NULL);
      for (int t = 0; t < threads; t++) check_call(&calls[t]);
      if (shorter && n.in[AMTL_IDS].rank > 1) n.in[AMTL_IDS].shape[0] = 1 + below(examples - 1);
    }
    n.op->KernelDestroy(kernel);
  }
  if (alive != 0) fail("something was not released");
  for (size_t i = 0; i < n.inputs; i++) free(n.in[i].memory);
}

OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base);

int main(int argc, char **argv) {
  const int64_t cases = argc > 1 ? atoll(argv[1]) : 1000, first = argc > 3 ? atoll(argv[3]) : 0;
  const int threads = argc > 4 ? atoi(argv[4]) : 1;
  the_seed = argc > 2 ? atoll(argv[2]) : 1;
  if (threads < 1 || threads > MOST_THREADS) fail("1 to 4 threads");
  if (the_seed % 4 == 0) the_version = "1.16.3"; /* without ParallelFor */
  set_up();
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  __sanitizer_set_death_callback(died);
#endif
  signal(SIGALRM, ended);
  OrtSessionOptions options = {0};
  const OrtApiBase base = {get_api, get_version};
  for (int twice = 0; twice < 2; twice++) { /* two sessions, one set of operators */
    OrtStatus *status = RegisterCustomOps(&options, &base);
    if (status == NULL) continue;
    fprintf(stderr, "%s\n", status->text);
    release_status(status);
    return 2;
  }
  for (the_case = first; the_case < first + cases; the_case++) {
    state = ((uint64_t)the_seed * 0x9e3779b97f4a7c15u) ^ ((uint64_t)(the_case + 1) * 0xbf58476d1ce4e5b9u);
    if (state == 0) state = 1;
    (void)draw(), (void)draw();
    if (the_case % 256 == 0) alarm(SECONDS);
    run_case(threads);
  }
  printf("{\"operators\": %zu, \"cases\": %lld, \"answered\": %lld, \"refused\": %lld, \"words\": {", operator_count,
         (long long)cases, (long long)answered, (long long)refused);
  for (size_t i = 0; i < MOST_WORDS && words[i].times > 0; i++)
    printf("%s\"%s\": %lld", i ? ", " : "", words[i].text, (long long)words[i].times);
  printf("}}\n");
  return 0;
}
