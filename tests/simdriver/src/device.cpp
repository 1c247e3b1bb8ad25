// The driver itself, devices and contexts.
#include "driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <vector>

enum { MOST_DEVICES = 8 };

static const int devices = std::min<int>(sim_setting("DEVICES", 1), MOST_DEVICES);
static const int compute_capability = sim_setting("CC", 89);

static std::atomic<bool> initialized{false};
static CUctx_st primary_contexts[MOST_DEVICES];
static thread_local std::vector<CUcontext> context_stack;
static auto &live_contexts = gauge("contexts.live");

static bool is_usable(CUcontext context) {
  return is_alive(context) && (!context->primary || context->retained > 0);
}

CUcontext current_context() {
  if (context_stack.empty() || !is_usable(context_stack.back())) return nullptr;
  return context_stack.back();
}

CUresult enter(const char *function, Needs needs) {
  if (int code = sim_enter(function)) return (CUresult)code;
  if (needs >= DRIVER && !initialized) return CUDA_ERROR_NOT_INITIALIZED;
  if (needs >= CONTEXT && !current_context()) return CUDA_ERROR_INVALID_CONTEXT;
  return CUDA_SUCCESS;
}

#define CHECK_DEVICE(device) \
  if ((device) < 0 || (device) >= devices) return CUDA_ERROR_INVALID_DEVICE

// ---- the driver

SIM_API CUresult cuInit(unsigned flags) {
  ENTER(NOTHING);
  if (flags) return CUDA_ERROR_INVALID_VALUE;
  if (devices <= 0) return CUDA_ERROR_NO_DEVICE;
  initialized = true;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuDriverGetVersion(int *version) {
  ENTER(NOTHING);
  *version = sim_setting("CUDA_VERSION", 13000);
  return CUDA_SUCCESS;
}

struct ErrorText {
  std::string name, text;
};

static ErrorText describe(const char *name) {
  ErrorText error{std::string("CUDA_ERROR_") + name, name};
  for (char &c : error.text) c = c == '_' ? ' ' : (char)(c | 0x20);
  return error;
}

static const ErrorText *find_error(CUresult code) {
  static const ErrorText success{"CUDA_SUCCESS", "no error"};
  switch (code) {
    case CUDA_SUCCESS:
      return &success;
#define CASE(number, name)                          \
  case number: {                                    \
    static const ErrorText error = describe(#name); \
    return &error;                                  \
  }
      CUDA_ERRORS(CASE)
#undef CASE
  }
  return nullptr;
}

SIM_API CUresult cuGetErrorName(CUresult code, const char **name) {
  const ErrorText *error = find_error(code);
  *name = error ? error->name.c_str() : nullptr;
  return error ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

SIM_API CUresult cuGetErrorString(CUresult code, const char **text) {
  const ErrorText *error = find_error(code);
  *text = error ? error->text.c_str() : nullptr;
  return error ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// ---- looking up entry points

void *find_entry_point(const char *name) {
  static void *const self = [] {
    Dl_info info;
    if (!dladdr((void *)&cuInit, &info)) return (void *)nullptr;
    return dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  }();
  // dlsym also looks into what this library is linked with, where names do not begin so.
  return self && !strncmp(name, "cu", 2) ? dlsym(self, name) : nullptr;
}

// Names whose binary interface depends on the version that the caller was built for; the first
// row that fits counts, and null means that the interface is not implemented here.
struct Interface {
  const char *name;
  int since;
  const char *symbol;
};

static const Interface INTERFACES[] = {
    {"cuGetProcAddress", 12000, "cuGetProcAddress_v2"},
    {"cuGetProcAddress", 0, "cuGetProcAddress"},
    {"cuStreamGetCtx", 12050, "cuStreamGetCtx_v2"},
    {"cuStreamGetCtx", 0, "cuStreamGetCtx"},
    {"cuCtxGetDevice", 13000, "cuCtxGetDevice_v2"},
    {"cuCtxGetDevice", 0, "cuCtxGetDevice"},
    {"cuCtxSynchronize", 13000, "cuCtxSynchronize_v2"},
    {"cuCtxSynchronize", 0, "cuCtxSynchronize"},
    {"cuCtxCreate", 11040, nullptr},
};

static void *find_interface(const std::string &name, int version) {
  for (const Interface &row : INTERFACES)
    if (name == row.name && version >= row.since)
      return row.symbol ? find_entry_point(row.symbol) : nullptr;
  void *second = find_entry_point((name + "_v2").c_str());
  return second ? second : find_entry_point(name.c_str());
}

SIM_API CUresult cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t,
                                     int *status) {
  *function = find_interface(name, version);
  if (!*function) sim_trace("no %s for version %d", name, version);
  if (status)
    *status = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

SIM_API CUresult cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, function, version, flags, nullptr);
}

// The driver's undocumented tables: there are none. NVRTC asks for some while it compiles, crashes
// if this function is absent and goes on if it answers so.
SIM_API CUresult cuGetExportTable(const void **table, const CUuuid *) {
  ENTER(NOTHING);
  *table = nullptr;
  return CUDA_ERROR_NOT_FOUND;
}

// ---- devices

SIM_API CUresult cuDeviceGetCount(int *count) {
  ENTER(DRIVER);
  *count = devices;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  ENTER(DRIVER);
  CHECK_DEVICE(ordinal);
  *device = ordinal;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuDeviceGetName(char *name, int room, CUdevice device) {
  ENTER(DRIVER);
  CHECK_DEVICE(device);
  snprintf(name, room, "simulated GPU %d", device);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) {
  ENTER(DRIVER);
  CHECK_DEVICE(device);
  memset(uuid, 0x51, sizeof *uuid);
  uuid->bytes[15] = (uint8_t)device;
  return CUDA_SUCCESS;
}

static int device_attribute(CUdevice_attribute attribute) {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      return compute_capability / 10;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      return compute_capability % 10;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y:
      return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z:
      return 64;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
      return 2147483647;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
      return 65535;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
      return 49152;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
      return 32;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      return 4;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
      return 1536;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
      return 1000000;  // kHz
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HOST_NUMA_MEMORY_POOLS_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HOST_MEMORY_POOLS_SUPPORTED:
      return 1;
  }
  return 0;
}

SIM_API CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  ENTER(DRIVER);
  CHECK_DEVICE(device);
  *value = device_attribute(attribute);
  return CUDA_SUCCESS;
}

// ---- contexts

SIM_API CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  ENTER(DRIVER);
  CHECK_DEVICE(device);
  CUctx_st &primary = primary_contexts[device];
  primary.device = device;
  primary.primary = true;
  primary.retained++;
  primary.state = CUctx_st::ALIVE;
  *context = &primary;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  ENTER(DRIVER);
  CHECK_DEVICE(device);
  if (primary_contexts[device].retained <= 0) return CUDA_ERROR_INVALID_CONTEXT;
  primary_contexts[device].retained--;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
  ENTER(DRIVER);
  CHECK_DEVICE(device);
  *flags = primary_contexts[device].flags;
  *active = primary_contexts[device].retained > 0;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags) {
  ENTER(DRIVER);
  CHECK_DEVICE(device);
  primary_contexts[device].flags = flags;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device) {
  ENTER(DRIVER);
  CHECK_DEVICE(device);
  *context = new CUctx_st;
  (*context)->device = device;
  (*context)->flags = flags;
  (*context)->state = CUctx_st::ALIVE;
  context_stack.push_back(*context);
  live_contexts++;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuCtxDestroy_v2(CUcontext context) {
  ENTER(DRIVER);
  if (!is_alive(context) || context->primary) return CUDA_ERROR_INVALID_CONTEXT;
  wait_for_everything();
  if (!context_stack.empty() && context_stack.back() == context) context_stack.pop_back();
  context->state = 0;
  live_contexts--;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuCtxPushCurrent_v2(CUcontext context) {
  ENTER(DRIVER);
  if (!is_alive(context)) return CUDA_ERROR_INVALID_CONTEXT;
  context_stack.push_back(context);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuCtxPopCurrent_v2(CUcontext *context) {
  ENTER(DRIVER);
  if (context_stack.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  if (context) *context = context_stack.back();
  context_stack.pop_back();
  return CUDA_SUCCESS;
}

SIM_API CUresult cuCtxGetCurrent(CUcontext *context) {
  ENTER(DRIVER);
  *context = context_stack.empty() ? nullptr : context_stack.back();
  return CUDA_SUCCESS;
}

SIM_API CUresult cuCtxSetCurrent(CUcontext context) {
  ENTER(DRIVER);
  if (context && !is_alive(context)) return CUDA_ERROR_INVALID_CONTEXT;
  if (!context_stack.empty()) context_stack.pop_back();
  if (context) context_stack.push_back(context);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuCtxGetDevice(CUdevice *device) {
  ENTER(CONTEXT);
  *device = current_context()->device;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuCtxGetDevice_v2(CUdevice *device, CUcontext context) {
  ENTER(DRIVER);
  if (!context) context = current_context();
  if (!is_alive(context)) return CUDA_ERROR_INVALID_CONTEXT;
  *device = context->device;
  return CUDA_SUCCESS;
}

// The work of all contexts: to run early is always legal.
SIM_API CUresult cuCtxSynchronize() {
  ENTER(CONTEXT);
  sim_count("sync.context", 1);
  wait_for_everything();
  return CUDA_SUCCESS;
}

SIM_API CUresult cuCtxSynchronize_v2(CUcontext context) {
  ENTER(context ? DRIVER : CONTEXT);
  if (context && !is_usable(context)) return CUDA_ERROR_INVALID_CONTEXT;
  sim_count("sync.context", 1);
  wait_for_everything();
  return CUDA_SUCCESS;
}

SIM_API CUresult cuCtxGetApiVersion(CUcontext, unsigned *version) {
  ENTER(DRIVER);
  *version = 3020;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
  ENTER(CONTEXT);
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuCtxGetFlags(unsigned *flags) {
  ENTER(CONTEXT);
  *flags = current_context()->flags;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuCtxGetId(CUcontext context, uint64_t *id) {
  ENTER(DRIVER);
  if (!context) context = current_context();
  if (!is_alive(context)) return CUDA_ERROR_INVALID_CONTEXT;
  *id = (uint64_t)context;
  return CUDA_SUCCESS;
}
