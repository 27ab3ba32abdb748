/* What an operator is given, apart from ONNX Runtime, and whether it may be followed. Everything that the kernels rely on is
 * checked here: attributes once, when a kernel is made, inputs at each call, by products that cannot wrap around. What is left
 * to the kernels are the row offsets, each checked where it is read.
 */
#ifndef AMTL_CHECK_H
#define AMTL_CHECK_H

#include "dense.h"
#include "table.h"

/* Inputs of operators on a table; WEIGHTS and BIAS are the layers' alone, SCALES that of layers with quantized weights. */
enum amtl_table_input {
  AMTL_VALUES, AMTL_BLOCK_OFFSETS, AMTL_ROW_OFFSETS, AMTL_IDS, AMTL_SIZES, AMTL_SHIFTS, AMTL_WEIGHTS, AMTL_BIAS, AMTL_SCALES,
  AMTL_INT8_INPUTS,
  AMTL_TABLE_INPUTS = AMTL_WEIGHTS,
  AMTL_LINEAR_INPUTS = AMTL_SCALES,
};

/* Inputs of operators on numbers; X0 is the cross's alone. */
enum amtl_dense_input {
  AMTL_X, AMTL_DENSE_WEIGHTS, AMTL_DENSE_SCALES, AMTL_DENSE_OFFSETS, AMTL_DENSE_BIAS, AMTL_X0,
  AMTL_CROSS_INPUTS,
  AMTL_DENSE_INPUTS = AMTL_X0,
};

/* AMTL_MOST_INPUT_COUNT: inputs of any operator at most. */
enum { AMTL_MOST_INPUT_COUNT = AMTL_INT8_INPUTS };

/* DENSE and CROSS are of numbers, the others of a table. */
enum amtl_kind { AMTL_GATHER, AMTL_SUM, AMTL_LINEAR, AMTL_DENSE, AMTL_CROSS };

/* Types of an input's elements. */
enum amtl_element {
  AMTL_ELEMENT_FLOAT32, AMTL_ELEMENT_FLOAT16, AMTL_ELEMENT_UINT8, AMTL_ELEMENT_INT8, AMTL_ELEMENT_UINT16,
  AMTL_ELEMENT_INT32, AMTL_ELEMENT_INT64,
};

/* An operator: what it makes of its inputs, and of those on a table the types that it is for. */
typedef struct amtl_operator {
  const char *name;
  enum amtl_kind kind;
  size_t inputs;
  enum amtl_value value;
  enum amtl_offset offset;
  int on_gpu; /* whether data lie where this processor cannot read them */
} amtl_operator;

typedef struct amtl_attributes {
  int64_t dim, block_bits, bits, zero;
  float scale_base, scale_unit, least;
} amtl_attributes;

/* An input; `size` is bytes of an element. */
typedef struct amtl_tensor {
  const void *data;
  int64_t shape[AMTL_MOST_RANK];
  size_t rank, size;
  int64_t count;
} amtl_tensor;

/* What is wrong, in words; they begin with the operator and name the input. */
typedef struct amtl_problem {
  char text[320];
} amtl_problem;

/* All that a call needs. `shape` is the output's. */
typedef struct amtl_call {
  amtl_table table;
  amtl_linear layer; /* of layers on a table alone */
  amtl_dense dense;  /* of operators on numbers, and nothing but it */
  int64_t examples, length; /* of sums and layers; `length`: ids of an example of a sum */
  int64_t shape[AMTL_MOST_RANK];
  size_t rank;
} amtl_call;

int amtl_is_on_table(const amtl_operator *op);
const char *amtl_input_name(const amtl_operator *op, size_t input);
enum amtl_element amtl_input_element(const amtl_operator *op, size_t input);
size_t amtl_element_size(enum amtl_element element);

/* Each of these says whether all is well; else `problem` has the words. */
int amtl_check_attributes(const amtl_operator *op, const amtl_attributes *a, amtl_problem *problem);
/* After `rank` and `shape` were read: gives `count`. */
int amtl_check_tensor(const amtl_operator *op, size_t input, amtl_tensor *tensor, amtl_problem *problem);
int amtl_check_call(const amtl_operator *op, const amtl_attributes *a, const amtl_tensor *in, amtl_call *out,
                    amtl_problem *problem);

/* The words of any problem; gives 0. */
__attribute__((format(printf, 3, 4))) int amtl_refuse(const amtl_operator *op, amtl_problem *problem, const char *format, ...);
/* The words of a fault of the kernels. */
void amtl_explain(const amtl_operator *op, const amtl_table *table, enum amtl_fault fault, amtl_problem *problem);

#endif
