// What a consumer's thread does to its scores between the two products. Status: as attention_kernel.cuh.
#pragma once

#include <cutlass/numeric_conversion.h>

#include <cfloat>

#include "attention_traits.cuh"

namespace x2sam {

// 2^x, with results under 2^-126 flushed to zero; exp2f would spend three more instructions on each to keep them.
CUTE_DEVICE float power_of_two(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// Powers of two from which scores are taken relative to the block's best before they meet the maximum: the rounding of
// a maximum of 2^16 is 2^-9, that of 2^31 would be 2^7, in an exponent.
constexpr float kFar = 65536.f;

// A thread's two rows of scores (8 apart), in the order of the accumulator: (column pair, row, group of 8 columns).
template <int kColumns>
struct Softmax {
  float top[2];    // running maximum, in powers of two; finite, since a slot's bias may be -inf
  float total[2];  // this thread's share of the sum of exponentials
  float decay[2];  // what the accumulator is to be multiplied with

  // For a tile of which rows_left queries, counted from the thread's first row, are there. Rows beyond them have a
  // maximum that no key reaches: nothing weighs anything to them.
  CUTE_DEVICE void start(int rows_left) {
    CUTLASS_PRAGMA_UNROLL
    for (int row = 0; row < 2; ++row) {
      top[row] = rows_left > 8 * row ? -FLT_MAX : FLT_MAX;
      total[row] = 0.f;
    }
  }

  CUTE_DEVICE bool has_query(int row) const { return top[row] < FLT_MAX; }

  // Turns scores into probabilities times 2^(bits - lowered), relative to the new maximum, and sums them times 2^bits.
  // factor: from scores to powers of two. Returns whether the block's best score lies more than `skip_below` under the
  // maximum so far, for both rows.
  template <class Scores>
  CUTE_DEVICE bool update(Scores& scores, const float (&factor)[2], const float (&bias)[2], float bits, float lowered,
                          float skip_below) {
    bool weightless = true;
    CUTLASS_PRAGMA_UNROLL
    for (int row = 0; row < 2; ++row) {
      float best = scores(2 * row);
      CUTLASS_PRAGMA_UNROLL
      for (int group = 0; group < kColumns / 8; ++group) {
        best = fmaxf(best, fmaxf(scores(4 * group + 2 * row), scores(4 * group + 2 * row + 1)));
      }
      best = fmaxf(best, __shfl_xor_sync(0xffffffff, best, 1));
      best = fmaxf(best, __shfl_xor_sync(0xffffffff, best, 2));
      float peak = fmaf(best, factor[row], bias[row]);
      weightless &= peak < top[row] - skip_below;
      float new_top = fmaxf(top[row], peak);
      decay[row] = power_of_two(top[row] - new_top);
      top[row] = new_top;
      float zero = bias[row];  // where a score of zero stands, in powers of two
      if (__any_sync(0xffffffff, fabsf(peak) > kFar)) {
        CUTLASS_PRAGMA_UNROLL
        for (int group = 0; group < kColumns / 8; ++group) {
          scores(4 * group + 2 * row) -= best;
          scores(4 * group + 2 * row + 1) -= best;
        }
        zero = peak;
      }
      float offset = zero - new_top + (bits - lowered), sum = 0.f;
      CUTLASS_PRAGMA_UNROLL
      for (int group = 0; group < kColumns / 8; ++group) {
        CUTLASS_PRAGMA_UNROLL
        for (int column = 0; column < 2; ++column) {
          float& score = scores(4 * group + 2 * row + column);
          score = power_of_two(fmaf(score, factor[row], offset));
          sum += score;
        }
      }
      total[row] = fmaf(total[row], decay[row], lowered == 0.f ? sum : sum * power_of_two(lowered));
    }
    return weightless;
  }

  CUTE_DEVICE float row_total(int row) const {
    float sum = total[row] + __shfl_xor_sync(0xffffffff, total[row], 1);
    return sum + __shfl_xor_sync(0xffffffff, sum, 2);
  }
};

// Probabilities as the first factor of P·V. For bfloat16 the accumulator's order is already that of the factor. An fp8
// factor wants four neighbouring keys in a thread where the accumulator has two and two: the pairs are taken as they
// are, and V is stored with its keys in the order that this makes (see fp8.py).
template <class T, class Scores, class Probabilities>
CUTE_DEVICE void convert(const Scores& scores, Probabilities& probabilities) {
  if constexpr (T::kFp8) {
    Tensor words = recast<uint32_t>(probabilities);
    CUTLASS_PRAGMA_UNROLL
    for (int word = 0; word < T::kKeyBlock / 8; ++word) {  // (row, half of 32 keys, group of 32 keys)
      const int row = word % 2, first = 4 * (word / 4 * 4 + word / 2 % 2 * 2) + 2 * row;
      const cutlass::Array<float, 4> quad{scores(first), scores(first + 1), scores(first + 4), scores(first + 5)};
      const auto packed = cutlass::NumericArrayConverter<fp8, float, 4>::convert(quad);
      words(word) = reinterpret_cast<const uint32_t&>(packed);
    }
  } else {
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < size(scores); ++i) probabilities(i) = bf16(scores(i));
  }
}

// Whether `vote` holds in all 128 threads of the warpgroup, which has the barrier of its own number (0 is the block's).
CUTE_DEVICE bool all_of_warpgroup(bool vote) {
  uint32_t result;
  asm volatile(
      "{\n .reg .pred in, out;\n setp.ne.u32 in, %1, 0;\n barrier.cta.red.and.pred out, %2, 128, in;\n"
      " selp.u32 %0, 1, 0, out;\n}"
      : "=r"(result)
      : "r"(static_cast<uint32_t>(vote)), "r"(threadIdx.x / 128)
      : "memory");
  // the shuffle shows the compiler that a warp agrees: it serialises products on a path it takes for divergent
  return __shfl_sync(0xffffffff, result, 0) != 0;
}

}  // namespace x2sam
