// NVDEC's parser: packets in, access units to the client's decoder, pictures in display order.
#pragma once
#include "cuvid_decoder.h"
#include "cuvid_sequence.h"

#include <functional>
#include <queue>

class Parser {
 public:
  static CUresult create(const CUVIDPARSERPARAMS &params, std::unique_ptr<Parser> *made);
  ~Parser();

  // False: a callback refused. The client's callbacks may throw: no lock is held, and the parser
  // can go on afterwards.
  bool parse(const CUVIDSOURCEDATAPACKET &packet);

 private:
  enum class Use { NONE, DECODED, READY };  // READY: to be shown, held back for the display delay
  struct Surface {
    Use use = Use::NONE;
    int64_t pts = 0;
  };

  Parser(const CUVIDPARSERPARAMS &params, const Codec &codec);
  void restart_splitting();
  bool split(const uint8_t *data, size_t size, int64_t pts);
  bool take_unit(const uint8_t *unit, size_t size, int64_t pts);
  bool enter_sequence(const uint8_t *unit, size_t size);
  bool describe(const uint8_t *unit, size_t size);
  void describe(const AVFrame &frame, const AVCodecContext &context);
  void set_size(int width, int height);
  bool announce();
  int free_surface();
  bool decode(int index, const uint8_t *unit, size_t size);
  bool show_known();
  bool show_ready(size_t kept);
  bool show(CUVIDPARSERDISPINFO shown);
  bool end_sequence();
  size_t held_back() const;

  bool take_unit_idle(const uint8_t *unit, size_t size, int64_t pts);
  bool show_idle(size_t kept);

  CUVIDPARSERPARAMS params_;
  const Codec &codec_;
  Context splitter_context_;
  AVCodecParserContext *splitter_ = nullptr;
  std::vector<uint8_t> padded_;

  SequenceFinder finder_;
  std::string sequence_;  // the mark of the current one
  bool started_ = false;
  CUVIDEOFORMAT format_ = {};
  unsigned reordered_ = 0;  // how many pictures may come before one that is shown earlier
  std::vector<Surface> surfaces_;
  size_t next_ = 0;  // surface to try first
  std::weak_ptr<Decoder> decoder_;
  std::deque<CUVIDPARSERDISPINFO> ready_;

  // Of an idle GPU, where pictures have no content: only their times are put in order.
  std::priority_queue<int64_t, std::vector<int64_t>, std::greater<int64_t>> idle_times_;
  int idle_shown_ = 0;
};
