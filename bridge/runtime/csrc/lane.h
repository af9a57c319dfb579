#pragma once

#include <ATen/cuda/CUDAEvent.h>

#include <list>
#include <mutex>

#include "context.h"

namespace bridge {

class CapturedCall;
class Replay;

// The calls of one engine from one stream, one at a time; the lock is held while work is enqueued, never while it runs.
//
// From the default stream the engine runs on a stream beside it, ordered before and after by events: on the default stream
// itself TensorRT would synchronise the device.
class Lane {
 public:
  Lane(Session& session, c10::cuda::CUDAStream stream);
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // See Session::run. The device and the stream are the current ones.
  std::vector<at::Tensor> run(const CallKind& kind, at::TensorList inputs);

  // A context that has run these shapes, when no other thread is using it now; the lane makes itself another.
  std::shared_ptr<Context> give_away(const CallKind& kind);

  // Waits for the work, and frees all contexts.
  void close();

 private:
  // Calls of one kind with the same addresses, of inputs and of the memory that was allocated for the call.
  struct Repeated {
    uint64_t kind = 0;
    c10::SmallVector<const void*, 8> addresses;
    int times = 0;
    uint64_t last = 0; // which call of the lane it was
    std::shared_ptr<const Replay> graph;
  };

  std::vector<at::Tensor> run_on(Context& context, const CallKind& kind, at::TensorList inputs, Memory* memory = nullptr);
  Context& context();
  std::vector<at::Tensor> run_anew(const CallKind& kind, at::TensorList inputs, Memory* memory = nullptr);
  std::vector<at::Tensor> run_repeatedly(const CallKind& kind, at::TensorList inputs);
  const Layout* layout_of(const CallKind& kind, at::TensorList inputs);
  Repeated& repeated(const CallKind& kind, at::TensorList inputs, const Memory& memory);
  bool has_room();
  void capture_repeated(Repeated& call);
  std::shared_ptr<Context> taken_from_graphs(const CallKind& kind);
  std::shared_ptr<Context> given_away(const CallKind& kind);
  CapturedCall* graph(const CallKind& kind, at::TensorList inputs);
  std::unique_ptr<CapturedCall> capture(const CallKind& kind, at::TensorList inputs);
  std::vector<at::Tensor> recorded_by_caller(const CallKind& kind, at::TensorList inputs);

  Session& session_;
  c10::cuda::CUDAStream stream_; // the caller's
  std::optional<c10::cuda::CUDAStream> beside_;
  at::cuda::CUDAEvent before_, after_;
  std::shared_ptr<Context> context_;
  std::list<std::pair<uint64_t, std::unique_ptr<CapturedCall>>> graphs_; // the last used last; null where impossible
  std::vector<std::pair<CallKind, std::shared_ptr<Context>>> recorded_; // in the callers' own graphs
  bool repeats_; // whether calls that repeat are captured
  std::vector<Repeated> repeated_;
  std::vector<std::shared_ptr<const Replay>> spent_; // graphs that are launched no more
  std::unordered_map<uint64_t, Layout> layouts_; // of calls that may repeat
  uint64_t calls_ = 0; // those that may repeat
  uint64_t captures_ = 0;
  bool closed_ = false;
  std::mutex mutex_;
};

} // namespace bridge
