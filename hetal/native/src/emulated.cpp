// The GPU form of every kernel, lane by lane on the CPU: the variant "emulated". It shows, without a GPU, that the
// kernels a GPU would run give the residues of the CPU's own. Blocks run their lanes forwards and backwards in turn.
#define HETAL_GPU_FORM

#include "kernels/gpu_ntt.h"
#include "kernels/gpu_sums.h"
#include "src/kernel_table.h"

namespace hetal {
namespace {

// f(lanes, block) for each of a launch's blocks.
template <class F>
void launch(long blocks, const F &f) {
  for (long block = 0; block < blocks; ++block) f(LaneByLane{block % 2 == 1}, (int)block);
}

long word_blocks(long n) { return (n + GPU_BLOCK_WORDS - 1) / GPU_BLOCK_WORDS; }

u64 shoup(u64 value, u64 modulus) { return (u64)(((unsigned __int128)value << 64) / modulus); }

// -- transforms ----------------------------------------------------------------------------------------------------------

template <class P>
typename P::Memory *as(double *a) {
  return reinterpret_cast<typename P::Memory *>(a);
}

template <int LOG2_N, class P>
void forward_with(const Limb &m, double *words_of_limb) {
  typedef GpuShape<LOG2_N> Shape;
  const P p(m, true);
  typename P::Memory *a = as<P>(words_of_limb);
  alignas(64) double shared[Shape::TILE_WORDS];
  typename P::Memory *tile = as<P>(shared);
  if constexpr (Shape::COLUMN_LEVELS > 0)
    launch(Shape::COLUMN_BLOCKS, [&](LaneByLane ex, int block) { gpu_forward_columns<LOG2_N>(ex, p, a, block, tile); });
  launch(Shape::ROW_BLOCKS, [&](LaneByLane ex, int block) {
    gpu_forward_rows<LOG2_N>(ex, p, a, block, tile, [&](int i, typename P::Value value) { a[i] = value; });
  });
}

template <int LOG2_N, class P>
void inverse_with(const Limb &m, double *words_of_limb, const Constant &scale) {
  typedef GpuShape<LOG2_N> Shape;
  const P p(m, false);
  typename P::Memory *a = as<P>(words_of_limb);
  alignas(64) double shared[Shape::TILE_WORDS];
  typename P::Memory *tile = as<P>(shared);
  launch(Shape::ROW_BLOCKS, [&](LaneByLane ex, int block) {
    gpu_inverse_rows<LOG2_N>(ex, p, [&](int i) -> typename P::Value { return a[i]; }, a, block, tile);
  });
  launch(Shape::COLUMN_BLOCKS, [&](LaneByLane ex, int block) {
    gpu_inverse_columns<LOG2_N>(ex, p, a, block, tile, scale, m.modulus);
  });
}

template <int LOG2_N>
void forward_of(const Limb &m, double *a) {
  if (m.wide)
    forward_with<LOG2_N, WideLevels>(m, a);
  else if (m.tight)
    forward_with<LOG2_N, NarrowLevels<true>>(m, a);
  else
    forward_with<LOG2_N, NarrowLevels<false>>(m, a);
}

template <int LOG2_N>
void inverse_of(const Limb &m, double *a, const Constant &scale) {
  if (m.wide)
    inverse_with<LOG2_N, WideLevels>(m, a, scale);
  else if (m.tight)
    inverse_with<LOG2_N, NarrowLevels<true>>(m, a, scale);
  else
    inverse_with<LOG2_N, NarrowLevels<false>>(m, a, scale);
}

void forward(const Limb &m, double *a, int log2_n) {
  typedef void (*Function)(const Limb &, double *);
  // From 2^6 words, the smallest compact plaintext.
  static constexpr Function functions[] = {
      forward_of<6>,  forward_of<7>,  forward_of<8>,  forward_of<9>,  forward_of<10>, forward_of<11>,
      forward_of<12>, forward_of<13>, forward_of<14>, forward_of<15>, forward_of<16>, forward_of<17>,
  };
  functions[log2_n - 6](m, a);
}

void inverse(const Limb &m, double *a, int log2_n, u64 scale) {
  typedef void (*Function)(const Limb &, double *, const Constant &);
  static constexpr Function functions[] = {inverse_of<10>, inverse_of<11>, inverse_of<12>, inverse_of<13>,
                                           inverse_of<14>, inverse_of<15>, inverse_of<16>, inverse_of<17>};
  const u64 s = m.integer.multiply(scale, m.dimension_inverse);
  functions[log2_n - 10](m, a, Constant{s, shoup(s, m.modulus)});
}

// -- word by word --------------------------------------------------------------------------------------------------------

template <class Op>
void run(const Limb &m, const Op &op, long n) {
  launch(word_blocks(n), [&](LaneByLane ex, int block) { gpu_each(ex, m, op, block, n); });
}

Factor constant(const Limb &m, u64 value) { return factor(m, Constant{value, shoup(value, m.modulus)}); }

void add_(const Limb &m, double *o, const double *a, const double *b, long n) { run(m, Add{o, a, b}, n); }
void subtract_(const Limb &m, double *o, const double *a, const double *b, long n) { run(m, Subtract{o, a, b}, n); }
void negate_(const Limb &m, double *o, const double *a, long n) { run(m, Negate{o, a}, n); }
void multiply_(const Limb &m, double *o, const double *a, const double *b, int log2_run, long n) {
  run(m, MultiplyRuns{o, a, b, log2_run}, n);
}
void multiply_constant_(const Limb &m, double *o, const double *a, u64 c, long n) {
  run(m, MultiplyConstant{o, a, constant(m, c)}, n);
}
void add_constant_(const Limb &m, double *o, const double *a, u64 c, long n) {
  run(m, AddConstant{o, a, constant(m, c)}, n);
}
void subtract_multiply_(const Limb &m, double *o, const double *x, const double *t, u64 c, long n) {
  run(m, SubtractMultiply{o, x, t, constant(m, c)}, n);
}
void tensor_(const Limb &m, double *const o[3], const double *const a[2], const double *const b[2], long n) {
  run(m, Tensor{o[0], o[1], o[2], a[0], a[1], b[0], b[1]}, n);
}
void multiply_monomial_(const Limb &m, double *o, const double *a, const double *low, const double *high, long n) {
  run(m, MultiplyMonomial{o, a, low, high}, n);
}
void permute_(const Limb &m, double *o, const double *a, const Permutation &p, long n) { run(m, Permute{o, a, p}, n); }

void from_integers_(const Limb &m, double *o, const double *c, long n) {
  launch(word_blocks(n), [&](LaneByLane ex, int block) { gpu_from_integers(ex, m, o, c, block, n); });
}

bool import_words_(const Limb &m, double *o, const unsigned char *bytes, long n) {
  int bad = 0;
  auto from = [&](long i) {
    u64 r;
    __builtin_memcpy(&r, bytes + 8 * i, 8);
    return r;
  };
  launch(word_blocks(n), [&](LaneByLane ex, int block) { gpu_import(ex, m, o, from, &bad, block, n); });
  return !bad;
}

void export_words_(const Limb &m, unsigned char *bytes, const double *a, long n) {
  auto to = [&](long i, u64 r) { __builtin_memcpy(bytes + 8 * i, &r, 8); };
  launch(word_blocks(n), [&](LaneByLane ex, int block) { gpu_export(ex, m, to, a, block, n); });
}

// -- sums ----------------------------------------------------------------------------------------------------------------

struct ConversionTable {
  const Conversion &c;
  int bits = 30;
  bool any_wide = false;

  explicit ConversionTable(const Conversion &conversion) : c(conversion) {
    for (int i = 0; i < c.sources; ++i)
      if (c.source[i]->wide)
        any_wide = true;
      else if (c.source[i]->bits > bits)
        bits = c.source[i]->bits;
  }
  int sources() const { return c.sources; }
  int targets() const { return c.targets; }
  bool exact() const { return c.exact; }
  bool integers() const { return any_wide; }
  int source_bits() const { return bits; }
  const Limb &source(int i) const { return *c.source[i]; }
  const double *y(int i) const { return c.y[i]; }
  const Limb &target(int t) const { return *c.target[t]; }
  double *out(int t) const { return c.out[t]; }
  u64 constant(int t, int i) const { return c.constants[t][i]; }
};

void convert_(const Conversion &c, long n) {
  const ConversionTable table(c);
  alignas(64) double shared[GPU_CONVERSION_SHARED];
  for (int group = 0; group * GPU_CONVERSION_TARGETS < c.targets; ++group)
    launch(word_blocks(n), [&](LaneByLane ex, int block) { gpu_convert(ex, table, block, group, n, shared); });
}

struct InnerProductTable {
  int count;
  const double *const *digits, *const *keys_b, *const *keys_a;
  double *to_b, *to_a;
  const Permutation *moves;
  const Addends &more;
  Factor times;

  int terms() const { return count; }
  const double *digit(int k) const { return digits[k]; }
  const double *b(int k) const { return keys_b[k]; }
  const double *a(int k) const { return keys_a[k]; }
  double *out_b() const { return to_b; }
  double *out_a() const { return to_a; }
  const Permutation *permutation() const { return moves; }
  const Addends &addends() const { return more; }
  const Factor &factor() const { return times; }
};

void inner_product_(const Limb &m, int terms, const double *const *d, const double *const *b, const double *const *a,
                    double *out_b, double *out_a, const Permutation *permutation, const Addends &addends, long n) {
  const InnerProductTable table{terms, d, b, a, out_b, out_a, permutation, addends, constant(m, addends.factor)};
  launch(word_blocks(n), [&](LaneByLane ex, int block) { gpu_inner_product(ex, m, table, block, n); });
}

struct TransformTable {
  int count, row_count;
  const double *const *const *parts;
  const Diagonal *diagonals;
  double *const *const *outs;

  int terms() const { return count; }
  int rows() const { return row_count; }
  const double *part(int h, int k) const { return parts[h][k]; }
  Diagonal diagonal(int g, int k) const { return diagonals[(long)g * count + k]; }
  double *out(int g, int h) const { return outs[g][h]; }
};

void transform_(const Limb &m, int heads, int terms, const double *const *const *parts, int rows,
                const Diagonal *diagonals, double *const *const *out, long n) {
  const TransformTable table{terms, rows, parts, diagonals, out};
  for (int group = 0; group * GPU_TRANSFORM_ROWS < rows; ++group)
    launch(word_blocks(n), [&](LaneByLane ex, int block) {
      if (heads == 2)
        gpu_transform<2>(ex, m, table, block, group, n);
      else
        gpu_transform<1>(ex, m, table, block, group, n);
    });
}

// -- for measurements ----------------------------------------------------------------------------------------------------

// Read by nobody; keeps the compiler from leaving work out.
volatile double sink;

double exercise(long rounds) {
  double x = 1.0;
  for (long r = 0; r < rounds; ++r) x = fma_(x, 0.999999, 1e-6);
  sink = x;
  return (double)rounds;
}

double total(const double *a, long n) {
  double sum = 0.0;
  for (long i = 0; i < n; ++i) sum += a[i];
  return sum;
}

}  // namespace

extern const Kernels kernels_emulated = {
    "emulated", 1,        forward,  forward,  inverse,  add_,           subtract_,
    negate_,    multiply_, multiply_constant_, add_constant_, subtract_multiply_, tensor_, multiply_monomial_,
    permute_,   from_integers_, import_words_, export_words_, convert_, inner_product_, transform_,
    exercise,   total};

}  // namespace hetal
