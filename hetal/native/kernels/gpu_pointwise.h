// The GPU form of pointwise.h: one lane for a word.
#pragma once

#include "gpu_execution.h"
#include "pointwise.h"

namespace hetal {

constexpr int GPU_BLOCK_WORDS = 256;

// Words of a block: `block` counts up to n / GPU_BLOCK_WORDS, rounded up.
template <class Ex, class F>
HETAL_HD void gpu_words(const Ex &ex, int block, long n, const F &f) {
  const long first = (long)block * GPU_BLOCK_WORDS;
  ex.phase(n - first < GPU_BLOCK_WORDS ? (int)(n - first) : GPU_BLOCK_WORDS, [&](int lane) { f(first + lane); });
}

// Any of the operations of pointwise.h.
template <class Ex, class Op>
HETAL_HD void gpu_each(const Ex &ex, const Limb &m, const Op &op, int block, long n) {
  gpu_words(ex, block, n, [&](long i) {
    if (m.wide)
      op(m.integer, i);
    else
      op(Narrow<double>(m.p, m.inverse), i);
  });
}

template <class Ex>
HETAL_HD void gpu_from_integers(const Ex &ex, const Limb &m, double *out, const double *coefficients, int block,
                                long n) {
  gpu_words(ex, block, n, [&](long i) { put_residue(m, out, i, residue_of_integer(m, coefficients[i])); });
}

// `from(i)` is the residue of word i; *bad becomes 1 where one is not below the modulus.
template <class Ex, class From>
HETAL_HD void gpu_import(const Ex &ex, const Limb &m, double *out, const From &from, int *bad, int block, long n) {
  gpu_words(ex, block, n, [&](long i) {
    const u64 r = from(i);
    if (r >= m.modulus) *bad = 1;
    put_residue(m, out, i, r);
  });
}

template <class Ex, class To>
HETAL_HD void gpu_export(const Ex &ex, const Limb &m, const To &to, const double *a, int block, long n) {
  gpu_words(ex, block, n, [&](long i) { to(i, get_residue(m, a, i)); });
}

}  // namespace hetal
