#include "core/base64.hpp"

#include <array>
#include <cstdint>
#include <cstring>

namespace core {
namespace {

constexpr std::string_view kAlphabet =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::uint32_t kInvalid = 0xFF000000;

// One table for each place in a group of four: what a character adds to the group's 24 bits.
using Table = std::array<std::uint32_t, 256>;

constexpr Table table(unsigned shift) {
  Table values{};
  values.fill(kInvalid);
  for (std::uint32_t i = 0; i < kAlphabet.size(); ++i) {
    values[static_cast<unsigned char>(kAlphabet[i])] = i << shift;
  }
  return values;
}

constexpr Table kFirst = table(18);
constexpr Table kSecond = table(12);
constexpr Table kThird = table(6);
constexpr Table kFourth = table(0);

std::uint32_t group(const unsigned char* in) {
  return kFirst[in[0]] | kSecond[in[1]] | kThird[in[2]] | kFourth[in[3]];
}

std::size_t padding(std::string_view text) {
  return text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
}

}  // namespace

std::optional<std::size_t> base64_decoded_size(std::string_view text) {
  if (text.size() % 4 != 0) {
    return std::nullopt;
  }
  return text.size() / 4 * 3 - padding(text);
}

bool base64_decode(std::string_view text, unsigned char* out) {
  const auto* in = reinterpret_cast<const unsigned char*>(text.data());
  const std::size_t padded = padding(text);
  const std::size_t whole = text.size() / 4 - (padded != 0 ? 1 : 0);
  std::uint32_t seen = 0;
  for (std::size_t i = 0; i < whole; ++i, in += 4, out += 3) {
    const std::uint32_t bits = group(in);
    seen |= bits;
    out[0] = static_cast<unsigned char>(bits >> 16);
    out[1] = static_cast<unsigned char>(bits >> 8);
    out[2] = static_cast<unsigned char>(bits);
  }
  if (padded != 0) {
    const std::array<unsigned char, 4> last{
        in[0], in[1], padded == 2 ? static_cast<unsigned char>('A') : in[2], 'A'};
    const std::uint32_t bits = group(last.data());
    seen |= bits;
    out[0] = static_cast<unsigned char>(bits >> 16);
    if (padded == 1) {
      out[1] = static_cast<unsigned char>(bits >> 8);
    }
    if ((bits & (padded == 2 ? 0xFFFFu : 0xFFu)) != 0) {
      return false;
    }
  }
  return (seen & kInvalid) == 0;
}

}  // namespace core
