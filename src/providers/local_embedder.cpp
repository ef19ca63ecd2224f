#include "pg/postgres.hpp"

#include "providers/local_embedder.hpp"

#include <charconv>
#include <map>
#include <utility>

#include "core/error.hpp"
#include "core/local_embedder.hpp"
#include "core/token_estimate.hpp"
#include "net/service_options.hpp"
#include "pg/guard.hpp"

namespace providers {
namespace {

constexpr std::int64_t kDefaultDimensions = 256;
constexpr std::string_view kPrefix = "local-";

std::size_t dimensions_of(const net::Service& service, const std::string& model) {
  if (model.empty()) {
    return static_cast<std::size_t>(net::number_option(service, "dimensions", kDefaultDimensions));
  }
  std::size_t dimensions = 0;
  const char* const end = model.data() + model.size();
  const bool named = model.starts_with(kPrefix);
  const auto [stop, error] =
      std::from_chars(model.data() + (named ? kPrefix.size() : 0), end, dimensions);
  if (!named || error != std::errc() || stop != end) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "server \"" + service.name + "\" has no model \"" + model + "\"", {},
                      "Models of type local are called local-<dimensions>, such as local-256.");
  }
  return dimensions;
}

class Local : public Embedder {
 public:
  explicit Local(std::size_t dimensions)
      : embedder_(dimensions), model_(std::string(kPrefix) + std::to_string(dimensions)) {}

  const std::string& model() const override { return model_; }
  std::optional<int> dimensions() const override {
    return static_cast<int>(embedder_.dimensions());
  }
  double price_per_million_tokens() const override { return 0; }

  Ticket start(std::vector<std::string> texts) override {
    EmbedResult result;
    result.vectors.resize(texts.size());
    for (std::size_t i = 0; i < texts.size(); ++i) {
      pg::check_for_interrupts();
      if (auto vector = embedder_.embed(texts[i])) {
        result.vectors[i] = std::move(*vector);
        result.tokens += core::estimate_tokens(texts[i]);
      } else {
        result.refused.push_back({i, "the text is empty"});
      }
    }
    results_.emplace(++last_ticket_, std::move(result));
    return last_ticket_;
  }

  void pump() override {}
  bool done(Ticket ticket) const override { return results_.count(ticket) != 0; }
  EmbedResult take(Ticket ticket) override {
    EmbedResult result = std::move(results_.at(ticket));
    results_.erase(ticket);
    return result;
  }
  void cancel(Ticket ticket) noexcept override { results_.erase(ticket); }

 private:
  core::LocalEmbedder embedder_;
  std::string model_;
  std::map<Ticket, EmbedResult> results_;
  Ticket last_ticket_ = 0;
};

}  // namespace

std::unique_ptr<Embedder> open_local_embedder(const net::Service& service,
                                              const std::string& model) {
  return std::make_unique<Local>(dimensions_of(service, model));
}

}  // namespace providers
