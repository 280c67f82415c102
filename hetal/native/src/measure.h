// Times of single kernels and of the machine's limits, for `hetal bench engine`.
#pragma once

#include <map>
#include <string>

#include "src/engine.h"

namespace hetal {

// Median seconds of each kernel on limbs of the ring's dimension and narrow moduli, on `threads` threads at once (each
// with its own limbs), and as rates: "peak" (double-precision multiply-adds and additions a second, alternating),
// "read" (bytes a second from memory outside all caches).
std::map<std::string, double> measure(Ring &ring, int threads, int rounds);

}  // namespace hetal
