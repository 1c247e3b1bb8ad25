// AV1's open bitstream units, each with its length.
#pragma once
#include <algorithm>
#include <stdint.h>
#include <string>

// Reads a number of variable length; moves `at` past it.
inline size_t read_leb128(const uint8_t *&at, const uint8_t *end) {
  size_t value = 0;
  for (int shift = 0; at < end && shift < 56; shift += 7) {
    uint8_t byte = *at++;
    value |= size_t(byte & 127) << shift;
    if (!(byte & 128)) break;
  }
  return value;
}

// The first sequence header of a temporal unit, with its own header; empty: there is none.
inline std::string av1_sequence_header(const uint8_t *unit, size_t size) {
  constexpr int SEQUENCE_HEADER = 1;
  const uint8_t *end = unit + size;
  for (const uint8_t *at = unit; at < end;) {
    const uint8_t *begin = at;
    uint8_t header = *at++;
    bool extended = header & 4, sized = header & 2;
    if (extended && at < end) at++;
    size_t length = sized ? read_leb128(at, end) : size_t(end - at);
    at += std::min(length, size_t(end - at));
    if ((header >> 3 & 15) == SEQUENCE_HEADER) return std::string(begin, at);
  }
  return {};
}
