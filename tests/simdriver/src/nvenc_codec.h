// What the simulated NVENC encodes.
#pragma once
#include "nvenc_abi.h"

struct EncodeCodec {
  GUID guid;
  const char *software;  // libavcodec's name of the encoder
  uint32_t min_width, min_height;
  uint32_t max_size;  // of either side
  uint32_t max_b_frames;
  uint32_t max_level;
  bool ten_bit;
};

const EncodeCodec *encode_codecs(int *count);
const EncodeCodec *find_encode_codec(const GUID &guid);  // null: not encoded by this GPU

int encode_cap(const EncodeCodec &codec, uint32_t cap);
// The configuration that a preset stands for.
void fill_preset(const EncodeCodec &codec, uint32_t tuning, NV_ENC_CONFIG *config);

inline bool is_h264(const EncodeCodec &codec) { return codec.guid == NV_ENC_CODEC_H264_GUID; }
inline bool is_hevc(const EncodeCodec &codec) { return codec.guid == NV_ENC_CODEC_HEVC_GUID; }
