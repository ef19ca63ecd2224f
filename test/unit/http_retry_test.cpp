// core::classify_status, parse_retry_after, parse_http_date.
#include "core/http_retry.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <string>

namespace {

using core::classify_status;
using core::parse_http_date;
using core::parse_retry_after;
using core::RetryClass;
using std::chrono::milliseconds;

TEST(HttpRetry, TellsFinalAnswersFromPassingOnes) {
  for (const int status : {200, 204, 301, 307, 400, 401, 403, 404, 409, 413, 422}) {
    EXPECT_EQ(classify_status(status), RetryClass::kFinal) << status;
  }
  for (const int status : {408, 500, 502, 503, 504, 529}) {
    EXPECT_EQ(classify_status(status), RetryClass::kFault) << status;
  }
  EXPECT_EQ(classify_status(429), RetryClass::kThrottled);
}

TEST(HttpRetry, ReadsSecondsAndMilliseconds) {
  EXPECT_EQ(parse_retry_after("7", "", 0), milliseconds(7000));
  EXPECT_EQ(parse_retry_after(" 0 ", "", 0), milliseconds(0));
  EXPECT_EQ(parse_retry_after("1.5", "", 0), milliseconds(1500));
  EXPECT_EQ(parse_retry_after("7", "20", 0), milliseconds(20)) << "the finer one wins";
  EXPECT_EQ(parse_retry_after("7", "x", 0), milliseconds(7000));
  EXPECT_EQ(parse_retry_after("", "0.2", 0), milliseconds(1));
}

TEST(HttpRetry, RefusesWhatIsNoDelay) {
  for (const char* text : {"", " ", "-1", "+1", "soon", "1e9", "0x10", "1 s", "nan", "inf", ".",
                           "1..2", "Sun, 06 Nov 1994", "06 Nov 1994 08:49:37 GMT"}) {
    EXPECT_EQ(parse_retry_after(text, text, 0), std::nullopt) << text;
  }
}

TEST(HttpRetry, HugeDelaysStayInRange) {
  const auto delay = parse_retry_after(std::string(400, '9'), "", 0);
  ASSERT_TRUE(delay.has_value());
  EXPECT_GT(*delay, std::chrono::hours(24));
  EXPECT_LE(*delay, std::chrono::hours(24 * 366));
}

TEST(HttpRetry, ReadsTheThreeFormsOfADate) {
  for (const char* text : {"Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT",
                           "Sun Nov  6 08:49:37 1994"}) {
    EXPECT_EQ(parse_http_date(text), std::optional<std::time_t>(784111777)) << text;
  }
  EXPECT_EQ(parse_http_date("Thu, 01 Jan 1970 00:00:00 GMT"), std::optional<std::time_t>(0));
}

TEST(HttpRetry, RefusesImpossibleDates) {
  for (const char* text : {"Sun, 31 Feb 2026 08:49:37 GMT", "Sun, 06 Nov 1994 24:49:37 GMT",
                           "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 CET",
                           "Sun, 06 Nov 994 08:49:37 GMT", "Sun, 06 Nov 1994 8:49:37 GMT"}) {
    EXPECT_EQ(parse_http_date(text), std::nullopt) << text;
  }
}

TEST(HttpRetry, ADateIsRelativeToNow) {
  const char* date = "Sun, 06 Nov 1994 08:49:37 GMT";
  EXPECT_EQ(parse_retry_after(date, "", 784111777 - 30), milliseconds(30000));
  EXPECT_EQ(parse_retry_after(date, "", 784111777 + 30), milliseconds(0));
}

}  // namespace
