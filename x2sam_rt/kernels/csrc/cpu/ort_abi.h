// The part of ONNX Runtime's C interface that a custom-operator library needs.
//
// ONNX Runtime ships no header in its wheels, but promises that its table of functions only ever grows: the place of
// a function never changes once released. So the table is an array here and each function a fixed index into it.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace x2sam::ort {

struct Status;          // OrtStatus: null means success
struct SessionOptions;  // OrtSessionOptions
struct Domain;          // OrtCustomOpDomain
struct Context;         // OrtKernelContext
struct Info;            // OrtKernelInfo
struct Value;           // OrtValue
struct Shape;           // OrtTensorTypeAndShapeInfo

using Table = const void* const*;

struct ApiBase {
  Table (*get_api)(uint32_t version);
  const char* (*version)();
};

// The last function used here, ParallelFor, came with version 17 (ONNX Runtime 1.17).
constexpr uint32_t kApiVersion = 17;

enum Index : size_t {
  kCreateStatus = 0,
  kCreateCustomOpDomain = 26,
  kCustomOpDomainAdd = 27,
  kAddCustomOpDomain = 28,
  kGetTensorMutableData = 51,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorTypeAndShape = 65,
  kKernelContextGetInput = 90,
  kKernelContextGetOutput = 91,
  kReleaseTensorTypeAndShapeInfo = 99,
  kKernelInfoGetAttributeArrayInt64 = 163,
  kKernelContextParallelFor = 274,
};

template <class Function>
Function* at(Table api, Index index) {
  return reinterpret_cast<Function*>(const_cast<void*>(api[index]));
}

enum class ElementType : int { kFloat = 1, kBool = 9 };  // ONNXTensorElementDataType
constexpr int kRuntimeException = 6;                     // OrtErrorCode ORT_RUNTIME_EXCEPTION

// OrtCustomOp as of version 16: later versions append members, and `version` says which ones are there.
struct CustomOp {
  uint32_t version;
  void* (*create_kernel_without_status)(const CustomOp* op, Table api, const Info* info);
  const char* (*name)(const CustomOp* op);
  const char* (*execution_provider)(const CustomOp* op);  // null: CPU
  ElementType (*input_type)(const CustomOp* op, size_t index);
  size_t (*input_count)(const CustomOp* op);
  ElementType (*output_type)(const CustomOp* op, size_t index);
  size_t (*output_count)(const CustomOp* op);
  void (*compute_without_status)(void* kernel, Context* context);
  void (*destroy_kernel)(void* kernel);
  int (*input_characteristic)(const CustomOp* op, size_t index);   // 0: required
  int (*output_characteristic)(const CustomOp* op, size_t index);  // 0: required
  int (*input_memory)(const CustomOp* op, size_t index);           // 0: the provider's own
  int (*variadic_input_arity)(const CustomOp* op);
  int (*variadic_input_homogeneity)(const CustomOp* op);
  int (*variadic_output_arity)(const CustomOp* op);
  int (*variadic_output_homogeneity)(const CustomOp* op);
  Status* (*create_kernel)(const CustomOp* op, Table api, const Info* info, void** kernel);
  Status* (*compute)(void* kernel, Context* context);
};
constexpr uint32_t kCustomOpVersion = 16;

}  // namespace x2sam::ort
