#pragma once

#include <ATen/cuda/CUDAEvent.h>

#include <list>
#include <mutex>

#include "context.h"

namespace bridge {

class CapturedCall;

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
  std::vector<at::Tensor> run_on(Context& context, const CallKind& kind, at::TensorList inputs);
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
  bool closed_ = false;
  std::mutex mutex_;
};

} // namespace bridge
