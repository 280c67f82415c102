// The limb kernels of one instruction set. Each set is its own translation unit (variant.cpp); the engine picks one at
// run time. All sets give the same residues.
#pragma once

#include "kernels/sums.h"

namespace hetal {

struct Kernels {
  const char *name;
  int lanes;
  void (*forward)(const Limb &, double *, int log2_n);
  // The compact form of a transform: only twiddles by node are used.
  void (*forward_small)(const Limb &, double *, int log2_n);
  void (*inverse)(const Limb &, double *, int log2_n, u64 scale);
  void (*add)(const Limb &, double *, const double *, const double *, long);
  void (*subtract)(const Limb &, double *, const double *, const double *, long);
  void (*negate)(const Limb &, double *, const double *, long);
  void (*multiply)(const Limb &, double *, const double *, const double *, int log2_run, long);
  void (*multiply_constant)(const Limb &, double *, const double *, u64, long);
  void (*add_constant)(const Limb &, double *, const double *, u64, long);
  void (*subtract_multiply)(const Limb &, double *, const double *, const double *, u64, long);
  void (*tensor)(const Limb &, double *const[3], const double *const[2], const double *const[2], long);
  void (*multiply_monomial)(const Limb &, double *, const double *, const double *, const double *, long);
  void (*permute)(const Limb &, double *, const double *, const Permutation &, long);
  void (*from_integers)(const Limb &, double *, const double *, long);
  bool (*import_words)(const Limb &, double *, const unsigned char *, long);
  void (*export_words)(const Limb &, unsigned char *, const double *, long);
  void (*convert)(const Conversion &, long);
  void (*inner_product)(const Limb &, int, const double *const *, const double *const *, const double *const *,
                        double *, double *, const Permutation *, const Addends &, long);
  void (*transform)(const Limb &, int heads, int terms, const double *const *const *, int rows, const Diagonal *,
                    double *const *const *, long);
  // For measurements: `rounds` of independent multiply-adds and additions, returning how many were done (on single
  // numbers); and the sum of an array whose length is a multiple of 64.
  double (*exercise)(long rounds);
  double (*total)(const double *, long);
};

extern const Kernels kernels_portable;
extern const Kernels kernels_emulated;  // the GPU's kernels, on a CPU
#ifdef HETAL_X86
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

}  // namespace hetal
