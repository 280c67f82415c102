// NVIDIA's driver API as hetal uses it, on the CPU: memory is the host's, and a "cubin" is a shared library of the entry
// points' lane-by-lane forms. Work of a stream runs when something waits for it. What it cannot show is a GPU.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef std::function<void()> Task;

namespace {

constexpr CUresult INVALID = 1, NO_MEMORY = 2, NO_CONTEXT = 201, BAD_HANDLE = 400, NOT_READY = 600, IN_CAPTURE = 900;
constexpr size_t TOTAL = size_t(1) << 30;

struct Stream {
  std::deque<Task> tasks;
  std::vector<Task> *capture = nullptr;
};
struct Event {
  int recorded = 0, done = 0;
  Stream *stream = nullptr;
};
typedef std::vector<Task> Graph;

int context_object;
thread_local void *current = nullptr;
std::map<CUdeviceptr, size_t> blocks;
std::map<void *, unsigned long (*)()> argument_bytes;
size_t held = 0;
int open_handles = 0;

bool inside(CUdeviceptr address, size_t bytes) {
  auto at = blocks.upper_bound(address);
  if (at == blocks.begin()) return false;
  --at;
  return address + bytes <= at->first + at->second;
}

CUresult give(Stream *stream, Task task) {
  if (!current) return NO_CONTEXT;
  if (stream->capture)
    stream->capture->push_back(task);
  else
    stream->tasks.push_back(task);
  return 0;
}

void run(Stream *stream) {
  while (!stream->tasks.empty()) {
    Task task = stream->tasks.front();
    stream->tasks.pop_front();
    task();
  }
}

}  // namespace

extern "C" {

CUresult cuInit(unsigned flags) { return flags ? INVALID : 0; }
CUresult cuDriverGetVersion(int *version) { return *version = 13010, 0; }
CUresult cuDeviceGetCount(int *count) { return *count = 1, 0; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { return ordinal ? 101 : (*device = 7, 0); }
CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
  if (device != 7) return 101;
  snprintf(name, length, "pretended device");
  return 0;
}
CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
  if (device != 7) return 101;
  *value = attribute == 75 ? 9 : attribute == 76 ? 0 : -1;
  return 0;
}
CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice) { return *bytes = TOTAL, 0; }
CUresult cuDevicePrimaryCtxRetain(void **context, CUdevice device) {
  return device == 7 ? (*context = &context_object, 0) : 101;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) { return device == 7 ? 0 : 101; }
CUresult cuCtxSetCurrent(void *context) { return current = context, 0; }
CUresult cuGetErrorString(CUresult error, const char **text) { return *text = error == NO_CONTEXT ? "no context" : "?", 0; }

CUresult cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = TOTAL - held, *total = TOTAL, current ? 0 : NO_CONTEXT; }
CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
  if (!current) return NO_CONTEXT;
  if (!bytes) return INVALID;
  if (held + bytes > TOTAL) return NO_MEMORY;
  void *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
  memset(memory, 0xff, bytes);
  *address = (CUdeviceptr)memory;
  blocks[*address] = bytes;
  held += bytes;
  return 0;
}
CUresult cuMemFree_v2(CUdeviceptr address) {
  auto at = blocks.find(address);
  if (!current || at == blocks.end()) return INVALID;
  memset((void *)address, 0xff, at->second);
  held -= at->second;
  free((void *)address);
  blocks.erase(at);
  return 0;
}
CUresult cuMemHostAlloc(void **memory, size_t bytes, unsigned) { return *memory = malloc(bytes), ++open_handles, 0; }
CUresult cuMemFreeHost(void *memory) { return free(memory), --open_handles, 0; }

// Copies read pageable memory at once and pinned memory later; here all is read later but what is small, as bytes that
// were not pinned are gone by then.
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, Stream *stream) {
  if (!inside(to, bytes)) return INVALID;
  if (stream->capture) return IN_CAPTURE;
  std::string kept((const char *)from, bytes);
  return give(stream, [=] { memcpy((void *)to, kept.data(), bytes); });
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, Stream *stream) {
  if (!inside(from, bytes)) return INVALID;
  if (stream->capture) return IN_CAPTURE;
  return give(stream, [=] { memcpy(to, (void *)from, bytes); });
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, Stream *stream) {
  if (!inside(to, bytes) || !inside(from, bytes)) return INVALID;
  return give(stream, [=] { memcpy((void *)to, (void *)from, bytes); });
}
CUresult cuMemsetD8Async(CUdeviceptr at, unsigned char value, size_t bytes, Stream *stream) {
  if (!inside(at, bytes)) return INVALID;
  return give(stream, [=] { memset((void *)at, value, bytes); });
}

CUresult cuStreamCreate(Stream **stream, unsigned flags) { return flags == 1 ? (*stream = new Stream, ++open_handles, 0) : INVALID; }
CUresult cuStreamDestroy_v2(Stream *stream) { return delete stream, --open_handles, 0; }
CUresult cuStreamSynchronize(Stream *stream) { return stream->capture ? IN_CAPTURE : (run(stream), 0); }
CUresult cuStreamWaitEvent(Stream *stream, Event *event, unsigned flags) {
  if (stream->capture || flags) return IN_CAPTURE;
  const int number = event->recorded;
  Stream *other = event->stream;
  return give(stream, [=] {
    while (event->done < number && !other->tasks.empty()) {
      Task task = other->tasks.front();
      other->tasks.pop_front();
      task();
    }
  });
}
// Events outlive their handles here: work may still refer to them.
CUresult cuEventCreate(Event **event, unsigned flags) { return flags ? INVALID : (*event = new Event, ++open_handles, 0); }
CUresult cuEventDestroy_v2(Event *) { return --open_handles, 0; }
CUresult cuEventRecord(Event *event, Stream *stream) {
  if (stream->capture) return IN_CAPTURE;
  const int number = ++event->recorded;
  event->stream = stream;
  return give(stream, [=] { event->done = number; });
}
CUresult cuEventElapsedTime(float *milliseconds, Event *start, Event *end) {
  if (start->done < start->recorded || end->done < end->recorded) return NOT_READY;
  return *milliseconds = 1.5f, 0;
}

CUresult cuModuleLoadData(void **module, const void *image) {
  if (!current) return NO_CONTEXT;
  // The library ends where its section headers do.
  const auto *bytes = (const unsigned char *)image;
  if (memcmp(bytes, "\177ELF", 4)) return 200;
  unsigned long headers;
  unsigned short size, count;
  memcpy(&headers, bytes + 40, 8);
  memcpy(&size, bytes + 58, 2);
  memcpy(&count, bytes + 60, 2);
  char path[] = "/tmp/hetal-fake-cubin-XXXXXX";
  const int file = mkstemp(path);
  const size_t total = headers + (size_t)size * count;
  const bool written = write(file, image, total) == (ssize_t)total;
  close(file);
  *module = written ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
  unlink(path);
  return *module ? 0 : 200;
}
CUresult cuModuleGetFunction(void **function, void *module, const char *name) {
  *function = dlsym(module, name);
  argument_bytes[*function] = (unsigned long (*)())dlsym(module, (std::string(name) + "_bytes").c_str());
  return argument_bytes[*function] ? 0 : 500;
}
CUresult cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                        unsigned shared, Stream *stream, void **arguments, void **extra) {
  if (!function) return BAD_HANDLE;
  if (!x || !y || !z || y > 65535 || z > 65535 || threads < 32 || threads > 1024 || ty != 1 || tz != 1 || shared || extra)
    return INVALID;
  const std::string kept((const char *)arguments[0], argument_bytes.at(function)());
  const auto entry = (void (*)(const void *, int, int, int))function;
  return give(stream, [=] { entry(kept.data(), (int)x, (int)y, (int)z); });
}

CUresult cuStreamBeginCapture_v2(Stream *stream, int mode) {
  if (stream->capture || mode != 2) return INVALID;
  stream->capture = new Graph;
  return 0;
}
CUresult cuStreamEndCapture(Stream *stream, Graph **graph) {
  *graph = stream->capture;
  stream->capture = nullptr;
  return *graph ? (++open_handles, 0) : INVALID;
}
CUresult cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long flags) {
  if (flags) return INVALID;
  *executable = new Graph(*graph);
  ++open_handles;
  return 0;
}
CUresult cuGraphLaunch(Graph *executable, Stream *stream) {
  for (auto &task : *executable) give(stream, task);
  return current ? 0 : NO_CONTEXT;
}
CUresult cuGraphExecDestroy(Graph *executable) { return delete executable, --open_handles, 0; }
CUresult cuGraphDestroy(Graph *graph) { return delete graph, --open_handles, 0; }

// For the test.
size_t pretended_bytes_held() { return held; }
int pretended_open_handles() { return open_handles; }

}  // extern "C"
