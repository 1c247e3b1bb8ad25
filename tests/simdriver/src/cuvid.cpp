// The entry points of libnvcuvid.so.1, a simulated NVDEC on libavcodec. It is that of an L40S; the
// setting VIDAI_SIM_NO_AV1=1 takes AV1 away. VIDAI_SIM_AVLOG is the level of libavcodec's log.
//
// A test that wants a picture's decode status to be another one injects a fault in
// "cuvidGetDecodeStatus.status", with the status as its code.
#include "cuvid_parser.h"
#include "sim.h"

#include <wchar.h>

extern "C" CUresult cuCtxGetCurrent(CUcontext *context);
extern "C" CUresult cuCtxPushCurrent_v2(CUcontext context);
extern "C" CUresult cuCtxPopCurrent_v2(CUcontext *context);

namespace {

constexpr int NVDEC_ENGINES = 3;

// What every entry point does first: the error that a test wants, or 0.
#define ENTER() \
  if (int error = sim_enter(__func__)) return CUresult(error)

class Sessions {
 public:
  void *add(std::shared_ptr<Decoder> decoder) {
    std::lock_guard<std::mutex> lock(mutex_);
    void *handle = decoder.get();
    decoders_[handle] = std::move(decoder);
    return handle;
  }
  std::shared_ptr<Decoder> find(void *handle) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = decoders_.find(handle);
    return found == decoders_.end() ? nullptr : found->second;
  }
  bool remove(void *handle) {
    std::shared_ptr<Decoder> last;  // dies outside the lock
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = decoders_.find(handle);
    if (found == decoders_.end()) return false;
    last = std::move(found->second);
    decoders_.erase(found);
    return true;
  }

 private:
  std::mutex mutex_;
  std::map<void *, std::shared_ptr<Decoder>> decoders_;
};

Sessions &sessions() {
  static auto *all = new Sessions;  // never destroyed: threads may outlive the exit
  return *all;
}

bool has_context() {
  CUcontext context = nullptr;
  return cuCtxGetCurrent(&context) == CUDA_SUCCESS && context;
}

struct ContextLock {
  std::recursive_mutex mutex;
  CUcontext context;
};

}  // namespace

// ---- capabilities

SIM_API CUresult cuvidGetDecoderCaps(CUVIDDECODECAPS *caps) {
  ENTER();
  if (!has_context()) return CUDA_ERROR_INVALID_CONTEXT;
  const Codec *codec = find_codec(caps->eCodecType);
  bool wide = caps->nBitDepthMinus8 > 0, yuv444 = caps->eChromaFormat == cudaVideoChromaFormat_444;
  caps->bIsSupported = codec && codec->decodes(caps->eChromaFormat, caps->nBitDepthMinus8 + 8);
  if (!caps->bIsSupported) codec = nullptr;
  caps->nNumNVDECs = codec ? NVDEC_ENGINES : 0;
  caps->nMinWidth = codec ? codec->min_width : 0;
  caps->nMinHeight = codec ? codec->min_height : 0;
  caps->nMaxWidth = caps->nMaxHeight = codec ? codec->max_size : 0;
  caps->nMaxMBCount = caps->nMaxWidth / 16 * (caps->nMaxHeight / 16);
  int narrow = yuv444 ? cudaVideoSurfaceFormat_YUV444 : cudaVideoSurfaceFormat_NV12;
  caps->nOutputFormatMask = codec ? uint16_t((1 | wide << 1) << narrow) : 0;
  return CUDA_SUCCESS;
}

// ---- decoder

SIM_API CUresult cuvidCreateDecoder(void **handle, CUVIDDECODECREATEINFO *info) {
  ENTER();
  if (!info->vidLock && !has_context()) return CUDA_ERROR_INVALID_CONTEXT;
  std::shared_ptr<Decoder> decoder;
  if (CUresult error = Decoder::create(*info, &decoder)) return error;
  *handle = sessions().add(std::move(decoder));
  sim_count("nvdec.sessions", 1);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuvidDestroyDecoder(void *handle) {
  ENTER();
  if (!sessions().remove(handle)) return CUDA_ERROR_INVALID_HANDLE;
  sim_count("nvdec.sessions", -1);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuvidReconfigureDecoder(void *handle, CUVIDRECONFIGUREDECODERINFO *info) {
  ENTER();
  auto decoder = sessions().find(handle);
  return decoder ? decoder->reconfigure(*info) : CUDA_ERROR_INVALID_HANDLE;
}

SIM_API CUresult cuvidDecodePicture(void *handle, CUVIDPICPARAMS *picture) {
  ENTER();
  auto decoder = sessions().find(handle);
  if (!decoder) return CUDA_ERROR_INVALID_HANDLE;
  if (CUresult error = decoder->decode(*picture)) return error;
  sim_count("nvdec.pictures", 1);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuvidGetDecodeStatus(void *handle, int index, CUVIDGETDECODESTATUS *status) {
  ENTER();
  auto decoder = sessions().find(handle);
  if (!decoder) return CUDA_ERROR_INVALID_HANDLE;
  int wanted = sim_enter("cuvidGetDecodeStatus.status");
  status->decodeStatus = wanted ? uint32_t(wanted) : decoder->status(index);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuvidMapVideoFrame64(void *handle, int index, unsigned long long *address,
                                      unsigned *pitch, CUVIDPROCPARAMS *how) {
  ENTER();
  auto decoder = sessions().find(handle);
  if (!decoder) return CUDA_ERROR_INVALID_HANDLE;
  if (!has_context()) return CUDA_ERROR_INVALID_CONTEXT;
  uint64_t mapped = 0;
  if (CUresult error = decoder->map(index, how->output_stream, &mapped, pitch)) return error;
  *address = mapped;
  sim_count("nvdec.maps", 1);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuvidUnmapVideoFrame64(void *handle, unsigned long long address) {
  ENTER();
  auto decoder = sessions().find(handle);
  if (!decoder) return CUDA_ERROR_INVALID_HANDLE;
  if (CUresult error = decoder->unmap(address)) return error;
  sim_count("nvdec.unmaps", 1);
  return CUDA_SUCCESS;
}

// ---- parser

SIM_API CUresult cuvidCreateVideoParser(void **handle, CUVIDPARSERPARAMS *params) {
  ENTER();
  std::unique_ptr<Parser> parser;
  if (CUresult error = Parser::create(*params, &parser)) return error;
  *handle = parser.release();
  return CUDA_SUCCESS;
}

SIM_API CUresult cuvidDestroyVideoParser(void *handle) {
  ENTER();
  delete static_cast<Parser *>(handle);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuvidParseVideoData(void *handle, CUVIDSOURCEDATAPACKET *packet) {
  ENTER();
  return static_cast<Parser *>(handle)->parse(*packet) ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN;
}

// ---- context lock

SIM_API CUresult cuvidCtxLockCreate(void **handle, CUcontext context) {
  ENTER();
  auto *lock = new ContextLock;
  lock->context = context;
  *handle = lock;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuvidCtxLockDestroy(void *handle) {
  ENTER();
  delete static_cast<ContextLock *>(handle);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuvidCtxLock(void *handle, unsigned) {
  ENTER();
  auto *lock = static_cast<ContextLock *>(handle);
  lock->mutex.lock();
  return cuCtxPushCurrent_v2(lock->context);
}

SIM_API CUresult cuvidCtxUnlock(void *handle, unsigned) {
  ENTER();
  CUcontext context = nullptr;
  CUresult error = cuCtxPopCurrent_v2(&context);
  static_cast<ContextLock *>(handle)->mutex.unlock();
  return error;
}

// ---- what clients look up and nobody here calls

#define UNSUPPORTED(name, ...)         \
  SIM_API CUresult name(__VA_ARGS__) { \
    ENTER();                           \
    return CUDA_ERROR_NOT_SUPPORTED;   \
  }

UNSUPPORTED(cuvidMapVideoFrame, void *, int, unsigned *, unsigned *, void *)
UNSUPPORTED(cuvidUnmapVideoFrame, void *, unsigned)
UNSUPPORTED(cuvidCreateVideoSource, void **, const char *, void *)
UNSUPPORTED(cuvidCreateVideoSourceW, void **, const wchar_t *, void *)
UNSUPPORTED(cuvidDestroyVideoSource, void *)
UNSUPPORTED(cuvidSetVideoSourceState, void *, int)
UNSUPPORTED(cuvidGetVideoSourceState, void *)
UNSUPPORTED(cuvidGetSourceVideoFormat, void *, void *, unsigned)
UNSUPPORTED(cuvidGetSourceAudioFormat, void *, void *, unsigned)
