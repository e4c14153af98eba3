// The attention kernel: one warpgroup copies, two compute. Each computing warpgroup owns 64 queries and, while the
// tensor cores multiply the previous block's probabilities with V, works on the next block's softmax. Two thread blocks
// share their keys and values: each fetches half of every block of them, for both. A block alone would read 80 KB of
// level-2 cache for every 10.5 MFLOP, which at 700 TFLOP/s is about all that the cache can give.
//
// Status: compiled without spills, overlap read in the disassembly, run by the tests' emulator; not yet run on a GPU.
#pragma once

#include <cuda.h>
#include <cutlass/arch/reg_reconfig.h>

#include <cute/arch/cluster_sm90.hpp>
#include <cute/arch/copy_sm90_tma.hpp>

#include "attention_traits.cuh"
#include "softmax.cuh"

namespace x2sam {

using Full = cutlass::arch::ClusterTransactionBarrier;
using Empty = cutlass::arch::ClusterBarrier;

struct KernelParams {
  CUtensorMap query, key, value;
  const float* bias;
  const float* query_scale;
  const float* key_scale;
  const float* value_scale;
  void* out;
  float* lse;
  unsigned long long* skipped;
  int tokens;
  int segment_tokens;
  uint32_t segment_blocks;  // key blocks per segment
  uint32_t part_blocks;     // key blocks per part
  uint32_t blocks;          // of all segments
  float scale_log2;
  float skip_below;  // powers of two
};

// The run of key blocks of this thread block, numbered through all segments.
struct Run {
  uint32_t first, count;
  CUTE_DEVICE explicit Run(const KernelParams& params)
      : first(blockIdx.y * params.part_blocks), count(min(params.part_blocks, params.blocks - first)) {}
};

template <class T>
CUTE_DEVICE void produce(const KernelParams& params, typename T::Shared& shared, Run run) {
  using CopyForBoth = SM90_TMA_LOAD_MULTICAST_3D;
  constexpr auto kHint = static_cast<uint64_t>(TMA::CacheHintSm90::EVICT_NORMAL);
  constexpr uint16_t kBoth = (1 << kCluster) - 1;
  const int rank = block_rank_in_cluster();
  Full::arrive_and_expect_tx(&shared.query_full, T::kQueryBytes);
  for (int chunk = 0; chunk < T::kDim / T::kRow; ++chunk) {
    SM90_TMA_LOAD_3D::copy(&params.query, &shared.query_full, kHint, shared.query.data() + chunk * kQueryTile * T::kRow,
                           chunk * T::kRow, blockIdx.x * kQueryTile, 0);
  }
  // A stage may be filled when the consumers of both blocks have left it, and is full when both halves are there.
  auto copy_key = [&](uint32_t index) {
    uint32_t stage = index % T::kStages, block = run.first + index;
    int segment = block / params.segment_blocks, row = block % params.segment_blocks * T::kKeyBlock;
    Empty::wait(&shared.key_empty[stage], (index / T::kStages & 1) ^ 1);
    Full::arrive_and_expect_tx(&shared.key_full[stage], T::kStageBytes);
    auto* target = shared.key.data() + stage * T::kKeyBlock * T::kDim + rank * T::kKeyBox * T::kRow;
    for (int chunk = 0; chunk < T::kDim / T::kRow; ++chunk) {
      CopyForBoth::copy(&params.key, &shared.key_full[stage], kBoth, kHint, target + chunk * T::kKeyBlock * T::kRow,
                        chunk * T::kRow, row + rank * T::kKeyBox, segment);
    }
  };
  auto copy_value = [&](uint32_t index) {
    uint32_t stage = index % T::kStages, block = run.first + index;
    int segment = block / params.segment_blocks, key = block % params.segment_blocks * T::kKeyBlock;
    Empty::wait(&shared.value_empty[stage], (index / T::kStages & 1) ^ 1);
    Full::arrive_and_expect_tx(&shared.value_full[stage], T::kStageBytes);
    auto* target = shared.value.data() + stage * T::kKeyBlock * T::kDim + rank * T::kValueBox * T::kRow;
    const int row = (T::kFp8 ? 0 : key) + rank * T::kValueBox;
    for (int chunk = 0; chunk < T::kValueChunks; ++chunk) {
      CopyForBoth::copy(&params.value, &shared.value_full[stage], kBoth, kHint,
                        target + chunk * T::kValueRows * T::kRow, T::kFp8 ? key + chunk * T::kRow : chunk * T::kRow,
                        row, segment);
    }
  };
  // K runs one block ahead of V, in the order in which the consumers free their stages. Not unrolled: the producer has
  // 24 registers.
  copy_key(0);
#pragma unroll 1
  for (uint32_t index = 1; index < run.count; ++index) {
    copy_key(index);
    copy_value(index - 1);
  }
  copy_value(run.count - 1);
}

// The thread's two rows, normalised: the result if there is one part, else the part's and its sum of exponentials.
template <class T, class Softmax, class Accumulator>
CUTE_DEVICE void write_result(const KernelParams& params, const Softmax& softmax, const Accumulator& acc,
                              const int (&rows)[2], const float (&bias)[2]) {
  constexpr float kLn2 = 0.6931471805599453f;
  const bool whole = gridDim.y == 1;
  const int lane = threadIdx.x % 32;
  const int64_t part = static_cast<int64_t>(blockIdx.y) * params.tokens;
  CUTLASS_PRAGMA_UNROLL
  for (int i = 0; i < 2; ++i) {
    const float total = softmax.row_total(i);
    const float norm = total == 0.f && !whole ? 0.f : 1.f / total;  // a part whose slots all have a bias of -inf
    if (rows[i] >= params.tokens) continue;
    const int64_t target = (part + rows[i]) * T::kDim;
    CUTLASS_PRAGMA_UNROLL
    for (int group = 0; group < T::kDim / 8; ++group) {
      const int column = group * 8 + lane % 4 * 2;
      float2 pair{acc(4 * group + 2 * i) * norm, acc(4 * group + 2 * i + 1) * norm};
      if constexpr (T::kFp8) {
        const float2 scale = *reinterpret_cast<const float2*>(params.value_scale + blockIdx.y * T::kDim + column);
        pair.x *= scale.x;
        pair.y *= scale.y;
      }
      if (whole) {
        auto* out = static_cast<__nv_bfloat16*>(params.out) + target + column;
        *reinterpret_cast<__nv_bfloat162*>(out) = __floats2bfloat162_rn(pair.x, pair.y);
      } else {
        *reinterpret_cast<float2*>(static_cast<float*>(params.out) + target + column) = pair;
      }
    }
    if (!whole && lane % 4 == 0) {
      const float rung = softmax.top[i] + log2f(total) - T::kProbabilityBits;
      params.lse[part + rows[i]] = (T::kFp8 ? rung + bias[i] : rung) * kLn2;
    }
  }
}

template <class T>
CUTE_DEVICE void consume(const KernelParams& params, typename T::Shared& shared, Run run) {
  const int thread = threadIdx.x - (kThreads - kConsumers), lane = threadIdx.x % 32, warp = thread / 32;
  Tensor smem_q = make_tensor(make_smem_ptr(shared.query.data()), typename T::LayoutQ{});
  Tensor smem_k = make_tensor(make_smem_ptr(shared.key.data()), typename T::LayoutK{});
  Tensor smem_v = make_tensor(make_smem_ptr(shared.value.data()), typename T::LayoutV{});
  typename T::MmaQK mma_qk;
  typename T::MmaPV mma_pv;
  auto thread_qk = mma_qk.get_thread_slice(thread);
  auto thread_pv = mma_pv.get_thread_slice(thread);
  Tensor query = thread_qk.partition_fragment_A(smem_q);
  Tensor key = thread_qk.partition_fragment_B(smem_k);
  Tensor value = thread_pv.partition_fragment_B(smem_v);
  Tensor scores = partition_fragment_C(mma_qk, Shape<Int<kQueryTile>, Int<T::kKeyBlock>>{});
  Tensor acc = partition_fragment_C(mma_pv, Shape<Int<kQueryTile>, Int<T::kDim>>{});
  Tensor probabilities =
      make_tensor<typename T::Element>(partition_shape_A(mma_pv, Shape<Int<kQueryTile>, Int<T::kKeyBlock>>{}));
  clear(acc);
  mma_pv.accumulate_ = GMMA::ScaleOut::One;

  const int first_row = blockIdx.x * kQueryTile + warp * 16 + lane / 4;
  const int rows[2] = {first_row, first_row + 8};
  float factor[2] = {params.scale_log2, params.scale_log2};
  if constexpr (T::kFp8) {
    for (int i = 0; i < 2; ++i) {
      if (rows[i] < params.tokens) factor[i] *= params.query_scale[rows[i]] * params.key_scale[blockIdx.y];
    }
  }
  Softmax<T::kKeyBlock> softmax;

  // Where the current block lies; carried along, since dividing costs registers that the products need. An fp8 part is
  // one segment, whose bias cancels in the softmax and only enters the part's weight, at the end.
  uint32_t block = run.first % params.segment_blocks;
  uint32_t bias_row = run.first / params.segment_blocks * params.tokens + rows[0];
  float bias[2] = {0.f, 0.f};
  auto load_bias = [&] {
    for (int i = 0; i < 2; ++i) {
      const bool known = params.bias != nullptr && rows[i] < params.tokens;
      bias[i] = known ? params.bias[bias_row + 8 * i] : 0.f;
    }
  };
  auto advance = [&] {
    ++block;
    if constexpr (!T::kFp8) {
      if (block == params.segment_blocks) {
        block = 0;
        bias_row += params.tokens;
      }
      load_bias();
    }
  };
  // The last block of a segment may reach beyond it. The scores there start from a number that no key can lift,
  // instead of zero, before the product is added: no masking between the products.
  auto start_scores = [&] {
    const int left = params.segment_tokens - static_cast<int>(block) * T::kKeyBlock;
    mma_qk.accumulate_ = GMMA::ScaleOut::Zero;
    if (left < T::kKeyBlock) {
      CUTLASS_PRAGMA_UNROLL
      for (int i = 0; i < size(scores); ++i) scores(i) = i / 4 * 8 + lane % 4 * 2 + i % 2 < left ? 0.f : -1e30f;
      mma_qk.accumulate_ = GMMA::ScaleOut::One;
    }
  };
  auto multiply_keys = [&](uint32_t index) {
    warpgroup_fence_operand(scores);
    warpgroup_arrive();
    CUTLASS_PRAGMA_UNROLL
    for (int k = 0; k < size<2>(query); ++k) {
      gemm(mma_qk, query(_, _, k), key(_, _, k, index % T::kStages), scores);
      mma_qk.accumulate_ = GMMA::ScaleOut::One;
    }
    warpgroup_commit_batch();
  };
  auto multiply_values = [&](uint32_t index) {
    warpgroup_fence_operand(acc);
    warpgroup_arrive();
    CUTLASS_PRAGMA_UNROLL
    for (int k = 0; k < size<2>(probabilities); ++k) {
      gemm(mma_pv, probabilities(_, _, k), value(_, _, k, index % T::kStages), acc);
    }
  };
  auto wait_full = [&](uint64_t* barriers, uint32_t index) {
    Full::wait(&barriers[index % T::kStages], index / T::kStages & 1);
  };
  auto wait_next_key = [&](uint32_t index) {
    if (index + 1 < run.count) wait_full(shared.key_full, index + 1);
  };
  auto release = [&](uint64_t* barriers, uint32_t index) {
    __syncwarp();
    if (lane < kCluster) Empty::arrive(&barriers[index % T::kStages], lane, 1);  // of both blocks
  };
  auto update = [&] {
    const bool weightless =
        softmax.update(scores, factor, bias, T::kProbabilityBits, params.skip_below, params.tokens - rows[0]);
    if constexpr (T::kSkip) return !all_of_warpgroup(weightless);
    return true;
  };
  auto count_skipped = [&] {
    const bool first = thread % 128 == 0 && rows[0] < params.tokens;  // a warpgroup without queries counts nothing
    if (params.skipped != nullptr && first) atomicAdd(params.skipped, 1ull);
  };
  auto rescale = [&] {
    // the maximum seldom moves after the first blocks
    if (__any_sync(0xffffffff, softmax.decay[0] != 1.f || softmax.decay[1] != 1.f)) {
      CUTLASS_PRAGMA_UNROLL
      for (int i = 0; i < size(acc); ++i) acc(i) *= softmax.decay[i / 2 % 2];
    }
  };

  Full::wait(&shared.query_full, 0);
  if constexpr (!T::kFp8) load_bias();
  wait_full(shared.key_full, 0);
  start_scores();
  multiply_keys(0);
  warpgroup_wait<0>();
  warpgroup_fence_operand(scores);
  release(shared.key_empty, 0);
  bool live = update();
  wait_next_key(0);
  convert<T>(scores, probabilities);

  for (uint32_t index = 1; index < run.count; ++index) {
    advance();
    start_scores();
    multiply_keys(index);
    wait_full(shared.value_full, index - 1);
    // without weight there is nothing to multiply, but a group to wait for all the same
    if (live)
      multiply_values(index - 1);
    else
      count_skipped();
    warpgroup_commit_batch();
    warpgroup_wait<1>();
    warpgroup_fence_operand(scores);
    release(shared.key_empty, index);
    live = update();
    // Waiting for the next keys here, not when they are needed, ends a basic block: without it the compiler moves the
    // softmax behind the wait for the product it is meant to run beside.
    warpgroup_fence_operand(scores);
    wait_next_key(index);
    warpgroup_wait<0>();
    warpgroup_fence_operand(acc);
    release(shared.value_empty, index - 1);
    rescale();
    convert<T>(scores, probabilities);
  }
  wait_full(shared.value_full, run.count - 1);
  if (live) {
    multiply_values(run.count - 1);
    warpgroup_commit_batch();
    warpgroup_wait<0>();
    warpgroup_fence_operand(acc);
  } else {
    count_skipped();
  }

  if constexpr (T::kFp8) load_bias();
  write_result<T>(params, softmax, acc, rows, bias);
}

template <class T>
__global__ void __cluster_dims__(kCluster) __launch_bounds__(kThreads, 1)
    attention_kernel(const __grid_constant__ KernelParams params) {
  extern __shared__ uint8_t raw[];
  const uint32_t base = cast_smem_ptr_to_uint(raw);
  auto& shared = *reinterpret_cast<typename T::Shared*>(raw + (-base & 1023));
  if (threadIdx.x == 0) {
    prefetch_tma_descriptor(reinterpret_cast<const TmaDescriptor*>(&params.query));
    prefetch_tma_descriptor(reinterpret_cast<const TmaDescriptor*>(&params.key));
    prefetch_tma_descriptor(reinterpret_cast<const TmaDescriptor*>(&params.value));
    Full::init(&shared.query_full, 1);
    for (int stage = 0; stage < T::kStages; ++stage) {
      Full::init(&shared.key_full[stage], 1);
      Full::init(&shared.value_full[stage], 1);
      Empty::init(&shared.key_empty[stage], kCluster * kConsumers / 32);  // every consumer warp of both blocks
      Empty::init(&shared.value_empty[stage], kCluster * kConsumers / 32);
    }
    cutlass::arch::fence_barrier_init();
  }
  cluster_sync();  // the other block signals barriers here
  if (threadIdx.x < kThreads - kConsumers) {
    cutlass::arch::warpgroup_reg_dealloc<24>();
    if (threadIdx.x == 0) produce<T>(params, shared, Run(params));
  } else {
    cutlass::arch::warpgroup_reg_alloc<240>();
    consume<T>(params, shared, Run(params));
  }
  __syncwarp();
  cluster_sync();  // nor may a block end while the other still signals or fills it
}

}  // namespace x2sam
