// The small kernels around the attention. Each launch returns its error.
#pragma once

#include <cuda_runtime.h>

#include "attention.h"

namespace x2sam {

// bias[s][t] = scale_log2 · query[t] · (shift[s] + key_mean[s]); shift or key_mean may be null. Types as in
// attention.h.
struct SlotBias {
  const void* query;
  const void* shift;
  const float* key_mean;
  float* bias;
  int64_t query_stride, shift_stride;
  int tokens, segments, dim;
  float scale_log2;
};

cudaError_t launch_slot_bias(const SlotBias& call, cudaStream_t stream);

// out (tokens, dim) bfloat16 = sum over parts of exp(lse - L) · partial, L = log of the sum of exp(lse) over the parts.
struct MergeParts {
  const float* partial;      // (parts, tokens, dim)
  const float* lse;          // (parts, tokens)
  const float* value_scale;  // (parts, dim): what partial is still to be multiplied with; or null
  void* out;
  int tokens, parts, dim;
};

cudaError_t launch_merge_parts(const MergeParts& call, cudaStream_t stream);

}  // namespace x2sam
