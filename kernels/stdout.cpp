// NVIDIA's decoder tells of a damaged picture in no other way than by a line that it prints to
// C's stdout. Here such lines are counted for the thread that decodes, and not shown; what
// other threads print goes where it always went. Python's own sys.stdout is not C's.
#include <cstdio>
#include <mutex>
#include <unistd.h>

namespace {

thread_local bool counting = false;
thread_local int lines = 0;

ssize_t write_out(void *, const char *text, size_t size) {
  if (!counting) return write(STDOUT_FILENO, text, size);
  for (size_t i = 0; i < size; i++) lines += text[i] == '\n';
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

// From here on until printed_lines, what this thread prints through C's stdout is held back.
extern "C" __attribute__((visibility("default"))) void hold_stdout() {
  static std::once_flag once;
  std::call_once(once, take_over);
  lines = 0;
  counting = true;
}

// Ends that; returns how many lines there were.
extern "C" __attribute__((visibility("default"))) int printed_lines() {
  counting = false;
  return lines;
}
