// c = a * b or c += a * b on small matrices of bfloat16, sums in float32: the inner loop of attention in bfloat16.
//
// The processor multiplies pairs: one instruction adds, in each lane, the products of two neighbours along the depth.
// A Pair is such two numbers, the first in the low half. Needs AVX512-BF16.
#pragma once

#include <immintrin.h>

#include "simd.h"

namespace x2sam::X2SAM_ISA {

using Pair = uint32_t;
typedef Pair Pairs __attribute__((vector_size(kLanes * 4)));
typedef Pair UnalignedPairs __attribute__((vector_size(kLanes * 4), aligned(2), may_alias));
typedef Pair UnalignedPair __attribute__((aligned(2), may_alias));
typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));
typedef uint16_t UnalignedHalves __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));

static inline Pair load_pair(const uint16_t* p) { return *reinterpret_cast<const UnalignedPair*>(p); }
static inline Pairs load_pairs(const Pair* p) { return *reinterpret_cast<const UnalignedPairs*>(p); }
static inline void store_pairs(Pair* p, Pairs v) { *reinterpret_cast<UnalignedPairs*>(p) = v; }
static inline Halves load_halves(const uint16_t* p) { return *reinterpret_cast<const UnalignedHalves*>(p); }
static inline void store_halves(uint16_t* p, Halves v) { *reinterpret_cast<UnalignedHalves*>(p) = v; }

static inline Pairs interleave(Halves low, Halves high) {
  return __builtin_convertvector(low, Pairs) | (__builtin_convertvector(high, Pairs) << 16);
}
// Rounds to nearest, ties to even; NaN stays NaN.
static inline Halves round_halves(Floats x) { return (Halves)_mm512_cvtneps_pbh((__m512)x); }
static inline Floats multiply_add(Floats sum, Pairs a, Pairs b) {
  return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

// The pair of row `row` at depth `k` (counted in pairs) starts at data[row * row_step + k * depth_step].
struct PairsA {
  const uint16_t* data;
  int64_t row_step, depth_step;
};

// c(row, column) lies at data[row * row_step + column].
struct FloatsC {
  float* data;
  int64_t row_step;
  bool accumulate;
};

template <int rows, int vectors>
static void multiply_pairs_tile(PairsA a, const Pair* b, FloatsC c, int64_t depth) {
  Floats sum[rows][vectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Pairs right[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) right[v] = load_pairs(b + (k * vectors + v) * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Pairs left = Pairs{} + load_pair(a.data + r * a.row_step + k * a.depth_step);
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[r][v] = multiply_add(sum[r][v], left, right[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      float* target = c.data + r * c.row_step + v * kLanes;
      store(target, c.accumulate ? load(target) + sum[r][v] : sum[r][v]);
    }
}

// Whole tiles first, the rest by a narrower instance.
template <int rows, int vectors>
static void multiply_pairs_rows(PairsA a, const Pair* b, FloatsC c, int64_t count, int64_t depth) {
  for (; count >= rows; count -= rows) {
    multiply_pairs_tile<rows, vectors>(a, b, c, depth);
    a.data += rows * a.row_step;
    c.data += rows * c.row_step;
  }
  if constexpr (rows > 1) {
    if (count > 0) multiply_pairs_rows<rows - 1, vectors>(a, b, c, count, depth);
  }
}

// b: panels of kPanel columns (the last one narrower), each depth x columns, one after the other, so that a panel stays
// in the first-level cache. columns: a multiple of kLanes. depth: in pairs.
template <int vectors = kTileVectors>
static void multiply_pairs(PairsA a, const Pair* b, FloatsC c, int64_t rows, int64_t columns, int64_t depth) {
  for (; columns >= vectors * kLanes; columns -= vectors * kLanes) {
    multiply_pairs_rows<kTileRows, vectors>(a, b, c, rows, depth);
    b += vectors * kLanes * depth;
    c.data += vectors * kLanes;
  }
  if constexpr (vectors > 1) {
    if (columns > 0) multiply_pairs<vectors - 1>(a, b, c, rows, columns, depth);
  }
}

}  // namespace x2sam::X2SAM_ISA
