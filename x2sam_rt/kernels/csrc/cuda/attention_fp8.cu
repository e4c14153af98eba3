#include "attention_launch.cuh"

extern "C" int x2sam_attention_fp8(const X2SamAttention* call, void* stream) {
  // Hopper sums fp8 products in fewer than 24 bits. A part per segment bounds how many are summed before the merge goes
  // on in float32, and lets each segment have scales of its own. Skipping is left to bfloat16: here it would spill.
  if (call->parts != call->segments || call->skip_bits >= 0) return cudaErrorInvalidValue;
  auto on = static_cast<cudaStream_t>(stream);
  switch (call->dim) {
    case 128: return x2sam::launch<x2sam::Traits<x2sam::fp8, 128, false>>(*call, on);
    case 256: return x2sam::launch<x2sam::Traits<x2sam::fp8, 256, false>>(*call, on);
    default: return cudaErrorInvalidValue;
  }
}
