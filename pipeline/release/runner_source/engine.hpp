// An opened engine, whichever runtime runs it.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "tensor.hpp"

namespace edgewright {

class Engine {
 public:
  virtual ~Engine() = default;

  // Samples of one inference; 0 where any number will do.
  virtual std::size_t batch() const = 0;

  // Runs once. Inputs and outputs are in the order of the bundle's manifest.json.
  // Throws std::runtime_error where an input does not fit.
  virtual std::vector<Tensor> infer(const std::vector<Tensor>& inputs) = 0;
};

struct Options {
  std::string precision = "fp32";  // as in manifest.json: recipe.precision
  int threads = 1;                 // of one inference; 0 for all
};

// Opens the engine in a folder of the bundle; defined once, by openvino_engine.cpp or tensorrt_engine.cpp.
std::unique_ptr<Engine> open_engine(const std::string& folder, const Options& options);

}  // namespace edgewright
