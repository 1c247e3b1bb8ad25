// NVDEC's structs and constants, as on x86-64 Linux (Video Codec SDK 13.0). Names are those of the
// API, so that its documentation can be read beside them; fields nobody here uses are there for
// the layout.
#pragma once
#include "cuda_abi.h"
#include "layout.h"

enum cudaVideoCodec : uint32_t {
  cudaVideoCodec_MPEG1 = 0,
  cudaVideoCodec_MPEG2 = 1,
  cudaVideoCodec_MPEG4 = 2,
  cudaVideoCodec_H264 = 4,
  cudaVideoCodec_HEVC = 8,
  cudaVideoCodec_VP8 = 9,
  cudaVideoCodec_VP9 = 10,
  cudaVideoCodec_AV1 = 11,
};

enum cudaVideoChromaFormat : uint32_t {
  cudaVideoChromaFormat_Monochrome = 0,
  cudaVideoChromaFormat_420 = 1,
  cudaVideoChromaFormat_422 = 2,
  cudaVideoChromaFormat_444 = 3,
};

enum cudaVideoSurfaceFormat : uint32_t {
  cudaVideoSurfaceFormat_NV12 = 0,
  cudaVideoSurfaceFormat_P016 = 1,
  cudaVideoSurfaceFormat_YUV444 = 2,
  cudaVideoSurfaceFormat_YUV444_16Bit = 3,
};

enum cuvidDecodeStatus : uint32_t {
  cuvidDecodeStatus_Invalid = 0,
  cuvidDecodeStatus_Success = 2,
  cuvidDecodeStatus_Error = 8,
};

// Flags of a CUVIDSOURCEDATAPACKET.
enum : unsigned long {
  CUVID_PKT_ENDOFSTREAM = 1,
  CUVID_PKT_TIMESTAMP = 2,
  CUVID_PKT_DISCONTINUITY = 4,
  CUVID_PKT_ENDOFPICTURE = 8,
  CUVID_PKT_NOTIFY_EOS = 16,
};

struct Rect16 {
  int16_t left, top, right, bottom;
};

struct CUVIDDECODECAPS {
  uint32_t eCodecType;
  uint32_t eChromaFormat;
  uint32_t nBitDepthMinus8;
  uint8_t reserved1[12];
  uint8_t bIsSupported;
  uint8_t nNumNVDECs;
  uint16_t nOutputFormatMask;
  uint32_t nMaxWidth;
  uint32_t nMaxHeight;
  uint32_t nMaxMBCount;
  uint16_t nMinWidth;
  uint16_t nMinHeight;
  uint8_t bIsHistogramSupported;
  uint8_t nCounterBitDepth;
  uint16_t nMaxHistogramBins;
  uint8_t reserved2[40];
};
LAYOUT(CUVIDDECODECAPS, 88,
       AT(eCodecType, 0) AT(eChromaFormat, 4) AT(nBitDepthMinus8, 8) AT(bIsSupported, 24)
       AT(nNumNVDECs, 25) AT(nOutputFormatMask, 26) AT(nMaxWidth, 28) AT(nMaxHeight, 32)
       AT(nMaxMBCount, 36) AT(nMinWidth, 40) AT(nMinHeight, 42) AT(bIsHistogramSupported, 44)
       AT(nCounterBitDepth, 45) AT(nMaxHistogramBins, 46))

struct CUVIDDECODECREATEINFO {
  unsigned long ulWidth;
  unsigned long ulHeight;
  unsigned long ulNumDecodeSurfaces;
  uint32_t CodecType;
  uint32_t ChromaFormat;
  unsigned long ulCreationFlags;
  unsigned long bitDepthMinus8;
  unsigned long ulIntraDecodeOnly;
  unsigned long ulMaxWidth;
  unsigned long ulMaxHeight;
  uint8_t reserved1[8];
  Rect16 display_area;
  uint32_t OutputFormat;
  uint32_t DeinterlaceMode;
  unsigned long ulTargetWidth;
  unsigned long ulTargetHeight;
  unsigned long ulNumOutputSurfaces;
  void *vidLock;
  Rect16 target_rect;
  unsigned long enableHistogram;
  uint8_t reserved2[32];
};
LAYOUT(CUVIDDECODECREATEINFO, 176,
       AT(ulWidth, 0) AT(ulHeight, 8) AT(ulNumDecodeSurfaces, 16) AT(CodecType, 24)
       AT(ChromaFormat, 28) AT(ulCreationFlags, 32) AT(bitDepthMinus8, 40)
       AT(ulIntraDecodeOnly, 48) AT(ulMaxWidth, 56) AT(ulMaxHeight, 64) AT(display_area, 80)
       AT(OutputFormat, 88) AT(DeinterlaceMode, 92) AT(ulTargetWidth, 96) AT(ulTargetHeight, 104)
       AT(ulNumOutputSurfaces, 112) AT(vidLock, 120) AT(target_rect, 128) AT(enableHistogram, 136))

struct CUVIDRECONFIGUREDECODERINFO {
  uint32_t ulWidth;
  uint32_t ulHeight;
  uint32_t ulTargetWidth;
  uint32_t ulTargetHeight;
  uint32_t ulNumDecodeSurfaces;
  Rect16 display_area;
  Rect16 target_rect;
  uint8_t reserved1[92];
};
LAYOUT(CUVIDRECONFIGUREDECODERINFO, 128,
       AT(ulWidth, 0) AT(ulHeight, 4) AT(ulTargetWidth, 8) AT(ulTargetHeight, 12)
       AT(ulNumDecodeSurfaces, 16) AT(display_area, 20) AT(target_rect, 28))

struct CUVIDPICPARAMS {
  uint32_t PicWidthInMbs;
  uint32_t FrameHeightInMbs;
  int CurrPicIdx;
  uint32_t field_pic_flag;
  uint32_t bottom_field_flag;
  uint32_t second_field;
  uint32_t nBitstreamDataLen;
  uint8_t reserved1[4];
  const uint8_t *pBitstreamData;
  uint32_t nNumSlices;
  uint8_t reserved2[4];
  const uint32_t *pSliceDataOffsets;
  uint32_t ref_pic_flag;
  uint32_t intra_pic_flag;
  uint8_t reserved3[4216];
};
LAYOUT(CUVIDPICPARAMS, 4280,
       AT(PicWidthInMbs, 0) AT(FrameHeightInMbs, 4) AT(CurrPicIdx, 8) AT(field_pic_flag, 12)
       AT(bottom_field_flag, 16) AT(second_field, 20) AT(nBitstreamDataLen, 24)
       AT(pBitstreamData, 32) AT(nNumSlices, 40) AT(pSliceDataOffsets, 48) AT(ref_pic_flag, 56)
       AT(intra_pic_flag, 60))

struct CUVIDGETDECODESTATUS {
  uint32_t decodeStatus;
  uint8_t reserved1[188];
};
LAYOUT(CUVIDGETDECODESTATUS, 192,
       AT(decodeStatus, 0))

struct CUVIDPROCPARAMS {
  uint32_t progressive_frame;
  uint32_t second_field;
  uint32_t top_field_first;
  uint32_t unpaired_field;
  uint8_t reserved1[8];
  uint64_t raw_input_dptr;
  uint32_t raw_input_pitch;
  uint32_t raw_input_format;
  uint64_t raw_output_dptr;
  uint32_t raw_output_pitch;
  uint8_t reserved2[4];
  CUstream output_stream;
  uint8_t reserved3[184];
  uint64_t histogram_dptr;
  uint8_t reserved4[8];
};
LAYOUT(CUVIDPROCPARAMS, 264,
       AT(progressive_frame, 0) AT(second_field, 4) AT(top_field_first, 8) AT(unpaired_field, 12)
       AT(raw_input_dptr, 24) AT(raw_input_pitch, 32) AT(raw_input_format, 36)
       AT(raw_output_dptr, 40) AT(raw_output_pitch, 48) AT(output_stream, 56)
       AT(histogram_dptr, 248))

struct CUVIDEOFORMAT {
  uint32_t codec;
  struct {
    uint32_t numerator, denominator;
  } frame_rate;
  uint8_t progressive_sequence;
  uint8_t bit_depth_luma_minus8;
  uint8_t bit_depth_chroma_minus8;
  uint8_t min_num_decode_surfaces;
  uint32_t coded_width;
  uint32_t coded_height;
  struct {
    int32_t left, top, right, bottom;
  } display_area;
  uint32_t chroma_format;
  uint32_t bitrate;
  struct {
    int32_t x, y;
  } display_aspect_ratio;
  struct {
    uint8_t video_format : 3, video_full_range_flag : 1, reserved : 4;
    uint8_t color_primaries;
    uint8_t transfer_characteristics;
    uint8_t matrix_coefficients;
  } video_signal_description;
  uint32_t seqhdr_data_length;
};
LAYOUT(CUVIDEOFORMAT, 64,
       AT(codec, 0) AT(frame_rate.numerator, 4) AT(frame_rate.denominator, 8)
       AT(progressive_sequence, 12) AT(bit_depth_luma_minus8, 13) AT(bit_depth_chroma_minus8, 14)
       AT(min_num_decode_surfaces, 15) AT(coded_width, 16) AT(coded_height, 20)
       AT(display_area.left, 24) AT(display_area.top, 28) AT(display_area.right, 32)
       AT(display_area.bottom, 36) AT(chroma_format, 40) AT(bitrate, 44)
       AT(display_aspect_ratio.x, 48) AT(display_aspect_ratio.y, 52)
       AT(video_signal_description, 56) AT(video_signal_description.color_primaries, 57)
       AT(video_signal_description.transfer_characteristics, 58)
       AT(video_signal_description.matrix_coefficients, 59) AT(seqhdr_data_length, 60))

struct CUVIDPARSERDISPINFO {
  int picture_index;
  uint32_t progressive_frame;
  uint32_t top_field_first;
  uint32_t repeat_first_field;
  int64_t timestamp;
};
LAYOUT(CUVIDPARSERDISPINFO, 24,
       AT(picture_index, 0) AT(progressive_frame, 4) AT(top_field_first, 8)
       AT(repeat_first_field, 12) AT(timestamp, 16))

struct CUVIDSOURCEDATAPACKET {
  unsigned long flags;
  unsigned long payload_size;
  const uint8_t *payload;
  int64_t timestamp;
};
LAYOUT(CUVIDSOURCEDATAPACKET, 32,
       AT(flags, 0) AT(payload_size, 8) AT(payload, 16) AT(timestamp, 24))

struct CUVIDPARSERPARAMS {
  uint32_t CodecType;
  uint32_t ulMaxNumDecodeSurfaces;
  uint32_t ulClockRate;
  uint32_t ulErrorThreshold;
  uint32_t ulMaxDisplayDelay;
  uint32_t flags;
  uint8_t reserved1[16];
  void *pUserData;
  int (*pfnSequenceCallback)(void *user, CUVIDEOFORMAT *format);
  int (*pfnDecodePicture)(void *user, CUVIDPICPARAMS *picture);
  int (*pfnDisplayPicture)(void *user, CUVIDPARSERDISPINFO *shown);
  void *pfnGetOperatingPoint;
  void *pfnGetSEIMsg;
  uint8_t reserved2[40];
  void *pExtVideoInfo;
};
LAYOUT(CUVIDPARSERPARAMS, 136,
       AT(CodecType, 0) AT(ulMaxNumDecodeSurfaces, 4) AT(ulClockRate, 8) AT(ulErrorThreshold, 12)
       AT(ulMaxDisplayDelay, 16) AT(flags, 20) AT(pUserData, 40) AT(pfnSequenceCallback, 48)
       AT(pfnDecodePicture, 56) AT(pfnDisplayPicture, 64) AT(pfnGetOperatingPoint, 72)
       AT(pfnGetSEIMsg, 80) AT(pExtVideoInfo, 128))
