// Functions whose results must not depend on a platform's own libm.
#pragma once

#include "grid.h"

FN int is_finite(float v) { return (float_bits(v) & 0x7f800000u) != 0x7f800000u; }

// 2 to the n, for n a normal exponent: -126 … 127.
FN float power_of_two(int n) { return bits_float((uint32_t)(n + 127) << 23); }

// e to the x: x = n ln 2 + r with |r| <= ln 2 / 2, e^r as its Taylor series to the seventh
// power (remainder 6e-9), then 2^n in two steps, so that results below the smallest normal
// number round once more instead of vanishing. Relative error at most 2e-7 above 2^-126.
FN float exp_float(float x) {
  if (!(x == x)) return x;
  if (x > 88.72284f) return bits_float(0x7f800000u);
  if (x < -104.0f) return 0.0f;
  const float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds to nearest
  float n = (x * 1.44269504f + to_integer) - to_integer;
  // ln 2 in two parts; n times the first, which has 9 bits, is exact.
  float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * (r * r) + r + 1.0f;
  int half = (int)n / 2;
  return p * power_of_two(half) * power_of_two((int)n - half);
}

FN float sigmoid(float x) { return 1.0f / (1.0f + exp_float(-x)); }

FN float to_float(float v) { return v; }

// IEEE half to float: exact.
FN float to_float(uint16_t half) {
  uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
  if (rest >= 0x7c00) return bits_float(sign | 0x7f800000u | (rest & 0x3ff) << 13);
  // Multiplying by 2^112 takes the exponent's bias from 15 to 127 and makes subnormal
  // halves normal; the sign is put back after.
  return bits_float(sign | float_bits(bits_float(rest << 13) * power_of_two(112)));
}
