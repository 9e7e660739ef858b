// Runs the IR of an engine with OpenVINO on the CPU, pinned as edgewright pins it.
#include <cstring>
#include <openvino/openvino.hpp>
#include <stdexcept>

#include "engine.hpp"

namespace edgewright {
namespace {

std::string hint(const std::string& precision) {
  if (precision == "bf16") return "bf16";
  return precision == "fp16" ? "f16" : "f32";  // float parts of int8 run in f32
}

std::string dtype_of(const ov::element::Type& type) {
  const bool real = type.is_real();
  return std::string(type.size() == 1 ? "|" : "<") + (real ? "f" : type.is_signed() ? "i" : "u") + std::to_string(type.size());
}

class OpenVinoEngine : public Engine {
 public:
  OpenVinoEngine(const std::string& folder, const Options& options) {
    const auto model = core_.read_model(folder + "/model.xml");
    compiled_ = core_.compile_model(model, "CPU",
                                    ov::AnyMap{{"INFERENCE_PRECISION_HINT", hint(options.precision)},
                                               {"INFERENCE_NUM_THREADS", options.threads},
                                               {"NUM_STREAMS", 1},
                                               {"DYNAMIC_QUANTIZATION_GROUP_SIZE", 0}});
    request_ = compiled_.create_infer_request();
  }

  std::size_t batch() const override {
    const auto& first = compiled_.inputs().at(0).get_partial_shape()[0];
    return first.is_static() ? static_cast<std::size_t>(first.get_length()) : 0;
  }

  std::vector<Tensor> infer(const std::vector<Tensor>& inputs) override {
    const auto ports = compiled_.inputs();
    if (inputs.size() != ports.size()) throw std::runtime_error("the engine has another number of inputs");
    for (std::size_t number = 0; number < ports.size(); ++number) {
      const auto& given = inputs[number];
      const ov::Shape shape(given.shape.begin(), given.shape.end());
      if (!ports[number].get_partial_shape().compatible(shape) || dtype_of(ports[number].get_element_type()) != given.dtype)
        throw std::runtime_error("input " + std::to_string(number) + " has another shape or element type");
      ov::Tensor tensor(ports[number].get_element_type(), shape);
      std::memcpy(tensor.data(), given.data.data(), given.data.size());
      request_.set_input_tensor(number, tensor);
    }
    request_.infer();
    std::vector<Tensor> outputs;
    for (std::size_t number = 0; number < compiled_.outputs().size(); ++number) {
      const auto tensor = request_.get_output_tensor(number);
      const auto* data = static_cast<const char*>(tensor.data());
      const auto shape = tensor.get_shape();
      outputs.push_back({dtype_of(tensor.get_element_type()), {shape.begin(), shape.end()}, {data, data + tensor.get_byte_size()}});
    }
    return outputs;
  }

 private:
  ov::Core core_;
  ov::CompiledModel compiled_;
  ov::InferRequest request_;
};

}  // namespace

std::unique_ptr<Engine> open_engine(const std::string& folder, const Options& options) {
  return std::make_unique<OpenVinoEngine>(folder, options);
}

}  // namespace edgewright
