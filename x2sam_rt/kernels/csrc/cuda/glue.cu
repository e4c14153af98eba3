// The small kernels around the attention: slot bias before it, merge of parts after it. Bound by memory.
// Status: compiled, and run by the tests' emulator; not yet run on a GPU.
#include <cuda_bf16.h>

#include "glue.h"

namespace x2sam {

namespace {

constexpr int kWarps = 8;  // of a thread block; one warp per query

__device__ float2 load_pair(const __nv_bfloat16* source) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(source));
}

__global__ void slot_bias(SlotBias call) {
  const int row = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= call.tokens) return;
  const auto* query = static_cast<const __nv_bfloat16*>(call.query) + row * call.query_stride;
  for (int segment = 0; segment < call.segments; ++segment) {
    const auto* shift = static_cast<const __nv_bfloat16*>(call.shift) + segment * call.shift_stride;
    float sum = 0.f;
    for (int column = 2 * lane; column < call.dim; column += 64) {
      const float2 q = load_pair(query + column);
      float2 delta{0.f, 0.f};
      if (call.shift != nullptr) delta = load_pair(shift + column);
      if (call.key_mean != nullptr) {
        const float2 mean = *reinterpret_cast<const float2*>(call.key_mean + segment * call.dim + column);
        delta.x += mean.x;
        delta.y += mean.y;
      }
      sum = fmaf(q.x, delta.x, fmaf(q.y, delta.y, sum));
    }
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffff, sum, distance);
    if (lane == 0) call.bias[static_cast<int64_t>(segment) * call.tokens + row] = sum * call.scale_log2;
  }
}

__global__ void merge_parts(MergeParts call) {
  const int64_t row = blockIdx.x * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= call.tokens) return;
  auto lse = [&](int part) { return call.lse[part * static_cast<int64_t>(call.tokens) + row]; };
  float top = -INFINITY, total = 0.f;
  for (int part = 0; part < call.parts; ++part) top = fmaxf(top, lse(part));
  for (int part = 0; part < call.parts; ++part) total += expf(lse(part) - top);
  for (int column = 2 * lane; column < call.dim; column += 64) {
    float2 sum{0.f, 0.f};
    for (int part = 0; part < call.parts; ++part) {
      const float weight = expf(lse(part) - top) / total;
      const int64_t source = (part * static_cast<int64_t>(call.tokens) + row) * call.dim + column;
      float2 piece = *reinterpret_cast<const float2*>(call.partial + source);
      if (call.value_scale != nullptr) {
        const float2 scale = *reinterpret_cast<const float2*>(call.value_scale + part * call.dim + column);
        piece.x *= scale.x;
        piece.y *= scale.y;
      }
      sum.x = fmaf(weight, piece.x, sum.x);
      sum.y = fmaf(weight, piece.y, sum.y);
    }
    auto* out = static_cast<__nv_bfloat16*>(call.out) + row * call.dim + column;
    *reinterpret_cast<__nv_bfloat162*>(out) = __floats2bfloat162_rn(sum.x, sum.y);
  }
}

unsigned blocks_of(int tokens) { return (tokens + kWarps - 1) / kWarps; }

}  // namespace

cudaError_t launch_slot_bias(const SlotBias& call, cudaStream_t stream) {
  slot_bias<<<blocks_of(call.tokens), kWarps * 32, 0, stream>>>(call);
  return cudaGetLastError();
}

cudaError_t launch_merge_parts(const MergeParts& call, cudaStream_t stream) {
  merge_parts<<<blocks_of(call.tokens), kWarps * 32, 0, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace x2sam

extern "C" int x2sam_cuda_versions(int* driver, int* runtime) {
  const cudaError_t error = cudaDriverGetVersion(driver);
  return error != cudaSuccess ? error : cudaRuntimeGetVersion(runtime);
}

extern "C" const char* x2sam_error_string(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
