// Tensors on the host, and .npy files as numpy writes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <functional>
#include <iterator>
#include <numeric>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

namespace edgewright {

struct Tensor {
  std::string dtype;               // as in .npy headers: "<f4", "|u1", "<i8", …
  std::vector<std::size_t> shape;  // the batch first
  std::vector<char> data;

  // Bytes of one row along the first axis.
  std::size_t row_bytes() const { return shape.empty() || shape[0] == 0 ? data.size() : data.size() / shape[0]; }
};

inline std::size_t count(const std::vector<std::size_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>());
}

inline std::size_t item_bytes(const std::string& dtype) {
  if (dtype.size() != 3) throw std::runtime_error("element type " + dtype + " is not known here");
  return static_cast<std::size_t>(dtype[2] - '0');
}

// Reads an array of numbers in C order, format versions 1 to 3 (numpy.lib.format).
inline Tensor read_npy(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (bytes.size() < 12 || std::string(bytes.data(), 6) != "\x93NUMPY") throw std::runtime_error(path + ": not an .npy file");
  const auto byte = [&](std::size_t at) { return static_cast<std::size_t>(static_cast<unsigned char>(bytes[at])); };
  const bool old = bytes[6] == 1;
  const std::size_t length = byte(8) | byte(9) << 8 | (old ? 0 : byte(10) << 16 | byte(11) << 24);
  const std::size_t start = (old ? 10 : 12) + length;
  if (start > bytes.size()) throw std::runtime_error(path + ": cut short");
  const std::string header(bytes.data() + (old ? 10 : 12), length);
  std::smatch type, shape;
  if (!std::regex_search(header, type, std::regex("'descr': '([<|=][a-z]\\d)'")) ||
      !std::regex_search(header, shape, std::regex("'shape': \\(([\\d, ]*)\\)")) ||
      header.find("'fortran_order': False") == std::string::npos)
    throw std::runtime_error(path + ": no array of numbers in C order");
  Tensor tensor{type[1], {}, {bytes.begin() + static_cast<std::ptrdiff_t>(start), bytes.end()}};
  const std::string sizes = shape[1];
  const std::regex number("\\d+");
  for (std::sregex_iterator each(sizes.begin(), sizes.end(), number), end; each != end; ++each)
    tensor.shape.push_back(std::stoul(each->str()));
  if (count(tensor.shape) * item_bytes(tensor.dtype) != tensor.data.size()) throw std::runtime_error(path + ": cut short");
  return tensor;
}

}  // namespace edgewright
