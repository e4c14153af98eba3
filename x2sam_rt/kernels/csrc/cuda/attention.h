// Memory attention on Hopper (sm_90a): the library's C interface. Raw device pointers, no framework types.
//
// Status: compiled and checked against resource bounds; not yet run on a GPU.
//
// One head. The keys are `segments` runs of `segment_tokens` keys: the slots of a ring, or one long tensor. Their
// blocks are numbered through, and `parts` equal runs of blocks are attended to separately, so that few queries still
// fill the chip. With one part the result is final; with more, each part's result and the logarithm of its sum of
// exponentials go to a workspace, and x2sam_merge_parts puts them together.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// All strides are in elements and multiples of 16 bytes; the last axis is dense; pointers are aligned to 16 bytes.
struct X2SamAttention {
  const void* query;           // (tokens, dim): bfloat16, or e4m3 for fp8
  const void* key;             // (segments, segment_tokens, dim), same type
  const void* value;           // bfloat16: as key; e4m3: (segments, dim, segment_tokens padded to 32, see fp8.py)
  const float* bias;           // (segments, tokens): added to a query's scores, in powers of two; or null for none
  const float* query_scale;    // fp8: (tokens); otherwise null
  const float* key_scale;      // fp8: (segments); otherwise null
  const float* value_scale;    // fp8: (segments, dim); otherwise null
  void* out;                   // one part: (tokens, dim) bfloat16; more: (parts, tokens, dim) float32
  float* lse;                  // (parts, tokens): natural logarithm; not written when there is one part
  unsigned long long* skipped; // count of P·V products left out (64 queries x one key block each); or null
  int64_t query_stride;        // from query to query
  int64_t key_segment_stride;  // from segment to segment
  int64_t key_stride;          // from key to key
  int64_t value_segment_stride;
  int64_t value_stride;        // from key to key; e4m3: from channel to channel
  int32_t tokens;
  int32_t segments;
  int32_t segment_tokens;
  int32_t dim;                 // bfloat16: 64, 128 or 256; fp8: 128 or 256
  int32_t parts;               // fp8: equal to segments
  float scale;                 // of the scores, such as 1/sqrt(dim)
  float skip_bits;             // leave out a block that weighs under 2^-skip_bits of the best key; negative (and for
                               // fp8): never
};

// Keys per block of the bfloat16 kernel of this head dimension; 0 for a dimension there is no kernel for.
int x2sam_key_block(int dim);

// Each returns a cudaError_t (0 = success); `stream` is a cudaStream_t.
int x2sam_attention_bf16(const struct X2SamAttention* call, void* stream);
int x2sam_attention_fp8(const struct X2SamAttention* call, void* stream);

// bias[s][t] = scale · log2(e) · query[t] · shift[s]; query (tokens, dim) bfloat16, shift (segments, dim) dense.
int x2sam_slot_bias(const void* query, int64_t query_stride, const float* shift, float* bias, int tokens, int segments,
                    int dim, float scale, void* stream);

// out (tokens, dim) bfloat16 = sum over parts of exp(lse - L) · partial, L = log of the sum of exp(lse) over the parts.
int x2sam_merge_parts(const float* partial, const float* lse, void* out, int tokens, int parts, int dim, void* stream);

const char* x2sam_error_string(int error);

#ifdef __cplusplus
}
#endif
