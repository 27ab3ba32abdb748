/* Drives all kernels, and the threads of a GPU (cuda_on_cpu.c), with tables and ids drawn from a seed, for every type and
 * every instruction set that this processor has; built with the address and undefined-behaviour sanitizers, every buffer
 * exactly as large as it may be. Prints how many lookups were checked. fuzz_operators.c drives what stands before them.
 */
#include <float.h>

#include "kernels_for.h"
#include "reference.h"

static void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

enum amtl_fault amtl_gather_cuda(const amtl_table *t, float *out, int64_t begin, int64_t end);
enum amtl_fault amtl_sum_cuda(const amtl_table *t, int64_t length, float *out, int64_t begin, int64_t end);

/* Those that this processor has, and a GPU's. */
static size_t available(amtl_isa *out) {
  size_t n = 0;
  for (size_t i = 0; i < amtl_isa_count; i++)
    if (amtl_isas[i].available()) out[n++] = amtl_isas[i];
  out[n] = amtl_isas[0], out[n].name = "cuda", out[n].gather = amtl_gather_cuda, out[n].sum = amtl_sum_cuda;
  return n + 1;
}

static enum amtl_fault multiplied(const amtl_isa *isa, const amtl_table *t, const amtl_linear *layer, float *out,
                                  int64_t begin, int64_t end) {
  if (begin == end) return AMTL_FINE;
  void *const scratch = allocated(isa->scratch_bytes(t, end - begin));
  const enum amtl_fault fault = isa->linear(t, layer, out, begin, end, scratch);
  free(scratch);
  return fault;
}

/* The same, number by number. */
static void reference(const amtl_table *t, const int64_t *begin, const int64_t *quantized_scales, int64_t lookups,
                      float *out) {
  const int64_t per = t->value == AMTL_INT4 ? 2 : 1; /* numbers of what offsets count */
  for (int64_t i = 0; i < lookups; i++) {
    int64_t field = i % t->fields, id = t->ids[i];
    int64_t row = (id < 0 || id >= t->sizes[field] ? 0 : id) + t->shifts[field];
    float scale = t->scale_base + t->scale_unit * (float)quantized_scales[row];
    for (int64_t j = 0; j < t->dim; j++)
      out[i * t->dim + j] = j < per * (begin[row + 1] - begin[row]) ? stored_number(t->values, t->value, per * begin[row] + j) * scale : 0.0f;
  }
}

/* Columns of floats, or of an int8 or int4 table, drawn by itself, of quantized values: `weights`, `scales` and what they mean,
 * `meant`. */
static amtl_linear draw_layer(const amtl_table *t, int64_t outputs, double *meant, int quantized_scales) {
  int64_t panels = (outputs + 15) / 16, inputs = t->fields * t->dim, quads = (t->dim + 3) / 4;
  float *scales = quantized_scales ? allocated((size_t)outputs * 4) : NULL, *bias = allocated((size_t)outputs * 4);
  for (int64_t o = 0; o < outputs; o++) bias[o] = (float)below(9);
  for (int64_t o = 0; o < outputs && quantized_scales; o++) scales[o] = (float)(1 + below(3)) / 4;
  float *floats = allocated(quantized_scales ? 0 : (size_t)(panels * inputs * 16) * 4);
  uint8_t *bytes = allocated(quantized_scales ? (size_t)(panels * t->fields * quads * 64) : 0);
  for (int64_t i = 0; i < panels * t->fields * quads * 64 && quantized_scales; i++) bytes[i] = (uint8_t)draw();
  for (int64_t o = 0; o < panels * 16; o++)
    for (int64_t i = 0; i < inputs; i++) {
      int64_t quad = i / t->dim * quads + i % t->dim / 4, code = below(255);
      double weight = (double)below(9) - 4;
      if (quantized_scales) bytes[((o / 16 * t->fields * quads + quad) * 16 + o % 16) * 4 + i % t->dim % 4] = (uint8_t)code;
      else floats[(o / 16 * inputs + i) * 16 + o % 16] = (float)weight;
      if (o < outputs) meant[o * inputs + i] = quantized_scales ? (double)(code - 128) * scales[o] : weight;
    }
  free(quantized_scales ? (void *)floats : (void *)bytes);
  return (amtl_linear){quantized_scales ? (void *)bytes : (void *)floats, scales, bias, outputs, below(2) ? 0.0f : -FLT_MAX};
}

static void check_linear(const amtl_table *t, const amtl_isa *isa, const float *rows, int64_t examples) {
  int64_t inputs = t->fields * t->dim, outputs = 1 + below(90);
  float *out = allocated((size_t)(examples * outputs) * 4);
  double *meant = allocated((size_t)(outputs * inputs) * 8);
  const amtl_linear layer = draw_layer(t, outputs, meant, t->value >= AMTL_INT8 && below(2));
  int64_t middle = examples ? below(examples + 1) : 0;
  if (multiplied(isa, t, &layer, out, 0, middle) != AMTL_FINE || multiplied(isa, t, &layer, out, middle, examples) != AMTL_FINE)
    fail("a layer was refused");
  for (int64_t b = 0; b < examples; b++)
    for (int64_t o = 0; o < outputs; o++) {
      double sum = layer.bias[o], size = fabs(sum) + 1;
      for (int64_t k = 0; k < inputs; k++) {
        double term = (double)rows[b * inputs + k] * meant[o * inputs + k];
        sum += term, size += fabs(term);
      }
      if (sum < layer.least) sum = layer.least;
      if (!(fabs(out[b * outputs + o] - sum) <= 1e-5 * size)) fail("a layer differs");
    }
  free((void *)layer.weights), free((void *)layer.scales), free((void *)layer.bias), free(out), free(meant);
}

/* The first field's ids, in examples of any length. */
static void check_sum(const amtl_table *t, const amtl_isa *isa, const float *rows, int64_t lookups) {
  amtl_table one = *t;
  one.fields = 1;
  int64_t length = below(7), examples = length ? lookups / t->fields / length : below(5), used = examples * length;
  int64_t *ids = allocated((size_t)used * 8);
  for (int64_t i = 0; i < used; i++) ids[i] = t->ids[i * t->fields];
  one.ids = ids;
  float *out = allocated((size_t)(examples * t->dim) * 4);
  int64_t middle = examples ? below(examples + 1) : 0;
  if (isa->sum(&one, length, out, 0, middle) != AMTL_FINE || isa->sum(&one, length, out, middle, examples) != AMTL_FINE)
    fail("a sum was refused");
  for (int64_t b = 0; b < examples; b++)
    for (int64_t j = 0; j < t->dim; j++) {
      double sum = 0, size = 1;
      for (int64_t i = b * length; i < (b + 1) * length; i++) {
        double term = rows[i * t->fields * t->dim + j];
        sum += term, size += fabs(term);
      }
      if (!(fabs(out[b * t->dim + j] - sum) <= 1e-5 * size)) fail("a sum differs");
    }
  free(ids), free(out);
}

static int64_t check_one(const amtl_isa *all, size_t sets) {
  const amtl_isa *isa = &all[below((int64_t)sets)];
  enum amtl_value value = (enum amtl_value)below(4);
  enum amtl_offset offset = (enum amtl_offset)below(3);
  int64_t fields = 1 + below(4), dim = 1 + below(below(20) == 0 ? 3000 : 70), rows = 0, count = 0, columns = 1 + below(2);
  int64_t *sizes = allocated((size_t)fields * 8), *shifts = allocated((size_t)fields * 8);
  for (int64_t f = 0; f < fields; f++) sizes[f] = 1 + below(30), shifts[f] = rows, rows += sizes[f];
  int64_t bits = below(5), blocks = (rows >> bits) + 1;
  int64_t *begin = allocated((size_t)(rows + 1) * 8), *quantized_scales = allocated((size_t)(rows + 1) * 8);
  for (int64_t r = 0; r <= rows; r++) {
    begin[r] = count;
    count += r == rows || below(4) == 0 ? 0 : below((value == AMTL_INT4 ? (dim + 1) / 2 : dim) + 1);
  }
  int64_t *block_offsets = allocated((size_t)blocks * 8);
  void *row_offsets = allocated((size_t)((rows + 1) * columns * offset_bytes[offset]));
  for (int64_t r = 0; r <= rows; r++) {
    if ((r & ((1 << bits) - 1)) == 0) block_offsets[r >> bits] = begin[r];
    put_offset(row_offsets, offset, r * columns, begin[r] - block_offsets[r >> bits]);
    quantized_scales[r] = columns == 2 ? below(1000) : begin[r] - block_offsets[r >> bits];
    if (columns == 2) put_offset(row_offsets, offset, r * columns + 1, quantized_scales[r]);
  }
  unsigned char *values = allocated((size_t)(count * value_bytes[value]));
  draw_values(values, value, count);
  int64_t examples = below(below(10) == 0 ? 300 : 40), lookups = fields * examples;
  int64_t *ids = allocated((size_t)lookups * 8);
  for (int64_t i = 0; i < lookups; i++) ids[i] = out_of_range(sizes[i % fields]);
  size_t bytes = (size_t)(lookups * dim) * 4;
  float *out = allocated(bytes), *expected = allocated(bytes);
  memset(out, 0xff, bytes);
  amtl_table t = {values,
                  row_offsets,
                  block_offsets,
                  ids,
                  sizes,
                  shifts,
                  count,
                  rows,
                  columns,
                  below(2) ? lookups : 1 << 20,
                  fields,
                  dim,
                  bits,
                  columns == 2 ? 0.0f : 1.0f,
                  columns == 2 ? 0.125f : 0.0f,
                  value,
                  offset};
  reference(&t, begin, quantized_scales, lookups, expected);
  int64_t middle = lookups ? below(lookups + 1) : 0; /* as two threads would */
  if (isa->gather(&t, out, 0, middle) != AMTL_FINE || isa->gather(&t, out, middle, lookups) != AMTL_FINE ||
      memcmp(out, expected, bytes) != 0)
    fail("a lookup differs");
  check_linear(&t, isa, expected, examples);
  check_sum(&t, isa, expected, lookups);
  /* A table that contradicts itself must be refused, not followed. */
  float *nothing = allocated((size_t)(16 * fields * dim) * 4);
  memset(nothing, 0, (size_t)(16 * fields * dim) * 4);
  const amtl_linear layer = {nothing, value >= AMTL_INT8 && below(2) ? nothing : NULL, nothing, 1, 0.0f};
  int64_t to = below(2) ? (int64_t)(int32_t)draw() : below(count + dim + 2) - 1;
  if (below(2)) block_offsets[below(blocks)] = below(2) ? (int64_t)draw() : to;
  put_offset(row_offsets, offset, below(rows + 1) * columns, offset == AMTL_INT64 && below(2) ? (int64_t)draw() : to);
  (void)isa->gather(&t, out, 0, lookups), (void)multiplied(isa, &t, &layer, out, 0, examples);
  const int on_gpu = strcmp(isa->name, "cuda") == 0; /* whose sizes and shifts nobody checks before */
  if (on_gpu) sizes[below(fields)] = out_of_range(30), shifts[below(fields)] = out_of_range(30);
  (void)isa->gather(&t, out, 0, lookups);
  t.fields = 1;
  (void)isa->sum(&t, fields, out, 0, examples);
  free(sizes), free(shifts), free(begin), free(quantized_scales), free(block_offsets), free(row_offsets), free(values),
      free(ids), free(out);
  free(expected), free(nothing);
  return lookups;
}

int main(int argc, char **argv) {
  int64_t tables = argc > 1 ? atoll(argv[1]) : 1000, checked = 0;
  state = argc > 2 ? (uint64_t)atoll(argv[2]) : 1;
  amtl_isa all[8];
  size_t sets = available(all);
  while (tables-- > 0) checked += check_one(all, sets);
  printf("%lld\n", (long long)checked);
  return 0;
}
