#include "check.h"

#include <float.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "spans.h"

#define WANT(holds, ...)                                          \
  do {                                                            \
    if (!(holds)) return amtl_refuse(op, problem, __VA_ARGS__);   \
  } while (0)

int amtl_refuse(const amtl_operator *op, amtl_problem *problem, const char *format, ...) {
  va_list arguments;
  const int begun = snprintf(problem->text, sizeof problem->text, "amtl: %s: ", op->name);
  va_start(arguments, format);
  (void)vsnprintf(problem->text + begun, sizeof problem->text - (size_t)begun, format, arguments);
  va_end(arguments);
  return 0;
}

int amtl_is_on_table(const amtl_operator *op) { return op->kind != AMTL_DENSE && op->kind != AMTL_CROSS; }

const char *amtl_input_name(const amtl_operator *op, size_t input) {
  static const char *const of_tables[AMTL_INT8_INPUTS] = {"values", "block_offsets", "row_offsets", "ids",   "sizes",
                                                          "shifts", "weights",       "bias",        "scales"};
  static const char *const of_numbers[AMTL_CROSS_INPUTS] = {"x", "weights", "scales", "offsets", "bias", "x0"};
  return amtl_is_on_table(op) ? of_tables[input] : of_numbers[input];
}

static enum amtl_element element_of_table(const amtl_operator *op, enum amtl_table_input input) {
  static const enum amtl_element
      values[] = {AMTL_ELEMENT_FLOAT32, AMTL_ELEMENT_FLOAT16, AMTL_ELEMENT_INT8, AMTL_ELEMENT_UINT8},
      row_offsets[] = {AMTL_ELEMENT_UINT16, AMTL_ELEMENT_INT32, AMTL_ELEMENT_INT64};
  switch (input) {
    case AMTL_VALUES: return values[op->value];
    case AMTL_ROW_OFFSETS: return row_offsets[op->offset];
    case AMTL_WEIGHTS: return op->inputs > AMTL_LINEAR_INPUTS ? AMTL_ELEMENT_UINT8 : AMTL_ELEMENT_FLOAT32;
    case AMTL_BIAS:
    case AMTL_SCALES: return AMTL_ELEMENT_FLOAT32;
    default: return AMTL_ELEMENT_INT64;
  }
}

enum amtl_element amtl_input_element(const amtl_operator *op, size_t input) {
  if (amtl_is_on_table(op)) return element_of_table(op, (enum amtl_table_input)input);
  return input == AMTL_DENSE_WEIGHTS ? AMTL_ELEMENT_INT8
         : input == AMTL_DENSE_OFFSETS ? AMTL_ELEMENT_INT32
                                       : AMTL_ELEMENT_FLOAT32;
}

size_t amtl_element_size(enum amtl_element element) {
  static const size_t sizes[] = {4, 2, 1, 1, 2, 4, 8};
  return sizes[element];
}

/* "[3, 4]", for an error. */
typedef struct shape_text {
  char text[8 + 22 * AMTL_MOST_RANK];
} shape_text;

static shape_text shown(const amtl_tensor *t) {
  shape_text out = {"["};
  size_t at = 1;
  for (size_t i = 0; i < t->rank; i++)
    at += (size_t)snprintf(out.text + at, sizeof out.text - at, i ? ", %" PRId64 : "%" PRId64, t->shape[i]);
  (void)snprintf(out.text + at, sizeof out.text - at, "]");
  return out;
}

static int is_finite(double x) { return x >= -FLT_MAX && x <= FLT_MAX; }

/* Whether every row that a table could have has a finite scale. */
static int scales_fit(const amtl_operator *op, const amtl_attributes *a) {
  static const double most[] = {UINT16_MAX, -(double)INT32_MIN, -(double)INT64_MIN}; /* of quantized scales */
  const double base = a->scale_base, unit = a->scale_unit;
  return is_finite((base < 0 ? -base : base) + (unit < 0 ? -unit : unit) * most[op->offset]);
}

int amtl_check_attributes(const amtl_operator *op, const amtl_attributes *a, amtl_problem *problem) {
  const int has_least = op->kind != AMTL_GATHER && op->kind != AMTL_SUM;
  WANT(!has_least || a->least == a->least, "attribute least is no number");
  if (!amtl_is_on_table(op)) {
    WANT(a->zero == 0 || a->zero == 128, "attribute zero is %" PRId64 ", allowed 0 and 128", a->zero);
    return 1;
  }
  WANT(a->dim >= 1 && a->dim <= AMTL_MOST_DIM, "attribute dim is %" PRId64 ", allowed 1..%d", a->dim, AMTL_MOST_DIM);
  WANT(a->block_bits >= 0 && a->block_bits <= AMTL_MOST_BLOCK_BITS, "attribute block_bits is %" PRId64 ", allowed 0..%d",
       a->block_bits, AMTL_MOST_BLOCK_BITS);
  WANT(scales_fit(op, a), "attributes scale_base %g and scale_unit %g: a row's scale could be no finite number",
       (double)a->scale_base, (double)a->scale_unit);
  WANT(op->value != AMTL_INT4 || a->bits == 4, "attribute bits is %" PRId64 ", uint8 values need 4", a->bits);
  return 1;
}

int amtl_check_tensor(const amtl_operator *op, size_t input, amtl_tensor *t, amtl_problem *problem) {
  const char *const name = amtl_input_name(op, input);
  int64_t bytes = 0;
  int empty = 0, fits = 1;
  t->count = 1;
  for (size_t i = 0; i < t->rank; i++) {
    WANT(t->shape[i] >= 0, "input %s has a dimension of %" PRId64, name, t->shape[i]);
    if (t->shape[i] == 0) empty = 1; /* whatever the other dimensions are */
    else fits = fits && amtl_multiply(t->count, t->shape[i], &t->count);
  }
  if (empty) t->count = 0;
  WANT(empty || (fits && amtl_multiply(t->count, (int64_t)t->size, &bytes)), "input %s has the impossible shape %s", name,
       shown(t).text);
  WANT(t->data != NULL || t->count == 0, "input %s has no data", name);
  const int anywhere = !op->on_gpu; /* a file is mapped, and its arrays begin where the one before ends */
  WANT(anywhere || (uintptr_t)t->data % t->size == 0, "input %s does not lie on a multiple of %zu bytes", name, t->size);
  return 1;
}

/* Sizes and shifts against the table's rows. */
static int fields_fit(const amtl_operator *op, const amtl_table *t, amtl_problem *problem) {
  for (int64_t f = 0; f < t->fields; f++) {
    WANT(t->sizes[f] >= 1, "input sizes, field %" PRId64 ": %" PRId64 " rows, allowed 1 or more", f, t->sizes[f]);
    WANT(t->shifts[f] >= 0 && t->sizes[f] <= t->rows && t->shifts[f] <= t->rows - t->sizes[f],
         "inputs sizes, shifts and row_offsets, field %" PRId64 ": %" PRId64 " rows from row %" PRId64
         " on reach rows that the table does not have, which has %" PRId64,
         f, t->sizes[f], t->shifts[f], t->rows);
  }
  return 1;
}

/* The table that the inputs make up. */
static int table_of(const amtl_operator *op, const amtl_attributes *a, const amtl_tensor *in, amtl_table *out,
                    amtl_problem *problem) {
  static const _Alignas(8) char nothing[8]; /* empty values need an address, from which kernels count */
  const amtl_tensor *const offsets = &in[AMTL_ROW_OFFSETS], *const ids = &in[AMTL_IDS];
  WANT(in[AMTL_VALUES].rank == 1, "input values is %s, must be [count]", shown(&in[AMTL_VALUES]).text);
  WANT(offsets->rank == 2 && offsets->shape[0] >= 1 && offsets->shape[1] >= 1,
       "input row_offsets is %s, must be [rows + 1, columns]", shown(offsets).text);
  const int64_t rows = offsets->shape[0] - 1, fields = in[AMTL_SIZES].count;
  WANT(in[AMTL_BLOCK_OFFSETS].rank == 1 && in[AMTL_BLOCK_OFFSETS].count == (rows >> a->block_bits) + 1,
       "input block_offsets is %s, must be one for each block of %" PRId64 " rows: [%" PRId64 "]",
       shown(&in[AMTL_BLOCK_OFFSETS]).text, (int64_t)1 << a->block_bits, (rows >> a->block_bits) + 1);
  WANT(rows >= 1, "input row_offsets: the table has no rows");
  WANT(in[AMTL_SIZES].rank <= 1 && in[AMTL_SHIFTS].rank <= 1 && fields >= 1 && fields == in[AMTL_SHIFTS].count,
       "inputs sizes and shifts are %s and %s, must be as many, and one at least", shown(&in[AMTL_SIZES]).text,
       shown(&in[AMTL_SHIFTS]).text);
  WANT(fields == 1 || (ids->rank >= 1 && ids->shape[ids->rank - 1] == fields),
       "input ids is %s: the last dimension of ids is not the number of sizes, %" PRId64, shown(ids).text, fields);
  *out = (amtl_table){
      .values = in[AMTL_VALUES].count > 0 ? in[AMTL_VALUES].data : nothing,
      .row_offsets = offsets->data,
      .block_offsets = in[AMTL_BLOCK_OFFSETS].data,
      .ids = ids->data,
      .sizes = in[AMTL_SIZES].data,
      .shifts = in[AMTL_SHIFTS].data,
      .count = in[AMTL_VALUES].count,
      .rows = rows,
      .columns = offsets->shape[1],
      .lookups = ids->count,
      .fields = fields,
      .dim = a->dim,
      .block_bits = a->block_bits,
      .scale_base = a->scale_base,
      .scale_unit = a->scale_unit,
      .value = op->value,
      .offset = op->offset,
  };
  return op->on_gpu || fields_fit(op, out, problem);
}

/* A number at any address. */
static float float_at(const float *numbers, int64_t i) {
  float number;
  memcpy(&number, numbers + i, sizeof number);
  return number;
}

/* The scales of a layer's outputs. */
static int scales_are_finite(const amtl_operator *op, const amtl_tensor *scales, int64_t outputs, amtl_problem *problem) {
  WANT(scales->rank == 1 && scales->count == outputs, "input scales is %s, must be one for each output: [%" PRId64 "]",
       shown(scales).text, outputs);
  for (int64_t o = 0; o < outputs; o++)
    WANT(is_finite(float_at(scales->data, o)), "input scales, output %" PRId64 ": no finite number", o);
  return 1;
}

static int bias_fits(const amtl_operator *op, const amtl_tensor *bias, amtl_problem *problem) {
  WANT(bias->count >= 1 && (bias->rank == 1 || (bias->rank == 2 && bias->shape[0] == 1)),
       "input bias is %s, must be [outputs] or [1, outputs]", shown(bias).text);
  return 1;
}

/* Panels of columns. */
static int64_t panels_of(int64_t outputs) { return outputs / AMTL_PANEL + (outputs % AMTL_PANEL != 0); }

/* The layer behind the table's rows. */
static int layer_of(const amtl_operator *op, const amtl_attributes *a, const amtl_tensor *in, const amtl_table *t,
                    amtl_linear *out, amtl_problem *problem) {
  const amtl_tensor *const weights = &in[AMTL_WEIGHTS], *const bias = &in[AMTL_BIAS], *const scales = &in[AMTL_SCALES];
  const int quantized = op->inputs > AMTL_LINEAR_INPUTS;
  const int64_t outputs = bias->count, panels = panels_of(outputs);
  if (!bias_fits(op, bias, problem)) return 0;
  int64_t inputs = 0, scratch = 0;
  const int64_t per_field = quantized ? (a->dim + 3) / 4 : a->dim;
  /* Packed rows of a block take 16 bytes for four floats; all that layer.h keeps of it, less than four times that. */
  WANT(amtl_multiply(t->fields, per_field, &inputs) &&
           amtl_multiply(t->fields, (a->dim + 3) / 4 * 64 * AMTL_BLOCK, &scratch),
       "%" PRId64 " fields of dim %" PRId64 " are more than can be counted", t->fields, a->dim);
  WANT(weights->rank == (quantized ? 4 : 3) && weights->shape[0] == panels && weights->shape[1] == inputs &&
           weights->shape[2] == AMTL_PANEL && (!quantized || weights->shape[3] == 4),
       quantized ? "input weights is %s; weights must be [ceil(outputs / 16), fields * ceil(dim / 4), 16, 4] = [%" PRId64 ", %" PRId64
                   ", 16, 4]"
                 : "input weights is %s; weights must be [ceil(outputs / 16), fields * dim, 16] = [%" PRId64 ", %" PRId64 ", 16]",
       shown(weights).text, panels, inputs);
  *out = (amtl_linear){weights->data, quantized ? scales->data : NULL, bias->data, outputs, a->least};
  return !quantized || scales_are_finite(op, scales, outputs, problem);
}

/* The output's shape, whose bytes can be counted: the first `axes` of an input's, and `last`. */
static int shape_of(const amtl_operator *op, size_t input, const amtl_tensor *t, size_t axes, int64_t last, amtl_call *out,
                    amtl_problem *problem) {
  const char *const name = amtl_input_name(op, input);
  int64_t bytes = (int64_t)sizeof(float);
  WANT(axes < AMTL_MOST_RANK, "input %s has %zu dimensions, allowed at most %d", name, t->rank, AMTL_MOST_RANK - 1);
  for (size_t i = 0; i < axes; i++) out->shape[i] = t->shape[i];
  out->shape[axes] = last, out->rank = axes + 1;
  int fits = 1, empty = 0;
  for (size_t i = 0; i < out->rank; i++)
    if (out->shape[i] == 0) empty = 1;
    else fits = fits && amtl_multiply(bytes, out->shape[i], &bytes);
  WANT(empty || fits, "input %s is %s: no output can be that large", name, shown(t).text);
  return 1;
}

/* A cross adds its input and multiplies by another like it. */
static int cross_fits(const amtl_operator *op, const amtl_tensor *x, const amtl_tensor *x0, int64_t outputs,
                      amtl_problem *problem) {
  const int64_t inputs = x->shape[x->rank - 1];
  WANT(outputs == inputs, "inputs x and bias: %" PRId64 " inputs and %" PRId64 " outputs, of a cross they must be as many",
       inputs, outputs);
  WANT(x0->rank == x->rank && memcmp(x0->shape, x->shape, x->rank * sizeof *x->shape) == 0,
       "inputs x and x0 are %s and %s, must be alike", shown(x).text, shown(x0).text);
  return 1;
}

/* The layer of numbers. */
static int dense_of(const amtl_operator *op, const amtl_attributes *a, const amtl_tensor *in, amtl_dense *out,
                    amtl_problem *problem) {
  const amtl_tensor *const x = &in[AMTL_X], *const weights = &in[AMTL_DENSE_WEIGHTS], *const offsets = &in[AMTL_DENSE_OFFSETS];
  WANT(x->rank >= 1, "input x is %s, must be [.., inputs]", shown(x).text);
  const int64_t inputs = x->shape[x->rank - 1], outputs = in[AMTL_DENSE_BIAS].count;
  WANT(inputs >= 1 && inputs <= AMTL_MOST_INPUTS, "input x is %s: its last dimension must be within 1..%d", shown(x).text,
       AMTL_MOST_INPUTS);
  if (!bias_fits(op, &in[AMTL_DENSE_BIAS], problem)) return 0;
  WANT(weights->rank == 4 && weights->shape[0] == panels_of(outputs) && weights->shape[1] == (inputs + 3) / 4 &&
           weights->shape[2] == AMTL_PANEL && weights->shape[3] == 4,
       "input weights is %s; weights must be [ceil(outputs / 16), ceil(inputs / 4), 16, 4] = [%" PRId64 ", %" PRId64 ", 16, 4]",
       shown(weights).text, panels_of(outputs), (inputs + 3) / 4);
  WANT(offsets->rank == 1 && offsets->count == outputs, "input offsets is %s, must be one for each output: [%" PRId64 "]",
       shown(offsets).text, outputs);
  if (!scales_are_finite(op, &in[AMTL_DENSE_SCALES], outputs, problem)) return 0;
  const int cross = op->kind == AMTL_CROSS;
  *out = (amtl_dense){
      .x = x->data,
      .scales = in[AMTL_DENSE_SCALES].data,
      .bias = in[AMTL_DENSE_BIAS].data,
      .x0 = cross ? in[AMTL_X0].data : NULL,
      .offsets = offsets->data,
      .weights = weights->data,
      .rows = x->count / inputs,
      .inputs = inputs,
      .outputs = outputs,
      .zero = a->zero,
      .least = a->least,
  };
  return !cross || cross_fits(op, x, &in[AMTL_X0], outputs, problem);
}

int amtl_check_call(const amtl_operator *op, const amtl_attributes *a, const amtl_tensor *in, amtl_call *out,
                    amtl_problem *problem) {
  if (!amtl_is_on_table(op))
    return dense_of(op, a, in, &out->dense, problem) &&
           shape_of(op, AMTL_X, &in[AMTL_X], in[AMTL_X].rank - 1, out->dense.outputs, out, problem);
  const amtl_tensor *const ids = &in[AMTL_IDS];
  if (!table_of(op, a, in, &out->table, problem)) return 0;
  WANT(op->kind != AMTL_SUM || (ids->rank == 2 && out->table.fields == 1),
       "input ids is %s: ids of a sum must be [examples, length], of one field", shown(ids).text);
  WANT(op->kind != AMTL_LINEAR || (ids->rank == 2 && ids->shape[1] == out->table.fields),
       "input ids is %s: ids of a layer must be [examples, fields]", shown(ids).text);
  if (op->kind != AMTL_GATHER) out->examples = ids->shape[0], out->length = ids->shape[1];
  if (op->kind == AMTL_LINEAR && !layer_of(op, a, in, &out->table, &out->layer, problem)) return 0;
  return shape_of(op, AMTL_IDS, ids, op->kind == AMTL_GATHER ? ids->rank : 1,
                  op->kind == AMTL_LINEAR ? out->layer.outputs : out->table.dim, out, problem);
}

/* A lookup whose row is not within the values or longer than dim. */
typedef struct bad_row {
  int64_t at, row, begin, end;
} bad_row;

/* The first one; whether there is one. */
AMTL_INLINE int find_bad_row(const amtl_table *t, bad_row *out, enum amtl_value value, enum amtl_offset offset) {
  amtl_cursor next = amtl_cursor_at(t, 0);
  for (; next.at < t->lookups; amtl_move_on(t, &next)) {
    const uint64_t row = amtl_row_of(t, next);
    amtl_span s;
    if (amtl_find_span(t, row, &s, value, offset)) continue;
    *out = (bad_row){next.at, (int64_t)row, amtl_begin_of(t, row, offset), amtl_begin_of(t, row + 1, offset)};
    return 1;
  }
  return 0;
}

void amtl_explain(const amtl_operator *op, const amtl_table *t, enum amtl_fault fault, amtl_problem *problem) {
  bad_row bad;
  if (fault == AMTL_NO_MEMORY) {
    (void)amtl_refuse(op, problem, "no memory for a block of examples");
  } else if (amtl_is_on_table(op) && AMTL_WITH_TYPES(t, find_bad_row, t, &bad)) {
    (void)amtl_refuse(op, problem,
                      "inputs values, block_offsets and row_offsets, row %" PRId64 " (lookup %" PRId64
                      " of input ids): begins at %" PRId64
                      " and ends at %" PRId64 " of %" PRId64
                      " values; row_offsets fall, leave the values, or make a row longer than dim %" PRId64,
                      bad.row, bad.at, bad.begin, bad.end, t->count, t->dim);
  } else {
    (void)amtl_refuse(op, problem, "its inputs changed while it read them");
  }
}
