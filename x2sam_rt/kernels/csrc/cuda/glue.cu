// The small kernels around the attention: slot bias before it, merge of parts after it. Bound by memory.
// Status: compiled; not yet run on a GPU.
#include "attention.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace {

constexpr int kWarps = 8;  // of a thread block; one warp per query

__global__ void slot_bias(const __nv_bfloat16* query, int64_t query_stride, const float* shift, float* bias, int tokens,
                          int segments, int dim, float scale_log2) {
  const int row = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= tokens) return;
  for (int segment = 0; segment < segments; ++segment) {
    float sum = 0.f;
    for (int column = 2 * lane; column < dim; column += 64) {
      const auto* source = reinterpret_cast<const __nv_bfloat162*>(query + row * query_stride + column);
      const float2 q = __bfloat1622float2(*source);
      const float2 delta = *reinterpret_cast<const float2*>(shift + segment * dim + column);
      sum = fmaf(q.x, delta.x, fmaf(q.y, delta.y, sum));
    }
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffff, sum, distance);
    if (lane == 0) bias[static_cast<int64_t>(segment) * tokens + row] = sum * scale_log2;
  }
}

__global__ void merge_parts(const float* partial, const float* lse, __nv_bfloat16* out, int tokens, int parts,
                            int dim) {
  const int64_t row = blockIdx.x * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= tokens) return;
  float top = -INFINITY, total = 0.f;
  for (int part = 0; part < parts; ++part) top = fmaxf(top, lse[part * static_cast<int64_t>(tokens) + row]);
  for (int part = 0; part < parts; ++part) total += expf(lse[part * static_cast<int64_t>(tokens) + row] - top);
  for (int column = 2 * lane; column < dim; column += 64) {
    float2 sum{0.f, 0.f};
    for (int part = 0; part < parts; ++part) {
      const int64_t source = part * static_cast<int64_t>(tokens) + row;
      const float weight = expf(lse[source] - top) / total;
      const float2 piece = *reinterpret_cast<const float2*>(partial + source * dim + column);
      sum.x = fmaf(weight, piece.x, sum.x);
      sum.y = fmaf(weight, piece.y, sum.y);
    }
    *reinterpret_cast<__nv_bfloat162*>(out + row * dim + column) = __floats2bfloat162_rn(sum.x, sum.y);
  }
}

}  // namespace

extern "C" int x2sam_slot_bias(const void* query, int64_t query_stride, const float* shift, float* bias, int tokens,
                               int segments, int dim, float scale, void* stream) {
  slot_bias<<<(tokens + kWarps - 1) / kWarps, kWarps * 32, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const __nv_bfloat16*>(query), query_stride, shift, bias, tokens, segments, dim,
      scale * 1.4426950408889634f);
  return cudaGetLastError();
}

extern "C" int x2sam_merge_parts(const float* partial, const float* lse, void* out, int tokens, int parts, int dim,
                                 void* stream) {
  merge_parts<<<(tokens + kWarps - 1) / kWarps, kWarps * 32, 0, static_cast<cudaStream_t>(stream)>>>(
      partial, lse, static_cast<__nv_bfloat16*>(out), tokens, parts, dim);
  return cudaGetLastError();
}

extern "C" const char* x2sam_error_string(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
