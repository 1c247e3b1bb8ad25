#include "nvenc_input.h"

#include "sim.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <stdio.h>
#include <string.h>
#include <string>

namespace {

struct {
  std::mutex mutex;
  std::string lines;
} kept;

// CRC-32 as zlib computes it.
uint32_t crc32(uint32_t crc, const uint8_t *data, size_t size) {
  static const auto table = [] {
    std::array<uint32_t, 256> made;
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? 0xEDB88320 : 0);
      made[i] = value;
    }
    return made;
  }();
  crc = ~crc;
  for (size_t i = 0; i < size; i++) crc = crc >> 8 ^ table[(crc ^ data[i]) & 255];
  return ~crc;
}

const char *format_name(uint32_t format) {
  switch (format) {
    case NV_ENC_BUFFER_FORMAT_NV12: return "NV12";
    case NV_ENC_BUFFER_FORMAT_YV12: return "YV12";
    case NV_ENC_BUFFER_FORMAT_IYUV: return "IYUV";
    default: return "P010";
  }
}

// NV12's or P010's second plane, whose samples alternate, to planes of their own.
template <typename Sample>
void separate(const InputPlane &from, AVFrame *to, int shift) {
  size_t width = from.row_bytes / sizeof(Sample) / 2;
  for (uint32_t y = 0; y < from.rows; y++) {
    auto *samples = reinterpret_cast<const Sample *>(from.data + y * from.pitch);
    auto *u = reinterpret_cast<Sample *>(to->data[1] + ptrdiff_t(y) * to->linesize[1]);
    auto *v = reinterpret_cast<Sample *>(to->data[2] + ptrdiff_t(y) * to->linesize[2]);
    for (size_t x = 0; x < width; x++) {
      u[x] = Sample(samples[2 * x] >> shift);
      v[x] = Sample(samples[2 * x + 1] >> shift);
    }
  }
}

template <typename Sample>
void copy(const InputPlane &from, AVFrame *to, int plane, int shift) {
  for (uint32_t y = 0; y < from.rows; y++) {
    auto *samples = reinterpret_cast<const Sample *>(from.data + y * from.pitch);
    auto *row = reinterpret_cast<Sample *>(to->data[plane] + ptrdiff_t(y) * to->linesize[plane]);
    for (size_t x = 0; x < from.row_bytes / sizeof(Sample); x++)
      row[x] = Sample(samples[x] >> shift);
  }
}

}  // namespace

bool is_input_format(uint32_t format) {
  return format == NV_ENC_BUFFER_FORMAT_NV12 || format == NV_ENC_BUFFER_FORMAT_YV12 ||
         format == NV_ENC_BUFFER_FORMAT_IYUV || format == NV_ENC_BUFFER_FORMAT_YUV420_10BIT;
}

std::vector<InputPlane> input_planes(const NV_ENC_REGISTER_RESOURCE &surface, uint32_t width,
                                     uint32_t height) {
  size_t pitch = surface.pitch, luma = pitch * surface.height;
  size_t row = width * (is_ten_bit(surface.bufferFormat) ? 2 : 1);
  auto address = reinterpret_cast<uint64_t>(surface.resourceToRegister);
  if (width > surface.width || height > surface.height || row > pitch ||
      !sim_inside(address, luma * 3 / 2))
    return {};
  auto *data = static_cast<const uint8_t *>(sim_host(address));
  InputPlane first = {data, pitch, row, height};
  if (surface.bufferFormat == NV_ENC_BUFFER_FORMAT_NV12 || is_ten_bit(surface.bufferFormat))
    return {first, {data + luma, pitch, row, height / 2}};
  return {first,
          {data + luma, pitch / 2, row / 2, height / 2},
          {data + luma + pitch / 2 * (surface.height / 2), pitch / 2, row / 2, height / 2}};
}

void load_picture(const std::vector<InputPlane> &planes, uint32_t format, AVFrame *picture) {
  if (is_ten_bit(format)) {
    constexpr int UNUSED_BITS = 6;
    copy<uint16_t>(planes[0], picture, 0, UNUSED_BITS);
    separate<uint16_t>(planes[1], picture, UNUSED_BITS);
    return;
  }
  copy<uint8_t>(planes[0], picture, 0, 0);
  if (format == NV_ENC_BUFFER_FORMAT_NV12) {
    separate<uint8_t>(planes[1], picture, 0);
    return;
  }
  bool v_first = format == NV_ENC_BUFFER_FORMAT_YV12;
  copy<uint8_t>(planes[1], picture, v_first ? 2 : 1, 0);
  copy<uint8_t>(planes[2], picture, v_first ? 1 : 2, 0);
}

void keep_input(int session, int64_t index, uint32_t width, uint32_t height, uint32_t format,
                const std::vector<InputPlane> &planes) {
  uint32_t crc = 0;
  for (const InputPlane &plane : planes)
    for (uint32_t y = 0; y < plane.rows; y++)
      crc = crc32(crc, plane.data + y * plane.pitch, plane.row_bytes);
  char line[160];
  snprintf(line, sizeof line, "[%d, %lld, %u, %u, \"%s\", %u]\n", session, (long long)index, width,
           height, format_name(format), crc);
  std::lock_guard<std::mutex> lock(kept.mutex);
  kept.lines += line;
}

// For the tests: a line [session, index, width, height, format, crc] of JSON for each picture
// that was encoded, with the CRC-32 of its rows, luma first, without padding. Sessions count
// from 0 in the order of their initialisation. Returns the room that all lines need.
SIM_API size_t sim_nvenc_inputs(char *buffer, size_t room) {
  std::lock_guard<std::mutex> lock(kept.mutex);
  if (room) {
    size_t size = std::min(kept.lines.size(), room - 1);
    memcpy(buffer, kept.lines.data(), size);
    buffer[size] = 0;
  }
  return kept.lines.size() + 1;
}

// For the tests: forgets them.
SIM_API void sim_nvenc_forget() {
  std::lock_guard<std::mutex> lock(kept.mutex);
  kept.lines.clear();
}
