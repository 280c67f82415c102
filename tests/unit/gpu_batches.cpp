// Whole grids of the GPU's entry points, lane by lane on the CPU, against the CPU's kernels limb by limb: which limb,
// polynomial, key or digit a block works on is right. Arguments: moduli with their roots, those of P last; prints the
// names of the entry points that differ.
#include "kernels/gpu_entry.cu"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <random>
#include <vector>

using namespace hetal;

namespace {

typedef unsigned __int128 u128;
typedef std::vector<double> Memory;

constexpr long SIZE = 1L << N;
// Polynomials have 3 of the 5 limbs of Q and both of P.
constexpr int ALL_Q = 5, Q = 3, P = 2, LIMBS = Q + P, OFFSET = ALL_Q - Q, POLYS = 2;
constexpr int WORD_BLOCKS = SIZE / GPU_BLOCK_WORDS;
static_assert(Shape::ROW_BLOCKS > 1 && Shape::COLUMN_BLOCKS > 1, "a grid of one block proves little");

u64 power(u64 a, u64 e, u64 p) {
  u64 r = 1;
  for (; e; e >>= 1, a = (u128)a * a % p)
    if (e & 1) r = (u128)r * a % p;
  return r;
}

u64 quotient(u64 w, u64 p) { return ((u128)w << 64) / p; }

// Deques, because growing leaves their elements where they are.
std::deque<std::vector<u64>> tables_of_words;
std::deque<Memory> tables_of_doubles;

Limb limb(u64 p, u64 root) {
  Limb m{};
  m.modulus = p;
  m.bits = 64 - __builtin_clzll(p);
  m.wide = m.bits > 50;
  m.tight = m.bits > 49;
  m.p = (double)p;
  m.inverse = 1.0 / m.p;
  const u64 word = ((u128)1 << 64) % p;
  m.integer = Wide{p, (u64)(((u128)1 << 64) / p), word, quotient(word, p)};
  m.dimension_inverse = power(SIZE, p - 2, p);
  for (int backward = 0; backward < 2; ++backward) {
    tables_of_words.resize(tables_of_words.size() + 2, std::vector<u64>(SIZE));
    tables_of_doubles.emplace_back(SIZE);
    u64 *roots = tables_of_words.end()[-1].data(), *quotients = tables_of_words.end()[-2].data();
    double *narrow = tables_of_doubles.back().data();
    for (long v = 0; v < SIZE; ++v) {
      u64 e = 0;
      for (int b = 0; b < N; ++b) e = e << 1 | (v >> b & 1);
      roots[v] = power(backward ? power(root, p - 2, p) : root, e, p);
      quotients[v] = quotient(roots[v], p);
      narrow[v] = centred(roots[v], p);
    }
    (backward ? m.backward : m.forward) = NarrowTwiddles{narrow, narrow};
    (backward ? m.wide_backward : m.wide_forward) = WideTwiddles{roots, quotients};
  }
  return m;
}

std::vector<Limb> table;  // Q, then P
std::mt19937_64 rng(1);
int failures = 0;

const Limb &modulus(int i) { return table[i < Q ? i : i + OFFSET]; }

void fill(const Limb &m, double *a, long n = SIZE) {
  for (long i = 0; i < n; ++i) put_residue(m, a, i, rng() % m.modulus);
}

// A polynomial of all limbs of the table, or of those of a chain.
Memory random_poly(bool whole = false, int log2_run = 0) {
  const int limbs = whole ? (int)table.size() : LIMBS;
  const long n = SIZE >> log2_run;
  Memory a(limbs * n);
  for (int i = 0; i < limbs; ++i) fill(whole ? table[i] : modulus(i), &a[i * n], n);
  return a;
}

double *at(Memory &a, int i) { return &a[i * SIZE]; }

Polys polys(std::vector<Memory> &list) {
  Polys p{};
  for (size_t k = 0; k < list.size(); ++k) p.at[k] = list[k].data();
  return p;
}

std::vector<Memory> random_polys(int count = POLYS) {
  std::vector<Memory> list;
  for (int k = 0; k < count; ++k) list.push_back(random_poly());
  return list;
}

bool same(const Limb &m, const double *a, const double *b) {
  for (long i = 0; i < SIZE; ++i)
    if (get_residue(m, a, i) != get_residue(m, b, i)) return false;
  return true;
}

// Whether limb i of polynomial z is what `due(z, i, to)` writes.
void expect(const char *name, std::vector<Memory> &got, int limbs, const std::function<void(int, int, double *)> &due) {
  Memory to(SIZE);
  for (size_t z = 0; z < got.size(); ++z)
    for (int i = 0; i < limbs; ++i) {
      due((int)z, i, to.data());
      if (!same(modulus(i), at(got[z], i), to.data())) {
        printf("%s: polynomial %d, limb %d\n", name, (int)z, i);
        ++failures;
        return;
      }
    }
}

void forward_due(const Limb &m, double *a) {
  if (m.wide)
    forward_ntt(words(a), N, m.wide_forward, m.integer);
  else
    forward_ntt(a, N, m.forward, Narrow<double>(m.p, m.inverse), m.tight);
}

void inverse_due(const Limb &m, double *a, const Constant &c) {
  if (m.wide)
    inverse_ntt(words(a), N, m.wide_backward, m.integer, c.value, c.quotient);
  else
    inverse_ntt(a, N, m.backward, Narrow<double>(m.p, m.inverse), centred(c.value, m.modulus), m.tight);
}

// A permutation of blocks and lanes; no automorphism need be behind it.
struct Moves {
  std::vector<u32> targets;
  i64 lanes[8][8];
  explicit Moves(int factor) : targets(SIZE / 8) {
    for (u32 b = 0; b < targets.size(); ++b) targets[b] = (b * factor % targets.size()) << 3 | (b * 3 & 7);
    for (int v = 0; v < 8; ++v)
      for (int k = 0; k < 8; ++k) lanes[v][k] = (k * 5 + v) & 7;
  }
  Permutation view() const { return Permutation{targets.data(), lanes}; }
};

}  // namespace

int main(int count, char **arguments) {
  for (int i = 1; i + 1 < count; i += 2)
    table.push_back(limb(strtoull(arguments[i], nullptr, 10), strtoull(arguments[i + 1], nullptr, 10)));
  if (table.size() != ALL_Q + P) return 2;
  const Chain chain{table.data(), Q, OFFSET};
  Constants constants{};
  for (int i = 0; i < LIMBS; ++i) {
    const u64 c = rng() % modulus(i).modulus;
    constants.at[i] = Constant{c, quotient(c, modulus(i).modulus)};
  }
  auto value = [&](int i) { return constants.at[i].value; };
  auto a = random_polys(), b = random_polys(), c = random_polys(), d = random_polys(), out = random_polys();

  auto work = a;
  hetal_forward_columns({chain, polys(work)}, Shape::COLUMN_BLOCKS, LIMBS, POLYS);
  auto half_way = work;
  hetal_forward_rows({chain, polys(work)}, Shape::ROW_BLOCKS, LIMBS, POLYS);
  auto transformed = [&](int z, int i, double *to) {
    for (long k = 0; k < SIZE; ++k) to[k] = at(a[z], i)[k];
    forward_due(modulus(i), to);
  };
  expect("forward", work, LIMBS, transformed);
  hetal_forward_rows_divide({chain, polys(out), polys(b), polys(half_way), constants}, Shape::ROW_BLOCKS, LIMBS, POLYS);
  expect("forward_rows_divide", out, LIMBS, [&](int z, int i, double *to) {
    transformed(z, i, to);
    subtract_multiply<double>(modulus(i), to, at(b[z], i), to, value(i), SIZE);
  });
  hetal_inverse_rows({chain, polys(out), polys(a)}, Shape::ROW_BLOCKS, LIMBS, POLYS);
  hetal_inverse_columns({chain, polys(out), constants}, Shape::COLUMN_BLOCKS, LIMBS, POLYS);
  expect("inverse", out, LIMBS, [&](int z, int i, double *to) {
    for (long k = 0; k < SIZE; ++k) to[k] = at(a[z], i)[k];
    inverse_due(modulus(i), to, constants.at[i]);
  });

#define BINARY(name)                                                                                 \
  hetal_##name({chain, polys(out), polys(a), polys(b)}, WORD_BLOCKS, LIMBS, POLYS);                  \
  expect(#name, out, LIMBS, [&](int z, int i, double *to) {                                          \
    name<double>(modulus(i), to, at(a[z], i), at(b[z], i), SIZE);                                    \
  });
  BINARY(add)
  BINARY(subtract)
  hetal_multiply({chain, polys(out), polys(a), polys(b)}, WORD_BLOCKS, LIMBS, POLYS);
  expect("multiply", out, LIMBS, [&](int z, int i, double *to) {
    multiply<double>(modulus(i), to, at(a[z], i), at(b[z], i), 0, SIZE);
  });
  hetal_negate({chain, polys(out), polys(a)}, WORD_BLOCKS, LIMBS, POLYS);
  expect("negate", out, LIMBS,
         [&](int z, int i, double *to) { negate<double>(modulus(i), to, at(a[z], i), SIZE); });
  // A compact factor of as many limbs, and a full one of all.
  Memory compact = random_poly(false, 3), whole = random_poly(true);
  MultiplyOperand<N> product{chain, polys(out), polys(a), {{compact.data(), 3, 0}, {whole.data(), 0, OFFSET}}};
  hetal_multiply_operand(product, WORD_BLOCKS, LIMBS, POLYS);
  auto factor_of = [&](int z, int i) {
    return z ? Diagonal{at(whole, i < Q ? i : i + OFFSET), 0} : Diagonal{&compact[i * (SIZE >> 3)], 3};
  };
  expect("multiply_operand", out, LIMBS, [&](int z, int i, double *to) {
    multiply<double>(modulus(i), to, at(a[z], i), factor_of(z, i).words, factor_of(z, i).log2_run, SIZE);
  });
  hetal_multiply_constants({chain, polys(out), polys(a), constants}, WORD_BLOCKS, LIMBS, POLYS);
  expect("multiply_constants", out, LIMBS, [&](int z, int i, double *to) {
    multiply_constant<double>(modulus(i), to, at(a[z], i), value(i), SIZE);
  });
  hetal_add_constants({chain, polys(out), polys(a), constants}, WORD_BLOCKS, LIMBS, POLYS);
  expect("add_constants", out, LIMBS, [&](int z, int i, double *to) {
    add_constant<double>(modulus(i), to, at(a[z], i), value(i), SIZE);
  });
  hetal_subtract_multiply({chain, polys(out), polys(a), polys(b), constants}, WORD_BLOCKS, LIMBS, POLYS);
  expect("subtract_multiply", out, LIMBS, [&](int z, int i, double *to) {
    subtract_multiply<double>(modulus(i), to, at(a[z], i), at(b[z], i), value(i), SIZE);
  });

  std::vector<Memory> triple[3] = {random_polys(), random_polys(), random_polys()};
  TensorBatch<N> tensor_batch{chain,
                              {polys(triple[0]), polys(triple[1]), polys(triple[2])},
                              {polys(a), polys(b)},
                              {polys(c), polys(d)}};
  hetal_tensor(tensor_batch, WORD_BLOCKS, LIMBS, POLYS);
  for (int part = 0; part < 3; ++part)
    expect("tensor", triple[part], LIMBS, [&](int z, int i, double *to) {
      Memory other(2 * SIZE);
      double *const to3[3] = {part == 0 ? to : at(other, 0), part == 1 ? to : at(other, part == 0 ? 0 : 1),
                              part == 2 ? to : at(other, 1)};
      const double *const x[2] = {at(a[z], i), at(b[z], i)}, *const y[2] = {at(c[z], i), at(d[z], i)};
      tensor<double>(modulus(i), to3, x, y, SIZE);
    });

  const long monomial_words = 64 + SIZE / 64;
  Memory monomials(table.size() * monomial_words);
  for (size_t i = 0; i < table.size(); ++i) fill(table[i], &monomials[i * monomial_words], monomial_words);
  hetal_multiply_monomial({chain, polys(out), polys(a), monomials.data()}, WORD_BLOCKS, LIMBS, POLYS);
  expect("multiply_monomial", out, LIMBS, [&](int z, int i, double *to) {
    const double *low = &monomials[(i < Q ? i : i + OFFSET) * monomial_words];
    multiply_monomial<double>(modulus(i), to, at(a[z], i), low, low + 64, SIZE);
  });

  const Moves moves(5), others(3);
  hetal_permute({chain, polys(out), polys(a), moves.view()}, WORD_BLOCKS, LIMBS, POLYS);
  expect("permute", out, LIMBS, [&](int z, int i, double *to) {
    permute<double>(modulus(i), to, at(a[z], i), moves.view(), SIZE);
  });

  std::vector<Memory> integers(POLYS, Memory(SIZE));
  for (auto &row : integers)
    for (double &x : row) x = (double)((i64)rng() >> 8);
  hetal_from_integers({chain, polys(out), polys(integers)}, WORD_BLOCKS, LIMBS, POLYS);
  expect("from_integers", out, LIMBS, [&](int z, int i, double *to) {
    from_integers<double>(modulus(i), to, integers[z].data(), SIZE);
  });
  auto residues = random_polys();
  hetal_export_words({chain, polys(residues), polys(a)}, WORD_BLOCKS, LIMBS, POLYS);
  int bad = 0;
  hetal_import_words({chain, polys(out), polys(residues), &bad}, WORD_BLOCKS, LIMBS, POLYS);
  expect("import and export", out, LIMBS, [&](int z, int i, double *to) {
    if (!import_words<double>(modulus(i), to, (const unsigned char *)at(residues[z], i), SIZE)) bad = 2;
    if (!same(modulus(i), to, at(a[z], i))) bad = 3;
  });
  if (bad) printf("import_words: bad is %d\n", bad), ++failures;
  words(at(residues[1], 4))[77] = modulus(4).modulus;
  hetal_import_words({chain, polys(out), polys(residues), &bad}, WORD_BLOCKS, LIMBS, POLYS);
  if (bad != 1) printf("import_words: a word that is too large passes\n"), ++failures;

  // Conversions of a polynomial's limbs: plan 0 from {1, 0} to {4, 2, 3}, plan 1 from {4} to all.
  struct Plan {
    std::vector<u32> sources, targets, source_limbs, target_limbs;
    std::vector<u64> constants;
    bool exact;
  } plans[2] = {{{1, 0}, {4, 2, 3}, {}, {}, {}, true}, {{4}, {0, 1, 2, 3, 4}, {}, {}, {}, false}};
  ConversionPlan views[2];
  for (int k = 0; k < 2; ++k) {
    Plan &p = plans[k];
    int bits = 30;
    bool integers_only = false;
    for (u32 s : p.sources) {
      p.source_limbs.push_back(chain.limb_index(s));
      if (modulus(s).wide)
        integers_only = true;
      else
        bits = modulus(s).bits > bits ? modulus(s).bits : bits;
    }
    for (u32 t : p.targets) {
      p.target_limbs.push_back(chain.limb_index(t));
      for (size_t i = 0; i < p.sources.size() + p.exact; ++i) p.constants.push_back(rng() % modulus(t).modulus);
    }
    views[k] = ConversionPlan{(int)p.sources.size(),  (int)p.targets.size(), bits,
                              p.exact,                integers_only,         p.source_limbs.data(),
                              p.sources.data(),       p.target_limbs.data(), p.targets.data(),
                              p.constants.data()};
  }
  // What a conversion reads are centred residues, as an inverse transform leaves them.
  auto y = random_polys();
  for (int step = 0; step < 2; ++step) {
    for (auto &poly : out)
      for (int i = 0; i < LIMBS; ++i) fill(modulus(i), at(poly, i));
    const auto before = out;
    hetal_convert({table.data(), views, step, polys(out), polys(y)}, WORD_BLOCKS, 2, POLYS);
    expect("convert", out, LIMBS, [&](int z, int i, double *to) {
      const Plan &p = plans[z * step];
      for (long k = 0; k < SIZE; ++k) to[k] = before[z][i * SIZE + k];
      Conversion due;
      due.sources = (int)p.sources.size();
      due.exact = p.exact;
      due.targets = 1;
      for (int s = 0; s < due.sources; ++s) {
        due.source[s] = &modulus(p.sources[s]);
        due.y[s] = at(y[z], p.sources[s]);
      }
      due.target[0] = &modulus(i);
      due.out[0] = to;
      for (size_t t = 0; t < p.targets.size(); ++t) {
        if ((int)p.targets[t] != i) continue;
        due.constants[0] = &p.constants[t * (p.sources.size() + p.exact)];
        convert<Vector>(due, SIZE);
      }
    });
  }

  // A key switch of 3 digits of 2 limbs, hence with limbs of Q in 2 of them, by 2 keys of all limbs.
  constexpr int TERMS = 3, KEYS = 2;
  const long digit_words = LIMBS * SIZE, key_words = (long)table.size() * SIZE;
  auto own = random_poly();
  auto digits = random_polys(TERMS);
  Memory digit_memory;
  for (auto &digit : digits) digit_memory.insert(digit_memory.end(), digit.begin(), digit.end());
  std::vector<Memory> key_memory[2];
  for (int half = 0; half < 2; ++half)
    for (int k = 0; k < KEYS; ++k) {
      key_memory[half].emplace_back();
      for (int digit = 0; digit < TERMS; ++digit) {
        const Memory part = random_poly(true);
        key_memory[half][k].insert(key_memory[half][k].end(), part.begin(), part.end());
      }
    }
  auto more = random_polys(2), after = random_polys(2), result_b = random_polys(), result_a = random_polys();
  SwitchBatch<N> batch{chain,       TERMS, 2,         own.data(), digit_memory.data(), digit_words,
                       {more[0].data(), more[1].data()}, Q,         constants,  {}};
  for (int k = 0; k < KEYS; ++k) {
    batch.keys[k] = SwitchKey{key_memory[0][k].data(), key_memory[1][k].data(), key_words, OFFSET,
                              k ? others.view() : Permutation{nullptr, nullptr},
                              {result_b[k].data(), result_a[k].data()},
                              {k ? after[0].data() : nullptr, k ? after[1].data() : nullptr}};
  }
  hetal_inner_product(batch, WORD_BLOCKS, LIMBS, KEYS);
  for (int half = 0; half < 2; ++half)
    expect("inner_product", half ? result_a : result_b, LIMBS, [&](int k, int i, double *to) {
      const Limb &m = modulus(i);
      const u64 p = m.modulus;
      for (long word = 0; word < SIZE; ++word) {
        const Move move = k ? move_of(others.view(), word) : Move{word, word};
        u64 sum = 0;
        for (int digit = 0; digit < TERMS; ++digit) {
          const double *x = i < Q && i / 2 == digit ? at(own, i) : at(digits[digit], i);
          const double *of_key = &key_memory[half][k][digit * key_words + (i < Q ? i : i + OFFSET) * SIZE];
          sum = (sum + (u128)get_residue(m, x, move.from) * get_residue(m, of_key, move.from)) % p;
        }
        if (i < Q) sum = (sum + (u128)get_residue(m, at(more[half], i), move.from) * value(i)) % p;
        if (k) sum = ((u128)sum + get_residue(m, at(after[half], i), move.to)) % p;
        put_residue(m, to, move.to, sum);
      }
    });

  // Rows of 2 terms: compact, left out, and of all limbs.
  constexpr int ROW_COUNT = 3;
  const Operand diagonals[ROW_COUNT][2] = {{{compact.data(), 3, 0}, {whole.data(), 0, OFFSET}},
                                       {{nullptr, 0, 0}, {compact.data(), 3, 0}},
                                       {{whole.data(), 0, OFFSET}, {nullptr, 0, 0}}};
  auto rows_b = random_polys(ROW_COUNT), rows_a = random_polys(ROW_COUNT);
  TransformBatch<N, 2> transform_batch{
      chain, 2, ROW_COUNT, diagonals[0], {{a[0].data(), a[1].data()}, {b[0].data(), b[1].data()}}, {}};
  for (int g = 0; g < ROW_COUNT; ++g) {
    transform_batch.outs[0][g] = rows_b[g].data();
    transform_batch.outs[1][g] = rows_a[g].data();
  }
  TransformBatch<N, 1> dot_batch{chain, 2, 1, diagonals[0], {{a[0].data(), a[1].data()}}, {{out[0].data()}}};
  hetal_transform(transform_batch, WORD_BLOCKS, LIMBS, (ROW_COUNT + GPU_TRANSFORM_ROWS - 1) / GPU_TRANSFORM_ROWS);
  auto row_due = [&](int half, int g, int i, double *to) {
    auto &parts = half ? b : a;
    const double *from[2] = {at(parts[0], i), at(parts[1], i)}, *const *heads[1] = {from};
    Diagonal row[2];
    for (int k = 0; k < 2; ++k)
      row[k] = diagonals[g][k].words ? factor_of(diagonals[g][k].log2_run == 0, i) : Diagonal{nullptr, 0};
    double *tos[1] = {to}, *const *to_rows[1] = {tos};
    transform<Vector>(modulus(i), 1, 2, heads, 1, row, to_rows, SIZE);
  };
  expect("transform", rows_b, LIMBS, [&](int g, int i, double *to) { row_due(0, g, i, to); });
  expect("transform", rows_a, LIMBS, [&](int g, int i, double *to) { row_due(1, g, i, to); });
  hetal_dot(dot_batch, WORD_BLOCKS, LIMBS, 1);
  out.resize(1);
  expect("dot", out, LIMBS, [&](int, int i, double *to) { row_due(0, 0, i, to); });
  return failures != 0;
}
