// The surfaces that NVDEC's pictures are mapped to.
#pragma once
#include "cuvid_codec.h"

inline bool is_planar(uint32_t format) {
  return format == cudaVideoSurfaceFormat_YUV444 || format == cudaVideoSurfaceFormat_YUV444_16Bit;
}
inline size_t sample_bytes(uint32_t format) {
  return format == cudaVideoSurfaceFormat_P016 || format == cudaVideoSurfaceFormat_YUV444_16Bit
             ? 2
             : 1;
}

unsigned surface_pitch(const CUVIDDECODECREATEINFO &info);
size_t surface_bytes(const CUVIDDECODECREATEINFO &info);

// Whether NVDEC would scale: that is not simulated, the picture is cut off or padded instead.
bool is_scaled(const CUVIDDECODECREATEINFO &info);

// Writes a picture to a surface as NVDEC lays it out: cropped, in 16 bits from the top. What the
// picture does not cover is grey. A null picture is one that could not be decoded.
void write_surface(uint8_t *surface, const CUVIDDECODECREATEINFO &info, const AVFrame *picture);
