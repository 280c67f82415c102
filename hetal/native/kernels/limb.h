// What kernels know of one modulus.
#pragma once

#include "ntt.h"

namespace hetal {

struct Limb {
  u64 modulus;
  int bits;      // of the modulus
  bool wide;     // 2^50 or more: residues are integers; else centred doubles
  bool tight;    // narrow, above 2^49: fewer lazy levels
  double p, inverse;
  Wide integer;  // of every modulus
  NarrowTwiddles forward, backward;
  WideTwiddles wide_forward, wide_backward;
  u64 dimension_inverse;
};

// Residues in [0, p) to and from the narrow form.
HETAL_HD double centred(u64 residue, u64 modulus) {
  return residue > modulus / 2 ? -(double)(modulus - residue) : (double)residue;
}
HETAL_HD u64 positive(double residue, u64 modulus) {
  const i64 r = (i64)residue;
  return r < 0 ? modulus - (u64)-r : (u64)r;
}

HETAL_HD Word *words(double *a) { return reinterpret_cast<Word *>(a); }
HETAL_HD const Word *words(const double *a) { return reinterpret_cast<const Word *>(a); }

// An automorphism in evaluation form moves blocks of 8 words to blocks of 8 words; lanes inside a block move by one of
// eight permutations.
struct Permutation {
  const u32 *targets;           // per block: (target block << 3) | permutation
  const i64 (*lanes)[8];        // [permutation][target lane] -> source lane
};

}  // namespace hetal
