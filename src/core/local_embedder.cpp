#include "core/local_embedder.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "core/error.hpp"

namespace core {
namespace {

constexpr std::uint64_t kFnvBasis = 0xCBF29CE484222325;
constexpr std::uint64_t kFnvPrime = 0x00000100000001B3;

// Kinds of features: the same letters as a word and as a part of one are not the same feature.
constexpr std::uint64_t kWord = kFnvBasis ^ 1;
constexpr std::uint64_t kRun = kFnvBasis ^ 2;

// No text folds to these.
constexpr char32_t kWordBegin = 2;
constexpr char32_t kWordEnd = 3;

constexpr std::size_t kShortestRun = 3;
constexpr std::size_t kLongestRun = 5;
constexpr std::size_t kShortestWordWithRuns = 4;

constexpr std::uint32_t kRunWeight = 2;
constexpr std::uint32_t kIdeographWeight = 4;
constexpr std::uint32_t kPairWeight = 8;

std::uint64_t step(std::uint64_t hash, char32_t c) { return (hash ^ c) * kFnvPrime; }

std::uint64_t finish(std::uint64_t hash) {
  hash ^= hash >> 33;
  hash *= 0xFF51AFD7ED558CCD;
  hash ^= hash >> 33;
  hash *= 0xC4CEB9FE1A85EC53;
  hash ^= hash >> 33;
  return hash;
}

std::uint64_t hash_of(const char32_t* letters, std::size_t length, std::uint64_t kind) {
  std::uint64_t hash = kind;
  for (std::size_t i = 0; i < length; ++i) {
    hash = step(hash, letters[i]);
  }
  return finish(hash);
}

std::uint32_t word_weight(std::size_t length) {
  return length >= 4 ? 8 : length == 3 ? 4 : static_cast<std::uint32_t>(length);
}

// 256 × (1 + ln count), with the logarithm interpolated between powers of two: whole numbers give
// the same on every machine, and std::log need not.
std::int64_t damped(std::uint32_t count) {
  const int log2 = std::bit_width(count) - 1;
  const std::uint32_t power = std::uint32_t{1} << log2;
  const std::uint64_t fraction = (std::uint64_t{count - power} << 8) >> log2;
  return 256 + static_cast<std::int64_t>(
                   (177 * ((static_cast<std::uint64_t>(log2) << 8) + fraction)) >> 8);
}

bool is_ideograph(char32_t c) {
  return (c >= 0x3005 && c <= 0x30FF) || (c >= 0x31F0 && c <= 0x31FF) ||
         (c >= 0x3400 && c <= 0x9FFF) || (c >= 0xF900 && c <= 0xFAFF) ||
         (c >= 0x20000 && c <= 0x3FFFF);
}

constexpr char32_t kAlef = 0x627;
constexpr char32_t kLam = 0x644;

// How many letters the article takes, with what is joined to it in front; 0 where there is none, or
// where hardly a word would be left.
std::size_t article(const char32_t* word, std::size_t length) {
  constexpr std::size_t kShortestStem = 2;
  const auto has = [&](std::size_t at) {
    return length >= at + 2 + kShortestStem && word[at] == kAlef && word[at + 1] == kLam;
  };
  if (has(0)) {
    return 2;
  }
  const bool joins = word[0] == 0x648 || word[0] == 0x641 || word[0] == 0x628 || word[0] == 0x643;
  if (joins && length > 2 && has(1)) {
    return 3;
  }
  return length >= 2 + kShortestStem && word[0] == kLam && word[1] == kLam ? 2 : 0;
}

}  // namespace

LocalEmbedder::LocalEmbedder(std::size_t dimensions) {
  if (dimensions < kMinLocalDimensions || dimensions > kMaxLocalDimensions) {
    throw Error(
        sqlstate::kInvalidParameterValue,
        "the local embedder cannot make vectors of " + std::to_string(dimensions) + " dimensions",
        {},
        "Choose from " + std::to_string(kMinLocalDimensions) + " to " +
            std::to_string(kMaxLocalDimensions) + ".");
  }
  sums_.resize(dimensions);
}

std::optional<std::vector<float>> LocalEmbedder::embed(std::string_view text) {
  fold_text(text, words_);
  if (words_.empty()) {
    return std::nullopt;
  }
  features_.clear();
  // Room for what a text of this length usually holds; what one giant needed is not kept.
  constexpr std::size_t kKeptEntries = std::size_t{1} << 18;
  const std::size_t entries =
      std::bit_ceil(std::clamp<std::size_t>(words_.letters.size() * 4, 1024, kKeptEntries));
  if (index_.capacity() > kKeptEntries) {
    index_ = {};
  }
  index_.assign(entries, 0);
  std::size_t start = 0;
  for (const std::size_t end : words_.ends) {
    add_word(words_.letters.data() + start, end - start);
    start = end;
  }

  std::fill(sums_.begin(), sums_.end(), 0);
  const auto place = [&](std::uint64_t hash) {
    return static_cast<std::size_t>(((hash >> 32) * sums_.size()) >> 32);
  };
  for (const Feature& feature : features_) {
    const std::int64_t value = damped(feature.count) * feature.weight;
    sums_[place(feature.hash)] += (feature.hash & 1) != 0 ? value : -value;
  }
  double squares = 0;
  for (const std::int64_t sum : sums_) {
    // In two statements: in one, some compilers use an instruction that rounds only once.
    const double square = static_cast<double>(sum) * static_cast<double>(sum);
    squares += square;
  }
  // Few features in few dimensions may cancel out altogether.
  if (squares == 0) {
    sums_[place(features_.front().hash)] = 1;
    squares = 1;
  }
  const double scale = 1 / std::sqrt(squares);
  std::vector<float> vector(sums_.size());
  for (std::size_t i = 0; i < vector.size(); ++i) {
    vector[i] = static_cast<float>(static_cast<double>(sums_[i]) * scale);
  }
  return vector;
}

void LocalEmbedder::add(std::uint64_t hash, std::uint32_t weight) {
  const std::size_t mask = index_.size() - 1;
  for (std::size_t at = hash & mask;; at = (at + 1) & mask) {
    if (index_[at] == 0) {
      features_.push_back({hash, 1, weight});
      index_[at] = static_cast<std::uint32_t>(features_.size());
      if (features_.size() * 2 > index_.size()) {
        grow_index();
      }
      return;
    }
    Feature& feature = features_[index_[at] - 1];
    if (feature.hash == hash) {
      ++feature.count;
      return;
    }
  }
}

void LocalEmbedder::grow_index() {
  const std::size_t size = index_.size() * 4;
  index_.assign(size, 0);
  for (std::size_t i = 0; i < features_.size(); ++i) {
    std::size_t at = features_[i].hash & (size - 1);
    while (index_[at] != 0) {
      at = (at + 1) & (size - 1);
    }
    index_[at] = static_cast<std::uint32_t>(i + 1);
  }
}

void LocalEmbedder::add_word(const char32_t* letters, std::size_t length) {
  if (is_ideograph(letters[0])) {
    add_ideographs(letters, length);
    return;
  }
  add(hash_of(letters, length, kWord), word_weight(length));
  if (const std::size_t prefix = article(letters, length); prefix != 0) {
    letters += prefix;
    length -= prefix;
    add(hash_of(letters, length, kWord), word_weight(length));
  }
  if (length >= kShortestWordWithRuns) {
    add_runs(letters, length);
  }
}

void LocalEmbedder::add_runs(const char32_t* letters, std::size_t length) {
  bounded_.clear();
  bounded_.push_back(kWordBegin);
  bounded_.insert(bounded_.end(), letters, letters + length);
  bounded_.push_back(kWordEnd);
  for (std::size_t from = 0; from + kShortestRun <= bounded_.size(); ++from) {
    const std::size_t end = std::min(from + kLongestRun, bounded_.size());
    std::uint64_t hash = kRun;
    for (std::size_t at = from; at < end; ++at) {
      hash = step(hash, bounded_[at]);
      if (at - from + 1 >= kShortestRun) {
        add(finish(hash), kRunWeight);
      }
    }
  }
}

void LocalEmbedder::add_ideographs(const char32_t* letters, std::size_t length) {
  for (std::size_t at = 0; at < length; ++at) {
    add(hash_of(letters + at, 1, kWord), kIdeographWeight);
    if (at + 1 < length) {
      add(hash_of(letters + at, 2, kWord), kPairWeight);
    }
  }
}

}  // namespace core
