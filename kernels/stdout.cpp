// NVIDIA's decoder tells of a damaged picture in no other way than by a line with "Error" that it
// prints to C's stdout. Here such lines are counted for the thread that decodes, and not shown;
// all else goes where it always went. Python's own sys.stdout is not C's.
#include <cerrno>
#include <cstdio>
#include <mutex>
#include <string>
#include <unistd.h>

namespace {

thread_local bool counting = false;
thread_local int lines = 0;

thread_local std::string begun;  // a line without its end yet

// How many bytes were written; fewer than asked for is an error to C's stdout.
size_t show(const char *text, size_t size) {
  size_t done = 0;
  while (done < size) {
    ssize_t written = write(STDOUT_FILENO, text + done, size - done);
    if (written > 0) {
      done += (size_t)written;
    } else if (written == 0 || errno != EINTR) {
      break;
    }
  }
  return done;
}

void end_line() {
  if (begun.find("rror") != std::string::npos) {
    lines++;
  } else {
    show(begun.data(), begun.size());
  }
  begun.clear();
}

// Unlike write(2) it returns 0 on an error, as fopencookie wants it.
ssize_t write_out(void *, const char *text, size_t size) {
  if (!counting) return (ssize_t)show(text, size);
  for (size_t i = 0; i < size; i++) {
    begun += text[i];
    if (text[i] == '\n') end_line();
  }
  return (ssize_t)size;
}

void take_over() {
  cookie_io_functions_t functions = {};
  functions.write = write_out;
  FILE *ours = fopencookie(nullptr, "w", functions);
  if (!ours) return;  // lines are shown then, and not counted
  setvbuf(ours, nullptr, _IONBF, 0);
  fflush(stdout);
  stdout = ours;
}

}  // namespace

// From here on until printed_lines, errors that this thread prints to C's stdout are held back.
extern "C" __attribute__((visibility("default"))) void hold_stdout() {
  static std::once_flag once;
  std::call_once(once, take_over);
  lines = 0;
  counting = true;
}

// Ends that; returns how many lines of errors there were.
extern "C" __attribute__((visibility("default"))) int printed_lines() {
  counting = false;
  end_line();
  return lines;
}
