#include "core/embedding_reply.hpp"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "core/base64.hpp"
#include "core/json_cursor.hpp"

namespace core {
namespace {

constexpr float kNotFinite = std::numeric_limits<float>::quiet_NaN();

// One element of `data`.
struct Element {
  std::vector<float> values;
  std::uint64_t index = 0;
  bool has_index = false;
};

bool is_blank(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

// What is no JSON, or no number, but what services write all the same for a value that is none:
// Python and JavaScript NaN and Infinity, C nan and inf, and some null.
std::size_t not_finite(std::string_view text) {
  const std::size_t sign = text.starts_with('-') ? 1 : 0;
  for (const std::string_view word : {"null", "NaN", "nan", "Infinity", "inf"}) {
    if (text.substr(sign).starts_with(word)) {
      return sign + word.size();
    }
  }
  return 0;
}

// A number too small or too large for float.
float beyond_float(const char* first, const char* last) {
  double value = 0;
  if (std::from_chars(first, last, value).ec == std::errc()) {
    return static_cast<float>(
        std::clamp(value, -std::numeric_limits<double>::max(), std::numeric_limits<double>::max()));
  }
  // Beyond double as well: a large one has an exponent, or very many digits before the point.
  const std::string_view text(first, static_cast<std::size_t>(last - first));
  const std::size_t exponent = text.find_first_of("eE");
  const bool small = exponent != std::string_view::npos ? text.substr(exponent + 1).starts_with('-')
                                                        : text.find('.') < 300;
  return small ? 0.0F : kNotFinite;
}

// An array of numbers. Read here rather than number by number through the cursor, since a reply has
// a hundred thousand of them.
bool read_array(JsonCursor& in, std::vector<float>& values) {
  const std::string_view text = in.rest();
  const char* at = text.data() + 1;
  const char* const end = text.data() + text.size();
  const auto skip_blanks = [&] {
    while (at < end && is_blank(*at)) {
      ++at;
    }
  };
  skip_blanks();
  bool more = at == end || *at != ']';
  while (more) {
    skip_blanks();
    const char* const digits = at < end && *at == '-' ? at + 1 : at;
    if (digits < end && *digits >= '0' && *digits <= '9') {
      float value = 0;
      const auto [stop, error] = std::from_chars(at, end, value);
      if (error == std::errc::result_out_of_range) {
        value = beyond_float(at, stop);
      }
      values.push_back(value);
      at = stop;
    } else if (const std::size_t length = not_finite({at, static_cast<std::size_t>(end - at)});
               length != 0) {
      values.push_back(kNotFinite);
      at += length;
    } else {
      return in.fail();
    }
    skip_blanks();
    more = at < end && *at == ',';
    at += more ? 1 : 0;
  }
  if (at == end || *at != ']') {
    return in.fail();
  }
  in.advance(static_cast<std::size_t>(at + 1 - text.data()));
  return true;
}

// The bytes of little-endian floats.
bool decode_floats(std::string_view base64, std::vector<float>& values) {
  static_assert(sizeof(float) == 4 && std::numeric_limits<float>::is_iec559);
  const auto size = base64_decoded_size(base64);
  if (!size || *size % sizeof(float) != 0) {
    return false;
  }
  values.resize(*size / sizeof(float));
  auto* const bytes = reinterpret_cast<unsigned char*>(values.data());
  if (!base64_decode(base64, bytes)) {
    return false;
  }
  if constexpr (std::endian::native == std::endian::big) {
    for (std::size_t i = 0; i < *size; i += sizeof(float)) {
      std::reverse(bytes + i, bytes + i + sizeof(float));
    }
  }
  return true;
}

// The sum of squares: NaN or infinite where a value is, since float's largest squared is far from
// double's. Four sums, so that one addition need not wait for the one before it.
double sum_of_squares(const std::vector<float>& values) {
  double sums[4] = {0, 0, 0, 0};
  const std::size_t fours = values.size() / 4 * 4;
  for (std::size_t i = 0; i < fours; i += 4) {
    for (std::size_t j = 0; j < 4; ++j) {
      sums[j] += static_cast<double>(values[i + j]) * static_cast<double>(values[i + j]);
    }
  }
  for (std::size_t i = fours; i < values.size(); ++i) {
    sums[0] += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  }
  return sums[0] + sums[1] + sums[2] + sums[3];
}

std::string count_of(std::size_t number, const char* singular, const char* plural) {
  return std::to_string(number) + " " + (number == 1 ? singular : plural);
}

class Reader {
 public:
  Reader(std::string_view body, std::size_t texts, std::optional<std::size_t> dimensions)
      : in_(body), texts_(texts), wanted_(dimensions), seen_(texts) {
    reply_.vectors.resize(texts);
  }

  EmbeddingReply read() {
    std::string_view key;
    for (in_.enter('{'); in_.next_member(key);) {
      if (key == "\"data\"" && in_.peek() == '[' && !has_data_) {
        has_data_ = true;
        read_data();
      } else if (key == "\"model\"" && in_.peek() == '"') {
        in_.read_string(reply_.model);
      } else if (key == "\"usage\"" && in_.peek() == '{') {
        read_usage();
      } else {
        in_.skip();
      }
    }
    if (!in_.finish()) {
      problem("it is not valid JSON, or cut off");
    } else if (!has_data_) {
      problem("it has no \"data\"");
    } else if (elements_ != texts_) {
      problem("it has " + count_of(elements_, "vector", "vectors") + " for " +
              count_of(texts_, "text", "texts"));
    }
    check();
    if (!reply_.problem.empty()) {
      reply_.vectors.clear();
      reply_.unusable.clear();
      reply_.dimensions = 0;
    }
    return std::move(reply_);
  }

 private:
  // The first one is the cause of those that follow.
  void problem(std::string text) {
    if (reply_.problem.empty()) {
      reply_.problem = std::move(text);
    }
  }

  void read_usage() {
    std::uint64_t total = 0;
    std::uint64_t prompt = 0;
    std::string_view key;
    for (in_.enter('{'); in_.next_member(key);) {
      const char next = in_.peek();
      const bool number = next == '"' || (next >= '0' && next <= '9');
      if (number && key == "\"total_tokens\"") {
        in_.read_unsigned(total);
      } else if (number && key == "\"prompt_tokens\"") {
        in_.read_unsigned(prompt);
      } else {
        in_.skip();
      }
    }
    reply_.tokens = total != 0 ? total : prompt;
  }

  void read_data() {
    for (in_.enter('['); in_.next_element();) {
      // Vectors that nobody asked for are counted, not kept.
      if (elements_ >= texts_) {
        in_.skip();
      } else {
        Element element;
        read_element(element);
        place(std::move(element));
      }
      ++elements_;
    }
  }

  void read_element(Element& element) {
    std::string_view key;
    for (in_.enter('{'); in_.next_member(key);) {
      if (key == "\"embedding\"") {
        read_embedding(element.values);
      } else if (key == "\"index\"" && in_.peek() != 'n') {
        element.has_index = in_.read_unsigned(element.index);
      } else {
        in_.skip();
      }
    }
  }

  void read_embedding(std::vector<float>& values) {
    values.clear();
    switch (in_.peek()) {
      case '[':
        values.reserve(wanted_.value_or(reply_.dimensions));
        read_array(in_, values);
        break;
      case '"':
        read_base64(values);
        break;
      default:  // null: none
        in_.skip();
    }
    if (reply_.dimensions == 0) {
      reply_.dimensions = values.size();
    }
  }

  void read_base64(std::vector<float>& values) {
    std::string_view quoted;
    if (!in_.read_quoted(quoted)) {
      return;
    }
    std::string_view base64 = quoted.substr(1, quoted.size() - 2);
    // Some writers of JSON escape "/" or "+".
    std::string plain;
    if (base64.find('\\') != std::string_view::npos && unquote(quoted, plain)) {
      base64 = plain;
    }
    if (!decode_floats(base64, values)) {
      problem("a vector in it is not base64 of 32-bit numbers");
    }
  }

  void place(Element element) {
    if (in_.failed()) {
      return;
    }
    if (!element.has_index) {
      problem("a vector in it has no \"index\"");
    } else if (element.index >= texts_) {
      problem("it has a vector with index " + std::to_string(element.index) + " for " +
              count_of(texts_, "text", "texts"));
    } else if (seen_[element.index]) {
      problem("it has two vectors with index " + std::to_string(element.index));
    } else {
      seen_[element.index] = true;
      reply_.vectors[element.index] = std::move(element.values);
    }
  }

  void check() {
    for (std::size_t i = 0; i < reply_.vectors.size() && reply_.problem.empty(); ++i) {
      std::vector<float>& values = reply_.vectors[i];
      if (values.empty()) {
        reply_.unusable.push_back({i, "the embedder returned no vector for it"});
        continue;
      }
      if (values.size() != wanted_.value_or(reply_.dimensions)) {
        problem("vector " + std::to_string(i) + " has " +
                count_of(values.size(), "dimension", "dimensions") + " instead of " +
                std::to_string(wanted_.value_or(reply_.dimensions)));
        continue;
      }
      const double squares = sum_of_squares(values);
      if (!std::isfinite(squares)) {
        reply_.unusable.push_back({i, "its vector holds a value that is not a finite number"});
        values.clear();
      } else if (squares == 0) {
        reply_.unusable.push_back({i, "its vector is all zeros"});
        values.clear();
      }
    }
  }

  JsonCursor in_;
  std::size_t texts_;
  std::optional<std::size_t> wanted_;
  std::vector<bool> seen_;
  std::size_t elements_ = 0;
  bool has_data_ = false;
  EmbeddingReply reply_;
};

}  // namespace

EmbeddingReply read_embedding_reply(std::string_view body, std::size_t texts,
                                    std::optional<std::size_t> dimensions) {
  return Reader(body, texts, dimensions).read();
}

}  // namespace core
