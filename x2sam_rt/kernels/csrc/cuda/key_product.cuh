// The product of 64 queries with 80 or 176 keys over 16 channels. CuTe has them too, but only in a header of all the
// shapes that no one else uses, which alone takes longer to compile than everything here.
#pragma once

#include <cutlass/numeric_types.h>

#include <cute/arch/mma_sm90.hpp>
#include <cute/atom/mma_traits_sm90_gmma.hpp>

namespace x2sam {

template <int kKeys>
struct KeyProduct {
  using DRegisters = void;
  using ARegisters = uint64_t[1];
  using BRegisters = uint64_t[1];
  using CRegisters = float[kKeys / 2];
};

// Ten registers: in the instruction's text, and as its operands.
#define X2SAM_TEXT(t) \
  "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9"
#define X2SAM_SCORES(t)                                                                                    \
  "+f"(c[t##0]), "+f"(c[t##1]), "+f"(c[t##2]), "+f"(c[t##3]), "+f"(c[t##4]), "+f"(c[t##5]), "+f"(c[t##6]), \
      "+f"(c[t##7]), "+f"(c[t##8]), "+f"(c[t##9])

// a, b: descriptors of the factors in shared memory. The scores c are added to unless scale is zero.
CUTE_DEVICE void multiply(KeyProduct<80>, uint64_t a, uint64_t b, float* c, int32_t scale) {
#if defined(CUTE_ARCH_MMA_SM90A_ENABLED)
  asm volatile(
      "{\n .reg .pred p;\n setp.ne.b32 p, %42, 0;\n"
      " wgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16 {" X2SAM_TEXT() ", " X2SAM_TEXT(1) ", " X2SAM_TEXT(
          2) ", " X2SAM_TEXT(3) "}, %40, %41, p, 1, 1, 0, 0;\n}\n"
      : X2SAM_SCORES(), X2SAM_SCORES(1), X2SAM_SCORES(2), X2SAM_SCORES(3)
      : "l"(a), "l"(b), "r"(scale));
#endif
}

CUTE_DEVICE void multiply(KeyProduct<176>, uint64_t a, uint64_t b, float* c, int32_t scale) {
#if defined(CUTE_ARCH_MMA_SM90A_ENABLED)
  asm volatile(
      "{\n .reg .pred p;\n setp.ne.b32 p, %90, 0;\n"
      " wgmma.mma_async.sync.aligned.m64n176k16.f32.bf16.bf16 {" X2SAM_TEXT() ", " X2SAM_TEXT(1) ", " X2SAM_TEXT(2)
      ", " X2SAM_TEXT(3) ", " X2SAM_TEXT(4) ", " X2SAM_TEXT(5) ", " X2SAM_TEXT(6) ", " X2SAM_TEXT(7)
      ", %80, %81, %82, %83, %84, %85, %86, %87}, %88, %89, p, 1, 1, 0, 0;\n}\n"
      : X2SAM_SCORES(), X2SAM_SCORES(1), X2SAM_SCORES(2), X2SAM_SCORES(3), X2SAM_SCORES(4), X2SAM_SCORES(5),
        X2SAM_SCORES(6), X2SAM_SCORES(7), "+f"(c[80]), "+f"(c[81]), "+f"(c[82]), "+f"(c[83]), "+f"(c[84]),
        "+f"(c[85]), "+f"(c[86]), "+f"(c[87])
      : "l"(a), "l"(b), "r"(scale));
#endif
}

#undef X2SAM_TEXT
#undef X2SAM_SCORES

}  // namespace x2sam

namespace cute {

template <int kKeys>
struct MMA_Traits<x2sam::KeyProduct<kKeys>> {
  using ValTypeD = float;
  using ValTypeA = cutlass::bfloat16_t;
  using ValTypeB = cutlass::bfloat16_t;
  using ValTypeC = float;
  using FrgTypeA = SM90::GMMA::smem_desc<SM90::GMMA::Major::K>;
  using FrgTypeB = SM90::GMMA::smem_desc<SM90::GMMA::Major::K>;
  using Shape_MNK = Shape<_64, Int<kKeys>, _16>;
  using ThrID = Layout<_128>;
  using ALayout = SM90::GMMA::ABLayout<64, 16>;
  using BLayout = SM90::GMMA::ABLayout<kKeys, 16>;
  using CLayout = SM90::GMMA::CLayout_64xN<kKeys>;
  SM90::GMMA::ScaleOut accumulate_ = SM90::GMMA::ScaleOut::One;

  // Called for each instruction in place of CuTe's own, which hands every register over as an argument.
  template <class TD, class LayoutD, class TA, class LayoutA, class TB, class LayoutB, class TC, class LayoutC>
  CUTE_HOST_DEVICE friend constexpr void mma_unpack(MMA_Traits const& traits, Tensor<TD, LayoutD>& scores,
                                                    Tensor<TA, LayoutA> const& query, Tensor<TB, LayoutB> const& key,
                                                    Tensor<TC, LayoutC> const&) {
    static_assert(cosize_v<LayoutD> == kKeys / 2, "a thread's scores lie one behind the other");
    x2sam::multiply(x2sam::KeyProduct<kKeys>{}, recast<uint64_t>(query)(0), recast<uint64_t>(key)(0), &scores(0),
                    static_cast<int32_t>(traits.accumulate_));
  }
};

}  // namespace cute
