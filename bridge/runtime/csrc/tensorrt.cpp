#include "tensorrt.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "error.h"

namespace bridge {

namespace {

#define BRIDGE_TEXT_(value) #value
#define BRIDGE_TEXT(value) BRIDGE_TEXT_(value)
constexpr const char* kLibrary = "libnvinfer.so." BRIDGE_TEXT(NV_TENSORRT_MAJOR);
constexpr const char* kPlugins = "libnvinfer_plugin.so." BRIDGE_TEXT(NV_TENSORRT_MAJOR);

thread_local ErrorsHeard* heard = nullptr;
thread_local StreamOrdered* ordered = nullptr;
thread_local bool attempting = false;

std::atomic<LogSink> log_sink{nullptr};

class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kERROR && heard != nullptr) {
      heard->add(message);
    }
    severity = attempting ? Severity::kVERBOSE : severity;
    if (LogSink sink = log_sink.load()) {
      sink(static_cast<int>(severity), message);
    } else if (severity <= Severity::kWARNING && is_new(message)) {
      std::fprintf(stderr, "[bridge] TensorRT: %s\n", message);
    }
  }

 private:
  bool is_new(const char* message) {
    const std::lock_guard<std::mutex> lock(mutex_);
    constexpr size_t kMostSaid = 1000;
    return said_.size() < kMostSaid && said_.insert(message).second;
  }

  std::mutex mutex_;
  std::set<std::string> said_;
};

// TensorRT keeps the first logger for the whole process: it is never destroyed.
Logger& logger() {
  static auto* const instance = new Logger;
  return *instance;
}

// TensorRT's memory from PyTorch's pool: what PyTorch has cached is free for TensorRT too, and what TensorRT has is counted.
class Allocator final : public nvinfer1::IGpuAllocator {
 public:
  void* allocate(uint64_t size, uint64_t alignment, nvinfer1::AllocatorFlags flags) noexcept override {
    return allocateAsync(size, alignment, flags, nullptr);
  }

  void* allocateAsync(uint64_t size, uint64_t, nvinfer1::AllocatorFlags, cudaStream_t stream) noexcept override {
    if (size == 0 || attempting) {
      return nullptr;
    }
    try {
      void* memory = nullptr;
      lasting([&] { memory = c10::cuda::CUDACachingAllocator::raw_alloc_with_stream(size, stream); });
      if (ordered != nullptr && ordered->covers(stream)) {
        ordered->add(memory);
      } else {
        settle(stream);
      }
      return memory;
    } catch (const std::exception& error) {
      logger().log(nvinfer1::ILogger::Severity::kERROR, error.what());
      return nullptr;
    }
  }

  bool deallocate(void* memory) noexcept override {
    return deallocateAsync(memory, nullptr);
  }

  bool deallocateAsync(void* memory, cudaStream_t stream) noexcept override {
    if (memory != nullptr) {
      if (ordered == nullptr || !ordered->remove(memory)) {
        settle(stream);
      }
      c10::cuda::CUDACachingAllocator::raw_delete(memory);
    }
    return true;
  }

 private:
  // The pool gives and takes memory in the order of one stream. Where TensorRT uses it otherwise, queued work is waited for.
  static void settle(cudaStream_t stream) noexcept {
    auto status = cudaStreamCaptureStatusNone;
    const bool known = cudaStreamIsCapturing(stream, &status) == cudaSuccess;
    if (!known || (status == cudaStreamCaptureStatusNone && cudaStreamSynchronize(stream) != cudaSuccess)) {
      (void)cudaGetLastError();
    }
  }
};

Allocator& allocator() {
  static auto* const instance = new Allocator;
  return *instance;
}

std::mutex& library_mutex() {
  static auto* const instance = new std::mutex;
  return *instance;
}

std::string& library_path() {
  static auto* const instance = new std::string;
  return *instance;
}

struct Library {
  void* (*create_runtime)(void*, int32_t);
  int32_t (*version)();
};

// 100600 is 10.6.0.
std::string version_text(int64_t number) {
  return std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." + std::to_string(number % 100);
}

void* open_library(const std::string& name) {
  return dlopen(name.c_str(), RTLD_LAZY | RTLD_GLOBAL);
}

// Beside the library that is open, where the system looks, or nowhere: engines without plugins run without it.
void open_plugins(const std::string& beside) {
  const auto slash = beside.rfind('/');
  void* opened = slash == std::string::npos ? nullptr : open_library(beside.substr(0, slash + 1) + kPlugins);
  if (opened == nullptr) {
    opened = open_library(kPlugins);
  }
  if (opened == nullptr) {
    return;
  }
  using Init = bool (*)(void*, const char*);
  if (auto init = reinterpret_cast<Init>(dlsym(opened, "initLibNvInferPlugins"))) {
    init(&logger(), "");
  }
}

const Library& library() {
  static std::optional<Library> opened;
  const std::lock_guard<std::mutex> lock(library_mutex());
  if (opened.has_value()) {
    return *opened;
  }
  const char* from_environment = std::getenv("BRIDGE_TENSORRT_LIBRARY");
  const std::string first = from_environment != nullptr ? from_environment : library_path();
  void* handle = first.empty() ? nullptr : open_library(first);
  const std::string why_not_first = first.empty() || handle != nullptr ? "" : std::string(dlerror()) + "\n";
  if (handle == nullptr) {
    handle = open_library(kLibrary);
  }
  if (handle == nullptr) {
    fail(
        "TensorRT's library is not found",
        why_not_first + dlerror(),
        std::string("put the directory of ") + kLibrary +
            " into LD_LIBRARY_PATH, or its path into BRIDGE_TENSORRT_LIBRARY");
  }
  const Library found{
      reinterpret_cast<void* (*)(void*, int32_t)>(dlsym(handle, "createInferRuntime_INTERNAL")),
      reinterpret_cast<int32_t (*)()>(dlsym(handle, "getInferLibVersion"))};
  if (found.create_runtime == nullptr || found.version == nullptr) {
    fail(std::string(kLibrary) + " is no TensorRT: it does not have createInferRuntime_INTERNAL");
  }
  if (found.version() < NV_TENSORRT_VERSION) {
    fail(
        "TensorRT " + version_text(found.version()) + " is older than the " + version_text(NV_TENSORRT_VERSION) +
            " that this library was built for",
        {},
        "build it with the headers of the TensorRT in use");
  }
  open_plugins(first);
  opened = found;
  return *opened;
}

} // namespace

void lasting(const std::function<void()>& make) {
  if (c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None) {
    make();
    return;
  }
  const auto stream = c10::cuda::getCurrentCUDAStream();
  std::exception_ptr failure;
  std::thread aside([&] {
    try {
      const c10::cuda::CUDAStreamGuard guard(stream);
      make();
    } catch (...) {
      failure = std::current_exception();
    }
  });
  aside.join();
  if (failure != nullptr) {
    std::rethrow_exception(failure);
  }
}

ErrorsHeard::ErrorsHeard() : outer_(heard) {
  heard = this;
}

ErrorsHeard::~ErrorsHeard() {
  heard = outer_;
}

std::string ErrorsHeard::text() const {
  std::string result;
  for (const std::string& message : messages_) {
    result += (result.empty() ? "" : "\n") + message;
  }
  return result;
}

void ErrorsHeard::add(const char* message) {
  messages_.emplace_back(message);
}

StreamOrdered::StreamOrdered(cudaStream_t stream) : stream_(stream) {
  ordered = this;
}

StreamOrdered::~StreamOrdered() {
  ordered = nullptr;
}

void StreamOrdered::add(void* memory) {
  blocks_.push_back(memory);
}

bool StreamOrdered::remove(void* memory) {
  return std::erase(blocks_, memory) > 0;
}

Attempt::Attempt() {
  attempting = true;
}

Attempt::~Attempt() {
  attempting = false;
}

void tell(const std::string& message) {
  if (LogSink sink = log_sink.load()) {
    sink(kOwnDetail, message.c_str());
  }
}

void warn(const std::string& message) {
  if (LogSink sink = log_sink.load()) {
    sink(kOwnWarning, message.c_str());
  } else {
    std::fprintf(stderr, "[bridge] %s\n", message.c_str());
  }
}

void set_log_sink(LogSink sink) {
  log_sink = sink;
}

void set_tensorrt_library(const std::string& path) {
  const std::lock_guard<std::mutex> lock(library_mutex());
  library_path() = path;
}

std::string tensorrt_version() {
  return version_text(library().version());
}

std::unique_ptr<nvinfer1::IRuntime> make_runtime() {
  ErrorsHeard errors;
  void* made = library().create_runtime(&logger(), NV_TENSORRT_VERSION);
  if (made == nullptr || !errors.text().empty()) { // 10.6 gives no valid pointer, and not null, when CUDA does not start
    fail("TensorRT could not start", errors.text());
  }
  std::unique_ptr<nvinfer1::IRuntime> runtime(static_cast<nvinfer1::IRuntime*>(made));
  runtime->setGpuAllocator(&allocator());
  return runtime;
}

} // namespace bridge
