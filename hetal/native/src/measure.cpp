#include "src/measure.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <stdexcept>

namespace hetal {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// All threads run `work(thread)` between two barriers; the seconds of the slowest.
double once(int threads, const std::function<void(int)> &work) {
  double begin = now();
#pragma omp parallel for schedule(static, 1) num_threads(threads)
  for (int i = 0; i < threads; ++i) work(i);
  return now() - begin;
}

double median(int threads, int rounds, const std::function<void(int)> &work) {
  std::vector<double> seconds;
  once(threads, work);
  for (int i = 0; i < rounds; ++i) seconds.push_back(once(threads, work));
  std::nth_element(seconds.begin(), seconds.begin() + rounds / 2, seconds.end());
  return seconds[rounds / 2];
}

}  // namespace

std::map<std::string, double> measure(Ring &ring, int threads, int rounds) {
  constexpr int SOURCES = 7, TARGETS = 2, DIGITS = 4;
  if (threads < 1 || rounds < 1) throw std::invalid_argument("at least one thread and one round are needed");
  const Kernels &k = ring.kernels;
  const Limb &m = ring.modulus(0);
  if (m.wide) throw std::invalid_argument("the first modulus must be below 2^50");
  const long n = ring.dimension;
  int log2_n = 0;
  while ((1L << log2_n) < n) ++log2_n;

  std::vector<Poly> limbs;
  for (int i = 0; i < threads; ++i) {
    limbs.emplace_back();
    for (int j = 0; j < SOURCES + TARGETS + 3 * DIGITS; ++j) {
      limbs[i].limbs.push_back(ring.block());
      for (long w = 0; w < n; ++w) limbs[i].limb(j)[w] = (double)((w * 2654435761UL + j) % 1000003);
    }
  }
  const Words constants(SOURCES + 1, m.modulus / 3);
  std::map<std::string, double> result;
  auto time = [&](const char *name, double per, const std::function<void(int)> &work) {
    // Enough calls a round that the barrier does not count.
    const double single = std::max(once(threads, work), 1e-7);
    const int calls = std::max(1, (int)(2e-3 / single));
    result[name] = median(threads, rounds, [&](int i) {
                     for (int c = 0; c < calls; ++c) work(i);
                   }) /
                   calls / per;
  };
  time("forward", 1, [&](int i) { k.forward(m, limbs[i].limb(0), log2_n); });
  time("inverse", 1, [&](int i) { k.inverse(m, limbs[i].limb(0), log2_n, 1); });
  time("multiply", 1, [&](int i) { k.multiply(m, limbs[i].limb(1), limbs[i].limb(2), limbs[i].limb(3), 0, n); });
  time("convert_pair", SOURCES * TARGETS, [&](int i) {
    Conversion c;
    c.sources = SOURCES;
    c.targets = TARGETS;
    c.exact = false;
    for (int s = 0; s < SOURCES; ++s) {
      c.source[s] = &m;
      c.y[s] = limbs[i].limb(s);
    }
    for (int t = 0; t < TARGETS; ++t) {
      c.target[t] = &m;
      c.out[t] = limbs[i].limb(SOURCES + t);
      c.constants[t] = constants.data();
    }
    k.convert(c, n);
  });
  time("inner_product_term", DIGITS, [&](int i) {
    const double *d[DIGITS], *b[DIGITS], *a[DIGITS];
    for (int j = 0; j < DIGITS; ++j) {
      d[j] = limbs[i].limb(SOURCES + TARGETS + j);
      b[j] = limbs[i].limb(SOURCES + TARGETS + DIGITS + j);
      a[j] = limbs[i].limb(SOURCES + TARGETS + 2 * DIGITS + j);
    }
    k.inner_product(m, DIGITS, d, b, a, limbs[i].limb(0), limbs[i].limb(1), nullptr, Addends{}, n);
  });

  constexpr long EXERCISE = 20000;
  double operations = 0;
  const double peak = median(threads, rounds, [&](int i) {
    const double done = k.exercise(EXERCISE);
    if (i == 0) operations = done;
  });
  result["peak"] = operations * threads / peak;

  // Four times the last-level cache of most processors, shared out.
  const size_t words = (size_t(128) << 20) / 8 / threads;
  std::vector<std::vector<double>> memory(threads, std::vector<double>(words, 1.0));
  std::vector<double> sums(threads);
  const double read = median(threads, std::max(3, rounds / 4), [&](int i) {
    sums[i] = k.total(memory[i].data(), (long)words);
  });
  result["read"] = (double)words * 8 * threads / read;
  return result;
}

}  // namespace hetal
