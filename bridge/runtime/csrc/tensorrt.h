#pragma once

#include <NvInferRuntime.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace bridge {

// TensorRT's library is opened when the first engine is loaded, so that a process without one can load this library.

// A new runtime over PyTorch's memory. Throws when TensorRT's library cannot be opened; says where it was looked for.
std::unique_ptr<nvinfer1::IRuntime> make_runtime();

// The version of the library that is open: "10.6.0".
std::string tensorrt_version();

// Sets where the library is looked for first: the path of libnvinfer.so.<major>.
void set_tensorrt_library(const std::string& path);

// TensorRT's messages go to `sink` (severity as in nvinfer1::ILogger: 1 an error, 2 a warning; kOwnWarning, kOwnDetail: ours), or,
// when it is null, warnings and errors to stderr. The sink may be called from any thread.
using LogSink = void (*)(int severity, const char* message);
constexpr int kOwnWarning = 5, kOwnDetail = 6;
void set_log_sink(LogSink sink);

// A warning of ours, to the same place.
void warn(const std::string& message);

// Something of ours for those who look into a matter: to the sink only.
void tell(const std::string& message);

// Runs `make` in a thread of its own, with this thread's device and stream: for memory that outlives the call. This thread may
// allocate from a pool that does not last: torch.compile's CUDA graphs warm up in one, and take it for an error when something
// that they do not know stays in it. During a capture the graph's own pool is the place.
void lasting(const std::function<void()>& make);

// What TensorRT says of errors on this thread for as long as it lives.
class ErrorsHeard {
 public:
  ErrorsHeard();
  ~ErrorsHeard();
  ErrorsHeard(const ErrorsHeard&) = delete;
  ErrorsHeard& operator=(const ErrorsHeard&) = delete;

  std::string text() const; // a line each
  void add(const char* message);

 private:
  std::vector<std::string> messages_;
  ErrorsHeard* outer_;
};

// For as long as it lives, TensorRT gets no memory on this thread, and what it says of errors is a detail in the log.
class Attempt {
 public:
  Attempt();
  ~Attempt();
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;
};

// For as long as it lives, what TensorRT asks for and gives back on this thread for `stream` is used on that stream only.
class StreamOrdered {
 public:
  explicit StreamOrdered(cudaStream_t stream);
  ~StreamOrdered();
  StreamOrdered(const StreamOrdered&) = delete;
  StreamOrdered& operator=(const StreamOrdered&) = delete;

  bool covers(cudaStream_t stream) const {
    return stream == stream_;
  }
  void add(void* memory);
  bool remove(void* memory); // whether it was added

 private:
  cudaStream_t stream_;
  std::vector<void*> blocks_;
};

} // namespace bridge
