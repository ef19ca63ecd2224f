// core/uri: percent-encoding byte for byte, and URLs that are refused rather than guessed at.
#include "core/uri.hpp"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "core/error.hpp"

namespace {

TEST(EncodePath, LeavesUnreservedCharactersAndSlashes) {
  const std::string same =
      "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz/./..//";
  EXPECT_EQ(core::encode_path(same), same);
  EXPECT_EQ(core::encode_path(""), "");
}

TEST(EncodePath, EncodesTheRestInCapitals) {
  EXPECT_EQ(core::encode_path("/test$file.text"), "/test%24file.text");
  EXPECT_EQ(core::encode_path("/a b+c?d#e%20"), "/a%20b%2Bc%3Fd%23e%2520");
  EXPECT_EQ(core::encode_path("/\xE1\x88\xB4\xFF"), "/%E1%88%B4%FF");
  EXPECT_EQ(core::encode_path(std::string_view("\0\x7F", 2)), "%00%7F");
}

TEST(EncodeQueryComponent, EncodesSlashesToo) {
  EXPECT_EQ(core::encode_query_component("a/b=c&d;e~*'()!"), "a%2Fb%3Dc%26d%3Be~%2A%27%28%29%21");
}

TEST(EncodeQueryComponent, KeepsExactlyTheUnreservedBytes) {
  int kept = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string raw(1, static_cast<char>(byte));
    const std::string encoded = core::encode_query_component(raw);
    if (encoded == raw) {
      ++kept;
    } else {
      ASSERT_EQ(encoded.size(), 3U) << byte;
      EXPECT_EQ(std::stoi(encoded.substr(1), nullptr, 16), byte) << encoded;
      EXPECT_EQ(encoded.find_first_of("abcdef"), std::string::npos) << encoded;
    }
  }
  EXPECT_EQ(kept, 26 + 26 + 10 + 4);
}

TEST(ParseUrl, TakesAUrlApart) {
  const core::Url url = core::parse_url("https://s3.eu-west-1.amazonaws.com:8443/storage/v1/s3");
  EXPECT_EQ(url.scheme, "https");
  EXPECT_EQ(url.host, "s3.eu-west-1.amazonaws.com");
  EXPECT_EQ(url.port, 8443);
  EXPECT_EQ(url.path, "/storage/v1/s3");
  EXPECT_EQ(url.host_header(), "s3.eu-west-1.amazonaws.com:8443");
}

TEST(ParseUrl, PortAndPathMayBeMissing) {
  const core::Url bare = core::parse_url("http://localhost");
  EXPECT_EQ(bare.host, "localhost");
  EXPECT_EQ(bare.port, std::nullopt);
  EXPECT_EQ(bare.path, "");
  EXPECT_EQ(bare.host_header(), "localhost");
  EXPECT_EQ(core::parse_url("http://localhost/").path, "/");
  EXPECT_EQ(core::parse_url("http://localhost:9000").path, "");
}

TEST(ParseUrl, SchemeAndHostAreLowerCasedThePathIsNot) {
  const core::Url url = core::parse_url("HTTPS://Example.COM/Path%2F");
  EXPECT_EQ(url.scheme, "https");
  EXPECT_EQ(url.host, "example.com");
  EXPECT_EQ(url.path, "/Path%2F");
}

TEST(ParseUrl, TheSchemesOwnPortIsNotPartOfTheHostHeader) {
  EXPECT_EQ(core::parse_url("https://h:443").host_header(), "h");
  EXPECT_EQ(core::parse_url("http://h:80").host_header(), "h");
  EXPECT_EQ(core::parse_url("http://h:443").host_header(), "h:443");
  EXPECT_EQ(core::parse_url("https://h:80").host_header(), "h:80");
}

TEST(ParseUrl, AddressesKeepTheirBrackets) {
  const core::Url six = core::parse_url("http://[2001:DB8::1]:9000/x");
  EXPECT_EQ(six.host, "[2001:db8::1]");
  EXPECT_EQ(six.port, 9000);
  EXPECT_EQ(six.path, "/x");
  EXPECT_EQ(six.host_header(), "[2001:db8::1]:9000");
  EXPECT_EQ(core::parse_url("http://[::1]").host_header(), "[::1]");
  EXPECT_EQ(core::parse_url("http://[::ffff:10.0.0.1]/").host, "[::ffff:10.0.0.1]");
  EXPECT_EQ(core::parse_url("http://127.0.0.1:1").host_header(), "127.0.0.1:1");
}

TEST(ParseUrl, EveryPortThatExists) {
  EXPECT_EQ(core::parse_url("http://h:1").port, 1);
  EXPECT_EQ(core::parse_url("http://h:65535").port, 65535);
}

TEST(ParseUrl, PathsMayHoldWhatTheStandardAllows) {
  const std::string path = "/a-._~!$&'()*+,;=:@/%20/..//";
  EXPECT_EQ(core::parse_url("http://h" + path).path, path);
}

struct Refused {
  std::string_view url;
  std::string_view reason;
};

class ParseUrlRefuses : public testing::TestWithParam<Refused> {};

TEST_P(ParseUrlRefuses, WithAReasonButWithoutTheUrl) {
  const std::string url(GetParam().url);
  try {
    core::parse_url(url);
    FAIL() << "accepted: " << url;
  } catch (const core::Error& error) {
    EXPECT_STREQ(error.sqlstate(), "22023");
    EXPECT_NE(error.detail().find(GetParam().reason), std::string::npos) << error.detail();
    for (const std::string& text : {error.message(), error.detail(), error.hint()}) {
      EXPECT_EQ(text.find("sesame"), std::string::npos) << text;
    }
  }
}

constexpr std::string_view kNul("http://h/\0", 10);

INSTANTIATE_TEST_SUITE_P(
    Urls, ParseUrlRefuses,
    testing::Values(
        Refused{"", "http://"}, Refused{"sesame", "http://"}, Refused{"//h/", "http://"},
        Refused{"ftp://h/", "http://"}, Refused{"http:/h/", "http://"},
        Refused{" http://h/", "http://"}, Refused{"httpss://h", "http://"},
        Refused{"http://", "no host"}, Refused{"http:///path", "no host"},
        Refused{"http://:80/", "no host"}, Refused{"http://user:sesame@h/", "user name"},
        Refused{"http://sesame@h", "user name"}, Refused{"http://@h", "user name"},
        Refused{"http://h/#sesame", "fragment"}, Refused{"http://h?sesame", "query"},
        Refused{"http://h/?x=1", "query"}, Refused{"http://h/\r\nX: y", "control"},
        Refused{"http://h\t/", "control"}, Refused{kNul, "control"},
        Refused{"http://h/\x7F", "control"}, Refused{"http://a b/", "host name"},
        Refused{"http://a%2Fb/", "host name"}, Refused{"http://h\\sesame/", "host name"},
        Refused{"http://b\xC3\xBC"
                "cher.example/",
                "host name"},
        Refused{"http://::1/", "no host"}, Refused{"http://h:/", "port"},
        Refused{"http://h:0/", "port"}, Refused{"http://h:65536/", "port"},
        Refused{"http://h:+80/", "port"}, Refused{"http://h:80x/", "port"},
        Refused{"http://h:80:80/", "port"}, Refused{"http://h:99999999999999999999/", "port"},
        Refused{"http://[::1", "bracket"}, Refused{"http://[]/", "IPv6"},
        Refused{"http://[::1%25eth0]/", "IPv6"}, Refused{"http://[127.0.0.1]/", "IPv6"},
        Refused{"http://[::1::]/", "IPv6"}, Refused{"http://[::1]x/", "bracket"},
        Refused{"http://[::1]:/", "port"}, Refused{"http://h/a b", "percent-encoded"},
        Refused{"http://h/\xC3\xBC", "percent-encoded"},
        Refused{"http://h/a\\b", "percent-encoded"}, Refused{"http://h/<", "percent-encoded"},
        Refused{"http://h/%", "percent sign"}, Refused{"http://h/%2", "percent sign"},
        Refused{"http://h/%2g", "percent sign"}));

TEST(ParseUrl, HostsAreNoLongerThanDnsAllows) {
  EXPECT_NO_THROW(core::parse_url("http://" + std::string(253, 'h')));
  EXPECT_THROW(core::parse_url("http://" + std::string(254, 'h')), core::Error);
  EXPECT_THROW(core::parse_url("http://[" + std::string(300, '1') + "]"), core::Error);
}

}  // namespace
