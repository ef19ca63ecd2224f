// An embedder that needs neither network nor account: feature hashing, for drills, demos and tests.
//
// It is a LEXICAL baseline. Texts that share words, or parts of words, are close; texts that mean
// the same in other words, or in another language, are not. No substitute for a trained model.
//
// How a vector comes about:
//   1. core/text_fold makes words of the text, without case, accents and vowel signs.
//   2. Features: each word (1 letter weighs 1, 2 letters 2, 3 letters 4, more 8: short words say
//      little), and in words of 4 letters and more each run of 3, 4 and 5 letters, where the word's
//      beginning and end count as letters (weight 2). An Arabic word with the article, alone or
//      behind و ف ب ك, or as لل, also gives the word without it, and its runs are taken from that.
//      Words in Han and kana give single letters (weight 4) and pairs (8) instead: there, blanks do
//      not part words.
//   3. A feature that occurs n times counts 1 + ln n times its weight, so that long texts are not
//      ruled by what they repeat.
//   4. A feature's hash chooses the dimension (upper 32 bits, scaled) and the sign (lowest bit)
//   which
//      it is added to, so that collisions cancel out on average.
//   5. The sums are scaled to length 1.
// The hash is 64-bit FNV-1a over code points instead of bytes, started from the offset basis xor
// the kind of feature, then mixed by the finalizer of MurmurHash3. Sums are whole numbers, so a
// text has the same vector, bit for bit, on every machine. All of this is fixed: vectors of tables
// that were filled years ago must stay comparable. Another way is another model, under another
// name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "core/text_fold.hpp"

namespace core {

inline constexpr std::string_view kLocalModel = "local-1";
inline constexpr std::size_t kMinLocalDimensions = 8;
inline constexpr std::size_t kMaxLocalDimensions = 16000;

// Keeps its working memory from text to text; one object is for one thread.
class LocalEmbedder {
 public:
  // Throws core::Error (22023) for dimensions out of range.
  explicit LocalEmbedder(std::size_t dimensions);

  std::size_t dimensions() const { return sums_.size(); }

  // A vector of length 1. Nothing for a text in which nothing can be seen: empty, or blanks alone.
  std::optional<std::vector<float>> embed(std::string_view text);

 private:
  struct Feature {
    std::uint64_t hash = 0;
    std::uint32_t count = 0;
    std::uint32_t weight = 0;
  };

  void add(std::uint64_t hash, std::uint32_t weight);
  void grow_index();
  void add_word(const char32_t* letters, std::size_t length);
  void add_runs(const char32_t* letters, std::size_t length);
  void add_ideographs(const char32_t* letters, std::size_t length);

  FoldedText words_;
  std::vector<char32_t> bounded_;     // a word between its marks
  std::vector<Feature> features_;     // in the order in which they first occurred
  std::vector<std::uint32_t> index_;  // open addressing: 1 + a feature's place, 0 where free
  std::vector<std::int64_t> sums_;
};

}  // namespace core
