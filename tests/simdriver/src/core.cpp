// Counters, faults, the trace, settings, and what the tests ask for.
#include "driver.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

// ---- named numbers

Numbers::Entry &Numbers::operator[](const char *name) {
  uint32_t hash = 2166136261u;  // FNV-1a
  for (const char *c = name; *c; c++) hash = (hash ^ (uint8_t)*c) * 16777619u;
  for (size_t i = 0; i < SLOTS; i++) {
    std::atomic<Entry *> &slot = slots_[(hash + i) % SLOTS];
    Entry *entry = slot.load(std::memory_order_acquire);
    if (!entry) {
      auto *added = new Entry{name};
      if (slot.compare_exchange_strong(entry, added)) return *added;
      delete added;  // another thread was first, maybe with the same name
    }
    if (entry->name == name) return *entry;
  }
  fprintf(stderr, "simulated driver: too many names of counters\n");
  abort();
}

static Numbers calls, counters, gauges;

std::atomic<int64_t> &gauge(const char *name) { return gauges[name].value; }

void sim_count(const char *counter, int64_t n) {
  counters[counter].value.fetch_add(n, std::memory_order_relaxed);
}

// ---- settings and the trace

int sim_setting(const char *name, int otherwise) {
  const char *value = getenv((std::string("VIDAI_SIM_") + name).c_str());
  return value && *value ? atoi(value) : otherwise;
}

int sim_idle() {
  static const bool idle = sim_setting("IDLE", 0);
  return idle;
}

static FILE *open_trace() {
  const char *where = getenv("VIDAI_SIM_TRACE");
  if (!where || !*where || !strcmp(where, "0")) return nullptr;
  return strcmp(where, "1") ? fopen(where, "a") : stderr;
}

static FILE *const trace = open_trace();

void sim_trace(const char *format, ...) {
  if (!trace) return;
  char line[1000];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  unsigned thread = std::hash<std::thread::id>()(std::this_thread::get_id()) & 0xffff;
  fprintf(trace, "[%04x] %s\n", thread, line);
  fflush(trace);
}

// ---- faults

struct Fault {
  int64_t first, end;  // the calls, counted from 1, that it meets
  int code;
};

static std::mutex &faults_mutex = *new std::mutex;
static auto &faults = *new std::map<std::string, std::vector<Fault>>;
static std::atomic<bool> any_fault{false};

// A name that no call will ever have makes a fault that never comes, and a test of nothing.
// Names of the video libraries and of kernels are not known here.
static bool may_be_called(const std::string &function) {
  bool ours = !function.compare(0, 2, "cu") && function.compare(0, 5, "cuvid");
  return !ours || find_entry_point(function.c_str());
}

// One rule, "function:nth:code[:times]"; the nth call from now.
static bool add_fault(const std::string &rule) {
  char function[128];
  long nth, code, times = 1;
  char rest;
  int read = sscanf(rule.c_str(), "%127[^:]:%ld:%ld%c", function, &nth, &code, &rest);
  if (read == 4) read = sscanf(rule.c_str(), "%*[^:]:%*d:%*d:%ld%c", &times, &rest) == 1 ? 3 : 0;
  if (read != 3 || nth < 1 || times < 1 || !may_be_called(function)) return false;
  int64_t first = calls[function].value + nth;
  faults[function].push_back({first, first + times, (int)code});
  return true;
}

int sim_fault(const char *rules) {
  std::lock_guard<std::mutex> lock(faults_mutex);
  if (!*rules) faults.clear();
  std::string rest = rules;
  while (!rest.empty()) {
    size_t comma = std::min(rest.find(','), rest.size());
    if (!add_fault(rest.substr(0, comma))) return 0;
    rest.erase(0, comma + 1);
  }
  any_fault = !faults.empty();
  return 1;
}

static int injected(const std::string &function, int64_t call) {
  std::lock_guard<std::mutex> lock(faults_mutex);
  auto rules = faults.find(function);
  if (rules == faults.end()) return 0;
  for (const Fault &fault : rules->second)
    if (call >= fault.first && call < fault.end) return fault.code;
  return 0;
}

int sim_enter(const char *function) {
  Numbers::Entry &entry = calls[function];
  int64_t call = entry.value.fetch_add(1, std::memory_order_relaxed) + 1;
  int code = any_fault.load(std::memory_order_relaxed) ? injected(entry.name, call) : 0;
  if (trace) sim_trace("%s #%lld%s", function, (long long)call, code ? " FAULT" : "");
  return code;
}

static bool read_faults() {
  const char *rules = getenv("VIDAI_SIM_FAULT");
  if (!rules || sim_fault(rules)) return true;
  fprintf(stderr, "simulated driver: malformed VIDAI_SIM_FAULT=%s\n", rules);
  abort();
}

static const bool faults_read = read_faults();

// ---- the dump

// Names are those of C functions, kernels and counters: nothing in them needs escaping.
static void append_numbers(std::string &json, Numbers &numbers, bool zeros) {
  numbers.each([&](const Numbers::Entry &entry) {
    if (!zeros && !entry.value) return;
    if (json.back() != '{') json += ',';
    json += '"' + entry.name + "\":" + std::to_string(entry.value);
  });
}

size_t sim_dump(char *buffer, size_t room) {
  std::string json = "{\"counters\":{";
  append_numbers(json, counters, false);
  append_numbers(json, gauges, true);
  json += "},\"calls\":{";
  append_numbers(json, calls, false);
  Dumped dumped;
  dump_copies(dumped);
  dump_memory(dumped);
  json += "},\"copies\":[" + dumped.copies + "],\"live\":[" + dumped.live + "]}";
  if (buffer && room) snprintf(buffer, room, "%s", json.c_str());
  return json.size() + 1;
}

// What is there now, such as open sessions, does not begin anew.
static bool is_gauge(const std::string &name) {
  for (std::string end : {".sessions", ".registered"})
    if (name.size() > end.size() && !name.compare(name.size() - end.size(), end.size(), end))
      return true;
  return false;
}

void sim_reset() {
  auto clear = [](Numbers::Entry &entry) { entry.value = 0; };
  auto clear_count = [](Numbers::Entry &entry) {
    if (!is_gauge(entry.name)) entry.value = 0;
  };
  sim_fault("");
  counters.each(clear_count);
  calls.each(clear);
  reset_copies();
  reset_memory_peak();
}
