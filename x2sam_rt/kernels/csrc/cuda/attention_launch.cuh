// From the C interface's call to a launch.
#pragma once

#include "attention.h"
#include "attention_kernel.cuh"
#include "tensor_map.h"

namespace x2sam {

template <class T>
Plane plane(const void* data, uint64_t columns, uint64_t rows, uint64_t planes, int64_t row_stride,
            int64_t plane_stride, uint32_t box_rows) {
  constexpr auto kType = T::kFp8 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  return {data,       kType,        sizeof(typename T::Element), columns,  rows, planes,
          row_stride, plane_stride, static_cast<uint32_t>(T::kRow), box_rows};
}

template <class T>
cudaError_t encode_maps(const X2SamAttention& call, KernelParams* params) {
  const uint64_t tokens = call.tokens, keys = call.segment_tokens, segments = call.segments, dim = call.dim;
  cudaError_t error = encode(
      plane<T>(call.query, dim, tokens, 1, call.query_stride, tokens * call.query_stride, kQueryTile), &params->query);
  if (error != cudaSuccess) return error;
  error = encode(
      plane<T>(call.key, dim, keys, segments, call.key_stride, call.key_segment_stride, T::kKeyBlock), &params->key);
  if (error != cudaSuccess) return error;
  const uint64_t padded = (keys + 31) / 32 * 32;
  return encode(plane<T>(call.value, T::kFp8 ? padded : dim, T::kFp8 ? dim : keys, segments, call.value_stride,
                         call.value_segment_stride, T::kValueRows),
                &params->value);
}

template <class T>
cudaError_t launch(const X2SamAttention& call, cudaStream_t stream) {
  KernelParams params;
  cudaError_t error = encode_maps<T>(call, &params);
  if (error != cudaSuccess) return error;
  params.bias = call.bias;
  params.query_scale = call.query_scale;
  params.key_scale = call.key_scale;
  params.value_scale = call.value_scale;
  params.out = call.out;
  params.lse = call.lse;
  params.skipped = call.skipped;
  params.tokens = call.tokens;
  params.segment_tokens = call.segment_tokens;
  params.segment_blocks = (call.segment_tokens + T::kKeyBlock - 1) / T::kKeyBlock;
  params.blocks = params.segment_blocks * call.segments;
  params.part_blocks = (params.blocks + call.parts - 1) / call.parts;
  params.scale_log2 = call.scale * 1.4426950408889634f;
  // if every key of a block weighs under 2^-(bits + log2 of their number), the block weighs under 2^-bits
  params.skip_below = call.skip_bits + log2f(static_cast<float>(T::kKeyBlock));
  // a part without blocks would have nothing to normalise by
  if (call.parts < 1 || (call.parts - 1u) * params.part_blocks >= params.blocks) return cudaErrorInvalidValue;
  error = cudaFuncSetAttribute(attention_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, T::kSharedBytes);
  if (error != cudaSuccess) return error;
  const dim3 grid((call.tokens + kQueryTile - 1) / kQueryTile, call.parts);
  attention_kernel<T><<<grid, kThreads, T::kSharedBytes, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace x2sam
