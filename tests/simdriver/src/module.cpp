// Libraries of kernels and their launch. A cubin is read for the names of its kernels only; what
// runs is the host build of the same source, which registers itself when it is loaded.
#include "driver.h"

#include <elf.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

struct CUfunc_st {
  enum : uint32_t { ALIVE = 0xC0DE0005 };
  std::atomic<uint32_t> state{ALIVE};
  std::string name, launch;  // "launch.NAME": what faults are injected by
  CUlibrary library = nullptr;
  const sim_kernel *host = nullptr;  // null: there is no host build
};

struct CUlib_st {
  enum : uint32_t { ALIVE = 0xC0DE0004 };
  std::atomic<uint32_t> state{ALIVE};
  std::map<std::string, CUfunc_st> kernels;
};

static std::mutex &mutex = *new std::mutex;
static auto &host_kernels = *new std::map<std::string, const sim_kernel *>;
static auto &live_libraries = gauge("libraries.live");
static const int compute_capability = sim_setting("CC", 89);

void sim_register_kernel(const sim_kernel *kernel) {
  std::lock_guard<std::mutex> lock(mutex);
  host_kernels[kernel->name] = kernel;
}

// ---- cubins

enum { EM_CUDA_MACHINE = 190, CUDA_ABI = 8 };

// A cubin runs on its own major compute capability, at its minor one or a later.
static bool runs_here(const Elf64_Ehdr &header) {
  if (header.e_ident[EI_ABIVERSION] != CUDA_ABI) return true;  // elsewhere the flags differ
  int made_for = header.e_flags >> 8 & 0xff;
  return made_for / 10 == compute_capability / 10 && made_for <= compute_capability;
}

static void add_kernel(CUlib_st &library, const char *name) {
  CUfunc_st &kernel = library.kernels[name];
  kernel.name = name;
  kernel.launch = std::string("launch.") + name;
  kernel.library = &library;
  std::lock_guard<std::mutex> lock(mutex);
  auto host = host_kernels.find(name);
  kernel.host = host == host_kernels.end() ? nullptr : host->second;
}

static CUresult load(CUlibrary *loaded, const char *image) {
  auto &header = *(const Elf64_Ehdr *)image;
  if (memcmp(image, ELFMAG, SELFMAG) || header.e_machine != EM_CUDA_MACHINE)
    return CUDA_ERROR_INVALID_IMAGE;
  if (!runs_here(header)) return CUDA_ERROR_NO_BINARY_FOR_GPU;
  auto *sections = (const Elf64_Shdr *)(image + header.e_shoff);
  const char *names = image + sections[header.e_shstrndx].sh_offset;
  *loaded = new CUlib_st;
  for (int i = 0; i < header.e_shnum; i++) {
    const char *name = names + sections[i].sh_name;
    if (!strncmp(name, ".text.", 6)) add_kernel(**loaded, name + 6);
  }
  live_libraries++;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuLibraryLoadData(CUlibrary *library, const void *image, void *, void *, unsigned,
                                   void *, void *, unsigned) {
  ENTER(DRIVER);
  return load(library, (const char *)image);
}

SIM_API CUresult cuLibraryLoadFromFile(CUlibrary *library, const char *path, void *, void *,
                                       unsigned, void *, void *, unsigned) {
  ENTER(DRIVER);
  FILE *file = fopen(path, "rb");
  if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
  std::vector<char> image;
  char part[1 << 16];
  while (size_t read = fread(part, 1, sizeof part, file))
    image.insert(image.end(), part, part + read);
  fclose(file);
  if (image.size() < sizeof(Elf64_Ehdr)) return CUDA_ERROR_INVALID_IMAGE;
  return load(library, image.data());
}

SIM_API CUresult cuLibraryUnload(CUlibrary library) {
  ENTER(DRIVER);
  if (!is_alive(library)) return CUDA_ERROR_INVALID_HANDLE;
  library->state = 0;
  for (auto &[name, kernel] : library->kernels) kernel.state = 0;
  live_libraries--;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuLibraryGetKernel(CUkernel *kernel, CUlibrary library, const char *name) {
  ENTER(DRIVER);
  if (!is_alive(library)) return CUDA_ERROR_INVALID_HANDLE;
  auto found = library->kernels.find(name);
  if (found == library->kernels.end()) return CUDA_ERROR_NOT_FOUND;
  *kernel = &found->second;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuLibraryGetKernelCount(unsigned *count, CUlibrary library) {
  ENTER(DRIVER);
  if (!is_alive(library)) return CUDA_ERROR_INVALID_HANDLE;
  *count = (unsigned)library->kernels.size();
  return CUDA_SUCCESS;
}

SIM_API CUresult cuKernelGetFunction(CUfunction *function, CUkernel kernel) {
  ENTER(DRIVER);
  if (!is_alive(kernel)) return CUDA_ERROR_INVALID_HANDLE;
  *function = kernel;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuKernelGetLibrary(CUlibrary *library, CUkernel kernel) {
  ENTER(DRIVER);
  if (!is_alive(kernel)) return CUDA_ERROR_INVALID_HANDLE;
  *library = kernel->library;
  return CUDA_SUCCESS;
}

SIM_API CUresult cuKernelGetName(const char **name, CUkernel kernel) {
  ENTER(DRIVER);
  if (!is_alive(kernel)) return CUDA_ERROR_INVALID_HANDLE;
  *name = kernel->name.c_str();
  return CUDA_SUCCESS;
}

enum : uint32_t { MOST_THREADS = 1024, MOST_SHARED = 49152 };

static uint32_t most_threads(const CUfunc_st &kernel) {
  return kernel.host ? kernel.host->max_threads : (uint32_t)MOST_THREADS;
}

static int function_attribute(CUfunction_attribute attribute, const CUfunc_st &kernel) {
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      return (int)most_threads(kernel);
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      return 32;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
      return compute_capability;
  }
  return 0;
}

SIM_API CUresult cuKernelGetAttribute(int *value, CUfunction_attribute attribute, CUkernel kernel,
                                      CUdevice) {
  ENTER(DRIVER);
  if (!is_alive(kernel)) return CUDA_ERROR_INVALID_HANDLE;
  *value = function_attribute(attribute, *kernel);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction kernel) {
  ENTER(DRIVER);
  if (!is_alive(kernel)) return CUDA_ERROR_INVALID_HANDLE;
  *value = function_attribute(attribute, *kernel);
  return CUDA_SUCCESS;
}

SIM_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction kernel,
                                                             int threads, size_t) {
  ENTER(CONTEXT);
  if (!is_alive(kernel)) return CUDA_ERROR_INVALID_HANDLE;
  if (threads < 1) return CUDA_ERROR_INVALID_VALUE;
  *blocks = 1536 / threads;
  return CUDA_SUCCESS;
}

// ---- launches

// A launch keeps its own copy of the arguments: the caller's are gone when deferred work runs.
struct Launch {
  const sim_kernel &kernel;
  uint32_t grid[3], block[3];
  std::vector<uint64_t> values;
  std::vector<uint64_t> addresses;  // those of `values` that are pointers, as the caller gave them

  bool take_arguments(void **arguments);
  bool are_addresses_good() const;
  void run() const;
};

// False where an argument is larger than a register: structs by value are not supported.
bool Launch::take_arguments(void **arguments) {
  for (uint32_t i = 0; i < kernel.parameter_count; i++) {
    const sim_parameter &parameter = kernel.parameters[i];
    uint64_t value = 0;
    if (parameter.bytes > sizeof value) return false;
    memcpy(&value, arguments[i], parameter.bytes);
    if (parameter.is_pointer) addresses.push_back(value);
    values.push_back(parameter.is_pointer ? (uint64_t)sim_host(value) : value);
  }
  return true;
}

bool Launch::are_addresses_good() const {
  auto good = [](uint64_t at) { return !at || sim_inside(at, 1) || is_pinned(at); };
  if (std::all_of(addresses.begin(), addresses.end(), good)) return true;
  sim_count("errors.kernel_argument", 1);
  sim_trace("  %s: a pointer that is in no live allocation", kernel.name);
  return false;
}

void Launch::run() const {
  if (!are_addresses_good()) return;  // freed since the launch
  std::vector<const void *> pointers;
  for (const uint64_t &value : values) pointers.push_back(&value);
  kernel.run(pointers.data(), grid, block);
}

static bool is_possible(const CUfunc_st &kernel, const uint32_t *grid, const uint32_t *block,
                        unsigned shared) {
  for (int axis = 0; axis < 3; axis++)
    if (!grid[axis] || !block[axis]) return false;
  return grid[0] <= 0x7fffffff && grid[1] <= 65535 && grid[2] <= 65535 && block[2] <= 64 &&
         (uint64_t)block[0] * block[1] * block[2] <= most_threads(kernel) && shared <= MOST_SHARED;
}

static CUresult launch(CUfunction function, const CUlaunchConfig &config, void **arguments,
                       void **extra) {
  CUstream_st *stream = find_stream(config.hStream);
  if (!stream || !is_alive(function)) return CUDA_ERROR_INVALID_HANDLE;
  if (int code = sim_enter(function->launch.c_str())) return (CUresult)code;
  if (!function->host) {
    sim_count("errors.no_host_build", 1);
    fprintf(stderr, "simulated driver: no host build of kernel %s\n", function->name.c_str());
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  auto launch = std::make_shared<Launch>(
      Launch{*function->host,
             {config.gridDimX, config.gridDimY, config.gridDimZ},
             {config.blockDimX, config.blockDimY, config.blockDimZ}, {}, {}});
  if (!is_possible(*function, launch->grid, launch->block, config.sharedMemBytes))
    return CUDA_ERROR_INVALID_VALUE;
  if (extra || !launch->take_arguments(arguments)) return CUDA_ERROR_NOT_SUPPORTED;
  if (!launch->are_addresses_good()) return CUDA_ERROR_ILLEGAL_ADDRESS;
  sim_count("launches", 1);
  if (!sim_idle()) submit(*stream, [launch] { launch->run(); });
  return CUDA_SUCCESS;
}

SIM_API CUresult cuLaunchKernel(CUfunction kernel, unsigned grid_x, unsigned grid_y,
                                unsigned grid_z, unsigned block_x, unsigned block_y,
                                unsigned block_z, unsigned shared, CUstream stream,
                                void **arguments, void **extra) {
  ENTER(CONTEXT);
  CUlaunchConfig config{grid_x,  grid_y, grid_z, block_x, block_y,
                        block_z, shared, stream, nullptr, 0};
  return launch(kernel, config, arguments, extra);
}

SIM_API CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction kernel,
                                  void **arguments, void **extra) {
  ENTER(CONTEXT);
  return launch(kernel, *config, arguments, extra);
}
