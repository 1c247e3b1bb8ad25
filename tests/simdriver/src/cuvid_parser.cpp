#include "cuvid_parser.h"

#include "sim.h"

#include <algorithm>
#include <string.h>

namespace {

// The picture of one unit; null: it shows none, or needs others.
Frame decode_alone(AVCodecContext *context, const uint8_t *unit, size_t size) {
  Packet packet(av_packet_alloc());
  Frame frame(av_frame_alloc());
  if (av_new_packet(packet.get(), int(size)) < 0) return nullptr;
  memcpy(packet->data, unit, size);
  avcodec_send_packet(context, packet.get());
  if (context->codec->capabilities & AV_CODEC_CAP_DELAY) avcodec_send_packet(context, nullptr);
  if (avcodec_receive_frame(context, frame.get()) < 0) return nullptr;
  return frame;
}

}  // namespace

CUresult Parser::create(const CUVIDPARSERPARAMS &params, std::unique_ptr<Parser> *made) {
  const Codec *codec = find_codec(params.CodecType);
  if (!codec) return CUDA_ERROR_NOT_SUPPORTED;
  std::unique_ptr<Parser> parser(new Parser(params, *codec));
  if (!parser->splitter_ || !parser->splitter_context_) return CUDA_ERROR_NOT_SUPPORTED;
  *made = std::move(parser);
  return CUDA_SUCCESS;
}

Parser::Parser(const CUVIDPARSERPARAMS &params, const Codec &codec)
    : params_(params), codec_(codec), splitter_context_(open_decoder(codec)), finder_(codec.id) {
  restart_splitting();
}

Parser::~Parser() { av_parser_close(splitter_); }

bool Parser::parse(const CUVIDSOURCEDATAPACKET &packet) {
  bool whole = packet.flags & CUVID_PKT_ENDOFPICTURE;
  bool filled = packet.payload_size && packet.payload;
  int64_t pts = packet.flags & CUVID_PKT_TIMESTAMP ? packet.timestamp : AV_NOPTS_VALUE;
  if (packet.flags & CUVID_PKT_DISCONTINUITY) {
    if (!split(nullptr, 0, 0) || !end_sequence()) return false;
    restart_splitting();
  }
  if (filled && whole != bool(splitter_->flags & PARSER_FLAG_COMPLETE_FRAMES)) {
    if (!split(nullptr, 0, 0)) return false;
    restart_splitting();
    if (whole) splitter_->flags |= PARSER_FLAG_COMPLETE_FRAMES;
  }
  if (filled && !split(packet.payload, packet.payload_size, pts)) return false;
  if (!(packet.flags & CUVID_PKT_ENDOFSTREAM)) return true;
  if (!split(nullptr, 0, 0) || !end_sequence()) return false;
  restart_splitting();
  if (packet.flags & CUVID_PKT_NOTIFY_EOS && params_.pfnDisplayPicture)
    params_.pfnDisplayPicture(params_.pUserData, nullptr);
  return true;
}

// ---- access units

void Parser::restart_splitting() {
  av_parser_close(splitter_);
  splitter_ = av_parser_init(codec_.id);
}

// Takes the access units that end in this data; size 0 ends the last one.
bool Parser::split(const uint8_t *data, size_t size, int64_t pts) {
  if (sim_idle()) return !size || take_unit_idle(data, size, pts);
  padded_.assign(data, data + size);  // libavcodec reads past the end
  padded_.resize(size + AV_INPUT_BUFFER_PADDING_SIZE);
  const uint8_t *at = padded_.data();
  int left = int(size);
  do {
    uint8_t *unit = nullptr;
    int unit_size = 0;
    int used = av_parser_parse2(splitter_, splitter_context_.get(), &unit, &unit_size, at, left,
                                pts, AV_NOPTS_VALUE, 0);
    if (used < 0) return false;
    pts = AV_NOPTS_VALUE;  // it is the time of the first unit that begins here
    at += used;
    left -= used;
    if (unit_size && !take_unit(unit, unit_size, splitter_->pts)) return false;
    if (!unit_size && !used) break;
  } while (left > 0);
  return true;
}

bool Parser::take_unit(const uint8_t *unit, size_t size, int64_t pts) {
  if (!enter_sequence(unit, size)) return false;
  if (!started_) return true;  // nothing can be decoded yet
  int index = free_surface();
  if (index < 0) {
    sim_count("errors.nvdec_no_free_surface", 1);
    return false;
  }
  surfaces_[index] = {Use::DECODED, pts == AV_NOPTS_VALUE ? 0 : pts};
  return decode(index, unit, size) && show_known();
}

bool Parser::decode(int index, const uint8_t *unit, size_t size) {
  static const uint32_t first_slice = 0;
  CUVIDPICPARAMS picture = {};
  picture.PicWidthInMbs = format_.coded_width / 16;
  picture.FrameHeightInMbs = format_.coded_height / 16;
  picture.CurrPicIdx = index;
  picture.nBitstreamDataLen = uint32_t(size);
  picture.pBitstreamData = unit;
  picture.nNumSlices = 1;
  picture.pSliceDataOffsets = &first_slice;
  picture.ref_pic_flag = 1;
  picture.intra_pic_flag = splitter_->pict_type == AV_PICTURE_TYPE_I;
  if (params_.pfnDecodePicture && !params_.pfnDecodePicture(params_.pUserData, &picture))
    return false;
  decoder_ = last_decoder();
  auto decoder = decoder_.lock();
  if (!sim_idle() && (!decoder || !decoder->made_picture())) surfaces_[index].use = Use::NONE;
  return true;
}

// A surface is free when its picture has been shown, or never will be; -1: none.
int Parser::free_surface() {
  auto decoder = decoder_.lock();
  for (size_t i = 0; i < surfaces_.size(); i++) {
    size_t index = (next_ + i) % surfaces_.size();
    Use use = surfaces_[index].use;
    if (use == Use::READY) continue;
    if (use == Use::DECODED && decoder && !decoder->dropped(int(index))) continue;
    next_ = index + 1;
    return int(index);
  }
  return -1;
}

// ---- sequences

bool Parser::enter_sequence(const uint8_t *unit, size_t size) {
  auto mark = finder_.mark(unit, size, splitter_->width, splitter_->height);
  if (!mark || (started_ && mark->text == sequence_)) return true;
  if (started_ && codec_.reorders && !end_sequence()) return false;
  if (!show_ready(0)) return false;
  if (!describe(unit, size)) {
    // It cannot be decoded on its own: AV1 and VP9 may change the size between key frames.
    if (!started_ || !mark->width) return true;
    set_size(int(mark->width), int(mark->height));
    format_.display_area = {0, 0, int(mark->width), int(mark->height)};
  }
  sequence_ = mark->text;
  return announce();
}

// Learns the format by decoding the unit with a decoder that is thrown away.
bool Parser::describe(const uint8_t *unit, size_t size) {
  Context context = open_decoder(codec_);
  if (!context || avcodec_open2(context.get(), nullptr, nullptr) < 0) return false;
  Frame frame = decode_alone(context.get(), unit, size);
  if (!frame && codec_.id == AV_CODEC_ID_VP9) {
    // The key frame may be a hidden one. It is in every slot, so show that of a slot.
    const uint8_t show_slot_0 = 0x88;
    frame = decode_alone(context.get(), &show_slot_0, 1);
  }
  if (!frame) return false;
  describe(*frame, *context);
  return true;
}

void Parser::describe(const AVFrame &frame, const AVCodecContext &context) {
  format_ = {};
  format_.codec = codec_.type;
  AVRational rate = context.framerate.num ? context.framerate : splitter_context_->framerate;
  if (rate.num > 0 && rate.den > 0) format_.frame_rate = {unsigned(rate.num), unsigned(rate.den)};
  format_.progressive_sequence = !frame.interlaced_frame;
  format_.bit_depth_luma_minus8 = format_.bit_depth_chroma_minus8 = uint8_t(depth_of(frame) - 8);
  format_.chroma_format = chroma_of(frame);
  reordered_ = unsigned(std::max(context.has_b_frames, 0));
  int references = std::max(context.refs, context.has_b_frames);
  format_.min_num_decode_surfaces = uint8_t(std::clamp(references + 4, 8, 32));
  set_size(frame.width, frame.height);
  int left = int(frame.crop_left), top = int(frame.crop_top);
  int right = frame.width - int(frame.crop_right), bottom = frame.height - int(frame.crop_bottom);
  format_.display_area = {left, top, right, bottom};
  AVRational pixel = frame.sample_aspect_ratio;
  if (pixel.num <= 0 || pixel.den <= 0) pixel = {1, 1};
  av_reduce(&format_.display_aspect_ratio.x, &format_.display_aspect_ratio.y,
            int64_t(right - left) * pixel.num, int64_t(bottom - top) * pixel.den, 1 << 16);
  auto &signal = format_.video_signal_description;
  signal.video_format = 5;  // unspecified
  signal.video_full_range_flag = frame.color_range == AVCOL_RANGE_JPEG;
  signal.color_primaries = uint8_t(frame.color_primaries);
  signal.transfer_characteristics = uint8_t(frame.color_trc);
  signal.matrix_coefficients = uint8_t(frame.colorspace);
}

void Parser::set_size(int width, int height) {
  bool small_blocks = codec_.id == AV_CODEC_ID_HEVC || !codec_.reorders;
  int block = small_blocks ? 8 : 16;
  format_.coded_width = unsigned((width + block - 1) / block * block);
  format_.coded_height = unsigned((height + block - 1) / block * block);
}

// Tells the client; its answer says how many surfaces there are, and 1 keeps their number.
bool Parser::announce() {
  CUVIDEOFORMAT format = format_;
  int answer =
      params_.pfnSequenceCallback ? params_.pfnSequenceCallback(params_.pUserData, &format) : 1;
  sim_trace("      sequence %ux%u, depth %d, chroma %u -> %d", format_.coded_width,
            format_.coded_height, format_.bit_depth_luma_minus8 + 8, format_.chroma_format, answer);
  if (answer <= 0) return false;
  size_t count = surfaces_.empty() ? params_.ulMaxNumDecodeSurfaces : surfaces_.size();
  if (answer > 1) count = size_t(answer);
  if (count <= 1) count = format_.min_num_decode_surfaces;
  surfaces_.assign(count, {});
  next_ = 0;
  started_ = true;
  return true;
}

bool Parser::end_sequence() {
  if (sim_idle()) return show_idle(0);
  if (auto decoder = decoder_.lock()) {
    decoder->flush();
    if (!show_known()) return false;
  }
  if (!show_ready(0)) return false;
  for (Surface &surface : surfaces_) surface.use = Use::NONE;
  return true;
}

// ---- display

// How many pictures wait for later ones. Where the end of a unit shows only in the next packet,
// the splitter holds one back already.
size_t Parser::held_back() const {
  bool splits = codec_.reorders && !(splitter_->flags & PARSER_FLAG_COMPLETE_FRAMES);
  size_t delay = params_.ulMaxDisplayDelay;
  return splits && delay ? delay - 1 : delay;
}

bool Parser::show_known() {
  auto decoder = decoder_.lock();
  CUVIDPARSERDISPINFO shown;
  while (decoder && decoder->next_shown(&shown)) {
    Surface &surface = surfaces_[shown.picture_index];
    if (surface.use != Use::DECODED) continue;
    surface.use = Use::READY;
    shown.timestamp = surface.pts;
    ready_.push_back(shown);
  }
  return show_ready(held_back());
}

bool Parser::show_ready(size_t kept) {
  while (ready_.size() > kept) {
    CUVIDPARSERDISPINFO shown = ready_.front();
    ready_.pop_front();
    surfaces_[shown.picture_index].use = Use::NONE;
    if (!show(shown)) return false;
  }
  return true;
}

bool Parser::show(CUVIDPARSERDISPINFO shown) {
  return !params_.pfnDisplayPicture || params_.pfnDisplayPicture(params_.pUserData, &shown);
}

// ---- an idle GPU: every packet is a picture, and nothing but the first is looked into

bool Parser::take_unit_idle(const uint8_t *unit, size_t size, int64_t pts) {
  if (!started_ && !enter_sequence(unit, size)) return false;
  if (!started_) return true;
  next_ %= surfaces_.size();
  if (!decode(int(next_++), unit, size)) return false;
  idle_times_.push(pts == AV_NOPTS_VALUE ? 0 : pts);
  return show_idle(reordered_ + params_.ulMaxDisplayDelay);
}

bool Parser::show_idle(size_t kept) {
  while (idle_times_.size() > kept) {
    CUVIDPARSERDISPINFO shown = {};
    shown.picture_index = idle_shown_;
    shown.progressive_frame = 1;
    shown.timestamp = idle_times_.top();
    idle_times_.pop();
    idle_shown_ = (idle_shown_ + 1) % int(surfaces_.size());
    if (!show(shown)) return false;
  }
  return true;
}
