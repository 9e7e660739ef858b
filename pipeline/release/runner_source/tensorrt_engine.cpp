// Runs a serialized TensorRT engine; written against the tensor-name API that 8.5 to 11 share.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "engine.hpp"

namespace edgewright {
namespace {

class Log : public nvinfer1::ILogger {
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kWARNING) std::fprintf(stderr, "tensorrt: %s\n", message);
  }
};

void check(cudaError_t code) {
  if (code != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(code));
}

// Memory on the device, as long as its owner lives.
class Buffer {
 public:
  explicit Buffer(std::size_t bytes) { check(cudaMalloc(&data_, bytes)); }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

std::string dtype_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT: return "<f4";
    case nvinfer1::DataType::kHALF: return "<f2";
    case nvinfer1::DataType::kINT8: return "|i1";
    case nvinfer1::DataType::kINT32: return "<i4";
    case nvinfer1::DataType::kBOOL: return "|b1";
    default: throw std::runtime_error("the engine has an element type that is not known here");
  }
}

std::vector<char> engine_file(const std::string& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const auto suffix = entry.path().extension();
    if (suffix == ".engine" || suffix == ".plan") {
      std::ifstream file(entry.path(), std::ios::binary);
      return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    }
  }
  throw std::runtime_error(folder + ": no .engine or .plan file");
}

class TensorRtEngine : public Engine {
 public:
  explicit TensorRtEngine(const std::string& folder) {
    const auto bytes = engine_file(folder);
    runtime_.reset(nvinfer1::createInferRuntime(log_));
    if (runtime_) engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
    if (engine_) context_.reset(engine_->createExecutionContext());
    if (!context_) throw std::runtime_error(folder + ": this TensorRT does not open the engine; build it on this device");
    for (int number = 0; number < engine_->getNbIOTensors(); ++number) {
      const std::string name = engine_->getIOTensorName(number);
      const bool input = engine_->getTensorIOMode(name.c_str()) == nvinfer1::TensorIOMode::kINPUT;
      (input ? inputs_ : outputs_).push_back(name);
    }
    check(cudaStreamCreate(&stream_));
  }

  ~TensorRtEngine() override { cudaStreamDestroy(stream_); }

  std::size_t batch() const override {
    const auto first = engine_->getTensorShape(inputs_.at(0).c_str()).d[0];
    return first < 0 ? 0 : static_cast<std::size_t>(first);
  }

  std::vector<Tensor> infer(const std::vector<Tensor>& inputs) override {
    if (inputs.size() != inputs_.size()) throw std::runtime_error("the engine has another number of inputs");
    std::vector<std::unique_ptr<Buffer>> buffers;
    for (std::size_t number = 0; number < inputs.size(); ++number) give(inputs_[number], inputs[number], buffers);
    std::vector<Tensor> outputs;
    for (const auto& name : outputs_) outputs.push_back(place(name, buffers));
    if (!context_->enqueueV3(stream_)) throw std::runtime_error("TensorRT fails to run the engine");
    for (std::size_t number = 0; number < outputs.size(); ++number) {
      auto& data = outputs[number].data;
      check(cudaMemcpyAsync(data.data(), buffers[inputs.size() + number]->data(), data.size(), cudaMemcpyDeviceToHost, stream_));
    }
    check(cudaStreamSynchronize(stream_));
    return outputs;
  }

 private:
  void give(const std::string& name, const Tensor& tensor, std::vector<std::unique_ptr<Buffer>>& buffers) {
    nvinfer1::Dims shape{};
    shape.nbDims = static_cast<int32_t>(tensor.shape.size());
    for (int axis = 0; axis < shape.nbDims; ++axis) shape.d[axis] = static_cast<int32_t>(tensor.shape[static_cast<std::size_t>(axis)]);
    if (dtype_of(engine_->getTensorDataType(name.c_str())) != tensor.dtype || !context_->setInputShape(name.c_str(), shape))
      throw std::runtime_error("input " + name + " has another shape or element type");
    buffers.push_back(std::make_unique<Buffer>(tensor.data.size()));
    check(cudaMemcpyAsync(buffers.back()->data(), tensor.data.data(), tensor.data.size(), cudaMemcpyHostToDevice, stream_));
    context_->setTensorAddress(name.c_str(), buffers.back()->data());
  }

  // Room for an output, whose shape is known once all inputs have theirs.
  Tensor place(const std::string& name, std::vector<std::unique_ptr<Buffer>>& buffers) {
    const auto shape = context_->getTensorShape(name.c_str());
    Tensor tensor{dtype_of(engine_->getTensorDataType(name.c_str())), {}, {}};
    for (int axis = 0; axis < shape.nbDims; ++axis) tensor.shape.push_back(static_cast<std::size_t>(shape.d[axis]));
    tensor.data.resize(count(tensor.shape) * item_bytes(tensor.dtype));
    buffers.push_back(std::make_unique<Buffer>(tensor.data.size()));
    context_->setTensorAddress(name.c_str(), buffers.back()->data());
    return tensor;
  }

  Log log_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::vector<std::string> inputs_, outputs_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace

// Precision and threads are built into an engine of TensorRT.
std::unique_ptr<Engine> open_engine(const std::string& folder, const Options&) {
  return std::make_unique<TensorRtEngine>(folder);
}

}  // namespace edgewright
