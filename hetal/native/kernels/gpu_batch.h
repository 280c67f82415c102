// GPU kernels over batches: grid.x counts blocks of one limb, grid.y limbs (or groups of targets), grid.z polynomials.
// What a launch needs goes by value (below 4 KiB), so that captured graphs own it; tables that a shape of polynomials
// fixes once lie in device memory. The limbs of a polynomial lie one after the other.
#pragma once

#include "gpu_ntt.h"
#include "gpu_sums.h"

namespace hetal {

constexpr int BATCH_POLYS = 16;

struct GridPoint {
  int x, y, z;
};

// Limb i of a polynomial of q_limbs limbs modulo Q and others modulo P: limbs[i], or limbs[i + p_offset] where i is not
// below q_limbs. An operand with more limbs than needed is described alike.
struct Chain {
  const Limb *limbs;
  int q_limbs, p_offset;

  HETAL_HD const Limb &limb(int i) const { return limbs[limb_index(i)]; }
  HETAL_HD int limb_index(int i) const { return i < q_limbs ? i : i + p_offset; }
};

struct Polys {
  double *at[BATCH_POLYS];
};

// By limb.
struct Constants {
  Constant at[2 * TERMS_MAX];
};

template <int LOG2_N>
HETAL_HD double *limb_of(double *poly, int i) {
  return poly + ((long)i << LOG2_N);
}
template <int LOG2_N>
HETAL_HD const double *limb_of(const double *poly, int i) {
  return poly + ((long)i << LOG2_N);
}

// -- transforms ----------------------------------------------------------------------------------------------------------

// f(policy) for the policy of a limb.
template <class F>
HETAL_HD void with_levels(const Limb &m, bool forward, const F &f) {
  if (m.wide)
    f(WideLevels(m, forward));
  else if (m.tight)
    f(NarrowLevels<true>(m, forward));
  else
    f(NarrowLevels<false>(m, forward));
}

HETAL_HD double *memory_of(const NarrowLevels<true> &, double *a) { return a; }
HETAL_HD double *memory_of(const NarrowLevels<false> &, double *a) { return a; }
HETAL_HD Word *memory_of(const WideLevels &, double *a) { return words(a); }
HETAL_HD const double *memory_of(const NarrowLevels<true> &, const double *a) { return a; }
HETAL_HD const double *memory_of(const NarrowLevels<false> &, const double *a) { return a; }
HETAL_HD const Word *memory_of(const WideLevels &, const double *a) { return words(a); }

// Where polynomials are the digits of a key switch: limbs of Q of which digit `first` + z is made, that nobody reads.
struct Digits {
  int limbs, first;  // of each; 0 where polynomials are no digits

  HETAL_HD bool has(const Chain &chain, const GridPoint &at) const {
    return limbs && at.y < chain.q_limbs && at.y / limbs == first + at.z;
  }
};

template <int LOG2_N>
struct ForwardColumns {
  Chain chain;
  Polys a;
  Digits left_out;

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *shared) const {
    if (left_out.has(chain, at)) return;
    double *limb = limb_of<LOG2_N>(a.at[at.z], at.y);
    with_levels(chain.limb(at.y), true, [&](const auto &p) {
      gpu_forward_columns<LOG2_N>(ex, p, memory_of(p, limb), at.x, memory_of(p, shared));
    });
  }
};

template <int LOG2_N>
struct ForwardRows {
  Chain chain;
  Polys a;
  Digits left_out;

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *shared) const {
    if (left_out.has(chain, at)) return;
    double *limb = limb_of<LOG2_N>(a.at[at.z], at.y);
    with_levels(chain.limb(at.y), true, [&](const auto &p) {
      auto *words_of_limb = memory_of(p, limb);
      gpu_forward_rows<LOG2_N>(ex, p, words_of_limb, at.x, memory_of(p, shared),
                               [&](int i, auto value) { words_of_limb[i] = value; });
    });
  }
};

// The end of a division in the same launch: out = (x - transform of a) * constant.
template <int LOG2_N>
struct ForwardRowsDivide {
  Chain chain;
  Polys out, x, a;
  Constants constants;

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *shared) const {
    const Limb &m = chain.limb(at.y);
    const Factor c = factor(m, constants.at[at.y]);
    double *to = limb_of<LOG2_N>(out.at[at.z], at.y);
    const double *from = limb_of<LOG2_N>(x.at[at.z], at.y), *limb = limb_of<LOG2_N>(a.at[at.z], at.y);
    with_levels(m, true, [&](const auto &p) {
      gpu_forward_rows<LOG2_N>(ex, p, memory_of(p, limb), at.x, memory_of(p, shared), [&](int i, auto value) {
        put(p.m, to, i, difference_product(p.m, get(p.m, from, i), value, c));
      });
    });
  }
};

template <int LOG2_N>
struct InverseRows {
  Chain chain;
  Polys out, a;

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *shared) const {
    double *to = limb_of<LOG2_N>(out.at[at.z], at.y);
    const double *limb = limb_of<LOG2_N>(a.at[at.z], at.y);
    with_levels(chain.limb(at.y), false, [&](const auto &p) {
      const auto *from = memory_of(p, limb);
      gpu_inverse_rows<LOG2_N>(ex, p, [&](int i) { return from[i]; }, memory_of(p, to), at.x, memory_of(p, shared));
    });
  }
};

// Constants: scale / N.
template <int LOG2_N>
struct InverseColumns {
  Chain chain;
  Polys a;
  Constants constants;

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *shared) const {
    const Limb &m = chain.limb(at.y);
    double *limb = limb_of<LOG2_N>(a.at[at.z], at.y);
    with_levels(m, false, [&](const auto &p) {
      gpu_inverse_columns<LOG2_N>(ex, p, memory_of(p, limb), at.x, memory_of(p, shared), constants.at[at.y],
                                  m.modulus);
    });
  }
};

// -- word by word --------------------------------------------------------------------------------------------------------

// Add, Subtract, Multiply.
template <int LOG2_N, class Op>
struct Binary {
  Chain chain;
  Polys out, a, b;

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *) const {
    const Op op{limb_of<LOG2_N>(out.at[at.z], at.y), limb_of<LOG2_N>(a.at[at.z], at.y),
                limb_of<LOG2_N>(b.at[at.z], at.y)};
    gpu_each(ex, chain.limb(at.y), op, at.x, 1L << LOG2_N);
  }
};

template <int LOG2_N>
struct NegateBatch {
  Chain chain;
  Polys out, a;

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *) const {
    const Negate op{limb_of<LOG2_N>(out.at[at.z], at.y), limb_of<LOG2_N>(a.at[at.z], at.y)};
    gpu_each(ex, chain.limb(at.y), op, at.x, 1L << LOG2_N);
  }
};

// A factor of every polynomial: a plaintext, possibly compact, possibly with more limbs.
struct Operand {
  const double *words;
  int log2_run, p_offset;
};

template <int LOG2_N>
HETAL_HD Diagonal limb_of(const Operand &operand, const Chain &chain, int i) {
  const int limb = i < chain.q_limbs ? i : i + operand.p_offset;
  return Diagonal{operand.words ? operand.words + ((long)limb << (LOG2_N - operand.log2_run)) : nullptr,
                  operand.log2_run};
}

template <int LOG2_N>
struct MultiplyOperand {
  Chain chain;
  Polys out, a;
  Operand b[BATCH_POLYS];

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *) const {
    const Diagonal d = limb_of<LOG2_N>(b[at.z], chain, at.y);
    const MultiplyRuns op{limb_of<LOG2_N>(out.at[at.z], at.y), limb_of<LOG2_N>(a.at[at.z], at.y), d.words, d.log2_run};
    gpu_each(ex, chain.limb(at.y), op, at.x, 1L << LOG2_N);
  }
};

// MultiplyConstant, AddConstant.
template <int LOG2_N, class Op>
struct WithConstants {
  Chain chain;
  Polys out, a;
  Constants constants;

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *) const {
    const Limb &m = chain.limb(at.y);
    const Op op{limb_of<LOG2_N>(out.at[at.z], at.y), limb_of<LOG2_N>(a.at[at.z], at.y),
                factor(m, constants.at[at.y])};
    gpu_each(ex, m, op, at.x, 1L << LOG2_N);
  }
};

template <int LOG2_N>
struct SubtractMultiplyBatch {
  Chain chain;
  Polys out, x, t;
  Constants constants;

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *) const {
    const Limb &m = chain.limb(at.y);
    const SubtractMultiply op{limb_of<LOG2_N>(out.at[at.z], at.y), limb_of<LOG2_N>(x.at[at.z], at.y),
                              limb_of<LOG2_N>(t.at[at.z], at.y), factor(m, constants.at[at.y])};
    gpu_each(ex, m, op, at.x, 1L << LOG2_N);
  }
};

template <int LOG2_N>
struct TensorBatch {
  Chain chain;
  Polys out[3], a[2], b[2];

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *) const {
    const int i = at.y, z = at.z;
    const Tensor op{limb_of<LOG2_N>(out[0].at[z], i), limb_of<LOG2_N>(out[1].at[z], i),
                    limb_of<LOG2_N>(out[2].at[z], i), limb_of<LOG2_N>(a[0].at[z], i),
                    limb_of<LOG2_N>(a[1].at[z], i),   limb_of<LOG2_N>(b[0].at[z], i),
                    limb_of<LOG2_N>(b[1].at[z], i)};
    gpu_each(ex, chain.limb(i), op, at.x, 1L << LOG2_N);
  }
};

// Tables of the monomial: 64 words, then N/64, for each limb of the chain's table.
template <int LOG2_N>
struct MultiplyMonomialBatch {
  Chain chain;
  Polys out, a;
  const double *tables;

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *) const {
    const double *table = tables + (long)chain.limb_index(at.y) * (64 + (1L << LOG2_N) / 64);
    const MultiplyMonomial op{limb_of<LOG2_N>(out.at[at.z], at.y), limb_of<LOG2_N>(a.at[at.z], at.y), table,
                              table + 64};
    gpu_each(ex, chain.limb(at.y), op, at.x, 1L << LOG2_N);
  }
};

template <int LOG2_N>
struct PermuteBatch {
  Chain chain;
  Polys out, a;
  Permutation permutation;

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *) const {
    const Permute op{limb_of<LOG2_N>(out.at[at.z], at.y), limb_of<LOG2_N>(a.at[at.z], at.y), permutation};
    gpu_each(ex, chain.limb(at.y), op, at.x, 1L << LOG2_N);
  }
};

// Coefficients of polynomial z at coefficients.at[z]: one row for all limbs.
template <int LOG2_N>
struct FromIntegersBatch {
  Chain chain;
  Polys out, coefficients;

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *) const {
    gpu_from_integers(ex, chain.limb(at.y), limb_of<LOG2_N>(out.at[at.z], at.y), coefficients.at[at.z], at.x,
                      1L << LOG2_N);
  }
};

// Residues in [0, p) to and from the engine's form, in place or not; *bad becomes 1 where one is not below its modulus.
template <int LOG2_N>
struct ImportBatch {
  Chain chain;
  Polys out, residues;
  int *bad;

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *) const {
    const Word *from = words(limb_of<LOG2_N>(residues.at[at.z], at.y));
    gpu_import(ex, chain.limb(at.y), limb_of<LOG2_N>(out.at[at.z], at.y), [&](long i) { return (u64)from[i]; }, bad,
               at.x, 1L << LOG2_N);
  }
};

template <int LOG2_N>
struct ExportBatch {
  Chain chain;
  Polys residues, a;

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *) const {
    Word *to = words(limb_of<LOG2_N>(residues.at[at.z], at.y));
    gpu_export(ex, chain.limb(at.y), [&](long i, u64 r) { to[i] = r; }, limb_of<LOG2_N>(a.at[at.z], at.y), at.x,
               1L << LOG2_N);
  }
};

// -- between bases -------------------------------------------------------------------------------------------------------

// One conversion; device memory. Sources in the order of the CPU's (that of the quotient's sum).
struct ConversionPlan {
  int sources, targets, source_bits;
  bool exact, integers;
  const u32 *source_limbs, *source_rows;  // of the table of moduli; of the polynomial read
  const u32 *target_limbs, *target_rows;
  const u64 *constants;  // [target][source], the rounded quotient's last
};

template <int LOG2_N>
struct PlannedConversion {
  const ConversionPlan &plan;
  const Limb *limbs;
  const double *from;
  double *to;

  HETAL_HD int sources() const { return plan.sources; }
  HETAL_HD int targets() const { return plan.targets; }
  HETAL_HD bool exact() const { return plan.exact; }
  HETAL_HD bool integers() const { return plan.integers; }
  HETAL_HD int source_bits() const { return plan.source_bits; }
  HETAL_HD const Limb &source(int i) const { return limbs[plan.source_limbs[i]]; }
  HETAL_HD const double *y(int i) const { return limb_of<LOG2_N>(from, plan.source_rows[i]); }
  HETAL_HD const Limb &target(int t) const { return limbs[plan.target_limbs[t]]; }
  HETAL_HD double *out(int t) const { return limb_of<LOG2_N>(to, plan.target_rows[t]); }
  HETAL_HD u64 constant(int t, int i) const {
    return plan.constants[(long)t * (plan.sources + (plan.exact ? 1 : 0)) + i];
  }
};

// grid.y: groups of GPU_CONVERSION_TARGETS of the plan with the most targets; grid.z: conversions, of plan z*plan_step.
template <int LOG2_N>
struct ConvertBatch {
  const Limb *limbs;
  const ConversionPlan *plans;
  int plan_step;
  Polys out, y;

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *shared) const {
    const ConversionPlan &plan = plans[at.z * plan_step];
    if (at.y * GPU_CONVERSION_TARGETS >= plan.targets) return;
    const PlannedConversion<LOG2_N> c{plan, limbs, y.at[at.z], out.at[at.z]};
    gpu_convert(ex, c, at.x, at.y, 1L << LOG2_N, shared);
  }
};

// -- inner products ------------------------------------------------------------------------------------------------------

struct SwitchKey {
  const double *b, *a;  // of digit 0
  long digit_stride;
  int p_offset;         // limb i of the chain above q_limbs is limb i + p_offset of the key
  Permutation permutation;  // targets null for none
  double *out[2];
  const double *after[2];  // added to the results; null for nothing
};

// grid.z: keys. Digit d of limb i is limb i of digits + d*digit_stride; but where i is of digit d, the polynomial's own.
template <int LOG2_N>
struct SwitchBatch {
  Chain chain;
  int terms, digit_limbs;
  const double *own, *digits;
  long digit_stride;
  const double *before[2];  // added before the permutation, to the first before_limbs limbs, times constants
  int before_limbs;
  Constants constants;
  SwitchKey keys[8];

  struct AtLimb {
    const SwitchBatch &batch;
    const SwitchKey &key;
    int limb;
    Addends more;
    Factor times;

    HETAL_HD int terms() const { return batch.terms; }
    HETAL_HD bool own(int k) const { return limb < batch.chain.q_limbs && limb / batch.digit_limbs == k; }
    HETAL_HD const double *digit(int k) const {
      return limb_of<LOG2_N>(own(k) ? batch.own : batch.digits + k * batch.digit_stride, limb);
    }
    HETAL_HD const double *of_key(const double *half, int k) const {
      return limb_of<LOG2_N>(half + k * key.digit_stride, limb < batch.chain.q_limbs ? limb : limb + key.p_offset);
    }
    HETAL_HD const double *b(int k) const { return of_key(key.b, k); }
    HETAL_HD const double *a(int k) const { return of_key(key.a, k); }
    HETAL_HD double *out_b() const { return limb_of<LOG2_N>(key.out[0], limb); }
    HETAL_HD double *out_a() const { return limb_of<LOG2_N>(key.out[1], limb); }
    HETAL_HD const Permutation *permutation() const { return key.permutation.targets ? &key.permutation : nullptr; }
    HETAL_HD const Addends &addends() const { return more; }
    HETAL_HD const Factor &factor() const { return times; }
  };

  HETAL_HD AtLimb at_limb(const GridPoint &at) const {
    const SwitchKey &key = keys[at.z];
    Addends more{};
    for (int h = 0; h < 2; ++h) {
      if (before[h] && at.y < before_limbs) more.before[h] = limb_of<LOG2_N>(before[h], at.y);
      if (key.after[h]) more.after[h] = limb_of<LOG2_N>(key.after[h], at.y);
    }
    return AtLimb{*this, key, at.y, more, hetal::factor(chain.limb(at.y), constants.at[at.y])};
  }

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *) const {
    gpu_inner_product(ex, chain.limb(at.y), at_limb(at), at.x, 1L << LOG2_N);
  }
};

// grid.z: groups of GPU_TRANSFORM_ROWS rows. Diagonals [row][term] lie in device memory; words null where left out.
template <int LOG2_N, int HEADS>
struct TransformBatch {
  Chain chain;
  int count, row_count;
  const Operand *diagonals;
  const double *parts[HEADS][TERMS_MAX];
  double *outs[HEADS][TERMS_MAX];  // by row

  struct AtLimb {
    const TransformBatch &batch;
    int limb;

    HETAL_HD int terms() const { return batch.count; }
    HETAL_HD int rows() const { return batch.row_count; }
    HETAL_HD const double *part(int h, int k) const { return limb_of<LOG2_N>(batch.parts[h][k], limb); }
    HETAL_HD Diagonal diagonal(int g, int k) const {
      return limb_of<LOG2_N>(batch.diagonals[g * batch.count + k], batch.chain, limb);
    }
    HETAL_HD double *out(int g, int h) const { return limb_of<LOG2_N>(batch.outs[h][g], limb); }
  };

  template <class Ex>
  HETAL_HD void run(const Ex &ex, const GridPoint &at, double *) const {
    gpu_transform<HEADS>(ex, chain.limb(at.y), AtLimb{*this, at.y}, at.x, at.z, 1L << LOG2_N);
  }
};

}  // namespace hetal
