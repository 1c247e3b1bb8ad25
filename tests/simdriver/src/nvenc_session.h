// One NVENC session. Its promises: packets come in coding order, each in an output buffer, and
// the buffers are filled in the order in which they were handed in.
#pragma once
#include "nvenc_input.h"
#include "nvenc_software.h"

#include <deque>
#include <map>
#include <mutex>
#include <set>

class Session {
 public:
  Session();
  ~Session();

  std::mutex mutex;  // held by the entry point during a call

  NVENCSTATUS fail(NVENCSTATUS error, const std::string &why);
  const std::string &last_error() const { return last_error_; }

  NVENCSTATUS initialize(const NV_ENC_INITIALIZE_PARAMS &params);
  NVENCSTATUS reconfigure(const NV_ENC_RECONFIGURE_PARAMS &params);
  NVENCSTATUS set_input_stream(void *stream);
  NVENCSTATUS sequence_params(NV_ENC_SEQUENCE_PARAM_PAYLOAD *params);

  NVENCSTATUS register_surface(NV_ENC_REGISTER_RESOURCE *params);
  NVENCSTATUS unregister_surface(void *handle);
  NVENCSTATUS map_surface(NV_ENC_MAP_INPUT_RESOURCE *params);
  NVENCSTATUS unmap_surface(void *handle);

  NVENCSTATUS create_output(NV_ENC_CREATE_BITSTREAM_BUFFER *params);
  NVENCSTATUS destroy_output(void *handle);
  NVENCSTATUS lock_output(NV_ENC_LOCK_BITSTREAM *params);
  NVENCSTATUS unlock_output(void *handle);

  NVENCSTATUS encode(const NV_ENC_PIC_PARAMS &params);

 private:
  using Bytes = std::shared_ptr<const std::string>;
  struct Input {  // what a packet takes over from its picture
    uint64_t time = 0, duration = 0;
    uint32_t frame = 0;
    bool wants_headers = false;
  };
  struct Output {
    Bytes bytes;
    Input input;
    NV_ENC_PIC_TYPE type = NV_ENC_PIC_TYPE_P;
    bool ready = false, locked = false;
  };
  struct Surface {
    NV_ENC_REGISTER_RESOURCE registered;
    int maps = 0;
  };

  Surface *find_surface(void *handle);
  Output *find_output(void *handle);
  NVENCSTATUS open(uint32_t format);
  NVENCSTATUS encode_surface(const Surface &surface, const NV_ENC_PIC_PARAMS &params);
  std::string first_key_frame(bool ten_bit);
  void finish();
  void collect();
  void fill(Output &output, const AVPacket &packet);
  bool repeats_headers() const;

  std::string last_error_;
  const EncodeCodec *codec_ = nullptr;  // null: not initialised
  NV_ENC_INITIALIZE_PARAMS params_ = {};
  NV_ENC_CONFIG config_ = {};
  int number_ = 0;              // among those that were initialised
  uint64_t device_memory_ = 0;  // what NVENC itself would take
  bool has_input_stream_ = false;
  void *input_stream_ = nullptr;

  std::map<void *, std::unique_ptr<Surface>> surfaces_;
  std::map<void *, std::unique_ptr<Output>> outputs_;
  std::deque<Output *> waiting_;  // for their packets

  std::unique_ptr<SoftwareEncoder> encoder_;
  uint32_t format_ = NV_ENC_BUFFER_FORMAT_UNDEFINED;
  std::map<int64_t, Input> inputs_;  // of packets to come, by the picture's number
  int64_t pictures_ = 0;
  bool sent_headers_ = false;
  Bytes canned_;  // the packet of every picture, on an idle GPU
};
