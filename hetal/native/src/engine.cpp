#include "src/engine.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>

namespace hetal {
namespace {

typedef unsigned __int128 u128;

[[noreturn]] void refuse(const std::string &text) { throw std::invalid_argument(text); }

std::string text(long value) { return std::to_string(value); }

u64 multiply_mod(u64 a, u64 b, u64 p) { return (u64)((u128)a * b % p); }

u64 power_mod(u64 a, u64 e, u64 p) {
  u64 result = 1;
  for (a %= p; e; e >>= 1, a = multiply_mod(a, a, p))
    if (e & 1) result = multiply_mod(result, a, p);
  return result;
}

u64 inverse_mod(u64 a, u64 p) { return power_mod(a, p - 2, p); }

u32 reverse_bits(u32 x, int bits) {
  u32 r = 0;
  for (int i = 0; i < bits; ++i, x >>= 1) r = r << 1 | (x & 1);
  return r;
}

u64 shoup(u64 w, u64 p) { return (u64)(((u128)w << 64) / p); }

// The product of moduli, except one, modulo p.
u64 product_mod(const std::vector<const Limb *> &moduli, const Limb *except, u64 p) {
  u64 result = 1 % p;
  for (const Limb *m : moduli)
    if (m != except) result = multiply_mod(result, m->modulus % p, p);
  return result;
}

template <class T>
struct Aligned {
  T *data = nullptr;
  void resize(size_t count) {
    free(data);
    data = static_cast<T *>(aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64));
    if (!data) throw std::bad_alloc();
  }
  Aligned() = default;
  Aligned(const Aligned &) = delete;
  ~Aligned() { free(data); }
};

}  // namespace

// -- tables --------------------------------------------------------------------------------------------------------------

struct Ring::Tables {
  Limb limb{};
  Aligned<double> roots[2], tails[2];
  Aligned<u64> wide_roots[2], quotients[2];

  Tables(u64 p, u64 root, int log2_n, int lanes) {
    const long n = 1L << log2_n;
    if (p >> 60 || p < 3 || (p - 1) % (2 * n) || power_mod(root, n, p) != p - 1)
      refuse("modulus " + std::to_string(p) + " with root " + std::to_string(root) + " has no transform of size " +
             text(n) + " below 2^60");
    limb.modulus = p;
    limb.bits = 64 - __builtin_clzll(p);
    limb.wide = limb.bits > 50;
    limb.tight = limb.bits > 49;
    limb.p = (double)p;
    limb.inverse = 1.0 / (double)p;
    limb.integer.p = p;
    limb.integer.one = (u64)(((u128)1 << 64) / p);
    limb.integer.word = (u64)(((u128)1 << 64) % p);
    limb.integer.word_quotient = shoup(limb.integer.word, p);
    limb.dimension_inverse = inverse_mod(n, p);
    for (int direction = 0; direction < 2; ++direction) {
      const u64 psi = direction ? inverse_mod(root, p) : root;
      std::vector<u64> by_node(n);
      u64 power = 1;
      for (long i = 0; i < n; ++i, power = multiply_mod(power, psi, p)) by_node[reverse_bits(i, log2_n)] = power;
      if (limb.wide) {
        wide_roots[direction].resize(n);
        quotients[direction].resize(n);
        for (long i = 0; i < n; ++i) {
          wide_roots[direction].data[i] = by_node[i];
          quotients[direction].data[i] = shoup(by_node[i], p);
        }
      } else {
        roots[direction].resize(n);
        for (long i = 0; i < n; ++i) roots[direction].data[i] = centred(by_node[i], p);
        tails[direction].resize(n);
        double *to = tails[direction].data;
        for (long block = 0; block < n / (lanes * lanes); ++block) {
          const long node = n / (lanes * lanes) + block;
          for (int s = 0; (1 << s) < lanes; ++s)
            for (int k = 0; k < (1 << s); ++k)
              for (int lane = 0; lane < lanes; ++lane)
                *to++ = centred(by_node[((node * lanes + lane) << s) + k], p);
        }
      }
    }
    limb.forward = NarrowTwiddles{roots[0].data, tails[0].data};
    limb.backward = NarrowTwiddles{roots[1].data, tails[1].data};
    limb.wide_forward = WideTwiddles{wide_roots[0].data, quotients[0].data};
    limb.wide_backward = WideTwiddles{wide_roots[1].data, quotients[1].data};
  }
};

struct Ring::PermutationTable {
  std::vector<u32> targets;
  alignas(64) i64 lanes[8][8];
  Permutation view;

  // out[j] = in[rev(((2 rev(j) + 1) * index mod 2N) >> 1)]; so word i goes where the inverse index reads from.
  PermutationTable(long index, int log2_n) : targets((1L << log2_n) / 8) {
    const u64 order = 2ULL << log2_n;
    u64 inverse = 1;  // of an odd number modulo a power of two, by Newton's iteration
    for (int i = 0; i < 6; ++i) inverse *= 2 - (u64)index * inverse;
    bool known[8] = {};
    for (size_t block = 0; block < targets.size(); ++block) {
      u32 place[8];
      for (int lane = 0; lane < 8; ++lane) {
        const u64 exponent = (2ULL * reverse_bits(8 * block + lane, log2_n) + 1) * inverse % order;
        place[lane] = reverse_bits(exponent >> 1, log2_n);
      }
      const u32 variant = place[0] & 7;
      targets[block] = (place[0] & ~7u) | variant;
      if (!known[variant])
        for (int lane = 0; lane < 8; ++lane) lanes[variant][place[lane] & 7] = lane;
      known[variant] = true;
    }
    view = Permutation{targets.data(), lanes};
  }
};

struct Ring::Division {
  int sources;                   // special primes, then dropped ones
  Words scale;                   // per source: inverse of the product of the other sources
  std::vector<Words> constants;  // [target][source], the last one for the rounded quotient
  Words finish;                  // per target: inverse of the divisor
};

struct Ring::Decomposition {
  Words scale;                   // per limb of Q: inverse of the product of the others of its digit
  std::vector<Words> constants;  // [target * digits + digit][source]
};

std::vector<std::string> variants() {
  std::vector<std::string> names;
#ifdef HETAL_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    names.push_back("avx512");
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) names.push_back("avx2");
#endif
  names.push_back("portable");
  return names;
}

namespace {

const Kernels &choose(const std::string &wanted) {
  // For tests: never offered, only asked for.
  if (wanted == kernels_emulated.name) return kernels_emulated;
  for (const std::string &name : variants()) {
    if (wanted != "auto" && wanted != name) continue;
#ifdef HETAL_X86
    if (name == "avx512") return kernels_avx512;
    if (name == "avx2") return kernels_avx2;
#endif
    return kernels_portable;
  }
  refuse("this processor has no instruction set '" + wanted + "'");
}

}  // namespace

Ring::Ring(int log2_dimension, const Moduli &q, const Moduli &p, const Moduli &wire_p, int digit_limbs, int threads,
           const std::string &variant)
    : dimension(1L << std::min(std::max(log2_dimension, 0), 20)),
      threads(threads),
      kernels(choose(variant)),
      log2_(log2_dimension),
      digit_limbs_(digit_limbs) {
  if (log2_dimension < 10 || log2_dimension > 17) refuse("log2 of the ring dimension must be 10 to 17");
  if (q.empty() || q.size() > TERMS_MAX || p.size() > TERMS_MAX || wire_p.size() > TERMS_MAX)
    refuse("1 to " + text(TERMS_MAX) + " moduli are possible");
  if (digit_limbs < 1 || digit_limbs >= TERMS_MAX) refuse("a digit has at least one limb");
  if (threads < 1) refuse("at least one thread is needed");
  pool_ = std::make_shared<Pool>(dimension);
  const Moduli *all[3] = {&q, &p, &wire_p};
  std::vector<Limb> *limbs[3] = {&q_, &p_, &wire_};
  const int count = int(q.size() + p.size() + wire_p.size());
  tables_.resize(count);
  std::vector<std::pair<u64, u64>> flat;
  for (auto *moduli : all) flat.insert(flat.end(), moduli->begin(), moduli->end());
  parallel(count, [&](int i) {
    tables_[i].reset(new Tables(flat[i].first, flat[i].second, log2_, kernels.lanes));
  });
  int next = 0;
  for (int set = 0; set < 3; ++set)
    for (size_t i = 0; i < all[set]->size(); ++i) limbs[set]->push_back(tables_[next++]->limb);
}

Ring::~Ring() = default;

namespace {
thread_local bool sequential = false;
}

void set_sequential(bool on) { sequential = on; }

// An exception must not leave an OpenMP region: the first one is thrown after it.
template <class F>
void Ring::parallel(int count, F f) {
  if (threads == 1 || count == 1 || sequential) {
    for (int i = 0; i < count; ++i) f(i);
    return;
  }
  std::exception_ptr error;
  std::mutex guard;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads < count ? threads : count)
  for (int i = 0; i < count; ++i) {
    try {
      f(i);
    } catch (...) {
      std::lock_guard<std::mutex> hold(guard);
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

// Target limbs of a conversion that a task makes together: one reading of the sources serves all of them. More would
// share the threads unevenly and, with several threads, outgrow the last-level cache.
int Ring::group_size() const { return threads > 1 && !sequential ? 2 : 4; }

// -- shapes --------------------------------------------------------------------------------------------------------------

Poly Ring::like(int q_limbs, int p_limbs) {
  if (q_limbs < 0 || q_limbs > (int)q_.size() || p_limbs < 0 || p_limbs > (int)p_.size() || q_limbs + p_limbs < 1)
    refuse(text(q_limbs) + " + " + text(p_limbs) + " limbs where the chain has " + text(q_.size()) + " + " +
           text(p_.size()));
  Poly a;
  a.q_limbs = q_limbs;
  a.p_limbs = p_limbs;
  a.words = dimension;
  for (int i = 0; i < q_limbs + p_limbs; ++i) a.limbs.push_back(pool_->acquire());
  return a;
}

void Ring::check(const Poly &a) const {
  if (a.q_limbs > (int)q_.size() || a.p_limbs > (int)p_.size() || (a.words << a.log2_run) != dimension)
    refuse("the polynomial belongs to another ring");
}

void Ring::same_shape(const Poly &a, const Poly &b) const {
  check(a);
  check(b);
  if (a.q_limbs != b.q_limbs || a.p_limbs != b.p_limbs || a.log2_run || b.log2_run)
    refuse("operands of " + text(a.q_limbs) + " + " + text(a.p_limbs) + " and " + text(b.q_limbs) + " + " +
           text(b.p_limbs) + " limbs");
}

void Ring::check_operand(const Poly &a, const Poly &b) const {
  check(a);
  check(b);
  if (a.log2_run || b.q_limbs < a.q_limbs || b.p_limbs < a.p_limbs)
    refuse("a factor of " + text(b.q_limbs) + " + " + text(b.p_limbs) + " limbs for a polynomial of " +
           text(a.q_limbs) + " + " + text(a.p_limbs));
}

int Ring::operand_limb(const Poly &a, int i, const Poly &b) const {
  return i < a.q_limbs ? i : b.q_limbs + i - a.q_limbs;
}

std::vector<const Limb *> Ring::basis(int q_limbs, int p_limbs, int first_q) const {
  std::vector<const Limb *> result;
  for (int i = first_q; i < q_limbs; ++i) result.push_back(&q_[i]);
  for (int i = 0; i < p_limbs; ++i) result.push_back(&p_[i]);
  return result;
}

// -- in and out ----------------------------------------------------------------------------------------------------------

Poly Ring::zeros(int q_limbs, int p_limbs) {
  Poly out = like(q_limbs, p_limbs);
  for (auto &block : out.limbs) memset(block.get(), 0, 8 * dimension);
  return out;
}

Poly Ring::from_coefficients(const double *coefficients, long count, int q_limbs, int p_limbs) {
  if (count < 64 || count > dimension || (count & (count - 1)))
    refuse(text(count) + " coefficients; a power of two from 64 to " + text(dimension) + " is due");
  Poly out;
  if (count == dimension)
    out = like(q_limbs, p_limbs);
  else {
    like(q_limbs, p_limbs);  // checks the counts
    out.q_limbs = q_limbs;
    out.p_limbs = p_limbs;
    out.words = count;
    while ((count << out.log2_run) < dimension) ++out.log2_run;
    const size_t stride = (count + 7) / 8 * 8;
    double *memory = static_cast<double *>(aligned_alloc(64, stride * 8 * (q_limbs + p_limbs)));
    if (!memory) throw std::bad_alloc();
    Block whole(memory, free);
    for (int i = 0; i < q_limbs + p_limbs; ++i) out.limbs.push_back(Block(whole, memory + i * stride));
  }
  for (long i = 0; i < count; ++i)
    if (!(coefficients[i] > -4611686018427387904.0 && coefficients[i] < 4611686018427387904.0))
      refuse("a coefficient is not below 2^62");
  const int log2_n = log2_ - out.log2_run;
  parallel(q_limbs + p_limbs, [&](int i) {
    const Limb &m = limb(out, i);
    kernels.from_integers(m, out.limb(i), coefficients, count);
    (out.log2_run ? kernels.forward_small : kernels.forward)(m, out.limb(i), log2_n);
  });
  return out;
}

Poly Ring::read(const unsigned char *data, size_t size, const std::vector<size_t> &offsets, int q_limbs,
                int p_limbs) {
  Poly out = like(q_limbs, p_limbs);
  if ((int)offsets.size() != q_limbs + p_limbs) refuse("one offset for each limb is needed");
  for (size_t offset : offsets)
    if (offset > size || size - offset < (size_t)dimension * 8) refuse("a limb lies outside the object");
  std::atomic<int> bad{-1};
  parallel(q_limbs + p_limbs, [&](int i) {
    if (!kernels.import_words(limb(out, i), out.limb(i), data + offsets[i], dimension)) bad = i;
  });
  if (bad >= 0) refuse("a residue of limb " + text(bad) + " is not below its modulus");
  return out;
}

void Ring::write(const Poly &a, unsigned char *out, size_t size, const std::vector<size_t> &offsets) {
  check(a);
  if (a.log2_run) refuse("a compact polynomial cannot be written");
  if (offsets.size() != a.limbs.size()) refuse("one offset for each limb is needed");
  for (size_t offset : offsets)
    if (offset > size || size - offset < (size_t)dimension * 8) refuse("a limb lies outside the buffer");
  parallel(a.limbs.size(), [&](int i) { kernels.export_words(limb(a, i), out + offsets[i], a.limb(i), dimension); });
}

Key Ring::read_key(const unsigned char *data, size_t size,
                   const std::vector<std::vector<std::vector<size_t>>> &offsets, int q_limbs, int p_limbs) {
  const int all_q = q_.size();
  const bool other = !wire_.empty();
  const std::vector<Limb> &old = other ? wire_ : p_;
  const int olds = old.size();
  if (q_limbs < 1 || q_limbs > all_q || p_limbs < 1 || p_limbs > (int)p_.size())
    refuse("a key of " + text(q_limbs) + " + " + text(p_limbs) + " limbs");
  const int digits = (q_limbs + digit_limbs_ - 1) / digit_limbs_;
  if (offsets.size() != 2) refuse("a key has two halves");
  for (auto &half : offsets) {
    if ((int)half.size() < digits) refuse("the key has too few digits");
    for (auto &digit : half) {
      if ((int)digit.size() != all_q + olds) refuse("a digit of the key has another number of limbs than its chain");
      for (size_t offset : digit)
        if (offset > size || size - offset < (size_t)dimension * 8) refuse("a limb lies outside the key");
    }
  }
  const bool convert = other || p_limbs < olds;

  // x over Q*O becomes round(x * P / O): with r = [P x]_O, that is (P x - r) / O modulo Q and -r / O modulo P.
  std::vector<const Limb *> sources, targets = basis(q_limbs, p_limbs), special = basis(0, p_limbs);
  for (auto &m : old) sources.push_back(&m);
  Words scale, p_product(q_limbs), o_inverse;
  std::vector<Words> constants;
  for (const Limb *s : sources) {
    const u64 m = s->modulus;
    scale.push_back(multiply_mod(product_mod(special, nullptr, m), inverse_mod(product_mod(sources, s, m), m), m));
  }
  for (const Limb *t : targets) {
    Words row;
    const u64 m = t->modulus, o = product_mod(sources, nullptr, m);
    for (const Limb *s : sources) row.push_back(product_mod(sources, s, m));
    row.push_back((m - o) % m);
    constants.push_back(row);
    // Where the new special primes are among the old ones, they divide O: those rows are made below.
    o_inverse.push_back(o ? inverse_mod(o, m) : 0);
  }
  for (int i = 0; i < q_limbs; ++i) p_product[i] = product_mod(special, nullptr, q_[i].modulus);

  Key key;
  key.q_limbs = q_limbs;
  key.p_limbs = p_limbs;
  for (int d = 0; d < digits; ++d) {
    key.b.push_back(like(q_limbs, p_limbs));
    key.a.push_back(like(q_limbs, p_limbs));
  }
  std::atomic<bool> bad{false};
  if (!convert) {
    const int limbs = q_limbs + p_limbs;
    parallel(2 * digits * limbs, [&](int task) {
      const int half = task / (digits * limbs), d = task / limbs % digits, i = task % limbs;
      Poly &out = (half ? key.a : key.b)[d];
      const size_t offset = offsets[half][d][i < q_limbs ? i : all_q + i - q_limbs];
      if (!kernels.import_words(limb(out, i), out.limb(i), data + offset, dimension)) bad = true;
    });
    if (bad) refuse("a residue of the key is not below its modulus");
    return key;
  }
  if (!other) {
    // The kept primes divide both P and O = P: divide by the product of the dropped ones instead.
    sources.assign(sources.begin() + p_limbs, sources.end());
    scale.clear();
    constants.clear();
    o_inverse.clear();
    for (const Limb *s : sources) {
      const u64 m = s->modulus;
      scale.push_back(inverse_mod(product_mod(sources, s, m), m));
    }
    for (const Limb *t : targets) {
      Words row;
      const u64 m = t->modulus, o = product_mod(sources, nullptr, m);
      for (const Limb *s : sources) row.push_back(product_mod(sources, s, m));
      row.push_back((m - o) % m);
      constants.push_back(row);
      o_inverse.push_back(inverse_mod(o, m));
    }
    std::fill(p_product.begin(), p_product.end(), 1);
  }
  const int count = sources.size(), skipped = other ? 0 : p_limbs;
  parallel(2 * digits, [&](int task) {
    const int half = task % 2, d = task / 2;
    Poly &out = (half ? key.a : key.b)[d];
    std::vector<Block> y;
    for (int i = 0; i < count; ++i) {
      y.push_back(pool_->acquire());
      if (!kernels.import_words(*sources[i], y[i].get(), data + offsets[half][d][all_q + skipped + i], dimension))
        bad = true;
      kernels.inverse(*sources[i], y[i].get(), log2_, scale[i]);
    }
    // Splitting wide sources is most of a conversion's work, so many targets share it.
    constexpr int GROUP = 12;
    Block value = pool_->acquire();
    std::vector<Block> parts;
    for (int k = 0; k < GROUP; ++k) parts.push_back(pool_->acquire());
    for (int begin = 0; begin < q_limbs + p_limbs; begin += GROUP) {
      const int end = std::min(q_limbs + p_limbs, begin + GROUP);
      Conversion c;
      c.sources = count;
      c.exact = true;
      c.targets = end - begin;
      for (int k = 0; k < count; ++k) {
        c.source[k] = sources[k];
        c.y[k] = y[k].get();
      }
      for (int i = begin; i < end; ++i) {
        c.target[i - begin] = &limb(out, i);
        c.out[i - begin] = parts[i - begin].get();
        c.constants[i - begin] = constants[i].data();
      }
      kernels.convert(c, dimension);
      for (int i = begin; i < end; ++i) {
        const Limb &m = limb(out, i);
        double *part = parts[i - begin].get();
        kernels.forward(m, part, log2_);
        if (i < q_limbs || !other) {
          const size_t offset = offsets[half][d][i < q_limbs ? i : all_q + i - q_limbs];
          if (!kernels.import_words(m, value.get(), data + offset, dimension)) bad = true;
          if (i < q_limbs && p_product[i] != 1)
            kernels.multiply_constant(m, value.get(), value.get(), p_product[i], dimension);
          kernels.subtract_multiply(m, out.limb(i), value.get(), part, o_inverse[i], dimension);
        } else
          kernels.multiply_constant(m, out.limb(i), part, m.modulus - o_inverse[i], dimension);
      }
    }
  });
  if (bad) refuse("a residue of the key is not below its modulus");
  return key;
}

void Ring::transform_limb(Words &residues, int index, bool forward) {
  if (index < 0 || index >= int(q_.size() + p_.size()) || (long)residues.size() != dimension)
    refuse("no such limb, or not N residues");
  const Limb &m = index < (int)q_.size() ? q_[index] : p_[index - q_.size()];
  Block a = pool_->acquire();
  if (!kernels.import_words(m, a.get(), (const unsigned char *)residues.data(), dimension))
    refuse("a residue is not below its modulus");
  if (forward)
    kernels.forward(m, a.get(), log2_);
  else
    kernels.inverse(m, a.get(), log2_, 1);
  kernels.export_words(m, (unsigned char *)residues.data(), a.get(), dimension);
}

// -- limb by limb --------------------------------------------------------------------------------------------------------

Poly Ring::add(const Poly &a, const Poly &b) {
  same_shape(a, b);
  Poly out = like(a.q_limbs, a.p_limbs);
  parallel(a.limbs.size(), [&](int i) { kernels.add(limb(a, i), out.limb(i), a.limb(i), b.limb(i), dimension); });
  return out;
}

Poly Ring::subtract(const Poly &a, const Poly &b) {
  same_shape(a, b);
  Poly out = like(a.q_limbs, a.p_limbs);
  parallel(a.limbs.size(), [&](int i) { kernels.subtract(limb(a, i), out.limb(i), a.limb(i), b.limb(i), dimension); });
  return out;
}

Poly Ring::negate(const Poly &a) {
  same_shape(a, a);
  Poly out = like(a.q_limbs, a.p_limbs);
  parallel(a.limbs.size(), [&](int i) { kernels.negate(limb(a, i), out.limb(i), a.limb(i), dimension); });
  return out;
}

Poly Ring::multiply(const Poly &a, const Poly &b) {
  check_operand(a, b);
  Poly out = like(a.q_limbs, a.p_limbs);
  parallel(a.limbs.size(), [&](int i) {
    kernels.multiply(limb(a, i), out.limb(i), a.limb(i), b.limb(operand_limb(a, i, b)), b.log2_run, dimension);
  });
  return out;
}

Poly Ring::dot(const std::vector<const Poly *> &a, const std::vector<const Poly *> &b) {
  if (a.empty() || a.size() != b.size() || a.size() > TERMS_MAX) refuse("1 to " + text(TERMS_MAX) + " pairs");
  for (size_t k = 0; k < a.size(); ++k) {
    same_shape(*a[0], *a[k]);
    check_operand(*a[k], *b[k]);
  }
  Poly out = like(a[0]->q_limbs, a[0]->p_limbs);
  parallel(out.limbs.size(), [&](int i) {
    const double *from[TERMS_MAX];
    Diagonal factors[TERMS_MAX];
    for (size_t k = 0; k < a.size(); ++k) {
      from[k] = a[k]->limb(i);
      factors[k] = Diagonal{b[k]->limb(operand_limb(*a[k], i, *b[k])), b[k]->log2_run};
    }
    const double *const *parts[1] = {from};
    double *to[1] = {out.limb(i)};
    double *const *rows[1] = {to};
    kernels.transform(limb(out, i), 1, (int)a.size(), parts, 1, factors, rows, dimension);
  });
  return out;
}

std::vector<Poly> Ring::tensor(const Poly *a, const Poly *b) {
  same_shape(a[0], a[1]);
  same_shape(a[0], b[0]);
  same_shape(a[0], b[1]);
  std::vector<Poly> out;
  for (int k = 0; k < 3; ++k) out.push_back(like(a[0].q_limbs, a[0].p_limbs));
  parallel(a[0].limbs.size(), [&](int i) {
    double *const to[3] = {out[0].limb(i), out[1].limb(i), out[2].limb(i)};
    const double *const x[2] = {a[0].limb(i), a[1].limb(i)}, *const y[2] = {b[0].limb(i), b[1].limb(i)};
    kernels.tensor(limb(a[0], i), to, x, y, dimension);
  });
  return out;
}

Poly Ring::multiply_constants(const Poly &a, const Words &constants) {
  same_shape(a, a);
  if (constants.size() != a.limbs.size()) refuse("one constant for each limb is needed");
  for (size_t i = 0; i < constants.size(); ++i)
    if (constants[i] >= limb(a, i).modulus) refuse("a constant is not below its modulus");
  Poly out = like(a.q_limbs, a.p_limbs);
  parallel(a.limbs.size(), [&](int i) {
    kernels.multiply_constant(limb(a, i), out.limb(i), a.limb(i), constants[i], dimension);
  });
  return out;
}

Poly Ring::add_constants(const Poly &a, const Words &constants) {
  same_shape(a, a);
  if (constants.size() != a.limbs.size()) refuse("one constant for each limb is needed");
  for (size_t i = 0; i < constants.size(); ++i)
    if (constants[i] >= limb(a, i).modulus) refuse("a constant is not below its modulus");
  Poly out = like(a.q_limbs, a.p_limbs);
  parallel(a.limbs.size(),
           [&](int i) { kernels.add_constant(limb(a, i), out.limb(i), a.limb(i), constants[i], dimension); });
  return out;
}

Poly Ring::multiply_monomial(const Poly &a, long exponent) {
  same_shape(a, a);
  if (exponent < 0 || exponent >= 2 * dimension) refuse("an exponent below 2N is due");
  Poly out = like(a.q_limbs, a.p_limbs);
  const long e = exponent, blocks = dimension / 64;
  parallel(a.limbs.size(), [&](int i) {
    const Limb &m = limb(a, i);
    const u64 p = m.modulus;
    // psi itself: the twiddle of the node that is one bit-reversed.
    const long node = dimension / 2;
    const u64 psi = m.wide ? m.wide_forward.roots[node] : positive(m.forward.roots[node], p);
    // Position i holds the value at psi^(2 rev(i) + 1): bit k of i stands for psi^(2e * N / 2^(k+1)).
    auto table = [&](Words &values, u64 first, int bit) {
      values[0] = first;
      for (size_t half = 1; half < values.size(); half *= 2, ++bit) {
        const u64 factor = power_mod(psi, (u64)(2 * e) % (2 * dimension) * (dimension >> (bit + 1)), p);
        for (size_t k = 0; k < half; ++k) values[half + k] = multiply_mod(values[k], factor, p);
      }
    };
    Words low(64), high(blocks);
    table(low, 1, 0);
    table(high, power_mod(psi, e, p), 6);
    std::vector<double> memory(64 + 8 + blocks);
    double *low_words = (double *)(((size_t)memory.data() + 63) / 64 * 64), *high_words = low_words + 64;
    for (int k = 0; k < 64; ++k)
      if (m.wide)
        words(low_words)[k] = low[k];
      else
        low_words[k] = centred(low[k], p);
    for (long k = 0; k < blocks; ++k)
      if (m.wide)
        words(high_words)[k] = high[k];
      else
        high_words[k] = centred(high[k], p);
    kernels.multiply_monomial(m, out.limb(i), a.limb(i), low_words, high_words, dimension);
  });
  return out;
}

const Permutation &Ring::permutation(long index) {
  if (index < 1 || index >= 2 * dimension || index % 2 == 0) refuse("automorphism " + text(index));
  std::lock_guard<std::mutex> hold(mutex_);
  auto &entry = permutations_[index];
  if (!entry) entry.reset(new PermutationTable(index, log2_));
  return entry->view;
}

Poly Ring::automorphism(const Poly &a, long index) {
  same_shape(a, a);
  const Permutation &moves = permutation(index);
  Poly out = like(a.q_limbs, a.p_limbs);
  parallel(a.limbs.size(), [&](int i) { kernels.permute(limb(a, i), out.limb(i), a.limb(i), moves, dimension); });
  return out;
}

Poly Ring::truncate(const Poly &a, int q_limbs) {
  check(a);
  if (q_limbs < 1 || q_limbs > a.q_limbs) refuse(text(q_limbs) + " limbs of " + text(a.q_limbs));
  Poly out = a;
  out.limbs.resize(q_limbs);
  out.q_limbs = q_limbs;
  out.p_limbs = 0;
  return out;
}

Poly Ring::extend(const Poly &a, int p_limbs) {
  same_shape(a, a);
  if (a.p_limbs || p_limbs < 1) refuse("the polynomial must have no special limbs");
  Poly out = like(a.q_limbs, p_limbs);
  const auto special = basis(0, p_limbs);
  parallel(out.limbs.size(), [&](int i) {
    if (i < a.q_limbs)
      kernels.multiply_constant(q_[i], out.limb(i), a.limb(i), product_mod(special, nullptr, q_[i].modulus),
                                dimension);
    else
      memset(out.limb(i), 0, 8 * dimension);
  });
  return out;
}

Poly Ring::adopt(const Poly &a, const Ring &source) const {
  source.check(a);
  // psi itself: the twiddle of the node that is one bit-reversed.
  auto root = [](const Ring &ring) {
    const Limb &m = ring.q_[0];
    return m.wide ? m.wide_forward.roots[ring.dimension / 2] : positive(m.forward.roots[ring.dimension / 2], m.modulus);
  };
  if (a.q_limbs != 1 || a.p_limbs || a.log2_run || dimension != source.dimension ||
      q_[0].modulus != source.q_[0].modulus || root(*this) != root(source))
    refuse("one limb modulo the first prime of both rings is due");
  return a;
}

// -- between bases -------------------------------------------------------------------------------------------------------

const Ring::Division &Ring::division(int q_limbs, int p_limbs, int drop) {
  std::lock_guard<std::mutex> hold(mutex_);
  auto &entry = divisions_[{q_limbs, p_limbs, drop}];
  if (entry) return *entry;
  entry.reset(new Division);
  const auto sources = basis(q_limbs, p_limbs, q_limbs - drop);
  // Special primes first.
  std::vector<const Limb *> ordered(sources.begin() + drop, sources.end());
  ordered.insert(ordered.end(), sources.begin(), sources.begin() + drop);
  entry->sources = ordered.size();
  for (const Limb *s : ordered)
    entry->scale.push_back(inverse_mod(product_mod(ordered, s, s->modulus), s->modulus));
  for (int t = 0; t < q_limbs - drop; ++t) {
    const u64 m = q_[t].modulus, divisor = product_mod(ordered, nullptr, m);
    Words row;
    for (const Limb *s : ordered) row.push_back(product_mod(ordered, s, m));
    row.push_back((m - divisor) % m);
    entry->constants.push_back(row);
    entry->finish.push_back(inverse_mod(divisor, m));
  }
  return *entry;
}

std::vector<Poly> Ring::mod_down(const std::vector<const Poly *> &a, int drop) {
  if (a.empty()) refuse("nothing to divide");
  for (const Poly *x : a) same_shape(*a[0], *x);
  const int q_limbs = a[0]->q_limbs, p_limbs = a[0]->p_limbs, left = q_limbs - drop, count = a.size();
  if (drop < 0 || drop > 1 || left < 1 || p_limbs + drop < 1)
    refuse("a polynomial of " + text(q_limbs) + " + " + text(p_limbs) + " limbs cannot be divided, dropping " +
           text(drop));
  const Division &d = division(q_limbs, p_limbs, drop);
  std::vector<Poly> out;
  std::vector<Block> y;
  for (int k = 0; k < count; ++k) out.push_back(like(left, 0));
  for (int k = 0; k < count * d.sources; ++k) y.push_back(pool_->acquire());
  auto source_limb = [&](int s) { return s < p_limbs ? q_limbs + s : left + s - p_limbs; };
  parallel(count * d.sources, [&](int task) {
    const Poly &x = *a[task / d.sources];
    const int s = task % d.sources, i = source_limb(s);
    memcpy(y[task].get(), x.limb(i), 8 * dimension);
    kernels.inverse(limb(x, i), y[task].get(), log2_, d.scale[s]);
  });
  const int group = group_size(), groups = (left + group - 1) / group;
  parallel(count * groups, [&](int task) {
    const int k = task / groups, first = task % groups * group, last = std::min(left, first + group);
    Conversion c;
    c.sources = d.sources;
    c.exact = true;
    c.targets = last - first;
    for (int s = 0; s < d.sources; ++s) {
      c.source[s] = &limb(*a[k], source_limb(s));
      c.y[s] = y[k * d.sources + s].get();
    }
    for (int t = first; t < last; ++t) {
      c.target[t - first] = &q_[t];
      c.out[t - first] = out[k].limb(t);
      c.constants[t - first] = d.constants[t].data();
    }
    kernels.convert(c, dimension);
    for (int t = first; t < last; ++t) {
      kernels.forward(q_[t], out[k].limb(t), log2_);
      kernels.subtract_multiply(q_[t], out[k].limb(t), a[k]->limb(t), out[k].limb(t), d.finish[t], dimension);
    }
  });
  return out;
}

Poly Ring::raise_modulus(const Poly &a, int q_limbs) {
  same_shape(a, a);
  if (a.q_limbs != 1 || a.p_limbs) refuse("the modulus is raised from one limb");
  Poly out = like(q_limbs, 0);
  Block y = pool_->acquire();
  memcpy(y.get(), a.limb(0), 8 * dimension);
  kernels.inverse(q_[0], y.get(), log2_, 1);
  const u64 one = 1;
  parallel(q_limbs, [&](int i) {
    if (i == 0) {
      memcpy(out.limb(0), a.limb(0), 8 * dimension);
      return;
    }
    Conversion c;
    c.sources = c.targets = 1;
    c.exact = false;
    c.source[0] = &q_[0];
    c.y[0] = y.get();
    c.target[0] = &q_[i];
    c.out[0] = out.limb(i);
    c.constants[0] = &one;
    kernels.convert(c, dimension);
    kernels.forward(q_[i], out.limb(i), log2_);
  });
  return out;
}

const Ring::Decomposition &Ring::decomposition(int q_limbs, int p_limbs) {
  std::lock_guard<std::mutex> hold(mutex_);
  auto &entry = decompositions_[{q_limbs, p_limbs}];
  if (entry) return *entry;
  entry.reset(new Decomposition);
  const auto targets = basis(q_limbs, p_limbs);
  const int digits = (q_limbs + digit_limbs_ - 1) / digit_limbs_;
  entry->constants.resize(targets.size() * digits);
  for (int d = 0; d < digits; ++d) {
    const auto digit = basis(std::min(q_limbs, (d + 1) * digit_limbs_), 0, d * digit_limbs_);
    for (const Limb *s : digit)
      entry->scale.push_back(inverse_mod(product_mod(digit, s, s->modulus), s->modulus));
    for (size_t t = 0; t < targets.size(); ++t)
      for (const Limb *s : digit)
        entry->constants[t * digits + d].push_back(product_mod(digit, s, targets[t]->modulus));
  }
  return *entry;
}

std::vector<Pair> Ring::switch_keys(const Poly &a, const std::vector<const Key *> &keys,
                                    const std::vector<long> &indices,
                                    std::pair<const Poly *, const Poly *> before,
                                    const std::vector<std::pair<const Poly *, const Poly *>> &after) {
  same_shape(a, a);
  if (a.p_limbs) refuse("the polynomial must have no special limbs");
  if (keys.size() != indices.size()) refuse("one automorphism for each key is needed");
  if (keys.empty()) return {};
  const int q_limbs = a.q_limbs, p_limbs = keys[0]->p_limbs;
  const int digits = (q_limbs + digit_limbs_ - 1) / digit_limbs_;
  for (const Key *key : keys)
    if (key->p_limbs != p_limbs || key->q_limbs < q_limbs || (int)key->b.size() < digits)
      refuse("a key of " + text(key->q_limbs) + " + " + text(key->p_limbs) + " limbs for a polynomial of " +
             text(q_limbs) + " limbs, beside keys of " + text(p_limbs) + " special limbs");
  const Poly *first_addends[2] = {before.first, before.second};
  for (const Poly *x : first_addends)
    if (x) {
      check(*x);
      if (x->q_limbs != q_limbs || (x->p_limbs && x->p_limbs != p_limbs) || x->log2_run)
        refuse("an addend of " + text(x->q_limbs) + " + " + text(x->p_limbs) + " limbs");
    }
  if (before.first && before.second && before.first->p_limbs != before.second->p_limbs)
    refuse("both addends have special limbs, or none has");
  if (!after.empty() && after.size() != keys.size()) refuse("one addend for each key is needed");
  for (auto &pair : after)
    for (const Poly *x : {pair.first, pair.second}) {
      check(*x);
      if (x->q_limbs != q_limbs || x->p_limbs != p_limbs || x->log2_run)
        refuse("an addend of " + text(x->q_limbs) + " + " + text(x->p_limbs) + " limbs");
    }
  const auto special = basis(0, p_limbs);
  std::vector<const Permutation *> moves;
  for (long index : indices) moves.push_back(index == 1 ? nullptr : &permutation(index));
  const Decomposition &plan = decomposition(q_limbs, p_limbs);

  std::vector<Block> y;
  for (int i = 0; i < q_limbs; ++i) y.push_back(pool_->acquire());
  parallel(q_limbs, [&](int i) {
    memcpy(y[i].get(), a.limb(i), 8 * dimension);
    kernels.inverse(q_[i], y[i].get(), log2_, plan.scale[i]);
  });

  std::vector<Pair> out;
  for (size_t k = 0; k < keys.size(); ++k) out.emplace_back(like(q_limbs, p_limbs), like(q_limbs, p_limbs));
  const int targets = q_limbs + p_limbs, group = group_size();
  parallel((targets + group - 1) / group, [&](int task) {
    const int first = task * group, last = std::min(targets, first + group);
    std::vector<Block> memory;
    std::vector<const double *> digit((last - first) * digits);
    for (int d = 0; d < digits; ++d) {
      const int begin = d * digit_limbs_, end = std::min(q_limbs, begin + digit_limbs_);
      Conversion c;
      c.sources = end - begin;
      c.exact = false;
      c.targets = 0;
      for (int i = begin; i < end; ++i) {
        c.source[i - begin] = &q_[i];
        c.y[i - begin] = y[i].get();
      }
      for (int t = first; t < last; ++t) {
        if (t >= begin && t < end) {
          digit[(t - first) * digits + d] = a.limb(t);
          continue;
        }
        memory.push_back(pool_->acquire());
        c.target[c.targets] = t < q_limbs ? &q_[t] : &p_[t - q_limbs];
        c.out[c.targets] = memory.back().get();
        c.constants[c.targets++] = plan.constants[t * digits + d].data();
        digit[(t - first) * digits + d] = memory.back().get();
      }
      if (c.targets == 0) continue;
      kernels.convert(c, dimension);
      for (int k = 0; k < c.targets; ++k) kernels.forward(*c.target[k], c.out[k], log2_);
    }
    std::vector<const double *> b(digits), x(digits);
    for (int t = first; t < last; ++t)
      for (size_t k = 0; k < keys.size(); ++k) {
        const int limb_of_key = t < q_limbs ? t : keys[k]->q_limbs + t - q_limbs;
        for (int d = 0; d < digits; ++d) {
          b[d] = keys[k]->b[d].limb(limb_of_key);
          x[d] = keys[k]->a[d].limb(limb_of_key);
        }
        const Limb &m = t < q_limbs ? q_[t] : p_[t - q_limbs];
        Addends addends{};
        addends.factor = 1;
        for (int h = 0; h < 2; ++h) {
          const Poly *more = first_addends[h];
          // Without special limbs, P times the addend is meant, which is 0 modulo P.
          if (!more || (t >= q_limbs && !more->p_limbs)) continue;
          addends.before[h] = more->limb(t);
        }
        for (int h = 0; h < 2; ++h)
          if (addends.before[h] && !first_addends[h]->p_limbs) addends.factor = product_mod(special, nullptr, m.modulus);
        if (!after.empty()) {
          addends.after[0] = after[k].first->limb(t);
          addends.after[1] = after[k].second->limb(t);
        }
        kernels.inner_product(m, digits, &digit[(t - first) * digits], b.data(), x.data(), out[k].first.limb(t),
                              out[k].second.limb(t), moves[k], addends, dimension);
      }
  });
  return out;
}

std::vector<Pair> Ring::transform(const std::vector<std::pair<const Poly *, const Poly *>> &parts,
                                  const std::vector<std::vector<const Poly *>> &diagonals) {
  const int terms = parts.size(), rows = diagonals.size();
  if (terms < 1 || terms > TERMS_MAX) refuse("1 to " + text(TERMS_MAX) + " terms are possible");
  const Poly &shape = *parts[0].first;
  for (auto &part : parts) {
    same_shape(shape, *part.first);
    same_shape(shape, *part.second);
  }
  for (auto &row : diagonals) {
    if ((int)row.size() != terms) refuse("a row of diagonals has another length than there are parts");
    for (const Poly *d : row)
      if (d) check_operand(shape, *d);
  }
  std::vector<Pair> out;
  for (int g = 0; g < rows; ++g)
    out.emplace_back(like(shape.q_limbs, shape.p_limbs), like(shape.q_limbs, shape.p_limbs));
  parallel(shape.limbs.size(), [&](int i) {
    std::vector<const double *> first(terms), second(terms);
    for (int k = 0; k < terms; ++k) {
      first[k] = parts[k].first->limb(i);
      second[k] = parts[k].second->limb(i);
    }
    const double *const *from[2] = {first.data(), second.data()};
    std::vector<Diagonal> factors;
    for (auto &row : diagonals)
      for (const Poly *d : row)
        factors.push_back(d ? Diagonal{d->limb(operand_limb(shape, i, *d)), d->log2_run} : Diagonal{nullptr, 0});
    std::vector<double *> to(2 * rows);
    std::vector<double *const *> to_rows(rows);
    for (int g = 0; g < rows; ++g) {
      to[2 * g] = out[g].first.limb(i);
      to[2 * g + 1] = out[g].second.limb(i);
      to_rows[g] = &to[2 * g];
    }
    kernels.transform(limb(shape, i), 2, terms, from, rows, factors.data(), to_rows.data(), dimension);
  });
  return out;
}

}  // namespace hetal
