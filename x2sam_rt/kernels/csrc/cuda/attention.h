// Memory attention on Hopper (sm_90a): the library's C interface. Raw device pointers, no framework types.
//
// Status: compiled, checked against resource bounds, run by the tests' emulator; not yet run on a GPU.
//
// One head. The keys are `segments` runs of `segment_tokens` keys: the slots of a ring, or one long tensor. Their
// blocks are numbered through, and `parts` equal runs of blocks are attended to separately, so that few queries still
// fill the chip. With one part the result is final; with more, each part's result and the logarithm of its sum of
// exponentials go to the workspace and are put together from there, as fp8 results always are. A call launches one to
// three kernels, allocates nothing and waits for nothing: it can be captured in a graph.
#pragma once

#include <stdint.h>

// All else stays inside the library: two builds of it in one process must not share what they remember.
#define X2SAM_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

// All strides are in elements and multiples of 16 bytes; the last axis is dense; pointers are aligned to 16 bytes.
struct X2SamAttention {
  const void* query;            // (tokens, dim): bfloat16, or e4m3 for fp8
  const void* key;              // (segments, segment_tokens, dim), same type
  const void* value;            // bfloat16: as key; e4m3: (segments, dim, segment_tokens padded to 32, see fp8.py)
  const void* shift;            // (segments, dim) bfloat16: added to all keys of a segment; or null for none
  const void* plain_query;      // fp8: the query in bfloat16, for the products with shift and key_mean; otherwise null
  const float* key_mean;        // fp8: (segments, dim) dense: taken off the keys before; otherwise null
  const void* query_scale;      // fp8: (tokens) bfloat16; otherwise null
  const void* block_scales;     // fp8: (segments, blocks of 128 keys, 2) bfloat16: the keys' scale, a power of two, and
                                // by how many of them the values were raised; otherwise null
  const float* value_scale;     // fp8: (segments, dim); otherwise null
  void* out;                    // (tokens, dim) bfloat16, dense
  float* workspace;             // x2sam_attention_workspace() bytes
  unsigned long long* skipped;  // added to: P·V products left out (64 queries x one key block each); or null
  int64_t query_stride;         // from query to query
  int64_t key_segment_stride;   // from segment to segment
  int64_t key_stride;           // from key to key
  int64_t value_segment_stride;
  int64_t value_stride;  // from key to key; e4m3: from channel to channel
  int64_t shift_stride;  // from segment to segment
  int64_t plain_query_stride;
  int32_t tokens;
  int32_t segments;
  int32_t segment_tokens;
  int32_t dim;         // bfloat16: 64, 128 or 256; fp8: 128 or 256
  int32_t parts;       // from 1; none may be left without blocks; fp8: equal to segments
  int32_t processors;  // of the device: so many thread blocks are launched at most
  int32_t device;      // that all pointers and the stream belong to; made current meanwhile
  float scale;         // of the scores, such as 1/sqrt(dim)
  float skip_bits;     // leave out a block that weighs under 2^-skip_bits of the best key; negative (and for
                       // fp8): never
};

// Keys per block of the bfloat16 kernel of this head dimension; 0 for a dimension there is no kernel for.
X2SAM_API int x2sam_key_block(int dim);

// Queries that one thread block takes at a time, likewise; blocks come in pairs.
X2SAM_API int x2sam_query_tile(int dim);

// Bytes of device memory that the call needs as its workspace; the other pointers and strides are not looked at.
X2SAM_API int64_t x2sam_attention_workspace(const struct X2SamAttention* call);

// Each returns a cudaError_t (0 = success); `stream` is a cudaStream_t.
X2SAM_API int x2sam_attention_bf16(const struct X2SamAttention* call, void* stream);
X2SAM_API int x2sam_attention_fp8(const struct X2SamAttention* call, void* stream);

// CUDA versions as 1000 · major + 10 · minor: the newest that the driver serves (0: there is no driver), and the one
// that this library was built with. Returns a cudaError_t.
X2SAM_API int x2sam_cuda_versions(int* driver, int* runtime);

X2SAM_API const char* x2sam_error_string(int error);

#ifdef __cplusplus
}
#endif
