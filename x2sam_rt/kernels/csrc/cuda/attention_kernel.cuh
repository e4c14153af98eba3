// The attention kernel: one warpgroup copies, two or three compute. Each of these owns 64 queries and, while the
// tensor cores multiply the previous block's probabilities with V, works on the next block's softmax. Two thread blocks
// share their keys and values: each fetches half of every block of them, for both. A block alone would read 80 KB of
// level-2 cache for every 10.5 MFLOP, which at 700 TFLOP/s is about all that the cache can give. As many pairs as run
// at once take one tile of queries after the other: while the results of one leave, the first keys of the next arrive.
//
// Status: compiled without spills, overlap read in the disassembly, run by the tests' emulator; not yet run on a GPU.
#pragma once

#include <cutlass/arch/reg_reconfig.h>

#include <cute/arch/cluster_sm90.hpp>

#include "attention_copies.cuh"
#include "softmax.cuh"

namespace x2sam {

template <class T>
CUTE_DEVICE void consume(const KernelParams& params, typename T::Shared& shared) {
  const int thread = threadIdx.x - kWarpgroup, lane = threadIdx.x % 32;
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
  Tensor scores = partition_fragment_C(mma_qk, Shape<Int<T::kQueryTile>, Int<T::kKeyBlock>>{});
  Tensor acc = partition_fragment_C(mma_pv, Shape<Int<T::kQueryTile>, Int<T::kDim>>{});
  Tensor probabilities =
      make_tensor<typename T::Element>(partition_shape_A(mma_pv, Shape<Int<T::kQueryTile>, Int<T::kKeyBlock>>{}));
  mma_pv.accumulate_ = GMMA::ScaleOut::One;

  // Of the tile of queries under way. `block` is the key block's number in its segment; for fp8, where a part is one
  // segment, its number among all blocks. It is carried along, since dividing costs registers that the products need. A
  // bias of an fp8 part cancels in the softmax and only enters the part's weight, at the end.
  int rows[2];
  uint32_t block = 0, bias_row;
  float bias[2];
  Softmax<T::kKeyBlock> softmax;

  auto place_rows = [&](Work work) {
    const int consumer = thread_index() - kWarpgroup;
    rows[0] = work.tile(params) * T::kQueryTile + consumer / 32 * 16 + consumer % 32 / 4;
    rows[1] = rows[0] + 8;
    bias_row = work.first(params) / params.segment_blocks * params.tokens + rows[0];
  };
  auto load_bias = [&] {
    for (int i = 0; i < 2; ++i) bias[i] = params.bias != nullptr ? params.bias[bias_row + 8 * i] : 0.f;
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
  auto start_scores = [&](bool last) {
    int left = params.segment_tokens - static_cast<int>(block) * T::kKeyBlock;
    if constexpr (T::kFp8) {
      left = last ? params.segment_tokens - (params.segment_blocks - 1) * T::kKeyBlock : T::kKeyBlock;
    }
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
  auto release = [&](uint64_t* barriers, uint32_t index) {
    __syncwarp();
    if (lane < kCluster) Empty::arrive(&barriers[index % T::kStages], lane, 1);  // of both blocks
  };
  auto update = [&] {
    if constexpr (T::kFp8) {
      // Of the block's keys, and by how many powers of two its values were raised, which is taken off probabilities but
      // not off their sum. Asked for late: they would take registers, and the maximum does not need them.
      const __nv_bfloat162 scales = params.block_scales[block];
      // powers of two, so that their product is exact
      const __nv_bfloat162 of_rows = shared.row_scales[thread_index() - kWarpgroup];
      const float2 of_scores = __bfloat1622float2(__hmul2(of_rows, __low2bfloat162(scales)));
      const float factor[2] = {of_scores.x * params.scale_log2, of_scores.y * params.scale_log2};
      const float raised = __high2float(scales);
      softmax.update(scores, factor, bias, T::kProbabilityBits, raised, 0.f);
      return true;
    } else {
      const float factor[2] = {params.scale_log2, params.scale_log2};
      const bool weightless = softmax.update(scores, factor, bias, 0.f, 0.f, params.skip_below);
      return !T::kSkip || !all_of_warpgroup(weightless);
    }
  };
  auto count_skipped = [&] {
    const bool first = thread % kWarpgroup == 0 && softmax.has_query(0);  // one without queries counts nothing
    if (params.skipped != nullptr && first) atomicAdd(params.skipped, 1ull);
  };
  auto rescale = [&] {
    // the maximum seldom moves after the first blocks
    if (__any_sync(0xffffffff, softmax.decay[0] != 1.f || softmax.decay[1] != 1.f)) {
      CUTLASS_PRAGMA_UNROLL
      for (int i = 0; i < size(acc); ++i) acc(i) *= softmax.decay[i / 2 % 2];
    }
  };
  auto write_result = [&](uint32_t part) {
    constexpr float kLn2 = 0.6931471805599453f;
    const bool whole = !T::kFp8 && params.parts == 1;
    const int lane = thread_index() % 32;
    if constexpr (T::kFp8) load_bias();
    float norm[2];
    for (int i = 0; i < 2; ++i) {
      const float total = softmax.row_total(i);
      norm[i] = total == 0.f && !whole ? 0.f : 1.f / total;  // a part whose slots all have a bias of -inf
      if (whole || lane % 4 != 0 || rows[i] >= params.tokens) continue;
      const float rung = softmax.top[i] + log2f(total) - T::kProbabilityBits;
      params.lse[static_cast<int64_t>(part) * params.tokens + rows[i]] = (T::kFp8 ? rung + bias[i] : rung) * kLn2;
    }
    if (whole) {
      store_result<T>(params, shared, acc, rows[0] / kWarpgroupQueries * kWarpgroupQueries, norm);
    } else {
      store_partial<T>(params, acc, part, rows, norm);
    }
    __syncwarp();
    if (lane == 0) Empty::arrive(&shared.query_empty);
  };

  uint32_t index = 0;  // of the key block, over all tiles: it gives stage and phase
#pragma unroll 1
  for (Work work; work.left(params); work.advance()) {
    const uint32_t first = work.first(params), end = index + work.count(params);
    place_rows(work);
    block = T::kFp8 ? first : first % params.segment_blocks;
    bias[0] = bias[1] = 0.f;
    softmax.start(params.tokens - rows[0]);
    clear(acc);
    if constexpr (T::kFp8) {
      const int last = params.tokens - 1;  // a row beyond it may have any scale
      shared.row_scales[thread_index() - kWarpgroup] = {params.query_scale[min(rows[0], last)],
                                                        params.query_scale[min(rows[1], last)]};
    } else {
      load_bias();
    }
    Full::wait(&shared.query_full, work.round() & 1);
    wait_full(shared.key_full, index);
    start_scores(index + 1 == end);
    multiply_keys(index);
    warpgroup_wait<0>();
    warpgroup_fence_operand(scores);
    release(shared.key_empty, index);
    bool live = update();
    if (index + 1 < end) wait_full(shared.key_full, index + 1);
    convert<T>(scores, probabilities);
#pragma unroll 1
    while (++index < end) {
      advance();
      start_scores(index + 1 == end);
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
      // Waiting for the next keys here, not when they are needed, ends a basic block, and the vote, which is always the
      // same, needs all exponentials: without them the compiler moves the softmax behind the wait for the product it is
      // meant to run beside.
      warpgroup_fence_operand(scores);
      const bool summed = !__any_sync(0xffffffff, softmax.total[0] + softmax.total[1] < 0.f);
      if (index + 1 < end && summed) wait_full(shared.key_full, index + 1);
      warpgroup_wait<0>();
      warpgroup_fence_operand(acc);
      release(shared.value_empty, index - 1);
      rescale();
      convert<T>(scores, probabilities);
    }
    wait_full(shared.value_full, index - 1);
    if (live) {
      multiply_values(index - 1);
      warpgroup_commit_batch();
      warpgroup_wait<0>();
      warpgroup_fence_operand(acc);
    } else {
      count_skipped();
    }
    release(shared.value_empty, index - 1);
    work.pair = *static_cast<volatile uint32_t*>(&shared.pair);
    place_rows(work);
    write_result(work.part(params));
  }
}

template <class T>
__global__ void __cluster_dims__(kCluster) __launch_bounds__(T::kThreads, 1)
    attention_kernel(const __grid_constant__ KernelParams params) {
  extern __shared__ uint8_t raw[];
  const uint32_t base = cast_smem_ptr_to_uint(raw);
  auto& shared = *reinterpret_cast<typename T::Shared*>(raw + (-base & 1023));
  if (threadIdx.x == 0) {
    prefetch_tma_descriptor(reinterpret_cast<const TmaDescriptor*>(&params.query));
    prefetch_tma_descriptor(reinterpret_cast<const TmaDescriptor*>(&params.key));
    prefetch_tma_descriptor(reinterpret_cast<const TmaDescriptor*>(&params.value));
    constexpr int kWarps = T::kConsumers / 32;
    Full::init(&shared.query_full, 1);
    Empty::init(&shared.query_empty, kWarps);
    for (int stage = 0; stage < T::kStages; ++stage) {
      Full::init(&shared.key_full[stage], 1);
      Full::init(&shared.value_full[stage], 1);
      Empty::init(&shared.key_empty[stage], kCluster * kWarps);  // every consumer warp of both blocks
      Empty::init(&shared.value_empty[stage], kCluster * kWarps);
    }
    cutlass::arch::fence_barrier_init();
  }
  cluster_sync();  // the other block signals barriers here
  if (threadIdx.x < kWarpgroup) {
    cutlass::arch::warpgroup_reg_dealloc<T::kCopierRegisters>();
    if (threadIdx.x == 0) produce<T>(params, shared);
  } else {
    cutlass::arch::warpgroup_reg_alloc<T::kConsumerRegisters>();
    consume<T>(params, shared);
  }
  __syncwarp();
  cluster_sync();  // nor may a block end while the other still signals or fills it
}

}  // namespace x2sam
