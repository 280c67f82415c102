// Operations on one limb, word by word. Each is written once, as a functor for the word (or the vector of words) at a
// position: the loops of a CPU and the lanes of a GPU run the same ones.
#pragma once

#include "limb.h"

namespace hetal {

// -- the same names for both policies ----------------------------------------------------------------------------------

template <class V>
HETAL_HD V get(const Narrow<V> &, const double *a, long i) {
  return load<V>(a + i);
}
HETAL_HD u64 get(const Wide &, const double *a, long i) { return words(a)[i]; }

// One word for all lanes.
template <class V>
HETAL_HD V get_one(const Narrow<V> &, const double *a, long i) {
  return splat<V>(a[i]);
}
HETAL_HD u64 get_one(const Wide &, const double *a, long i) { return words(a)[i]; }

template <class V>
HETAL_HD void put(const Narrow<V> &, double *a, long i, V value) {
  store(a + i, value);
}
HETAL_HD void put(const Wide &, double *a, long i, u64 value) { words(a)[i] = value; }

template <class V>
HETAL_HD V sum(const Narrow<V> &f, V a, V b) {
  return f.reduce(a + b);
}
HETAL_HD u64 sum(const Wide &f, u64 a, u64 b) { return f.add(a, b); }

template <class V>
HETAL_HD V difference(const Narrow<V> &f, V a, V b) {
  return f.reduce(a - b);
}
HETAL_HD u64 difference(const Wide &f, u64 a, u64 b) { return f.subtract(a, b); }

template <class V>
HETAL_HD V opposite(const Narrow<V> &, V a) {
  return -a;
}
HETAL_HD u64 opposite(const Wide &f, u64 a) { return f.subtract(0, a); }

template <class V>
HETAL_HD V product(const Narrow<V> &f, V a, V b) {
  return f.reduce(f.multiply(a, b));
}
HETAL_HD u64 product(const Wide &f, u64 a, u64 b) { return f.multiply(a, b); }

template <class V>
HETAL_HD V product_sum(const Narrow<V> &f, V a, V b, V c, V d) {
  return f.reduce(f.multiply(a, b) + f.multiply(c, d));
}
HETAL_HD u64 product_sum(const Wide &f, u64 a, u64 b, u64 c, u64 d) { return f.add(f.multiply(a, b), f.multiply(c, d)); }

// A residue that multiplies or is added everywhere; quotient = floor(value * 2^64 / modulus).
struct Constant {
  u64 value, quotient;
};

// The same in the form of its modulus.
struct Factor {
  double centre;
  u64 value, quotient;
};

HETAL_HD Factor factor(const Limb &m, const Constant &c) {
  return Factor{m.wide ? 0.0 : centred(c.value, m.modulus), c.value, c.quotient};
}

template <class V>
HETAL_HD V product(const Narrow<V> &f, V a, const Factor &c) {
  const V w = splat<V>(c.centre);
  return f.reduce(f.multiply(a, w, w * f.inverse));
}
HETAL_HD u64 product(const Wide &f, u64 a, const Factor &c) { return f.multiply(a, c.value, c.quotient); }

template <class V>
HETAL_HD V sum(const Narrow<V> &f, V a, const Factor &c) {
  return f.reduce(a + splat<V>(c.centre));
}
HETAL_HD u64 sum(const Wide &f, u64 a, const Factor &c) { return f.add(a, c.value); }

// (x - t) * constant, lazily.
template <class V>
HETAL_HD V difference_product(const Narrow<V> &f, V x, V t, const Factor &c) {
  const V w = splat<V>(c.centre);
  return f.reduce(f.multiply(x - t, w, w * f.inverse));
}
HETAL_HD u64 difference_product(const Wide &f, u64 x, u64 t, const Factor &c) {
  return f.multiply(f.subtract(x, t), c.value, c.quotient);
}

// -- operations ----------------------------------------------------------------------------------------------------------

struct Add {
  double *out;
  const double *a, *b;
  template <class F>
  HETAL_HD void operator()(const F &f, long i) const {
    put(f, out, i, sum(f, get(f, a, i), get(f, b, i)));
  }
};

struct Subtract {
  double *out;
  const double *a, *b;
  template <class F>
  HETAL_HD void operator()(const F &f, long i) const {
    put(f, out, i, difference(f, get(f, a, i), get(f, b, i)));
  }
};

struct Negate {
  double *out;
  const double *a;
  template <class F>
  HETAL_HD void operator()(const F &f, long i) const {
    put(f, out, i, opposite(f, get(f, a, i)));
  }
};

struct Multiply {
  double *out;
  const double *a, *b;
  template <class F>
  HETAL_HD void operator()(const F &f, long i) const {
    put(f, out, i, product(f, get(f, a, i), get(f, b, i)));
  }
};

// b has one word for every 2^log2_run words of a; a vector must not straddle two.
struct MultiplyRuns {
  double *out;
  const double *a, *b;
  int log2_run;
  template <class F>
  HETAL_HD void operator()(const F &f, long i) const {
    put(f, out, i, product(f, get(f, a, i), get_one(f, b, i >> log2_run)));
  }
};

struct MultiplyConstant {
  double *out;
  const double *a;
  Factor c;
  template <class F>
  HETAL_HD void operator()(const F &f, long i) const {
    put(f, out, i, product(f, get(f, a, i), c));
  }
};

struct AddConstant {
  double *out;
  const double *a;
  Factor c;
  template <class F>
  HETAL_HD void operator()(const F &f, long i) const {
    put(f, out, i, sum(f, get(f, a, i), c));
  }
};

// (x - t) * constant: the end of a division.
struct SubtractMultiply {
  double *out;
  const double *x, *t;
  Factor c;
  template <class F>
  HETAL_HD void operator()(const F &f, long i) const {
    put(f, out, i, difference_product(f, get(f, x, i), get(f, t, i), c));
  }
};

// The three products of two pairs.
struct Tensor {
  double *out0, *out1, *out2;
  const double *a0, *a1, *b0, *b1;
  template <class F>
  HETAL_HD void operator()(const F &f, long i) const {
    const auto u = get(f, a0, i), v = get(f, a1, i), x = get(f, b0, i), y = get(f, b1, i);
    put(f, out0, i, product(f, u, x));
    put(f, out1, i, product_sum(f, u, y, v, x));
    put(f, out2, i, product(f, v, y));
  }
};

// Values of a monomial are products of a word of `low` (64 words, by the low bits of the position) and one of `high`.
struct MultiplyMonomial {
  double *out;
  const double *a, *low, *high;
  template <class F>
  HETAL_HD void operator()(const F &f, long i) const {
    put(f, out, i, product(f, get(f, a, i), product(f, get(f, low, i & 63), get_one(f, high, i >> 6))));
  }
};

// Where the word that an automorphism moves to `to` comes from; both are of the same block of 8 lanes at `position`.
struct Move {
  long from, to;
};
HETAL_HD Move move_of(const Permutation &permutation, long position) {
  const u32 target = permutation.targets[position / 8];
  const int lane = (int)(position & 7);
  return Move{(position & ~7L) + (long)permutation.lanes[target & 7][lane], (long)(target & ~7u) + lane};
}

struct Permute {
  double *out;
  const double *a;
  Permutation permutation;
  template <class F>
  HETAL_HD void operator()(const F &, long i) const {
    const Move move = move_of(permutation, i);
    words(out)[move.to] = words(a)[move.from];
  }
};

// Integer coefficients of magnitude below 2^62.
HETAL_HD u64 residue_of_integer(const Limb &m, double c) {
  const u64 magnitude = (u64)(c < 0 ? -c : c);
  const u64 r = m.integer.reduce(magnitude);
  return c < 0 && r ? m.modulus - r : r;
}

// A residue in [0, p) in the form of its modulus, and back. (The first vectorises, as `centred` does not.)
HETAL_HD void put_residue(const Limb &m, double *out, long i, u64 r) {
  if (m.wide)
    words(out)[i] = r;
  else
    out[i] = (double)((i64)r - (r > m.modulus / 2 ? (i64)m.modulus : 0));
}
HETAL_HD u64 get_residue(const Limb &m, const double *a, long i) {
  return m.wide ? words(a)[i] : positive(Narrow<double>(m.p, m.inverse).reduce(a[i]), m.modulus);
}

#ifndef __CUDACC__

// -- a CPU's loops -------------------------------------------------------------------------------------------------------

HETAL_HD Factor factor(const Limb &m, u64 value) {
  return factor(m, Constant{value, m.wide ? (u64)(((unsigned __int128)value << 64) / m.modulus) : 0});
}

template <class V, class Op>
HETAL_HD void each(const Limb &m, const Op &op, long n) {
  if (m.wide) {
    const Wide f = m.integer;
    for (long i = 0; i < n; ++i) op(f, i);
    return;
  }
  const Narrow<V> f(m.p, m.inverse);
  for (long i = 0; i < n; i += Lanes<V>::count) op(f, i);
}

template <class V>
HETAL_HD void add(const Limb &m, double *out, const double *a, const double *b, long n) {
  each<V>(m, Add{out, a, b}, n);
}

template <class V>
HETAL_HD void subtract(const Limb &m, double *out, const double *a, const double *b, long n) {
  each<V>(m, Subtract{out, a, b}, n);
}

template <class V>
HETAL_HD void negate(const Limb &m, double *out, const double *a, long n) {
  each<V>(m, Negate{out, a}, n);
}

template <class V>
HETAL_HD void multiply(const Limb &m, double *out, const double *a, const double *b, int log2_run, long n) {
  if (log2_run == 0)
    each<V>(m, Multiply{out, a, b}, n);
  else if ((1 << log2_run) >= Lanes<V>::count)
    each<V>(m, MultiplyRuns{out, a, b, log2_run}, n);
  else
    each<double>(m, MultiplyRuns{out, a, b, log2_run}, n);
}

template <class V>
HETAL_HD void multiply_constant(const Limb &m, double *out, const double *a, u64 constant, long n) {
  each<V>(m, MultiplyConstant{out, a, factor(m, constant)}, n);
}

template <class V>
HETAL_HD void add_constant(const Limb &m, double *out, const double *a, u64 constant, long n) {
  each<V>(m, AddConstant{out, a, factor(m, constant)}, n);
}

template <class V>
HETAL_HD void subtract_multiply(const Limb &m, double *out, const double *x, const double *t, u64 constant, long n) {
  each<V>(m, SubtractMultiply{out, x, t, factor(m, constant)}, n);
}

template <class V>
HETAL_HD void tensor(const Limb &m, double *const out[3], const double *const a[2], const double *const b[2], long n) {
  each<V>(m, Tensor{out[0], out[1], out[2], a[0], a[1], b[0], b[1]}, n);
}

template <class V>
HETAL_HD void multiply_monomial(const Limb &m, double *out, const double *a, const double *low, const double *high,
                                long n) {
  each<V>(m, MultiplyMonomial{out, a, low, high}, n);
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

template <class V>
HETAL_HD void from_integers(const Limb &m, double *out, const double *coefficients, long n) {
  for (long i = 0; i < n; ++i) put_residue(m, out, i, residue_of_integer(m, coefficients[i]));
}

// Little-endian words at any address; false where one is not below the modulus.
template <class V>
HETAL_HD bool import_words(const Limb &m, double *out, const unsigned char *bytes, long n) {
  u64 worst = 0;
  for (long i = 0; i < n; ++i) {
    u64 r;
    __builtin_memcpy(&r, bytes + 8 * i, 8);
    worst = r > worst ? r : worst;
    put_residue(m, out, i, r);
  }
  return worst < m.modulus;
}

template <class V>
HETAL_HD void export_words(const Limb &m, unsigned char *bytes, const double *a, long n) {
  for (long i = 0; i < n; ++i) {
    const u64 r = get_residue(m, a, i);
    __builtin_memcpy(bytes + 8 * i, &r, 8);
  }
}

#endif  // __CUDACC__

}  // namespace hetal
