// Shapes, shared memory and matrix instructions of the attention kernel, per element type and head dimension.
#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/numeric_types.h>

#include <cute/arch/mma_sm90.hpp>
#include <cute/atom/mma_traits_sm90_gmma.hpp>
#include <cute/tensor.hpp>

#include "product_64x80.cuh"

namespace x2sam {

using namespace cute;
using bf16 = cutlass::bfloat16_t;
using fp8 = cutlass::float_e4m3_t;

constexpr int kQueryTile = 128;  // two consumer warpgroups of 64 queries
constexpr int kConsumers = 256;  // threads
constexpr int kCluster = 2;      // thread blocks that share their keys and values: each fetches half of them for both
constexpr int kThreads = 384;    // and one producer warpgroup, of which one thread works

// At d = 256 the accumulator takes 128 registers of a thread and Q 64 KB, so 80 keys is the most that leaves room for
// two stages of K and V in 227 KB; below 80 the Q·K product waits for shared memory (128 bytes a cycle).
constexpr int key_block(int dim, bool is_fp8) { return !is_fp8 && dim == 256 ? 80 : 128; }

template <class Element, int kDim, int kKeys>
constexpr auto product_of_keys() {
  if constexpr (kKeys == 80) {
    return Product64x80x16{};
  } else {
    return GMMA::ss_op_selector<Element, Element, float, Shape<_64, Int<kKeys>, Int<kDim>>>();
  }
}

template <class Element_, int kDim_, bool kSkip_>
struct Traits {
  using Element = Element_;
  static constexpr int kDim = kDim_;
  static constexpr bool kSkip = kSkip_;
  static constexpr bool kFp8 = is_same_v<Element, fp8>;
  static constexpr int kKeyBlock = key_block(kDim, kFp8);
  static constexpr int kStages = 2;
  static constexpr int kRow = 128 / sizeof(Element);  // elements of a swizzled 128-byte row
  // fp8 probabilities are scaled up by 2^8, since e4m3 ends at 448 and its small numbers at 2^-9
  static constexpr float kProbabilityBits = kFp8 ? 8.f : 0.f;

  // The copy engine fills chunks of [rows][128 bytes], one behind the other: rows first, then chunks.
  using RowAtom = GMMA::Layout_K_SW128_Atom<Element>;
  using LayoutQ = decltype(tile_to_shape(RowAtom{}, Shape<Int<kQueryTile>, Int<kDim>>{}));
  using LayoutK = decltype(tile_to_shape(RowAtom{}, Shape<Int<kKeyBlock>, Int<kDim>, Int<kStages>>{}));
  // V as the second factor of P·V is (dim x keys). bfloat16 reads the keys' rows transposed; fp8 instructions cannot,
  // so there the caller stores V transposed.
  using AtomV = conditional_t<kFp8, RowAtom, GMMA::Layout_MN_SW128_Atom<Element>>;
  using OrderV = conditional_t<kFp8, Step<_1, _2, _3>, Step<_2, _1, _3>>;
  using LayoutV = decltype(tile_to_shape(AtomV{}, Shape<Int<kDim>, Int<kKeyBlock>, Int<kStages>>{}, OrderV{}));
  static constexpr int kValueRows = kFp8 ? kDim : kKeyBlock;  // rows of one copied chunk of V
  static constexpr int kKeyBox = kKeyBlock / kCluster;        // rows that one thread block fetches
  static constexpr int kValueBox = kValueRows / kCluster;
  static constexpr int kValueChunks = (kFp8 ? kKeyBlock : kDim) / kRow;
  static constexpr int kStageBytes = kKeyBlock * kDim * sizeof(Element);
  static constexpr int kQueryBytes = kQueryTile * kDim * sizeof(Element);

  using Warpgroups = Layout<Shape<_2, _1, _1>>;
  static constexpr auto kMajorV = kFp8 ? GMMA::Major::K : GMMA::Major::MN;
  using MmaQK = decltype(make_tiled_mma(product_of_keys<Element, kDim, kKeyBlock>(), Warpgroups{}));
  using MmaPV = decltype(make_tiled_mma(
      GMMA::rs_op_selector<Element, Element, float, Shape<_64, Int<kDim>, Int<kKeyBlock>>, GMMA::Major::K, kMajorV>(),
      Warpgroups{}));

  struct Shared {
    alignas(1024) array_aligned<Element, cosize_v<LayoutQ>, 1024> query;
    alignas(1024) array_aligned<Element, cosize_v<LayoutK>, 1024> key;
    alignas(1024) array_aligned<Element, cosize_v<LayoutV>, 1024> value;
    uint64_t query_full;
    uint64_t key_full[kStages], key_empty[kStages];
    uint64_t value_full[kStages], value_empty[kStages];
  };
  static constexpr int kSharedBytes = sizeof(Shared) + 1024;  // the base is aligned by hand
  static_assert(kSharedBytes <= 227 * 1024, "more shared memory than a block of sm_90 has");
};

}  // namespace x2sam
