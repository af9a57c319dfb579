#pragma once

#include <ATen/core/Tensor.h>
#include <NvInferRuntime.h>
#include <c10/cuda/CUDAStream.h>

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "lane.h"
#include "plan.h"
#include "signature.h"

namespace bridge {

// The lane that calls ran in last, and the stream that was current; a call from the same stream finds it at once.
struct Place {
  cudaStream_t stream = nullptr;
  Lane* lane = nullptr;
};

// A loaded engine; safe to call from several threads at once.
class Session {
 public:
  // The session of this plan on this device: loaded once however many hold it, and freed with the last.
  // Throws for another kind of GPU, another version of TensorRT, or a failure that TensorRT explains.
  static std::shared_ptr<Session> load(const Plan& plan, at::Device device);

  // Closes every session, for the end of the process.
  static void close_everything();

  // How many there are.
  static size_t count();

  Session(const Plan& plan, at::Device device);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Inputs are of `input_formats`, on `input_devices` and of the engine's dtypes, in the order of `inputs`. Gives new tensors in
  // the order of `outputs`, on `output_devices`.
  //   place: of this session, or empty; changed to where this call runs.
  std::vector<at::Tensor> run(const CallKind& kind, at::TensorList tensors, Place& place);

  // The first profile that these shapes fit, or the one asked for. Throws when there is none.
  int32_t choose_profile(const CallKind& kind) const;

  // A context of another lane that has run these shapes, and is that lane's no more; null where there is none.
  std::shared_ptr<Context> give_away(const CallKind& kind, const Lane& asking);

  // Frees contexts, engine and runtime, in this order, once the work is done.
  void close();

  nvinfer1::ICudaEngine& engine() {
    return *engine_;
  }

  const std::vector<Binding> inputs, outputs;
  const at::Device device;
  std::vector<at::Device> input_devices; // the CPU for one from whose values shapes are computed
  std::vector<at::Device> output_devices;
  std::vector<at::MemoryFormat> input_formats, output_formats; // contiguous, or with channels last
  bool host_inputs = false;
  std::string why_not_repeated; // why calls that repeat are not captured; empty: they are

 private:
  struct Limits {
    at::DimVector min, opt, max;
  };

  Lane& lane(Place& place);

  const std::string range_; // the name of a run in profiles
  std::string profiles_text() const;

  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::vector<std::vector<Limits>> profiles_; // profile, then input
  std::unordered_map<cudaStream_t, std::unique_ptr<Lane>> lanes_;
  bool closed_ = false;
  std::mutex mutex_; // of the lanes; a lane's own may be held when it is taken, never the other way round
};

} // namespace bridge
