// Pictures in device memory that are to be encoded.
#pragma once
#include "nvenc_abi.h"

#include <vector>
extern "C" {
#include <libavutil/frame.h>
}

struct InputPlane {
  const uint8_t *data;
  size_t pitch, row_bytes;
  uint32_t rows;
};

bool is_input_format(uint32_t format);
inline bool is_ten_bit(uint32_t format) { return format == NV_ENC_BUFFER_FORMAT_YUV420_10BIT; }

// The planes of a registered surface, in the order of memory; none: it is not one allocation.
std::vector<InputPlane> input_planes(const NV_ENC_REGISTER_RESOURCE &surface, uint32_t width,
                                     uint32_t height);
// Copies them to a planar picture of libavcodec's.
void load_picture(const std::vector<InputPlane> &planes, uint32_t format, AVFrame *picture);

// Remembers a picture for sim_nvenc_inputs, where a test asked for it (VIDAI_SIM_KEEP_INPUT=1).
void keep_input(int session, int64_t index, uint32_t width, uint32_t height, uint32_t format,
                const std::vector<InputPlane> &planes);
