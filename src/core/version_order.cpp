#include "core/version_order.hpp"

#include <charconv>
#include <limits>
#include <system_error>

namespace core {
namespace {

// Takes the next number off the front.
unsigned take_number(std::string_view& version) {
  unsigned number = 0;
  const char* const end = version.data() + version.size();
  const auto [stop, failure] = std::from_chars(version.data(), end, number);
  version.remove_prefix(static_cast<std::size_t>(stop - version.data()));
  if (version.starts_with('.')) {
    version.remove_prefix(1);
  } else {
    version = {};
  }
  return failure == std::errc::result_out_of_range ? std::numeric_limits<unsigned>::max() : number;
}

}  // namespace

bool is_older(std::string_view version, std::string_view than) {
  while (!version.empty() || !than.empty()) {
    const unsigned left = take_number(version);
    const unsigned right = take_number(than);
    if (left != right) {
      return left < right;
    }
  }
  return false;
}

}  // namespace core
