// Streams and events.
//
// Each stream is a queue of work. In deferred mode (VIDAI_SIM_DEFERRED=1) work stays there until
// CUDA's rules say that something must wait for it, so that a missing synchronisation shows as
// stale or poisoned memory; else it runs before `submit` returns. Running early is always legal,
// so the rules of the default stream are kept by running, not by waiting.
//
// Work runs on the thread that waits for it, with no mutex held: `runner` keeps a stream's work
// in turn. Work waits only for work submitted before it, so no circle can form.
#include "driver.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <vector>

static const bool deferred = sim_setting("DEFERRED", 0);

static std::mutex &mutex = *new std::mutex;
static auto &turn = *new std::condition_variable;
static auto &streams = *new std::set<CUstream_st *>;  // those that were created and live
static auto &default_stream = *new CUstream_st;

static auto &live_streams = gauge("streams.live");
static auto &live_events = gauge("events.live");

// 0 and 1 are the default stream; 2, the one of each thread, is treated as the same.
static bool is_default(CUstream stream) { return (uintptr_t)stream <= 2; }

static bool is_blocking(const CUstream_st &stream) {
  return !(stream.flags & CU_STREAM_NON_BLOCKING);
}

CUstream_st *find_stream(CUstream stream) {
  if (is_default(stream)) return &default_stream;
  return is_alive(stream) ? stream : nullptr;
}

// ---- work

static void run_head(CUstream_st &stream, std::unique_lock<std::mutex> &lock) {
  std::function<void()> work = std::move(stream.waiting.front());
  stream.waiting.pop_front();
  stream.runner = std::this_thread::get_id();
  lock.unlock();
  work();
  lock.lock();
  stream.runner = {};
  stream.done++;
  turn.notify_all();
}

// Until this piece of work is done, whoever runs it.
static void run_until(CUstream_st &stream, uint64_t ticket) {
  std::unique_lock<std::mutex> lock(mutex);
  while (stream.done < ticket) {
    if (stream.runner == std::this_thread::get_id()) return;  // work that waits for its own stream
    if (stream.runner == std::thread::id()) run_head(stream, lock);
    else turn.wait(lock);
  }
}

void wait_for(CUstream_st &stream) {
  std::unique_lock<std::mutex> lock(mutex);
  uint64_t last = stream.submitted;
  lock.unlock();
  run_until(stream, last);
}

static void wait_for_streams(bool (*chosen)(const CUstream_st &)) {
  std::vector<CUstream_st *> all{&default_stream};
  {
    std::lock_guard<std::mutex> lock(mutex);
    all.insert(all.end(), streams.begin(), streams.end());
  }
  for (CUstream_st *stream : all)
    if (chosen(*stream)) wait_for(*stream);
}

void wait_for_blocking_streams() { wait_for_streams(is_blocking); }

void wait_for_everything() {
  wait_for_streams([](const CUstream_st &) { return true; });
}

uint64_t submit(CUstream_st &stream, std::function<void()> work) {
  if (&stream == &default_stream) wait_for_blocking_streams();
  else if (is_blocking(stream)) wait_for(default_stream);
  uint64_t ticket;
  {
    std::lock_guard<std::mutex> lock(mutex);
    stream.waiting.push_back(std::move(work));
    ticket = ++stream.submitted;
  }
  if (!deferred) run_until(stream, ticket);
  return ticket;
}

// Whether it is done. If not, one piece of work runs, so that a loop that polls comes to its end.
static bool poll(CUstream_st &stream, uint64_t ticket) {
  std::unique_lock<std::mutex> lock(mutex);
  if (stream.done >= ticket) return true;
  if (stream.runner == std::thread::id()) run_head(stream, lock);
  return false;
}

void sim_submit(void *handle, void (*work)(void *), void *argument) {
  CUstream_st *stream = find_stream((CUstream)handle);
  if (!stream) sim_count("errors.stream_handle", 1);
  submit(stream ? *stream : default_stream, [=] { work(argument); });
}

void sim_wait(void *handle) {
  if (CUstream_st *stream = find_stream((CUstream)handle)) wait_for(*stream);
  else sim_count("errors.stream_handle", 1);
}

// ---- streams

static CUresult create_stream(CUstream *created, unsigned flags, int priority) {
  static std::atomic<uint64_t> ids{1};
  auto *stream = new CUstream_st;
  stream->context = current_context();
  stream->flags = flags;
  stream->priority = priority;
  stream->id = ids++;
  std::lock_guard<std::mutex> lock(mutex);
  streams.insert(stream);
  live_streams++;
  *created = stream;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
  ENTER(CONTEXT);
  return create_stream(stream, flags, 0);
}

SIM_API CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority) {
  ENTER(CONTEXT);
  return create_stream(stream, flags, priority);
}

SIM_API CUresult cuStreamDestroy_v2(CUstream stream) {
  ENTER(DRIVER);
  if (is_default(stream) || !is_alive(stream)) return CUDA_ERROR_INVALID_HANDLE;
  wait_for(*stream);
  std::lock_guard<std::mutex> lock(mutex);
  stream->state = 0;
  streams.erase(stream);
  live_streams--;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuStreamSynchronize(CUstream handle) {
  ENTER(CONTEXT);
  CUstream_st *stream = find_stream(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  sim_count("sync.stream", 1);
  if (is_default(handle)) wait_for_blocking_streams();
  else wait_for(*stream);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuStreamQuery(CUstream handle) {
  ENTER(DRIVER);
  CUstream_st *stream = find_stream(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  std::unique_lock<std::mutex> lock(mutex);
  uint64_t last = stream->submitted;
  lock.unlock();
  return poll(*stream, last) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

SIM_API CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned) {
  ENTER(DRIVER);
  CUstream_st *stream = find_stream(handle);
  if (!stream || !is_alive(event)) return CUDA_ERROR_INVALID_HANDLE;
  if (CUstream_st *other = event->stream) {
    uint64_t ticket = event->ticket;  // as recorded now: a later record does not count
    submit(*stream, [=] { run_until(*other, ticket); });
  }
  return CUDA_SUCCESS;
}

static CUcontext context_of(CUstream handle) {
  return is_default(handle) ? current_context() : handle->context;
}

SIM_API CUresult cuStreamGetCtx(CUstream handle, CUcontext *context) {
  ENTER(DRIVER);
  if (!find_stream(handle)) return CUDA_ERROR_INVALID_HANDLE;
  *context = context_of(handle);
  return *context ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

SIM_API CUresult cuStreamGetCtx_v2(CUstream handle, CUcontext *context, void **green_context) {
  if (green_context) *green_context = nullptr;
  return cuStreamGetCtx(handle, context);
}

SIM_API CUresult cuStreamGetDevice(CUstream handle, CUdevice *device) {
  ENTER(DRIVER);
  if (!find_stream(handle)) return CUDA_ERROR_INVALID_HANDLE;
  CUcontext context = context_of(handle);
  if (!context) return CUDA_ERROR_INVALID_CONTEXT;
  *device = context->device;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuStreamGetFlags(CUstream handle, unsigned *flags) {
  ENTER(DRIVER);
  CUstream_st *stream = find_stream(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  *flags = stream->flags;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuStreamGetPriority(CUstream handle, int *priority) {
  ENTER(DRIVER);
  CUstream_st *stream = find_stream(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  *priority = stream->priority;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuStreamGetId(CUstream handle, uint64_t *id) {
  ENTER(DRIVER);
  CUstream_st *stream = find_stream(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  *id = stream->id;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuStreamIsCapturing(CUstream, int *status) {
  ENTER(DRIVER);
  *status = CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuLaunchHostFunc(CUstream handle, CUhostFn function, void *data) {
  ENTER(CONTEXT);
  CUstream_st *stream = find_stream(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  submit(*stream, [=] { function(data); });
  return CUDA_SUCCESS;
}

// ---- events

SIM_API CUresult cuEventCreate(CUevent *event, unsigned flags) {
  ENTER(CONTEXT);
  *event = new CUevent_st;
  (*event)->flags = flags;
  live_events++;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuEventDestroy_v2(CUevent event) {
  ENTER(DRIVER);
  if (!is_alive(event)) return CUDA_ERROR_INVALID_HANDLE;
  event->state = 0;
  live_events--;
  return CUDA_SUCCESS;
}

static CUresult record(CUevent event, CUstream handle) {
  CUstream_st *stream = find_stream(handle);
  if (!stream || !is_alive(event)) return CUDA_ERROR_INVALID_HANDLE;
  event->ticket = submit(*stream, [event] {
    event->nanoseconds = std::chrono::steady_clock::now().time_since_epoch().count();
  });
  event->stream = stream;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuEventRecord(CUevent event, CUstream stream) {
  ENTER(DRIVER);
  return record(event, stream);
}

SIM_API CUresult cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned) {
  ENTER(DRIVER);
  return record(event, stream);
}

SIM_API CUresult cuEventSynchronize(CUevent event) {
  ENTER(DRIVER);
  if (!is_alive(event)) return CUDA_ERROR_INVALID_HANDLE;
  sim_count("sync.event", 1);
  if (event->stream) run_until(*event->stream, event->ticket);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuEventQuery(CUevent event) {
  ENTER(DRIVER);
  if (!is_alive(event)) return CUDA_ERROR_INVALID_HANDLE;
  bool done = !event->stream || poll(*event->stream, event->ticket);
  return done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

SIM_API CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end) {
  ENTER(DRIVER);
  for (CUevent event : {start, end}) {
    if (!is_alive(event) || !event->stream || event->flags & CU_EVENT_DISABLE_TIMING)
      return CUDA_ERROR_INVALID_HANDLE;
    if (!poll(*event->stream, event->ticket)) return CUDA_ERROR_NOT_READY;
  }
  *milliseconds = (float)(end->nanoseconds - start->nanoseconds) * 1e-6f;
  return CUDA_SUCCESS;
}
