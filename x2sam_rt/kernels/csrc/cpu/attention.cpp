// One-head attention over slots of keys, blocked: the score matrix never exists, only one block of it per thread.
//
// A tile of queries is transposed once; then, for each block of keys,
//   scores[key][query] = keys * queries^T          (keys are read in place)
//   softmax over the keys, running maximum and sum (queries lie along the vector lanes, so no horizontal sums)
//   out[query][channel] += scores^T * values       (values are read in place)
// A slot's key shift adds q . shift to all scores of the slot, because q . (k + shift) = q . k + q . shift.

#include "attention.h"

#include "tile.h"

namespace x2sam::X2SAM_ISA {
namespace {

// One thread's work space, all in one allocation.
struct Tile {
  int64_t first, count;  // queries [first, first + count)
  Softmax softmax;
  float* transposed;  // dim x softmax.width

  static int64_t floats(int64_t queries, int64_t dim) { return Softmax::floats(queries) + queries * dim; }

  Tile(float* memory, int64_t first_, int64_t count_, int64_t)
      : first(first_), count(count_), softmax(memory, ceil_div(count_, kLanes) * kLanes) {
    transposed = memory + Softmax::floats(softmax.width);
  }
};

void transpose_queries(const AttentionArgs& args, Tile& tile) {
  const int64_t width = tile.softmax.width;
  for (int64_t i = 0; i < width; i += kLanes) {
    const int64_t rows = smaller<int64_t>(kLanes, tile.count - i);
    const float* source = args.query + (tile.first + i) * args.query_row;
    float* target = tile.transposed + i;
    for (int64_t d = 0; d < args.dim; ++d) {
      for (int64_t r = 0; r < rows; ++r) target[d * width + r] = source[r * args.query_row + d];
      for (int64_t r = rows; r < kLanes; ++r) target[d * width + r] = 0.0f;
    }
  }
}

void compute_bias(const AttentionArgs& args, Tile& tile, int64_t slot, float scale) {
  const float* shift = args.key_shift ? args.key_shift + slot * args.shift_row : nullptr;
  const int64_t width = tile.softmax.width;
  for (int64_t i = 0; i < width; i += kLanes) {
    Floats dot = {};
    for (int64_t d = 0; shift && d < args.dim; ++d) dot += load(tile.transposed + d * width + i) * shift[d];
    store(tile.softmax.bias + i, dot * scale);
  }
}

void attend_block(const AttentionArgs& args, Tile& tile, const float* key, const float* value, int64_t keys,
                  float scale, bool first_block) {
  Softmax& softmax = tile.softmax;
  const int64_t width = softmax.width;
  const TileA keys_in_place = {key, args.key_row, 1};
  multiply(keys_in_place, {tile.transposed, width}, {softmax.scores, width, false}, keys, width, args.dim);
  float* out = args.out + tile.first * args.dim;
  if (update_softmax(softmax, keys, scale, first_block)) scale_rows(out, softmax.rescale, tile.count, args.dim);
  const TileA weights = {softmax.scores, 1, width};
  multiply(weights, {value, args.value_row}, {out, args.dim, !first_block}, tile.count, args.dim, keys);
}

void attend_tile(const AttentionArgs& args, Tile& tile) {
  const float scale = kLog2e / sqrtf(static_cast<float>(args.dim));
  transpose_queries(args, tile);
  for (int64_t slot = 0; slot < args.slots; ++slot) {
    compute_bias(args, tile, slot, scale);
    for (int64_t first = 0; first < args.slot_tokens; first += kKeys) {
      const float* key = args.key + slot * args.key_slot + first * args.key_row;
      const float* value = args.value + slot * args.value_slot + first * args.value_row;
      const int64_t keys = smaller(kKeys, args.slot_tokens - first);
      attend_block(args, tile, key, value, keys, scale, slot == 0 && first == 0);
    }
  }
  invert_sum(tile.softmax);
  scale_rows(args.out + tile.first * args.dim, tile.softmax.sum, tile.count, args.dim);
}

}  // namespace

bool attention(const AttentionArgs& args, const Threads& threads) { return attend_tiles<Tile>(args, threads); }

}  // namespace x2sam::X2SAM_ISA
