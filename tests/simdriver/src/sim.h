// The core of the simulated driver, which lives in libcuda.so.1: what the other two libraries
// (libnvcuvid.so.1, libnvidia-encode.so.1) and the tests (through ctypes) ask of it.
//
// Device memory is one memfd mapped twice. Addresses handed out lie in the first mapping, which
// is PROT_NONE for ever in strict mode: whatever the host reads or writes there dies with
// SIGSEGV, as it would with a GPU. The simulation itself uses the second mapping, `sim_host`.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define SIM_API extern "C" __attribute__((visibility("default")))

// ---- what a driver entry point does first

// Counts a call of `function` and returns the error that a test wants it to end with, or 0.
SIM_API int sim_enter(const char *function);
// Adds n to a named counter. Names that begin with "errors." are misuse that must not happen.
SIM_API void sim_count(const char *counter, int64_t n);
// A line of the trace (VIDAI_SIM_TRACE=1, or a file to append to).
SIM_API void sim_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
// The integer in the environment variable VIDAI_SIM_<name>, else the default.
SIM_API int sim_setting(const char *name, int otherwise);
// VIDAI_SIM_IDLE=1: kernels, NVDEC and NVENC do nothing but keep their promises of order and
// number (constant pictures, canned packets), so that what is left is the host's own cost.
SIM_API int sim_idle(void);

// ---- device memory

SIM_API uint64_t sim_allocate(size_t bytes, const char *tag);  // 0: out of memory
SIM_API int sim_free(uint64_t address);                        // 0: no such allocation
SIM_API int sim_inside(uint64_t address, size_t bytes);        // 1: within one live allocation
// The simulation's view of device memory; host addresses stay as they are.
SIM_API void *sim_host(uint64_t address);

// ---- streams. In deferred mode (VIDAI_SIM_DEFERRED=1) work waits in its stream until CUDA's
// rules say that something must wait for it; else it runs at once. A stream is a CUstream.

SIM_API void sim_submit(void *stream, void (*work)(void *), void *argument);
SIM_API void sim_wait(void *stream);  // runs what is queued, and what that waits for

// ---- kernels, told by their host build when it is loaded (see sim_kernel.h)

struct sim_parameter {
  uint32_t bytes, is_pointer;
};

struct sim_kernel {
  const char *name;
  uint32_t max_threads;  // of a block
  uint32_t parameter_count;
  const sim_parameter *parameters;
  void (*run)(const void *const *arguments, const uint32_t *grid, const uint32_t *block);
};

SIM_API void sim_register_kernel(const sim_kernel *kernel);

// ---- for the tests

SIM_API size_t sim_dump(char *buffer, size_t room);  // JSON; returns the room that it needs
SIM_API void sim_reset(void);                        // counters, calls, copies and faults
// "function:nth:code[:times],…", nth counted from now; "" clears. 0: malformed, or not a function.
SIM_API int sim_fault(const char *rules);
// Neither is a transfer. 0: not within one live allocation.
SIM_API int sim_read(uint64_t address, void *to, size_t bytes);  // now, whatever is queued
SIM_API int sim_write(void *stream, uint64_t address, const void *from, size_t bytes);  // in order
