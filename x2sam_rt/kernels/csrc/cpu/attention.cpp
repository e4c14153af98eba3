// One-head attention over slots of keys, blocked: the score matrix never exists, only one block of it per thread.
//
// A tile of queries is transposed once; then, for each block of keys,
//   scores[key][query] = keys * queries^T          (keys are read in place)
//   softmax over the keys, running maximum and sum (queries lie along the vector lanes, so no horizontal sums)
//   out[query][channel] += scores^T * values       (values are read in place)
// A slot's key shift adds q . shift to all scores of the slot, because q . (k + shift) = q . k + q . shift.

#include "kernels.h"
#include "tile.h"

extern "C" float sqrtf(float);

namespace x2sam::X2SAM_ISA {
namespace {

constexpr int64_t kPanel = kTileVectors * kLanes;  // queries that one register tile spans
constexpr int64_t kQueries = 256;                  // queries per tile: with kKeys, sized to a 1 MiB second-level cache
constexpr int64_t kKeys = 128;                     // keys per block

// Weights summed before they join the sum of all: beside one weight of 1, single small ones would be rounded away.
constexpr int64_t kSummed = 8;

// One thread's work space, all in one allocation.
struct Tile {
  int64_t first, count, width;  // queries [first, first + count), padded to width
  float* transposed;            // dim x width
  float* scores;                // kKeys x width
  float* maximum;               // width, in units of log2
  float* sum;                   // width
  float* rescale;               // width
  float* bias;                  // width, in units of log2

  static int64_t floats(int64_t width, int64_t dim) { return width * (dim + kKeys + 4); }

  Tile(float* memory, int64_t first_, int64_t count_, int64_t dim)
      : first(first_), count(count_), width(ceil_div(count_, kLanes) * kLanes) {
    transposed = memory;
    scores = transposed + width * dim;
    maximum = scores + width * kKeys;
    sum = maximum + width;
    rescale = sum + width;
    bias = rescale + width;
  }
};

void transpose_queries(const AttentionArgs& args, Tile& tile) {
  for (int64_t i = 0; i < tile.width; i += kLanes) {
    const int64_t rows = smaller<int64_t>(kLanes, tile.count - i);
    const float* source = args.query + (tile.first + i) * args.query_row;
    float* target = tile.transposed + i;
    for (int64_t d = 0; d < args.dim; ++d) {
      for (int64_t r = 0; r < rows; ++r) target[d * tile.width + r] = source[r * args.query_row + d];
      for (int64_t r = rows; r < kLanes; ++r) target[d * tile.width + r] = 0.0f;
    }
  }
}

void compute_bias(const AttentionArgs& args, Tile& tile, int64_t slot, float scale) {
  const float* shift = args.key_shift ? args.key_shift + slot * args.shift_row : nullptr;
  for (int64_t i = 0; i < tile.width; i += kLanes) {
    Floats dot = {};
    for (int64_t d = 0; shift && d < args.dim; ++d) dot += load(tile.transposed + d * tile.width + i) * shift[d];
    store(tile.bias + i, dot * scale);
  }
}

// Turns scores into weights relative to the running maximum; says whether any earlier sum must be rescaled.
bool update_softmax(Tile& tile, int64_t keys, float scale, bool first_block) {
  bool grew = false;
  for (int64_t i = 0; i < tile.width; i += kLanes) {
    float* column = tile.scores + i;
    Floats top = load(column);
    for (int64_t k = 1; k < keys; ++k) top = maximum(top, load(column + k * tile.width));
    const Floats bias = load(tile.bias + i);
    Floats now = top * scale + bias;
    if (!first_block) {
      const Floats before = load(tile.maximum + i);
      now = maximum(now, before);
      const Floats rescale = exp2(before - now);
      store(tile.rescale + i, rescale);
      for (int lane = 0; lane < kLanes; ++lane) grew |= before[lane] != now[lane];
    }
    const Floats offset = bias - now;
    Floats sum = {};
    for (int64_t first = 0; first < keys; first += kSummed) {
      Floats part = {};
      for (int64_t k = first; k < smaller(first + kSummed, keys); ++k) {
        const Floats weight = exp2(load(column + k * tile.width) * scale + offset);
        store(column + k * tile.width, weight);
        part += weight;
      }
      sum += part;
    }
    if (!first_block) sum += load(tile.sum + i) * load(tile.rescale + i);
    store(tile.maximum + i, now);
    store(tile.sum + i, sum);
  }
  return grew;
}

void scale_rows(float* out, const float* factor, const Tile& tile, int64_t dim) {
  for (int64_t q = 0; q < tile.count; ++q) {
    if (factor[q] == 1.0f) continue;
    float* row = out + q * dim;
    for (int64_t d = 0; d < dim; d += kLanes) store(row + d, load(row + d) * factor[q]);
  }
}

void attend_block(const AttentionArgs& args, Tile& tile, const float* key, const float* value, int64_t keys,
                  float scale, bool first_block) {
  const TileA keys_in_place = {key, args.key_row, 1};
  multiply(keys_in_place, {tile.transposed, tile.width}, {tile.scores, tile.width, false}, keys, tile.width, args.dim);
  float* out = args.out + tile.first * args.dim;
  if (update_softmax(tile, keys, scale, first_block)) scale_rows(out, tile.rescale, tile, args.dim);
  const TileA weights = {tile.scores, 1, tile.width};
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
  for (int64_t i = 0; i < tile.width; i += kLanes) store(tile.sum + i, 1.0f / load(tile.sum + i));
  scale_rows(args.out + tile.first * args.dim, tile.sum, tile, args.dim);
}

// Large tiles reuse keys and values most; small inputs need smaller ones so that every thread gets several.
int64_t queries_per_tile(int64_t queries, int64_t threads) {
  const int64_t share = ceil_div(queries, 2 * threads);
  return smaller(kQueries, ceil_div(share, kPanel) * kPanel);
}

}  // namespace

bool attention(const AttentionArgs& args, const Threads& threads) {
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
