// The product of 64 queries with 80 keys over 16 channels. CuTe has it too, but only in a header of all the shapes that
// no one else uses, which alone takes longer to compile than everything here.
#pragma once

#include <cutlass/numeric_types.h>

#include <cute/arch/mma_sm90.hpp>
#include <cute/atom/mma_traits_sm90_gmma.hpp>

namespace x2sam {

struct Product64x80x16 {
  using DRegisters = void;
  using ARegisters = uint64_t[1];
  using BRegisters = uint64_t[1];
  using CRegisters = float[40];

  // a, b: descriptors of the factors in shared memory. The scores are added to unless scale is zero.
  CUTE_DEVICE static void fma(uint64_t const& a, uint64_t const& b, float& c0, float& c1, float& c2, float& c3,
                              float& c4, float& c5, float& c6, float& c7, float& c8, float& c9, float& c10, float& c11,
                              float& c12, float& c13, float& c14, float& c15, float& c16, float& c17, float& c18,
                              float& c19, float& c20, float& c21, float& c22, float& c23, float& c24, float& c25,
                              float& c26, float& c27, float& c28, float& c29, float& c30, float& c31, float& c32,
                              float& c33, float& c34, float& c35, float& c36, float& c37, float& c38, float& c39,
                              cute::SM90::GMMA::ScaleOut const scale = cute::SM90::GMMA::ScaleOut::One) {
#if defined(CUTE_ARCH_MMA_SM90A_ENABLED)
    asm volatile(
        "{\n .reg .pred p;\n setp.ne.b32 p, %42, 0;\n"
        " wgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16"
        " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, "
        "%23,"
        " %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39},"
        " %40, %41, p, 1, 1, 0, 0;\n}\n"
        : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3), "+f"(c4), "+f"(c5), "+f"(c6), "+f"(c7), "+f"(c8), "+f"(c9), "+f"(c10),
          "+f"(c11), "+f"(c12), "+f"(c13), "+f"(c14), "+f"(c15), "+f"(c16), "+f"(c17), "+f"(c18), "+f"(c19), "+f"(c20),
          "+f"(c21), "+f"(c22), "+f"(c23), "+f"(c24), "+f"(c25), "+f"(c26), "+f"(c27), "+f"(c28), "+f"(c29), "+f"(c30),
          "+f"(c31), "+f"(c32), "+f"(c33), "+f"(c34), "+f"(c35), "+f"(c36), "+f"(c37), "+f"(c38), "+f"(c39)
        : "l"(a), "l"(b), "r"(static_cast<int32_t>(scale)));
#endif
  }
};

}  // namespace x2sam

namespace cute {

template <>
struct MMA_Traits<x2sam::Product64x80x16> {
  using ValTypeD = float;
  using ValTypeA = cutlass::bfloat16_t;
  using ValTypeB = cutlass::bfloat16_t;
  using ValTypeC = float;
  using FrgTypeA = SM90::GMMA::smem_desc<SM90::GMMA::Major::K>;
  using FrgTypeB = SM90::GMMA::smem_desc<SM90::GMMA::Major::K>;
  using Shape_MNK = Shape<_64, Int<80>, _16>;
  using ThrID = Layout<_128>;
  using ALayout = SM90::GMMA::ABLayout<64, 16>;
  using BLayout = SM90::GMMA::ABLayout<80, 16>;
  using CLayout = SM90::GMMA::CLayout_64xN<80>;
  SM90::GMMA::ScaleOut accumulate_ = SM90::GMMA::ScaleOut::One;
};

}  // namespace cute
