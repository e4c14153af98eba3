// The C interface that Python loads with ctypes, and the choice of instruction set.

#include <cstdlib>
#include <cstring>

#include "kernels.h"

#define X2SAM_EXPORT extern "C" __attribute__((visibility("default")))

namespace x2sam {

namespace baseline {
extern const Kernels table;
}
#ifdef X2SAM_HAS_AVX2
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
#endif
#ifdef X2SAM_HAS_AVX512BF16
namespace avx512bf16 {
bool attention_bf16(const AttentionBf16Args&, const Threads&);
}
#endif

namespace {

// X2SAM_CPU_ISA=baseline|avx2|avx512 asks for a lesser set than the processor has (to compare, or to rule one out);
// any of them rules out the bfloat16 instructions.
const Kernels& best_table() {
#ifdef X2SAM_HAS_AVX2
  const char* wish = std::getenv("X2SAM_CPU_ISA");
  const bool any = !wish || std::strcmp(wish, "avx512") == 0;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (any && wide && fma) return avx512::table;
  if ((any || std::strcmp(wish, "avx2") == 0) && fma) return avx2::table;
#endif
  return baseline::table;
}

AttentionBf16 best_attention_bf16() {
#ifdef X2SAM_HAS_AVX512BF16
  const bool wide = std::strcmp(kernels().isa, "avx512") == 0;
  if (wide && !std::getenv("X2SAM_CPU_ISA") && __builtin_cpu_supports("avx512bf16")) return avx512bf16::attention_bf16;
#endif
  return nullptr;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = best_table();
  return chosen;
}

AttentionBf16 attention_bf16() {
  static const AttentionBf16 chosen = best_attention_bf16();
  return chosen;
}

}  // namespace x2sam

using x2sam::attention_bf16;
using x2sam::kernels;
using x2sam::own_threads;

X2SAM_EXPORT const char* x2sam_isa() { return kernels().isa; }

X2SAM_EXPORT int x2sam_has_bf16() { return attention_bf16() != nullptr; }

// Each returns 0, or 1 when there was no memory for the work space.

X2SAM_EXPORT int x2sam_attention(const x2sam::AttentionArgs* args, size_t threads) {
  return kernels().attention(*args, own_threads(threads)) ? 0 : 1;
}

// Only where x2sam_has_bf16.
X2SAM_EXPORT int x2sam_attention_bf16(const x2sam::AttentionBf16Args* args, size_t threads) {
  return attention_bf16()(*args, own_threads(threads)) ? 0 : 1;
}

X2SAM_EXPORT int x2sam_deformable(const x2sam::DeformableArgs* args, size_t threads) {
  return kernels().deformable(*args, own_threads(threads)) ? 0 : 1;
}

X2SAM_EXPORT int x2sam_deformable_grad(const x2sam::DeformableGradArgs* args, size_t threads) {
  return kernels().deformable_grad(*args, own_threads(threads)) ? 0 : 1;
}

X2SAM_EXPORT int x2sam_mask_fusion(const x2sam::MaskFusionArgs* args, size_t threads) {
  return kernels().mask_fusion(*args, own_threads(threads)) ? 0 : 1;
}

X2SAM_EXPORT int x2sam_attention_mask(const x2sam::AttentionMaskArgs* args, size_t threads) {
  return kernels().attention_mask(*args, own_threads(threads)) ? 0 : 1;
}
