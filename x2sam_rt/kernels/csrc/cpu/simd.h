// Vectors of floats, as wide as the instruction set this file is compiled for.
//
// The kernels are compiled once per instruction set, each time into another namespace (X2SAM_ISA). They use no
// function of the standard library: an inline one compiled for AVX-512 could be the copy the linker keeps for all.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__AVX512F__)
#define X2SAM_LANES 16
#elif defined(__AVX2__)
#define X2SAM_LANES 8
#else
#define X2SAM_LANES 4
#endif

// Before a loop whose iterations share no memory: the compiler need not prove it.
#if defined(__clang__)
#define X2SAM_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define X2SAM_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace x2sam::X2SAM_ISA {

constexpr int kLanes = X2SAM_LANES;

// Vectors per row and rows of a register tile: as many accumulators as the register file holds.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileVectors = 4;  // of 32 registers
#else
constexpr int kTileVectors = 2;  // of 16 registers
#endif
constexpr int kTileRows = 6;
constexpr int64_t kPanel = kTileVectors * kLanes;  // columns that one register tile spans

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef float UnalignedFloats __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

static inline Floats load(const float* p) { return *reinterpret_cast<const UnalignedFloats*>(p); }
static inline void store(float* p, Floats v) { *reinterpret_cast<UnalignedFloats*>(p) = v; }
static inline Floats broadcast(float x) { return Floats{} + x; }
// Where one is NaN: the second.
static inline Floats maximum(Floats a, Floats b) { return a > b ? a : b; }
static inline Floats minimum(Floats a, Floats b) { return a < b ? a : b; }
template <class T>
static inline T smaller(T a, T b) {
  return a < b ? a : b;
}
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr float kLog2e = 1.44269504f;
constexpr float kLargest = 3.402823466e38f;

// 2^x with a relative error below 1e-7. Below 2^-126 the result stays at 2^-126, above 2^127 at 2^127; NaN stays NaN.
static inline Floats exp2(Floats x) {
  x = minimum(broadcast(127.0f), maximum(broadcast(-126.0f), x));
  // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits of the sum.
  const Floats shifted = x + 12582912.0f;
  const Floats fraction = x - (shifted - 12582912.0f);
  // Chebyshev fit of 2^fraction on [-1/2, 1/2], relative error 2e-8.
  Floats p = broadcast(1.533757684e-4f);
  p = p * fraction + 1.339986036e-3f;
  p = p * fraction + 9.618519534e-3f;
  p = p * fraction + 5.550328998e-2f;
  p = p * fraction + 2.402264661e-1f;
  p = p * fraction + 6.931472056e-1f;
  p = p * fraction + 1.0f;
  const Ints exponent = reinterpret_cast<Ints>(shifted) << 23;
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(p) + exponent);
}

// e^x with a relative error below 2e-7 where exp2(x * log2(e)) would have one of |x| roundings; same limits as exp2.
static inline Floats exp(Floats x) {
  x = minimum(broadcast(88.0f), maximum(broadcast(-87.3f), x));
  const Floats shifted = x * kLog2e + 12582912.0f;
  const Floats whole = shifted - 12582912.0f;
  // ln 2 in two parts, the first with so few bits that its product with `whole` is exact.
  const Floats rest = (x - whole * 0.693145751953125f) - whole * 1.428606820e-6f;
  // Chebyshev fit of e^rest on [-ln 2 / 2, ln 2 / 2] with the first two terms held, relative error 4e-9.
  Floats p = broadcast(1.375138214e-3f);
  p = p * rest + 8.368923427e-3f;
  p = p * rest + 4.166953422e-2f;
  p = p * rest + 1.666651840e-1f;
  p = p * rest + 4.999998859e-1f;
  p = p * rest + 1.0f;
  p = p * rest + 1.0f;
  const Ints exponent = reinterpret_cast<Ints>(shifted) << 23;
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(p) + exponent);
}

}  // namespace x2sam::X2SAM_ISA
