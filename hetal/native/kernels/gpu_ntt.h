// The GPU form of the transforms of ntt.h: two launches, one over tiles of columns and one over groups of rows, each
// in shared memory with up to four levels in the registers of a lane. Residues come out as those of the CPU form.
//
// A transform of 2^log2_n words is a matrix of 2^C rows and 2^R columns, rows contiguous; small ones are one row.
#pragma once

#include "gpu_execution.h"
#include "pointwise.h"

namespace hetal {

// -- policies: how one level treats two words ----------------------------------------------------------------------------

// With quotients rounded once (round_product), a butterfly's product of |x| <= B*p leaves (1/2 + B/16)*p below 2^49,
// (1/2 + B/8)*p above. Nine forward levels on residues then stay below 8p with quotients below 2^51; so do inverse ones
// reduced in pairs. Moduli above 2^49 (TIGHT) are reduced after every pass forward, after every second level back.
template <bool TIGHT>
struct NarrowLevels {
  typedef double Value;
  typedef double Memory;
  struct Twiddle {
    double w, quotient;
  };
  Narrow<double> m;
  const double *roots;

  HETAL_HD NarrowLevels(const Limb &limb, bool forward)
      : m(limb.p, limb.inverse), roots((forward ? limb.forward : limb.backward).roots) {}

  // A product by each twiddle costs less than reading a second table.
  HETAL_HD Twiddle twiddle(int node) const {
    const double w = roots[node];
    return Twiddle{w, w * m.inverse};
  }
  HETAL_HD void forward(double &a, double &b, const Twiddle &t) const {
    const double product = m.multiply(b, t.w, t.quotient);
    b = a - product;
    a = a + product;
  }
  HETAL_HD void inverse(double &a, double &b, const Twiddle &t) const {
    const double difference = a - b;
    a = a + b;
    b = m.multiply(difference, t.w, t.quotient);
  }
  HETAL_HD double after_pass(double x) const { return TIGHT ? m.reduce(x) : x; }
  HETAL_HD double after_columns(double x) const { return m.reduce(x); }
  HETAL_HD double residue(double x) const { return m.reduce(x); }
  // After a second inverse level: words that met a product in neither of the two, or any.
  HETAL_HD double after_pair(double x, bool sums) const { return TIGHT || sums ? m.reduce(x) : x; }
  // The centred residue itself, never its neighbour by p.
  HETAL_HD double scaled(double x, const Constant &scale, u64 modulus) const {
    const double s = centred(scale.value, modulus);
    const double half = m.p * 0.5;
    x = m.reduce(m.multiply(x, s, s * m.inverse));
    x = x > half ? x - m.p : x;
    return x < -half ? x + m.p : x;
  }
};

// Residues stay below 4p forward, below 2p back (Harvey).
struct WideLevels {
  typedef u64 Value;
  typedef Word Memory;
  struct Twiddle {
    u64 w, quotient;
  };
  Wide m;
  WideTwiddles table;

  HETAL_HD WideLevels(const Limb &limb, bool forward)
      : m(limb.integer), table(forward ? limb.wide_forward : limb.wide_backward) {}

  HETAL_HD Twiddle twiddle(int node) const { return Twiddle{table.roots[node], table.quotients[node]}; }
  HETAL_HD void forward(u64 &a, u64 &b, const Twiddle &t) const {
    const u64 twice = 2 * m.p, u = a >= twice ? a - twice : a, v = m.multiply_lazy(b, t.w, t.quotient);
    a = u + v;
    b = u - v + twice;
  }
  HETAL_HD void inverse(u64 &a, u64 &b, const Twiddle &t) const {
    const u64 twice = 2 * m.p, sum = a + b;
    b = m.multiply_lazy(a - b + twice, t.w, t.quotient);
    a = sum >= twice ? sum - twice : sum;
  }
  HETAL_HD u64 after_pass(u64 x) const { return x; }
  HETAL_HD u64 after_columns(u64 x) const { return x; }
  HETAL_HD u64 residue(u64 x) const { return m.reduce(x); }
  HETAL_HD u64 after_pair(u64 x, bool) const { return x; }
  HETAL_HD u64 scaled(u64 x, const Constant &scale, u64) const { return m.multiply(x, scale.value, scale.quotient); }
};

// -- levels in registers -------------------------------------------------------------------------------------------------

// Recursion by level: with a loop in its place compilers leave some bounds open, and the words in memory.
template <int L, int S = 0, class P>
HETAL_HD void gpu_forward_levels(typename P::Value *x, const P &p, int node) {
  if constexpr (S < L) {
    constexpr int HALF = (1 << L) >> (S + 1);
    HETAL_UNROLL
    for (int n = 0; n < (1 << S); ++n) {
      const typename P::Twiddle t = p.twiddle((node << S) + n);
      HETAL_UNROLL
      for (int k = 0; k < HALF; ++k) p.forward(x[2 * HALF * n + k], x[2 * HALF * n + k + HALF], t);
    }
    gpu_forward_levels<L, S + 1>(x, p, node);
  }
}

template <int L, int S = L - 1, class P>
HETAL_HD void gpu_inverse_levels(typename P::Value *x, const P &p, int node) {
  if constexpr (S >= 0) {
    constexpr int HALF = (1 << L) >> (S + 1);
    HETAL_UNROLL
    for (int n = 0; n < (1 << S); ++n) {
      const typename P::Twiddle t = p.twiddle((node << S) + n);
      HETAL_UNROLL
      for (int k = 0; k < HALF; ++k) p.inverse(x[2 * HALF * n + k], x[2 * HALF * n + k + HALF], t);
    }
    if constexpr ((L - S) % 2 == 0 || S == 0) {
      // HALF and HALF/2 are the bits of this level and the one before.
      HETAL_UNROLL
      for (int i = 0; i < (1 << L); ++i) x[i] = p.after_pair(x[i], (i & (HALF | (HALF >> 1))) == 0);
    }
    gpu_inverse_levels<L, S - 1>(x, p, node);
  }
}

// -- shapes --------------------------------------------------------------------------------------------------------------

template <int LOG2_N>
struct GpuShape {
  static constexpr int COLUMN_LEVELS = LOG2_N < 10 ? 0 : LOG2_N / 2, ROW_LEVELS = LOG2_N - COLUMN_LEVELS;
  static constexpr int ROWS = 1 << COLUMN_LEVELS, ROW = 1 << ROW_LEVELS;
  // A block of the column launch takes whole cache lines of 16 words; one of the row launch up to 4096 words.
  static constexpr int TILE_COLUMNS = ROW < 16 ? ROW : 16, COLUMN_BLOCKS = ROW / TILE_COLUMNS;
  static constexpr int TILE_ROWS = 4096 / ROW < ROWS ? 4096 / ROW : ROWS, ROW_BLOCKS = ROWS / TILE_ROWS;
  // Rows in shared memory have a word of padding after every 16, against bank conflicts.
  static constexpr int PADDED_ROW = ROW + ROW / 16;
  static constexpr int COLUMN_TILE_WORDS = TILE_COLUMNS * ROWS, ROW_TILE_WORDS = TILE_ROWS * PADDED_ROW;
  static constexpr int TILE_WORDS = COLUMN_TILE_WORDS > ROW_TILE_WORDS ? COLUMN_TILE_WORDS : ROW_TILE_WORDS;
  static constexpr int THREADS = COLUMN_TILE_WORDS / 16 < 32 ? 32 : COLUMN_TILE_WORDS / 16;
  static constexpr int ROW_THREADS = TILE_ROWS * ROW / 16 < 32 ? 32 : TILE_ROWS * ROW / 16;
};

HETAL_HD constexpr int padded(int word) { return word + word / 16; }

// Levels of the first of the passes that make `levels` together, four at most each.
HETAL_HD constexpr int pass_levels(int levels) {
  const int passes = (levels + 3) / 4;
  return passes == 0 ? 0 : (levels + passes - 1) / passes;
}

// -- columns -------------------------------------------------------------------------------------------------------------

// The levels from DONE on, of LEVELS.
template <class Shape, int DONE, class P, class Ex>
HETAL_HD void gpu_forward_column_passes(const Ex &ex, const P &p, typename P::Memory *a, int column,
                                        typename P::Memory *tile) {
  constexpr int LEVELS = Shape::COLUMN_LEVELS, C = Shape::TILE_COLUMNS;
  if constexpr (DONE < LEVELS) {
    constexpr int L = pass_levels(LEVELS - DONE), SEGMENT = 1 << (LEVELS - DONE), T = SEGMENT >> L;
    ex.phase(C << (LEVELS - L), [&](int lane) {
      const int c = lane % C, j = lane / C % T, segment = lane / C / T;
      typename P::Value x[1 << L];
      HETAL_UNROLL
      for (int k = 0; k < (1 << L); ++k) {
        const int r = segment * SEGMENT + j + T * k;
        x[k] = DONE == 0 ? a[r * Shape::ROW + column + c] : tile[r * C + c];
      }
      gpu_forward_levels<L>(x, p, (1 << DONE) + segment);
      HETAL_UNROLL
      for (int k = 0; k < (1 << L); ++k) {
        const int r = segment * SEGMENT + j + T * k;
        if (DONE + L == LEVELS)
          a[r * Shape::ROW + column + c] = p.after_columns(x[k]);
        else
          tile[r * C + c] = p.after_pass(x[k]);
      }
    });
    gpu_forward_column_passes<Shape, DONE + L>(ex, p, a, column, tile);
  }
}

// The levels below LEFT, last ones first.
template <class Shape, int LEFT, class P, class Ex>
HETAL_HD void gpu_inverse_column_passes(const Ex &ex, const P &p, typename P::Memory *a, int column,
                                        typename P::Memory *tile, const Constant &scale, u64 modulus) {
  constexpr int LEVELS = Shape::COLUMN_LEVELS, C = Shape::TILE_COLUMNS;
  if constexpr (LEFT > 0) {
    constexpr int L = pass_levels(LEFT), DONE = LEFT - L, SEGMENT = 1 << (LEVELS - DONE), T = SEGMENT >> L;
    ex.phase(C << (LEVELS - L), [&](int lane) {
      const int c = lane % C, j = lane / C % T, segment = lane / C / T;
      typename P::Value x[1 << L];
      HETAL_UNROLL
      for (int k = 0; k < (1 << L); ++k) {
        const int r = segment * SEGMENT + j + T * k;
        x[k] = LEFT == LEVELS ? a[r * Shape::ROW + column + c] : tile[r * C + c];
      }
      gpu_inverse_levels<L>(x, p, (1 << DONE) + segment);
      HETAL_UNROLL
      for (int k = 0; k < (1 << L); ++k) {
        const int r = segment * SEGMENT + j + T * k;
        if (DONE == 0)
          a[r * Shape::ROW + column + c] = p.scaled(x[k], scale, modulus);
        else
          tile[r * C + c] = x[k];
      }
    });
    gpu_inverse_column_passes<Shape, DONE>(ex, p, a, column, tile, scale, modulus);
  }
}

// -- rows ----------------------------------------------------------------------------------------------------------------

template <class Shape, int DONE, class P, class Ex>
HETAL_HD void gpu_forward_row_passes(const Ex &ex, const P &p, const typename P::Memory *a, int row,
                                     typename P::Memory *tile) {
  constexpr int LEVELS = Shape::ROW_LEVELS, N = Shape::PADDED_ROW;
  if constexpr (DONE < LEVELS) {
    constexpr int L = pass_levels(LEVELS - DONE), SEGMENT = 1 << (LEVELS - DONE), T = SEGMENT >> L;
    constexpr int LANES = 1 << (LEVELS - L);
    ex.phase(Shape::TILE_ROWS * LANES, [&](int lane) {
      const int j = lane % T, segment = lane % LANES / T, r = lane / LANES;
      typename P::Value x[1 << L];
      HETAL_UNROLL
      for (int k = 0; k < (1 << L); ++k) {
        const int e = segment * SEGMENT + j + T * k;
        x[k] = DONE == 0 ? a[(row + r) * Shape::ROW + e] : tile[r * N + padded(e)];
      }
      gpu_forward_levels<L>(x, p, ((Shape::ROWS + row + r) << DONE) + segment);
      HETAL_UNROLL
      for (int k = 0; k < (1 << L); ++k) {
        const int e = segment * SEGMENT + j + T * k;
        tile[r * N + padded(e)] = DONE + L == LEVELS ? p.residue(x[k]) : p.after_pass(x[k]);
      }
    });
    gpu_forward_row_passes<Shape, DONE + L>(ex, p, a, row, tile);
  }
}

template <class Shape, int LEFT, class P, class Ex>
HETAL_HD void gpu_inverse_row_passes(const Ex &ex, const P &p, typename P::Memory *a, int row,
                                     typename P::Memory *tile) {
  constexpr int LEVELS = Shape::ROW_LEVELS, N = Shape::PADDED_ROW;
  if constexpr (LEFT > 0) {
    constexpr int L = pass_levels(LEFT), DONE = LEFT - L, SEGMENT = 1 << (LEVELS - DONE), T = SEGMENT >> L;
    constexpr int LANES = 1 << (LEVELS - L);
    ex.phase(Shape::TILE_ROWS * LANES, [&](int lane) {
      const int j = lane % T, segment = lane % LANES / T, r = lane / LANES;
      typename P::Value x[1 << L];
      HETAL_UNROLL
      for (int k = 0; k < (1 << L); ++k) x[k] = tile[r * N + padded(segment * SEGMENT + j + T * k)];
      gpu_inverse_levels<L>(x, p, ((Shape::ROWS + row + r) << DONE) + segment);
      HETAL_UNROLL
      for (int k = 0; k < (1 << L); ++k) {
        const int e = segment * SEGMENT + j + T * k;
        if (DONE == 0)
          a[(row + r) * Shape::ROW + e] = x[k];
        else
          tile[r * N + padded(e)] = x[k];
      }
    });
    gpu_inverse_row_passes<Shape, DONE>(ex, p, a, row, tile);
  }
}

// -- kernels: `block` of the shape's COLUMN_BLOCKS or ROW_BLOCKS, in place ------------------------------------------------
//
// Whole transforms are columns then rows forward, rows then columns back; small ones (no column levels) rows alone.

template <int LOG2_N, class P, class Ex>
HETAL_HD void gpu_forward_columns(const Ex &ex, const P &p, typename P::Memory *a, int block,
                                  typename P::Memory *tile) {
  typedef GpuShape<LOG2_N> Shape;
  gpu_forward_column_passes<Shape, 0>(ex, p, a, block * Shape::TILE_COLUMNS, tile);
}

// `to(word, value)` takes the residues in the order of their words.
template <int LOG2_N, class P, class Ex, class To>
HETAL_HD void gpu_forward_rows(const Ex &ex, const P &p, const typename P::Memory *a, int block,
                               typename P::Memory *tile, const To &to) {
  typedef GpuShape<LOG2_N> Shape;
  const int row = block * Shape::TILE_ROWS;
  gpu_forward_row_passes<Shape, 0>(ex, p, a, row, tile);
  ex.phase(Shape::TILE_ROWS * Shape::ROW, [&](int lane) {
    const int r = lane / Shape::ROW, e = lane % Shape::ROW;
    to((row + r) * Shape::ROW + e, (typename P::Value)tile[r * Shape::PADDED_ROW + padded(e)]);
  });
}

// `from(word)` gives the residues.
template <int LOG2_N, class P, class Ex, class From>
HETAL_HD void gpu_inverse_rows(const Ex &ex, const P &p, const From &from, typename P::Memory *a, int block,
                               typename P::Memory *tile) {
  typedef GpuShape<LOG2_N> Shape;
  const int row = block * Shape::TILE_ROWS;
  ex.phase(Shape::TILE_ROWS * Shape::ROW, [&](int lane) {
    const int r = lane / Shape::ROW, e = lane % Shape::ROW;
    tile[r * Shape::PADDED_ROW + padded(e)] = from((row + r) * Shape::ROW + e);
  });
  gpu_inverse_row_passes<Shape, Shape::ROW_LEVELS>(ex, p, a, row, tile);
}

// Times `scale`, which holds 1/N.
template <int LOG2_N, class P, class Ex>
HETAL_HD void gpu_inverse_columns(const Ex &ex, const P &p, typename P::Memory *a, int block,
                                  typename P::Memory *tile, const Constant &scale, u64 modulus) {
  typedef GpuShape<LOG2_N> Shape;
  static_assert(Shape::COLUMN_LEVELS > 0, "small transforms have no columns");
  gpu_inverse_column_passes<Shape, Shape::COLUMN_LEVELS>(ex, p, a, block * Shape::TILE_COLUMNS, tile, scale, modulus);
}

}  // namespace hetal
