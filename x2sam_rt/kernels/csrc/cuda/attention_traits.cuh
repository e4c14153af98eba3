// Shapes, shared memory and matrix instructions of the attention kernel, per element type and head dimension.
#pragma once

#include <cuda_bf16.h>
#include <cutlass/arch/barrier.h>
#include <cutlass/numeric_types.h>

#include <cute/arch/mma_sm90.hpp>
#include <cute/atom/mma_traits_sm90_gmma.hpp>
#include <cute/tensor.hpp>

#include "key_product.cuh"

namespace x2sam {

using namespace cute;
using bf16 = cutlass::bfloat16_t;
using fp8 = cutlass::float_e4m3_t;

constexpr int kCluster = 2;            // thread blocks that share their keys and values: each fetches half, for both
constexpr int kWarpgroup = 128;        // threads
constexpr int kWarpgroupQueries = 64;  // of one consumer warpgroup

// Queries per thread block, FlashAttention-3's. A thread has registers for the scores and probabilities of 64 queries
// and the result's dim / 2 numbers; at d = 64 those of three warpgroups fit, and there the tensor cores wait for the
// exponentials (as many a cycle as scores of that dimension), which three warpgroups overlap better than two.
constexpr int query_tile(int dim, bool is_fp8) { return !is_fp8 && dim == 64 ? 192 : 128; }
constexpr int kMostQueries = 192;

// Keys per block, FlashAttention-3's for bfloat16: the most of which scores and probabilities fit into the registers
// beside the result (d = 128: 88 + 44 + 64 of 240; d = 64: 64 + 32 + 32 of 160) and two stages of K and V beside Q into
// 227 KB (d = 256: 64 + 4 · 40). Below 80 the Q·K product waits for shared memory (128 bytes a cycle).
constexpr int key_block(int dim, bool is_fp8) {
  if (is_fp8) return 128;
  return dim == 256 ? 80 : dim == 128 ? 176 : 128;
}

template <class Element, int kDim, int kKeys>
constexpr auto product_of_keys() {
  if constexpr (kKeys == 80 || kKeys == 176) {
    return KeyProduct<kKeys>{};
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
  static constexpr int kQueryTile = query_tile(kDim, kFp8);
  static constexpr int kWarpgroups = kQueryTile / kWarpgroupQueries;  // that compute
  static constexpr int kConsumers = kWarpgroups * kWarpgroup;         // threads
  static constexpr int kThreads = kConsumers + kWarpgroup;            // and a warpgroup whose first thread copies
  static constexpr int kCopierRegisters = kWarpgroups == 2 ? 24 : 32, kConsumerRegisters = kWarpgroups == 2 ? 240 : 160;
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
  static constexpr int kResultRow = 64;  // elements of a swizzled 128-byte row of the result

  using Warpgroups = Layout<Shape<Int<kWarpgroups>, _1, _1>>;
  static constexpr auto kMajorV = kFp8 ? GMMA::Major::K : GMMA::Major::MN;
  using MmaQK = decltype(make_tiled_mma(product_of_keys<Element, kDim, kKeyBlock>(), Warpgroups{}));
  using MmaPV = decltype(make_tiled_mma(
      GMMA::rs_op_selector<Element, Element, float, Shape<_64, Int<kDim>, Int<kKeyBlock>>, GMMA::Major::K, kMajorV>(),
      Warpgroups{}));

  struct Shared {
    // in the queries' place, once the last product with them is done, comes their result on its way out
    alignas(1024) array_aligned<Element, cosize_v<LayoutQ>, 1024> query;
    alignas(1024) array_aligned<Element, cosize_v<LayoutK>, 1024> key;
    alignas(1024) array_aligned<Element, cosize_v<LayoutV>, 1024> value;
    __nv_bfloat162 row_scales[kFp8 ? kConsumers : 1];  // of each thread's two rows: registers are all taken
    uint32_t pair;  // of tiles that is under way: nobody keeps its number in a register
    uint64_t query_full, query_empty;
    uint64_t key_full[kStages], key_empty[kStages];
    uint64_t value_full[kStages], value_empty[kStages];
  };
  static constexpr int kSharedBytes = sizeof(Shared) + 1024;  // the base is aligned by hand
  static_assert(kSharedBytes <= 227 * 1024, "more shared memory than a block of sm_90 has");
};

}  // namespace x2sam
