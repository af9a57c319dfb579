// Runs an engine with TensorRT alone: run_engine MODEL.engine SHAPE [SHAPE ...]     e.g. run_engine model.engine 4x3x32x32
//
// A shape for each input, in the engine's order. Every input is float32 and counts up from 0 in steps of 0.001. Prints each
// float32 output's first values.

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

class Logger : public nvinfer1::ILogger {
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kWARNING) {
      std::cerr << message << "\n";
    }
  }
};

void check(bool fine, const std::string& what) {
  if (!fine) {
    throw std::runtime_error(what);
  }
}

void check(cudaError_t status) {
  check(status == cudaSuccess, cudaGetErrorString(status));
}

nvinfer1::Dims dims_of(const std::string& text) {
  nvinfer1::Dims dims{};
  std::istringstream sizes(text);
  for (std::string size; std::getline(sizes, size, 'x');) {
    dims.d[dims.nbDims++] = std::stoll(size);
  }
  return dims;
}

int64_t count_of(const nvinfer1::Dims& dims) {
  int64_t count = 1;
  for (int32_t axis = 0; axis < dims.nbDims; ++axis) {
    count *= dims.d[axis];
  }
  return count;
}

// Memory on the GPU.
class Buffer {
 public:
  explicit Buffer(int64_t floats) : count_(floats) {
    check(cudaMalloc(&memory_, std::max<int64_t>(floats, 1) * sizeof(float)));
  }
  ~Buffer() {
    cudaFree(memory_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void fill() {
    std::vector<float> values(count_);
    for (int64_t index = 0; index < count_; ++index) {
      values[index] = static_cast<float>(index) * 0.001f;
    }
    check(cudaMemcpy(memory_, values.data(), count_ * sizeof(float), cudaMemcpyHostToDevice));
  }
  void print() const {
    std::vector<float> values(std::min<int64_t>(count_, 8));
    check(cudaMemcpy(values.data(), memory_, values.size() * sizeof(float), cudaMemcpyDeviceToHost));
    for (const float value : values) {
      std::cout << " " << value;
    }
    std::cout << "\n";
  }
  void* get() const {
    return memory_;
  }

 private:
  int64_t count_;
  void* memory_ = nullptr;
};

struct Output {
  std::string name;
  std::unique_ptr<Buffer> memory;
};

void run(const char* path, const std::vector<std::string>& shapes) {
  Logger logger;
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  check(!bytes.empty(), std::string("cannot read ") + path);
  const std::unique_ptr<nvinfer1::IRuntime> runtime{nvinfer1::createInferRuntime(logger)};
  check(runtime != nullptr, "TensorRT could not start");
  const std::unique_ptr<nvinfer1::ICudaEngine> engine{runtime->deserializeCudaEngine(bytes.data(), bytes.size())};
  check(engine != nullptr, "TensorRT does not take this engine");
  const std::unique_ptr<nvinfer1::IExecutionContext> context{engine->createExecutionContext()};
  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream));

  std::vector<std::unique_ptr<Buffer>> inputs;
  std::vector<Output> outputs;
  for (int32_t index = 0; index < engine->getNbIOTensors(); ++index) {
    const char* name = engine->getIOTensorName(index);
    check(engine->getTensorDataType(name) == nvinfer1::DataType::kFLOAT, std::string(name) + " is not float32");
    if (engine->getTensorIOMode(name) == nvinfer1::TensorIOMode::kOUTPUT) {
      outputs.push_back({name, nullptr});
      continue;
    }
    check(inputs.size() < shapes.size(), std::string("no shape was given for input ") + name);
    const nvinfer1::Dims dims = dims_of(shapes[inputs.size()]);
    check(context->setInputShape(name, dims), std::string("the engine does not take this shape for input ") + name);
    inputs.push_back(std::make_unique<Buffer>(count_of(dims)));
    inputs.back()->fill();
    check(context->setTensorAddress(name, inputs.back()->get()), name);
  }
  for (Output& output : outputs) { // their shapes are known now
    output.memory = std::make_unique<Buffer>(count_of(context->getTensorShape(output.name.c_str())));
    check(context->setTensorAddress(output.name.c_str(), output.memory->get()), output.name);
  }
  check(context->enqueueV3(stream), "TensorRT failed to run the engine");
  check(cudaStreamSynchronize(stream));
  for (const Output& output : outputs) {
    std::cout << output.name << ":";
    output.memory->print();
  }
  check(cudaStreamDestroy(stream));
}

} // namespace

int main(int count, char** arguments) {
  if (count < 3) {
    std::cerr << "usage: " << arguments[0] << " MODEL.engine SHAPE [SHAPE ...]\n";
    return 2;
  }
  try {
    run(arguments[1], {arguments + 2, arguments + count});
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
