#include "nvenc_codec.h"

namespace {

constexpr int ENGINES = 3;  // an L40S

const EncodeCodec CODECS[] = {
    {NV_ENC_CODEC_H264_GUID, "libx264", 145, 49, 4096, 4, 62, false},
    {NV_ENC_CODEC_HEVC_GUID, "libx265", 129, 33, 8192, 5, 186, true},
    {NV_ENC_CODEC_AV1_GUID, "libaom-av1", 192, 128, 8192, 7, 23, true},
};
constexpr int COUNT = sizeof CODECS / sizeof *CODECS;

}  // namespace

const EncodeCodec *encode_codecs(int *count) {
  *count = COUNT;
  return CODECS;
}

const EncodeCodec *find_encode_codec(const GUID &guid) {
  for (const EncodeCodec &codec : CODECS)
    if (codec.guid == guid) return &codec;
  return nullptr;
}

int encode_cap(const EncodeCodec &codec, uint32_t cap) {
  switch (cap) {
    case NV_ENC_CAPS_NUM_MAX_BFRAMES: return int(codec.max_b_frames);
    case NV_ENC_CAPS_WIDTH_MIN: return int(codec.min_width);
    case NV_ENC_CAPS_HEIGHT_MIN: return int(codec.min_height);
    case NV_ENC_CAPS_WIDTH_MAX:
    case NV_ENC_CAPS_HEIGHT_MAX: return int(codec.max_size);
    case NV_ENC_CAPS_MB_NUM_MAX: return int(codec.max_size / 16 * (codec.max_size / 16));
    case NV_ENC_CAPS_MB_PER_SEC_MAX: return 983040;
    case NV_ENC_CAPS_LEVEL_MAX: return int(codec.max_level);
    case NV_ENC_CAPS_SUPPORT_10BIT_ENCODE: return codec.ten_bit;
    case NV_ENC_CAPS_NUM_ENCODER_ENGINES: return ENGINES;
    case NV_ENC_CAPS_SUPPORTED_RATECONTROL_MODES:
      return NV_ENC_PARAMS_RC_VBR | NV_ENC_PARAMS_RC_CBR;
    case NV_ENC_CAPS_SUPPORT_CABAC: return is_h264(codec);
    case NV_ENC_CAPS_SUPPORT_DYN_RES_CHANGE:
    case NV_ENC_CAPS_SUPPORT_DYN_BITRATE_CHANGE:
    case NV_ENC_CAPS_SUPPORT_LOOKAHEAD:
    case NV_ENC_CAPS_SUPPORT_TEMPORAL_AQ: return 1;
    default: return 0;
  }
}

void fill_preset(const EncodeCodec &codec, uint32_t tuning, NV_ENC_CONFIG *config) {
  bool quick =
      tuning == NV_ENC_TUNING_INFO_LOW_LATENCY || tuning == NV_ENC_TUNING_INFO_ULTRA_LOW_LATENCY;
  *config = {};
  config->version = NV_ENC_CONFIG_VER;
  config->profileGUID = NV_ENC_CODEC_PROFILE_AUTOSELECT_GUID;
  config->gopLength = quick ? uint32_t(NVENC_INFINITE_GOPLENGTH) : 250;
  config->frameIntervalP = quick ? 1 : 4;
  config->frameFieldMode = NV_ENC_PARAMS_FRAME_FIELD_MODE_FRAME;
  config->rcParams.version = NV_ENC_RC_PARAMS_VER;
  config->rcParams.rateControlMode = quick ? NV_ENC_PARAMS_RC_CBR : NV_ENC_PARAMS_RC_VBR;
  config->rcParams.averageBitRate = 5000000;
  config->rcParams.constQP = {28, 31, 25};
  if (is_h264(codec)) {
    config->encodeCodecConfig.h264.idrPeriod = config->gopLength;
    config->encodeCodecConfig.h264.chromaFormatIDC = 1;
  } else if (is_hevc(codec)) {
    config->encodeCodecConfig.hevc.idrPeriod = config->gopLength;
    config->encodeCodecConfig.hevc.flags = NV_ENC_HEVC_CHROMA_420;
  }
}
