// Entry points of the GPU, for one ring dimension: compile with -DHETAL_LOG2_N=10 to 17 (or 6 to 9 for the forward
// transform of compact plaintexts), without contraction (-fmad=false): every fused operation is written out. Each takes
// the batch of gpu_batch.h or gpu_switch.h that it is named for; the threads of a block are those of its launch bounds.
//
// Compiled as C++ for a CPU (with -DHETAL_GPU_FORM) the same entry points run a whole grid lane by lane.
#include "gpu_switch.h"

#ifndef HETAL_LOG2_N
#define HETAL_LOG2_N 16
#endif

namespace hetal {

typedef GpuShape<HETAL_LOG2_N> Shape;

#ifdef __CUDACC__
#define ENTRY(bounds, name, words, ...)                                                                         \
  extern "C" __global__ void __launch_bounds__ bounds hetal_##name(const __grid_constant__ __VA_ARGS__ batch) { \
    __shared__ double shared[words];                                                                            \
    batch.run(GpuBlock(), GridPoint{(int)blockIdx.x, (int)blockIdx.y, (int)blockIdx.z}, shared);                \
  }
#else
#define ENTRY(bounds, name, words, ...)                                                                         \
  extern "C" void hetal_##name(const __VA_ARGS__ &batch, int blocks, int limbs, int polynomials) {              \
    alignas(64) double shared[words];                                                                           \
    for (int z = 0; z < polynomials; ++z)                                                                       \
      for (int y = 0; y < limbs; ++y)                                                                           \
        for (int x = 0; x < blocks; ++x) batch.run(LaneByLane{(x + y) % 2 == 1}, GridPoint{x, y, z}, shared);    \
  }                                                                                                             \
  extern "C" unsigned long hetal_##name##_bytes() { return sizeof(__VA_ARGS__); }                               \
  extern "C" int hetal_##name##_threads() { return threads_of bounds; }

constexpr int threads_of(int threads, int = 0) { return threads; }
#endif

#define WORDS(name, ...) ENTRY((GPU_BLOCK_WORDS), name, 1, __VA_ARGS__)
// Room for 128 registers a thread: without the second bound the compiler aims at more blocks and spills.
#define COLUMNS(name, ...) ENTRY((Shape::THREADS, 512 / Shape::THREADS), name, Shape::COLUMN_TILE_WORDS, __VA_ARGS__)
#define ROWS(name, ...) ENTRY((Shape::ROW_THREADS, 512 / Shape::ROW_THREADS), name, Shape::ROW_TILE_WORDS, __VA_ARGS__)

constexpr int N = HETAL_LOG2_N;

ROWS(forward_rows, ForwardRows<N>)
WORDS(from_integers, FromIntegersBatch<N>)

#if HETAL_LOG2_N >= 10
COLUMNS(forward_columns, ForwardColumns<N>)
COLUMNS(inverse_columns, InverseColumns<N>)
ROWS(inverse_rows, InverseRows<N>)
ROWS(forward_rows_divide, ForwardRowsDivide<N>)
WORDS(add, Binary<N, Add>)
WORDS(subtract, Binary<N, Subtract>)
WORDS(multiply, Binary<N, Multiply>)
WORDS(negate, NegateBatch<N>)
WORDS(multiply_operand, MultiplyOperand<N>)
WORDS(multiply_constants, WithConstants<N, MultiplyConstant>)
WORDS(add_constants, WithConstants<N, AddConstant>)
WORDS(subtract_multiply, SubtractMultiplyBatch<N>)
WORDS(tensor, TensorBatch<N>)
WORDS(multiply_monomial, MultiplyMonomialBatch<N>)
WORDS(permute, PermuteBatch<N>)
WORDS(import_words, ImportBatch<N>)
WORDS(export_words, ExportBatch<N>)
WORDS(inner_product, SwitchBatch<N>)
WORDS(dot, TransformBatch<N, 1>)
WORDS(transform, TransformBatch<N, 2>)
// 128 registers a thread, as above.
ENTRY((SwitchShape<N>::THREADS, 512 / SwitchShape<N>::THREADS), switch_rows, SwitchShape<N>::SHARED_WORDS, SwitchRows<N>)
ENTRY((GPU_BLOCK_WORDS), convert, GPU_CONVERSION_SHARED, ConvertBatch<N>)
#endif

}  // namespace hetal
