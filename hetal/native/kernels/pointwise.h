// Operations on one limb, word by word.
#pragma once

#include "limb.h"

namespace hetal {

#ifndef __CUDACC__

template <class V>
HETAL_HD void add(const Limb &m, double *out, const double *a, const double *b, long n) {
  if (m.wide) {
    for (long i = 0; i < n; ++i) words(out)[i] = m.integer.add(words(a)[i], words(b)[i]);
    return;
  }
  const Narrow<V> f(m.p, m.inverse);
  for (long i = 0; i < n; i += Lanes<V>::count) store(out + i, f.reduce(load<V>(a + i) + load<V>(b + i)));
}

template <class V>
HETAL_HD void subtract(const Limb &m, double *out, const double *a, const double *b, long n) {
  if (m.wide) {
    for (long i = 0; i < n; ++i) words(out)[i] = m.integer.subtract(words(a)[i], words(b)[i]);
    return;
  }
  const Narrow<V> f(m.p, m.inverse);
  for (long i = 0; i < n; i += Lanes<V>::count) store(out + i, f.reduce(load<V>(a + i) - load<V>(b + i)));
}

template <class V>
HETAL_HD void negate(const Limb &m, double *out, const double *a, long n) {
  if (m.wide) {
    for (long i = 0; i < n; ++i) words(out)[i] = m.integer.subtract(0, words(a)[i]);
    return;
  }
  for (long i = 0; i < n; i += Lanes<V>::count) store(out + i, -load<V>(a + i));
}

// b has one word for every 2^log2_run words of a.
template <class V>
HETAL_HD void multiply(const Limb &m, double *out, const double *a, const double *b, int log2_run, long n) {
  if (m.wide) {
    for (long i = 0; i < n; ++i) words(out)[i] = m.integer.multiply(words(a)[i], words(b)[i >> log2_run]);
    return;
  }
  constexpr int W = Lanes<V>::count;
  const Narrow<V> f(m.p, m.inverse);
  if (log2_run == 0)
    for (long i = 0; i < n; i += W) store(out + i, f.reduce(f.multiply(load<V>(a + i), load<V>(b + i))));
  else if ((1 << log2_run) >= W)
    for (long i = 0; i < n; i += W)
      store(out + i, f.reduce(f.multiply(load<V>(a + i), splat<V>(b[i >> log2_run]))));
  else {
    const Narrow<double> g(m.p, m.inverse);
    for (long i = 0; i < n; ++i) out[i] = g.reduce(g.multiply(a[i], b[i >> log2_run]));
  }
}

template <class V>
HETAL_HD void multiply_constant(const Limb &m, double *out, const double *a, u64 constant, long n) {
  if (m.wide) {
    const u64 quotient = (u64)(((unsigned __int128)constant << 64) / m.modulus);
    for (long i = 0; i < n; ++i) words(out)[i] = m.integer.multiply(words(a)[i], constant, quotient);
    return;
  }
  const Narrow<V> f(m.p, m.inverse);
  const V w = splat<V>(centred(constant, m.modulus));
  for (long i = 0; i < n; i += Lanes<V>::count) store(out + i, f.reduce(f.multiply(load<V>(a + i), w)));
}

template <class V>
HETAL_HD void add_constant(const Limb &m, double *out, const double *a, u64 constant, long n) {
  if (m.wide) {
    for (long i = 0; i < n; ++i) words(out)[i] = m.integer.add(words(a)[i], constant);
    return;
  }
  const Narrow<V> f(m.p, m.inverse);
  const V c = splat<V>(centred(constant, m.modulus));
  for (long i = 0; i < n; i += Lanes<V>::count) store(out + i, f.reduce(load<V>(a + i) + c));
}

// (x - t) * constant: the end of a division.
template <class V>
HETAL_HD void subtract_multiply(const Limb &m, double *out, const double *x, const double *t, u64 constant, long n) {
  if (m.wide) {
    const u64 quotient = (u64)(((unsigned __int128)constant << 64) / m.modulus);
    for (long i = 0; i < n; ++i)
      words(out)[i] = m.integer.multiply(m.integer.subtract(words(x)[i], words(t)[i]), constant, quotient);
    return;
  }
  const Narrow<V> f(m.p, m.inverse);
  const V w = splat<V>(centred(constant, m.modulus)), quotient = w * f.inverse;
  for (long i = 0; i < n; i += Lanes<V>::count)
    store(out + i, f.reduce(f.multiply(load<V>(x + i) - load<V>(t + i), w, quotient)));
}

// The three products of two pairs.
template <class V>
HETAL_HD void tensor(const Limb &m, double *const out[3], const double *const a[2], const double *const b[2], long n) {
  if (m.wide) {
    const Wide &f = m.integer;
    for (long i = 0; i < n; ++i) {
      const u64 a0 = words(a[0])[i], a1 = words(a[1])[i], b0 = words(b[0])[i], b1 = words(b[1])[i];
      words(out[0])[i] = f.multiply(a0, b0);
      words(out[1])[i] = f.add(f.multiply(a0, b1), f.multiply(a1, b0));
      words(out[2])[i] = f.multiply(a1, b1);
    }
    return;
  }
  const Narrow<V> f(m.p, m.inverse);
  for (long i = 0; i < n; i += Lanes<V>::count) {
    const V a0 = load<V>(a[0] + i), a1 = load<V>(a[1] + i), b0 = load<V>(b[0] + i), b1 = load<V>(b[1] + i);
    store(out[0] + i, f.reduce(f.multiply(a0, b0)));
    store(out[1] + i, f.reduce(f.multiply(a0, b1) + f.multiply(a1, b0)));
    store(out[2] + i, f.reduce(f.multiply(a1, b1)));
  }
}

// Values of a monomial are products of a word of `low` (64 words, by the low bits of the position) and one of `high`.
template <class V>
HETAL_HD void multiply_monomial(const Limb &m, double *out, const double *a, const double *low, const double *high,
                                long n) {
  if (m.wide) {
    for (long i = 0; i < n; ++i)
      words(out)[i] = m.integer.multiply(
          words(a)[i], m.integer.multiply(words(low)[i & 63], words(high)[i >> 6]));
    return;
  }
  const Narrow<V> f(m.p, m.inverse);
  for (long i = 0; i < n; i += 64) {
    const V h = splat<V>(high[i >> 6]);
    for (int k = 0; k < 64; k += Lanes<V>::count) {
      const V value = f.reduce(f.multiply(load<V>(low + k), h));
      store(out + i + k, f.reduce(f.multiply(load<V>(a + i + k), value)));
    }
  }
}

// Eight words to their place in an automorphism's image.
HETAL_HD void scatter(double *out, const double *block, u32 target, const Permutation &permutation) {
  double *to = out + (target & ~7u);
  const i64 *lane = permutation.lanes[target & 7];
#if defined(__AVX512F__)
  typedef i64 w8 __attribute__((vector_size(64)));
  store(to, __builtin_shuffle(load<v8>(block), *reinterpret_cast<const w8 *>(lane)));
#else
  for (int k = 0; k < 8; ++k) to[k] = block[lane[k]];
#endif
}

template <class V>
HETAL_HD void permute(const Limb &, double *out, const double *a, const Permutation &permutation, long n) {
  for (long i = 0; i < n; i += 8) scatter(out, a + i, permutation.targets[i / 8], permutation);
}

// Integer coefficients of magnitude below 2^62.
template <class V>
HETAL_HD void from_integers(const Limb &m, double *out, const double *coefficients, long n) {
  for (long i = 0; i < n; ++i) {
    const double c = coefficients[i];
    const u64 magnitude = (u64)(c < 0 ? -c : c);
    u64 r = m.integer.reduce(magnitude);
    if (c < 0 && r) r = m.modulus - r;
    if (m.wide)
      words(out)[i] = r;
    else
      out[i] = centred(r, m.modulus);
  }
}

// Little-endian words at any address; false where one is not below the modulus.
template <class V>
HETAL_HD bool import_words(const Limb &m, double *out, const unsigned char *bytes, long n) {
  u64 worst = 0;
  for (long i = 0; i < n; ++i) {
    u64 r;
    __builtin_memcpy(&r, bytes + 8 * i, 8);
    worst = r > worst ? r : worst;
    if (m.wide)
      words(out)[i] = r;
    else {
      const i64 c = (i64)r - (r > m.modulus / 2 ? (i64)m.modulus : 0);
      out[i] = (double)c;
    }
  }
  return worst < m.modulus;
}

template <class V>
HETAL_HD void export_words(const Limb &m, unsigned char *bytes, const double *a, long n) {
  const Narrow<double> f(m.p, m.inverse);
  for (long i = 0; i < n; ++i) {
    const u64 r = m.wide ? words(a)[i] : positive(f.reduce(a[i]), m.modulus);
    __builtin_memcpy(bytes + 8 * i, &r, 8);
  }
}

#endif  // __CUDACC__

}  // namespace hetal
