// What the attention kernel copies: queries, keys and values into shared memory, results out of it; and which tile of
// queries and part of the keys is whose turn. Status: as attention_kernel.cuh.
#pragma once

#include <cuda.h>

#include <cute/arch/cluster_sm90.hpp>
#include <cute/arch/copy_sm90_tma.hpp>

#include "attention_traits.cuh"

namespace x2sam {

using Full = cutlass::arch::ClusterTransactionBarrier;
using Empty = cutlass::arch::ClusterBarrier;

struct KernelParams {
  CUtensorMap query, key, value;
  CUtensorMap result;  // of one part; several write to `partial`
  const float* bias;
  const __nv_bfloat16* query_scale;
  const __nv_bfloat162* block_scales;
  float* partial;
  float* lse;
  unsigned long long* skipped;
  int tokens;
  int segment_tokens;
  uint32_t tile_pairs;  // pairs of tiles of queries
  uint32_t parts;
  uint32_t segment_blocks;  // key blocks per segment
  uint32_t part_blocks;     // key blocks per part
  uint32_t blocks;          // of all segments
  float scale_log2;
  float skip_below;  // powers of two
};

// What this thread block works on: a tile of queries and a part of the key blocks, which are numbered through all
// segments. The two blocks of a pair have neighbouring tiles and the same part.
struct Work {
  uint32_t pair;

  CUTE_DEVICE Work() : pair(blockIdx.x / kCluster) {}
  CUTE_DEVICE bool left(const KernelParams& params) const { return pair < params.tile_pairs * params.parts; }
  CUTE_DEVICE uint32_t round() const { return pair / (gridDim.x / kCluster); }
  CUTE_DEVICE void advance() { pair += gridDim.x / kCluster; }
  CUTE_DEVICE uint32_t tile(const KernelParams& params) const {
    return pair % params.tile_pairs * kCluster + blockIdx.x % kCluster;
  }
  CUTE_DEVICE uint32_t part(const KernelParams& params) const { return pair / params.tile_pairs; }
  CUTE_DEVICE uint32_t first(const KernelParams& params) const { return part(params) * params.part_blocks; }
  CUTE_DEVICE uint32_t count(const KernelParams& params) const {
    return min(params.part_blocks, params.blocks - first(params));
  }
};

// Where a key block begins. Carried along: dividing takes registers.
struct Place {
  int key, segment;

  CUTE_DEVICE void advance(int block, int segment_tokens) {
    key += block;
    if (key < segment_tokens) return;
    key = 0;
    ++segment;
  }
};

// threadIdx.x, read anew: what follows from it is computed where it is used and not kept in registers, of which the
// products leave none over, from one tile to the next.
CUTE_DEVICE int thread_index() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

template <class T>
CUTE_DEVICE void produce(const KernelParams& params, typename T::Shared& shared) {
  using CopyForBoth = SM90_TMA_LOAD_MULTICAST_3D;
  constexpr auto kHint = static_cast<uint64_t>(TMA::CacheHintSm90::EVICT_NORMAL);
  constexpr uint16_t kBoth = (1 << kCluster) - 1;
  const int rank = block_rank_in_cluster();
  auto copy_queries = [&](Work work) {
    Empty::wait(&shared.query_empty, (work.round() & 1) ^ 1);
    shared.pair = work.pair;
    Full::arrive_and_expect_tx(&shared.query_full, T::kQueryBytes);
    for (int chunk = 0; chunk < T::kDim / T::kRow; ++chunk) {
      SM90_TMA_LOAD_3D::copy(&params.query, &shared.query_full, kHint,
                             shared.query.data() + chunk * T::kQueryTile * T::kRow, chunk * T::kRow,
                             work.tile(params) * T::kQueryTile, 0);
    }
  };
  // A stage may be filled when the consumers of both blocks have left it, and is full when both halves are there.
  auto copy_keys = [&](uint32_t index, Place at) {
    const uint32_t stage = index % T::kStages;
    Empty::wait(&shared.key_empty[stage], (index / T::kStages & 1) ^ 1);
    Full::arrive_and_expect_tx(&shared.key_full[stage], T::kStageBytes);
    auto* target = shared.key.data() + stage * T::kKeyBlock * T::kDim + rank * T::kKeyBox * T::kRow;
    for (int chunk = 0; chunk < T::kDim / T::kRow; ++chunk) {
      CopyForBoth::copy(&params.key, &shared.key_full[stage], kBoth, kHint, target + chunk * T::kKeyBlock * T::kRow,
                        chunk * T::kRow, at.key + rank * T::kKeyBox, at.segment);
    }
  };
  auto copy_values = [&](uint32_t index, Place at) {
    const uint32_t stage = index % T::kStages;
    Empty::wait(&shared.value_empty[stage], (index / T::kStages & 1) ^ 1);
    Full::arrive_and_expect_tx(&shared.value_full[stage], T::kStageBytes);
    auto* target = shared.value.data() + stage * T::kKeyBlock * T::kDim + rank * T::kValueBox * T::kRow;
    const int row = (T::kFp8 ? 0 : at.key) + rank * T::kValueBox;
    for (int chunk = 0; chunk < T::kValueChunks; ++chunk) {
      CopyForBoth::copy(&params.value, &shared.value_full[stage], kBoth, kHint,
                        target + chunk * T::kValueRows * T::kRow, T::kFp8 ? at.key + chunk * T::kRow : chunk * T::kRow,
                        row, at.segment);
    }
  };
  // K runs one block ahead of V, in the order in which the consumers free their stages; a tile's first keys do not wait
  // for the last tile's result to leave. Neither unrolled nor repeated: the producer has few registers.
  uint32_t index = 0;  // of the key block, over all tiles: it gives stage and phase
#pragma unroll 1
  for (Work work; work.left(params); work.advance()) {
    const uint32_t first = work.first(params);
    Place place{static_cast<int>(first % params.segment_blocks) * T::kKeyBlock,
                static_cast<int>(first / params.segment_blocks)};
    Place last = place;
    const uint32_t begin = index, end = index + work.count(params);
#pragma unroll 1
    while (true) {
      if (index < end) copy_keys(index, place);
      if (index == begin) {
        copy_queries(work);
      } else {
        copy_values(index - 1, last);
      }
      if (index == end) break;
      ++index;
      last = place;
      place.advance(T::kKeyBlock, params.segment_tokens);
    }
  }
}

// Waits for the other warps of the warpgroup, which has the barrier of its own number (0 is the block's).
CUTE_DEVICE void sync_warpgroup() {
  asm volatile("barrier.cta.sync %0, 128;" ::"r"(threadIdx.x / kWarpgroup) : "memory");
}

// The warpgroup's rows of the result, normalised: the copy engine takes them out of shared memory, where they lie as
// the queries did, and leaves out what lies beyond the tokens. Returns when shared memory may be written to again.
template <class T, class Accumulator>
CUTE_DEVICE void store_result(const KernelParams& params, typename T::Shared& shared, const Accumulator& acc,
                              int first_row, const float (&norm)[2]) {
  const int index = thread_index(), thread = index % kWarpgroup, lane = index % 32;
  const int group_row = (index / kWarpgroup - 1) * kWarpgroupQueries;  // the producer is warpgroup 0
  auto* tile = reinterpret_cast<__nv_bfloat162*>(shared.query.data()) + group_row * T::kResultRow / 2;
  constexpr int kChunk = T::kQueryTile * T::kResultRow / 2;
  sync_warpgroup();  // a product reads the queries of all four warps
  CUTLASS_PRAGMA_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int row = thread / 32 * 16 + lane / 4 + 8 * i;
    CUTLASS_PRAGMA_UNROLL
    for (int group = 0; group < T::kDim / 8; ++group) {
      const int place = row * T::kResultRow / 2 + (group % 8 ^ row % 8) * 4 + lane % 4;  // swizzled
      tile[group / 8 * kChunk + place] =
          __floats2bfloat162_rn(acc(4 * group + 2 * i) * norm[i], acc(4 * group + 2 * i + 1) * norm[i]);
    }
  }
  tma_store_fence();
  sync_warpgroup();
  if (thread == 0 && first_row < params.tokens) {
    for (int chunk = 0; chunk < T::kDim / T::kResultRow; ++chunk) {
      SM90_TMA_STORE_3D::copy(&params.result, tile + chunk * kChunk, chunk * T::kResultRow, first_row, 0);
    }
    tma_store_arrive();
    tma_store_wait<0>();
  }
}

// The thread's two rows of a part's result, normalised. As floats, four threads' numbers fill a sector of memory.
template <class T, class Accumulator>
CUTE_DEVICE void store_partial(const KernelParams& params, const Accumulator& acc, uint32_t part, const int (&rows)[2],
                               const float (&norm)[2]) {
  const int lane = thread_index() % 32;
  CUTLASS_PRAGMA_UNROLL
  for (int i = 0; i < 2; ++i) {
    if (rows[i] >= params.tokens) continue;
    auto* target = params.partial + (static_cast<int64_t>(part) * params.tokens + rows[i]) * T::kDim + lane % 4 * 2;
    CUTLASS_PRAGMA_UNROLL
    for (int group = 0; group < T::kDim / 8; ++group) {
      *reinterpret_cast<float2*>(target + group * 8) =
          float2{acc(4 * group + 2 * i) * norm[i], acc(4 * group + 2 * i + 1) * norm[i]};
    }
  }
}

}  // namespace x2sam
