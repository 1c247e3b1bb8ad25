// Owners of what libavcodec allocates.
#pragma once
#include <memory>
extern "C" {
#include <libavcodec/avcodec.h>
}

struct FreeFrame {
  void operator()(AVFrame *frame) const { av_frame_free(&frame); }
};
struct FreePacket {
  void operator()(AVPacket *packet) const { av_packet_free(&packet); }
};
struct FreeContext {
  void operator()(AVCodecContext *context) const { avcodec_free_context(&context); }
};
using Frame = std::unique_ptr<AVFrame, FreeFrame>;
using Packet = std::unique_ptr<AVPacket, FreePacket>;
using Context = std::unique_ptr<AVCodecContext, FreeContext>;
