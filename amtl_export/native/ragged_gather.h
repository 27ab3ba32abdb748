/* The loop of ai.amtl::RaggedGather, apart from ONNX Runtime: what the operator calls and what tests drive directly. */
#ifndef AMTL_RAGGED_GATHER_H
#define AMTL_RAGGED_GATHER_H

#include <stddef.h>
#include <stdint.h>

/* A table of rows back to back, and the ids to look up in it.
 *
 * values   [count]     float32
 * offsets  [rows + 1]  int32 or int64: row r is values[offsets[r]] to values[offsets[r + 1] - 1]
 * ids      [lookups]   int64, any values; lookup i belongs to field i % fields
 * sizes    [fields]    an id outside [0, size) is taken as id 0
 * shifts   [fields]    row = id + shift
 * out      [lookups, dim] float32, zero past each row's end
 */
typedef struct amtl_ragged {
  const float *values;
  const void *offsets;
  const int64_t *ids, *sizes, *shifts;
  float *out;
  int64_t count, rows, lookups, fields, dim;
  int wide; /* whether offsets are int64 */
} amtl_ragged;

enum amtl_fault { AMTL_FINE = 0, AMTL_BAD_ROW = 1, AMTL_BAD_OFFSETS = 2 };

/* Lookups [begin, end). A fault means that the table contradicts itself; then `out` is partly written. */
enum amtl_fault amtl_ragged_gather(const amtl_ragged *table, int64_t begin, int64_t end);

#endif
