// Copies and fills. Directions are those of the bytes, whatever the caller said of them.
#include "driver.h"

#include <string.h>

#include <memory>
#include <mutex>
#include <vector>

// ---- what was copied, for the tests

enum Kind { H2H, H2D, D2H, D2D };  // bit 0: to the device; bit 1: from the device

static const char *const KINDS[] = {"h2h", "h2d", "d2h", "d2d"};
static const char *const CALLS[] = {"h2h.calls", "h2d.calls", "d2h.calls", "d2d.calls"};
static const char *const BYTES[] = {"h2h.bytes", "h2d.bytes", "d2h.bytes", "d2d.bytes"};

struct Noted {
  Kind kind;
  size_t width, height;  // bytes, rows
  const char *function;
};

enum { MOST_NOTED = 100000 };
static std::mutex &mutex = *new std::mutex;
static auto &noted = *new std::vector<Noted>;

static void note(Kind kind, size_t width, size_t height, const char *function) {
  sim_count(CALLS[kind], 1);
  sim_count(BYTES[kind], (int64_t)(width * height));
  sim_trace("  %s %zu x %zu", KINDS[kind], width, height);
  std::lock_guard<std::mutex> lock(mutex);
  if (noted.size() < MOST_NOTED) noted.push_back({kind, width, height, function});
}

void reset_copies() {
  std::lock_guard<std::mutex> lock(mutex);
  noted.clear();
}

void dump_copies(Dumped &dumped) {
  std::lock_guard<std::mutex> lock(mutex);
  for (const Noted &copy : noted) {
    dumped.copies += dumped.copies.empty() ? "[\"" : ",[\"";
    dumped.copies += std::string(KINDS[copy.kind]) + "\"," + std::to_string(copy.width) + "," +
                     std::to_string(copy.height) + ",\"" + copy.function + "\"]";
  }
}

// ---- copies

enum Place { HOST, DEVICE, ANYWHERE };

struct Side {
  Place said;
  uint64_t address;
  size_t pitch = 0;

  bool on_device() const { return in_device_memory(address); }
};

struct Copy {
  const char *function;
  Side to, from;
  size_t width, height = 1;  // bytes, rows

  Kind kind() const { return (Kind)(to.on_device() | from.on_device() << 1); }
  size_t extent(const Side &side) const { return (height - 1) * side.pitch + width; }
  bool fits(const Side &side) const {
    return !side.on_device() || sim_inside(side.address, extent(side));
  }
};

static CUresult check(const Copy &copy) {
  for (const Side *side : {&copy.to, &copy.from}) {
    if (side->said == DEVICE && !side->on_device()) return CUDA_ERROR_INVALID_VALUE;
    if (side->said == HOST && side->on_device()) {
      sim_count("errors.device_pointer_as_host", 1);
      return CUDA_ERROR_INVALID_VALUE;
    }
    if (!copy.fits(*side)) {
      sim_count("errors.out_of_bounds", 1);
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  return CUDA_SUCCESS;
}

static void run(const Copy &copy) {
  if (copy.kind() == D2D && sim_idle()) return;  // a GPU's own work
  if (!copy.fits(copy.to) || !copy.fits(copy.from)) {
    sim_count("errors.freed_before_use", 1);
    return;
  }
  auto *to = (uint8_t *)sim_host(copy.to.address);
  auto *from = (const uint8_t *)sim_host(copy.from.address);
  for (size_t y = 0; y < copy.height; y++)
    memmove(to + y * copy.to.pitch, from + y * copy.from.pitch, copy.width);
}

static CUresult copy_now(const Copy &copy) {
  if (!copy.width || !copy.height) return CUDA_SUCCESS;
  if (CUresult error = check(copy)) return error;
  note(copy.kind(), copy.width, copy.height, copy.function);
  wait_for_blocking_streams();
  run(copy);
  return CUDA_SUCCESS;
}

// Pageable memory is read when the call is made, into memory that the driver holds.
static void submit_staged(CUstream_st &stream, const Copy &copy) {
  auto *from = (const uint8_t *)copy.from.address;
  auto held = std::make_shared<std::vector<uint8_t>>(from, from + copy.extent(copy.from));
  submit(stream, [=] {
    Copy staged = copy;
    staged.from.address = (uint64_t)held->data();
    run(staged);
  });
}

static CUresult copy_in_order(const Copy &copy, CUstream handle) {
  CUstream_st *stream = find_stream(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (!copy.width || !copy.height) return CUDA_SUCCESS;
  if (CUresult error = check(copy)) return error;
  note(copy.kind(), copy.width, copy.height, copy.function);
  auto is_pageable = [](const Side &side) { return !side.on_device() && !is_pinned(side.address); };
  if (is_pageable(copy.from)) submit_staged(*stream, copy);
  else submit(*stream, [=] { run(copy); });
  if (is_pageable(copy.to)) {
    sim_count("sync.copy", 1);
    wait_for(*stream);
  }
  return CUDA_SUCCESS;
}

SIM_API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) {
  ENTER(CONTEXT);
  return copy_now({__func__, {DEVICE, to}, {HOST, (uint64_t)from}, bytes});
}

SIM_API CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes) {
  ENTER(CONTEXT);
  return copy_now({__func__, {HOST, (uint64_t)to}, {DEVICE, from}, bytes});
}

SIM_API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  ENTER(CONTEXT);
  return copy_now({__func__, {DEVICE, to}, {DEVICE, from}, bytes});
}

SIM_API CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  ENTER(CONTEXT);
  return copy_now({__func__, {ANYWHERE, to}, {ANYWHERE, from}, bytes});
}

SIM_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes,
                                      CUstream stream) {
  ENTER(CONTEXT);
  return copy_in_order({__func__, {DEVICE, to}, {HOST, (uint64_t)from}, bytes}, stream);
}

SIM_API CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
  ENTER(CONTEXT);
  return copy_in_order({__func__, {HOST, (uint64_t)to}, {DEVICE, from}, bytes}, stream);
}

SIM_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes,
                                      CUstream stream) {
  ENTER(CONTEXT);
  return copy_in_order({__func__, {DEVICE, to}, {DEVICE, from}, bytes}, stream);
}

SIM_API CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  ENTER(CONTEXT);
  return copy_in_order({__func__, {ANYWHERE, to}, {ANYWHERE, from}, bytes}, stream);
}

static bool read_side(Side &side, CUmemorytype type, const void *host, CUdeviceptr device, size_t x,
                      size_t y, size_t pitch, size_t width) {
  if (type == CU_MEMORYTYPE_HOST) side = {HOST, (uint64_t)host};
  else if (type == CU_MEMORYTYPE_DEVICE) side = {DEVICE, device};
  else if (type == CU_MEMORYTYPE_UNIFIED) side = {ANYWHERE, device};
  else return false;
  side.pitch = pitch ? pitch : width;
  side.address += y * side.pitch + x;
  return x + width <= side.pitch;
}

static bool read_copy(Copy &copy, const CUDA_MEMCPY2D &p) {
  copy.width = p.WidthInBytes;
  copy.height = p.Height;
  return read_side(copy.to, p.dstMemoryType, p.dstHost, p.dstDevice, p.dstXInBytes, p.dstY,
                   p.dstPitch, p.WidthInBytes) &&
         read_side(copy.from, p.srcMemoryType, p.srcHost, p.srcDevice, p.srcXInBytes, p.srcY,
                   p.srcPitch, p.WidthInBytes);
}

SIM_API CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D *parameters) {
  ENTER(CONTEXT);
  Copy copy{__func__, {}, {}, 0};
  return read_copy(copy, *parameters) ? copy_now(copy) : CUDA_ERROR_INVALID_VALUE;
}

SIM_API CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *parameters) {
  ENTER(CONTEXT);
  Copy copy{__func__, {}, {}, 0};
  return read_copy(copy, *parameters) ? copy_now(copy) : CUDA_ERROR_INVALID_VALUE;
}

SIM_API CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *parameters, CUstream stream) {
  ENTER(CONTEXT);
  Copy copy{__func__, {}, {}, 0};
  return read_copy(copy, *parameters) ? copy_in_order(copy, stream) : CUDA_ERROR_INVALID_VALUE;
}

// ---- fills

template <typename T>
struct Fill {
  uint64_t address;
  size_t pitch;  // bytes
  T value;
  size_t width, height = 1;  // elements, rows

  bool fits() const {
    return sim_inside(address, (height - 1) * pitch + width * sizeof(T));
  }

  void run() const {
    if (!fits()) {
      sim_count("errors.freed_before_use", 1);
      return;
    }
    for (size_t y = 0; y < height; y++) {
      T *row = (T *)((uint8_t *)sim_host(address) + y * pitch);
      for (size_t x = 0; x < width; x++) row[x] = value;
    }
  }
};

template <typename T>
static CUresult fill_in_order(const Fill<T> &fill, CUstream handle) {
  CUstream_st *stream = find_stream(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (!fill.width || !fill.height) return CUDA_SUCCESS;
  if (!fill.fits()) {
    sim_count("errors.out_of_bounds", 1);
    return CUDA_ERROR_INVALID_VALUE;
  }
  sim_count("fills", 1);
  submit(*stream, [=] { fill.run(); });
  return CUDA_SUCCESS;
}

SIM_API CUresult cuMemsetD8_v2(CUdeviceptr to, uint8_t value, size_t count) {
  ENTER(CONTEXT);
  return fill_in_order(Fill<uint8_t>{to, 0, value, count}, nullptr);
}

SIM_API CUresult cuMemsetD8Async(CUdeviceptr to, uint8_t value, size_t count, CUstream stream) {
  ENTER(CONTEXT);
  return fill_in_order(Fill<uint8_t>{to, 0, value, count}, stream);
}

SIM_API CUresult cuMemsetD16Async(CUdeviceptr to, uint16_t value, size_t count, CUstream stream) {
  ENTER(CONTEXT);
  return fill_in_order(Fill<uint16_t>{to, 0, value, count}, stream);
}

SIM_API CUresult cuMemsetD32Async(CUdeviceptr to, uint32_t value, size_t count, CUstream stream) {
  ENTER(CONTEXT);
  return fill_in_order(Fill<uint32_t>{to, 0, value, count}, stream);
}

SIM_API CUresult cuMemsetD2D8_v2(CUdeviceptr to, size_t pitch, uint8_t value, size_t width,
                                 size_t height) {
  ENTER(CONTEXT);
  return fill_in_order(Fill<uint8_t>{to, pitch, value, width, height}, nullptr);
}

SIM_API CUresult cuMemsetD2D8Async(CUdeviceptr to, size_t pitch, uint8_t value, size_t width,
                                   size_t height, CUstream stream) {
  ENTER(CONTEXT);
  return fill_in_order(Fill<uint8_t>{to, pitch, value, width, height}, stream);
}

// ---- the tests' own access

int sim_read(uint64_t address, void *to, size_t bytes) {
  if (!sim_inside(address, bytes)) return 0;
  memcpy(to, sim_host(address), bytes);
  return 1;
}

int sim_write(void *handle, uint64_t address, const void *from, size_t bytes) {
  CUstream_st *stream = find_stream((CUstream)handle);
  if (!stream || !sim_inside(address, bytes)) return 0;
  submit_staged(*stream, {__func__, {ANYWHERE, address}, {ANYWHERE, (uint64_t)from}, bytes});
  return 1;
}
