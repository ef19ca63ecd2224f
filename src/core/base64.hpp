// Base64 decoded (RFC 4648, with padding), at a few bytes a nanosecond: services send vectors so.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace core {

// How many bytes `text` stands for; nothing where its length or its padding is wrong.
std::optional<std::size_t> base64_decoded_size(std::string_view text);

// Writes exactly that many bytes to `out`. False where `text` holds a character that is not of the
// alphabet, or bits beyond the last byte; then `out` holds anything.
bool base64_decode(std::string_view text, unsigned char* out);

}  // namespace core
