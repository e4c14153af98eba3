// c = a * b or c += a * b on small dense matrices: the inner loop of attention.
#pragma once

#include "simd.h"

namespace x2sam::X2SAM_ISA {

// a(row, k) lies at data[row * row_step + k * depth_step]: either of the two orders without copying.
struct TileA {
  const float* data;
  int64_t row_step, depth_step;
};

struct TileB {
  const float* data;
  int64_t depth_step;
};

struct TileC {
  float* data;
  int64_t row_step;
  bool accumulate;
};

template <int rows, int vectors>
static void multiply_tile(TileA a, TileB b, TileC c, int64_t depth) {
  Floats sum[rows][vectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Floats right[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) right[v] = load(b.data + k * b.depth_step + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Floats left = broadcast(a.data[r * a.row_step + k * a.depth_step]);
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      float* target = c.data + r * c.row_step + v * kLanes;
      // A block's own sum is finished before it joins the earlier ones: rounding grows with the blocks, not the keys.
      store(target, c.accumulate ? load(target) + sum[r][v] : sum[r][v]);
    }
}

// Whole tiles first, the rest by a narrower instance.
template <int rows, int vectors>
static void multiply_rows(TileA a, TileB b, TileC c, int64_t count, int64_t depth) {
  for (; count >= rows; count -= rows) {
    multiply_tile<rows, vectors>(a, b, c, depth);
    a.data += rows * a.row_step;
    c.data += rows * c.row_step;
  }
  if constexpr (rows > 1) {
    if (count > 0) multiply_rows<rows - 1, vectors>(a, b, c, count, depth);
  }
}

// Depth that is summed at once: the part of b that a column of tiles reads then stays in the first-level cache or
// close to it, and fewer roundings pile up in one sum.
constexpr int64_t kDepth = 128;

template <int vectors>
static void multiply_columns(TileA a, TileB b, TileC c, int64_t rows, int64_t columns, int64_t depth) {
  for (; columns >= vectors * kLanes; columns -= vectors * kLanes) {
    for (int64_t k = 0; k < depth; k += kDepth) {
      const TileA left = {a.data + k * a.depth_step, a.row_step, a.depth_step};
      const TileB right = {b.data + k * b.depth_step, b.depth_step};
      const TileC sum = {c.data, c.row_step, c.accumulate || k > 0};
      multiply_rows<kTileRows, vectors>(left, right, sum, rows, smaller(kDepth, depth - k));
    }
    b.data += vectors * kLanes;
    c.data += vectors * kLanes;
  }
  if constexpr (vectors > 1) {
    if (columns > 0) multiply_columns<vectors - 1>(a, b, c, rows, columns, depth);
  }
}

// columns: a multiple of kLanes.
static inline void multiply(TileA a, TileB b, TileC c, int64_t rows, int64_t columns, int64_t depth) {
  multiply_columns<kTileVectors>(a, b, c, rows, columns, depth);
}

}  // namespace x2sam::X2SAM_ISA
