// Where a new sequence begins in a stream: what NVDEC's parser reads from headers itself.
#pragma once
#include "cuvid_codec.h"

#include <optional>
#include <string>

// What tells a sequence from others, and the size of its pictures where a header says it (else 0).
struct SequenceMark {
  std::string text;
  unsigned width = 0, height = 0;
};

// The frame sizes of a VP9 stream. A frame may be of another size than the one before without
// being a key frame, and then often only says whose size it takes over.
class Vp9Sizes {
 public:
  void read_unit(const uint8_t *unit, size_t size);  // a frame or a superframe
  std::optional<SequenceMark> mark() const;          // none before the first key frame

 private:
  struct Size {
    unsigned width = 0, height = 0;
  };
  class Bits;
  void read_frame(const uint8_t *frame, size_t size);
  void read_color(Bits &bits, unsigned profile);
  static Size read_size(Bits &bits);

  Size slots_[8], shown_;
  unsigned profile_ = 0, depth_ = 8;
  bool started_ = false;
};

class SequenceFinder {
 public:
  explicit SequenceFinder(AVCodecID id) : id_(id) {}

  // The sequence that an access unit belongs to; none where the unit does not say.
  // width, height: what libavcodec's parser found in the unit, which is used for AV1.
  std::optional<SequenceMark> mark(const uint8_t *unit, size_t size, int width, int height);

 private:
  AVCodecID id_;
  std::string av1_header_;
  Vp9Sizes vp9_;
};
