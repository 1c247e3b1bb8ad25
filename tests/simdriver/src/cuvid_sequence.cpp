#include "cuvid_sequence.h"

#include "av1_units.h"

#include <algorithm>

// ---- codecs with start codes

namespace {

// Whether the unit that begins with this byte describes the sequence.
bool describes_sequence(AVCodecID id, uint8_t byte) {
  switch (id) {
    case AV_CODEC_ID_H264: return (byte & 31) == 7;              // sequence parameter set
    case AV_CODEC_ID_HEVC: return (byte >> 1 & 63) == 33;        // the same
    case AV_CODEC_ID_MPEG4: return byte >= 0x20 && byte < 0x30;  // video object layer
    default: return byte == 0xB3;                                // MPEG-1, MPEG-2: sequence header
  }
}

const uint8_t *next_start_code(const uint8_t *from, const uint8_t *end) {
  for (; from + 3 < end; from++)
    if (!from[0] && !from[1] && from[2] == 1) return from;
  return end;
}

std::optional<SequenceMark> parameter_sets(AVCodecID id, const uint8_t *unit, size_t size) {
  const uint8_t *end = unit + size;
  std::string found;
  for (const uint8_t *at = next_start_code(unit, end); at < end;) {
    const uint8_t *begin = at + 3, *next = next_start_code(begin, end);
    if (describes_sequence(id, *begin)) found.append(begin, next);
    at = next;
  }
  while (!found.empty() && !found.back()) found.pop_back();  // of the next start code
  if (found.empty()) return std::nullopt;
  return SequenceMark{found};
}

// ---- VP8

std::optional<SequenceMark> vp8_size(const uint8_t *unit, size_t size) {
  bool key = size >= 10 && !(unit[0] & 1);
  if (!key) return std::nullopt;
  return SequenceMark{std::string(unit + 6, unit + 10)};
}

}  // namespace

// ---- VP9

class Vp9Sizes::Bits {
 public:
  Bits(const uint8_t *data, size_t size) : data_(data), bits_(size * 8) {}
  unsigned read(int count) {
    unsigned value = 0;
    while (count--) value = value << 1 | next();
    return value;
  }
  bool ended() const { return at_ > bits_; }

 private:
  unsigned next() {
    size_t at = at_++;
    return at < bits_ ? data_[at / 8] >> (7 - at % 8) & 1 : 0;
  }
  const uint8_t *data_;
  size_t bits_, at_ = 0;
};

void Vp9Sizes::read_unit(const uint8_t *unit, size_t size) {
  // A superframe ends with an index: marker, sizes of its frames, marker.
  uint8_t marker = size ? unit[size - 1] : 0;
  size_t frames = (marker & 7) + 1, bytes = (marker >> 3 & 3) + 1, index = 2 + frames * bytes;
  if ((marker & 0xE0) != 0xC0 || size < index || unit[size - index] != marker) {
    read_frame(unit, size);
    return;
  }
  const uint8_t *sizes = unit + size - index + 1, *at = unit;
  for (size_t frame = 0; frame < frames; frame++) {
    size_t length = 0;
    for (size_t i = 0; i < bytes; i++) length |= size_t(*sizes++) << 8 * i;
    length = std::min(length, size_t(unit + size - index - at));
    read_frame(at, length);
    at += length;
  }
}

Vp9Sizes::Size Vp9Sizes::read_size(Bits &bits) {
  unsigned width = bits.read(16) + 1;
  return {width, bits.read(16) + 1};
}

void Vp9Sizes::read_color(Bits &bits, unsigned profile) {
  constexpr unsigned RGB = 7;
  profile_ = profile;
  depth_ = profile < 2 ? 8 : bits.read(1) ? 12 : 10;
  bool yuv = bits.read(3) != RGB;
  bool subsampled = profile & 1;
  bits.read((yuv ? 1 : 0) + (subsampled ? (yuv ? 3 : 1) : 0));  // range, subsampling, reserved
}

void Vp9Sizes::read_frame(const uint8_t *frame, size_t size) {
  constexpr unsigned FRAME_MARKER = 2;
  Bits bits(frame, size);
  if (bits.read(2) != FRAME_MARKER) return;
  unsigned profile = bits.read(1);
  profile |= bits.read(1) << 1;
  if (profile == 3) bits.read(1);
  if (bits.read(1)) {  // shows a frame that was decoded before
    if (started_) shown_ = slots_[bits.read(3)];
    return;
  }
  bool inter = bits.read(1), shows = bits.read(1), resilient = bits.read(1);
  bool intra_only = inter && !shows && bits.read(1);
  if (inter && !resilient) bits.read(2);
  unsigned refreshed = 0xFF;
  Size found;
  if (!inter || intra_only) {
    bits.read(24);  // sync code
    if (!inter || profile > 0) read_color(bits, profile);
    if (inter) refreshed = bits.read(8);
    found = read_size(bits);
  } else {
    refreshed = bits.read(8);
    unsigned slots[3];
    for (unsigned &slot : slots) slot = bits.read(4) >> 1;  // and a sign
    bool taken_over = false;
    for (int i = 0; i < 3 && !taken_over; i++)
      if ((taken_over = bits.read(1))) found = slots_[slots[i]];
    if (!taken_over) found = read_size(bits);
  }
  if (bits.ended()) return;  // damaged
  if (!inter) started_ = true;
  for (int i = 0; i < 8; i++)
    if (refreshed >> i & 1) slots_[i] = found;
  if (shows || !shown_.width) shown_ = found;
}

std::optional<SequenceMark> Vp9Sizes::mark() const {
  if (!started_ || !shown_.width) return std::nullopt;
  std::string text;
  for (unsigned value : {shown_.width, shown_.height, profile_, depth_})
    text += std::to_string(value) + " ";
  return SequenceMark{text, shown_.width, shown_.height};
}

// ---- all

std::optional<SequenceMark> SequenceFinder::mark(const uint8_t *unit, size_t size, int width,
                                                 int height) {
  switch (id_) {
    case AV_CODEC_ID_VP8: return vp8_size(unit, size);
    case AV_CODEC_ID_VP9: vp9_.read_unit(unit, size); return vp9_.mark();
    case AV_CODEC_ID_AV1: break;
    default: return parameter_sets(id_, unit, size);
  }
  std::string header = av1_sequence_header(unit, size);
  if (!header.empty()) av1_header_ = header;
  if (av1_header_.empty()) return std::nullopt;
  if (width <= 0 || height <= 0) return SequenceMark{av1_header_};
  std::string text = av1_header_ + " " + std::to_string(width) + " " + std::to_string(height);
  return SequenceMark{text, unsigned(width), unsigned(height)};
}
