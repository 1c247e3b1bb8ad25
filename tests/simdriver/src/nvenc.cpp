// The entry points of libnvidia-encode.so.1, a simulated NVENC on libavcodec. It is that of an
// L40S. Settings make it another: VIDAI_SIM_NO_NVENC=1, as on an A100 or H100;
// VIDAI_SIM_NVENC_SESSIONS, how many there can be at a time, and VIDAI_SIM_NVENC_LIMIT_CODE, the
// error that one more ends with. VIDAI_SIM_KEEP_INPUT=1 fills sim_nvenc_inputs.
#include "nvenc_session.h"
#include "sim.h"

#include <algorithm>

namespace {

constexpr int USUAL_SESSIONS = 64;

class Sessions {
 public:
  // Null: there are as many as the GPU allows.
  void *add() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (int(all_.size()) >= sim_setting("NVENC_SESSIONS", USUAL_SESSIONS)) return nullptr;
    auto session = std::make_shared<Session>();
    void *handle = session.get();
    all_[handle] = std::move(session);
    return handle;
  }
  std::shared_ptr<Session> find(void *handle) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = all_.find(handle);
    return found == all_.end() ? nullptr : found->second;
  }
  void remove(void *handle) {
    std::lock_guard<std::mutex> lock(mutex_);
    all_.erase(handle);
  }

 private:
  std::mutex mutex_;
  std::map<void *, std::shared_ptr<Session>> all_;
};

Sessions &sessions() {
  static auto *all = new Sessions;  // never destroyed: threads may outlive the exit
  return *all;
}

// A call on a session: counts it, ends it with the error that a test wants, or does the work.
template <typename Work>
NVENCSTATUS call(const char *function, void *handle, Work work) {
  int wanted = sim_enter(function);
  std::shared_ptr<Session> session = sessions().find(handle);
  if (!session) return wanted ? NVENCSTATUS(wanted) : NV_ENC_ERR_INVALID_PTR;
  std::lock_guard<std::mutex> lock(session->mutex);
  if (wanted) return session->fail(NVENCSTATUS(wanted), std::string("injected in ") + function);
  return work(*session);
}

// The same with a struct, which must be of the version that this driver knows.
template <typename Struct, typename Work>
NVENCSTATUS call(const char *function, void *handle, Struct *params, uint32_t version, Work work) {
  return call(function, handle, [&](Session &session) {
    if (!params) return session.fail(NV_ENC_ERR_INVALID_PTR, "null pointer");
    if (params->version != version)
      return session.fail(NV_ENC_ERR_INVALID_VERSION, std::string("version in ") + function);
    return work(session);
  });
}

// Answers a query for a list with as many items as there is room for.
template <typename Item>
NVENCSTATUS list(const Item *items, uint32_t count, Item *to, uint32_t room, uint32_t *given) {
  *given = std::min(count, room);
  std::copy_n(items, *given, to);
  return NV_ENC_SUCCESS;
}

const GUID PRESETS[] = {NV_ENC_PRESET_P1_GUID, NV_ENC_PRESET_P2_GUID, NV_ENC_PRESET_P3_GUID,
                        NV_ENC_PRESET_P4_GUID, NV_ENC_PRESET_P5_GUID, NV_ENC_PRESET_P6_GUID,
                        NV_ENC_PRESET_P7_GUID};
const NV_ENC_BUFFER_FORMAT FORMATS[] = {NV_ENC_BUFFER_FORMAT_NV12, NV_ENC_BUFFER_FORMAT_YV12,
                                        NV_ENC_BUFFER_FORMAT_IYUV,
                                        NV_ENC_BUFFER_FORMAT_YUV420_10BIT};

uint32_t format_count(const GUID &codec) {
  const EncodeCodec *found = find_encode_codec(codec);
  return !found ? 0 : found->ten_bit ? 4 : 3;
}

// ---- sessions

NVENCSTATUS nvEncOpenEncodeSessionEx(NV_ENC_OPEN_ENCODE_SESSIONEX_PARAMS *params, void **handle) {
  if (int error = sim_enter(__func__)) return NVENCSTATUS(error);
  *handle = nullptr;
  if (params->version != NV_ENC_OPEN_ENCODE_SESSION_EX_PARAMS_VER ||
      params->apiVersion != NVENCAPI_VERSION)
    return NV_ENC_ERR_INVALID_VERSION;
  if (sim_setting("NO_NVENC", 0)) return NV_ENC_ERR_UNSUPPORTED_DEVICE;
  if (params->deviceType != NV_ENC_DEVICE_TYPE_CUDA || !params->device)
    return NV_ENC_ERR_INVALID_DEVICE;
  *handle = sessions().add();
  if (!*handle) return NVENCSTATUS(sim_setting("NVENC_LIMIT_CODE", NV_ENC_ERR_OUT_OF_MEMORY));
  return NV_ENC_SUCCESS;
}

NVENCSTATUS nvEncDestroyEncoder(void *handle) {
  NVENCSTATUS error = call(__func__, handle, [](Session &) { return NV_ENC_SUCCESS; });
  if (!error) sessions().remove(handle);
  return error;
}

NVENCSTATUS nvEncInitializeEncoder(void *handle, NV_ENC_INITIALIZE_PARAMS *params) {
  return call(__func__, handle, params, NV_ENC_INITIALIZE_PARAMS_VER,
              [&](Session &session) { return session.initialize(*params); });
}

NVENCSTATUS nvEncReconfigureEncoder(void *handle, NV_ENC_RECONFIGURE_PARAMS *params) {
  return call(__func__, handle, params, NV_ENC_RECONFIGURE_PARAMS_VER,
              [&](Session &session) { return session.reconfigure(*params); });
}

NVENCSTATUS nvEncSetIOCudaStreams(void *handle, void **input, void **) {
  return call(__func__, handle, [&](Session &session) {
    return input ? session.set_input_stream(*input) : NV_ENC_SUCCESS;
  });
}

NVENCSTATUS nvEncGetSequenceParams(void *handle, NV_ENC_SEQUENCE_PARAM_PAYLOAD *params) {
  return call(__func__, handle, params, NV_ENC_SEQUENCE_PARAM_PAYLOAD_VER,
              [&](Session &session) { return session.sequence_params(params); });
}

const char *nvEncGetLastErrorString(void *handle) {
  sim_enter(__func__);
  std::shared_ptr<Session> session = sessions().find(handle);
  return session ? session->last_error().c_str() : "";
}

// ---- what can be encoded

NVENCSTATUS nvEncGetEncodeGUIDCount(void *handle, uint32_t *given) {
  return call(__func__, handle, [&](Session &) {
    int count = 0;
    encode_codecs(&count);
    *given = uint32_t(count);
    return NV_ENC_SUCCESS;
  });
}

NVENCSTATUS nvEncGetEncodeGUIDs(void *handle, GUID *to, uint32_t room, uint32_t *given) {
  return call(__func__, handle, [&](Session &) {
    int count = 0;
    const EncodeCodec *codecs = encode_codecs(&count);
    *given = std::min(uint32_t(count), room);
    for (uint32_t i = 0; i < *given; i++) to[i] = codecs[i].guid;
    return NV_ENC_SUCCESS;
  });
}

NVENCSTATUS nvEncGetEncodeProfileGUIDCount(void *handle, GUID, uint32_t *given) {
  return call(__func__, handle, [&](Session &) {
    *given = 1;
    return NV_ENC_SUCCESS;
  });
}

NVENCSTATUS nvEncGetEncodeProfileGUIDs(void *handle, GUID, GUID *to, uint32_t room,
                                       uint32_t *given) {
  return call(__func__, handle, [&](Session &) {
    return list(&NV_ENC_CODEC_PROFILE_AUTOSELECT_GUID, 1, to, room, given);
  });
}

NVENCSTATUS nvEncGetInputFormatCount(void *handle, GUID codec, uint32_t *given) {
  return call(__func__, handle, [&](Session &) {
    *given = format_count(codec);
    return NV_ENC_SUCCESS;
  });
}

NVENCSTATUS nvEncGetInputFormats(void *handle, GUID codec, NV_ENC_BUFFER_FORMAT *to, uint32_t room,
                                 uint32_t *given) {
  return call(__func__, handle,
              [&](Session &) { return list(FORMATS, format_count(codec), to, room, given); });
}

NVENCSTATUS nvEncGetEncodeCaps(void *handle, GUID codec, NV_ENC_CAPS_PARAM *params, int *value) {
  return call(__func__, handle, params, NV_ENC_CAPS_PARAM_VER, [&](Session &session) {
    const EncodeCodec *found = find_encode_codec(codec);
    if (!found) return session.fail(NV_ENC_ERR_UNSUPPORTED_PARAM, "codec");
    *value = encode_cap(*found, params->capsToQuery);
    return NV_ENC_SUCCESS;
  });
}

NVENCSTATUS nvEncGetEncodePresetCount(void *handle, GUID, uint32_t *given) {
  return call(__func__, handle, [&](Session &) {
    *given = uint32_t(std::size(PRESETS));
    return NV_ENC_SUCCESS;
  });
}

NVENCSTATUS nvEncGetEncodePresetGUIDs(void *handle, GUID, GUID *to, uint32_t room,
                                      uint32_t *given) {
  return call(__func__, handle, [&](Session &) {
    return list(PRESETS, uint32_t(std::size(PRESETS)), to, room, given);
  });
}

NVENCSTATUS nvEncGetEncodePresetConfigEx(void *handle, GUID codec, GUID, uint32_t tuning,
                                         NV_ENC_PRESET_CONFIG *params) {
  return call(__func__, handle, params, NV_ENC_PRESET_CONFIG_VER, [&](Session &session) {
    const EncodeCodec *found = find_encode_codec(codec);
    if (!found) return session.fail(NV_ENC_ERR_UNSUPPORTED_PARAM, "codec");
    if (params->presetCfg.version != NV_ENC_CONFIG_VER)
      return session.fail(NV_ENC_ERR_INVALID_VERSION, "version of NV_ENC_CONFIG");
    fill_preset(*found, tuning, &params->presetCfg);
    return NV_ENC_SUCCESS;
  });
}

NVENCSTATUS nvEncGetEncodePresetConfig(void *handle, GUID codec, GUID preset,
                                       NV_ENC_PRESET_CONFIG *params) {
  return nvEncGetEncodePresetConfigEx(handle, codec, preset, NV_ENC_TUNING_INFO_HIGH_QUALITY,
                                      params);
}

// ---- surfaces, output buffers, pictures

NVENCSTATUS nvEncRegisterResource(void *handle, NV_ENC_REGISTER_RESOURCE *params) {
  return call(__func__, handle, params, NV_ENC_REGISTER_RESOURCE_VER,
              [&](Session &session) { return session.register_surface(params); });
}

NVENCSTATUS nvEncUnregisterResource(void *handle, void *surface) {
  return call(__func__, handle,
              [&](Session &session) { return session.unregister_surface(surface); });
}

NVENCSTATUS nvEncMapInputResource(void *handle, NV_ENC_MAP_INPUT_RESOURCE *params) {
  return call(__func__, handle, params, NV_ENC_MAP_INPUT_RESOURCE_VER,
              [&](Session &session) { return session.map_surface(params); });
}

NVENCSTATUS nvEncUnmapInputResource(void *handle, void *surface) {
  return call(__func__, handle, [&](Session &session) { return session.unmap_surface(surface); });
}

NVENCSTATUS nvEncCreateBitstreamBuffer(void *handle, NV_ENC_CREATE_BITSTREAM_BUFFER *params) {
  return call(__func__, handle, params, NV_ENC_CREATE_BITSTREAM_BUFFER_VER,
              [&](Session &session) { return session.create_output(params); });
}

NVENCSTATUS nvEncDestroyBitstreamBuffer(void *handle, void *output) {
  return call(__func__, handle, [&](Session &session) { return session.destroy_output(output); });
}

NVENCSTATUS nvEncEncodePicture(void *handle, NV_ENC_PIC_PARAMS *params) {
  return call(__func__, handle, params, NV_ENC_PIC_PARAMS_VER,
              [&](Session &session) { return session.encode(*params); });
}

NVENCSTATUS nvEncLockBitstream(void *handle, NV_ENC_LOCK_BITSTREAM *params) {
  return call(__func__, handle, params, NV_ENC_LOCK_BITSTREAM_VER,
              [&](Session &session) { return session.lock_output(params); });
}

NVENCSTATUS nvEncUnlockBitstream(void *handle, void *output) {
  return call(__func__, handle, [&](Session &session) { return session.unlock_output(output); });
}

// Every entry that is not simulated, whatever its arguments.
NVENCSTATUS unimplemented() {
  sim_count("errors.nvenc_unimplemented", 1);
  return NV_ENC_ERR_UNIMPLEMENTED;
}

}  // namespace

SIM_API NVENCSTATUS NvEncodeAPIGetMaxSupportedVersion(uint32_t *version) {
  if (int error = sim_enter(__func__)) return NVENCSTATUS(error);
  constexpr uint32_t MAJOR = 13, MINOR = 0;
  *version = MAJOR << 4 | MINOR;
  return NV_ENC_SUCCESS;
}

SIM_API NVENCSTATUS NvEncodeAPICreateInstance(NV_ENCODE_API_FUNCTION_LIST *functions) {
  if (int error = sim_enter(__func__)) return NVENCSTATUS(error);
  if (functions->version != NV_ENCODE_API_FUNCTION_LIST_VER) return NV_ENC_ERR_INVALID_VERSION;
  for (Function *entry = &functions->nvEncOpenEncodeSession;
       entry <= &functions->nvEncLookaheadPicture; entry++)
    *entry = reinterpret_cast<Function>(unimplemented);
#define ENTRY(name) functions->name = reinterpret_cast<Function>(name)
  ENTRY(nvEncOpenEncodeSessionEx);
  ENTRY(nvEncDestroyEncoder);
  ENTRY(nvEncInitializeEncoder);
  ENTRY(nvEncReconfigureEncoder);
  ENTRY(nvEncSetIOCudaStreams);
  ENTRY(nvEncGetSequenceParams);
  ENTRY(nvEncGetLastErrorString);
  ENTRY(nvEncGetEncodeGUIDCount);
  ENTRY(nvEncGetEncodeGUIDs);
  ENTRY(nvEncGetEncodeProfileGUIDCount);
  ENTRY(nvEncGetEncodeProfileGUIDs);
  ENTRY(nvEncGetInputFormatCount);
  ENTRY(nvEncGetInputFormats);
  ENTRY(nvEncGetEncodeCaps);
  ENTRY(nvEncGetEncodePresetCount);
  ENTRY(nvEncGetEncodePresetGUIDs);
  ENTRY(nvEncGetEncodePresetConfig);
  ENTRY(nvEncGetEncodePresetConfigEx);
  ENTRY(nvEncRegisterResource);
  ENTRY(nvEncUnregisterResource);
  ENTRY(nvEncMapInputResource);
  ENTRY(nvEncUnmapInputResource);
  ENTRY(nvEncCreateBitstreamBuffer);
  ENTRY(nvEncDestroyBitstreamBuffer);
  ENTRY(nvEncEncodePicture);
  ENTRY(nvEncLockBitstream);
  ENTRY(nvEncUnlockBitstream);
#undef ENTRY
  return NV_ENC_SUCCESS;
}
