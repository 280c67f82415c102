// The inner product of a key switch with one key, and the second pass of the digits' transforms, in one launch: digits
// are read once after their first pass, and never written after their second.
#pragma once

#include "gpu_batch.h"

namespace hetal {

// A block has a quarter of the rows that a transform has alone: the sums of both halves lie beside them.
template <int LOG2_N>
struct SwitchShape : GpuShape<LOG2_N> {
  typedef GpuShape<LOG2_N> Whole;
  static constexpr int TILE_ROWS = Whole::TILE_ROWS < 4 ? 1 : Whole::TILE_ROWS / 4;
  static constexpr int TILE = TILE_ROWS * Whole::ROW;
  static constexpr int ROW_BLOCKS = Whole::ROWS / TILE_ROWS;
  static constexpr int ROW_TILE_WORDS = TILE_ROWS * Whole::PADDED_ROW;
  static constexpr int SHARED_WORDS = ROW_TILE_WORDS + 4 * TILE;
  static constexpr int THREADS = TILE / 16 < 32 ? 32 : TILE / 16;
};

// A sum that waits in shared memory, in two arrays of `stride` words. Eight terms at most: it is folded once.
HETAL_HD void load_sum(NarrowSum &s, const double *at, int stride) {
  s.sum.high = at[0];
  s.sum.low = at[stride];
  s.taken = 1;
}
HETAL_HD void store_sum(const NarrowSum &s, double *at, int stride) {
  at[0] = s.sum.high;
  at[stride] = s.sum.low;
}
HETAL_HD void load_sum(WideSum &s, const double *at, int stride) {
  s.sum.low = words(at)[0];
  s.sum.high = words(at)[stride];
}
HETAL_HD void store_sum(const WideSum &s, double *at, int stride) {
  words(at)[0] = s.sum.low;
  words(at)[stride] = s.sum.high;
}

template <class P>
struct SumFor {
  typedef NarrowSum Sum;
};
template <>
struct SumFor<WideLevels> {
  typedef WideSum Sum;
};

template <int LOG2_N>
struct SwitchRows {
  SwitchBatch<LOG2_N> batch;

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *shared) const {
    with_levels(batch.chain.limb(at.y), true, [&](const auto &p) { run_with(ex, at, p, shared); });
  }

  template <class Ex, class P>
  HETAL_HD void run_with(const Ex &ex, const GridPoint &at, const P &p, double *shared) const {
    typedef SwitchShape<LOG2_N> Shape;
    typedef typename SumFor<P>::Sum Sum;
    constexpr int TILE = Shape::TILE;
    const Limb &m = batch.chain.limb(at.y);
    const auto c = batch.at_limb(at);
    typename P::Memory *tile = memory_of(p, shared);
    double *sums = shared + Shape::ROW_TILE_WORDS;
    const int row = at.x * Shape::TILE_ROWS;
    const long first = (long)at.x * TILE;
    ex.phase(TILE, [&](int lane) {
      Sum s;
      s.start(m);
      store_sum(s, sums + lane, TILE);
      store_sum(s, sums + 2 * TILE + lane, TILE);
    });
    for (int k = 0; k < batch.terms; ++k) {
      const auto *digit = memory_of(p, c.digit(k));
      const bool own = c.own(k);
      if (!own) gpu_forward_row_passes<Shape, 0>(ex, p, digit, row, tile);
      const double *b = c.b(k), *a = c.a(k);
      ex.phase(TILE, [&](int lane) {
        const int r = lane / Shape::ROW, e = lane % Shape::ROW;
        const typename P::Value d = own ? digit[first + lane] : tile[r * Shape::PADDED_ROW + padded(e)];
        HETAL_UNROLL
        for (int half = 0; half < 2; ++half) {
          Sum s;
          s.start(m);
          load_sum(s, sums + 2 * half * TILE + lane, TILE);
          s.add(d, word_at(s, half ? a : b, first + lane));
          store_sum(s, sums + 2 * half * TILE + lane, TILE);
        }
      });
    }
    ex.phase(TILE, [&](int lane) {
      const Move move = c.permutation() ? move_of(*c.permutation(), first + lane) : Move{first + lane, first + lane};
      HETAL_UNROLL
      for (int half = 0; half < 2; ++half) {
        Sum s;
        s.start(m);
        load_sum(s, sums + 2 * half * TILE + (int)(move.from - first), TILE);
        put_switched(p.m, c, half, move, s.result());
      }
    });
  }
};

}  // namespace hetal
