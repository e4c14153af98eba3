// attention.cpp for bfloat16: products of pairs with sums in float32, softmax in float32, weights rounded to bfloat16.
//
// Keys are read in place, because two neighbouring channels of a key are a pair as they lie; so are the queries' once
// transposed. Values must be paired along the keys: every tile packs each block of them anew. One packed copy for all
// tiles would be about 1 % faster, and would cost memory that grows with the keys and a wait for the last packer.

#include "attention.h"
#include "pairs.h"

namespace x2sam::X2SAM_ISA {
namespace {

constexpr int64_t kKeyPairs = kKeys / 2;

// One thread's work space, all in one allocation.
struct Tile {
  int64_t first, count;  // queries [first, first + count)
  Softmax softmax;
  Pair* queries;  // panels of dim / 2 x queries
  Pair* weights;  // kKeyPairs x softmax.width
  Pair* values;   // panels of key pairs x channels
  float* out;     // count x dim

  static int64_t floats(int64_t queries, int64_t dim) {
    return Softmax::floats(queries) + queries * (dim / 2 + kKeyPairs + dim) + kKeyPairs * dim;
  }

  Tile(float* memory, int64_t first_, int64_t count_, int64_t dim)
      : first(first_), count(count_), softmax(memory, ceil_div(count_, kLanes) * kLanes) {
    const int64_t width = softmax.width;
    queries = reinterpret_cast<Pair*>(memory + Softmax::floats(width));
    weights = queries + width * dim / 2;
    values = weights + width * kKeyPairs;
    out = reinterpret_cast<float*>(values + kKeyPairs * dim);
  }
};

void pack_queries(const AttentionBf16Args& args, Tile& tile) {
  for (int64_t panel = 0; panel < tile.softmax.width; panel += kPanel) {
    const int64_t columns = smaller(kPanel, tile.softmax.width - panel);
    Pair* target = tile.queries + panel * args.dim / 2;
    for (int64_t column = 0; column < columns; ++column) {
      const int64_t query = panel + column;
      const uint16_t* source = args.query + (tile.first + query) * args.query_row;
      for (int64_t d = 0; d < args.dim / 2; ++d)
        target[d * columns + column] = query < tile.count ? load_pair(source + 2 * d) : 0;
    }
  }
}

// After an odd number of keys, zeros: the weight paired with them is zero too.
void pack_values(const AttentionBf16Args& args, Tile& tile, const uint16_t* value, int64_t keys) {
  const int64_t depth = ceil_div(keys, 2);
  for (int64_t panel = 0; panel < args.dim; panel += kPanel) {
    const int64_t columns = smaller(kPanel, args.dim - panel);
    Pair* target = tile.values + panel * depth;
    for (int64_t k = 0; k < keys; k += 2) {
      const uint16_t* row = value + k * args.value_row + panel;
      for (int64_t column = 0; column < columns; column += kLanes) {
        const Halves odd = k + 1 < keys ? load_halves(row + args.value_row + column) : Halves{};
        store_pairs(target, interleave(load_halves(row + column), odd));
        target += kLanes;
      }
    }
  }
}

void pack_weights(Tile& tile, int64_t keys) {
  const int64_t width = tile.softmax.width;
  for (int64_t k = 0; k < keys; k += 2) {
    const float* row = tile.softmax.scores + k * width;
    for (int64_t i = 0; i < width; i += kLanes) {
      const Floats odd = k + 1 < keys ? load(row + width + i) : Floats{};
      store_pairs(tile.weights + k / 2 * width + i, interleave(round_halves(load(row + i)), round_halves(odd)));
    }
  }
}

void compute_bias(const AttentionBf16Args& args, Tile& tile, int64_t slot, float scale) {
  Softmax& softmax = tile.softmax;
  for (int64_t i = 0; i < softmax.width; i += kLanes) store(softmax.bias + i, Floats{});
  if (!args.key_shift) return;
  const PairsA shift = {args.key_shift + slot * args.shift_row, 0, 2};
  multiply_pairs(shift, tile.queries, {softmax.bias, 0, false}, 1, softmax.width, args.dim / 2);
  for (int64_t i = 0; i < softmax.width; i += kLanes) store(softmax.bias + i, load(softmax.bias + i) * scale);
}

void attend_block(const AttentionBf16Args& args, Tile& tile, const uint16_t* key, const uint16_t* value, int64_t keys,
                  float scale, bool first_block) {
  Softmax& softmax = tile.softmax;
  const int64_t width = softmax.width;
  const PairsA keys_in_place = {key, args.key_row, 2};
  multiply_pairs(keys_in_place, tile.queries, {softmax.scores, width, false}, keys, width, args.dim / 2);
  if (update_softmax(softmax, keys, scale, first_block)) scale_rows(tile.out, softmax.rescale, tile.count, args.dim);
  pack_weights(tile, keys);
  pack_values(args, tile, value, keys);
  const PairsA weights = {reinterpret_cast<const uint16_t*>(tile.weights), 2, 2 * width};
  multiply_pairs(weights, tile.values, {tile.out, args.dim, !first_block}, tile.count, args.dim, ceil_div(keys, 2));
}

void write_out(const AttentionBf16Args& args, const Tile& tile) {
  uint16_t* target = args.out + tile.first * args.dim;
  for (int64_t q = 0; q < tile.count; ++q)
    for (int64_t d = 0; d < args.dim; d += kLanes) {
      const int64_t at = q * args.dim + d;
      store_halves(target + at, round_halves(load(tile.out + at) * tile.softmax.sum[q]));
    }
}

void attend_tile(const AttentionBf16Args& args, Tile& tile) {
  const float scale = kLog2e / sqrtf(static_cast<float>(args.dim));
  pack_queries(args, tile);
  for (int64_t slot = 0; slot < args.slots; ++slot) {
    compute_bias(args, tile, slot, scale);
    for (int64_t first = 0; first < args.slot_tokens; first += kKeys) {
      const uint16_t* key = args.key + slot * args.key_slot + first * args.key_row;
      const uint16_t* value = args.value + slot * args.value_slot + first * args.value_row;
      const int64_t keys = smaller(kKeys, args.slot_tokens - first);
      attend_block(args, tile, key, value, keys, scale, slot == 0 && first == 0);
    }
  }
  invert_sum(tile.softmax);
  write_out(args, tile);
}

}  // namespace

bool attention_bf16(const AttentionBf16Args& args, const Threads& threads) { return attend_tiles<Tile>(args, threads); }

}  // namespace x2sam::X2SAM_ISA
