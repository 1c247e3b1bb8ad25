// A camera for programs that are started with this library in LD_PRELOAD: a V4L2 capture device
// with memory-mapped buffers, as the kernel's driver for USB cameras gives it.
//
// SIMV4L2_DEVICE is the path of the device. SIMV4L2 names a file of lines, which is read whenever
// the device is opened:
//   mode MJPG 320 240 /tmp/frames  a format, a size, and frames: each its length (32 bit) and bytes
//   fps 30                         rates that it offers
//   state busy                     busy, denied, absent, hang or unplug; metadata or output: one
//                                  of the devices beside that of the pictures
//   after 10                       frames until it hangs or is unplugged
//   damaged 3                      a frame that is marked as damaged
//   log /tmp/log                   gets a line for each format and rate that is set
// Frames begin anew at the end; each has the time at which it is due by the rate. A program that
// takes them too slowly loses some, and one that keeps all buffers gets none.
#include <linux/videodev2.h>

#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace {

constexpr unsigned kBuffers = 8;
constexpr unsigned kPage = 4096;

struct Mode {
    uint32_t fourcc, width, height;
    std::vector<std::string> frames;
};

struct Device {
    std::string state = "ok", log;
    std::vector<Mode> modes;
    std::vector<unsigned> rates;
    long after = 0, damaged = -1;

    int fd = -1;
    bool non_blocking = false, streaming = false;
    size_t mode = 0;
    unsigned fps = 0, count = 0, length = 0;
    std::deque<unsigned> queued;
    long next = 0;        // frame, since the stream was begun
    long taken = 0;       // frames since then
    double begun = 0;     // s of CLOCK_MONOTONIC
    char* memory = nullptr;

    const Mode& now() const { return modes[mode]; }
};

std::mutex lock;
Device device;

template <typename F>
F real(F, const char* name) {
    return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}

uint32_t fourcc(const std::string& name) {
    return v4l2_fourcc(name[0], name[1], name[2], name[3]);
}

std::vector<std::string> read_frames(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<std::string> frames;
    uint32_t length = 0;
    while (file.read(reinterpret_cast<char*>(&length), sizeof length)) {
        frames.emplace_back(length, '\0');
        file.read(&frames.back()[0], length);
    }
    return frames;
}

Device read_device() {
    Device read;
    const char* name = getenv("SIMV4L2");
    std::ifstream file(name ? name : "");
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string key, format, path;
        words >> key;
        if (key == "state") words >> read.state;
        if (key == "log") words >> read.log;
        if (key == "after") words >> read.after;
        if (key == "damaged") words >> read.damaged;
        if (key == "fps")
            for (unsigned rate; words >> rate;) read.rates.push_back(rate);
        Mode mode;
        if (key == "mode" && words >> format >> mode.width >> mode.height >> path) {
            mode.fourcc = fourcc(format);
            mode.frames = read_frames(path);
            read.modes.push_back(mode);
        }
    }
    read.fps = read.rates.empty() ? 30 : read.rates[0];
    return read;
}

void tell(const std::string& line) {
    if (!device.log.empty()) std::ofstream(device.log, std::ios::app) << line << "\n";
}

double now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

int fail(int error) {
    errno = error;
    return -1;
}

int open_device(int flags) {
    Device fresh = read_device();
    if (fresh.state == "absent") return fail(ENOENT);
    if (fresh.state == "denied") return fail(EACCES);
    if (device.fd >= 0) return fail(EBUSY);
    device = fresh;
    device.fd = memfd_create("simv4l2", 0);
    device.non_blocking = flags & O_NONBLOCK;
    return device.fd;
}

// The format that is nearest to what is asked for: as the driver for USB cameras, it never refuses.
size_t nearest(const v4l2_pix_format& asked) {
    size_t best = 0;
    double least = 1e18;
    for (size_t i = 0; i < device.modes.size(); i++) {
        const Mode& mode = device.modes[i];
        double away = std::abs(double(mode.width) - asked.width) +
                      std::abs(double(mode.height) - asked.height) +
                      (mode.fourcc == asked.pixelformat ? 0 : 1e9);
        if (away < least) least = away, best = i;
    }
    return best;
}

size_t largest(const Mode& mode) {
    size_t size = mode.width * mode.height * 2;
    for (const std::string& frame : mode.frames) size = std::max(size, frame.size());
    return size;
}

void fill(v4l2_pix_format& pix, const Mode& mode) {
    bool raw = mode.fourcc == V4L2_PIX_FMT_YUYV;
    pix = {};
    pix.width = mode.width;
    pix.height = mode.height;
    pix.pixelformat = mode.fourcc;
    pix.field = V4L2_FIELD_NONE;
    pix.bytesperline = raw ? mode.width * 2 : 0;
    pix.sizeimage = largest(mode);
    pix.colorspace = V4L2_COLORSPACE_SRGB;
}

std::vector<uint32_t> formats() {
    std::vector<uint32_t> known;
    for (const Mode& mode : device.modes)
        if (known.empty() || known.back() != mode.fourcc) known.push_back(mode.fourcc);
    return known;
}

int enumerate_formats(v4l2_fmtdesc* asked) {
    std::vector<uint32_t> known = formats();
    if (asked->index >= known.size()) return fail(EINVAL);
    asked->pixelformat = known[asked->index];
    asked->flags = asked->pixelformat == V4L2_PIX_FMT_YUYV ? 0 : V4L2_FMT_FLAG_COMPRESSED;
    return 0;
}

int enumerate_sizes(v4l2_frmsizeenum* asked) {
    unsigned index = 0;
    for (const Mode& mode : device.modes) {
        if (mode.fourcc != asked->pixel_format || index++ != asked->index) continue;
        asked->type = V4L2_FRMSIZE_TYPE_DISCRETE;
        asked->discrete = {mode.width, mode.height};
        return 0;
    }
    return fail(EINVAL);
}

int set_format(v4l2_format* format, bool set) {
    if (set && (device.state == "busy" || device.count)) return fail(EBUSY);
    size_t mode = nearest(format->fmt.pix);
    fill(format->fmt.pix, device.modes[mode]);
    if (!set) return 0;
    device.mode = mode;
    const Mode& now = device.now();
    tell("format " + std::string(reinterpret_cast<const char*>(&now.fourcc), 4) + " " +
         std::to_string(now.width) + "x" + std::to_string(now.height));
    return 0;
}

int set_rate(v4l2_streamparm* parm, bool set) {
    v4l2_fract& wanted = parm->parm.capture.timeperframe;
    if (set && wanted.numerator && wanted.denominator) {
        double fps = double(wanted.denominator) / wanted.numerator;
        for (unsigned rate : device.rates)
            if (std::abs(rate - fps) < std::abs(device.fps - fps)) device.fps = rate;
        tell("fps " + std::to_string(device.fps));
    }
    parm->parm.capture.capability = V4L2_CAP_TIMEPERFRAME;
    wanted = {1, device.fps};
    return 0;
}

int request_buffers(v4l2_requestbuffers* asked) {
    if (asked->memory != V4L2_MEMORY_MMAP) return fail(EINVAL);
    if (device.state == "busy") return fail(EBUSY);
    device.count = asked->count = std::min(asked->count, kBuffers);
    device.length = (largest(device.now()) + kPage - 1) / kPage * kPage;
    size_t size = size_t(device.length) * device.count;
    if (ftruncate(device.fd, size)) return -1;
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, device.fd, 0);
    device.memory = memory == MAP_FAILED ? nullptr : static_cast<char*>(memory);
    return 0;
}

int query_buffer(v4l2_buffer* buffer) {
    if (buffer->index >= device.count) return fail(EINVAL);
    buffer->length = device.length;
    buffer->m.offset = buffer->index * device.length;
    return 0;
}

int queue(v4l2_buffer* buffer) {
    if (buffer->index >= device.count) return fail(EINVAL);
    device.queued.push_back(buffer->index);
    return 0;
}

// A frame that is there, or an error; EAGAIN where none is due.
int take(v4l2_buffer* buffer) {
    if (!device.streaming) return fail(EINVAL);
    bool over = device.taken >= device.after;
    if (device.state == "unplug" && over) return fail(ENODEV);
    double due = device.begun + double(device.next + 1) / device.fps;
    if ((device.state == "hang" && over) || device.queued.empty() || now() < due)
        return fail(EAGAIN);
    long missed = long((now() - due) * device.fps) - long(device.queued.size());
    device.next += std::max(0L, missed);
    due = device.begun + double(device.next + 1) / device.fps;
    const std::string& frame = device.now().frames[device.next % device.now().frames.size()];
    unsigned index = device.queued.front();
    device.queued.pop_front();
    memcpy(device.memory + size_t(index) * device.length, frame.data(), frame.size());
    buffer->index = index;
    buffer->bytesused = frame.size();
    buffer->flags = V4L2_BUF_FLAG_MAPPED | V4L2_BUF_FLAG_DONE | V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
    if (device.next == device.damaged) buffer->flags |= V4L2_BUF_FLAG_ERROR;
    buffer->timestamp = {time_t(due), suseconds_t((due - time_t(due)) * 1e6)};
    buffer->sequence = device.next++;
    device.taken++;
    return 0;
}

int start(bool on) {
    device.streaming = on;
    device.next = device.taken = 0;
    device.begun = now();
    if (!on) device.queued.clear();
    return 0;
}

int control(unsigned long request, void* data) {
    if (device.state == "metadata" && request != VIDIOC_QUERYCAP) return fail(ENOTTY);
    switch (request) {
    case VIDIOC_QUERYCAP: {
        auto* caps = static_cast<v4l2_capability*>(data);
        *caps = {};
        strcpy(reinterpret_cast<char*>(caps->driver), "simv4l2");
        caps->capabilities = V4L2_CAP_STREAMING | V4L2_CAP_DEVICE_CAPS;
        // Of the camera as a whole, so a device for metadata says it as well.
        caps->capabilities |=
            device.state == "output" ? V4L2_CAP_VIDEO_OUTPUT : V4L2_CAP_VIDEO_CAPTURE;
        caps->device_caps =
            device.state == "metadata" ? V4L2_CAP_META_CAPTURE : V4L2_CAP_VIDEO_CAPTURE;
        return 0;
    }
    case VIDIOC_ENUM_FMT: return enumerate_formats(static_cast<v4l2_fmtdesc*>(data));
    case VIDIOC_ENUM_FRAMESIZES: return enumerate_sizes(static_cast<v4l2_frmsizeenum*>(data));
    case VIDIOC_G_FMT: fill(static_cast<v4l2_format*>(data)->fmt.pix, device.now()); return 0;
    case VIDIOC_S_FMT: return set_format(static_cast<v4l2_format*>(data), true);
    case VIDIOC_TRY_FMT: return set_format(static_cast<v4l2_format*>(data), false);
    case VIDIOC_G_PARM: return set_rate(static_cast<v4l2_streamparm*>(data), false);
    case VIDIOC_S_PARM: return set_rate(static_cast<v4l2_streamparm*>(data), true);
    case VIDIOC_G_INPUT: *static_cast<int*>(data) = 0; return 0;
    case VIDIOC_S_INPUT: return *static_cast<int*>(data) ? fail(EINVAL) : 0;
    case VIDIOC_ENUMINPUT: {
        auto* input = static_cast<v4l2_input*>(data);
        if (input->index) return fail(EINVAL);
        *input = {};
        strcpy(reinterpret_cast<char*>(input->name), "Camera 1");
        input->type = V4L2_INPUT_TYPE_CAMERA;
        return 0;
    }
    case VIDIOC_REQBUFS: return request_buffers(static_cast<v4l2_requestbuffers*>(data));
    case VIDIOC_QUERYBUF: return query_buffer(static_cast<v4l2_buffer*>(data));
    case VIDIOC_QBUF: return queue(static_cast<v4l2_buffer*>(data));
    case VIDIOC_DQBUF: return take(static_cast<v4l2_buffer*>(data));
    case VIDIOC_STREAMON: return start(true);
    case VIDIOC_STREAMOFF: return start(false);
    default: return fail(ENOTTY);
    }
}

bool is_device(const char* path) {
    const char* ours = getenv("SIMV4L2_DEVICE");
    return path && ours && !strcmp(path, ours);
}

bool is_ours(int fd) {
    std::lock_guard<std::mutex> held(lock);
    return fd >= 0 && fd == device.fd;
}

}  // namespace

#define OPEN(name, before, call)                                  \
    extern "C" int name(before const char* path, int flags, ...) {  \
        va_list rest;                                             \
        va_start(rest, flags);                                    \
        mode_t mode = va_arg(rest, mode_t);                       \
        va_end(rest);                                             \
        if (!is_device(path)) return real(&name, #name) call;     \
        std::lock_guard<std::mutex> held(lock);                   \
        return open_device(flags);                                \
    }
#define FOLDER int folder,
OPEN(open, , (path, flags, mode))
OPEN(open64, , (path, flags, mode))
OPEN(openat, FOLDER, (folder, path, flags, mode))
OPEN(openat64, FOLDER, (folder, path, flags, mode))

extern "C" int close(int fd) {
    if (is_ours(fd)) {
        std::lock_guard<std::mutex> held(lock);
        if (device.memory) munmap(device.memory, size_t(device.length) * device.count);
        device = Device();
    }
    return real(&close, "close")(fd);
}

extern "C" int ioctl(int fd, unsigned long request, ...) noexcept {
    va_list rest;
    va_start(rest, request);
    void* data = va_arg(rest, void*);
    va_end(rest);
    if (!is_ours(fd)) return real(&ioctl, "ioctl")(fd, request, data);
    for (;;) {
        {
            std::lock_guard<std::mutex> held(lock);
            int result = control(request, data);
            bool waits = request == VIDIOC_DQBUF && !device.non_blocking;
            if (result == 0 || errno != EAGAIN || !waits) return result;
        }
        usleep(1000);
    }
}
