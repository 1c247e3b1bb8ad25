#include "cuvid_codec.h"

#include "sim.h"

namespace {

// An L40S (compute capability 8.9), which has no H.264 with 10 bits and no 4:2:2.
const Codec CODECS[] = {
    {cudaVideoCodec_MPEG1, AV_CODEC_ID_MPEG1VIDEO, 48, 16, 4080, 8, false, true},
    {cudaVideoCodec_MPEG2, AV_CODEC_ID_MPEG2VIDEO, 48, 16, 4080, 8, false, true},
    {cudaVideoCodec_MPEG4, AV_CODEC_ID_MPEG4, 48, 16, 2032, 8, false, true},
    {cudaVideoCodec_H264, AV_CODEC_ID_H264, 48, 48, 4096, 8, false, true},
    {cudaVideoCodec_HEVC, AV_CODEC_ID_HEVC, 48, 48, 8192, 12, true, true},
    {cudaVideoCodec_VP8, AV_CODEC_ID_VP8, 48, 16, 4096, 8, false, false},
    {cudaVideoCodec_VP9, AV_CODEC_ID_VP9, 48, 48, 8192, 12, false, false},
    {cudaVideoCodec_AV1, AV_CODEC_ID_AV1, 48, 48, 8192, 10, false, false},
};

}  // namespace

bool Codec::decodes(uint32_t chroma, uint32_t depth) const {
  bool fits =
      chroma == cudaVideoChromaFormat_420 || (chroma == cudaVideoChromaFormat_444 && yuv444);
  return fits && depth >= 8 && depth <= max_depth && depth % 2 == 0;
}

const Codec *find_codec(uint32_t type) {
  if (type == cudaVideoCodec_AV1 && sim_setting("NO_AV1", 0)) return nullptr;
  for (const Codec &codec : CODECS)
    if (codec.type == type) return &codec;
  return nullptr;
}

Context open_decoder(const Codec &codec) {
  av_log_set_level(sim_setting("AVLOG", AV_LOG_QUIET));
  const AVCodec *software = avcodec_find_decoder(codec.id);
  Context context(software ? avcodec_alloc_context3(software) : nullptr);
  if (!context) return nullptr;
  context->thread_count = 1;    // a picture is complete when the call that decodes it returns
  context->apply_cropping = 0;  // NVDEC's surfaces hold the picture as it is coded
  // H.264 that does not say how far its pictures are reordered is given all the delay that its
  // level permits, as NVDEC's parser does, instead of a guess that drops pictures to grow.
  if (codec.id == AV_CODEC_ID_H264) context->strict_std_compliance = FF_COMPLIANCE_STRICT;
  return context;
}

uint32_t chroma_of(const AVFrame &frame) {
  const AVPixFmtDescriptor *format = av_pix_fmt_desc_get(AVPixelFormat(frame.format));
  if (format->nb_components < 3) return cudaVideoChromaFormat_Monochrome;
  if (format->log2_chroma_h) return cudaVideoChromaFormat_420;
  return format->log2_chroma_w ? cudaVideoChromaFormat_422 : cudaVideoChromaFormat_444;
}
