// The encoder of libavcodec behind an NVENC session.
#pragma once
#include "av_handles.h"
#include "nvenc_codec.h"

#include <string>

class SoftwareEncoder {
 public:
  // Null: libavcodec refuses the parameters, or was built without the encoder. Only the sizes,
  // rates, group of pictures and bit rate of the parameters matter.
  static std::unique_ptr<SoftwareEncoder> open(const EncodeCodec &codec,
                                               const NV_ENC_INITIALIZE_PARAMS &params,
                                               const NV_ENC_CONFIG &config, bool ten_bit);

  Frame new_picture() const;
  // False: libavcodec failed. Null ends the stream.
  bool send(AVFrame *picture);
  Packet receive();  // in coding order; null: none yet
  // What a decoder must know before the first key frame; empty where key frames carry it.
  std::string headers() const;
  void set_bit_rate(uint32_t rate);

 private:
  explicit SoftwareEncoder(Context context) : context_(std::move(context)) {}
  Context context_;
};
