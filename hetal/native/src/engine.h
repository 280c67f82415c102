// Polynomials over a chain of moduli, and the operations of _engine.pyi on them. Errors are std::invalid_argument.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "src/kernel_table.h"
#include "src/pool.h"

namespace hetal {

typedef std::vector<std::pair<u64, u64>> Moduli;  // (modulus, root)
typedef std::vector<u64> Words;

// Immutable once an operation has returned it.
struct Poly {
  std::vector<Block> limbs;
  int q_limbs = 0, p_limbs = 0;
  int log2_run = 0;
  long words = 0;  // per limb

  const double *limb(int i) const { return limbs[i].get(); }
  double *limb(int i) { return limbs[i].get(); }
  size_t bytes() const { return limbs.size() * words * 8; }
};

typedef std::pair<Poly, Poly> Pair;

struct Key {
  std::vector<Poly> b, a;  // by digit
  int q_limbs = 0, p_limbs = 0;
};

std::vector<std::string> variants();

// Whether the calling thread does all work of its operations alone, on rings of any number of threads.
void set_sequential(bool on);

class Ring {
 public:
  Ring(int log2_dimension, const Moduli &q, const Moduli &p, const Moduli &wire_p, int digit_limbs, int threads,
       const std::string &variant);
  ~Ring();

  const long dimension;
  const int threads;
  const Kernels &kernels;

  Poly zeros(int q_limbs, int p_limbs);
  Poly from_coefficients(const double *coefficients, long count, int q_limbs, int p_limbs);
  Poly read(const unsigned char *data, size_t size, const std::vector<size_t> &offsets, int q_limbs, int p_limbs);
  void write(const Poly &a, unsigned char *out, size_t size, const std::vector<size_t> &offsets);
  Key read_key(const unsigned char *data, size_t size,
               const std::vector<std::vector<std::vector<size_t>>> &offsets, int q_limbs, int p_limbs);

  Poly add(const Poly &a, const Poly &b);
  Poly subtract(const Poly &a, const Poly &b);
  Poly negate(const Poly &a);
  Poly multiply(const Poly &a, const Poly &b);
  Poly dot(const std::vector<const Poly *> &a, const std::vector<const Poly *> &b);
  std::vector<Poly> tensor(const Poly *a, const Poly *b);
  Poly multiply_constants(const Poly &a, const Words &constants);
  Poly add_constants(const Poly &a, const Words &constants);
  Poly multiply_monomial(const Poly &a, long exponent);
  Poly automorphism(const Poly &a, long index);
  Poly truncate(const Poly &a, int q_limbs);
  Poly extend(const Poly &a, int p_limbs);
  Poly adopt(const Poly &a, const Ring &source) const;

  std::vector<Poly> mod_down(const std::vector<const Poly *> &a, int drop);
  Poly raise_modulus(const Poly &a, int q_limbs);
  // `before`: two polynomials or null; `after`: none, or a pair for each key.
  std::vector<Pair> switch_keys(const Poly &a, const std::vector<const Key *> &keys, const std::vector<long> &indices,
                                std::pair<const Poly *, const Poly *> before,
                                const std::vector<std::pair<const Poly *, const Poly *>> &after);
  std::vector<Pair> transform(const std::vector<std::pair<const Poly *, const Poly *>> &parts,
                              const std::vector<std::vector<const Poly *>> &diagonals);

  void transform_limb(Words &residues, int limb, bool forward);
  size_t pool_bytes() { return pool_->bytes(); }
  Block block() { return pool_->acquire(); }
  const Limb &modulus(int i) const { return q_[i]; }

 private:
  struct Tables;         // owns the tables of one modulus
  struct Division;       // constants of mod_down
  struct Decomposition;  // constants of switch_keys

  const Limb &limb(const Poly &a, int i) const { return i < a.q_limbs ? q_[i] : p_[i - a.q_limbs]; }
  Poly like(int q_limbs, int p_limbs);
  void check(const Poly &a) const;
  void same_shape(const Poly &a, const Poly &b) const;
  int operand_limb(const Poly &a, int i, const Poly &b) const;
  void check_operand(const Poly &a, const Poly &b) const;
  std::vector<const Limb *> basis(int q_limbs, int p_limbs, int first_q = 0) const;
  const Division &division(int q_limbs, int p_limbs, int drop);
  const Decomposition &decomposition(int q_limbs, int p_limbs);
  const Permutation &permutation(long index);
  int group_size() const;
  template <class F>
  void parallel(int count, F f);

  int log2_, digit_limbs_;
  std::shared_ptr<Pool> pool_;
  std::vector<std::unique_ptr<Tables>> tables_;
  std::vector<Limb> q_, p_, wire_;
  std::mutex mutex_;
  std::map<std::vector<int>, std::unique_ptr<Division>> divisions_;
  std::map<std::vector<int>, std::unique_ptr<Decomposition>> decompositions_;
  struct PermutationTable;
  std::map<long, std::unique_ptr<PermutationTable>> permutations_;
};

}  // namespace hetal
