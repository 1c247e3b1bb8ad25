// One kernel source, two compilers.
//
//   KERNEL(name)(arguments) { FOR_PIXELS(n, y, x, N, H, W) { … } }
//
// is an extern "C" __global__ grid-stride loop under CUDA, and plain nested loops under
// g++, where one call does the whole extent on the calling thread: a pipeline keeps every
// core busy with other frames already, so threads inside a kernel would only compete.
//
// Results are equal on both, bit for bit: integers wherever they decide, floats in one
// fixed order of operations, without contraction (-ffp-contract=off, fma=False), with the
// functions below instead of each platform's own expf and half conversion.
#pragma once

#ifdef __CUDACC__

#ifdef __CUDACC_RTC__  // NVRTC has no <stdint.h>
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#else
#include <stdint.h>
#endif

#define FN __device__ __forceinline__
#define KERNEL(name) extern "C" __global__ void __launch_bounds__(256) name

// Threads run along x, blocks along x, then y, then n.
#define FOR_PIXELS(n_, y_, x_, N, H, W)                                                         \
  for (int n_ = blockIdx.z; n_ < (N); n_ += gridDim.z)                                          \
    for (int y_ = blockIdx.y * blockDim.y + threadIdx.y; y_ < (H); y_ += gridDim.y * blockDim.y) \
      for (int x_ = blockIdx.x * blockDim.x + threadIdx.x; x_ < (W); x_ += gridDim.x * blockDim.x)

#else

#include <math.h>
#include <stdint.h>
#include <string.h>

#define FN static inline __attribute__((always_inline))
#define KERNEL(name) extern "C" __attribute__((visibility("default"))) void name

#define FOR_PIXELS(n, y, x, N, H, W)  \
  for (int n = 0; n < (N); n++)       \
    for (int y = 0; y < (H); y++)     \
      for (int x = 0; x < (W); x++)

#endif

// Items, each a struct of integers that begins with a rectangle x0, y0, x1, y1 (luma samples,
// half open, inside the picture), at the cells of 2x2 luma samples that they touch. A thread
// owns a cell and walks the items in order. On the host the items come first, so that each
// visits its own cells only: a cell sees the same items in the same order either way, and no
// cell reads another, so both give the same picture.
#define FOR_ITEMS_AT_CELLS(Item, item, y, x, ITEMS, COUNT, HEIGHT, WIDTH)          \
  FOR_PIXELS(n_, y, x, 1, ((HEIGHT) + 1) / 2, ((WIDTH) + 1) / 2)                   \
    for (int i_ = 0; i_ < (COUNT); i_++)                                           \
      if (const Item &item = (ITEMS)[i_]; item.x0 < 2 * x + 2 && 2 * x < item.x1 && \
                                          item.y0 < 2 * y + 2 && 2 * y < item.y1)

FN int min_int(int a, int b) { return a < b ? a : b; }
FN int max_int(int a, int b) { return a > b ? a : b; }
FN int clamp_int(int v, int low, int high) { return v < low ? low : v > high ? high : v; }

FN uint32_t float_bits(float v) {
#ifdef __CUDACC__
  return __float_as_uint(v);
#else
  uint32_t bits;
  memcpy(&bits, &v, 4);
  return bits;
#endif
}

FN float bits_float(uint32_t bits) {
#ifdef __CUDACC__
  return __uint_as_float(bits);
#else
  float v;
  memcpy(&v, &bits, 4);
  return v;
#endif
}

// Display pixel (x, y) to stored pixel, see vidai.types: transpose first, then flip.
enum { FLIP_X = 1, FLIP_Y = 2, TRANSPOSE = 4 };

FN int stored_x(int orientation, int x, int y, int width) {
  int s = orientation & TRANSPOSE ? y : x;
  return orientation & FLIP_X ? width - 1 - s : s;
}

FN int stored_y(int orientation, int x, int y, int height) {
  int s = orientation & TRANSPOSE ? x : y;
  return orientation & FLIP_Y ? height - 1 - s : s;
}

// One sample of a plane. `wide` planes hold 16-bit samples whose value is stored >> shift.
FN int load_sample(const uint8_t *plane, int64_t pitch, int step, int wide, int shift, int y, int x) {
  const uint8_t *row = plane + y * pitch;
  return wide ? ((const uint16_t *)row)[x * step] >> shift : row[x * step];
}

FN void store_sample(uint8_t *plane, int64_t pitch, int step, int wide, int shift, int y, int x, int value) {
  uint8_t *row = plane + y * pitch;
  if (wide) ((uint16_t *)row)[x * step] = (uint16_t)(value << shift);
  else row[x * step] = (uint8_t)value;
}
