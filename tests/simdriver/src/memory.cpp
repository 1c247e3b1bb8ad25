// Device memory, pinned host memory and memory pools.
#include "driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <mutex>

// ---- the range of addresses, twice in memory (see sim.h)

struct Range {
  size_t capacity = (size_t)sim_setting("MEM_MB", 2048) << 20;
  uint8_t *handed_out, *host;

  Range() {
    int file = memfd_create("simulated-gpu", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)capacity)) fail();
    host = map(file, PROT_READ | PROT_WRITE);
    handed_out = map(file, sim_setting("STRICT", 1) ? PROT_NONE : PROT_READ | PROT_WRITE);
    close(file);
  }

  uint8_t *map(int file, int protection) const {
    void *at = mmap(nullptr, capacity, protection, MAP_SHARED | MAP_NORESERVE, file, 0);
    if (at == MAP_FAILED) fail();
    return (uint8_t *)at;
  }

  [[noreturn]] static void fail() {
    perror("simulated driver: no address range for device memory");
    abort();
  }
};

static const Range range;

bool in_device_memory(uint64_t address) {
  return address - (uint64_t)range.handed_out < range.capacity;
}

void *sim_host(uint64_t address) {
  if (!in_device_memory(address)) return (void *)address;
  return range.host + (address - (uint64_t)range.handed_out);
}

// ---- allocations

struct Block {
  size_t bytes;
  std::string tag;
  CUdevice device;
};

typedef std::map<uint64_t, Block> Blocks;  // by address

static std::mutex &mutex = *new std::mutex;
static Blocks &device_blocks = *new Blocks;
static Blocks &pinned_blocks = *new Blocks;
static auto &free_ranges = *new std::map<uint64_t, size_t>{
    {(uint64_t)range.handed_out, range.capacity}};

static auto &live = gauge("memory.live");
static auto &peak = gauge("memory.peak");
static auto &live_allocations = gauge("allocations.live");
static auto &live_pinned = gauge("pinned.live");

static Blocks::const_iterator find(const Blocks &blocks, uint64_t address) {
  auto block = blocks.upper_bound(address);
  if (block == blocks.begin()) return blocks.end();
  --block;
  return address - block->first < block->second.bytes ? block : blocks.end();
}

enum : size_t { ALIGNMENT = 512, FENCE = 512 };
enum : uint8_t { FRESH = 0xCD, FENCED = 0xFD };

// With a fence behind it, that whatever writes past the end changes.
static size_t reserved(size_t bytes) {
  return (std::max<size_t>(bytes, 1) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + FENCE;
}

static void fill_new(uint64_t address, size_t bytes) {
  static const bool poison = sim_setting("POISON", 1) && !sim_idle();
  auto *at = (uint8_t *)sim_host(address);
  if (poison) memset(at, FRESH, bytes);
  memset(at + bytes, FENCED, reserved(bytes) - bytes);
}

static void check_fence(uint64_t address, size_t bytes) {
  auto *at = (const uint8_t *)sim_host(address);
  auto is_whole = [](uint8_t byte) { return byte == FENCED; };
  if (!std::all_of(at + bytes, at + reserved(bytes), is_whole)) sim_count("errors.overrun", 1);
}

// The first free range with room, or 0.
static uint64_t take_free(size_t size) {
  auto fits = [=](const auto &free) { return free.second >= size; };
  auto chosen = std::find_if(free_ranges.begin(), free_ranges.end(), fits);
  if (chosen == free_ranges.end()) return 0;
  auto [address, room] = *chosen;
  free_ranges.erase(chosen);
  if (room > size) free_ranges[address + size] = room - size;
  return address;
}

static void give_back(uint64_t address, size_t size) {
  auto added = free_ranges.emplace(address, size).first;
  auto next = std::next(added);
  if (next != free_ranges.end() && address + size == next->first) {
    added->second += next->second;
    free_ranges.erase(next);
  }
  if (added == free_ranges.begin()) return;
  auto previous = std::prev(added);
  if (previous->first + previous->second != address) return;
  previous->second += added->second;
  free_ranges.erase(added);
}

uint64_t sim_allocate(size_t bytes, const char *tag) {
  if (bytes > range.capacity) return 0;
  std::lock_guard<std::mutex> lock(mutex);
  uint64_t address = take_free(reserved(bytes));
  if (!address) return 0;
  CUcontext context = current_context();
  device_blocks[address] = {bytes, tag, context ? context->device : 0};
  live += (int64_t)bytes;
  live_allocations++;
  if (live > peak) peak = live.load();
  fill_new(address, bytes);
  return address;
}

int sim_free(uint64_t address) {
  std::lock_guard<std::mutex> lock(mutex);
  auto block = device_blocks.find(address);
  if (block == device_blocks.end()) return 0;
  size_t bytes = block->second.bytes;
  check_fence(address, bytes);
  device_blocks.erase(block);
  live -= (int64_t)bytes;
  live_allocations--;
  give_back(address, reserved(bytes));
  return 1;
}

int sim_inside(uint64_t address, size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  auto block = find(device_blocks, address);
  if (block == device_blocks.end()) return 0;
  return bytes <= block->second.bytes - (address - block->first);
}

static void *allocate_pinned(size_t bytes, const char *tag) {
  void *address = nullptr;
  if (posix_memalign(&address, 4096, bytes)) return nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  pinned_blocks[(uint64_t)address] = {bytes, tag, 0};
  live_pinned++;
  return address;
}

static bool free_pinned(void *address) {
  std::lock_guard<std::mutex> lock(mutex);
  if (!pinned_blocks.erase((uint64_t)address)) return false;
  live_pinned--;
  free(address);
  return true;
}

bool is_pinned(uint64_t address) {
  std::lock_guard<std::mutex> lock(mutex);
  return find(pinned_blocks, address) != pinned_blocks.end();
}

void reset_memory_peak() {
  std::lock_guard<std::mutex> lock(mutex);
  peak = live.load();
}

void dump_memory(Dumped &dumped) {
  std::lock_guard<std::mutex> lock(mutex);
  for (const auto &[address, block] : device_blocks) {
    dumped.live += dumped.live.empty() ? "[" : ",[";
    dumped.live += std::to_string(address) + "," + std::to_string(block.bytes) + ",\"" +
                   block.tag + "\"]";
  }
}

// ---- entry points

static CUresult allocate(CUdeviceptr *address, size_t bytes, const char *tag) {
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  *address = sim_allocate(bytes, tag);
  return *address ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

SIM_API CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
  ENTER(CONTEXT);
  return allocate(address, bytes, "cuMemAlloc");
}

SIM_API CUresult cuMemAllocPitch_v2(CUdeviceptr *address, size_t *pitch, size_t width,
                                    size_t height, unsigned element) {
  ENTER(CONTEXT);
  if (element != 4 && element != 8 && element != 16) return CUDA_ERROR_INVALID_VALUE;
  *pitch = (width + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  return allocate(address, *pitch * height, "cuMemAllocPitch");
}

SIM_API CUresult cuMemFree_v2(CUdeviceptr address) {
  ENTER(CONTEXT);
  if (!address) return CUDA_SUCCESS;
  wait_for_everything();
  return sim_free(address) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

SIM_API CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned) {
  ENTER(CONTEXT);
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  *address = allocate_pinned(bytes, "cuMemHostAlloc");
  return *address ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

SIM_API CUresult cuMemAllocHost_v2(void **address, size_t bytes) {
  ENTER(CONTEXT);
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  *address = allocate_pinned(bytes, "cuMemAllocHost");
  return *address ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

SIM_API CUresult cuMemFreeHost(void *address) {
  ENTER(CONTEXT);
  wait_for_everything();
  return free_pinned(address) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

SIM_API CUresult cuMemGetInfo_v2(size_t *available, size_t *total) {
  ENTER(CONTEXT);
  *total = range.capacity;
  *available = range.capacity - (size_t)live;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice) {
  ENTER(DRIVER);
  *bytes = range.capacity;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *bytes, CUdeviceptr address) {
  ENTER(CONTEXT);
  std::lock_guard<std::mutex> lock(mutex);
  auto block = find(device_blocks, address);
  if (block == device_blocks.end()) return CUDA_ERROR_NOT_FOUND;
  if (base) *base = block->first;
  if (bytes) *bytes = block->second.bytes;
  return CUDA_SUCCESS;
}

// ---- what is known of a pointer

struct Known {
  bool device = false, pinned = false;
  uint64_t start = 0;
  size_t bytes = 0;
  CUdevice ordinal = 0;
};

static Known know(uint64_t address) {
  std::lock_guard<std::mutex> lock(mutex);
  Known known;
  auto block = find(device_blocks, address);
  known.device = block != device_blocks.end();
  if (!known.device) {
    block = find(pinned_blocks, address);
    known.pinned = block != pinned_blocks.end();
    if (!known.pinned) return known;
  }
  known.start = block->first;
  known.bytes = block->second.bytes;
  known.ordinal = block->second.device;
  return known;
}

template <typename T>
static CUresult answer(void *to, T value, bool valid = true) {
  *(T *)to = valid ? value : T{};
  return valid ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult pointer_attribute(void *to, CUpointer_attribute attribute, CUdeviceptr address) {
  Known p = know(address);
  bool known = p.device || p.pinned;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      return answer(to, current_context(), known);
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return answer(to, p.device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST, known);
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      return answer(to, address, known);
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      return answer(to, address, p.pinned);
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
      return answer(to, p.start, known);
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      return answer(to, 0);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      return answer(to, p.ordinal, known);
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      return answer(to, p.start, known);
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      return answer(to, p.bytes, known);
    case CU_POINTER_ATTRIBUTE_MAPPED:
      return answer(to, (int)known);
  }
  return CUDA_ERROR_NOT_SUPPORTED;
}

SIM_API CUresult cuPointerGetAttribute(void *to, CUpointer_attribute attribute,
                                       CUdeviceptr address) {
  ENTER(DRIVER);
  return pointer_attribute(to, attribute, address);
}

SIM_API CUresult cuPointerGetAttributes(unsigned count, CUpointer_attribute *attributes, void **to,
                                        CUdeviceptr address) {
  ENTER(DRIVER);
  for (unsigned i = 0; i < count; i++)
    if (pointer_attribute(to[i], attributes[i], address) == CUDA_ERROR_NOT_SUPPORTED)
      return CUDA_ERROR_NOT_SUPPORTED;
  return CUDA_SUCCESS;
}

// ---- pools: one a device and one of the host are there from the start

struct CUmemPoolHandle_st {
  enum : uint32_t { ALIVE = 0xC0DE0006 };
  std::atomic<uint32_t> state{ALIVE};
  bool host = false;
  uint64_t attributes[16] = {};  // by CUmemPool_attribute: kept, without effect
};

static CUmemPoolHandle_st &device_pool = *new CUmemPoolHandle_st;
static CUmemPoolHandle_st &host_pool = *[] {
  auto *pool = new CUmemPoolHandle_st;
  pool->host = true;
  return pool;
}();

static CUmemoryPool pool_at(const CUmemLocation &location) {
  return location.type == CU_MEM_LOCATION_TYPE_DEVICE ? &device_pool : &host_pool;
}

SIM_API CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice) {
  ENTER(DRIVER);
  *pool = &device_pool;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice) {
  ENTER(DRIVER);
  *pool = &device_pool;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuMemGetDefaultMemPool(CUmemoryPool *pool, CUmemLocation *location, int) {
  ENTER(DRIVER);
  *pool = pool_at(*location);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, int) {
  ENTER(DRIVER);
  *pool = pool_at(*location);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *properties) {
  ENTER(DRIVER);
  *pool = new CUmemPoolHandle_st;
  (*pool)->host = properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuMemPoolDestroy(CUmemoryPool pool) {
  ENTER(DRIVER);
  if (!is_alive(pool) || pool == &device_pool || pool == &host_pool)
    return CUDA_ERROR_INVALID_VALUE;
  pool->state = 0;
  return CUDA_SUCCESS;
}

// One of CUmemPool_attribute: the first three are ints, the others 64-bit.
static bool is_pool_attribute(int attribute) { return attribute >= 1 && attribute <= 8; }

SIM_API CUresult cuMemPoolGetAttribute(CUmemoryPool pool, int attribute, void *value) {
  ENTER(DRIVER);
  if (!is_alive(pool) || !is_pool_attribute(attribute)) return CUDA_ERROR_INVALID_VALUE;
  memcpy(value, &pool->attributes[attribute], attribute <= 3 ? 4 : 8);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuMemPoolSetAttribute(CUmemoryPool pool, int attribute, const void *value) {
  ENTER(DRIVER);
  if (!is_alive(pool) || !is_pool_attribute(attribute)) return CUDA_ERROR_INVALID_VALUE;
  memcpy(&pool->attributes[attribute], value, attribute <= 3 ? 4 : 8);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuMemPoolSetAccess(CUmemoryPool, const void *, size_t) {
  ENTER(DRIVER);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuMemPoolGetAccess(int *flags, CUmemoryPool, CUmemLocation *) {
  ENTER(DRIVER);
  *flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuMemPoolTrimTo(CUmemoryPool, size_t) {
  ENTER(DRIVER);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuMemAllocFromPoolAsync(CUdeviceptr *address, size_t bytes, CUmemoryPool pool,
                                         CUstream stream) {
  ENTER(CONTEXT);
  if (!find_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
  if (!is_alive(pool) || !bytes) return CUDA_ERROR_INVALID_VALUE;
  if (!pool->host) return allocate(address, bytes, "pool");
  *address = (uint64_t)allocate_pinned(bytes, "host pool");
  return *address ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

SIM_API CUresult cuMemAllocAsync(CUdeviceptr *address, size_t bytes, CUstream stream) {
  ENTER(CONTEXT);
  if (!find_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
  return allocate(address, bytes, "cuMemAllocAsync");
}

static void free_in_order(uint64_t address, bool device) {
  bool freed = device ? sim_free(address) : free_pinned((void *)address);
  if (!freed) sim_count("errors.double_free", 1);
}

SIM_API CUresult cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
  ENTER(CONTEXT);
  if (!address) return CUDA_SUCCESS;
  CUstream_st *stream = find_stream(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  Known p = know(address);
  if (p.start != address) return CUDA_ERROR_INVALID_VALUE;
  submit(*stream, [=] { free_in_order(address, p.device); });
  return CUDA_SUCCESS;
}
