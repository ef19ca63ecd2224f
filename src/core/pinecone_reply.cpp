#include "core/pinecone_reply.hpp"

#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

namespace core {
namespace {

using nlohmann::json;

// A discarded value where it is no JSON object.
json parse(std::string_view body) {
  json value = json::parse(body, nullptr, false);
  return value.is_object() ? value : json(json::value_t::discarded);
}

std::optional<std::uint64_t> number_of(const json& value) {
  if (value.is_number_unsigned()) {
    return value.get<std::uint64_t>();
  }
  if (!value.is_string()) {
    return std::nullopt;
  }
  const auto& text = value.get_ref<const std::string&>();
  std::uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && stop == end ? std::optional(number) : std::nullopt;
}

// A missing count is 0: an encoder may leave out what has its default.
std::optional<std::uint64_t> read_number(std::string_view body, const char* name,
                                         const char* other_name) {
  const json value = parse(body);
  if (value.is_discarded()) {
    return std::nullopt;
  }
  for (const char* each : {name, other_name}) {
    const auto found = value.find(each);
    if (found != value.end() && !found->is_null()) {
      return number_of(*found);
    }
  }
  return 0;
}

const std::string* text_in(const json& object, const char* name) {
  if (!object.is_object()) {
    return nullptr;
  }
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get_ptr<const std::string*>()
                                                     : nullptr;
}

bool read_floats(const json& array, std::vector<float>& values) {
  if (!array.is_array()) {
    return false;
  }
  values.reserve(array.size());
  for (const json& each : array) {
    if (!each.is_number()) {
      return false;
    }
    values.push_back(each.get<float>());
  }
  return true;
}

}  // namespace

std::optional<std::uint64_t> read_pinecone_dimension(std::string_view body) {
  return read_number(body, "dimension", "dimension");
}

std::optional<std::uint64_t> read_pinecone_record_count(std::string_view body) {
  return read_number(body, "record_count", "recordCount");
}

std::optional<std::uint64_t> read_pinecone_upserted(std::string_view body) {
  return read_number(body, "upsertedCount", "upserted_count");
}

std::optional<PineconePage> read_pinecone_page(std::string_view body) {
  const json value = parse(body);
  if (value.is_discarded()) {
    return std::nullopt;
  }
  PineconePage page;
  if (const auto vectors = value.find("vectors"); vectors != value.end() && vectors->is_array()) {
    for (const json& each : *vectors) {
      const std::string* id = text_in(each, "id");
      if (id == nullptr) {
        return std::nullopt;
      }
      page.ids.push_back(*id);
    }
  }
  if (const auto pagination = value.find("pagination"); pagination != value.end()) {
    if (const std::string* next = text_in(*pagination, "next")) {
      page.next = *next;
    }
  }
  return page;
}

std::optional<std::vector<PineconeVector>> read_pinecone_vectors(std::string_view body) {
  const json value = parse(body);
  if (value.is_discarded()) {
    return std::nullopt;
  }
  std::vector<PineconeVector> vectors;
  const auto found = value.find("vectors");
  if (found == value.end() || found->is_null()) {
    return vectors;
  }
  if (!found->is_object()) {
    return std::nullopt;
  }
  for (const auto& [id, each] : found->items()) {
    PineconeVector vector;
    vector.id = id;
    if (!each.is_object() || !each.contains("values") ||
        !read_floats(each["values"], vector.values)) {
      return std::nullopt;
    }
    const auto metadata = each.find("metadata");
    vector.metadata =
        metadata != each.end() && metadata->is_object() ? metadata->dump() : std::string("{}");
    vectors.push_back(std::move(vector));
  }
  return vectors;
}

std::optional<std::vector<PineconeMatch>> read_pinecone_matches(std::string_view body) {
  const json value = parse(body);
  const auto found = value.is_discarded() ? value.end() : value.find("matches");
  if (value.is_discarded() || found == value.end() || !found->is_array()) {
    return std::nullopt;
  }
  std::vector<PineconeMatch> matches;
  for (const json& each : *found) {
    const std::string* id = text_in(each, "id");
    if (id == nullptr || !each.contains("score") || !each["score"].is_number()) {
      return std::nullopt;
    }
    matches.push_back({*id, each["score"].get<double>()});
  }
  return matches;
}

}  // namespace core
