// What one-head attention shares between its number formats: how queries are cut into tiles, and the softmax.
#pragma once

#include "kernels.h"
#include "simd.h"

extern "C" float sqrtf(float);

namespace x2sam::X2SAM_ISA {

constexpr int64_t kQueries = 256;  // queries per tile: with kKeys, sized to a 1 MiB second-level cache
constexpr int64_t kKeys = 128;     // keys per block

// Weights summed before they join the sum of all: beside one weight of 1, single small ones would be rounded away.
constexpr int64_t kSummed = 8;

// Scores of one block of keys and what is known of the blocks before it. Queries lie along the vector lanes.
struct Softmax {
  int64_t width;   // queries, padded to whole vectors
  float* scores;   // kKeys x width; update_softmax turns them into weights
  float* maximum;  // width, in units of log2
  float* sum;      // width
  float* rescale;  // width, what the earlier blocks' sums must be multiplied by
  float* bias;     // width, added to all scores of a slot, in units of log2

  static int64_t floats(int64_t width) { return width * (kKeys + 4); }

  Softmax(float* memory, int64_t width_) : width(width_), scores(memory) {
    maximum = scores + width * kKeys;
    sum = maximum + width;
    rescale = sum + width;
    bias = rescale + width;
  }
};

// Turns scores into weights relative to the running maximum; says whether any earlier sum must be rescaled.
static bool update_softmax(Softmax& softmax, int64_t keys, float scale, bool first_block) {
  bool grew = false;
  for (int64_t i = 0; i < softmax.width; i += kLanes) {
    float* column = softmax.scores + i;
    Floats top = load(column);
    for (int64_t k = 1; k < keys; ++k) top = maximum(top, load(column + k * softmax.width));
    const Floats peak = top * scale + load(softmax.bias + i);
    Floats now = maximum(peak, broadcast(-kLargest));  // finite, since a slot's bias may be -inf
    if (!first_block) {
      const Floats before = load(softmax.maximum + i);
      now = maximum(now, before);
      const Floats rescale = exp2(before - now);
      store(softmax.rescale + i, rescale);
      for (int lane = 0; lane < kLanes; ++lane) grew |= before[lane] != now[lane];
    }
    // Scores are taken from the block's best: from zero, those of 2^31 would be off by 2^7 in the exponent.
    const Floats offset = peak - now;
    Floats sum = {};
    for (int64_t first = 0; first < keys; first += kSummed) {
      Floats part = {};
      for (int64_t k = first; k < smaller(first + kSummed, keys); ++k) {
        const Floats weight = exp2((load(column + k * softmax.width) - top) * scale + offset);
        store(column + k * softmax.width, weight);
        part += weight;
      }
      sum += part;
    }
    if (!first_block) sum += load(softmax.sum + i) * load(softmax.rescale + i);
    store(softmax.maximum + i, now);
    store(softmax.sum + i, sum);
  }
  return grew;
}

static inline void scale_rows(float* out, const float* factor, int64_t rows, int64_t dim) {
  for (int64_t q = 0; q < rows; ++q) {
    if (factor[q] == 1.0f) continue;
    float* row = out + q * dim;
    for (int64_t d = 0; d < dim; d += kLanes) store(row + d, load(row + d) * factor[q]);
  }
}

// sum becomes 1 / sum: what the weighted values must be multiplied by in the end.
static inline void invert_sum(Softmax& softmax) {
  for (int64_t i = 0; i < softmax.width; i += kLanes) store(softmax.sum + i, 1.0f / load(softmax.sum + i));
}

// Large tiles reuse keys and values most; small inputs need smaller ones so that every thread gets several.
static inline int64_t queries_per_tile(int64_t queries, int64_t threads) {
  const int64_t share = ceil_div(queries, 2 * threads);
  return smaller(kQueries, ceil_div(share, kPanel) * kPanel);
}

// Runs attend_tile over all queries. Returns false when there was no memory for a tile's work space.
template <class Tile, class Args>
static bool attend_tiles(const Args& args, const Threads& threads) {
  if (args.queries == 0) return true;
  bool out_of_memory = false;
  const int64_t size = queries_per_tile(args.queries, static_cast<int64_t>(threads.count));
  auto body = [&](size_t index) {
    const int64_t first = static_cast<int64_t>(index) * size;
    float* memory = scratch(static_cast<size_t>(Tile::floats(size, args.dim)));
    if (!memory) {
      __atomic_store_n(&out_of_memory, true, __ATOMIC_RELAXED);
      return;
    }
    Tile tile(memory, first, smaller(size, args.queries - first), args.dim);
    attend_tile(args, tile);
  };
  threads.each(static_cast<size_t>(ceil_div(args.queries, size)), body);
  return !out_of_memory;
}

}  // namespace x2sam::X2SAM_ISA
