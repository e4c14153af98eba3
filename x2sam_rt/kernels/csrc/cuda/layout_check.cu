// Runs on the CPU: where the copy engine puts an element must be where the tensor cores look for it, and the order of a
// thread's scores must be the one that the softmax and the conversion to probabilities assume. Prints what differs, the
// sizes that other files rely on, and "ok".
#include <cstdio>

#include "attention.h"
#include "attention_traits.cuh"

using namespace x2sam;

namespace {

int failures = 0;

void expect(const char* what, int kind, int i, int j, int found, int wanted) {
  if (found != wanted && ++failures < 20) std::printf("%s %d (%d, %d): %d, not %d\n", what, kind, i, j, found, wanted);
}

// Element offset of (row, byte column) in chunks of [rows][128 bytes], swizzled in groups of 8 rows.
int copied(int row, int column, int rows, int element_bytes) {
  const int byte = column * element_bytes;
  const int plain = byte / 128 * rows * 128 + row * 128 + byte % 128;
  return (plain ^ (plain >> 7 & 7) << 4) / element_bytes;
}

template <class T>
void check_shared_memory() {
  constexpr int kBytes = sizeof(typename T::Element);
  auto query = as_position_independent_swizzle_layout(typename T::LayoutQ{});
  auto key = as_position_independent_swizzle_layout(typename T::LayoutK{});
  auto value = as_position_independent_swizzle_layout(typename T::LayoutV{});
  for (int channel = 0; channel < T::kDim; ++channel) {
    for (int row = 0; row < T::kQueryTile; ++row) {
      expect("query", T::kDim, row, channel, query(row, channel), copied(row, channel, T::kQueryTile, kBytes));
    }
    for (int row = 0; row < T::kKeyBlock; ++row) {
      const int stage = T::kKeyBlock * T::kDim;
      expect("key", T::kDim, row, channel, key(row, channel, 1), stage + copied(row, channel, T::kKeyBlock, kBytes));
      expect("value", T::kDim, row, channel, value(channel, row, 1),
             stage + (T::kFp8 ? copied(channel, row, T::kDim, kBytes) : copied(row, channel, T::kKeyBlock, kBytes)));
    }
  }
}

template <class T, class Mma>
void check_accumulator(const char* what, int columns_of_tile, Mma mma, int thread) {
  Tensor tile = make_identity_tensor(make_shape(Int<T::kQueryTile>{}, columns_of_tile));
  Tensor mine = mma.get_thread_slice(thread).partition_C(tile);
  const int first_row = thread / 32 * 16 + thread % 32 / 4;
  for (int i = 0; i < size(mine); ++i) {
    expect(what, thread, i, 0, get<0>(mine(i)), first_row + i / 2 % 2 * 8);
    expect(what, thread, i, 1, get<1>(mine(i)), i / 4 * 8 + thread % 4 * 2 + i % 2);
  }
}

// The key that position p of a factor of P·V stands for: its own in bfloat16, a permuted one in fp8 (as in fp8.py).
int key_at(int position, bool is_fp8) {
  const int offset = position % 16;
  return is_fp8 ? position - offset + offset / 2 % 2 * 8 + offset / 4 * 2 + offset % 2 : position;
}

template <class T>
void check_probabilities(int thread) {
  typename T::MmaPV mma;
  Tensor tile = make_identity_tensor(Shape<Int<T::kQueryTile>, Int<T::kKeyBlock>>{});
  Tensor mine = mma.get_thread_slice(thread).partition_A(tile);
  Tensor scores = typename T::MmaQK{}.get_thread_slice(thread).partition_C(tile);
  for (int i = 0; i < size(mine); ++i) {
    const int word = i / 4, row = word % 2, first = 4 * (word / 4 * 4 + word / 2 % 2 * 2) + 2 * row;
    const int source = T::kFp8 ? first + i % 4 / 2 * 4 + i % 2 : i;
    expect("probability's row", thread, i, 0, get<0>(mine(i)), get<0>(scores(source)));
    expect("probability's key", thread, i, 1, key_at(get<1>(mine(i)), T::kFp8), get<1>(scores(source)));
  }
}

template <class T>
void check() {
  check_shared_memory<T>();
  std::printf("shared %s%d %d\n", T::kFp8 ? "fp8_" : "bf16_", T::kDim, T::kSharedBytes);
  for (int thread = 0; thread < T::kConsumers; ++thread) {
    check_accumulator<T>("score", T::kKeyBlock, typename T::MmaQK{}, thread);
    check_accumulator<T>("result", T::kDim, typename T::MmaPV{}, thread);
    check_probabilities<T>(thread);
  }
}

}  // namespace

int main() {
  check<Traits<bf16, 64, false>>();
  check<Traits<bf16, 128, false>>();
  check<Traits<bf16, 256, false>>();
  check<Traits<fp8, 128, false>>();
  check<Traits<fp8, 256, false>>();
  std::printf("call %zu\n", sizeof(X2SamAttention));
  if (failures == 0) std::printf("ok\n");
  return failures == 0 ? 0 : 1;
}
