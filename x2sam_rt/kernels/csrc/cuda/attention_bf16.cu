#include "attention_launch.cuh"

namespace {

template <int kDim>
cudaError_t launch(const X2SamAttention& call, void* stream) {
  auto on = static_cast<cudaStream_t>(stream);
  if (call.skip_bits < 0) return x2sam::launch<x2sam::Traits<x2sam::bf16, kDim, false>>(call, on);
  return x2sam::launch<x2sam::Traits<x2sam::bf16, kDim, true>>(call, on);
}

bool is_served(int dim) { return dim == 64 || dim == 128 || dim == 256; }

}  // namespace

extern "C" int x2sam_key_block(int dim) { return is_served(dim) ? x2sam::key_block(dim, false) : 0; }

extern "C" int x2sam_query_tile(int dim) { return is_served(dim) ? x2sam::query_tile(dim, false) : 0; }

extern "C" int64_t x2sam_attention_workspace(const X2SamAttention* call) { return x2sam::Workspace(*call).bytes(); }

extern "C" int x2sam_attention_bf16(const X2SamAttention* call, void* stream) {
  switch (call->dim) {
    case 64: return launch<64>(*call, stream);
    case 128: return launch<128>(*call, stream);
    case 256: return launch<256>(*call, stream);
    default: return cudaErrorInvalidValue;
  }
}
