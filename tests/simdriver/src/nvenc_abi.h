// NVENC's structs and constants, version 13.0 of its API, as on x86-64 Linux. Names are those of
// the API, so that its documentation can be read beside them; fields nobody here uses are there
// for the layout. Words of bit fields are called `flags`.
#pragma once
#include "layout.h"
#include <stdint.h>

enum NVENCSTATUS : int {
  NV_ENC_SUCCESS = 0,
  NV_ENC_ERR_UNSUPPORTED_DEVICE = 2,
  NV_ENC_ERR_INVALID_DEVICE = 4,
  NV_ENC_ERR_INVALID_PTR = 6,
  NV_ENC_ERR_INVALID_PARAM = 8,
  NV_ENC_ERR_INVALID_CALL = 9,
  NV_ENC_ERR_OUT_OF_MEMORY = 10,
  NV_ENC_ERR_ENCODER_NOT_INITIALIZED = 11,
  NV_ENC_ERR_UNSUPPORTED_PARAM = 12,
  NV_ENC_ERR_LOCK_BUSY = 13,
  NV_ENC_ERR_NOT_ENOUGH_BUFFER = 14,
  NV_ENC_ERR_INVALID_VERSION = 15,
  NV_ENC_ERR_NEED_MORE_INPUT = 17,
  NV_ENC_ERR_GENERIC = 20,
  NV_ENC_ERR_UNIMPLEMENTED = 22,
  NV_ENC_ERR_RESOURCE_REGISTER_FAILED = 23,
  NV_ENC_ERR_RESOURCE_NOT_REGISTERED = 24,
  NV_ENC_ERR_RESOURCE_NOT_MAPPED = 25,
};

// A struct begins with its version, and the driver refuses every other one.
enum : uint32_t {
  NVENCAPI_VERSION = 0x0000000d,
  NV_ENC_OPEN_ENCODE_SESSION_EX_PARAMS_VER = 0x7001000d,
  NV_ENC_CAPS_PARAM_VER = 0x7001000d,
  NV_ENC_PRESET_CONFIG_VER = 0xf005000d,
  NV_ENC_CONFIG_VER = 0xf009000d,
  NV_ENC_INITIALIZE_PARAMS_VER = 0xf007000d,
  NV_ENC_RECONFIGURE_PARAMS_VER = 0xf002000d,
  NV_ENC_CREATE_BITSTREAM_BUFFER_VER = 0x7001000d,
  NV_ENC_REGISTER_RESOURCE_VER = 0x7005000d,
  NV_ENC_MAP_INPUT_RESOURCE_VER = 0x7004000d,
  NV_ENC_PIC_PARAMS_VER = 0xf007000d,
  NV_ENC_LOCK_BITSTREAM_VER = 0xf002000d,
  NV_ENC_SEQUENCE_PARAM_PAYLOAD_VER = 0x7001000d,
  NV_ENC_RC_PARAMS_VER = 0x7001000d,
  NV_ENCODE_API_FUNCTION_LIST_VER = 0x7002000d,
};

enum : uint32_t { NV_ENC_DEVICE_TYPE_CUDA = 1 };
enum : uint32_t { NV_ENC_INPUT_RESOURCE_TYPE_CUDADEVICEPTR = 1 };
enum : uint32_t { NV_ENC_PIC_STRUCT_FRAME = 1 };
enum : uint32_t { NV_ENC_PARAMS_FRAME_FIELD_MODE_FRAME = 1 };
enum : uint32_t { NVENC_INFINITE_GOPLENGTH = 0xffffffff };

enum NV_ENC_BUFFER_FORMAT : uint32_t {
  NV_ENC_BUFFER_FORMAT_UNDEFINED = 0,
  NV_ENC_BUFFER_FORMAT_NV12 = 0x1,
  NV_ENC_BUFFER_FORMAT_YV12 = 0x10,
  NV_ENC_BUFFER_FORMAT_IYUV = 0x100,
  NV_ENC_BUFFER_FORMAT_YUV420_10BIT = 0x10000,
};

enum NV_ENC_PIC_TYPE : uint32_t {
  NV_ENC_PIC_TYPE_P = 0,
  NV_ENC_PIC_TYPE_B = 1,
  NV_ENC_PIC_TYPE_I = 2,
  NV_ENC_PIC_TYPE_IDR = 3,
};

// encodePicFlags of NV_ENC_PIC_PARAMS.
enum : uint32_t {
  NV_ENC_PIC_FLAG_FORCEINTRA = 1,
  NV_ENC_PIC_FLAG_FORCEIDR = 2,
  NV_ENC_PIC_FLAG_OUTPUT_SPSPPS = 4,
  NV_ENC_PIC_FLAG_EOS = 8,
};

enum : uint32_t {
  NV_ENC_PARAMS_RC_CONSTQP = 0,
  NV_ENC_PARAMS_RC_VBR = 1,
  NV_ENC_PARAMS_RC_CBR = 2,
};

enum : uint32_t {
  NV_ENC_TUNING_INFO_HIGH_QUALITY = 1,
  NV_ENC_TUNING_INFO_LOW_LATENCY = 2,
  NV_ENC_TUNING_INFO_ULTRA_LOW_LATENCY = 3,
};

// What nvEncGetEncodeCaps may be asked; those left out are answered with 0.
enum : uint32_t {
  NV_ENC_CAPS_NUM_MAX_BFRAMES = 0,
  NV_ENC_CAPS_SUPPORTED_RATECONTROL_MODES = 1,
  NV_ENC_CAPS_SUPPORT_CABAC = 7,
  NV_ENC_CAPS_LEVEL_MAX = 13,
  NV_ENC_CAPS_WIDTH_MAX = 16,
  NV_ENC_CAPS_HEIGHT_MAX = 17,
  NV_ENC_CAPS_SUPPORT_DYN_RES_CHANGE = 19,
  NV_ENC_CAPS_SUPPORT_DYN_BITRATE_CHANGE = 20,
  NV_ENC_CAPS_MB_NUM_MAX = 31,
  NV_ENC_CAPS_MB_PER_SEC_MAX = 32,
  NV_ENC_CAPS_SUPPORT_LOOKAHEAD = 37,
  NV_ENC_CAPS_SUPPORT_TEMPORAL_AQ = 38,
  NV_ENC_CAPS_SUPPORT_10BIT_ENCODE = 39,
  NV_ENC_CAPS_WIDTH_MIN = 45,
  NV_ENC_CAPS_HEIGHT_MIN = 46,
  NV_ENC_CAPS_NUM_ENCODER_ENGINES = 49,
};

struct GUID {
  uint32_t data1;
  uint16_t data2, data3;
  uint8_t data4[8];
};

inline bool operator==(const GUID &a, const GUID &b) {
  bool same = a.data1 == b.data1 && a.data2 == b.data2 && a.data3 == b.data3;
  for (int i = 0; i < 8; i++) same = same && a.data4[i] == b.data4[i];
  return same;
}

constexpr GUID NV_ENC_CODEC_H264_GUID = {
    0x6bc82762, 0x4e63, 0x4ca4, {0xaa, 0x85, 0x1e, 0x50, 0xf3, 0x21, 0xf6, 0xbf}};
constexpr GUID NV_ENC_CODEC_HEVC_GUID = {
    0x790cdc88, 0x4522, 0x4d7b, {0x94, 0x25, 0xbd, 0xa9, 0x97, 0x5f, 0x76, 0x03}};
constexpr GUID NV_ENC_CODEC_AV1_GUID = {
    0x0a352289, 0x0aa7, 0x4759, {0x86, 0x2d, 0x5d, 0x15, 0xcd, 0x16, 0xd2, 0x54}};
constexpr GUID NV_ENC_CODEC_PROFILE_AUTOSELECT_GUID = {
    0xbfd6f8e7, 0x233c, 0x4341, {0x8b, 0x3e, 0x48, 0x18, 0x52, 0x38, 0x03, 0xf4}};
constexpr GUID NV_ENC_PRESET_P1_GUID = {
    0xfc0a8d3e, 0x45f8, 0x4cf8, {0x80, 0xc7, 0x29, 0x88, 0x71, 0x59, 0x0e, 0xbf}};
constexpr GUID NV_ENC_PRESET_P2_GUID = {
    0xf581cfb8, 0x88d6, 0x4381, {0x93, 0xf0, 0xdf, 0x13, 0xf9, 0xc2, 0x7d, 0xab}};
constexpr GUID NV_ENC_PRESET_P3_GUID = {
    0x36850110, 0x3a07, 0x441f, {0x94, 0xd5, 0x36, 0x70, 0x63, 0x1f, 0x91, 0xf6}};
constexpr GUID NV_ENC_PRESET_P4_GUID = {
    0x90a7b826, 0xdf06, 0x4862, {0xb9, 0xd2, 0xcd, 0x6d, 0x73, 0xa0, 0x86, 0x81}};
constexpr GUID NV_ENC_PRESET_P5_GUID = {
    0x21c6e6b4, 0x297a, 0x4cba, {0x99, 0x8f, 0xb6, 0xcb, 0xde, 0x72, 0xad, 0xe3}};
constexpr GUID NV_ENC_PRESET_P6_GUID = {
    0x8e75c279, 0x6299, 0x4ab6, {0x83, 0x02, 0x0b, 0x21, 0x5a, 0x33, 0x5c, 0xf5}};
constexpr GUID NV_ENC_PRESET_P7_GUID = {
    0x84848c12, 0x6f71, 0x4c13, {0x93, 0x1b, 0x53, 0xe2, 0x83, 0xf5, 0x79, 0x74}};

// Bits of the words `flags` that matter here.
enum : uint32_t { NV_ENC_H264_REPEAT_SPSPPS = 1u << 12 };
enum : uint32_t { NV_ENC_HEVC_REPEAT_SPSPPS = 1u << 7, NV_ENC_HEVC_CHROMA_420 = 1u << 9 };

using Function = void (*)();  // an entry of the function list, whose type the caller knows

struct NV_ENC_QP {
  uint32_t qpInterP, qpInterB, qpIntra;
};

struct NV_ENC_OPEN_ENCODE_SESSIONEX_PARAMS {
  uint32_t version;
  uint32_t deviceType;
  void *device;
  uint8_t reserved1[8];
  uint32_t apiVersion;
  uint8_t reserved2[1524];
};
LAYOUT(NV_ENC_OPEN_ENCODE_SESSIONEX_PARAMS, 1552,
       AT(version, 0) AT(deviceType, 4) AT(device, 8) AT(apiVersion, 24))

struct NV_ENC_CAPS_PARAM {
  uint32_t version;
  uint32_t capsToQuery;
  uint8_t reserved1[248];
};
LAYOUT(NV_ENC_CAPS_PARAM, 256,
       AT(version, 0) AT(capsToQuery, 4))

struct NV_ENC_RC_PARAMS {
  uint32_t version;
  uint32_t rateControlMode;
  NV_ENC_QP constQP;
  uint32_t averageBitRate;
  uint32_t maxBitRate;
  uint32_t vbvBufferSize;
  uint32_t vbvInitialDelay;
  uint32_t flags;
  NV_ENC_QP minQP;
  NV_ENC_QP maxQP;
  NV_ENC_QP initialRCQP;
  uint32_t temporallayerIdxMask;
  uint8_t temporalLayerQP[8];
  uint8_t targetQuality;
  uint8_t targetQualityLSB;
  uint16_t lookaheadDepth;
  uint8_t lowDelayKeyFrameScale;
  int8_t yDcQPIndexOffset;
  int8_t uDcQPIndexOffset;
  int8_t vDcQPIndexOffset;
  uint32_t qpMapMode;
  uint32_t multiPass;
  uint32_t alphaLayerBitrateRatio;
  int8_t cbQPIndexOffset;
  int8_t crQPIndexOffset;
  uint8_t reserved1[2];
  uint32_t lookaheadLevel;
  uint8_t viewBitrateRatios[7];
  uint8_t reserved2[5];
};
LAYOUT(NV_ENC_RC_PARAMS, 128,
       AT(version, 0) AT(rateControlMode, 4) AT(constQP, 8) AT(averageBitRate, 20)
       AT(maxBitRate, 24) AT(vbvBufferSize, 28) AT(vbvInitialDelay, 32) AT(flags, 36) AT(minQP, 40)
       AT(maxQP, 52) AT(initialRCQP, 64) AT(temporallayerIdxMask, 76) AT(temporalLayerQP, 80)
       AT(targetQuality, 88) AT(targetQualityLSB, 89) AT(lookaheadDepth, 90)
       AT(lowDelayKeyFrameScale, 92) AT(yDcQPIndexOffset, 93) AT(uDcQPIndexOffset, 94)
       AT(vDcQPIndexOffset, 95) AT(qpMapMode, 96) AT(multiPass, 100)
       AT(alphaLayerBitrateRatio, 104) AT(cbQPIndexOffset, 108) AT(crQPIndexOffset, 109)
       AT(lookaheadLevel, 112) AT(viewBitrateRatios, 116))

struct NV_ENC_CONFIG_H264 {
  uint32_t flags;
  uint32_t level;
  uint32_t idrPeriod;
  uint32_t separateColourPlaneFlag;
  uint32_t disableDeblockingFilterIDC;
  uint32_t numTemporalLayers;
  uint32_t spsId;
  uint32_t ppsId;
  uint32_t adaptiveTransformMode;
  uint32_t fmoMode;
  uint32_t bdirectMode;
  uint32_t entropyCodingMode;
  uint32_t stereoMode;
  uint32_t intraRefreshPeriod;
  uint32_t intraRefreshCnt;
  uint32_t maxNumRefFrames;
  uint32_t sliceMode;
  uint32_t sliceModeData;
  uint8_t h264VUIParameters[112];
  uint32_t ltrNumFrames;
  uint32_t ltrTrustMode;
  uint32_t chromaFormatIDC;
  uint32_t maxTemporalLayers;
  uint32_t useBFramesAsRef;
  uint32_t numRefL0;
  uint32_t numRefL1;
  uint32_t outputBitDepth;
  uint32_t inputBitDepth;
  uint32_t tfLevel;
  uint8_t reserved1[1568];
};
LAYOUT(NV_ENC_CONFIG_H264, 1792,
       AT(flags, 0) AT(level, 4) AT(idrPeriod, 8) AT(separateColourPlaneFlag, 12)
       AT(disableDeblockingFilterIDC, 16) AT(numTemporalLayers, 20) AT(spsId, 24) AT(ppsId, 28)
       AT(adaptiveTransformMode, 32) AT(fmoMode, 36) AT(bdirectMode, 40) AT(entropyCodingMode, 44)
       AT(stereoMode, 48) AT(intraRefreshPeriod, 52) AT(intraRefreshCnt, 56)
       AT(maxNumRefFrames, 60) AT(sliceMode, 64) AT(sliceModeData, 68) AT(h264VUIParameters, 72)
       AT(ltrNumFrames, 184) AT(ltrTrustMode, 188) AT(chromaFormatIDC, 192)
       AT(maxTemporalLayers, 196) AT(useBFramesAsRef, 200) AT(numRefL0, 204) AT(numRefL1, 208)
       AT(outputBitDepth, 212) AT(inputBitDepth, 216) AT(tfLevel, 220))

struct NV_ENC_CONFIG_HEVC {
  uint32_t level;
  uint32_t tier;
  uint32_t minCUSize;
  uint32_t maxCUSize;
  uint32_t flags;
  uint32_t idrPeriod;
  uint32_t intraRefreshPeriod;
  uint32_t intraRefreshCnt;
  uint32_t maxNumRefFramesInDPB;
  uint32_t ltrNumFrames;
  uint32_t vpsId;
  uint32_t spsId;
  uint32_t ppsId;
  uint32_t sliceMode;
  uint32_t sliceModeData;
  uint32_t maxTemporalLayersMinus1;
  uint8_t hevcVUIParameters[112];
  uint32_t ltrTrustMode;
  uint32_t useBFramesAsRef;
  uint32_t numRefL0;
  uint32_t numRefL1;
  uint32_t tfLevel;
  uint32_t disableDeblockingFilterIDC;
  uint32_t outputBitDepth;
  uint32_t inputBitDepth;
  uint32_t numTemporalLayers;
  uint32_t numViews;
  uint8_t reserved1[1344];
};
LAYOUT(NV_ENC_CONFIG_HEVC, 1560,
       AT(level, 0) AT(tier, 4) AT(minCUSize, 8) AT(maxCUSize, 12) AT(flags, 16) AT(idrPeriod, 20)
       AT(intraRefreshPeriod, 24) AT(intraRefreshCnt, 28) AT(maxNumRefFramesInDPB, 32)
       AT(ltrNumFrames, 36) AT(vpsId, 40) AT(spsId, 44) AT(ppsId, 48) AT(sliceMode, 52)
       AT(sliceModeData, 56) AT(maxTemporalLayersMinus1, 60) AT(hevcVUIParameters, 64)
       AT(ltrTrustMode, 176) AT(useBFramesAsRef, 180) AT(numRefL0, 184) AT(numRefL1, 188)
       AT(tfLevel, 192) AT(disableDeblockingFilterIDC, 196) AT(outputBitDepth, 200)
       AT(inputBitDepth, 204) AT(numTemporalLayers, 208) AT(numViews, 212))

struct NV_ENC_CONFIG {
  uint32_t version;
  GUID profileGUID;
  uint32_t gopLength;
  int32_t frameIntervalP;
  uint32_t monoChromeEncoding;
  uint32_t frameFieldMode;
  uint32_t mvPrecision;
  NV_ENC_RC_PARAMS rcParams;
  union {
    NV_ENC_CONFIG_H264 h264;
    NV_ENC_CONFIG_HEVC hevc;
  } encodeCodecConfig;
  uint8_t reserved1[1624];
};
LAYOUT(NV_ENC_CONFIG, 3584,
       AT(version, 0) AT(profileGUID, 4) AT(gopLength, 20) AT(frameIntervalP, 24)
       AT(monoChromeEncoding, 28) AT(frameFieldMode, 32) AT(mvPrecision, 36) AT(rcParams, 40)
       AT(encodeCodecConfig, 168))

struct NV_ENC_PRESET_CONFIG {
  uint32_t version;
  uint8_t reserved1[4];
  NV_ENC_CONFIG presetCfg;
  uint8_t reserved2[1536];
};
LAYOUT(NV_ENC_PRESET_CONFIG, 5128,
       AT(version, 0) AT(presetCfg, 8))

struct NV_ENC_INITIALIZE_PARAMS {
  uint32_t version;
  GUID encodeGUID;
  GUID presetGUID;
  uint32_t encodeWidth;
  uint32_t encodeHeight;
  uint32_t darWidth;
  uint32_t darHeight;
  uint32_t frameRateNum;
  uint32_t frameRateDen;
  uint32_t enableEncodeAsync;
  uint32_t enablePTD;
  uint32_t flags;
  uint32_t privDataSize;
  uint8_t reserved1[4];
  void *privData;
  NV_ENC_CONFIG *encodeConfig;
  uint32_t maxEncodeWidth;
  uint32_t maxEncodeHeight;
  uint8_t maxMEHintCountsPerBlock[16];
  uint8_t reserved2[16];
  uint32_t tuningInfo;
  uint32_t bufferFormat;
  uint32_t numStateBuffers;
  uint32_t outputStatsLevel;
  uint8_t reserved3[1648];
};
LAYOUT(NV_ENC_INITIALIZE_PARAMS, 1800,
       AT(version, 0) AT(encodeGUID, 4) AT(presetGUID, 20) AT(encodeWidth, 36) AT(encodeHeight, 40)
       AT(darWidth, 44) AT(darHeight, 48) AT(frameRateNum, 52) AT(frameRateDen, 56)
       AT(enableEncodeAsync, 60) AT(enablePTD, 64) AT(flags, 68) AT(privDataSize, 72)
       AT(privData, 80) AT(encodeConfig, 88) AT(maxEncodeWidth, 96) AT(maxEncodeHeight, 100)
       AT(maxMEHintCountsPerBlock, 104) AT(tuningInfo, 136) AT(bufferFormat, 140)
       AT(numStateBuffers, 144) AT(outputStatsLevel, 148))

struct NV_ENC_RECONFIGURE_PARAMS {
  uint32_t version;
  uint8_t reserved1[4];
  NV_ENC_INITIALIZE_PARAMS reInitEncodeParams;
  uint32_t flags;
  uint8_t reserved2[4];
};
LAYOUT(NV_ENC_RECONFIGURE_PARAMS, 1816,
       AT(version, 0) AT(reInitEncodeParams, 8) AT(flags, 1808))

struct NV_ENC_CREATE_BITSTREAM_BUFFER {
  uint32_t version;
  uint32_t size;
  uint32_t memoryHeap;
  uint8_t reserved1[4];
  void *bitstreamBuffer;
  void *bitstreamBufferPtr;
  uint8_t reserved2[744];
};
LAYOUT(NV_ENC_CREATE_BITSTREAM_BUFFER, 776,
       AT(version, 0) AT(size, 4) AT(memoryHeap, 8) AT(bitstreamBuffer, 16)
       AT(bitstreamBufferPtr, 24))

struct NV_ENC_REGISTER_RESOURCE {
  uint32_t version;
  uint32_t resourceType;
  uint32_t width;
  uint32_t height;
  uint32_t pitch;
  uint32_t subResourceIndex;
  void *resourceToRegister;
  void *registeredResource;
  uint32_t bufferFormat;
  uint32_t bufferUsage;
  void *pInputFencePoint;
  uint32_t chromaOffset[2];
  uint32_t chromaOffsetIn[2];
  uint8_t reserved1[1464];
};
LAYOUT(NV_ENC_REGISTER_RESOURCE, 1536,
       AT(version, 0) AT(resourceType, 4) AT(width, 8) AT(height, 12) AT(pitch, 16)
       AT(subResourceIndex, 20) AT(resourceToRegister, 24) AT(registeredResource, 32)
       AT(bufferFormat, 40) AT(bufferUsage, 44) AT(pInputFencePoint, 48) AT(chromaOffset, 56)
       AT(chromaOffsetIn, 64))

struct NV_ENC_MAP_INPUT_RESOURCE {
  uint32_t version;
  uint32_t subResourceIndex;
  void *inputResource;
  void *registeredResource;
  void *mappedResource;
  uint32_t mappedBufferFmt;
  uint8_t reserved1[1508];
};
LAYOUT(NV_ENC_MAP_INPUT_RESOURCE, 1544,
       AT(version, 0) AT(subResourceIndex, 4) AT(inputResource, 8) AT(registeredResource, 16)
       AT(mappedResource, 24) AT(mappedBufferFmt, 32))

struct NV_ENC_PIC_PARAMS {
  uint32_t version;
  uint32_t inputWidth;
  uint32_t inputHeight;
  uint32_t inputPitch;
  uint32_t encodePicFlags;
  uint32_t frameIdx;
  uint64_t inputTimeStamp;
  uint64_t inputDuration;
  void *inputBuffer;
  void *outputBitstream;
  void *completionEvent;
  uint32_t bufferFmt;
  uint32_t pictureStruct;
  uint32_t pictureType;
  uint8_t reserved1[4];
  uint8_t codecPicParams[1536];
  uint8_t reserved2[8];
  uint8_t meHintCountsPerBlock[16];
  uint8_t reserved3[16];
  void *meExternalHints;
  uint8_t reserved4[48];
  void *qpDeltaMap;
  uint32_t qpDeltaMapSize;
  uint8_t reserved5[4];
  int8_t meHintRefPicDist[2];
  uint8_t reserved6[6];
  void *alphaBuffer;
  void *meExternalSbHints;
  uint32_t meSbHintsCount;
  uint32_t stateBufferIdx;
  void *outputReconBuffer;
  uint8_t reserved7[1592];
};
LAYOUT(NV_ENC_PIC_PARAMS, 3360,
       AT(version, 0) AT(inputWidth, 4) AT(inputHeight, 8) AT(inputPitch, 12)
       AT(encodePicFlags, 16) AT(frameIdx, 20) AT(inputTimeStamp, 24) AT(inputDuration, 32)
       AT(inputBuffer, 40) AT(outputBitstream, 48) AT(completionEvent, 56) AT(bufferFmt, 64)
       AT(pictureStruct, 68) AT(pictureType, 72) AT(codecPicParams, 80)
       AT(meHintCountsPerBlock, 1624) AT(meExternalHints, 1656) AT(qpDeltaMap, 1712)
       AT(qpDeltaMapSize, 1720) AT(meHintRefPicDist, 1728) AT(alphaBuffer, 1736)
       AT(meExternalSbHints, 1744) AT(meSbHintsCount, 1752) AT(stateBufferIdx, 1756)
       AT(outputReconBuffer, 1760))

struct NV_ENC_LOCK_BITSTREAM {
  uint32_t version;
  uint32_t flags;
  void *outputBitstream;
  uint32_t *sliceOffsets;
  uint32_t frameIdx;
  uint32_t hwEncodeStatus;
  uint32_t numSlices;
  uint32_t bitstreamSizeInBytes;
  uint64_t outputTimeStamp;
  uint64_t outputDuration;
  void *bitstreamBufferPtr;
  uint32_t pictureType;
  uint32_t pictureStruct;
  uint32_t frameAvgQP;
  uint32_t frameSatd;
  uint32_t ltrFrameIdx;
  uint32_t ltrFrameBitmap;
  uint32_t temporalId;
  uint32_t intraMBCount;
  uint32_t interMBCount;
  int32_t averageMVX;
  int32_t averageMVY;
  uint32_t alphaLayerSizeInBytes;
  uint32_t outputStatsPtrSize;
  uint8_t reserved1[4];
  void *outputStatsPtr;
  uint32_t frameIdxDisplay;
  uint8_t reserved2[1412];
};
LAYOUT(NV_ENC_LOCK_BITSTREAM, 1544,
       AT(version, 0) AT(flags, 4) AT(outputBitstream, 8) AT(sliceOffsets, 16) AT(frameIdx, 24)
       AT(hwEncodeStatus, 28) AT(numSlices, 32) AT(bitstreamSizeInBytes, 36)
       AT(outputTimeStamp, 40) AT(outputDuration, 48) AT(bitstreamBufferPtr, 56)
       AT(pictureType, 64) AT(pictureStruct, 68) AT(frameAvgQP, 72) AT(frameSatd, 76)
       AT(ltrFrameIdx, 80) AT(ltrFrameBitmap, 84) AT(temporalId, 88) AT(intraMBCount, 92)
       AT(interMBCount, 96) AT(averageMVX, 100) AT(averageMVY, 104) AT(alphaLayerSizeInBytes, 108)
       AT(outputStatsPtrSize, 112) AT(outputStatsPtr, 120) AT(frameIdxDisplay, 128))

struct NV_ENC_SEQUENCE_PARAM_PAYLOAD {
  uint32_t version;
  uint32_t inBufferSize;
  uint32_t spsId;
  uint32_t ppsId;
  void *spsppsBuffer;
  uint32_t *outSPSPPSPayloadSize;
  uint8_t reserved1[1512];
};
LAYOUT(NV_ENC_SEQUENCE_PARAM_PAYLOAD, 1544,
       AT(version, 0) AT(inBufferSize, 4) AT(spsId, 8) AT(ppsId, 12) AT(spsppsBuffer, 16)
       AT(outSPSPPSPayloadSize, 24))

struct NV_ENCODE_API_FUNCTION_LIST {
  uint32_t version;
  uint8_t reserved1[4];
  Function nvEncOpenEncodeSession;
  Function nvEncGetEncodeGUIDCount;
  Function nvEncGetEncodeProfileGUIDCount;
  Function nvEncGetEncodeProfileGUIDs;
  Function nvEncGetEncodeGUIDs;
  Function nvEncGetInputFormatCount;
  Function nvEncGetInputFormats;
  Function nvEncGetEncodeCaps;
  Function nvEncGetEncodePresetCount;
  Function nvEncGetEncodePresetGUIDs;
  Function nvEncGetEncodePresetConfig;
  Function nvEncInitializeEncoder;
  Function nvEncCreateInputBuffer;
  Function nvEncDestroyInputBuffer;
  Function nvEncCreateBitstreamBuffer;
  Function nvEncDestroyBitstreamBuffer;
  Function nvEncEncodePicture;
  Function nvEncLockBitstream;
  Function nvEncUnlockBitstream;
  Function nvEncLockInputBuffer;
  Function nvEncUnlockInputBuffer;
  Function nvEncGetEncodeStats;
  Function nvEncGetSequenceParams;
  Function nvEncRegisterAsyncEvent;
  Function nvEncUnregisterAsyncEvent;
  Function nvEncMapInputResource;
  Function nvEncUnmapInputResource;
  Function nvEncDestroyEncoder;
  Function nvEncInvalidateRefFrames;
  Function nvEncOpenEncodeSessionEx;
  Function nvEncRegisterResource;
  Function nvEncUnregisterResource;
  Function nvEncReconfigureEncoder;
  uint8_t reserved2[8];
  Function nvEncCreateMVBuffer;
  Function nvEncDestroyMVBuffer;
  Function nvEncRunMotionEstimationOnly;
  Function nvEncGetLastErrorString;
  Function nvEncSetIOCudaStreams;
  Function nvEncGetEncodePresetConfigEx;
  Function nvEncGetSequenceParamEx;
  Function nvEncRestoreEncoderState;
  Function nvEncLookaheadPicture;
  uint8_t reserved3[2200];
};
LAYOUT(NV_ENCODE_API_FUNCTION_LIST, 2552,
       AT(version, 0) AT(nvEncOpenEncodeSession, 8) AT(nvEncGetEncodeGUIDCount, 16)
       AT(nvEncGetEncodeProfileGUIDCount, 24) AT(nvEncGetEncodeProfileGUIDs, 32)
       AT(nvEncGetEncodeGUIDs, 40) AT(nvEncGetInputFormatCount, 48) AT(nvEncGetInputFormats, 56)
       AT(nvEncGetEncodeCaps, 64) AT(nvEncGetEncodePresetCount, 72)
       AT(nvEncGetEncodePresetGUIDs, 80) AT(nvEncGetEncodePresetConfig, 88)
       AT(nvEncInitializeEncoder, 96) AT(nvEncCreateInputBuffer, 104)
       AT(nvEncDestroyInputBuffer, 112) AT(nvEncCreateBitstreamBuffer, 120)
       AT(nvEncDestroyBitstreamBuffer, 128) AT(nvEncEncodePicture, 136) AT(nvEncLockBitstream, 144)
       AT(nvEncUnlockBitstream, 152) AT(nvEncLockInputBuffer, 160) AT(nvEncUnlockInputBuffer, 168)
       AT(nvEncGetEncodeStats, 176) AT(nvEncGetSequenceParams, 184)
       AT(nvEncRegisterAsyncEvent, 192) AT(nvEncUnregisterAsyncEvent, 200)
       AT(nvEncMapInputResource, 208) AT(nvEncUnmapInputResource, 216) AT(nvEncDestroyEncoder, 224)
       AT(nvEncInvalidateRefFrames, 232) AT(nvEncOpenEncodeSessionEx, 240)
       AT(nvEncRegisterResource, 248) AT(nvEncUnregisterResource, 256)
       AT(nvEncReconfigureEncoder, 264) AT(nvEncCreateMVBuffer, 280) AT(nvEncDestroyMVBuffer, 288)
       AT(nvEncRunMotionEstimationOnly, 296) AT(nvEncGetLastErrorString, 304)
       AT(nvEncSetIOCudaStreams, 312) AT(nvEncGetEncodePresetConfigEx, 320)
       AT(nvEncGetSequenceParamEx, 328) AT(nvEncRestoreEncoderState, 336)
       AT(nvEncLookaheadPicture, 344))
