// Descriptors for the copy engine. libcuda is asked for at run time, so that the library builds and loads without it.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include <atomic>

namespace x2sam {

// A box of (columns x rows) elements out of planes[rows][columns], laid out in shared memory in 128-byte rows that are
// swizzled as the tensor cores expect; what lies outside the plane reads as zero.
struct Plane {
  const void* data;
  CUtensorMapDataType type;
  uint32_t element_bytes;
  uint64_t columns, rows, planes;
  int64_t row_stride, plane_stride;  // elements
  uint32_t box_columns, box_rows;
};

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                            const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// The driver's function, asked for until it was found once.
inline cudaError_t find_encode(Encode* encode) {
  static std::atomic<Encode> known{nullptr};
  *encode = known.load(std::memory_order_relaxed);
  if (*encode != nullptr) return cudaSuccess;
  void* symbol = nullptr;
  cudaDriverEntryPointQueryResult found;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &symbol, 12000, cudaEnableDefault, &found);
  if (error != cudaSuccess) return error;
  if (found != cudaDriverEntryPointSuccess) return cudaErrorInsufficientDriver;
  known = *encode = reinterpret_cast<Encode>(symbol);
  return cudaSuccess;
}

inline cudaError_t encode(const Plane& plane, CUtensorMap* map) {
  Encode driver_encode;
  const cudaError_t error = find_encode(&driver_encode);
  if (error != cudaSuccess) return error;
  const cuuint64_t sizes[3] = {plane.columns, plane.rows, plane.planes};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(plane.row_stride) * plane.element_bytes,
                                 static_cast<cuuint64_t>(plane.plane_stride) * plane.element_bytes};
  const cuuint32_t box[3] = {plane.box_columns, plane.box_rows, 1};
  const cuuint32_t dense[3] = {1, 1, 1};
  const CUresult result = driver_encode(map, plane.type, 3, const_cast<void*>(plane.data), sizes, strides, box, dense,
                                        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace x2sam
