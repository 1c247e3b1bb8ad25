#include "cuvid_decoder.h"

#include "cuvid_picture.h"
#include "sim.h"

#include <string.h>

namespace {

constexpr int POISON = 0xEE;  // what an unmapped surface is overwritten with

thread_local std::weak_ptr<Decoder> decoded_here;

// Work of the video engine in a stream: a picture comes into its surface.
struct Filling {
  std::shared_ptr<OutputSurface> surface;
  CUVIDDECODECREATEINFO info;
  Frame picture;

  static void run(void *argument) {
    std::unique_ptr<Filling> self(static_cast<Filling *>(argument));
    auto *memory = static_cast<uint8_t *>(sim_host(self->surface->address));
    write_surface(memory, self->info, self->picture.get());
  }
};

// What follows an unmapping: whoever still reads the surface sees it.
struct Poisoning {
  std::shared_ptr<OutputSurface> surface;

  static void run(void *argument) {
    std::unique_ptr<Poisoning> self(static_cast<Poisoning *>(argument));
    memset(sim_host(self->surface->address), POISON, self->surface->bytes);
  }
};

}  // namespace

std::shared_ptr<Decoder> last_decoder() { return decoded_here.lock(); }

OutputSurface::~OutputSurface() { sim_free(address); }

// ---- sessions

CUresult Decoder::create(const CUVIDDECODECREATEINFO &info, std::shared_ptr<Decoder> *made) {
  const Codec *codec = find_codec(info.CodecType);
  if (!codec || !codec->decodes(info.ChromaFormat, info.bitDepthMinus8 + 8))
    return CUDA_ERROR_NOT_SUPPORTED;
  if (info.ulWidth > codec->max_size || info.ulHeight > codec->max_size)
    return CUDA_ERROR_NOT_SUPPORTED;
  if (info.OutputFormat > cudaVideoSurfaceFormat_YUV444_16Bit ||
      is_planar(info.OutputFormat) != (info.ChromaFormat == cudaVideoChromaFormat_444))
    return CUDA_ERROR_NOT_SUPPORTED;
  if ((info.ulTargetWidth | info.ulTargetHeight) & 1 || !info.ulNumDecodeSurfaces ||
      info.display_area.left < 0 || info.display_area.top < 0)
    return CUDA_ERROR_INVALID_VALUE;
  std::shared_ptr<Decoder> decoder(new Decoder(*codec, info));
  decoder->context_ = open_decoder(*codec);
  if (!decoder->context_) return CUDA_ERROR_NOT_SUPPORTED;
  decoder->context_->opaque = decoder.get();
  if (codec->reorders) decoder->context_->get_buffer2 = allocate_picture;
  if (avcodec_open2(decoder->context_.get(), nullptr, nullptr) < 0) return CUDA_ERROR_NOT_SUPPORTED;
  if (CUresult error = decoder->allocate()) return error;
  *made = decoder;
  return CUDA_SUCCESS;
}

Decoder::~Decoder() { release(); }

CUresult Decoder::allocate() {
  if (is_scaled(info_)) sim_count("nvdec.not_scaled", 1);
  size_t bytes = info_.ulWidth * info_.ulHeight * sample_bytes(info_.OutputFormat);
  bytes = is_planar(info_.OutputFormat) ? bytes * 3 : bytes * 3 / 2;
  decode_surfaces_ = sim_allocate(bytes * info_.ulNumDecodeSurfaces, "nvdec surfaces");
  if (!decode_surfaces_) return CUDA_ERROR_OUT_OF_MEMORY;
  for (unsigned long i = 0; i < info_.ulNumOutputSurfaces; i++) {
    uint64_t address = sim_allocate(surface_bytes(info_), "nvdec output");
    if (!address) return CUDA_ERROR_OUT_OF_MEMORY;
    free_.push_back(std::make_shared<OutputSurface>(address, surface_bytes(info_)));
    if (sim_idle()) write_surface(static_cast<uint8_t *>(sim_host(address)), info_, nullptr);
  }
  shown_.clear();
  pictures_.clear();
  pictures_.resize(info_.ulNumDecodeSurfaces);
  return CUDA_SUCCESS;
}

void Decoder::release() {
  free_.clear();
  if (decode_surfaces_) sim_free(decode_surfaces_);
  decode_surfaces_ = 0;
}

CUresult Decoder::reconfigure(const CUVIDRECONFIGUREDECODERINFO &to) {
  std::lock_guard<std::mutex> lock(mutex_);
  unsigned long max_width = info_.ulMaxWidth ? info_.ulMaxWidth : info_.ulWidth;
  unsigned long max_height = info_.ulMaxHeight ? info_.ulMaxHeight : info_.ulHeight;
  if (to.ulWidth > max_width || to.ulHeight > max_height) return CUDA_ERROR_INVALID_VALUE;
  if ((to.ulTargetWidth | to.ulTargetHeight) & 1 || !to.ulNumDecodeSurfaces ||
      to.display_area.left < 0 || to.display_area.top < 0 || !mapped_.empty())
    return CUDA_ERROR_INVALID_VALUE;
  release();
  info_.ulMaxWidth = max_width;
  info_.ulMaxHeight = max_height;
  info_.ulWidth = to.ulWidth;
  info_.ulHeight = to.ulHeight;
  info_.ulTargetWidth = to.ulTargetWidth;
  info_.ulTargetHeight = to.ulTargetHeight;
  info_.ulNumDecodeSurfaces = to.ulNumDecodeSurfaces;
  info_.display_area = to.display_area;
  info_.target_rect = to.target_rect;
  return allocate();
}

// ---- decoding

CUresult Decoder::decode(const CUVIDPICPARAMS &picture) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (picture.CurrPicIdx < 0 || size_t(picture.CurrPicIdx) >= pictures_.size())
    return CUDA_ERROR_INVALID_VALUE;
  decoded_here = weak_from_this();
  current_ = picture.CurrPicIdx;
  made_picture_ = false;
  pictures_[current_] = Picture();
  pictures_[current_].status = cuvidDecodeStatus_Success;
  if (!sim_idle()) run(picture.pBitstreamData, picture.nBitstreamDataLen);
  return CUDA_SUCCESS;
}

void Decoder::run(const uint8_t *data, size_t size) {
  Packet packet(av_packet_alloc());
  int error = av_new_packet(packet.get(), int(size));  // libavcodec reads past the end: a copy
  if (!error) {
    memcpy(packet->data, data, size);
    error = avcodec_send_packet(context_.get(), packet.get());
  }
  int late_error = receive();
  if (error < 0 || late_error < 0) pictures_[current_].status = cuvidDecodeStatus_Error;
}

// Takes what libavcodec has put in display order; returns the last error on the way.
int Decoder::receive() {
  Frame frame(av_frame_alloc());
  int error = 0;
  for (int errors = 0; errors < 8;) {  // one packet can hold several frames that fail
    int result = avcodec_receive_frame(context_.get(), frame.get());
    if (result == AVERROR(EAGAIN) || result == AVERROR_EOF) break;
    if (result < 0) {
      error = result;
      errors++;
      continue;
    }
    take_output(*frame);
    av_frame_unref(frame.get());
  }
  return error;
}

void Decoder::take_output(const AVFrame &frame) {
  int index = current_;
  if (codec_.reorders) {
    index = int(intptr_t(frame.opaque)) - 1;  // see allocate_picture
  } else {
    pictures_[index].frame.reset(av_frame_clone(&frame));
    if (made_picture_) return;  // a packet that shows two: the later one counts
    made_picture_ = true;
  }
  if (index < 0 || size_t(index) >= pictures_.size()) return;
  Picture &picture = pictures_[index];
  if (!picture.frame || picture.frame->data[0] != frame.data[0]) return;  // made up for a lost one
  picture.interlaced = frame.interlaced_frame;
  picture.top_field_first = frame.top_field_first;
  if (frame.decode_error_flags) picture.status = cuvidDecodeStatus_Error;
  shown_.push_back(index);
}

// libavcodec hands pictures out in display order, and late. NVDEC's surface must be complete when
// the picture has been decoded: it is caught here, where its memory is allocated.
int Decoder::allocate_picture(AVCodecContext *context, AVFrame *frame, int flags) {
  int error = avcodec_default_get_buffer2(context, frame, flags);
  if (error < 0) return error;
  auto *self = static_cast<Decoder *>(context->opaque);
  frame->opaque = reinterpret_cast<void *>(intptr_t(self->current_ + 1));
  self->pictures_[self->current_].frame.reset(av_frame_clone(frame));
  self->made_picture_ = true;
  return 0;
}

uint32_t Decoder::status(int index) {
  std::lock_guard<std::mutex> lock(mutex_);
  bool known = index >= 0 && size_t(index) < pictures_.size();
  return known ? pictures_[index].status : uint32_t(cuvidDecodeStatus_Invalid);
}

// ---- mapping, in the order of the client's stream: it unmaps before its own copy has run

CUresult Decoder::map(int index, CUstream stream, uint64_t *address, unsigned *pitch) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (index < 0 || size_t(index) >= pictures_.size() ||
      pictures_[index].status == cuvidDecodeStatus_Invalid)
    return CUDA_ERROR_INVALID_VALUE;
  if (free_.empty()) return CUDA_ERROR_MAP_FAILED;
  const AVFrame *picture = pictures_[index].frame.get();
  if (picture && !fits(*picture)) return CUDA_ERROR_NOT_SUPPORTED;
  Surface surface = free_.back();
  free_.pop_back();
  mapped_[surface->address] = {surface, stream};
  *address = surface->address;
  *pitch = surface_pitch(info_);
  if (sim_idle()) return CUDA_SUCCESS;
  Frame kept(picture ? av_frame_clone(picture) : nullptr);
  sim_submit(stream, Filling::run, new Filling{surface, info_, std::move(kept)});
  return CUDA_SUCCESS;
}

CUresult Decoder::unmap(uint64_t address) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = mapped_.find(address);
  if (found == mapped_.end()) return CUDA_ERROR_INVALID_VALUE;
  Mapped mapped = found->second;
  mapped_.erase(found);
  free_.push_back(mapped.surface);
  if (!sim_idle()) sim_submit(mapped.stream, Poisoning::run, new Poisoning{mapped.surface});
  return CUDA_SUCCESS;
}

// Damage can turn a picture into one that the surfaces were not made for.
bool Decoder::fits(const AVFrame &picture) const {
  uint32_t chroma =
      is_planar(info_.OutputFormat) ? cudaVideoChromaFormat_444 : cudaVideoChromaFormat_420;
  size_t bytes = depth_of(picture) > 8 ? 2 : 1;
  return chroma_of(picture) == chroma && bytes == sample_bytes(info_.OutputFormat);
}

// ---- for the parser

bool Decoder::made_picture() {
  std::lock_guard<std::mutex> lock(mutex_);
  return made_picture_;
}

bool Decoder::next_shown(CUVIDPARSERDISPINFO *shown) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (shown_.empty()) return false;
  const Picture &picture = pictures_[shown_.front()];
  *shown = {};
  shown->picture_index = shown_.front();
  shown->progressive_frame = !picture.interlaced;
  shown->top_field_first = picture.top_field_first;
  shown_.pop_front();
  return true;
}

void Decoder::flush() {
  std::lock_guard<std::mutex> lock(mutex_);
  avcodec_send_packet(context_.get(), nullptr);
  receive();
  avcodec_flush_buffers(context_.get());
}

bool Decoder::dropped(int index) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (index < 0 || size_t(index) >= pictures_.size()) return true;
  const AVFrame *frame = pictures_[index].frame.get();
  return !frame || av_buffer_get_ref_count(frame->buf[0]) == 1;  // ours is the last
}
