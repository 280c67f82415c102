// Negacyclic number-theoretic transforms in OpenFHE's order: natural in, bit-reversed out, psi merged into the twiddles
// (Cooley-Tukey forward, Gentleman-Sande inverse). Node v of the butterfly tree (root 1, children 2v and 2v+1) has
// twiddle roots[v] = psi^bitrev(v); a sub-transform is a segment of the array and its node.
//
// On a CPU, large transforms take their first levels on tiles of columns copied next to each other, the rest row by
// row. The last levels, whose distance is below the vector width, run on W x W blocks transposed in registers, with
// their twiddles stored in the order of use ("tail" table).
#pragma once

#include "arithmetic.h"

namespace hetal {

// Twiddles of one narrow modulus and one direction.
struct NarrowTwiddles {
  const double *roots;  // by node
  const double *tail;   // per block of W*W: W-1 vectors
};

constexpr int COLUMN_TILE = 8;       // words: one cache line
constexpr int COLUMN_LEVELS_MAX = 8;
constexpr int ROW_LOG2_MAX = 12;     // a row of that size stays in the first-level cache

HETAL_HD constexpr int log2_of(int n) { return n <= 1 ? 0 : 1 + log2_of(n / 2); }

// Levels of a transform of 2^log2_n words that are done on columns.
HETAL_HD int column_levels(int log2_n) { return log2_n <= ROW_LOG2_MAX ? 0 : (log2_n >= 16 ? 8 : log2_n - 8); }

// L levels on 2^L registers. Moduli above 2^49 need a reduction every four levels (`tight`).
template <int L, class V>
HETAL_HD void forward_levels(V *x, const double *roots, long node, const Narrow<V> &m) {
  HETAL_UNROLL
  for (int s = 0; s < L; ++s) {
    const int half = (1 << L) >> (s + 1);
    HETAL_UNROLL
    for (int n = 0; n < (1 << s); ++n) {
      const V w = splat<V>(roots[(node << s) + n]);
      HETAL_UNROLL
      for (int k = 0; k < half; ++k) {
        V &a = x[2 * half * n + k], &b = x[2 * half * n + k + half];
        const V t = m.multiply(b, w);
        b = a - t;
        a = a + t;
      }
    }
  }
}

// The inverse of forward_levels, unscaled. After every second level the sums that met no product are reduced; all are
// where `tight`.
template <int L, bool TIGHT, class V>
HETAL_HD void inverse_levels(V *x, const double *roots, long node, const Narrow<V> &m) {
  HETAL_UNROLL
  for (int s = L - 1; s >= 0; --s) {
    const int half = (1 << L) >> (s + 1);
    HETAL_UNROLL
    for (int n = 0; n < (1 << s); ++n) {
      const V w = splat<V>(roots[(node << s) + n]);
      HETAL_UNROLL
      for (int k = 0; k < half; ++k) {
        V &a = x[2 * half * n + k], &b = x[2 * half * n + k + half];
        const V difference = a - b;
        a = a + b;
        b = m.multiply(difference, w);
      }
    }
    if ((L - s) % 2 == 0 || s == 0) {
      // `half` and half/2 are the bits of this level and the one before.
      HETAL_UNROLL
      for (int i = 0; i < (1 << L); ++i)
        if (TIGHT || (i & (half | (half >> 1))) == 0) x[i] = m.reduce(x[i]);
    }
  }
}

#ifndef __CUDACC__

template <int W, class V>
HETAL_HD void transpose(V *x);

template <>
HETAL_HD void transpose<1, double>(double *) {}

#if defined(__AVX512F__)
template <>
HETAL_HD void transpose<8, v8>(v8 *x) {
  HETAL_UNROLL
  for (int i = 0; i < 8; i += 2) {
    const v8 a = x[i], b = x[i + 1];
    x[i] = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);
    x[i + 1] = __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
  }
  HETAL_UNROLL
  for (int i = 0; i < 8; ++i) {
    if (i & 2) continue;
    const v8 a = x[i], b = x[i + 2];
    x[i] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
    x[i + 2] = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
  }
  HETAL_UNROLL
  for (int i = 0; i < 4; ++i) {
    const v8 a = x[i], b = x[i + 4];
    x[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
    x[i + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  }
}
#elif defined(__AVX2__) && defined(__FMA__)
template <>
HETAL_HD void transpose<4, v4>(v4 *x) {
  HETAL_UNROLL
  for (int i = 0; i < 4; i += 2) {
    const v4 a = x[i], b = x[i + 1];
    x[i] = __builtin_shufflevector(a, b, 0, 4, 2, 6);
    x[i + 1] = __builtin_shufflevector(a, b, 1, 5, 3, 7);
  }
  HETAL_UNROLL
  for (int i = 0; i < 2; ++i) {
    const v4 a = x[i], b = x[i + 2];
    x[i] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
    x[i + 2] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
  }
}
#else
template <>
HETAL_HD void transpose<2, v2>(v2 *x) {
  const v2 a = x[0], b = x[1];
  x[0] = v2{a[0], b[0]};
  x[1] = v2{a[1], b[1]};
}
#endif

// -- levels at distances of at least W -----------------------------------------------------------------------------------

template <int L, class V>
HETAL_HD void forward_pass(double *a, int n, long node, const double *roots, const Narrow<V> &m, bool reduced) {
  constexpr int W = Lanes<V>::count;
  const int t = n >> L;
  for (int j = 0; j < t; j += W) {
    V x[1 << L];
    HETAL_UNROLL
    for (int k = 0; k < (1 << L); ++k) x[k] = load<V>(a + j + t * k);
    forward_levels<L>(x, roots, node, m);
    HETAL_UNROLL
    for (int k = 0; k < (1 << L); ++k) store(a + j + t * k, reduced ? m.reduce(x[k]) : x[k]);
  }
}

template <int L, bool TIGHT, class V>
HETAL_HD void inverse_pass(double *a, int n, long node, const double *roots, const Narrow<V> &m) {
  constexpr int W = Lanes<V>::count;
  const int t = n >> L;
  for (int j = 0; j < t; j += W) {
    V x[1 << L];
    HETAL_UNROLL
    for (int k = 0; k < (1 << L); ++k) x[k] = load<V>(a + j + t * k);
    inverse_levels<L, TIGHT>(x, roots, node, m);
    HETAL_UNROLL
    for (int k = 0; k < (1 << L); ++k) store(a + j + t * k, x[k]);
  }
}

// Levels of a row before its tail: at most two passes of up to three levels each.
template <class V>
HETAL_HD void forward_head(double *a, int log2_n, long node, const double *roots, const Narrow<V> &m, bool tight) {
  constexpr int TAIL = 2 * log2_of(Lanes<V>::count);
  int left = log2_n - TAIL, done = 0;
  while (left > 0) {
    const int take = left >= 3 && left != 4 ? 3 : (left >= 2 ? 2 : 1);
    const int n = 1 << (log2_n - done);
    for (int i = 0; i < (1 << done); ++i) {
      double *segment = a + (long)n * i;
      const long v = (node << done) + i;
      if (take == 3)
        forward_pass<3>(segment, n, v, roots, m, tight);
      else if (take == 2)
        forward_pass<2>(segment, n, v, roots, m, tight);
      else
        forward_pass<1>(segment, n, v, roots, m, tight);
    }
    done += take;
    left -= take;
  }
}

template <bool TIGHT, class V>
HETAL_HD void inverse_head(double *a, int log2_n, long node, const double *roots, const Narrow<V> &m) {
  constexpr int TAIL = 2 * log2_of(Lanes<V>::count);
  int left = log2_n - TAIL;
  while (left > 0) {
    const int take = left >= 3 && left != 4 ? 3 : (left >= 2 ? 2 : 1);
    const int done = left - take;
    const int n = 1 << (log2_n - done);
    for (int i = 0; i < (1 << done); ++i) {
      double *segment = a + (long)n * i;
      const long v = (node << done) + i;
      if (take == 3)
        inverse_pass<3, TIGHT>(segment, n, v, roots, m);
      else if (take == 2)
        inverse_pass<2, TIGHT>(segment, n, v, roots, m);
      else
        inverse_pass<1, TIGHT>(segment, n, v, roots, m);
    }
    left -= take;
  }
}

// -- the last 2*log2(W) levels, on blocks of W*W -------------------------------------------------------------------------

template <class V>
HETAL_HD void forward_tail(double *a, long blocks, long first_node, const NarrowTwiddles &t, const Narrow<V> &m,
                           bool tight) {
  constexpr int W = Lanes<V>::count, LW = log2_of(W);
  for (long block = 0; block < blocks; ++block) {
    double *words = a + block * W * W;
    const long node = first_node + block;
    // Tail tables begin at the first block of the whole transform; its node is the number of all blocks.
    V x[W];
    HETAL_UNROLL
    for (int k = 0; k < W; ++k) x[k] = load<V>(words + W * k);
    forward_levels<LW>(x, t.roots, node, m);
    if (tight) {
      HETAL_UNROLL
      for (int k = 0; k < W; ++k) x[k] = m.reduce(x[k]);
    }
    transpose<W>(x);
    const double *tail = t.tail + block * (W - 1) * W;
    HETAL_UNROLL
    for (int s = 0; s < LW; ++s) {
      const int half = W >> (s + 1);
      HETAL_UNROLL
      for (int n = 0; n < (1 << s); ++n) {
        const V w = load<V>(tail + ((1 << s) - 1 + n) * W);
          HETAL_UNROLL
        for (int k = 0; k < half; ++k) {
          V &u = x[2 * half * n + k], &v = x[2 * half * n + k + half];
          const V product = m.multiply(v, w);
          v = u - product;
          u = u + product;
        }
      }
    }
    HETAL_UNROLL
    for (int k = 0; k < W; ++k) x[k] = m.reduce(x[k]);
    transpose<W>(x);
    HETAL_UNROLL
    for (int k = 0; k < W; ++k) store(words + W * k, x[k]);
  }
}

template <bool TIGHT, class V>
HETAL_HD void inverse_tail(double *a, long blocks, long first_node, const NarrowTwiddles &t, const Narrow<V> &m) {
  constexpr int W = Lanes<V>::count, LW = log2_of(W);
  for (long block = 0; block < blocks; ++block) {
    double *words = a + block * W * W;
    const long node = first_node + block;
    V x[W];
    HETAL_UNROLL
    for (int k = 0; k < W; ++k) x[k] = load<V>(words + W * k);
    transpose<W>(x);
    const double *tail = t.tail + block * (W - 1) * W;
    HETAL_UNROLL
    for (int s = LW - 1; s >= 0; --s) {
      const int half = W >> (s + 1);
      HETAL_UNROLL
      for (int n = 0; n < (1 << s); ++n) {
        const V w = load<V>(tail + ((1 << s) - 1 + n) * W);
          HETAL_UNROLL
        for (int k = 0; k < half; ++k) {
          V &u = x[2 * half * n + k], &v = x[2 * half * n + k + half];
          const V difference = u - v;
          u = u + v;
          v = m.multiply(difference, w);
        }
      }
      if ((LW - s) % 2 == 0 || s == 0) {
        HETAL_UNROLL
        for (int i = 0; i < W; ++i)
          if (TIGHT || (i & (half | (half >> 1))) == 0) x[i] = m.reduce(x[i]);
      }
    }
    transpose<W>(x);
    inverse_levels<LW, TIGHT>(x, t.roots, node, m);
    HETAL_UNROLL
    for (int k = 0; k < W; ++k) store(words + W * k, x[k]);
  }
}

// -- columns -------------------------------------------------------------------------------------------------------------

// L levels of a column pass between two arrays whose rows lie `from_stride` and `to_stride` words apart.
template <int L, class V>
HETAL_HD void forward_columns(const double *from, long from_stride, double *to, long to_stride, int rows, long node,
                              const double *roots, const Narrow<V> &m, bool reduced) {
  constexpr int W = Lanes<V>::count;
  const int t = rows >> L;
  for (int j = 0; j < t; ++j)
    for (int c = 0; c < COLUMN_TILE; c += W) {
      V x[1 << L];
      HETAL_UNROLL
      for (int k = 0; k < (1 << L); ++k) x[k] = load<V>(from + (j + t * k) * from_stride + c);
      forward_levels<L>(x, roots, node, m);
      HETAL_UNROLL
      for (int k = 0; k < (1 << L); ++k) store(to + (j + t * k) * to_stride + c, reduced ? m.reduce(x[k]) : x[k]);
    }
}

template <int L, bool TIGHT, class V>
HETAL_HD void inverse_columns(const double *from, long from_stride, double *to, long to_stride, int rows, long node,
                              const double *roots, const Narrow<V> &m) {
  constexpr int W = Lanes<V>::count;
  const int t = rows >> L;
  for (int j = 0; j < t; ++j)
    for (int c = 0; c < COLUMN_TILE; c += W) {
      V x[1 << L];
      HETAL_UNROLL
      for (int k = 0; k < (1 << L); ++k) x[k] = load<V>(from + (j + t * k) * from_stride + c);
      inverse_levels<L, TIGHT>(x, roots, node, m);
      HETAL_UNROLL
      for (int k = 0; k < (1 << L); ++k) store(to + (j + t * k) * to_stride + c, x[k]);
    }
}

// Both passes of a column transform of 2^(A+B) rows, through a tile that lies in the first-level cache.
template <int A, int B, class V>
HETAL_HD void forward_column_tile(double *a, long stride, double *tile, const double *roots, const Narrow<V> &m,
                                  bool tight) {
  constexpr int ROWS = 1 << (A + B);
  forward_columns<A>(a, stride, tile, COLUMN_TILE, ROWS, 1, roots, m, tight);
  for (int i = 0; i < (1 << A); ++i)
    forward_columns<B>(tile + (long)i * (1 << B) * COLUMN_TILE, COLUMN_TILE, a + (long)i * (1 << B) * stride, stride,
                       1 << B, (1 << A) + i, roots, m, true);
}

template <int A, int B, bool TIGHT, class V>
HETAL_HD void inverse_column_tile(double *a, long stride, double *tile, const double *roots, const Narrow<V> &m) {
  constexpr int ROWS = 1 << (A + B);
  for (int i = 0; i < (1 << A); ++i)
    inverse_columns<B, TIGHT>(a + (long)i * (1 << B) * stride, stride, tile + (long)i * (1 << B) * COLUMN_TILE,
                              COLUMN_TILE, 1 << B, (1 << A) + i, roots, m);
  inverse_columns<A, TIGHT>(tile, COLUMN_TILE, a, stride, ROWS, 1, roots, m);
}

// -- whole transforms ----------------------------------------------------------------------------------------------------

template <class V>
HETAL_HD void forward_ntt(double *a, int log2_n, const NarrowTwiddles &t, const Narrow<V> &m, bool tight) {
  constexpr int W = Lanes<V>::count;
  const int columns = column_levels(log2_n), row_log2 = log2_n - columns;
  const long row = 1L << row_log2;
  if (columns) {
    alignas(64) double tile[COLUMN_TILE << COLUMN_LEVELS_MAX];
    for (long c = 0; c < row; c += COLUMN_TILE) switch (columns) {
        case 5:
          forward_column_tile<2, 3>(a + c, row, tile, t.roots, m, tight);
          break;
        case 6:
          forward_column_tile<3, 3>(a + c, row, tile, t.roots, m, tight);
          break;
        case 7:
          forward_column_tile<3, 4>(a + c, row, tile, t.roots, m, tight);
          break;
        default:
          forward_column_tile<4, 4>(a + c, row, tile, t.roots, m, tight);
      }
  }
  const long blocks = row / (W * W);
  for (long r = 0; r < (1L << columns); ++r) {
    const long node = (1L << columns) + r;
    forward_head(a + r * row, row_log2, node, t.roots, m, tight);
    forward_tail(a + r * row, blocks, node * blocks, NarrowTwiddles{t.roots, t.tail + r * blocks * (W - 1) * W}, m,
                 tight);
  }
}

// Scaled by `scale` (which holds 1/N). The result is the centred residue itself, never its neighbour by p: what is made
// from it (base conversions) then has the same bits whatever the order of the lazy reductions was.
template <bool TIGHT, class V>
HETAL_HD void inverse_ntt_(double *a, int log2_n, const NarrowTwiddles &t, const Narrow<V> &m, double scale) {
  constexpr int W = Lanes<V>::count;
  const int columns = column_levels(log2_n), row_log2 = log2_n - columns;
  const long row = 1L << row_log2;
  const long blocks = row / (W * W);
  for (long r = 0; r < (1L << columns); ++r) {
    const long node = (1L << columns) + r;
    inverse_tail<TIGHT>(a + r * row, blocks, node * blocks,
                        NarrowTwiddles{t.roots, t.tail + r * blocks * (W - 1) * W}, m);
    inverse_head<TIGHT>(a + r * row, row_log2, node, t.roots, m);
  }
  if (columns) {
    alignas(64) double tile[COLUMN_TILE << COLUMN_LEVELS_MAX];
    for (long c = 0; c < row; c += COLUMN_TILE) switch (columns) {
        case 5:
          inverse_column_tile<2, 3, TIGHT>(a + c, row, tile, t.roots, m);
          break;
        case 6:
          inverse_column_tile<3, 3, TIGHT>(a + c, row, tile, t.roots, m);
          break;
        case 7:
          inverse_column_tile<3, 4, TIGHT>(a + c, row, tile, t.roots, m);
          break;
        default:
          inverse_column_tile<4, 4, TIGHT>(a + c, row, tile, t.roots, m);
      }
  }
  const V s = splat<V>(scale), quotient = s * m.inverse, half = m.p * 0.5;
  for (long i = 0; i < (1L << log2_n); i += W) {
    V x = m.reduce(m.multiply(load<V>(a + i), s, quotient));
    x = x > half ? x - m.p : x;
    store(a + i, x < -half ? x + m.p : x);
  }
}

template <class V>
HETAL_HD void inverse_ntt(double *a, int log2_n, const NarrowTwiddles &t, const Narrow<V> &m, double scale,
                          bool tight) {
  if (tight)
    inverse_ntt_<true>(a, log2_n, t, m, scale);
  else
    inverse_ntt_<false>(a, log2_n, t, m, scale);
}

#endif  // __CUDACC__

// -- wide moduli ---------------------------------------------------------------------------------------------------------

struct WideTwiddles {
  const u64 *roots, *quotients;  // by node
};

// Residues stay below 4p inside (Harvey); reduced at the end.
HETAL_HD void forward_ntt(Word *a, int log2_n, const WideTwiddles &t, const Wide &m) {
  const long n = 1L << log2_n;
  const u64 twice = 2 * m.p;
  for (long groups = 1, distance = n / 2; distance; groups *= 2, distance /= 2)
    for (long i = 0; i < groups; ++i) {
      const u64 w = t.roots[groups + i], quotient = t.quotients[groups + i];
      Word *x = a + 2 * i * distance, *y = x + distance;
      for (long j = 0; j < distance; ++j) {
        const u64 u = x[j] >= twice ? x[j] - twice : x[j];
        const u64 v = m.multiply_lazy(y[j], w, quotient);
        x[j] = u + v;
        y[j] = u - v + twice;
      }
    }
  for (long j = 0; j < n; ++j) a[j] = m.reduce(a[j]);
}

HETAL_HD void inverse_ntt(Word *a, int log2_n, const WideTwiddles &t, const Wide &m, u64 scale, u64 scale_quotient) {
  const long n = 1L << log2_n;
  const u64 twice = 2 * m.p;
  for (long groups = n / 2, distance = 1; groups; groups /= 2, distance *= 2)
    for (long i = 0; i < groups; ++i) {
      const u64 w = t.roots[groups + i], quotient = t.quotients[groups + i];
      Word *x = a + 2 * i * distance, *y = x + distance;
      for (long j = 0; j < distance; ++j) {
        const u64 u = x[j], v = y[j], sum = u + v;
        x[j] = sum >= twice ? sum - twice : sum;
        y[j] = m.multiply_lazy(u - v + twice, w, quotient);
      }
    }
  for (long j = 0; j < n; ++j) a[j] = m.multiply(a[j], scale, scale_quotient);
}

}  // namespace hetal
