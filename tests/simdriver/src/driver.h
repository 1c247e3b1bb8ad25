// What the files of libcuda.so.1 share among themselves.
#pragma once
#include "cuda_abi.h"
#include "sim.h"

#include <atomic>
#include <deque>
#include <functional>
#include <string>
#include <thread>

// ---- counting

// Named numbers, found without a lock: a hash table whose entries are never removed.
class Numbers {
 public:
  struct Entry {
    std::string name;
    std::atomic<int64_t> value{0};
  };

  Entry &operator[](const char *name);

  template <typename Visit>
  void each(Visit visit) {
    for (auto &slot : slots_)
      if (Entry *entry = slot.load()) visit(*entry);
  }

 private:
  static constexpr size_t SLOTS = 4096;
  std::atomic<Entry *> slots_[SLOTS] = {};
};

// What there is now: "memory.live", "streams.live" … Unlike counters, a reset leaves them alone.
std::atomic<int64_t> &gauge(const char *name);

// Parts of the dump and of the reset that other files hold.
struct Dumped {
  std::string copies, live;  // the items of two JSON lists
};
void dump_memory(Dumped &dumped);
void dump_copies(Dumped &dumped);
void reset_memory_peak();
void reset_copies();

// ---- entry points

enum Needs { NOTHING, DRIVER, CONTEXT };  // cuInit; and a current context

// What ENTER does first in every entry point: counts, injects faults, checks the state.
CUresult enter(const char *function, Needs needs);
#define ENTER(needs) \
  if (CUresult error = enter(__func__, needs)) return error

// ---- handles. What was destroyed stays in memory with ALIVE erased, so that a later use is
// recognised instead of being undefined.

struct CUctx_st {
  enum : uint32_t { ALIVE = 0xC0DE0001 };
  std::atomic<uint32_t> state{0};
  CUdevice device = 0;
  bool primary = false;
  unsigned flags = 0;
  std::atomic<int> retained{0};
};

struct CUstream_st {
  enum : uint32_t { ALIVE = 0xC0DE0002 };
  std::atomic<uint32_t> state{ALIVE};
  CUcontext context = nullptr;
  unsigned flags = 0;
  int priority = 0;
  uint64_t id = 0;

  // Guarded by the one mutex of streams.cpp.
  std::deque<std::function<void()>> waiting;
  uint64_t submitted = 0, done = 0;
  std::thread::id runner;  // of the work at the head; none: no work runs
};

struct CUevent_st {
  enum : uint32_t { ALIVE = 0xC0DE0003 };
  std::atomic<uint32_t> state{ALIVE};
  unsigned flags = 0;
  CUstream_st *stream = nullptr;  // where it was last recorded
  uint64_t ticket = 0;            // and after which piece of work
  std::atomic<int64_t> nanoseconds{0};
};

template <typename T>
bool is_alive(const T *handle) {
  return handle && handle->state == T::ALIVE;
}

void *find_entry_point(const char *name);  // an exported function of this library, or null

CUcontext current_context();  // null: none that can be used

// ---- streams

CUstream_st *find_stream(CUstream stream);  // null: no such stream
// Queues work and, unless deferred, runs it; returns its ticket.
uint64_t submit(CUstream_st &stream, std::function<void()> work);
void wait_for(CUstream_st &stream);
// For calls that wait as the default stream does: all streams but the non-blocking ones.
void wait_for_blocking_streams();
void wait_for_everything();

// ---- memory

bool in_device_memory(uint64_t address);  // of the address range, allocated or not
bool is_pinned(uint64_t address);
