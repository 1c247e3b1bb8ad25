#include "nvenc_software.h"

#include "sim.h"

#include <algorithm>
extern "C" {
#include <libavutil/opt.h>
}

namespace {

constexpr int LONGEST_GOP = 100000;
constexpr uint32_t USUAL_BIT_RATE = 5000000;

void set(AVDictionary **options, const char *name, const std::string &value) {
  av_dict_set(options, name, value.c_str(), 0);
}

// NVENC promises a packet for each output buffer with a delay of no more than the B-frames, so
// nothing that looks ahead is allowed.
void set_speed(const EncodeCodec &codec, AVCodecContext *context, AVDictionary **options) {
  if (is_h264(codec)) {
    set(options, "preset", "ultrafast");
    set(options, "forced-idr", "1");
    set(options, "x264-params",
        "scenecut=0:rc-lookahead=0:sync-lookahead=0:b-adapt=0:b-pyramid=none:mbtree=0");
    return;
  }
  context->max_b_frames = 0;  // x265's B-frames delay more than NVENC's, and libaom has none
  if (is_hevc(codec)) {
    set(options, "preset", "ultrafast");
    set(options, "tune", "zerolatency");
    set(options, "forced-idr", "1");
    set(options, "x265-params",
        "log-level=none:info=0:scenecut=0:frame-threads=1:pools=none:open-gop=0");
    return;
  }
  set(options, "usage", "realtime");
  set(options, "cpu-used", "8");
  set(options, "lag-in-frames", "0");
  set(options, "row-mt", "0");
}

void set_rate(const EncodeCodec &codec, const NV_ENC_RC_PARAMS &rate, AVCodecContext *context,
              AVDictionary **options) {
  if (rate.rateControlMode == NV_ENC_PARAMS_RC_CONSTQP) {
    bool av1 = !is_h264(codec) && !is_hevc(codec);
    uint32_t qp = rate.constQP.qpInterP;
    set(options, av1 ? "crf" : "qp", std::to_string(av1 ? std::min(qp / 4, 63u) : qp));
    return;
  }
  context->bit_rate = rate.averageBitRate ? rate.averageBitRate : USUAL_BIT_RATE;
  if (rate.rateControlMode != NV_ENC_PARAMS_RC_CBR) return;
  context->rc_max_rate = context->bit_rate;
  context->rc_buffer_size = int(rate.vbvBufferSize ? rate.vbvBufferSize : context->bit_rate);
}

}  // namespace

std::unique_ptr<SoftwareEncoder> SoftwareEncoder::open(const EncodeCodec &codec,
                                                       const NV_ENC_INITIALIZE_PARAMS &params,
                                                       const NV_ENC_CONFIG &config, bool ten_bit) {
  av_log_set_level(sim_setting("AVLOG", AV_LOG_QUIET));
  const AVCodec *software = avcodec_find_encoder_by_name(codec.software);
  Context context(software ? avcodec_alloc_context3(software) : nullptr);
  if (!context) return nullptr;
  context->width = int(params.encodeWidth);
  context->height = int(params.encodeHeight);
  context->pix_fmt = ten_bit ? AV_PIX_FMT_YUV420P10 : AV_PIX_FMT_YUV420P;
  bool timed = params.frameRateNum && params.frameRateDen;
  context->framerate =
      timed ? AVRational{int(params.frameRateNum), int(params.frameRateDen)} : AVRational{30, 1};
  context->time_base = av_inv_q(context->framerate);
  context->thread_count = 1;
  context->gop_size = int(std::min(config.gopLength, uint32_t(LONGEST_GOP)));
  context->max_b_frames = std::max(config.frameIntervalP - 1, 0);
  if (config.frameIntervalP == 0) context->gop_size = 1;  // key frames only
  if (is_h264(codec) || is_hevc(codec)) context->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
  AVDictionary *options = nullptr;
  set_speed(codec, context.get(), &options);
  set_rate(codec, config.rcParams, context.get(), &options);
  int error = avcodec_open2(context.get(), software, &options);
  av_dict_free(&options);
  if (error < 0) return nullptr;
  return std::unique_ptr<SoftwareEncoder>(new SoftwareEncoder(std::move(context)));
}

Frame SoftwareEncoder::new_picture() const {
  Frame picture(av_frame_alloc());
  picture->width = context_->width;
  picture->height = context_->height;
  picture->format = context_->pix_fmt;
  if (av_frame_get_buffer(picture.get(), 0) < 0) return nullptr;
  return picture;
}

bool SoftwareEncoder::send(AVFrame *picture) {
  return avcodec_send_frame(context_.get(), picture) >= 0;
}

Packet SoftwareEncoder::receive() {
  Packet packet(av_packet_alloc());
  if (avcodec_receive_packet(context_.get(), packet.get()) < 0) return nullptr;
  return packet;
}

std::string SoftwareEncoder::headers() const {
  return std::string(context_->extradata, context_->extradata + context_->extradata_size);
}

// libx264 takes it up at the next picture; the others keep what they were opened with.
void SoftwareEncoder::set_bit_rate(uint32_t rate) { context_->bit_rate = rate; }
