// Compiled once per instruction set, with HETAL_VARIANT its name. The kernels are all forced inline into functions of
// internal linkage: nothing compiled for one set can be called by another.
#include "src/kernel_table.h"

namespace hetal {
namespace {

typedef Vector V;

Narrow<V> narrow(const Limb &m) { return Narrow<V>(m.p, m.inverse); }

void forward(const Limb &m, double *a, int log2_n) {
  if (m.wide)
    forward_ntt(words(a), log2_n, m.wide_forward, m.integer);
  else
    forward_ntt(a, log2_n, m.forward, narrow(m), m.tight);
}

void forward_small(const Limb &m, double *a, int log2_n) {
  if (m.wide)
    forward_ntt(words(a), log2_n, m.wide_forward, m.integer);
  else
    forward_ntt(a, log2_n, m.forward, Narrow<double>(m.p, m.inverse), m.tight);
}

void inverse(const Limb &m, double *a, int log2_n, u64 scale) {
  const u64 s = m.integer.multiply(scale, m.dimension_inverse);
  if (m.wide)
    inverse_ntt(words(a), log2_n, m.wide_backward, m.integer, s, (u64)(((unsigned __int128)s << 64) / m.modulus));
  else
    inverse_ntt(a, log2_n, m.backward, narrow(m), centred(s, m.modulus), m.tight);
}

#define FORWARD(name, parameters, arguments) \
  void name##_ parameters { name<V> arguments; }

FORWARD(add, (const Limb &m, double *o, const double *a, const double *b, long n), (m, o, a, b, n))
FORWARD(subtract, (const Limb &m, double *o, const double *a, const double *b, long n), (m, o, a, b, n))
FORWARD(negate, (const Limb &m, double *o, const double *a, long n), (m, o, a, n))
FORWARD(multiply, (const Limb &m, double *o, const double *a, const double *b, int r, long n), (m, o, a, b, r, n))
FORWARD(multiply_constant, (const Limb &m, double *o, const double *a, u64 c, long n), (m, o, a, c, n))
FORWARD(add_constant, (const Limb &m, double *o, const double *a, u64 c, long n), (m, o, a, c, n))
FORWARD(subtract_multiply, (const Limb &m, double *o, const double *x, const double *t, u64 c, long n),
        (m, o, x, t, c, n))
FORWARD(tensor, (const Limb &m, double *const o[3], const double *const a[2], const double *const b[2], long n),
        (m, o, a, b, n))
FORWARD(multiply_monomial,
        (const Limb &m, double *o, const double *a, const double *low, const double *high, long n),
        (m, o, a, low, high, n))
FORWARD(permute, (const Limb &m, double *o, const double *a, const Permutation &p, long n), (m, o, a, p, n))
FORWARD(from_integers, (const Limb &m, double *o, const double *c, long n), (m, o, c, n))
FORWARD(export_words, (const Limb &m, unsigned char *bytes, const double *a, long n), (m, bytes, a, n))
FORWARD(convert, (const Conversion &c, long n), (c, n))
FORWARD(inner_product,
        (const Limb &m, int terms, const double *const *d, const double *const *b, const double *const *a, double *ob,
         double *oa, const Permutation *p, const Addends &s, long n),
        (m, terms, d, b, a, ob, oa, p, s, n))
FORWARD(transform,
        (const Limb &m, int heads, int terms, const double *const *const *parts, int rows, const Diagonal *d,
         double *const *const *out, long n),
        (m, heads, terms, parts, rows, d, out, n))

bool import_words_(const Limb &m, double *o, const unsigned char *bytes, long n) {
  return import_words<V>(m, o, bytes, n);
}

// Read by nobody; keeps the compiler from leaving work out.
volatile double sink;

double exercise(long rounds) {
  constexpr int CHAINS = 8;
  V x[CHAINS], y[CHAINS];
  const V w = splat<V>(0.999999), c = splat<V>(1e-6);
  for (int i = 0; i < CHAINS; ++i) x[i] = y[i] = splat<V>(1.0 + i);
  for (long r = 0; r < rounds; ++r) {
    HETAL_UNROLL
    for (int i = 0; i < CHAINS; ++i) {
      x[i] = fma_(x[i], w, c);
      y[i] = y[i] + c;
    }
  }
  V sum = V{};
  for (int i = 0; i < CHAINS; ++i) sum += x[i] + y[i];
  sink = sum[0];
  return 2.0 * CHAINS * Lanes<V>::count * (double)rounds;
}

double total(const double *a, long n) {
  constexpr int W = Lanes<V>::count, U = 8;
  V sum[U] = {};
  for (long i = 0; i < n; i += U * W)
    for (int u = 0; u < U; ++u) sum[u] += load<V>(a + i + u * W);
  V all = V{};
  for (int u = 0; u < U; ++u) all += sum[u];
  double result = 0;
  for (int k = 0; k < W; ++k) result += all[k];
  return result;
}

}  // namespace

#define TABLE_(variant) kernels_##variant
#define TABLE(variant) TABLE_(variant)
#define TEXT_(variant) #variant
#define TEXT(variant) TEXT_(variant)

extern const Kernels TABLE(HETAL_VARIANT) = {
    TEXT(HETAL_VARIANT), Lanes<V>::count,    forward,  forward_small,      inverse,  add_,
    subtract_,           negate_,            multiply_, multiply_constant_, add_constant_, subtract_multiply_,
    tensor_,             multiply_monomial_, permute_, from_integers_,     import_words_,  export_words_,
    convert_,            inner_product_,     transform_, exercise, total};

}  // namespace hetal
