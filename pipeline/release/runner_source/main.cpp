// Runs an engine on golden inputs and compares; prints a verdict as JSON. Exit codes: 0 agrees, 1 does not, 2 cannot say.
//
//   edgewright-runner ENGINE_FOLDER GOLDEN_FOLDER RELATIVE_L2_LIMIT [PRECISION [THREADS]]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "engine.hpp"

namespace {

using edgewright::Tensor;

std::vector<Tensor> read_all(const std::string& folder, const std::string& kind) {
  std::vector<Tensor> found;
  for (int number = 0;; ++number) {
    const auto path = folder + "/" + kind + "-" + std::to_string(number) + ".npy";
    if (!std::ifstream(path)) return found;
    found.push_back(edgewright::read_npy(path));
  }
}

// Rows start … start + size − 1; the last one fills up.
std::vector<Tensor> rows(const std::vector<Tensor>& all, std::size_t start, std::size_t size) {
  std::vector<Tensor> part;
  for (const auto& tensor : all) {
    Tensor piece{tensor.dtype, tensor.shape, std::vector<char>(size * tensor.row_bytes())};
    piece.shape[0] = size;
    for (std::size_t row = 0; row < size; ++row) {
      const auto from = std::min(start + row, tensor.shape[0] - 1) * tensor.row_bytes();
      std::memcpy(piece.data.data() + row * tensor.row_bytes(), tensor.data.data() + from, tensor.row_bytes());
    }
    part.push_back(std::move(piece));
  }
  return part;
}

std::vector<double> values(const Tensor& tensor) {
  if (tensor.dtype != "<f4") throw std::runtime_error("outputs of type " + tensor.dtype + " are not compared here");
  std::vector<double> found(tensor.data.size() / sizeof(float));
  for (std::size_t at = 0; at < found.size(); ++at) {
    float value;
    std::memcpy(&value, tensor.data.data() + at * sizeof value, sizeof value);
    found[at] = value;
  }
  return found;
}

// ‖found − expected‖ and ‖expected‖, squared, over the first `count` rows.
struct Distance {
  double error = 0, scale = 0;
  void add(const Tensor& expected, const Tensor& found, std::size_t start, std::size_t count) {
    const auto e = values(expected), f = values(found);
    const auto width = e.size() / expected.shape[0];
    for (std::size_t at = 0; at < count * width; ++at) {
      const double difference = f.at(at) - e.at(start * width + at);
      error += difference * difference;
      scale += e[start * width + at] * e[start * width + at];
    }
  }
  double relative() const { return std::sqrt(error / std::max(scale, 1e-300)); }
};

int run(const std::vector<std::string>& arguments) {
  if (arguments.size() < 3) throw std::runtime_error("usage: ENGINE_FOLDER GOLDEN_FOLDER RELATIVE_L2_LIMIT [PRECISION [THREADS]]");
  edgewright::Options options;
  if (arguments.size() > 3) options.precision = arguments[3];
  if (arguments.size() > 4) options.threads = std::stoi(arguments[4]);
  const double limit = std::stod(arguments[2]);
  const auto inputs = read_all(arguments[1], "input"), expected = read_all(arguments[1], "output");
  if (inputs.empty() || expected.empty()) throw std::runtime_error(arguments[1] + ": no golden inputs and outputs");
  const auto engine = edgewright::open_engine(arguments[0], options);
  const auto total = inputs[0].shape.at(0), size = engine->batch() ? engine->batch() : total;
  std::vector<Distance> distances(expected.size());
  double milliseconds = 0;
  for (std::size_t start = 0; start < total; start += size) {
    const auto given = rows(inputs, start, size);
    const auto begun = std::chrono::steady_clock::now();
    const auto found = engine->infer(given);
    milliseconds += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begun).count();
    for (std::size_t number = 0; number < expected.size(); ++number)
      distances[number].add(expected[number], found.at(number), start, std::min(size, total - start));
  }
  double worst = 0;
  for (const auto& distance : distances) worst = std::max(worst, distance.relative());
  const bool passed = worst <= limit;  // false for NaN too
  std::printf("{\"passed\": %s, \"samples\": %zu, \"relative_l2\": %.6g, \"limit\": %.6g, \"mean_ms\": %.6g}\n",
              passed ? "true" : "false", total, worst, limit, milliseconds / static_cast<double>((total + size - 1) / size));
  return passed ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return run({arguments + 1, arguments + count});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
