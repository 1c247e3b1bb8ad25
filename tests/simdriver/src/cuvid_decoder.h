// One NVDEC session: decodes access units on the CPU and maps pictures into device memory.
#pragma once
#include "cuvid_codec.h"

#include <deque>
#include <map>
#include <mutex>
#include <vector>

// Device memory that a decoded picture is mapped to. Work in a stream keeps it alive, so that
// nothing is written to memory that was freed, and perhaps given to another, in the meantime.
struct OutputSurface {
  OutputSurface(uint64_t address, size_t bytes) : address(address), bytes(bytes) {}
  ~OutputSurface();
  uint64_t address;
  size_t bytes;
};

class Decoder : public std::enable_shared_from_this<Decoder> {
 public:
  static CUresult create(const CUVIDDECODECREATEINFO &info, std::shared_ptr<Decoder> *made);
  ~Decoder();

  CUresult reconfigure(const CUVIDRECONFIGUREDECODERINFO &info);
  CUresult decode(const CUVIDPICPARAMS &picture);
  uint32_t status(int index);  // cuvidDecodeStatus
  CUresult map(int index, CUstream stream, uint64_t *address, unsigned *pitch);
  CUresult unmap(uint64_t address);

  // ---- for the parser

  // Whether the last access unit made a new picture, which a skipped or hidden one does not.
  bool made_picture();
  // The next picture in display order, if it is known.
  bool next_shown(CUVIDPARSERDISPINFO *shown);
  // Ends the sequence: all that is left comes out, and no reference is kept.
  void flush();
  // Whether a picture that has not been shown never will be: libavcodec let go of it, as it does
  // with damage and with what cannot be decoded after a seek.
  bool dropped(int index);

 private:
  struct Picture {
    Frame frame;  // null: nothing decoded, or an idle GPU
    uint32_t status = cuvidDecodeStatus_Invalid;
    bool interlaced = false, top_field_first = false;
  };
  using Surface = std::shared_ptr<OutputSurface>;
  struct Mapped {
    Surface surface;
    CUstream stream;
  };

  explicit Decoder(const Codec &codec, const CUVIDDECODECREATEINFO &info)
      : codec_(codec), info_(info) {}
  CUresult allocate();
  void release();
  void run(const uint8_t *data, size_t size);
  int receive();
  void take_output(const AVFrame &frame);
  bool fits(const AVFrame &frame) const;
  unsigned pitch() const;
  static int allocate_picture(AVCodecContext *context, AVFrame *frame, int flags);

  std::mutex mutex_;
  const Codec &codec_;
  CUVIDDECODECREATEINFO info_;
  Context context_;
  std::vector<Picture> pictures_;
  std::deque<int> shown_;  // in display order, not yet taken by the parser
  int current_ = 0;        // the picture being decoded
  bool made_picture_ = false;
  uint64_t decode_surfaces_ = 0;  // device memory that NVDEC itself would take
  std::vector<Surface> free_;
  std::map<uint64_t, Mapped> mapped_;
};

// The session that the calling thread last decoded with: it is known to the parser's client
// alone, which decodes from within the parser's callback.
std::shared_ptr<Decoder> last_decoder();
