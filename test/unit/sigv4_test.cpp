// core/sigv4: the signatures that AWS publishes, step by step, and what must not be signed.
#include "core/sigv4.hpp"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "core/error.hpp"
#include "core/sha256.hpp"
#include "core/uri.hpp"
#include "sigv4_vectors.hpp"

namespace {

std::string header(const core::SigV4Signature& signature, std::string_view name) {
  std::string found;
  for (const auto& [key, value] : signature.headers) {
    if (key == name) {
      EXPECT_EQ(found, "") << "twice: " << name;
      found = value;
    }
  }
  return found;
}

// --- the test suite of AWS -------------------------------------------------------------------

class SigV4Suite : public testing::TestWithParam<SigV4Vector> {};

TEST_P(SigV4Suite, AgreesInEveryStep) {
  const SigV4Vector& vector = GetParam();
  const core::SigV4Request request{
      vector.method, "example.amazonaws.com", core::encode_path(vector.raw_path),
      vector.query,  vector.headers,          core::sha256_hex(vector.body)};
  const core::SigV4Signature signature = core::sign_v4(
      request, {"AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", vector.session_token},
      {"us-east-1", 1'440'938'160, "service", vector.payload_header});
  EXPECT_EQ(signature.canonical_request, vector.canonical_request);
  EXPECT_EQ(signature.string_to_sign, std::string("AWS4-HMAC-SHA256\n"
                                                  "20150830T123600Z\n"
                                                  "20150830/us-east-1/service/aws4_request\n") +
                                          vector.canonical_request_sha256);
  EXPECT_EQ(header(signature, "authorization"),
            std::string("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/"
                        "aws4_request, ") +
                vector.authorization);
  EXPECT_EQ(header(signature, "x-amz-date"), "20150830T123600Z");
  EXPECT_EQ(header(signature, "x-amz-security-token"), vector.session_token);
  EXPECT_EQ(header(signature, "x-amz-content-sha256"),
            vector.payload_header ? request.payload_sha256 : "");
}

INSTANTIATE_TEST_SUITE_P(Aws, SigV4Suite, testing::ValuesIn(sigv4_vectors()),
                         [](const testing::TestParamInfo<SigV4Vector>& vector) {
                           std::string name = vector.param.name;
                           for (char& c : name) {
                             c = c == '-' ? '_' : c;
                           }
                           return name;
                         });

// --- the examples in the documentation of S3 -------------------------------------------------

// From the Amazon S3 API Reference, "Signature Calculations for the Authorization Header:
// Transferring Payload in a Single Chunk", Copyright Amazon Web Services, Inc.; test data only.
// The documentation writes no blank after the commas of Authorization, the test suite does, and
// servers take both.
struct S3Example {
  core::SigV4Request request;
  const char* canonical_request;
  const char* canonical_request_sha256;
  const char* authorization;
};

void expect_agreement(const S3Example& example) {
  const core::SigV4Signature signature = core::sign_v4(
      example.request, {"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", ""},
      {"us-east-1", 1'369'353'600});
  EXPECT_EQ(signature.canonical_request, example.canonical_request);
  EXPECT_EQ(signature.string_to_sign, std::string("AWS4-HMAC-SHA256\n"
                                                  "20130524T000000Z\n"
                                                  "20130524/us-east-1/s3/aws4_request\n") +
                                          example.canonical_request_sha256);
  std::string authorization = header(signature, "authorization");
  for (std::size_t at = authorization.find(", "); at != std::string::npos;
       at = authorization.find(", ")) {
    authorization.erase(at + 1, 1);
  }
  EXPECT_EQ(authorization,
            std::string("AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/"
                        "aws4_request,") +
                example.authorization);
  EXPECT_EQ(header(signature, "x-amz-date"), "20130524T000000Z");
  EXPECT_EQ(header(signature, "x-amz-content-sha256"), example.request.payload_sha256);
  EXPECT_EQ(signature.headers.size(), 3U);
}

constexpr const char* kHost = "examplebucket.s3.amazonaws.com";
const std::string kEmpty(core::kEmptySha256);

TEST(SigV4S3Examples, GetObject) {
  expect_agreement(
      {{"GET", kHost, "/test.txt", {}, {{"Range", "bytes=0-9"}}, kEmpty},
       "GET\n/test.txt\n\n"
       "host:examplebucket.s3.amazonaws.com\n"
       "range:bytes=0-9\n"
       "x-amz-content-sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
       "x-amz-date:20130524T000000Z\n\n"
       "host;range;x-amz-content-sha256;x-amz-date\n"
       "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
       "7344ae5b7ee6c3e7e6b0fe0640412a37625d1fbfff95c48bbb2dc43964946972",
       "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
       "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"});
}

TEST(SigV4S3Examples, PutObject) {
  expect_agreement(
      {{"PUT",
        kHost,
        core::encode_path("/test$file.text"),
        {},
        {{"x-amz-storage-class", "REDUCED_REDUNDANCY"}, {"Date", "Fri, 24 May 2013 00:00:00 GMT"}},
        core::sha256_hex("Welcome to Amazon S3.")},
       "PUT\n/test%24file.text\n\n"
       "date:Fri, 24 May 2013 00:00:00 GMT\n"
       "host:examplebucket.s3.amazonaws.com\n"
       "x-amz-content-sha256:44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072\n"
       "x-amz-date:20130524T000000Z\n"
       "x-amz-storage-class:REDUCED_REDUNDANCY\n\n"
       "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class\n"
       "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
       "9e0e90d9c76de8fa5b200d8c849cd5b8dc7a3be3951ddb7f6a76b4158342019d",
       "SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class,"
       "Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"});
}

TEST(SigV4S3Examples, GetBucketLifecycle) {
  expect_agreement(
      {{"GET", kHost, "/", {{"lifecycle", ""}}, {}, kEmpty},
       "GET\n/\nlifecycle=\n"
       "host:examplebucket.s3.amazonaws.com\n"
       "x-amz-content-sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
       "x-amz-date:20130524T000000Z\n\n"
       "host;x-amz-content-sha256;x-amz-date\n"
       "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
       "9766c798316ff2757b517bc739a67f6213b4ab36dd5da2f94eaebf79c77395ca",
       "SignedHeaders=host;x-amz-content-sha256;x-amz-date,"
       "Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"});
}

TEST(SigV4S3Examples, ListObjects) {
  expect_agreement(
      {{"GET", kHost, "/", {{"prefix", "J"}, {"max-keys", "2"}}, {}, kEmpty},
       "GET\n/\nmax-keys=2&prefix=J\n"
       "host:examplebucket.s3.amazonaws.com\n"
       "x-amz-content-sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
       "x-amz-date:20130524T000000Z\n\n"
       "host;x-amz-content-sha256;x-amz-date\n"
       "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
       "df57d21db20da04d7fa30298dd4488ba3a2b47ca3a489c74750e0f1e7df1b9b7",
       "SignedHeaders=host;x-amz-content-sha256;x-amz-date,"
       "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"});
}

// --- beyond the vectors ----------------------------------------------------------------------

const core::SigV4Credentials kCredentials{"AKID", "sesame", "open"};
const core::SigV4Scope kScope{"eu-west-1", 1'369'353'600};

core::SigV4Request request_with(core::NameValues headers) {
  return {"GET", "h", "/", {}, std::move(headers), kEmpty};
}

TEST(SigV4, TheTokenIsSigned) {
  const core::SigV4Signature signature = core::sign_v4(request_with({}), kCredentials, kScope);
  EXPECT_EQ(header(signature, "x-amz-security-token"), "open");
  EXPECT_NE(header(signature, "authorization").find(";x-amz-security-token,"), std::string::npos);
  EXPECT_NE(signature.canonical_request.find("\nx-amz-security-token:open\n"), std::string::npos);
}

TEST(SigV4, AnEmptyPathIsTheRoot) {
  core::SigV4Request request = request_with({});
  const std::string root = core::sign_v4(request, kCredentials, kScope).canonical_request;
  request.path = "";
  EXPECT_EQ(core::sign_v4(request, kCredentials, kScope).canonical_request, root);
}

TEST(SigV4, TheSecretIsNowhereInTheResult) {
  const core::SigV4Signature signature = core::sign_v4(request_with({}), kCredentials, kScope);
  std::string all = signature.canonical_request + signature.string_to_sign;
  for (const auto& [name, value] : signature.headers) {
    all.append(name).append(value);
  }
  EXPECT_EQ(all.find("sesame"), std::string::npos);
}

TEST(SigV4, EveryPartOfTheRequestCounts) {
  const auto signed_as = [](const auto& change) {
    core::SigV4Request request{"GET", "h", "/a", {{"q", "1"}}, {{"x-h", "1"}}, kEmpty};
    core::SigV4Credentials credentials = kCredentials;
    core::SigV4Scope scope = kScope;
    change(request, credentials, scope);
    const std::string whole = header(core::sign_v4(request, credentials, scope), "authorization");
    return whole.substr(whole.find("Signature="));
  };
  const std::string plain = signed_as([](auto&, auto&, auto&) {});
  EXPECT_EQ(plain, signed_as([](auto&, auto&, auto&) {}));
  EXPECT_NE(plain, signed_as([](auto& r, auto&, auto&) { r.method = "PUT"; }));
  EXPECT_NE(plain, signed_as([](auto& r, auto&, auto&) { r.host = "i"; }));
  EXPECT_NE(plain, signed_as([](auto& r, auto&, auto&) { r.path = "/b"; }));
  EXPECT_NE(plain, signed_as([](auto& r, auto&, auto&) { r.query[0].second = "2"; }));
  EXPECT_NE(plain, signed_as([](auto& r, auto&, auto&) { r.headers[0].second = "2"; }));
  EXPECT_NE(plain,
            signed_as([](auto& r, auto&, auto&) { r.payload_sha256 = core::sha256_hex("x"); }));
  EXPECT_NE(plain, signed_as([](auto&, auto& c, auto&) { c.secret_key = "x"; }));
  EXPECT_NE(plain, signed_as([](auto&, auto& c, auto&) { c.session_token = "x"; }));
  EXPECT_NE(plain, signed_as([](auto&, auto&, auto& s) { s.region = "x"; }));
  EXPECT_NE(plain, signed_as([](auto&, auto&, auto& s) { s.service = "x"; }));
  EXPECT_NE(plain, signed_as([](auto&, auto&, auto& s) { s.time += 1; }));
}

TEST(SigV4, TheTimeIsUtcWhateverTheCalendarSays) {
  const auto date = [](std::time_t time) {
    return header(core::sign_v4(request_with({}), kCredentials, {"r", time}), "x-amz-date");
  };
  EXPECT_EQ(date(0), "19700101T000000Z");
  EXPECT_EQ(date(951'868'799), "20000229T235959Z");
  EXPECT_EQ(date(253'402'300'799), "99991231T235959Z");
  EXPECT_THROW(date(253'402'300'800), core::Error);
  EXPECT_THROW(date(-1), core::Error);
}

TEST(SigV4, ControlCharactersAreRefusedWithoutQuotingThem) {
  const auto expect_refusal = [](const auto& change) {
    core::SigV4Request request = request_with({{"x-h", "1"}});
    core::SigV4Credentials credentials = kCredentials;
    core::SigV4Scope scope = kScope;
    change(request, credentials, scope);
    try {
      core::sign_v4(request, credentials, scope);
      ADD_FAILURE() << "was signed";
    } catch (const core::Error& error) {
      EXPECT_STREQ(error.sqlstate(), "22023");
      EXPECT_EQ((error.message() + error.detail() + error.hint()).find("inject"),
                std::string::npos);
    }
  };
  for (const std::string& bad :
       {std::string("inject\r\nX: y"), std::string("inject\n"), std::string("inject\0", 7)}) {
    expect_refusal([&](auto& r, auto&, auto&) { r.method = bad; });
    expect_refusal([&](auto& r, auto&, auto&) { r.host = bad; });
    expect_refusal([&](auto& r, auto&, auto&) { r.path = bad; });
    expect_refusal([&](auto& r, auto&, auto&) { r.payload_sha256 = bad; });
    expect_refusal([&](auto& r, auto&, auto&) { r.headers[0].second = bad; });
    expect_refusal([&](auto&, auto& c, auto&) { c.access_key = bad; });
    expect_refusal([&](auto&, auto& c, auto&) { c.session_token = bad; });
    expect_refusal([&](auto&, auto&, auto& s) { s.region = bad; });
    expect_refusal([&](auto&, auto&, auto& s) { s.service = bad; });
  }
}

TEST(SigV4, HeadersThatSigningAddsAreNotTheCallersToGive) {
  for (const char* name : {"Host", "AUTHORIZATION", "x-amz-date", "X-Amz-Content-SHA256",
                           "x-amz-security-token", "", "a b", "a:b", "a\nb", "\xC3\xBC"}) {
    try {
      core::sign_v4(request_with({{name, "x"}}), kCredentials, kScope);
      ADD_FAILURE() << "was signed: " << name;
    } catch (const core::Error& error) {
      EXPECT_STREQ(error.sqlstate(), "XX000");
    }
  }
}

TEST(CanonicalQuery, SortsByTheEncodedNameThenTheValue) {
  EXPECT_EQ(core::canonical_query({}), "");
  EXPECT_EQ(core::canonical_query({{"uploads", ""}}), "uploads=");
  EXPECT_EQ(core::canonical_query({{"uploadId", "a/b+c="}, {"partNumber", "10"}}),
            "partNumber=10&uploadId=a%2Fb%2Bc%3D");
  EXPECT_EQ(core::canonical_query({{"a", "2"}, {"a", "10"}, {"B", ""}, {"\xC3\xBC", "x y"}}),
            "%C3%BC=x%20y&B=&a=10&a=2");
  // "a" before "a-", though "=" sorts behind "-".
  EXPECT_EQ(core::canonical_query({{"a-", "1"}, {"a", "1"}}), "a=1&a-=1");
}

}  // namespace
