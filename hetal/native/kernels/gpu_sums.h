// The GPU form of sums.h: one lane for a coefficient, several sums in its registers. Where an operand lies is asked of
// an accessor, so that one kernel serves pointer tables (a CPU's emulation) and batches of limbs (gpu_entry.cu).
#pragma once

#include "gpu_pointwise.h"
#include "sums.h"

namespace hetal {

// -- 128-bit integers of two words ---------------------------------------------------------------------------------------

struct Sum128 {
  u64 low, high;

  HETAL_HD void add(u64 more_low, u64 more_high) {
    low += more_low;
    high += more_high + (low < more_low ? 1 : 0);
  }
  HETAL_HD void add_product(u64 a, u64 b) { add(a * b, high_product(a, b)); }
  HETAL_HD void add_signed_product(i64 a, u64 b) {
    add((u64)a * b, high_product((u64)a, b) - (a < 0 ? b : 0));
  }
  HETAL_HD u64 reduced(const Wide &f) const { return f.reduce(high, low); }
  HETAL_HD u64 reduced_signed(const Wide &f) const {
    if (!(high >> 63)) return f.reduce(high, low);
    const u64 r = f.reduce(~high + (low == 0 ? 1 : 0), 0 - low);
    return r ? f.p - r : 0;
  }
};

// A residue as a centred integer.
HETAL_HD i64 centred_word(const Limb &m, const double *a, long i) {
  if (!m.wide) return (i64)a[i];
  const u64 r = words(a)[i];
  return (i64)r - (r > m.modulus / 2 ? (i64)m.modulus : 0);
}

// -- base conversion -----------------------------------------------------------------------------------------------------

constexpr int GPU_CONVERSION_TARGETS = 4;
constexpr int GPU_CONVERSION_SHARED = GPU_CONVERSION_TARGETS * (TERMS_MAX + 1);  // words

// Targets group*GPU_CONVERSION_TARGETS and on, coefficients of `block`. Access: sources(), targets(), exact(), whether
// any source is wide: integers(), the most bits of a narrow source: source_bits(), source(i) -> Limb, y(i) -> its
// words, target(t) -> Limb, out(t), constant(t, i) in [0, p), the constant of the rounded quotient last.
template <class Ex, class Access>
HETAL_HD void gpu_convert(const Ex &ex, const Access &c, int block, int group, long n, double *shared) {
  constexpr int T = GPU_CONVERSION_TARGETS;
  const int first = group * T, targets = c.targets() - first < T ? c.targets() - first : T;
  const int sources = c.sources(), terms = sources + (c.exact() ? 1 : 0);
  bool integers = c.integers();
  for (int t = 0; t < targets; ++t) integers = integers || c.target(first + t).wide;
  // Constants in the form of the sum, once for the block. Missing targets repeat the last one.
  ex.phase(T * terms, [&](int lane) {
    const int t = lane / terms, i = lane % terms, target = first + (t < targets ? t : targets - 1);
    const u64 w = c.constant(target, i);
    if (integers)
      words(shared)[t * terms + i] = w;
    else
      shared[t * terms + i] = centred(w, c.target(target).modulus);
  });
  gpu_words(ex, block, n, [&](long j) {
    double rounded = 0.0;
    if (c.exact()) {
      for (int i = 0; i < sources; ++i) {
        const Limb &s = c.source(i);
        const double value = s.wide ? centred(words(c.y(i))[j], s.modulus) : c.y(i)[j];
        rounded = fma_(value, s.inverse, rounded);
      }
      rounded = round_(rounded);
    }
    if (integers) {
      Sum128 sum[T] = {};
      for (int i = 0; i < terms; ++i) {
        const i64 y = i < sources ? centred_word(c.source(i), c.y(i), j) : (i64)rounded;
        HETAL_UNROLL
        for (int t = 0; t < T; ++t) sum[t].add_signed_product(y, words(shared)[t * terms + i]);
      }
      HETAL_UNROLL
      for (int t = 0; t < T; ++t)
        if (t < targets) {
          const Limb &m = c.target(first + t);
          const u64 r = sum[t].reduced_signed(m.integer);
          if (m.wide)
            words(c.out(first + t))[j] = r;
          else
            c.out(first + t)[j] = centred(r, m.modulus);
        }
      return;
    }
    // Sixteen products of factors below 2^49 keep the quotient of the sum below 2^51, for whatever target; of factors
    // of 50 bits, eight do.
    const int log2_terms = terms <= 8 || c.source_bits() > 49 ? 3 : 4, step = 1 << log2_terms;
    Accumulator<double> sum[T];
    double seed[T], total[T];
    HETAL_UNROLL
    for (int t = 0; t < T; ++t) {
      seed[t] = accumulator_seed(c.source_bits() + c.target(first + (t < targets ? t : targets - 1)).bits, log2_terms);
      total[t] = 0.0;
    }
    for (int begin = 0; begin < terms; begin += step) {
      const int end = begin + step < terms ? begin + step : terms;
      HETAL_UNROLL
      for (int t = 0; t < T; ++t) sum[t].start(seed[t]);
      for (int i = begin; i < end; ++i) {
        const double y = i < sources ? c.y(i)[j] : rounded;
        HETAL_UNROLL
        for (int t = 0; t < T; ++t) sum[t].add(y, shared[t * terms + i]);
      }
      HETAL_UNROLL
      for (int t = 0; t < T; ++t) {
        const Limb &m = c.target(first + (t < targets ? t : targets - 1));
        const Narrow<double> f(m.p, m.inverse);
        total[t] = f.reduce(total[t] + sum[t].rough(f, seed[t]));
      }
    }
    HETAL_UNROLL
    for (int t = 0; t < T; ++t)
      if (t < targets) c.out(first + t)[j] = total[t];
  });
}

// -- inner products ------------------------------------------------------------------------------------------------------

// Sums of products of residues modulo one prime, for either policy.
struct NarrowSum {
  typedef double Value;
  Narrow<double> f;
  double seed, total;
  int step, taken;
  Accumulator<double> sum;

  HETAL_HD NarrowSum() : f(1.0, 1.0) {}
  HETAL_HD void start(const Limb &m) {
    const int log2_terms = accumulator_log2_terms(2 * m.bits);
    f = Narrow<double>(m.p, m.inverse);
    seed = accumulator_seed(2 * m.bits, log2_terms);
    total = 0.0;
    step = 1 << log2_terms;
    taken = 0;
    sum.start(seed);
  }
  HETAL_HD void add(double a, double b) { sum.add(a, b); }
  // To be called after every term, added or left out: all lanes take the same way.
  HETAL_HD void next() {
    if (++taken == step) fold();
  }
  HETAL_HD void fold() {
    total = f.reduce(total + sum.rough(f, seed));
    sum.start(seed);
    taken = 0;
  }
  HETAL_HD double result() {
    if (taken) fold();
    return total;
  }
};

struct WideSum {
  typedef u64 Value;
  Wide f;
  Sum128 sum;

  HETAL_HD void start(const Limb &m) {
    f = m.integer;
    sum = Sum128{0, 0};
  }
  HETAL_HD void add(u64 a, u64 b) { sum.add_product(a, b); }
  HETAL_HD void next() {}
  HETAL_HD u64 result() const { return sum.reduced(f); }
};

HETAL_HD double word_at(const NarrowSum &, const double *a, long i) { return a[i]; }
HETAL_HD u64 word_at(const WideSum &, const double *a, long i) { return words(a)[i]; }
HETAL_HD void put_word(const NarrowSum &, double *a, long i, double value) { a[i] = value; }
HETAL_HD void put_word(const WideSum &, double *a, long i, u64 value) { words(a)[i] = value; }

// One word of one half of the result, with its addends.
template <class Policy, class Access, class Value>
HETAL_HD void put_switched(const Policy &f, const Access &c, int half, const Move &move, Value r) {
  const Addends &more = c.addends();
  if (more.before[half]) r = sum(f, r, product(f, get(f, more.before[half], move.from), c.factor()));
  if (more.after[half]) r = sum(f, r, get(f, more.after[half], move.to));
  put(f, half ? c.out_a() : c.out_b(), move.to, r);
}

template <class Sum, class Policy, class Access>
HETAL_HD void gpu_inner_product_word(const Limb &m, const Policy &f, const Access &c, long i) {
  const Move move = c.permutation() ? move_of(*c.permutation(), i) : Move{i, i};
  Sum b, a;
  b.start(m);
  a.start(m);
  for (int k = 0; k < c.terms(); ++k) {
    const typename Sum::Value d = word_at(b, c.digit(k), move.from);
    b.add(d, word_at(b, c.b(k), move.from));
    a.add(d, word_at(a, c.a(k), move.from));
    b.next();
    a.next();
  }
  put_switched(f, c, 0, move, b.result());
  put_switched(f, c, 1, move, a.result());
}

// Access: terms(), digit(k), b(k), a(k), out_b(), out_a(), permutation() or null, addends(), factor() of the addends.
template <class Ex, class Access>
HETAL_HD void gpu_inner_product(const Ex &ex, const Limb &m, const Access &c, int block, long n) {
  gpu_words(ex, block, n, [&](long i) {
    if (m.wide)
      gpu_inner_product_word<WideSum>(m, m.integer, c, i);
    else
      gpu_inner_product_word<NarrowSum>(m, Narrow<double>(m.p, m.inverse), c, i);
  });
}

// -- linear transforms ---------------------------------------------------------------------------------------------------

constexpr int GPU_TRANSFORM_ROWS = 2;

template <int HEADS, class Sum, class Access>
HETAL_HD void gpu_transform_word(const Limb &m, const Access &c, int first, long i) {
  constexpr int G = GPU_TRANSFORM_ROWS;
  const int rows = c.rows() - first < G ? c.rows() - first : G;
  Sum sum[G][HEADS];
  HETAL_UNROLL
  for (int g = 0; g < G; ++g)
    HETAL_UNROLL
    for (int h = 0; h < HEADS; ++h) sum[g][h].start(m);
  for (int k = 0; k < c.terms(); ++k) {
    typename Sum::Value x[HEADS];
    HETAL_UNROLL
    for (int h = 0; h < HEADS; ++h) x[h] = word_at(sum[0][h], c.part(h, k), i);
    HETAL_UNROLL
    for (int g = 0; g < G; ++g) {
      const Diagonal d = g < rows ? c.diagonal(first + g, k) : Diagonal{nullptr, 0};
      const typename Sum::Value w = d.words ? word_at(sum[g][0], d.words, i >> d.log2_run) : 0;
      HETAL_UNROLL
      for (int h = 0; h < HEADS; ++h) {
        if (d.words) sum[g][h].add(x[h], w);
        sum[g][h].next();
      }
    }
  }
  HETAL_UNROLL
  for (int g = 0; g < G; ++g)
    if (g < rows)
      HETAL_UNROLL
      for (int h = 0; h < HEADS; ++h) put_word(sum[g][h], c.out(first + g, h), i, sum[g][h].result());
}

// Rows group*GPU_TRANSFORM_ROWS and on: out(g, h) = sum_k part(h, k) * diagonal(g, k) for h < HEADS. Access: terms(),
// rows(), part(h, k), diagonal(g, k) of this limb, out(g, h).
template <int HEADS, class Ex, class Access>
HETAL_HD void gpu_transform(const Ex &ex, const Limb &m, const Access &c, int block, int group, long n) {
  gpu_words(ex, block, n, [&](long i) {
    if (m.wide)
      gpu_transform_word<HEADS, WideSum>(m, c, group * GPU_TRANSFORM_ROWS, i);
    else
      gpu_transform_word<HEADS, NarrowSum>(m, c, group * GPU_TRANSFORM_ROWS, i);
  });
}

}  // namespace hetal
