// Kernels for the tests of the simulated driver itself.
#include "grid.h"

KERNEL(probe_set)(int *out, int value) { out[0] = value; }

// Counts the threads that run, and adds up where they are: x + 100 y of the block, 10000 x of the
// grid.
KERNEL(probe_threads)(int *out) {
  atomicAdd(out, 1);
  atomicAdd(out + 1, (int)(threadIdx.x + 100 * threadIdx.y + 10000 * blockIdx.x));
}
