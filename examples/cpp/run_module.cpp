// Runs a module that bridge compiled: run_module MODEL.ts SHAPE [SHAPE ...]     e.g. run_module model_trt.ts 4x3x32x32
//
// Every input is float32 and counts up from 0 in steps of 0.001. Prints each output's shape and first values.

#include <torch/cuda.h>
#include <torch/script.h>

#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace {

torch::Tensor input_of(const std::string& text) {
  std::vector<int64_t> shape;
  std::istringstream sizes(text);
  for (std::string size; std::getline(sizes, size, 'x');) {
    shape.push_back(std::stoll(size));
  }
  int64_t count = 1;
  for (const int64_t size : shape) {
    count *= size;
  }
  return torch::arange(count, torch::kFloat).mul(0.001).reshape(shape).to(torch::kCUDA);
}

void print_tensor(const torch::Tensor& output) {
  std::cout << output.sizes() << " " << output.scalar_type() << ":";
  const torch::Tensor flat = output.flatten().to(torch::kCPU, torch::kDouble);
  for (int64_t index = 0; index < std::min<int64_t>(flat.numel(), 8); ++index) {
    std::cout << " " << flat[index].item<double>();
  }
  std::cout << "\n";
}

void print_result(const torch::IValue& result) {
  if (result.isTensor()) {
    print_tensor(result.toTensor());
    return;
  }
  const c10::ArrayRef<torch::IValue> parts =
      result.isTuple() ? result.toTupleRef().elements().asArrayRef() : result.toListRef();
  for (const torch::IValue& part : parts) {
    print_result(part);
  }
}

} // namespace

int main(int count, char** arguments) {
  if (count < 3) {
    std::cerr << "usage: " << arguments[0] << " MODEL.ts SHAPE [SHAPE ...]\n";
    return 2;
  }
  try {
    const torch::InferenceMode guard;
    torch::jit::Module module = torch::jit::load(arguments[1]);
    std::vector<torch::IValue> inputs;
    for (int index = 2; index < count; ++index) {
      inputs.emplace_back(input_of(arguments[index]));
    }
    print_result(module.forward(inputs));
    torch::cuda::synchronize();
  } catch (const c10::Error& error) {
    std::cerr << error.what_without_backtrace() << "\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
