// What each CPU kernel is given, and the table of kernels that one instruction set provides.
// Plain C layouts: Python fills the same structs through ctypes, ONNX Runtime's wrappers fill them from its tensors.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "threads.h"

namespace x2sam {

// Strides count elements. The innermost dimension is dense everywhere.
template <class Number>
struct AttentionArgsOf {
  const Number* query;      // queries x dim
  const Number* key;        // slots x slot_tokens x dim
  const Number* value;      // slots x slot_tokens x dim
  const Number* key_shift;  // slots x dim, or null
  Number* out;              // queries x dim, dense
  int64_t queries, slots, slot_tokens, dim;
  int64_t query_row, key_slot, key_row, value_slot, value_row, shift_row;
};

using AttentionArgs = AttentionArgsOf<float>;
using AttentionBf16Args = AttentionArgsOf<uint16_t>;  // bfloat16 by its bits

struct DeformableArgs {
  const float* value;             // batch x tokens x heads x head_dim
  const int64_t* spatial_shapes;  // levels x (height, width)
  const float* locations;         // batch x queries x heads x levels x points x (x, y), dense
  const float* weights;           // batch x queries x heads x levels x points, dense
  float* out;                     // batch x queries x heads x head_dim, dense
  int64_t batch, tokens, heads, head_dim, queries, levels, points;
  int64_t value_batch, value_token, value_head;
};

// Gradients of the same call. grad_value is dense and zeroed by the caller; the others are overwritten.
struct DeformableGradArgs {
  DeformableArgs forward;  // `out` holds the incoming gradient
  float* grad_value;
  float* grad_locations;
  float* grad_weights;
};

struct MaskFusionArgs {
  const float* class_logits;  // queries x classes, background last
  const float* mask_logits;   // queries x pixels
  float* out;                 // pixels
  int64_t queries, classes, pixels;
  int64_t class_row, mask_row;
};

struct AttentionMaskArgs {
  const float* mask_logits;  // queries x height x width
  uint8_t* out;              // queries x (out_height * out_width), 0 or 1
  int64_t queries, height, width, out_height, out_width;
  int64_t mask_query, mask_row;
};

struct Kernels {
  const char* isa;
  // Each returns false when there was no memory for the work space.
  bool (*attention)(const AttentionArgs&, const Threads&);
  bool (*deformable)(const DeformableArgs&, const Threads&);
  bool (*deformable_grad)(const DeformableGradArgs&, const Threads&);
  bool (*mask_fusion)(const MaskFusionArgs&, const Threads&);
  bool (*attention_mask)(const AttentionMaskArgs&, const Threads&);
};

// The best table for the processor this runs on.
const Kernels& kernels();

// Attention in bfloat16, or null where the processor has no instructions for it. Returns as those in Kernels.
using AttentionBf16 = bool (*)(const AttentionBf16Args&, const Threads&);
AttentionBf16 attention_bf16();

}  // namespace x2sam
