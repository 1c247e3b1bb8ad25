// The part of the CUDA driver API's binary interface that the simulated driver implements:
// values and layouts, so that building needs no CUDA toolkit. x86-64 and AArch64 Linux agree.
#pragma once
#include <stddef.h>
#include <stdint.h>

// Code, name. cuGetErrorString gives the name in lower case, without underscores.
#define CUDA_ERRORS(ERROR)                                                                     \
  ERROR(1, INVALID_VALUE) ERROR(2, OUT_OF_MEMORY) ERROR(3, NOT_INITIALIZED)                    \
  ERROR(4, DEINITIALIZED) ERROR(34, STUB_LIBRARY) ERROR(36, CALL_REQUIRES_NEWER_DRIVER)        \
  ERROR(46, DEVICE_UNAVAILABLE) ERROR(100, NO_DEVICE) ERROR(101, INVALID_DEVICE)               \
  ERROR(102, DEVICE_NOT_LICENSED) ERROR(200, INVALID_IMAGE) ERROR(201, INVALID_CONTEXT)        \
  ERROR(205, MAP_FAILED) ERROR(206, UNMAP_FAILED) ERROR(209, NO_BINARY_FOR_GPU)                \
  ERROR(214, ECC_UNCORRECTABLE) ERROR(215, UNSUPPORTED_LIMIT)                                  \
  ERROR(216, CONTEXT_ALREADY_IN_USE) ERROR(217, PEER_ACCESS_UNSUPPORTED)                       \
  ERROR(218, INVALID_PTX) ERROR(220, NVLINK_UNCORRECTABLE) ERROR(221, JIT_COMPILER_NOT_FOUND)  \
  ERROR(222, UNSUPPORTED_PTX_VERSION) ERROR(226, CONTAINED) ERROR(300, INVALID_SOURCE)         \
  ERROR(301, FILE_NOT_FOUND) ERROR(304, OPERATING_SYSTEM) ERROR(400, INVALID_HANDLE)           \
  ERROR(401, ILLEGAL_STATE) ERROR(500, NOT_FOUND) ERROR(600, NOT_READY)                        \
  ERROR(700, ILLEGAL_ADDRESS) ERROR(701, LAUNCH_OUT_OF_RESOURCES) ERROR(702, LAUNCH_TIMEOUT)   \
  ERROR(708, PRIMARY_CONTEXT_ACTIVE) ERROR(709, CONTEXT_IS_DESTROYED) ERROR(710, ASSERT)       \
  ERROR(714, HARDWARE_STACK_ERROR) ERROR(715, ILLEGAL_INSTRUCTION)                             \
  ERROR(716, MISALIGNED_ADDRESS) ERROR(717, INVALID_ADDRESS_SPACE) ERROR(718, INVALID_PC)      \
  ERROR(719, LAUNCH_FAILED) ERROR(800, NOT_PERMITTED) ERROR(801, NOT_SUPPORTED)                \
  ERROR(802, SYSTEM_NOT_READY) ERROR(803, SYSTEM_DRIVER_MISMATCH)                              \
  ERROR(804, COMPAT_NOT_SUPPORTED_ON_DEVICE) ERROR(900, STREAM_CAPTURE_UNSUPPORTED)            \
  ERROR(909, TIMEOUT) ERROR(911, EXTERNAL_DEVICE) ERROR(999, UNKNOWN)

#define DECLARE_ERROR(code, name) CUDA_ERROR_##name = code,
enum CUresult : int { CUDA_SUCCESS = 0, CUDA_ERRORS(DECLARE_ERROR) };
#undef DECLARE_ERROR

typedef int CUdevice;
typedef uint64_t CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUlib_st *CUlibrary;
typedef struct CUfunc_st *CUfunction;
typedef struct CUfunc_st *CUkernel;  // either may be launched, so here they are one
typedef struct CUmemPoolHandle_st *CUmemoryPool;
typedef void (*CUhostFn)(void *);

struct CUuuid {
  uint8_t bytes[16];
};
static_assert(sizeof(CUuuid) == 16);

enum CUdevice_attribute : int {
  CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 1,
  CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X = 2,
  CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y = 3,
  CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z = 4,
  CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X = 5,
  CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y = 6,
  CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z = 7,
  CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK = 8,
  CU_DEVICE_ATTRIBUTE_WARP_SIZE = 10,
  CU_DEVICE_ATTRIBUTE_CLOCK_RATE = 13,
  CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
  CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY = 19,
  CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS = 31,
  CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR = 39,
  CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT = 40,
  CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING = 41,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
  CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED = 78,
  CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED = 115,
  CU_DEVICE_ATTRIBUTE_HOST_NUMA_MEMORY_POOLS_SUPPORTED = 142,
  CU_DEVICE_ATTRIBUTE_HOST_MEMORY_POOLS_SUPPORTED = 144,
};

enum CUpointer_attribute : int {
  CU_POINTER_ATTRIBUTE_CONTEXT = 1,
  CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2,
  CU_POINTER_ATTRIBUTE_DEVICE_POINTER = 3,
  CU_POINTER_ATTRIBUTE_HOST_POINTER = 4,
  CU_POINTER_ATTRIBUTE_BUFFER_ID = 7,
  CU_POINTER_ATTRIBUTE_IS_MANAGED = 8,
  CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9,
  CU_POINTER_ATTRIBUTE_RANGE_START_ADDR = 11,
  CU_POINTER_ATTRIBUTE_RANGE_SIZE = 12,
  CU_POINTER_ATTRIBUTE_MAPPED = 13,
};

enum CUfunction_attribute : int {
  CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 0,
  CU_FUNC_ATTRIBUTE_NUM_REGS = 4,
  CU_FUNC_ATTRIBUTE_PTX_VERSION = 5,
  CU_FUNC_ATTRIBUTE_BINARY_VERSION = 6,
};

enum CUmemorytype : unsigned {
  CU_MEMORYTYPE_HOST = 1,
  CU_MEMORYTYPE_DEVICE = 2,
  CU_MEMORYTYPE_ARRAY = 3,
  CU_MEMORYTYPE_UNIFIED = 4,  // the address says where it is
};

struct CUDA_MEMCPY2D {
  size_t srcXInBytes, srcY;
  CUmemorytype srcMemoryType;
  const void *srcHost;
  CUdeviceptr srcDevice;
  void *srcArray;
  size_t srcPitch;
  size_t dstXInBytes, dstY;
  CUmemorytype dstMemoryType;
  void *dstHost;
  CUdeviceptr dstDevice;
  void *dstArray;
  size_t dstPitch;
  size_t WidthInBytes, Height;
};
static_assert(sizeof(CUDA_MEMCPY2D) == 128);
static_assert(offsetof(CUDA_MEMCPY2D, srcMemoryType) == 16);
static_assert(offsetof(CUDA_MEMCPY2D, srcDevice) == 32);
static_assert(offsetof(CUDA_MEMCPY2D, srcPitch) == 48);
static_assert(offsetof(CUDA_MEMCPY2D, dstMemoryType) == 72);
static_assert(offsetof(CUDA_MEMCPY2D, dstDevice) == 88);
static_assert(offsetof(CUDA_MEMCPY2D, dstPitch) == 104);
static_assert(offsetof(CUDA_MEMCPY2D, Height) == 120);

struct CUlaunchConfig {
  unsigned gridDimX, gridDimY, gridDimZ;
  unsigned blockDimX, blockDimY, blockDimZ;
  unsigned sharedMemBytes;
  CUstream hStream;
  void *attrs;
  unsigned numAttrs;
};
static_assert(sizeof(CUlaunchConfig) == 56);
static_assert(offsetof(CUlaunchConfig, blockDimX) == 12);
static_assert(offsetof(CUlaunchConfig, hStream) == 32);
static_assert(offsetof(CUlaunchConfig, numAttrs) == 48);

enum CUmemLocationType : int {
  CU_MEM_LOCATION_TYPE_DEVICE = 1,
  CU_MEM_LOCATION_TYPE_HOST = 2,
  CU_MEM_LOCATION_TYPE_HOST_NUMA = 3,
  CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT = 4,
};

struct CUmemLocation {
  CUmemLocationType type;
  int id;
};
static_assert(sizeof(CUmemLocation) == 8);

struct CUmemPoolProps {
  int allocType, handleTypes;
  CUmemLocation location;
  void *win32SecurityAttributes;
  size_t maxSize;
  unsigned short usage;
  unsigned char reserved[54];
};
static_assert(sizeof(CUmemPoolProps) == 88);
static_assert(offsetof(CUmemPoolProps, location) == 8);

enum {
  CU_STREAM_NON_BLOCKING = 1,
  CU_EVENT_DISABLE_TIMING = 2,
  CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3,
  CU_STREAM_CAPTURE_STATUS_NONE = 0,
  CU_MODULE_LAZY_LOADING = 2,
  CU_GET_PROC_ADDRESS_SUCCESS = 0,
  CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND = 1,
};
