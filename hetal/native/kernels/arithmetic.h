// Residue arithmetic, one source for g++, nvcc and NVRTC: no includes.
//
// Two policies. "Narrow" moduli (below 2^50) hold residues as centred integers in doubles and multiply with error-free
// FMA products; every operation below is exact, so that all instruction sets and GPUs give the same bits. "Wide" moduli
// (below 2^60) hold residues as integers in [0, p) and multiply with Shoup's precomputed quotients.
//
// Narrow bounds, p < 2^50: a product x*w with |x| <= B*p and |w| <= p/2 leaves |r| <= (1/2 + e*B)*p, where
// e = 3*p/2^54 bounds the rounding of the quotient: 0.19 for 50-bit moduli, 0.10 for 49-bit ones. All intermediate
// integers stay below 2^53.
#pragma once

#ifdef __CUDACC__
#define HETAL_HD __device__ __forceinline__
#define HETAL_UNROLL _Pragma("unroll")
#else
#define HETAL_HD inline __attribute__((always_inline))
#define HETAL_UNROLL _Pragma("GCC unroll 16")
#endif

namespace hetal {

typedef unsigned long long u64;
typedef long long i64;
typedef unsigned int u32;

// A word of a limb, where it is an integer: limbs are arrays of doubles to the compiler.
#ifdef __CUDACC__
typedef u64 Word;
#else
typedef u64 __attribute__((may_alias)) Word;
#endif

// -- vectors: a double on a GPU thread, GCC vectors on a CPU -----------------------------------------------------------

template <class V>
struct Lanes {
  static constexpr int count = 1;
};

#ifdef __CUDACC__
HETAL_HD double fma_(double a, double b, double c) { return __fma_rn(a, b, c); }
#else
HETAL_HD double fma_(double a, double b, double c) { return __builtin_fma(a, b, c); }
#endif

// round(a * b), where the product itself is of no interest.
template <class V>
HETAL_HD V round_product(V a, V b);

#if defined(__CUDACC__) || defined(HETAL_GPU_FORM)
// A GPU rounds to integers at a fraction of the speed at which it adds. For magnitudes below 2^51.
constexpr double ROUNDER = 6755399441055744.0;
HETAL_HD double round_(double a) { return (a + ROUNDER) - ROUNDER; }
template <>
HETAL_HD double round_product<double>(double a, double b) {
  return fma_(a, b, ROUNDER) - ROUNDER;
}
#else
HETAL_HD double round_(double a) { return __builtin_rint(a); }
#endif

#ifndef __CUDACC__
#if defined(__AVX512F__)
typedef double v8 __attribute__((vector_size(64)));
template <>
struct Lanes<v8> {
  static constexpr int count = 8;
};
HETAL_HD v8 fma_(v8 a, v8 b, v8 c) { return __builtin_ia32_vfmaddpd512_mask(a, b, c, (unsigned char)-1, 4); }
HETAL_HD v8 round_(v8 a) { return __builtin_ia32_rndscalepd_mask(a, 8, a, (unsigned char)-1, 4); }
typedef v8 Vector;
#elif defined(__AVX2__) && defined(__FMA__)
typedef double v4 __attribute__((vector_size(32)));
template <>
struct Lanes<v4> {
  static constexpr int count = 4;
};
HETAL_HD v4 fma_(v4 a, v4 b, v4 c) { return __builtin_ia32_vfmaddpd256(a, b, c); }
HETAL_HD v4 round_(v4 a) { return __builtin_ia32_roundpd256(a, 8); }
typedef v4 Vector;
#else
// Correct everywhere; fast nowhere.
typedef double v2 __attribute__((vector_size(16)));
template <>
struct Lanes<v2> {
  static constexpr int count = 2;
};
HETAL_HD v2 fma_(v2 a, v2 b, v2 c) { return v2{fma_(a[0], b[0], c[0]), fma_(a[1], b[1], c[1])}; }
HETAL_HD v2 round_(v2 a) { return v2{round_(a[0]), round_(a[1])}; }
typedef v2 Vector;
#endif
#endif

template <class V>
HETAL_HD V round_product(V a, V b) {
  return round_(a * b);
}

// (x - 0 is x for every x; the compiler leaves it out, as it could not with x + 0.)
template <class V>
HETAL_HD V splat(double value) {
  return value - V{};
}
template <>
HETAL_HD double splat<double>(double value) {
  return value;
}
template <class V>
HETAL_HD V load(const double *from) {
  return *reinterpret_cast<const V *>(from);
}
template <class V>
HETAL_HD void store(double *to, V value) {
  *reinterpret_cast<V *>(to) = value;
}

// -- narrow moduli -----------------------------------------------------------------------------------------------------

// A modulus below 2^50 in every lane.
template <class V>
struct Narrow {
  V p, inverse;

  HETAL_HD Narrow(double modulus, double reciprocal) : p(splat<V>(modulus)), inverse(splat<V>(reciprocal)) {}

  // A representative with |r| <= p/2, but for the last bit of the quotient; |x| < 2^53.
  HETAL_HD V reduce(V x) const { return fma_(-round_product(x, inverse), p, x); }

  // x * w mod p; quotient = w / p rounded to a double.
  HETAL_HD V multiply(V x, V w, V quotient) const {
    V high = x * w;
    V low = fma_(x, w, -high);
    return fma_(-round_product(x, quotient), p, high) + low;
  }

  HETAL_HD V multiply(V x, V w) const {
    V high = x * w;
    V low = fma_(x, w, -high);
    return fma_(-round_product(high, inverse), p, high) + low;
  }
};

// An exact sum of products. `high` starts at 1.5 * 2^k, with 2^k twice the largest sum: all partial sums then have one
// ulp, additions to `high` lose nothing that `low` does not get, and |low| stays below 2^53.
template <class V>
struct Accumulator {
  V high, low;

  HETAL_HD void start(V seed) {
    high = seed;
    low = V{};
  }

  HETAL_HD void add(V x, V w) {
    V sum = fma_(x, w, high);
    V difference = sum - high;
    low += fma_(x, w, -difference);
    high = sum;
  }

  // Congruent to the sum, below p/2 + |low|.
  HETAL_HD V rough(const Narrow<V> &m, V seed) const {
    V sum = high - seed;
    return fma_(-round_product(sum, m.inverse), m.p, sum) + low;
  }

  HETAL_HD V result(const Narrow<V> &m, V seed) const { return m.reduce(rough(m, seed)); }
};

// How many products of centred factors one accumulator takes, by the sum of both factors' bits, and its seed for
// 2^log2_terms of them. With that seed |low| <= 2^(bits - 54 + 2*log2_terms).
HETAL_HD int accumulator_log2_terms(int bits) { return bits <= 98 ? 4 : 3; }
HETAL_HD double accumulator_seed(int bits, int log2_terms) {
#ifdef __CUDACC__
  return __longlong_as_double(((i64)(1023 + bits - 1 + log2_terms) << 52) | (1LL << 51));
#else
  double seed = 1.5;
  for (int k = bits - 1 + log2_terms; k > 0; --k) seed *= 2.0;
  return seed;
#endif
}

// -- wide moduli -------------------------------------------------------------------------------------------------------

HETAL_HD u64 high_product(u64 a, u64 b) {
#ifdef __CUDACC__
  return __umul64hi(a, b);
#else
  return (u64)(((unsigned __int128)a * b) >> 64);
#endif
}

// A modulus below 2^60. `one` = floor(2^64 / p); `word` = 2^64 mod p with its Shoup quotient.
struct Wide {
  u64 p, one, word, word_quotient;

  // In [0, 2p), for any x; quotient = floor(w * 2^64 / p), w < p.
  HETAL_HD u64 multiply_lazy(u64 x, u64 w, u64 quotient) const { return x * w - high_product(x, quotient) * p; }
  HETAL_HD u64 once(u64 x) const { return x >= p ? x - p : x; }
  HETAL_HD u64 multiply(u64 x, u64 w, u64 quotient) const { return once(multiply_lazy(x, w, quotient)); }
  HETAL_HD u64 reduce(u64 x) const { return once(x - high_product(x, one) * p); }
  // high * 2^64 + low mod p.
  HETAL_HD u64 reduce(u64 high, u64 low) const {
    return once(multiply(high, word, word_quotient) + reduce(low));
  }
  HETAL_HD u64 multiply(u64 a, u64 b) const { return reduce(high_product(a, b), a * b); }
  HETAL_HD u64 add(u64 a, u64 b) const { return once(a + b); }
  HETAL_HD u64 subtract(u64 a, u64 b) const { return a >= b ? a - b : a + p - b; }
};

}  // namespace hetal
