#include "core/pinecone_messages.hpp"

#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "core/error.hpp"
#include "core/json.hpp"
#include "core/json_cursor.hpp"
#include "core/utf8.hpp"

namespace core {
namespace {

// The longest shortest form: sign, nine digits, point, exponent ("-1.17549435e-38"); a little more,
// for the digits of a whole number that to_chars prefers to an exponent.
constexpr std::size_t kMaxFloatText = 24;

void append_values(ByteBuffer& out, std::span<const float> values) {
  char* const start = out.reserve(values.size() * (kMaxFloatText + 1) + 2);
  char* at = start;
  *at++ = '[';
  for (const float value : values) {
    if (!std::isfinite(value)) {
      throw Error(sqlstate::kInternalError, "a vector to be sent holds a value that is not finite");
    }
    at = std::to_chars(at, at + kMaxFloatText, value).ptr;
    *at++ = ',';
  }
  // The last comma makes way for the bracket.
  if (!values.empty()) {
    --at;
  }
  *at++ = ']';
  out.commit(static_cast<std::size_t>(at - start));
}

// What stands before the records and behind them.
std::string upsert_head(std::string_view space) {
  return "{\"namespace\":" + json_string(space) + ",\"vectors\":[";
}
constexpr std::string_view kUpsertTail = "]}";

// Goes through the members of an object: `take` reads the value of each key, or returns false for
// one that it does not know. A null is as good as nothing.
template <typename Take>
void each_member(JsonCursor& in, Take take) {
  std::string_view key;
  for (in.enter('{'); in.next_member(key);) {
    if (in.peek() == 'n' || !take(key)) {
      in.skip();
    }
  }
}

template <typename Take>
void each_element(JsonCursor& in, Take take) {
  for (in.enter('['); in.next_element();) {
    take();
  }
}

// An answer with a single number.
std::optional<std::uint64_t> read_number(std::string_view body, std::string_view name,
                                         std::string_view other_name) {
  JsonCursor in(body);
  std::uint64_t number = 0;
  each_member(in, [&](std::string_view key) {
    return (key == name || key == other_name) && (in.read_unsigned(number), true);
  });
  return in.finish() ? std::optional(number) : std::nullopt;
}

template <typename Number>
bool read_finite(JsonCursor& in, Number& out) {
  std::string_view text;
  if (!in.read_number(text)) {
    return false;
  }
  double value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  // Beyond double: too small is 0. Beyond the type in question, though within double: no number.
  if (result.ec == std::errc::result_out_of_range) {
    const std::size_t exponent = text.find_first_of("eE");
    if (exponent == std::string_view::npos || text[exponent + 1] != '-') {
      return in.fail();
    }
  }
  if (std::abs(value) > static_cast<double>(std::numeric_limits<Number>::max())) {
    return in.fail();
  }
  out = static_cast<Number>(value);
  return true;
}

// A float is read as such: by way of double it might be rounded twice.
bool read_float(JsonCursor& in, float& out) {
  std::string_view text;
  JsonCursor before = in;
  if (!in.read_number(text)) {
    return false;
  }
  if (std::from_chars(text.data(), text.data() + text.size(), out).ec == std::errc()) {
    return true;
  }
  in = before;
  return read_finite(in, out);
}

void read_values(JsonCursor& in, std::vector<float>& values) {
  values.clear();
  each_element(in, [&] {
    float value = 0;
    if (read_float(in, value)) {
      values.push_back(value);
    }
  });
}

void read_summary(JsonCursor& in, std::uint64_t& count) {
  each_member(in, [&](std::string_view key) {
    return (key == "\"vectorCount\"" || key == "\"vector_count\"") &&
           (in.read_unsigned(count), true);
  });
}

void read_namespaces(JsonCursor& in, std::map<std::string, std::uint64_t>& namespaces) {
  std::string_view key;
  for (in.enter('{'); in.next_member(key);) {
    std::string name;
    if (!unquote(key, name)) {
      in.fail();
    } else {
      read_summary(in, namespaces[std::move(name)]);
    }
  }
}

void read_vector(JsonCursor& in, PineconeVector& vector) {
  each_member(in, [&](std::string_view key) {
    if (key == "\"id\"") {
      in.read_string(vector.id);
    } else if (key == "\"values\"") {
      read_values(in, vector.values);
    } else if (key == "\"metadata\"" && in.peek() == '{') {
      std::string_view raw;
      if (in.read_raw(raw) && !utf8::is_valid(raw)) {
        in.fail();
      }
      vector.metadata = raw;
    } else {
      return false;
    }
    return true;
  });
}

}  // namespace

// --- requests ---------------------------------------------------------------------------------

std::optional<std::string> pinecone_id_problem(std::string_view id) {
  if (id.empty()) {
    return "its id is empty, and Pinecone wants 1 to 512 characters";
  }
  std::size_t characters = 0;
  for (const char c : id) {
    if (c == '\0') {
      return "its id holds a NUL";
    }
    characters += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
  }
  if (characters > kPineconeMaxIdCharacters) {
    return "its id has " + std::to_string(characters) +
           " characters, and Pinecone takes 512 at most";
  }
  return std::nullopt;
}

void append_record(ByteBuffer& out, const PineconeRecord& record) {
  out.append("{\"id\":");
  out.append(json_string(record.id));
  out.append(",\"values\":");
  append_values(out, record.values);
  // An object without members would be kept as nothing anyway.
  if (!record.metadata.empty() && record.metadata != "{}") {
    out.append(",\"metadata\":");
    out.append(record.metadata);
  }
  out.append('}');
}

std::size_t upsert_frame_bytes(std::string_view space) {
  return upsert_head(space).size() + kUpsertTail.size();
}

std::string upsert_body(std::string_view space, std::span<const std::string_view> records) {
  std::string body = upsert_head(space);
  std::size_t size = body.size() + kUpsertTail.size();
  for (const std::string_view record : records) {
    size += record.size() + 1;
  }
  body.reserve(size);
  for (std::size_t i = 0; i < records.size(); ++i) {
    if (i > 0) {
      body += ',';
    }
    body += records[i];
  }
  body += kUpsertTail;
  return body;
}

std::string query_body(std::string_view space, std::span<const float> vector, std::uint64_t top_k) {
  ByteBuffer values;
  append_values(values, vector);
  return "{\"namespace\":" + json_string(space) + ",\"topK\":" + std::to_string(top_k) +
         ",\"includeValues\":false,\"includeMetadata\":false,\"vector\":" +
         std::string(values.view()) + "}";
}

std::string delete_body(std::string_view space, std::span<const std::string> ids) {
  JsonArray list;
  for (const std::string& id : ids) {
    list.text(id);
  }
  return JsonObject().text("namespace", space).raw("ids", list.str()).str();
}

// --- answers ----------------------------------------------------------------------------------

std::optional<std::uint64_t> read_upserted_count(std::string_view body) {
  return read_number(body, "\"upsertedCount\"", "\"upserted_count\"");
}

std::optional<std::uint64_t> read_record_count(std::string_view body) {
  return read_number(body, "\"record_count\"", "\"recordCount\"");
}

std::optional<PineconeStats> read_index_stats(std::string_view body) {
  JsonCursor in(body);
  PineconeStats stats;
  each_member(in, [&](std::string_view key) {
    if (key == "\"dimension\"") {
      in.read_unsigned(stats.dimension);
    } else if (key == "\"totalVectorCount\"" || key == "\"total_vector_count\"") {
      in.read_unsigned(stats.total);
    } else if (key == "\"namespaces\"") {
      read_namespaces(in, stats.namespaces);
    } else if (key == "\"metric\"") {
      in.read_string(stats.metric);
    } else if (key == "\"vectorType\"" || key == "\"vector_type\"") {
      in.read_string(stats.vector_type);
    } else {
      return false;
    }
    return true;
  });
  return in.finish() ? std::optional(std::move(stats)) : std::nullopt;
}

std::optional<PineconeIdPage> read_id_page(std::string_view body) {
  JsonCursor in(body);
  PineconeIdPage page;
  bool named = true;
  each_member(in, [&](std::string_view key) {
    if (key == "\"vectors\"") {
      each_element(in, [&] {
        std::string id;
        each_member(in, [&](std::string_view member) {
          return member == "\"id\"" && (in.read_string(id), true);
        });
        named = named && !id.empty();
        page.ids.push_back(std::move(id));
      });
    } else if (key == "\"pagination\"") {
      each_member(in, [&](std::string_view member) {
        return member == "\"next\"" && (in.read_string(page.next), true);
      });
    } else {
      return false;
    }
    return true;
  });
  return in.finish() && named ? std::optional(std::move(page)) : std::nullopt;
}

std::optional<std::vector<PineconeVector>> read_fetched_vectors(std::string_view body) {
  JsonCursor in(body);
  std::vector<PineconeVector> vectors;
  bool named = true;
  each_member(in, [&](std::string_view key) {
    if (key != "\"vectors\"") {
      return false;
    }
    std::string_view quoted;
    for (in.enter('{'); in.next_member(quoted);) {
      PineconeVector vector;
      read_vector(in, vector);
      // The key says it as well.
      if (vector.id.empty() && !unquote(quoted, vector.id)) {
        in.fail();
      }
      named = named && !vector.id.empty();
      vectors.push_back(std::move(vector));
    }
    return true;
  });
  return in.finish() && named ? std::optional(std::move(vectors)) : std::nullopt;
}

std::optional<std::vector<PineconeMatch>> read_query_matches(std::string_view body) {
  JsonCursor in(body);
  std::vector<PineconeMatch> matches;
  bool named = true;
  each_member(in, [&](std::string_view key) {
    if (key != "\"matches\"") {
      return false;
    }
    each_element(in, [&] {
      PineconeMatch match;
      each_member(in, [&](std::string_view member) {
        if (member == "\"id\"") {
          in.read_string(match.id);
        } else if (member == "\"score\"") {
          read_finite(in, match.score);
        } else {
          return false;
        }
        return true;
      });
      named = named && !match.id.empty();
      matches.push_back(std::move(match));
    });
    return true;
  });
  return in.finish() && named ? std::optional(std::move(matches)) : std::nullopt;
}

}  // namespace core
