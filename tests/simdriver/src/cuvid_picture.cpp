#include "cuvid_picture.h"

#include <algorithm>
#include <string.h>

namespace {

constexpr size_t PITCH_ALIGNMENT = 512;
constexpr int GREY = 0x80;

bool is_whole(const Rect16 &area) { return area.right <= area.left || area.bottom <= area.top; }

struct Box {
  int left, top, width, height;
};

size_t luma_rows(const CUVIDDECODECREATEINFO &info) { return (info.ulTargetHeight + 1) & ~1ul; }

// The part of the picture that is mapped. Nothing is scaled: what does not fit is cut off.
Box visible(const CUVIDDECODECREATEINFO &info, const AVFrame &picture) {
  const Rect16 &area = info.display_area;
  bool whole = is_whole(area);
  int width = whole ? int(info.ulTargetWidth) : area.right - area.left;
  int height = whole ? int(info.ulTargetHeight) : area.bottom - area.top;
  width = std::min({width, int(info.ulTargetWidth), picture.width - area.left});
  height = std::min({height, int(info.ulTargetHeight), picture.height - area.top});
  return {area.left, area.top, std::max(width, 0), std::max(height, 0)};
}

// Copies `count` planes, from number `first` on, interleaved to one plane of the surface.
template <typename Sample>
void copy_planes(uint8_t *to, size_t pitch, const AVFrame &from, int first, int count, Box box,
                 int shift) {
  for (int y = 0; y < box.height; y++) {
    Sample *row = reinterpret_cast<Sample *>(to + y * pitch);
    for (int k = 0; k < count; k++) {
      const uint8_t *line =
          from.data[first + k] + ptrdiff_t(y + box.top) * from.linesize[first + k];
      const Sample *samples = reinterpret_cast<const Sample *>(line) + box.left;
      for (int x = 0; x < box.width; x++) row[x * count + k] = Sample(samples[x] << shift);
    }
  }
}

template <typename Sample>
void copy_picture(uint8_t *surface, const CUVIDDECODECREATEINFO &info, const AVFrame &picture) {
  const AVPixFmtDescriptor &format = *av_pix_fmt_desc_get(AVPixelFormat(picture.format));
  size_t pitch = surface_pitch(info), plane = pitch * luma_rows(info);
  int shift = int(sizeof(Sample)) * 8 - format.comp[0].depth;
  Box luma = visible(info, picture);
  copy_planes<Sample>(surface, pitch, picture, 0, 1, luma, shift);
  if (is_planar(info.OutputFormat)) {
    copy_planes<Sample>(surface + plane, pitch, picture, 1, 1, luma, shift);
    copy_planes<Sample>(surface + 2 * plane, pitch, picture, 2, 1, luma, shift);
    return;
  }
  Box chroma = {luma.left / 2, luma.top / 2, (luma.width + 1) / 2, (luma.height + 1) / 2};
  copy_planes<Sample>(surface + plane, pitch, picture, 1, 2, chroma, shift);
}

}  // namespace

unsigned surface_pitch(const CUVIDDECODECREATEINFO &info) {
  size_t row = info.ulTargetWidth * sample_bytes(info.OutputFormat);
  return unsigned((row + PITCH_ALIGNMENT - 1) / PITCH_ALIGNMENT * PITCH_ALIGNMENT);
}

size_t surface_bytes(const CUVIDDECODECREATEINFO &info) {
  size_t luma = surface_pitch(info) * luma_rows(info);
  return is_planar(info.OutputFormat) ? luma * 3 : luma * 3 / 2;
}

bool is_scaled(const CUVIDDECODECREATEINFO &info) {
  const Rect16 &area = info.display_area;
  unsigned long width = is_whole(area) ? info.ulWidth : area.right - area.left;
  unsigned long height = is_whole(area) ? info.ulHeight : area.bottom - area.top;
  auto even = [](unsigned long size) { return (size + 1) & ~1ul; };
  return even(width) != info.ulTargetWidth || even(height) != info.ulTargetHeight;
}

void write_surface(uint8_t *surface, const CUVIDDECODECREATEINFO &info, const AVFrame *picture) {
  memset(surface, GREY, surface_bytes(info));
  if (!picture) return;
  if (sample_bytes(info.OutputFormat) == 2)
    copy_picture<uint16_t>(surface, info, *picture);
  else
    copy_picture<uint8_t>(surface, info, *picture);
}
