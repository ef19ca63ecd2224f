#include "net/http_client.hpp"

#include <algorithm>
#include <ctime>
#include <map>
#include <utility>

#include "core/backoff.hpp"
#include "core/error.hpp"
#include "core/http_retry.hpp"
#include "core/rate_limit.hpp"
#include "net/curl_transfer.hpp"
#include "net/http_loop_impl.hpp"
#include "net/permit.hpp"
#include "pg/guard.hpp"
#include "pg/settings.hpp"
#include "pg/wait.hpp"

extern "C" {
#include "common/pg_prng.h"
}

namespace net {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kLongestDelay{30'000};       // that we choose
constexpr milliseconds kLongestRetryAfter{60'000};  // that a server asks for
constexpr std::chrono::seconds kLongestConnect{20};
constexpr milliseconds kLeastThrottle{1000};  // that counts against the patience

std::uint32_t random_bits() { return pg_prng_uint32(&pg_global_prng_state); }

core::RateLimit::Time in_ms(Clock::time_point time) {
  return std::chrono::duration_cast<core::RateLimit::Time>(time.time_since_epoch());
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Call {
  explicit Call(HttpCall&& spec_, milliseconds first_delay)
      : spec(std::move(spec_)), backoff(first_delay, kLongestDelay) {}

  HttpCall spec;
  core::Backoff backoff;
  Clock::time_point due = Clock::now();  // of the next attempt
  Clock::time_point started = due;
  int attempts = 0;
  int unanswered = 0;
  int retries = 0;
  milliseconds throttled{0};
  bool progressed = false;  // in this attempt
  bool done = false;
  HttpReply reply;

  // Of the attempt under way.
  Clock::time_point attempt_started;
  Permit permit;
  std::unique_ptr<CurlTransfer> transfer;
};

std::string outcome_of(const HttpReply& reply) {
  switch (reply.failure) {
    case HttpReply::Failure::kTimeout:
      return "timeout";
    case HttpReply::Failure::kNetwork:
    case HttpReply::Failure::kTls:
      return "network";
    case HttpReply::Failure::kLocal:
      return "cancelled";
    default:
      return std::to_string(reply.status);
  }
}

// In a word, where a request is not sent again.
std::string describe(const HttpReply& reply) {
  return reply.failure == HttpReply::Failure::kNone ? "HTTP " + std::to_string(reply.status)
                                                    : reply.problem;
}

Verdict judge(const Call& call, const HttpReply& reply) {
  switch (reply.failure) {
    case HttpReply::Failure::kNone:
      return call.spec.judge ? call.spec.judge(reply) : judge_by_status(reply);
    case HttpReply::Failure::kNetwork:
    case HttpReply::Failure::kTimeout:
      return Verdict::kFault;
    default:
      return Verdict::kFail;
  }
}

}  // namespace

Verdict judge_by_status(const HttpReply& reply) {
  if (reply.status >= 200 && reply.status < 300) {
    return Verdict::kDone;
  }
  switch (core::classify_status(reply.status)) {
    case core::RetryClass::kFault:
      return Verdict::kFault;
    case core::RetryClass::kThrottled:
      return Verdict::kThrottled;
    case core::RetryClass::kFinal:
      break;
  }
  return Verdict::kFail;
}

class HttpClient::Impl final : public LoopMember {
 public:
  // Without `loop`: with one of its own.
  Impl(HttpOptions options, HttpObserver& observer, HttpLoop* loop)
      : options_(std::move(options)),
        observer_(observer),
        own_loop_(loop == nullptr ? std::make_unique<HttpLoop>() : nullptr),
        loop_(loop == nullptr ? own_loop_->impl() : loop->impl()),
        rate_(options_.requests_per_minute, options_.tokens_per_minute) {
    loop_.join(*this);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() override {
    while (!calls_.empty()) {
      cancel(calls_.begin()->first);
    }
    loop_.leave(*this);
  }

  Id start(HttpCall&& spec) {
    const Id id = ++last_id_;
    calls_.emplace(std::piecewise_construct, std::forward_as_tuple(id),
                   std::forward_as_tuple(std::move(spec), options_.first_delay));
    return id;
  }

  void pump() { loop_.pump(); }

  template <class Condition>
  void wait_until(Condition condition) {
    while (true) {
      pump();
      if (condition()) {
        return;
      }
      if (options_.interruptible) {
        pg::check_for_interrupts();
      }
      pg::leave_without_postmaster();
      loop_.poll(HttpLoop::Impl::kLongestPoll);
    }
  }

  bool done(Id id) const { return calls_.at(id).done; }
  bool any_done() const {
    return calls_.empty() || std::any_of(calls_.begin(), calls_.end(),
                                         [](const auto& each) { return each.second.done; });
  }

  HttpReply take(Id id) {
    const auto found = calls_.find(id);
    HttpReply reply = std::move(found->second.reply);
    calls_.erase(found);
    return reply;
  }

  void cancel(Id id) noexcept {
    const auto found = calls_.find(id);
    if (found == calls_.end()) {
      return;
    }
    if (found->second.transfer != nullptr) {
      try {
        observer_.request(options_.service, "cancelled",
                          seconds_since(found->second.attempt_started));
      } catch (...) {
        // Only memory can be short; the metric is the lesser loss.
        found->second.done = true;
      }
    }
    calls_.erase(found);
  }

  void start_due() override {
    const auto now = Clock::now();
    std::size_t room = room_left();
    for (auto& [id, call] : calls_) {
      if (call.done || call.transfer != nullptr || call.due > now) {
        continue;
      }
      if (room == 0) {
        return;
      }
      // First come, first served: else the small ones would keep a large one waiting.
      const auto wait = rate_.wait(call.spec.tokens, in_ms(now));
      if (wait > milliseconds(0)) {
        not_before_ = now + wait;
        return;
      }
      start_attempt(call);
      room -= call.transfer != nullptr ? 1 : 0;
    }
  }

  // Feeds the sinks, outside of libcurl: they may do as they like.
  void deliver() override {
    for (auto& [id, call] : calls_) {
      if (call.transfer == nullptr || !call.transfer->streams()) {
        continue;
      }
      const std::string received = call.transfer->take_received();
      if (!received.empty() && call.spec.sink(call.transfer->reply(), received)) {
        call.progressed = true;
      }
    }
  }

  bool end(CURL* easy, CURLcode code) override {
    const auto found = std::find_if(calls_.begin(), calls_.end(), [&](const auto& each) {
      return each.second.transfer != nullptr && each.second.transfer->handle() == easy;
    });
    if (found == calls_.end()) {
      return false;
    }
    end_attempt(found->second, code);
    return true;
  }

  std::optional<Clock::time_point> next_due() const override {
    std::optional<Clock::time_point> next;
    if (room_left() == 0) {
      return next;
    }
    for (const auto& [id, call] : calls_) {
      if (!call.done && call.transfer == nullptr) {
        const auto due = std::max(call.due, not_before_);
        next = next ? std::min(*next, due) : due;
      }
    }
    return next;
  }

 private:
  std::chrono::seconds timeout_of(const HttpCall& spec) const {
    const auto timeout =
        spec.timeout
            ? *spec.timeout
            : options_.timeout.value_or(std::chrono::seconds(pg::settings::http_timeout_s()));
    return std::max(timeout, std::chrono::seconds(1));
  }

  TransferLimits limits_of(const Call& call, const HttpRequest& request) const {
    TransferLimits limits;
    limits.stall = timeout_of(call.spec);
    limits.connect = std::min(limits.stall, kLongestConnect);
    limits.body = call.spec.body_limit;
    limits.streamed = static_cast<bool>(call.spec.sink);
    const bool is_small = !limits.streamed && !std::holds_alternative<FileRange>(request.body);
    limits.total =
        call.spec.attempt_limit.value_or(is_small ? milliseconds(limits.stall) : milliseconds(0));
    if (call.spec.deadline) {
      const auto left = std::chrono::duration_cast<milliseconds>(
          call.started + *call.spec.deadline - Clock::now());
      const auto bounded = std::max(left, milliseconds(1));
      limits.total = limits.total.count() == 0 ? bounded : std::min(limits.total, bounded);
    }
    return limits;
  }

  std::size_t room_left() const {
    const auto running =
        static_cast<std::size_t>(std::count_if(calls_.begin(), calls_.end(), [](const auto& each) {
          return each.second.transfer != nullptr;
        }));
    return options_.max_in_flight - std::min(options_.max_in_flight, running);
  }

  void start_attempt(Call& call) {
    HttpRequest request = call.spec.make();
    const BreakerPermit permit = admit(options_.service);
    report_breaker();
    if (!permit.granted) {
      // What the last attempt brought stays, for the error that will be made of it.
      call.reply.problem = call.attempts > 0 ? describe(call.reply) : "it has failed repeatedly";
      call.reply.failure = HttpReply::Failure::kRefused;
      call.reply.wait = milliseconds(permit.wait);
      finish(call);
      return;
    }
    rate_.take(call.spec.tokens, in_ms(Clock::now()));
    call.permit = Permit(options_.service, permit);
    if (call.attempts > 0) {
      observer_.retry(options_.service);
    }
    ++call.attempts;
    call.progressed = false;
    const TransferLimits limits = limits_of(call, request);
    call.attempt_started = Clock::now();
    call.transfer = std::make_unique<CurlTransfer>(loop_.multi(), std::move(request), kUserAgent,
                                                   options_.request_id, options_.ca_file, limits);
  }

  void end_attempt(Call& call, CURLcode code) {
    HttpReply reply = call.transfer->finish(code);
    if (reply.failure != HttpReply::Failure::kNone && call.transfer->was_sent()) {
      ++call.unanswered;
    }
    call.transfer.reset();
    hear_limits(reply);
    observer_.request(options_.service, outcome_of(reply), seconds_since(call.attempt_started));
    const Verdict verdict = judge(call, reply);
    reply.attempts = call.attempts;
    reply.unanswered = call.unanswered;
    reply.ok = verdict == Verdict::kDone;
    settle(call, reply, verdict);
    call.reply = std::move(reply);
    if (verdict == Verdict::kDone || verdict == Verdict::kFail) {
      finish(call);
    } else {
      schedule_retry(call, verdict);
    }
  }

  void finish(Call& call) {
    call.done = true;
    loop_.note_end();
  }

  void hear_limits(const HttpReply& reply) {
    const auto now = in_ms(Clock::now());
    rate_.hear_requests(reply.header("x-ratelimit-limit-requests"),
                        reply.header("x-ratelimit-remaining-requests"),
                        reply.header("x-ratelimit-reset-requests"), now);
    rate_.hear_tokens(reply.header("x-ratelimit-limit-tokens"),
                      reply.header("x-ratelimit-remaining-tokens"),
                      reply.header("x-ratelimit-reset-tokens"), now);
  }

  void settle(Call& call, const HttpReply& reply, Verdict verdict) {
    if (verdict == Verdict::kFault) {
      call.permit.failed();
    } else if (reply.failure == HttpReply::Failure::kNone) {
      call.permit.succeeded();
    } else {
      call.permit = Permit();
    }
    report_breaker();
  }

  void schedule_retry(Call& call, Verdict verdict) {
    const auto now = Clock::now();
    if (call.progressed) {
      call.retries = 0;
      call.backoff.reset();
    }
    milliseconds delay = call.backoff.next(random_bits());
    if (const auto asked =
            core::parse_retry_after(call.reply.header("retry-after"),
                                    call.reply.header("retry-after-ms"), std::time(nullptr))) {
      // Spread a little, so that those who were told the same do not all come back at once.
      delay = std::min(*asked, kLongestRetryAfter) + milliseconds(random_bits() % 100);
    }
    bool enough = false;
    if (verdict == Verdict::kThrottled) {
      call.throttled += std::max(delay, kLeastThrottle);
      enough = call.throttled > options_.throttle_patience;
      rate_.hold(in_ms(now + delay));
    } else {
      const int allowed = call.spec.max_retries.value_or(
          options_.max_retries.value_or(pg::settings::http_max_retries()));
      enough = call.retries >= allowed;
      ++call.retries;
      if (breaker_state(options_.service) == core::CircuitBreaker::State::kOpen) {
        delay = milliseconds(0);  // to be refused at once
      }
    }
    call.due = now + delay;
    if (enough || (call.spec.deadline && call.due > call.started + *call.spec.deadline)) {
      finish(call);
    }
  }

  void report_breaker() {
    static_assert(static_cast<int>(BreakerState::kHalfOpen) ==
                  static_cast<int>(core::CircuitBreaker::State::kHalfOpen));
    const auto state = static_cast<BreakerState>(static_cast<int>(breaker_state(options_.service)));
    if (reported_ != state) {
      reported_ = state;
      observer_.breaker(options_.service, state);
    }
  }

  static constexpr const char* kUserAgent = "bacmr_ops/" BACMR_OPS_VERSION;

  HttpOptions options_;
  HttpObserver& observer_;
  std::unique_ptr<HttpLoop> own_loop_;
  HttpLoop::Impl& loop_;
  core::RateLimit rate_;
  Clock::time_point not_before_;  // no attempt, by the rate limit
  std::map<Id, Call> calls_;
  Id last_id_ = 0;
  std::optional<BreakerState> reported_;
};

HttpClient::HttpClient(HttpOptions options, HttpObserver& observer)
    : impl_(std::make_unique<Impl>(std::move(options), observer, nullptr)) {}
HttpClient::HttpClient(HttpOptions options, HttpObserver& observer, HttpLoop& loop)
    : impl_(std::make_unique<Impl>(std::move(options), observer, &loop)) {}
HttpClient::~HttpClient() = default;

HttpClient::Id HttpClient::start(HttpCall call) { return impl_->start(std::move(call)); }
void HttpClient::pump() { impl_->pump(); }
void HttpClient::wait(Id id) {
  impl_->wait_until([&] { return impl_->done(id); });
}
void HttpClient::wait_any() {
  impl_->wait_until([&] { return impl_->any_done(); });
}
bool HttpClient::done(Id id) const { return impl_->done(id); }
HttpReply HttpClient::take(Id id) { return impl_->take(id); }
void HttpClient::cancel(Id id) noexcept { impl_->cancel(id); }

HttpReply HttpClient::perform(HttpCall call) {
  const Id id = start(std::move(call));
  try {
    wait(id);
  } catch (...) {
    // Its hooks may refer to what is going out of scope.
    cancel(id);
    throw;
  }
  return take(id);
}

}  // namespace net
