// The first sentence of a text: a short, natural query for what the text is about.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace core {

inline constexpr std::size_t kMinSentence = 20;   // characters
inline constexpr std::size_t kMaxSentence = 300;  // characters

// Ends behind . ! ? … ؟ ۔ 。 and their likes, with the quotation marks and brackets that follow, or
// at a line break; a full stop within a word or number ("3.14", "e.g.this") is none. What would be
// shorter than kMinSentence goes on to the next end, and what would be longer than kMaxSentence is
// cut between words. Blanks run together. Bytes that are not UTF-8 are left out. Empty only where
// the text has nothing but blanks.
std::string first_sentence(std::string_view text);

}  // namespace core
