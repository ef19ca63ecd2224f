#include "pg/postgres.hpp"

#include "providers/openai_embedder.hpp"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <utility>

#include "core/batch_packer.hpp"
#include "core/embedding_reply.hpp"
#include "core/error.hpp"
#include "core/json.hpp"
#include "core/service_error.hpp"
#include "core/token_estimate.hpp"
#include "core/uri.hpp"
#include "core/utf8.hpp"
#include "net/service_options.hpp"
#include "providers/batch_calls.hpp"
#include "providers/service_client.hpp"

namespace providers {
namespace {

using Outcome = BatchCalls::Outcome;

// OpenAI's own limits; the server's options may lower, or raise, the first two.
constexpr std::int64_t kMaxInputs = 2048;
constexpr std::int64_t kMaxTokens = 300'000;
constexpr std::uint64_t kMaxInputTokens = 8192;
// Estimates are off by some: what may be near a limit is taken to be beyond it.
constexpr double kMargin = 0.9;
// A rate limit is no failure: the texts are good, and so is the service.
constexpr std::chrono::minutes kPatience{10};

constexpr std::size_t kMostDimensions = 20000;
constexpr std::size_t kBytesPerNumber = 32;  // at most, of an array; base64 needs 6
constexpr std::size_t kReplyLimit = std::size_t{256} << 20;

constexpr const char* kProtocolViolation = "08P01";

bool is_blank(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const core::utf8::CodePoint point = core::utf8::decode(text, at);
    if (!core::utf8::is_blank(point.value)) {
      return false;
    }
    at += point.length;
  }
  return true;
}

// Some servers find that a vector of theirs is NaN only as they write it down, and say so by a 500
// each time.
bool is_unwritable(int status, const core::ServiceError& error) {
  return status == 500 && error.message.find("NaN") != std::string::npos;
}

net::Verdict judge(const net::HttpReply& reply) {
  const net::Verdict by_status = net::judge_by_status(reply);
  if (by_status == net::Verdict::kDone) {
    return by_status;
  }
  constexpr int kConflict = 409;
  const core::ServiceError error = core::read_service_error(reply.status, reply.body);
  switch (error.kind) {
    case core::ServiceErrorKind::kTooLarge:
    case core::ServiceErrorKind::kQuota:
    case core::ServiceErrorKind::kAuth:
      return net::Verdict::kFail;
    case core::ServiceErrorKind::kRateLimit:
    case core::ServiceErrorKind::kOther:
      break;
  }
  if (is_unwritable(reply.status, error)) {
    return net::Verdict::kFail;
  }
  return reply.status == kConflict ? net::Verdict::kFault : by_status;
}

class OpenAi : public Embedder, private BatchCalls::Owner {
 public:
  OpenAi(const net::Service& service, const std::string& model, const std::string& request_id,
         net::HttpLoop& loop, net::HttpObserver& observer);

  const std::string& model() const override { return model_; }
  std::optional<int> dimensions() const override { return dimensions_; }
  double price_per_million_tokens() const override { return price_; }

  Ticket start(std::vector<std::string> texts) override;
  void pump() override { calls_.pump(); }
  bool done(Ticket ticket) const override { return calls_.done(ticket); }
  EmbedResult take(Ticket ticket) override;
  void cancel(Ticket ticket) noexcept override {
    calls_.cancel(ticket);
    batches_.erase(ticket);
  }

 private:
  struct Batch {
    std::vector<std::string> texts;
    std::vector<std::uint64_t> estimates;  // of their tokens, before calibration
    EmbedResult result;
  };

  static net::HttpOptions options_of(const net::Service& service, const std::string& request_id);
  net::HttpCall make_call(Ticket ticket, const BatchCalls::Items& items) override;
  Outcome take_reply(Ticket ticket, const BatchCalls::Items& items,
                     const net::HttpReply& reply) override;
  Outcome take_vectors(Ticket ticket, const BatchCalls::Items& items, const net::HttpReply& reply);
  Outcome take_error(const net::HttpReply& reply);
  void send(Ticket ticket, const BatchCalls::Items& items);
  std::string action() const { return "the embedder \"" + name_ + "\" failed"; }
  static std::uint64_t estimate_of(const Batch& batch, const BatchCalls::Items& items);

  std::string name_;
  std::string url_;
  std::string model_;
  std::string api_key_;
  bool bearer_;
  std::optional<int> dimensions_;
  std::optional<std::size_t> seen_dimensions_;
  std::size_t max_inputs_;
  double max_tokens_;
  double price_ = 0;
  bool ask_base64_ = true;
  core::TokenCalibrator calibrator_;
  std::map<Ticket, Batch> batches_;
  // Last: it goes first, since its calls refer to the rest.
  BatchCalls calls_;
};

net::HttpOptions OpenAi::options_of(const net::Service& service, const std::string& request_id) {
  net::HttpOptions options = http_options(service, request_id);
  options.throttle_patience = kPatience;
  return options;
}

OpenAi::OpenAi(const net::Service& service, const std::string& model, const std::string& request_id,
               net::HttpLoop& loop, net::HttpObserver& observer)
    : name_(service.name),
      url_(service_url(service, "base_url") + "/embeddings"),
      model_(model.empty() ? service.option("model") : model),
      api_key_(secret_of(service, "api_key")),
      bearer_(service.option("auth_header", "bearer") == "bearer"),
      max_inputs_(static_cast<std::size_t>(net::number_option(service, "max_inputs", kMaxInputs))),
      max_tokens_(static_cast<double>(net::number_option(service, "max_tokens", kMaxTokens)) *
                  kMargin),
      calls_(options_of(service, request_id), observer, loop, *this) {
  if (model_.empty()) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "which model of the embedder \"" + name_ + "\"?", {},
                      "Name one, or declare the server's option model.");
  }
  if (const std::string version = service.option("api_version"); !version.empty()) {
    url_ += "?api-version=" + core::encode_query_component(version);
  }
  if (service.has("dimensions")) {
    dimensions_ = static_cast<int>(net::number_option(service, "dimensions", 0));
    seen_dimensions_ = static_cast<std::size_t>(*dimensions_);
  }
  if (const std::string price = service.option("price_per_million_tokens"); !price.empty()) {
    price_ = std::strtod(price.c_str(), nullptr);
  }
}

Ticket OpenAi::start(std::vector<std::string> texts) {
  const Ticket ticket = calls_.begin();
  Batch& batch = batches_[ticket];
  batch.texts = std::move(texts);
  batch.result.vectors.resize(batch.texts.size());
  batch.estimates.resize(batch.texts.size());
  const auto longest = static_cast<std::uint64_t>(static_cast<double>(kMaxInputTokens) * kMargin);
  BatchCalls::Items items;
  BatchCalls::Items alone;
  for (std::size_t i = 0; i < batch.texts.size(); ++i) {
    if (is_blank(batch.texts[i])) {
      calls_.refuse(ticket, i, "the text is empty");
      continue;
    }
    batch.estimates[i] = core::estimate_tokens(batch.texts[i]);
    // One that is too long would have its whole request refused.
    (calibrator_.corrected(batch.estimates[i]) > longest ? alone : items).push_back(i);
  }
  send(ticket, items);
  for (const std::size_t item : alone) {
    calls_.send(ticket, {item});
  }
  return ticket;
}

void OpenAi::send(Ticket ticket, const BatchCalls::Items& items) {
  const Batch& batch = batches_.at(ticket);
  std::vector<core::ItemSize> sizes;
  sizes.reserve(items.size());
  for (const std::size_t item : items) {
    sizes.push_back({batch.texts[item].size(), calibrator_.corrected(batch.estimates[item])});
  }
  core::BatchLimits limits;
  limits.max_items = std::min(max_inputs_, calls_.learnt_limit());
  limits.max_tokens = static_cast<std::uint64_t>(max_tokens_);
  for (const core::Batch& each : core::pack_batches(sizes, limits)) {
    const auto first = items.begin() + static_cast<std::ptrdiff_t>(each.first);
    calls_.send(ticket, {first, first + static_cast<std::ptrdiff_t>(each.count)});
  }
}

std::uint64_t OpenAi::estimate_of(const Batch& batch, const BatchCalls::Items& items) {
  std::uint64_t total = 0;
  for (const std::size_t item : items) {
    total += batch.estimates[item];
  }
  return total;
}

net::HttpCall OpenAi::make_call(Ticket ticket, const BatchCalls::Items& items) {
  const Batch& batch = batches_.at(ticket);
  core::JsonArray input;
  for (const std::size_t item : items) {
    input.text(batch.texts[item]);
  }
  core::JsonObject body;
  body.text("model", model_).raw("input", input.str());
  if (ask_base64_) {
    body.text("encoding_format", "base64");
  }
  if (dimensions_) {
    body.number("dimensions", *dimensions_);
  }
  net::HttpRequest request;
  request.method = "POST";
  request.url = url_;
  request.headers = {{"Content-Type", "application/json"}, {"Accept", "application/json"}};
  if (!api_key_.empty()) {
    request.headers.emplace_back(bearer_ ? "Authorization" : "api-key",
                                 (bearer_ ? "Bearer " : "") + api_key_);
  }
  request.body = body.str();
  net::HttpCall call;
  call.make = [request = std::move(request)] { return request; };
  call.judge = judge;
  call.tokens = static_cast<double>(calibrator_.corrected(estimate_of(batch, items)));
  const std::size_t numbers = seen_dimensions_.value_or(kMostDimensions);
  call.body_limit =
      std::min(items.size() * (numbers * kBytesPerNumber + 1024) + 65536, kReplyLimit);
  return call;
}

Outcome OpenAi::take_reply(Ticket ticket, const BatchCalls::Items& items,
                           const net::HttpReply& reply) {
  Batch& batch = batches_.at(ticket);
  const std::uint64_t estimate = calibrator_.corrected(estimate_of(batch, items));
  batch.result.unanswered_tokens += static_cast<std::uint64_t>(reply.unanswered) * estimate;
  if (reply.failure != net::HttpReply::Failure::kNone) {
    Outcome outcome;
    outcome.kind = Outcome::Kind::kFailed;
    outcome.failure = connection_failure(action(), reply);
    return outcome;
  }
  if (!reply.ok) {
    return take_error(reply);
  }
  const std::uint64_t counted = batch.result.tokens;
  Outcome outcome = take_vectors(ticket, items, reply);
  if (outcome.kind == Outcome::Kind::kFailed && batch.result.tokens == counted) {
    batch.result.unanswered_tokens += estimate;
  }
  return outcome;
}

Outcome OpenAi::take_vectors(Ticket ticket, const BatchCalls::Items& items,
                             const net::HttpReply& reply) {
  Batch& batch = batches_.at(ticket);
  core::EmbeddingReply answer = core::read_embedding_reply(reply.body, items.size());
  batch.result.tokens += answer.tokens;
  calibrator_.observe(estimate_of(batch, items), answer.tokens);
  Outcome outcome;
  if (!answer.problem.empty()) {
    outcome.kind = Outcome::Kind::kFailed;
    outcome.failure = {kProtocolViolation,
                       with_status("the embedder \"" + name_ +
                                       "\" gave an answer that cannot be "
                                       "used: " +
                                       answer.problem,
                                   reply),
                       {},
                       true};
    return outcome;
  }
  if (answer.dimensions != 0) {
    if (!seen_dimensions_) {
      seen_dimensions_ = answer.dimensions;
    }
    if (answer.dimensions != *seen_dimensions_) {
      outcome.kind = Outcome::Kind::kFailed;
      outcome.failure = {
          core::sqlstate::kInvalidParameterValue,
          with_status("the embedder \"" + name_ + "\" gave vectors of " +
                          std::to_string(answer.dimensions) + " dimensions, not " +
                          std::to_string(*seen_dimensions_),
                      reply),
          "Check the server's options model and dimensions: not every model comes in "
          "every size.",
          false};
      return outcome;
    }
  }
  for (std::size_t i = 0; i < items.size(); ++i) {
    batch.result.vectors[items[i]] = std::move(answer.vectors[i]);
  }
  for (core::UnusableVector& each : answer.unusable) {
    calls_.refuse(ticket, items[each.index], std::move(each.reason));
  }
  return outcome;
}

Outcome OpenAi::take_error(const net::HttpReply& reply) {
  const core::ServiceError error = core::read_service_error(reply.status, reply.body);
  Outcome outcome;
  outcome.kind = Outcome::Kind::kFailed;
  outcome.reason = with_status(printable(error.message, api_key_), reply);
  outcome.cause = error.message;
  ServiceFailure& failure = outcome.failure;
  failure.message = action() + ": " + outcome.reason;
  failure.may_pass = false;
  if (error.kind == core::ServiceErrorKind::kTooLarge) {
    outcome.kind = Outcome::Kind::kTooLarge;
    return outcome;
  }
  if (describe_refusal(error, !api_key_.empty(),
                       "the option requests_per_minute or tokens_per_minute", failure)) {
    return outcome;
  }
  switch (reply.status) {
    case 404:
      failure.sqlstate = core::sqlstate::kUndefinedObject;
      failure.hint = "Check the server's options base_url and model (\"" + model_ + "\").";
      return outcome;
    case 400:
    case 422:
      // (Where it complains of the encoding: a server that knows arrays only.)
      outcome.kind = Outcome::Kind::kAtFault;
      if (error.message.find("encoding_format") != std::string::npos) {
        ask_base64_ = false;
        outcome.kind = Outcome::Kind::kAgain;
      }
      failure.sqlstate = core::sqlstate::kInvalidParameterValue;
      failure.hint = "Check the server's options model and dimensions.";
      return outcome;
    default:
      break;
  }
  if (is_unwritable(reply.status, error)) {
    outcome.kind = Outcome::Kind::kAtFault;
    failure.sqlstate = kProtocolViolation;
    return outcome;
  }
  failure.sqlstate = core::sqlstate::kConnectionFailure;
  failure.may_pass = reply.status >= 500 || reply.status == 408 || reply.status == 409;
  if (reply.status < 400) {
    failure.hint = "Check the server's option base_url: redirections are not followed.";
  }
  return outcome;
}

EmbedResult OpenAi::take(Ticket ticket) {
  BatchCalls::End end = calls_.take(ticket);
  EmbedResult result = std::move(batches_.at(ticket).result);
  batches_.erase(ticket);
  result.refused = std::move(end.refused);
  result.failure = std::move(end.failure);
  return result;
}

}  // namespace

std::unique_ptr<Embedder> open_openai_embedder(const net::Service& service,
                                               const std::string& model,
                                               const std::string& request_id, net::HttpLoop& loop,
                                               net::HttpObserver& observer) {
  return std::make_unique<OpenAi>(service, model, request_id, loop, observer);
}

}  // namespace providers
