#include "net/http_client.hpp"

#include <algorithm>
#include <ctime>
#include <map>
#include <new>
#include <utility>
#include <vector>

#include "core/backoff.hpp"
#include "core/error.hpp"
#include "core/http_retry.hpp"
#include "net/breakers.hpp"
#include "net/curl_transfer.hpp"
#include "pg/guard.hpp"
#include "pg/settings.hpp"

extern "C" {
#include "common/pg_prng.h"
}

namespace net {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kLongestPoll{100};
constexpr milliseconds kLongestDelay{30'000};       // that we choose
constexpr milliseconds kLongestRetryAfter{60'000};  // that a server asks for
constexpr std::chrono::seconds kLongestConnect{20};
constexpr milliseconds kLeastThrottle{1000};  // that counts against the patience

std::uint32_t random_bits() { return pg_prng_uint32(&pg_global_prng_state); }

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// After the fork, and only in a process that needs it.
void initialize_curl() {
  static bool done = false;
  if (!done) {
    const SignalsBlocked blocked;
    if (const CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT); code != CURLE_OK) {
      throw core::Error(core::sqlstate::kInternalError,
                        std::string("libcurl cannot start: ") + curl_easy_strerror(code));
    }
    done = true;
  }
}

struct MultiCleanup {
  void operator()(CURLM* multi) const noexcept {
    const SignalsBlocked blocked;
    curl_multi_cleanup(multi);
  }
};

// The breaker's leave for one request. Unless an outcome is reported, it ends without one.
class Permit {
 public:
  Permit() = default;
  Permit(const std::string& service, BreakerPermit permit) : service_(&service), permit_(permit) {}
  Permit(Permit&& other) noexcept
      : service_(std::exchange(other.service_, nullptr)), permit_(other.permit_) {}
  Permit& operator=(Permit&& other) noexcept {
    std::swap(service_, other.service_);
    std::swap(permit_, other.permit_);
    return *this;
  }
  ~Permit() {
    if (service_ != nullptr) {
      report_abandoned(*service_, permit_);
    }
  }
  void succeeded() noexcept {
    if (const auto* service = std::exchange(service_, nullptr)) {
      report_success(*service, permit_);
    }
  }
  void failed() noexcept {
    if (const auto* service = std::exchange(service_, nullptr)) {
      report_failure(*service, permit_);
    }
  }

 private:
  const std::string* service_ = nullptr;
  BreakerPermit permit_;
};

struct Call {
  explicit Call(HttpCall&& spec_, milliseconds first_delay)
      : spec(std::move(spec_)), backoff(first_delay, kLongestDelay) {}

  HttpCall spec;
  core::Backoff backoff;
  Clock::time_point due = Clock::now();  // of the next attempt
  Clock::time_point started = due;
  int attempts = 0;
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

class HttpClient::Impl {
 public:
  Impl(HttpOptions options, HttpObserver& observer)
      : options_(std::move(options)), observer_(observer) {
    initialize_curl();
    multi_.reset(curl_multi_init());
    if (multi_ == nullptr) {
      throw std::bad_alloc();
    }
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    while (!calls_.empty()) {
      cancel(calls_.begin()->first);
    }
  }

  Id start(HttpCall&& spec) {
    const Id id = ++last_id_;
    calls_.emplace(std::piecewise_construct, std::forward_as_tuple(id),
                   std::forward_as_tuple(std::move(spec), options_.first_delay));
    return id;
  }

  void pump() {
    start_due();
    perform();
    deliver();
    collect();
  }

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
      poll();
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

  void start_due() {
    const auto now = Clock::now();
    for (auto& [id, call] : calls_) {
      if (!call.done && call.transfer == nullptr && call.due <= now) {
        start_attempt(call);
      }
    }
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
      call.done = true;
      return;
    }
    call.permit = Permit(options_.service, permit);
    if (call.attempts > 0) {
      observer_.retry(options_.service);
    }
    ++call.attempts;
    call.progressed = false;
    const TransferLimits limits = limits_of(call, request);
    call.attempt_started = Clock::now();
    call.transfer = std::make_unique<CurlTransfer>(multi_.get(), std::move(request), kUserAgent,
                                                   options_.request_id, options_.ca_file, limits);
  }

  void perform() {
    int running = 0;
    const SignalsBlocked blocked;
    check(curl_multi_perform(multi_.get(), &running));
  }

  // Feeds the sinks, outside of libcurl: they may do as they like.
  void deliver() {
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

  void collect() {
    std::vector<std::pair<CURL*, CURLcode>> ended;
    int left = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi_.get(), &left)) {
      if (message->msg == CURLMSG_DONE) {
        ended.emplace_back(message->easy_handle, message->data.result);
      }
    }
    for (const auto& [easy, code] : ended) {
      for (auto& [id, call] : calls_) {
        if (call.transfer != nullptr && call.transfer->handle() == easy) {
          end_attempt(call, code);
          break;
        }
      }
    }
  }

  void end_attempt(Call& call, CURLcode code) {
    HttpReply reply = call.transfer->finish(code);
    call.transfer.reset();
    observer_.request(options_.service, outcome_of(reply), seconds_since(call.attempt_started));
    const Verdict verdict = judge(call, reply);
    reply.attempts = call.attempts;
    reply.ok = verdict == Verdict::kDone;
    settle(call, reply, verdict);
    call.reply = std::move(reply);
    if (verdict == Verdict::kDone || verdict == Verdict::kFail) {
      call.done = true;
    } else {
      schedule_retry(call, verdict);
    }
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
    if (verdict == Verdict::kThrottled) {
      call.throttled += std::max(delay, kLeastThrottle);
      call.done = call.throttled > options_.throttle_patience;
    } else {
      const int allowed = call.spec.max_retries.value_or(
          options_.max_retries.value_or(pg::settings::http_max_retries()));
      call.done = call.retries >= allowed;
      ++call.retries;
      if (breaker_state(options_.service) == core::CircuitBreaker::State::kOpen) {
        delay = milliseconds(0);  // to be refused at once
      }
    }
    call.due = now + delay;
    call.done = call.done || (call.spec.deadline && call.due > call.started + *call.spec.deadline);
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

  void poll() {
    const auto now = Clock::now();
    milliseconds wait = kLongestPoll;
    for (const auto& [id, call] : calls_) {
      if (!call.done && call.transfer == nullptr) {
        const auto until = std::chrono::ceil<milliseconds>(call.due - now);
        wait = std::clamp(until, milliseconds(0), wait);
      }
    }
    // Signals stay deliverable: they end the wait.
    check(curl_multi_poll(multi_.get(), nullptr, 0, static_cast<int>(wait.count()), nullptr));
  }

  static void check(CURLMcode code) {
    if (code == CURLM_OUT_OF_MEMORY) {
      throw std::bad_alloc();
    }
    if (code != CURLM_OK) {
      throw core::Error(core::sqlstate::kInternalError,
                        std::string("libcurl failed: ") + curl_multi_strerror(code));
    }
  }

  static constexpr const char* kUserAgent = "bacmr_ops/" BACMR_OPS_VERSION;

  HttpOptions options_;
  HttpObserver& observer_;
  std::unique_ptr<CURLM, MultiCleanup> multi_;
  std::map<Id, Call> calls_;
  Id last_id_ = 0;
  std::optional<BreakerState> reported_;
};

HttpClient::HttpClient(HttpOptions options, HttpObserver& observer)
    : impl_(std::make_unique<Impl>(std::move(options), observer)) {}
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
