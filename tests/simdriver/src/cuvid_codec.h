// What the simulated NVDEC decodes, and libavcodec's side of it.
#pragma once
#include "av_handles.h"
#include "nvdec_abi.h"

extern "C" {
#include <libavutil/pixdesc.h>
}

struct Codec {
  uint32_t type;  // cudaVideoCodec
  AVCodecID id;
  uint32_t min_width, min_height;
  uint32_t max_size;   // of either side
  uint32_t max_depth;  // bits a sample: 8, 10 and 12 up to it
  bool yuv444;
  // Whether the decoder holds pictures back to show them in another order. The others are AV1
  // and VPx, where a packet shows one picture at most, at once.
  bool reorders;

  bool decodes(uint32_t chroma, uint32_t depth) const;
};

const Codec *find_codec(uint32_t type);  // null: not decoded by this GPU

// A decoder of libavcodec that works on the calling thread; null: not built in.
Context open_decoder(const Codec &codec);

uint32_t chroma_of(const AVFrame &frame);  // cudaVideoChromaFormat
inline uint32_t depth_of(const AVFrame &frame) {
  return av_pix_fmt_desc_get(AVPixelFormat(frame.format))->comp[0].depth;
}
