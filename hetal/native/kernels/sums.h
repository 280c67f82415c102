// Sums of products of limbs: base conversion, the inner product of a key switch, linear transforms. Products are added
// exactly and reduced once (Accumulator); more terms than an accumulator holds are added group by group.
#pragma once

#include "pointwise.h"

namespace hetal {

constexpr int TERMS_MAX = 64;
constexpr int CONVERSION_CHUNK = 256;  // coefficients of all sources that lie in the first-level cache together

// From residues y_i modulo the sources to sum_i y_i * c_i modulo each target.
struct Conversion {
  int sources;
  const Limb *source[TERMS_MAX];
  const double *y[TERMS_MAX];
  // Whether round(sum_i y_i / p_i) is another source, with constant c[sources]: the conversion is then exact.
  bool exact;
  int targets;
  const Limb *target[TERMS_MAX];
  double *out[TERMS_MAX];
  const u64 *constants[TERMS_MAX];  // [target][source]
};

// What a key switch adds to the two halves of its result; null for nothing.
struct Addends {
  const double *before[2];  // times `factor`, before the permutation
  u64 factor;
  const double *after[2];  // after it
};

struct Diagonal {
  const double *words;  // null where the term is left out
  int log2_run;         // each word stands for 2^log2_run
};

#ifndef __CUDACC__

// Up to 8 rows leave |low| <= 4p for sources below 2^50, which the transform that follows takes as it is, but for tight
// moduli; more rows are added in reduced groups.
template <class V, int U>
HETAL_HD void convert_chunk(const double *const *y, int rows, const double *c, const Limb &target, double *out, int length,
                            int bits) {
  constexpr int W = Lanes<V>::count;
  const Narrow<V> f(target.p, target.inverse);
  const bool few = rows <= 8 && !target.tight;
  const int log2_group = rows <= 8 ? 3 : accumulator_log2_terms(bits), group = 1 << log2_group;
  const V seed = splat<V>(accumulator_seed(bits, log2_group));
  for (int j = 0; j < length; j += W * U) {
    V total[U] = {};
    for (int first = 0; first < rows; first += group) {
      const int last = first + group < rows ? first + group : rows;
      Accumulator<V> sum[U];
      HETAL_UNROLL
      for (int u = 0; u < U; ++u) sum[u].start(seed);
      for (int i = first; i < last; ++i) {
        const V w = splat<V>(c[i]);
        HETAL_UNROLL
        for (int u = 0; u < U; ++u) sum[u].add(load<V>(y[i] + j + W * u), w);
      }
      HETAL_UNROLL
      for (int u = 0; u < U; ++u)
        total[u] = few ? sum[u].rough(f, seed) : f.reduce(total[u] + sum[u].result(f, seed));
    }
    HETAL_UNROLL
    for (int u = 0; u < U; ++u) store(out + j + W * u, total[u]);
  }
}

// Any mixture of narrow and wide moduli, coefficient by coefficient, in 128-bit integers.
HETAL_HD void convert_integers(const Conversion &c, const double *rounded, int t, long begin, long end) {
  const Limb &m = *c.target[t];
  for (long j = begin; j < end; ++j) {
    __int128 sum = 0;
    for (int i = 0; i < c.sources; ++i) {
      const Limb &s = *c.source[i];
      i64 y;
      if (s.wide) {
        const u64 r = words(c.y[i])[j];
        y = (i64)r - (r > s.modulus / 2 ? (i64)s.modulus : 0);
      } else
        y = (i64)c.y[i][j];
      sum += (__int128)y * (i64)c.constants[t][i];
    }
    if (c.exact) sum += (__int128)(i64)rounded[j - begin] * (i64)c.constants[t][c.sources];
    const bool negative = sum < 0;
    const unsigned __int128 magnitude = negative ? -(unsigned __int128)sum : (unsigned __int128)sum;
    u64 r = m.integer.reduce((u64)(magnitude >> 64), (u64)magnitude);
    if (negative && r) r = m.modulus - r;
    if (m.wide)
      words(c.out[t])[j] = r;
    else
      c.out[t][j] = centred(r, m.modulus);
  }
}

template <class V>
HETAL_HD void convert(const Conversion &c, long n) {
  constexpr int W = Lanes<V>::count, U = W;
  alignas(64) double split[2 * TERMS_MAX * CONVERSION_CHUNK];
  alignas(64) double rounded[CONVERSION_CHUNK];
  const double *y[2 * TERMS_MAX + 1];
  double constants[2 * TERMS_MAX + 1];
  int source_bits = 30;
  for (int i = 0; i < c.sources; ++i)
    if (!c.source[i]->wide && c.source[i]->bits > source_bits) source_bits = c.source[i]->bits;
  for (long begin = 0; begin < n; begin += CONVERSION_CHUNK) {
    const int length = n - begin < CONVERSION_CHUNK ? (int)(n - begin) : CONVERSION_CHUNK;
    int rows = 0, first_row[TERMS_MAX];
    for (int i = 0; i < c.sources; ++i) {
      const Limb &s = *c.source[i];
      first_row[i] = rows;
      if (!s.wide) {
        y[rows++] = c.y[i] + begin;
        // Chunks are too short for the processor's own prefetching.
        if (begin + 2 * CONVERSION_CHUNK <= n)
          for (int j = 0; j < CONVERSION_CHUNK; j += 8)
            __builtin_prefetch(c.y[i] + begin + CONVERSION_CHUNK + j, 0, 2);
        continue;
      }
      // A wide source enters a narrow sum as two rows of 30 bits.
      double *low = split + rows * CONVERSION_CHUNK, *high = low + CONVERSION_CHUNK;
      const i64 modulus = (i64)s.modulus, half = modulus / 2;
      const Word *from = words(c.y[i]) + begin;
      for (int j = 0; j < length; ++j) {
        const i64 r = (i64)from[j], centre = r - (r > half ? modulus : 0), top = (centre + (1LL << 29)) >> 30;
        low[j] = (double)(centre - top * (1LL << 30));
        high[j] = (double)top;
      }
      y[rows++] = low;
      y[rows++] = high;
    }
    if (c.exact) {
      for (int j = 0; j < length; j += W) {
        V sum = splat<V>(0.0);
        for (int i = 0; i < c.sources; ++i) {
          const Limb &s = *c.source[i];
          const double *row = y[first_row[i]] + j;
          const V value = s.wide ? load<V>(row) + load<V>(row + CONVERSION_CHUNK) * splat<V>(1073741824.0)
                                 : load<V>(row);
          sum = fma_(value, splat<V>(s.inverse), sum);
        }
        store(rounded + j, round_(sum));
      }
      y[rows++] = rounded;
    }
    for (int t = 0; t < c.targets; ++t) {
      const Limb &m = *c.target[t];
      if (m.wide) {
        convert_integers(c, rounded, t, begin, begin + length);
        continue;
      }
      int row = 0;
      for (int i = 0; i < c.sources; ++i) {
        const u64 w = c.constants[t][i];
        constants[row++] = centred(w, m.modulus);
        if (c.source[i]->wide)
          constants[row++] = centred(m.integer.multiply(w, m.integer.reduce(1ULL << 30)), m.modulus);
      }
      if (c.exact) constants[row] = centred(c.constants[t][c.sources], m.modulus);
      convert_chunk<V, U>(y, rows, constants, m, c.out[t] + begin, length, source_bits + m.bits);
    }
  }
}

// Eight words plus a factor times eight others.
template <class V>
HETAL_HD void add_block(const Limb &m, double *block, const double *more, u64 factor) {
  if (m.wide) {
    for (int k = 0; k < 8; ++k) {
      const u64 x = factor == 1 ? words(more)[k] : m.integer.multiply(words(more)[k], factor);
      words(block)[k] = m.integer.add(words(block)[k], x);
    }
    return;
  }
  const Narrow<V> f(m.p, m.inverse);
  const V w = splat<V>(centred(factor, m.modulus));
  for (int k = 0; k < 8; k += Lanes<V>::count) {
    const V x = load<V>(more + k);
    store(block + k, f.reduce(load<V>(block + k) + (factor == 1 ? x : f.multiply(x, w))));
  }
}

// (sum_i digit[i] * b[i], sum_i digit[i] * a[i]) with the addends, each moved by the permutation, if any.
template <class V>
HETAL_HD void inner_product(const Limb &m, int terms, const double *const *digit, const double *const *b,
                            const double *const *a, double *out_b, double *out_a, const Permutation *permutation,
                            const Addends &addends, long n) {
  constexpr int W = Lanes<V>::count, PER_BLOCK = 8 / W;
  const Narrow<V> f(m.p, m.inverse);
  const int log2_group = accumulator_log2_terms(2 * m.bits), group = 1 << log2_group;
  const V seed = splat<V>(accumulator_seed(2 * m.bits, log2_group));
  for (long j = 0; j < n; j += 8) {
    alignas(64) double block_b[8] = {}, block_a[8] = {};
    if (m.wide) {
      for (int k = 0; k < 8; ++k) {
        u64 sum_b = 0, sum_a = 0;
        for (int i = 0; i < terms; ++i) {
          const u64 d = words(digit[i])[j + k];
          sum_b = m.integer.add(sum_b, m.integer.multiply(d, words(b[i])[j + k]));
          sum_a = m.integer.add(sum_a, m.integer.multiply(d, words(a[i])[j + k]));
        }
        words(block_b)[k] = sum_b;
        words(block_a)[k] = sum_a;
      }
    } else {
      V total_b[PER_BLOCK] = {}, total_a[PER_BLOCK] = {};
      for (int first = 0; first < terms; first += group) {
        const int last = first + group < terms ? first + group : terms;
        HETAL_UNROLL
        for (int u = 0; u < PER_BLOCK; ++u) {
          Accumulator<V> sum_b, sum_a;
          sum_b.start(seed);
          sum_a.start(seed);
          for (int i = first; i < last; ++i) {
            const V d = load<V>(digit[i] + j + W * u);
            sum_b.add(d, load<V>(b[i] + j + W * u));
            sum_a.add(d, load<V>(a[i] + j + W * u));
          }
          const V r_b = sum_b.result(f, seed), r_a = sum_a.result(f, seed);
          total_b[u] = first ? f.reduce(total_b[u] + r_b) : r_b;
          total_a[u] = first ? f.reduce(total_a[u] + r_a) : r_a;
        }
      }
      HETAL_UNROLL
      for (int u = 0; u < PER_BLOCK; ++u) {
        store(block_b + W * u, total_b[u]);
        store(block_a + W * u, total_a[u]);
      }
    }
    if (addends.before[0]) add_block<V>(m, block_b, addends.before[0] + j, addends.factor);
    if (addends.before[1]) add_block<V>(m, block_a, addends.before[1] + j, addends.factor);
    long at = j;
    if (permutation) {
      const u32 target = permutation->targets[j / 8];
      at = target & ~7u;
      scatter(out_b, block_b, target, *permutation);
      scatter(out_a, block_a, target, *permutation);
    } else
      for (int k = 0; k < 8; k += W) {
        store(out_b + j + k, load<V>(block_b + k));
        store(out_a + j + k, load<V>(block_a + k));
      }
    if (addends.after[0]) add_block<V>(m, out_b + at, addends.after[0] + at, 1);
    if (addends.after[1]) add_block<V>(m, out_a + at, addends.after[1] + at, 1);
  }
}

constexpr int TRANSFORM_CHUNK = 512;

// out[g][h] = sum_b parts[h][b] * diagonal[g][b], for h = 0..heads-1.
template <class V>
HETAL_HD void transform(const Limb &m, int heads, int terms, const double *const *const *parts, int rows,
                        const Diagonal *diagonals, double *const *const *out, long n) {
  constexpr int W = Lanes<V>::count;
  const Narrow<V> f(m.p, m.inverse);
  const int log2_group = accumulator_log2_terms(2 * m.bits), group = 1 << log2_group;
  const V seed = splat<V>(accumulator_seed(2 * m.bits, log2_group));
  for (long begin = 0; begin < n; begin += TRANSFORM_CHUNK) {
    const long end = begin + TRANSFORM_CHUNK < n ? begin + TRANSFORM_CHUNK : n;
    for (int g = 0; g < rows; ++g) {
      const Diagonal *d = diagonals + (long)g * terms;
      for (int h = 0; h < heads; ++h) {
        double *to = out[g][h];
        const double *const *from = parts[h];
        if (m.wide) {
          for (long j = begin; j < end; ++j) {
            u64 sum = 0;
            for (int i = 0; i < terms; ++i)
              if (d[i].words)
                sum = m.integer.add(sum,
                                    m.integer.multiply(words(from[i])[j], words(d[i].words)[j >> d[i].log2_run]));
            words(to)[j] = sum;
          }
          continue;
        }
        for (long j = begin; j < end; j += W) {
          V total = splat<V>(0.0);
          Accumulator<V> sum;
          sum.start(seed);
          int taken = 0;
          for (int i = 0; i < terms; ++i) {
            if (!d[i].words) continue;
            V w;
            if (d[i].log2_run == 0)
              w = load<V>(d[i].words + j);
            else if ((1 << d[i].log2_run) >= W)
              w = splat<V>(d[i].words[j >> d[i].log2_run]);
            else
              for (int k = 0; k < W; ++k) w[k] = d[i].words[(j + k) >> d[i].log2_run];
            sum.add(load<V>(from[i] + j), w);
            if (++taken == group) {
              total = f.reduce(total + sum.result(f, seed));
              sum.start(seed);
              taken = 0;
            }
          }
          store(to + j, f.reduce(total + sum.result(f, seed)));
        }
      }
    }
  }
}

#endif  // __CUDACC__

}  // namespace hetal
