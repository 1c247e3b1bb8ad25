// Lets g++ compile a kernel's CUDA form. The build includes this, then the .cu file, and then
// says SIM_KERNEL(name, most threads of a block) for each kernel of it.
//
// The threads of a launch run one after another, block after block, each through the kernel's own
// grid-stride loop. So there are no __shared__ memory and no __syncthreads.
#pragma once
#include "sim.h"

#include <stdint.h>
#include <string.h>

#include <type_traits>
#include <utility>

struct SimDim {
  unsigned x, y, z;
};

inline thread_local SimDim threadIdx{}, blockIdx{}, blockDim{}, gridDim{};

#define __CUDACC__
#define __global__
#define __device__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

static inline unsigned __float_as_uint(float value) {
  unsigned bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float __uint_as_float(unsigned bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <typename T>
static inline T atomicAdd(T *at, T value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);  // launches on two streams may meet
}

template <typename Body>
static void sim_for_each(SimDim &index, const SimDim &size, Body body) {
  for (index.z = 0; index.z < size.z; index.z++)
    for (index.y = 0; index.y < size.y; index.y++)
      for (index.x = 0; index.x < size.x; index.x++) body();
}

// A launch, typed by the kernel's C++ signature.
template <auto Kernel>
struct SimLaunch;

template <typename... Types, void (*Kernel)(Types...)>
struct SimLaunch<Kernel> {
  static constexpr sim_parameter parameters[] = {{sizeof(Types), std::is_pointer_v<Types>}...};

  static void run(const void *const *arguments, const uint32_t *grid, const uint32_t *block) {
    run(arguments, grid, block, std::index_sequence_for<Types...>());
  }

  template <size_t... I>
  static void run(const void *const *arguments, const uint32_t *grid, const uint32_t *block,
                  std::index_sequence<I...>) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    sim_for_each(blockIdx, gridDim, [&] {
      sim_for_each(threadIdx, blockDim, [&] { Kernel(*(const Types *)arguments[I]...); });
    });
  }
};

#define SIM_KERNEL(name, max_threads)                                                  \
  static const sim_kernel sim_##name{#name, max_threads,                               \
                                     sizeof SimLaunch<&name>::parameters / sizeof(sim_parameter), \
                                     SimLaunch<&name>::parameters, SimLaunch<&name>::run};        \
  static const bool sim_registered_##name = (sim_register_kernel(&sim_##name), true);
