// What runs a GPU kernel. A kernel is a sequence of phases; a phase is a number of lanes, any of which may run before
// any other, and ends in a barrier. Nothing but memory outlives a phase: lanes of one phase must not read what others
// of it write.
//
// On a GPU a phase is shared out to the threads of a block. On a CPU its lanes run one by one, in an order of the
// caller's choice, so that a missing barrier shows as a wrong result.
#pragma once

#include "arithmetic.h"

namespace hetal {

#ifdef __CUDACC__

struct GpuBlock {
  template <class F>
  HETAL_HD void phase(int count, F f) const {
    for (int lane = (int)threadIdx.x; lane < count; lane += (int)blockDim.x) f(lane);
    __syncthreads();
  }
};

#else

struct LaneByLane {
  bool backwards;

  template <class F>
  void phase(int count, F f) const {
    if (backwards)
      for (int lane = count - 1; lane >= 0; --lane) f(lane);
    else
      for (int lane = 0; lane < count; ++lane) f(lane);
  }
};

#endif

}  // namespace hetal
