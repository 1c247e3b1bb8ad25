#include "nvenc_session.h"

#include "av1_units.h"
#include "sim.h"

#include <algorithm>
#include <atomic>
#include <string.h>

namespace {

std::atomic<int> initialised{0};

NV_ENC_PIC_TYPE type_of(const AVPacket &packet) {
  if (packet.flags & AV_PKT_FLAG_KEY) return NV_ENC_PIC_TYPE_IDR;
  constexpr size_t PICTURE_TYPE = 4;  // where the side data has it
  size_t size = 0;
  const uint8_t *stats = av_packet_get_side_data(&packet, AV_PKT_DATA_QUALITY_STATS, &size);
  int type = size > PICTURE_TYPE ? stats[PICTURE_TYPE] : int(AV_PICTURE_TYPE_P);
  if (type == AV_PICTURE_TYPE_B) return NV_ENC_PIC_TYPE_B;
  return type == AV_PICTURE_TYPE_I ? NV_ENC_PIC_TYPE_I : NV_ENC_PIC_TYPE_P;
}

}  // namespace

Session::Session() { sim_count("nvenc.sessions", 1); }

Session::~Session() {
  sim_count("nvenc.registered", -int64_t(surfaces_.size()));
  sim_count("nvenc.sessions", -1);
  if (device_memory_) sim_free(device_memory_);
}

NVENCSTATUS Session::fail(NVENCSTATUS error, const std::string &why) {
  last_error_ = why;
  sim_trace("      nvenc error %d: %s", error, why.c_str());
  return error;
}

// ---- setting up

NVENCSTATUS Session::initialize(const NV_ENC_INITIALIZE_PARAMS &params) {
  if (codec_) return fail(NV_ENC_ERR_INVALID_CALL, "initialised twice");
  if (!params.encodeConfig) return fail(NV_ENC_ERR_UNSUPPORTED_PARAM, "no configuration");
  if (params.encodeConfig->version != NV_ENC_CONFIG_VER)
    return fail(NV_ENC_ERR_INVALID_VERSION, "version of NV_ENC_CONFIG");
  const EncodeCodec *codec = find_encode_codec(params.encodeGUID);
  if (!codec) return fail(NV_ENC_ERR_UNSUPPORTED_PARAM, "codec");
  uint32_t width = params.encodeWidth, height = params.encodeHeight;
  if (width < codec->min_width || height < codec->min_height)
    return fail(NV_ENC_ERR_INVALID_PARAM, "Frame Dimension less than the minimum supported value.");
  if (width > codec->max_size || height > codec->max_size || (width | height) & 1)
    return fail(NV_ENC_ERR_INVALID_PARAM, "frame size");
  device_memory_ = sim_allocate(size_t(width) * height * 6, "nvenc");
  if (!device_memory_) return fail(NV_ENC_ERR_OUT_OF_MEMORY, "device memory");
  codec_ = codec;
  params_ = params;
  config_ = *params.encodeConfig;
  number_ = initialised++;
  return NV_ENC_SUCCESS;
}

NVENCSTATUS Session::reconfigure(const NV_ENC_RECONFIGURE_PARAMS &params) {
  if (!codec_) return fail(NV_ENC_ERR_ENCODER_NOT_INITIALIZED, "not initialised");
  const NV_ENC_INITIALIZE_PARAMS &to = params.reInitEncodeParams;
  if (to.encodeWidth != params_.encodeWidth || to.encodeHeight != params_.encodeHeight)
    return fail(NV_ENC_ERR_UNSUPPORTED_PARAM, "change of the frame size");
  params_ = to;
  if (to.encodeConfig) config_ = *to.encodeConfig;
  if (encoder_) encoder_->set_bit_rate(config_.rcParams.averageBitRate);
  sim_count("nvenc.reconfigures", 1);
  return NV_ENC_SUCCESS;
}

NVENCSTATUS Session::set_input_stream(void *stream) {
  has_input_stream_ = true;
  input_stream_ = stream;
  return NV_ENC_SUCCESS;
}

// Opens the encoder for pictures of a format, which is known from the first one.
NVENCSTATUS Session::open(uint32_t format) {
  if (is_ten_bit(format) && !codec_->ten_bit)
    return fail(NV_ENC_ERR_UNSUPPORTED_PARAM, "10 bits are not supported by this codec");
  encoder_ = SoftwareEncoder::open(*codec_, params_, config_, is_ten_bit(format));
  if (!encoder_) return fail(NV_ENC_ERR_INVALID_PARAM, "the software encoder refused");
  format_ = format;
  if (sim_idle() && !canned_)
    canned_ = std::make_shared<std::string>(first_key_frame(is_ten_bit(format)));
  return NV_ENC_SUCCESS;
}

// What the first packet of a stream would be if its picture were grey.
std::string Session::first_key_frame(bool ten_bit) {
  auto encoder = SoftwareEncoder::open(*codec_, params_, config_, ten_bit);
  Frame picture(encoder ? encoder->new_picture() : nullptr);
  if (!picture) return {};
  for (int plane = 0; plane < 3; plane++) {
    size_t rows = plane ? picture->height / 2 : picture->height;
    if (ten_bit)
      std::fill_n(reinterpret_cast<uint16_t *>(picture->data[plane]),
                  rows * picture->linesize[plane] / 2, 512);
    else
      memset(picture->data[plane], 128, rows * picture->linesize[plane]);
  }
  picture->pts = 0;
  encoder->send(picture.get());
  encoder->send(nullptr);
  Packet packet = encoder->receive();
  if (!packet) return {};
  return encoder->headers() + std::string(packet->data, packet->data + packet->size);
}

NVENCSTATUS Session::sequence_params(NV_ENC_SEQUENCE_PARAM_PAYLOAD *params) {
  if (!codec_) return fail(NV_ENC_ERR_ENCODER_NOT_INITIALIZED, "not initialised");
  bool ten_bit = is_ten_bit(format_);
  std::string headers;
  if (is_h264(*codec_) || is_hevc(*codec_)) {
    auto encoder = SoftwareEncoder::open(*codec_, params_, config_, ten_bit);
    if (encoder) headers = encoder->headers();
  } else {
    std::string unit = first_key_frame(ten_bit);
    headers = av1_sequence_header(reinterpret_cast<const uint8_t *>(unit.data()), unit.size());
  }
  if (headers.size() > params->inBufferSize)
    return fail(NV_ENC_ERR_NOT_ENOUGH_BUFFER, "sequence parameters");
  memcpy(params->spsppsBuffer, headers.data(), headers.size());
  *params->outSPSPPSPayloadSize = uint32_t(headers.size());
  return NV_ENC_SUCCESS;
}

// ---- surfaces

Session::Surface *Session::find_surface(void *handle) {
  auto found = surfaces_.find(handle);
  return found == surfaces_.end() ? nullptr : found->second.get();
}

NVENCSTATUS Session::register_surface(NV_ENC_REGISTER_RESOURCE *params) {
  if (params->resourceType != NV_ENC_INPUT_RESOURCE_TYPE_CUDADEVICEPTR ||
      !sim_inside(reinterpret_cast<uint64_t>(params->resourceToRegister), 1))
    return fail(NV_ENC_ERR_RESOURCE_REGISTER_FAILED, "not an address of device memory");
  if (!is_input_format(params->bufferFormat))
    return fail(NV_ENC_ERR_UNSUPPORTED_PARAM, "format of the input surface");
  auto surface = std::make_unique<Surface>(Surface{*params});
  params->registeredResource = surface.get();
  surfaces_[surface.get()] = std::move(surface);
  sim_count("nvenc.registered", 1);
  return NV_ENC_SUCCESS;
}

NVENCSTATUS Session::unregister_surface(void *handle) {
  Surface *surface = find_surface(handle);
  if (!surface) return fail(NV_ENC_ERR_RESOURCE_NOT_REGISTERED, "not registered");
  if (surface->maps) return fail(NV_ENC_ERR_INVALID_CALL, "still mapped");
  surfaces_.erase(handle);
  sim_count("nvenc.registered", -1);
  return NV_ENC_SUCCESS;
}

NVENCSTATUS Session::map_surface(NV_ENC_MAP_INPUT_RESOURCE *params) {
  Surface *surface = find_surface(params->registeredResource);
  if (!surface) return fail(NV_ENC_ERR_RESOURCE_NOT_REGISTERED, "not registered");
  surface->maps++;
  params->mappedResource = surface;
  params->mappedBufferFmt = surface->registered.bufferFormat;
  return NV_ENC_SUCCESS;
}

NVENCSTATUS Session::unmap_surface(void *handle) {
  Surface *surface = find_surface(handle);
  if (!surface || !surface->maps) return fail(NV_ENC_ERR_RESOURCE_NOT_MAPPED, "not mapped");
  surface->maps--;
  return NV_ENC_SUCCESS;
}

// ---- output buffers

Session::Output *Session::find_output(void *handle) {
  auto found = outputs_.find(handle);
  return found == outputs_.end() ? nullptr : found->second.get();
}

NVENCSTATUS Session::create_output(NV_ENC_CREATE_BITSTREAM_BUFFER *params) {
  auto output = std::make_unique<Output>();
  params->bitstreamBuffer = output.get();
  outputs_[output.get()] = std::move(output);
  return NV_ENC_SUCCESS;
}

NVENCSTATUS Session::destroy_output(void *handle) {
  Output *output = find_output(handle);
  if (!output) return fail(NV_ENC_ERR_INVALID_PARAM, "not an output buffer");
  waiting_.erase(std::remove(waiting_.begin(), waiting_.end(), output), waiting_.end());
  outputs_.erase(handle);
  return NV_ENC_SUCCESS;
}

NVENCSTATUS Session::lock_output(NV_ENC_LOCK_BITSTREAM *params) {
  constexpr uint32_t FINISHED = 2;
  Output *output = find_output(params->outputBitstream);
  if (!output) return fail(NV_ENC_ERR_INVALID_PARAM, "not an output buffer");
  if (!output->ready) return fail(NV_ENC_ERR_LOCK_BUSY, "no packet yet: a GPU would wait here");
  output->locked = true;
  params->bitstreamBufferPtr = const_cast<char *>(output->bytes->data());
  params->bitstreamSizeInBytes = uint32_t(output->bytes->size());
  params->outputTimeStamp = output->input.time;
  params->outputDuration = output->input.duration;
  params->frameIdx = output->input.frame;
  params->pictureType = output->type;
  params->pictureStruct = NV_ENC_PIC_STRUCT_FRAME;
  params->hwEncodeStatus = FINISHED;
  params->numSlices = 1;
  params->frameAvgQP = 28;
  return NV_ENC_SUCCESS;
}

NVENCSTATUS Session::unlock_output(void *handle) {
  Output *output = find_output(handle);
  if (!output || !output->locked) return fail(NV_ENC_ERR_INVALID_PARAM, "not locked");
  output->locked = false;
  return NV_ENC_SUCCESS;
}

// ---- encoding

NVENCSTATUS Session::encode(const NV_ENC_PIC_PARAMS &params) {
  if (!codec_) return fail(NV_ENC_ERR_ENCODER_NOT_INITIALIZED, "not initialised");
  if (params.encodePicFlags & NV_ENC_PIC_FLAG_EOS) {
    finish();
    return NV_ENC_SUCCESS;
  }
  Surface *surface = find_surface(params.inputBuffer);
  Output *output = find_output(params.outputBitstream);
  if (!surface || !surface->maps) return fail(NV_ENC_ERR_RESOURCE_NOT_MAPPED, "input not mapped");
  if (!output) return fail(NV_ENC_ERR_INVALID_PARAM, "not an output buffer");
  if (output->locked) return fail(NV_ENC_ERR_INVALID_CALL, "output buffer still locked");
  uint32_t format = surface->registered.bufferFormat;
  if (!encoder_)
    if (NVENCSTATUS error = open(format)) return error;
  if (format != format_) return fail(NV_ENC_ERR_INVALID_PARAM, "change of the input format");
  output->ready = false;
  if (canned_) {
    *output = {canned_,
               {params.inputTimeStamp, params.inputDuration, params.frameIdx},
               pictures_++ ? NV_ENC_PIC_TYPE_P : NV_ENC_PIC_TYPE_IDR,
               true};
    sim_count("nvenc.packets", 1);
  } else {
    if (NVENCSTATUS error = encode_surface(*surface, params)) return error;
    waiting_.push_back(output);
    collect();
  }
  sim_count("nvenc.pictures", 1);
  return output->ready ? NV_ENC_SUCCESS : NV_ENC_ERR_NEED_MORE_INPUT;
}

NVENCSTATUS Session::encode_surface(const Surface &surface, const NV_ENC_PIC_PARAMS &params) {
  // The picture is what the input stream has made of it by now, and nothing else is waited for.
  if (has_input_stream_) sim_wait(input_stream_);
  uint32_t width = params_.encodeWidth, height = params_.encodeHeight;
  auto planes = input_planes(surface.registered, width, height);
  if (planes.empty()) return fail(NV_ENC_ERR_INVALID_PARAM, "input surface out of bounds");
  Frame picture = encoder_->new_picture();
  if (!picture) return fail(NV_ENC_ERR_OUT_OF_MEMORY, "host memory");
  load_picture(planes, format_, picture.get());
  static const bool keeps_input = sim_setting("KEEP_INPUT", 0);
  if (keeps_input) keep_input(number_, pictures_, width, height, format_, planes);
  picture->pts = pictures_++;
  if (params.encodePicFlags & (NV_ENC_PIC_FLAG_FORCEIDR | NV_ENC_PIC_FLAG_FORCEINTRA))
    picture->pict_type = AV_PICTURE_TYPE_I;
  inputs_[picture->pts] = {params.inputTimeStamp, params.inputDuration, params.frameIdx,
                           bool(params.encodePicFlags & NV_ENC_PIC_FLAG_OUTPUT_SPSPPS)};
  if (!encoder_->send(picture.get())) return fail(NV_ENC_ERR_GENERIC, "software encoder");
  return NV_ENC_SUCCESS;
}

// Ends the stream; the session can begin another.
void Session::finish() {
  if (encoder_ && !canned_) {
    encoder_->send(nullptr);
    collect();
  }
  encoder_.reset();
  sent_headers_ = false;
}

void Session::collect() {
  while (!waiting_.empty()) {
    Packet packet = encoder_->receive();
    if (!packet) return;
    fill(*waiting_.front(), *packet);
    waiting_.pop_front();
    sim_count("nvenc.packets", 1);
  }
}

void Session::fill(Output &output, const AVPacket &packet) {
  output.input = inputs_[packet.pts];
  inputs_.erase(packet.pts);
  output.type = type_of(packet);
  bool key = output.type == NV_ENC_PIC_TYPE_IDR;
  std::string bytes;
  if ((key && (repeats_headers() || !sent_headers_)) || output.input.wants_headers) {
    bytes = encoder_->headers();
    sent_headers_ = true;
  }
  bytes.append(packet.data, packet.data + packet.size);
  output.bytes = std::make_shared<std::string>(std::move(bytes));
  output.ready = true;
}

bool Session::repeats_headers() const {
  if (is_h264(*codec_)) return config_.encodeCodecConfig.h264.flags & NV_ENC_H264_REPEAT_SPSPPS;
  return config_.encodeCodecConfig.hevc.flags & NV_ENC_HEVC_REPEAT_SPSPPS;
}
