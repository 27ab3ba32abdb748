/* The part of ONNX Runtime's C interface that a custom operator needs, declared here so that no header of
 * ONNX Runtime is needed to build.
 *
 * OrtApi is a flat table of function pointers that only ever grows at its end; each that is used is named below with its
 * place in the table. tests/native/test_ort_abi.py compares names, places and numbers with ONNX Runtime's own header.
 */
#ifndef AMTL_ORT_ABI_H
#define AMTL_ORT_ABI_H

#include <stddef.h>
#include <stdint.h>

typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtShapeInferContext OrtShapeInferContext;

typedef struct OrtApi OrtApi;

typedef struct OrtApiBase {
  const OrtApi *(*GetApi)(uint32_t version);
  const char *(*GetVersionString)(void);
} OrtApiBase;

enum { AMTL_ORT_INVALID_ARGUMENT = 2 };
enum {
  AMTL_ORT_FLOAT = 1,
  AMTL_ORT_UINT8 = 2,
  AMTL_ORT_INT8 = 3,
  AMTL_ORT_UINT16 = 4,
  AMTL_ORT_INT32 = 6,
  AMTL_ORT_INT64 = 7,
  AMTL_ORT_FLOAT16 = 10
};
enum { AMTL_ORT_REQUIRED = 0 };
/* The newest version of the interface whose every function below is implemented here. */
enum { AMTL_ORT_API_OLDEST = 16, AMTL_ORT_API_NEWEST = 17 };

typedef struct OrtCustomOp OrtCustomOp;
struct OrtCustomOp {
  uint32_t version;
  void *(*CreateKernel)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *);
  const char *(*GetName)(const OrtCustomOp *);
  const char *(*GetExecutionProviderType)(const OrtCustomOp *);
  int (*GetInputType)(const OrtCustomOp *, size_t);
  size_t (*GetInputTypeCount)(const OrtCustomOp *);
  int (*GetOutputType)(const OrtCustomOp *, size_t);
  size_t (*GetOutputTypeCount)(const OrtCustomOp *);
  void (*KernelCompute)(void *, OrtKernelContext *);
  void (*KernelDestroy)(void *);
  int (*GetInputCharacteristic)(const OrtCustomOp *, size_t);
  int (*GetOutputCharacteristic)(const OrtCustomOp *, size_t);
  int (*GetInputMemoryType)(const OrtCustomOp *, size_t);
  int (*GetVariadicInputMinArity)(const OrtCustomOp *);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp *);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp *);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp *);
  OrtStatus *(*CreateKernelV2)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *, void **);
  OrtStatus *(*KernelComputeV2)(void *, OrtKernelContext *);
  OrtStatus *(*InferOutputShapeFn)(const OrtCustomOp *, OrtShapeInferContext *);
  int (*GetStartVersion)(const OrtCustomOp *);
  int (*GetEndVersion)(const OrtCustomOp *);
  void *reserved[8]; /* of versions that AMTL_ORT_API_NEWEST does not announce; never read */
};

/* Places in OrtApi; what follows AMTL_ORT_SLOT_ is the header's name. */
enum {
  AMTL_ORT_SLOT_CreateStatus = 0,
  AMTL_ORT_SLOT_CreateCustomOpDomain = 26,
  AMTL_ORT_SLOT_CustomOpDomain_Add = 27,
  AMTL_ORT_SLOT_AddCustomOpDomain = 28,
  AMTL_ORT_SLOT_GetTensorMutableData = 51,
  AMTL_ORT_SLOT_GetDimensionsCount = 61,
  AMTL_ORT_SLOT_GetDimensions = 62,
  AMTL_ORT_SLOT_GetTensorTypeAndShape = 65,
  AMTL_ORT_SLOT_KernelInfoGetAttribute_float = 85,
  AMTL_ORT_SLOT_KernelInfoGetAttribute_int64 = 86,
  AMTL_ORT_SLOT_KernelContext_GetInput = 90,
  AMTL_ORT_SLOT_KernelContext_GetOutput = 91,
  AMTL_ORT_SLOT_ReleaseTensorTypeAndShapeInfo = 99,
  AMTL_ORT_SLOT_KernelContext_GetGPUComputeStream = 193,
  AMTL_ORT_SLOT_KernelContext_ParallelFor = 274,
  AMTL_ORT_SLOTS = 275
};

struct OrtApi {
  void (*entry[AMTL_ORT_SLOTS])(void);
};

#define AMTL_ORT_CALL(api, name, type) ((type)(api)->entry[AMTL_ORT_SLOT_##name])

static inline OrtStatus *amtl_ort_error(const OrtApi *api, const char *text) {
  return AMTL_ORT_CALL(api, CreateStatus, OrtStatus * (*)(int, const char *))(AMTL_ORT_INVALID_ARGUMENT, text);
}
static inline OrtStatus *amtl_ort_create_domain(const OrtApi *api, const char *name, OrtCustomOpDomain **out) {
  return AMTL_ORT_CALL(api, CreateCustomOpDomain, OrtStatus * (*)(const char *, OrtCustomOpDomain **))(name, out);
}
static inline OrtStatus *amtl_ort_add_op(const OrtApi *api, OrtCustomOpDomain *domain, const OrtCustomOp *op) {
  return AMTL_ORT_CALL(api, CustomOpDomain_Add, OrtStatus * (*)(OrtCustomOpDomain *, const OrtCustomOp *))(domain, op);
}
static inline OrtStatus *amtl_ort_add_domain(const OrtApi *api, OrtSessionOptions *options, OrtCustomOpDomain *domain) {
  return AMTL_ORT_CALL(api, AddCustomOpDomain, OrtStatus * (*)(OrtSessionOptions *, OrtCustomOpDomain *))(options, domain);
}
static inline OrtStatus *amtl_ort_data(const OrtApi *api, const OrtValue *value, void **out) {
  return AMTL_ORT_CALL(api, GetTensorMutableData, OrtStatus * (*)(const OrtValue *, void **))(value, out);
}
static inline OrtStatus *amtl_ort_rank(const OrtApi *api, const OrtTensorTypeAndShapeInfo *info, size_t *out) {
  return AMTL_ORT_CALL(api, GetDimensionsCount, OrtStatus * (*)(const OrtTensorTypeAndShapeInfo *, size_t *))(info, out);
}
static inline OrtStatus *amtl_ort_shape(const OrtApi *api, const OrtTensorTypeAndShapeInfo *info, int64_t *out, size_t n) {
  return AMTL_ORT_CALL(api, GetDimensions, OrtStatus * (*)(const OrtTensorTypeAndShapeInfo *, int64_t *, size_t))(info, out, n);
}
static inline OrtStatus *amtl_ort_info(const OrtApi *api, const OrtValue *value, OrtTensorTypeAndShapeInfo **out) {
  return AMTL_ORT_CALL(api, GetTensorTypeAndShape, OrtStatus * (*)(const OrtValue *, OrtTensorTypeAndShapeInfo **))(value, out);
}
static inline OrtStatus *amtl_ort_float_attribute(const OrtApi *api, const OrtKernelInfo *info, const char *name,
                                                  float *out) {
  return AMTL_ORT_CALL(api, KernelInfoGetAttribute_float, OrtStatus * (*)(const OrtKernelInfo *, const char *, float *))(info, name, out);
}
static inline OrtStatus *amtl_ort_int_attribute(const OrtApi *api, const OrtKernelInfo *info, const char *name,
                                                int64_t *out) {
  return AMTL_ORT_CALL(api, KernelInfoGetAttribute_int64, OrtStatus * (*)(const OrtKernelInfo *, const char *, int64_t *))(info, name, out);
}
static inline OrtStatus *amtl_ort_input(const OrtApi *api, const OrtKernelContext *context, size_t i, const OrtValue **out) {
  return AMTL_ORT_CALL(api, KernelContext_GetInput, OrtStatus * (*)(const OrtKernelContext *, size_t, const OrtValue **))(context, i, out);
}
static inline OrtStatus *amtl_ort_output(const OrtApi *api, OrtKernelContext *context, size_t i, const int64_t *shape,
                                         size_t rank, OrtValue **out) {
  return AMTL_ORT_CALL(api, KernelContext_GetOutput, OrtStatus * (*)(OrtKernelContext *, size_t, const int64_t *, size_t, OrtValue **))(
      context, i, shape, rank, out);
}
static inline void amtl_ort_release_info(const OrtApi *api, OrtTensorTypeAndShapeInfo *info) {
  AMTL_ORT_CALL(api, ReleaseTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo *))(info);
}
static inline OrtStatus *amtl_ort_gpu_stream(const OrtApi *api, const OrtKernelContext *context, void **out) {
  return AMTL_ORT_CALL(api, KernelContext_GetGPUComputeStream, OrtStatus * (*)(const OrtKernelContext *, void **))(context, out);
}
/* From version 17: work(data, i) for i in 0..total-1, on the session's threads. */
static inline OrtStatus *amtl_ort_parallel(const OrtApi *api, const OrtKernelContext *context, void (*work)(void *, size_t),
                                      size_t total, size_t batches, void *data) {
  return AMTL_ORT_CALL(api, KernelContext_ParallelFor, OrtStatus * (*)(const OrtKernelContext *, void (*)(void *, size_t), size_t, size_t, void *))(
      context, work, total, batches, data);
}

#endif
