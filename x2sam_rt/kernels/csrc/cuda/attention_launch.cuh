// From the C interface's call to a launch.
#pragma once

#include <atomic>

#include "attention.h"
#include "attention_kernel.cuh"
#include "glue.h"
#include "tensor_map.h"

namespace x2sam {

template <class T>
Plane plane(const void* data, uint64_t columns, uint64_t rows, uint64_t planes, int64_t row_stride,
            int64_t plane_stride, uint32_t box_rows) {
  constexpr auto kType = T::kFp8 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  return {data,       kType,        sizeof(typename T::Element),    columns, rows, planes,
          row_stride, plane_stride, static_cast<uint32_t>(T::kRow), box_rows};
}

constexpr float kLog2E = 1.4426950408889634f;

// fp8 results always go through the workspace: there they meet their channels' scales.
inline bool in_parts(const X2SamAttention& call) { return call.parts > 1 || call.plain_query != nullptr; }

// Where a call's workspace has what: partial results, their logarithms, the slots' biases. Absent ones have no size.
struct Workspace {
  int64_t partial, lse, bias;  // floats
  explicit Workspace(const X2SamAttention& call)
      : partial(in_parts(call) ? static_cast<int64_t>(call.parts) * call.tokens * call.dim : 0),
        lse(in_parts(call) ? static_cast<int64_t>(call.parts) * call.tokens : 0),
        bias(0) {
    const bool has_bias = call.shift != nullptr || call.key_mean != nullptr;
    // tiles that reach beyond the queries read on
    if (has_bias) bias = static_cast<int64_t>(call.segments) * call.tokens + kCluster * kMostQueries;
  }
  int64_t bytes() const { return (partial + lse + bias) * static_cast<int64_t>(sizeof(float)); }
};

template <class T>
cudaError_t encode_maps(const X2SamAttention& call, KernelParams* params) {
  const uint64_t tokens = call.tokens, keys = call.segment_tokens, segments = call.segments, dim = call.dim;
  cudaError_t error =
      encode(plane<T>(call.query, dim, tokens, 1, call.query_stride, tokens * call.query_stride, T::kQueryTile),
             &params->query);
  if (error != cudaSuccess) return error;
  error = encode(plane<T>(call.key, dim, keys, segments, call.key_stride, call.key_segment_stride, T::kKeyBox),
                 &params->key);
  if (error != cudaSuccess) return error;
  const uint64_t padded = (keys + 31) / 32 * 32;
  error = encode(plane<T>(call.value, T::kFp8 ? padded : dim, T::kFp8 ? dim : keys, segments, call.value_stride,
                          call.value_segment_stride, T::kValueBox),
                 &params->value);
  if (error != cudaSuccess || in_parts(call)) return error;
  const Plane result{call.out,      CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                     sizeof(bf16),  dim,
                     tokens,        1,
                     call.dim,      static_cast<int64_t>(tokens * dim),
                     T::kResultRow, kWarpgroupQueries};
  return encode(result, &params->result);
}

// Makes a device the current one, and afterwards the one that was: pointers and streams belong to one device.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    error = cudaGetDevice(&before_);
    if (error != cudaSuccess || before_ == device) return;
    error = cudaSetDevice(device);
    changed_ = error == cudaSuccess;
  }
  ~CurrentDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  CurrentDevice(const CurrentDevice&) = delete;
  cudaError_t error;

 private:
  int before_ = 0;
  bool changed_ = false;
};

// Once per kernel and device: asking the driver at every call would cost as much as a launch.
template <class T>
cudaError_t allow_shared_memory(int device) {
  static std::atomic<uint64_t> allowed{0};
  const uint64_t bit = device < 64 ? uint64_t{1} << device : 0;
  if (allowed & bit) return cudaSuccess;
  const cudaError_t error =
      cudaFuncSetAttribute(attention_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, T::kSharedBytes);
  if (error == cudaSuccess) allowed |= bit;
  return error;
}

inline cudaError_t add_bias(const X2SamAttention& call, float* bias, cudaStream_t stream) {
  const bool is_fp8 = call.plain_query != nullptr;
  return launch_slot_bias({is_fp8 ? call.plain_query : call.query, call.shift, call.key_mean, bias,
                           is_fp8 ? call.plain_query_stride : call.query_stride, call.shift_stride, call.tokens,
                           call.segments, call.dim, call.scale * kLog2E},
                          stream);
}

template <class T>
cudaError_t attend(const X2SamAttention& call, const Workspace& room, cudaStream_t stream) {
  KernelParams params;
  cudaError_t error = encode_maps<T>(call, &params);
  if (error != cudaSuccess) return error;
  params.bias = room.bias > 0 ? call.workspace + room.partial + room.lse : nullptr;
  params.query_scale = static_cast<const __nv_bfloat16*>(call.query_scale);
  params.block_scales = static_cast<const __nv_bfloat162*>(call.block_scales);
  params.partial = call.workspace;
  params.lse = call.workspace + room.partial;
  params.skipped = call.skipped;
  params.tokens = call.tokens;
  params.segment_tokens = call.segment_tokens;
  constexpr int kQueries = kCluster * T::kQueryTile;  // a block beyond the queries still fetches its half
  params.tile_pairs = (call.tokens + kQueries - 1) / kQueries;
  params.parts = call.parts;
  params.segment_blocks = (call.segment_tokens + T::kKeyBlock - 1) / T::kKeyBlock;
  params.blocks = params.segment_blocks * call.segments;
  params.part_blocks = (params.blocks + call.parts - 1) / call.parts;
  params.scale_log2 = call.scale * kLog2E;
  // if every key of a block weighs under 2^-(bits + log2 of their number), the block weighs under 2^-bits
  params.skip_below = call.skip_bits + log2f(static_cast<float>(T::kKeyBlock));
  // a part without blocks would have nothing to normalise by
  if ((call.parts - 1u) * params.part_blocks >= params.blocks) return cudaErrorInvalidValue;
  error = allow_shared_memory<T>(call.device);
  if (error != cudaSuccess) return error;
  const uint32_t pairs = min(params.tile_pairs * params.parts, max(call.processors / kCluster, 1));
  attention_kernel<T><<<pairs * kCluster, T::kThreads, T::kSharedBytes, stream>>>(params);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch(const X2SamAttention& call, cudaStream_t stream) {
  if (call.parts < 1 || call.tokens < 0) return cudaErrorInvalidValue;
  if (call.tokens == 0) return cudaSuccess;
  const CurrentDevice device(call.device);
  if (device.error != cudaSuccess) return device.error;
  const Workspace room(call);
  cudaError_t error = cudaSuccess;
  if (room.bias > 0) error = add_bias(call, call.workspace + room.partial + room.lse, stream);
  if (error == cudaSuccess) error = attend<T>(call, room, stream);
  if (error != cudaSuccess || !in_parts(call)) return error;
  return launch_merge_parts(
      {call.workspace, call.workspace + room.partial, call.value_scale, call.out, call.tokens, call.parts, call.dim},
      stream);
}

}  // namespace x2sam
